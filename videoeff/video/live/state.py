"""What a source says of itself: its state, and what it counted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

#: States of a source. It is "connecting" until its first picture, "live" while pictures come, "lost" while
#: none can be had and it goes on trying, "ended" when there will be no more, "closed" when it was closed.
STATES = ("connecting", "live", "lost", "ended", "closed")


@dataclass(frozen=True)
class Counters:
    """What a source counted since it was started, at one moment.

    Attributes:
        decoded: pictures that were decoded.
        delivered: of these, how many were taken.
        late: of these, how many were dropped, since a newer one came or the queue was full.
        damaged: of these, of how many the decoder says that parts are made up.
        refused: packets that the decoder refused.
        connections: connections that gave a picture.
        lost: how often a connection that had given pictures was lost.
        resized: how often a picture had another size than the one before.
    """

    decoded: int = 0
    delivered: int = 0
    late: int = 0
    damaged: int = 0
    refused: int = 0
    connections: int = 0
    lost: int = 0
    resized: int = 0

    def to_json(self) -> dict[str, int]:
        """The counts by name."""
        return dataclasses.asdict(self)
