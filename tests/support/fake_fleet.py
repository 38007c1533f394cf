"""A fleet without a network: its cameras give the outputs that a test scripts, when the test says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoeff.errors import FleetError, VideoEffError
from videoeff.fleet.output import Output
from videoeff.fleet.status import CameraStatus, FleetStatus, Spread
from videoeff.video.preprocess import Preprocess

#: (H, W) of the frames.
SIZE = (96, 160)


@dataclass(frozen=True)
class Shot:
    """A picture, as far as the service looks at it."""

    number: int
    time: float | None
    wall: float
    frame: NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.frame.shape[0], self.frame.shape[1]


@dataclass(frozen=True)
class Counts:
    """The counters of a source."""

    decoded: int = 0
    delivered: int = 0
    late: int = 0
    damaged: int = 0
    refused: int = 0
    connections: int = 0
    lost: int = 0
    resized: int = 0


def picture_of(number: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A grey frame (H, W, 3) in which a bright square moves."""
    frame = np.full((*size, 3), 70, np.uint8)
    left = (4 * number) % (size[1] - 24)
    frame[size[0] // 3 : size[0] // 3 + 24, left : left + 24] = (240, 200, 60)
    return frame


@dataclass(eq=False)
class FakeCamera:
    """A camera whose state and figures a test sets."""

    name: str
    address: str
    arguments: dict[str, Any]
    on_output: Callable[[Output], None] | None
    latest: Output | None = None
    state: str = "connecting"
    why: str = ""
    frames: int = 0
    late: int = 0
    audit_error: float | None = None
    drifting: bool = False
    resets: int = 0
    heat_asked: int = 0
    since: float = field(default_factory=time.monotonic)

    def status(self) -> CameraStatus:
        """Its figures."""
        known: Any = Counts(self.frames + self.late, self.frames, self.late, lost=2 if self.why else 0)
        spread = Spread(4.0, 6.0, 9.5) if self.frames else None
        return CameraStatus(
            name=self.name,
            address=self.address,
            state=self.state,
            why=self.why,
            counters=known,
            frames=self.frames,
            refused=0,
            skipped=0,
            waiting=0,
            fps=12.5 if self.frames else 0.0,
            work_share=0.2 if self.frames > 1 else None,
            ms=spread,
            waited_ms=spread,
            audit_error=self.audit_error,
            drifting=self.drifting,
            state_bytes=1_000_000,
            batch=1,
            evicted=False,
            uptime=time.monotonic() - self.since,
        )

    def heat(self) -> NDArray[np.float32]:
        """The left half computes."""
        self.heat_asked += 1
        return np.array([[1.0, 0.0]], np.float32)

    def reset(self) -> None:
        """Counted."""
        self.resets += 1


class FakeFleet:
    """Implements what the service asks of a fleet.

    Attributes:
        refusals: names of cameras, or "save", "remove" or "close", and the error that asking for them raises.
        calls: what was asked, as (word, name).
    """

    def __init__(self) -> None:
        self.cameras: dict[str, FakeCamera] = {}
        self.refusals: dict[str, VideoEffError] = {}
        self.calls: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        """Counted."""
        self.calls.append(("start", ""))

    def close(self) -> None:
        """Counted; refused where a test says so."""
        self.calls.append(("close", ""))
        self._refuse("close")

    def add(
        self, name: str, source: Any, *, on_output: Callable[[Output], None] | None = None, **arguments: Any
    ) -> FakeCamera:
        """A camera that is connecting."""
        self._refuse(name)
        with self._lock:
            if name in self.cameras:
                raise FleetError(f"camera {name}: there is one already; choose another name")
            made = FakeCamera(name, str(source), arguments | {"source": source}, on_output)
            self.cameras[name] = made
        self.calls.append(("add", name))
        return made

    def remove(self, name: str) -> CameraStatus:
        """Removed also where that is refused."""
        found = self.cameras.pop(name)
        found.state = "closed"
        self.calls.append(("remove", name))
        self._refuse("remove")
        return found.status()

    def save(self, name: str, path: str | Path) -> None:
        """Writes a few bytes."""
        self._refuse("save")
        Path(path).write_bytes(b"state")
        self.calls.append(("save", name))

    def restore(self, name: str, path: str | Path) -> None:
        """Reads them."""
        assert Path(path).read_bytes() == b"state"
        self.calls.append(("restore", name))

    def status(self) -> FleetStatus:
        """Of all cameras."""
        cameras = tuple(camera.status() for camera in list(self.cameras.values()))
        return FleetStatus(2, 0.5, 10.0, 1_000_000 * len(cameras), cameras)

    def __contains__(self, name: str) -> bool:
        return name in self.cameras

    def __getitem__(self, name: str) -> FakeCamera:
        return self.cameras[name]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.cameras))

    def __len__(self) -> int:
        return len(self.cameras)

    def _refuse(self, what: str) -> None:
        error = self.refusals.get(what)
        if error is not None:
            raise error

    def give(self, name: str, outputs: Any = None, preprocess: Preprocess | None = None) -> Output:
        """Let a camera compute a frame, in the caller's thread as a worker of a fleet would."""
        camera = self.cameras[name]
        number = camera.frames
        picture: Any = Shot(number, number / 10, 1000.0 + number, picture_of(number))
        made = Output(name, picture, outputs, preprocess or Preprocess(size=SIZE), waited_ms=1.5, ms=4.25)
        camera.frames, camera.latest, camera.state = number + 1, made, "live"
        if camera.on_output is not None:
            camera.on_output(made)
        return made
