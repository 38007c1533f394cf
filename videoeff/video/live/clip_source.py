"""Files and folders of images as a source."""

from __future__ import annotations

import contextlib

from videoeff.video.clip import Clip
from videoeff.video.live.handover import Handover
from videoeff.video.live.pace import Pace
from videoeff.video.live.source import DecodingSource
from videoeff.video.live.stamps import Stamps


class ClipSource(DecodingSource):
    """A clip as a source.

    Args:
        clip: opened; the source closes it.
        handover: where pictures go.
        frames: end after so many pictures; None for no end.
        pace: give them at the clip's own rate.
        loop: begin again at its end.
    """

    def __init__(self, clip: Clip, handover: Handover, frames: int | None, pace: bool, loop: bool) -> None:
        super().__init__(clip.source, False, handover, frames)
        self._clip, self._loop = clip, loop
        self._pace = Pace(strict=True) if pace else None

    def _run(self) -> str:
        stamps = Stamps(live=False)
        connected = False
        while True:
            began = self._number
            stamps.anew(1.0 / self._clip.fps)
            refused = 0
            with contextlib.closing(self._clip.decoded(any_size=True)) as pictures:
                for decoded in pictures:
                    if not connected:
                        connected = True
                        self._handover.count(connections=1)
                        self._become("live")
                    when = stamps.next(self._clip.time, 0.0)
                    due = self._number / self._clip.fps if when is None else when
                    if not self._hand_on(decoded, when, self._pace, due):
                        return f"the {self._frames} pictures asked for have come"
                    refused = self._count_refused(refused)
            self._count_refused(refused)
            if not self._loop or self._number == began:
                return (
                    f"it ends early: {self._clip.truncated}" if self._clip.truncated else "it came to its end"
                )

    def _count_refused(self, before: int) -> int:
        """Count what the clip lost since; how much it is in all of this pass."""
        self._handover.count(refused=self._clip.lost - before)
        return self._clip.lost

    def _release(self) -> None:
        self._clip.close()
