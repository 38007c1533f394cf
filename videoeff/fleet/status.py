"""What is told of cameras and fleets: plain values, taken at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from videoeff.video.live import Counters


@dataclass(frozen=True)
class Spread:
    """Percentiles of a time, in milliseconds.

    Attributes:
        p50: the median.
        p90: what nine of ten stay below.
        p99: what 99 of 100 stay below.
    """

    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of some values in milliseconds; None of none."""
        if not values:
            return None
        return cls(*(float(v) for v in np.percentile(np.asarray(values), (50, 90, 99))))


@dataclass(frozen=True)
class Figures:
    """What a stream says of itself; see ``CameraStatus``."""

    work_share: float | None = None
    audit_error: float | None = None
    state_bytes: int = 0


@dataclass(frozen=True)
class CameraStatus:
    """One camera.

    Every picture that was decoded is in one of ``frames``, ``refused``, ``skipped``, ``counters.late`` and
    ``waiting``, or is being computed.

    Attributes:
        name: the camera's.
        address: where its pictures come from, without a password.
        state: of its source: "connecting", "live", "lost", "ended" or "closed"; "failing" where the last
            picture could not be computed.
        why: why it is lost or failing; "" otherwise.
        counters: of its source.
        frames: pictures computed.
        refused: pictures that could not be computed.
        skipped: pictures left out to keep to ``fps``.
        waiting: pictures that wait to be computed.
        fps: pictures computed a second, over the last ten seconds.
        work_share: multiply-accumulates needed over those of the dense network, for each picture after the
            first; None before there is one. Of the whole batch where cameras share one.
        ms: of a picture: preprocessing and network, of the last 512.
        waited_ms: from decoding to the begin of computing, of the same.
        audit_error: mean of the last audits; None without one.
        drifting: whether it is out of its bound.
        state_bytes: memory of its stream's state; 0 while that lies on the disk.
        batch: cameras that one stream serves together, seats that are free included.
        evicted: whether its state lies on the disk.
        uptime: seconds since it was added.
    """

    name: str
    address: str
    state: str
    why: str
    counters: Counters
    frames: int
    refused: int
    skipped: int
    waiting: int
    fps: float
    work_share: float | None
    ms: Spread | None
    waited_ms: Spread | None
    audit_error: float | None
    drifting: bool
    state_bytes: int
    batch: int
    evicted: bool
    uptime: float

    @property
    def late(self) -> int:
        """Pictures that were decoded and dropped because newer ones came."""
        return self.counters.late

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self) | {"late": self.late}


@dataclass(frozen=True)
class FleetStatus:
    """A fleet.

    Attributes:
        workers: threads that compute.
        busy: share of their time that they computed, over the last ten seconds.
        uptime: seconds since it was started.
        state_bytes: memory of all streams' states.
        cameras: each camera, in the order they were added.
    """

    workers: int
    busy: float
    uptime: float
    state_bytes: int
    cameras: tuple[CameraStatus, ...]

    @property
    def frames(self) -> int:
        """Pictures computed."""
        return sum(c.frames for c in self.cameras)

    @property
    def late(self) -> int:
        """Pictures dropped because newer ones came."""
        return sum(c.late for c in self.cameras)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {
            "workers": self.workers,
            "busy": self.busy,
            "uptime": self.uptime,
            "state_bytes": self.state_bytes,
            "frames": self.frames,
            "late": self.late,
            "cameras": [c.to_json() for c in self.cameras],
        }
