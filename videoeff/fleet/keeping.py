"""Where the states of a fleet's cameras lie on the disk, and who writes them there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from videoeff.errors import ArtifactError, FleetError, VideoEffError, first_line
from videoeff.fleet.camera import log
from videoeff.fleet.lane import Lane
from videoeff.serialize.state import save_state

#: Seconds between two looks at what is to be written.
BEAT = 0.25


def write(lane: Lane, path: Path) -> None:
    """Write the state of a lane's stream.

    Raises:
        ArtifactError: the file cannot be written.
    """
    save_state(lane.snapshot(), lane.network, path)


class Keeper:
    """Writes states every few seconds, and frees the memory of those that are idle, in a thread of its own.

    Args:
        folder: where the files lie; made if it is missing.
        lanes: gives the lanes of one camera, by the camera's name.
        save_every: seconds between two copies of a camera's state; None: only when it leaves.
        evict_after: seconds without a picture after which a state is written and its memory freed; None:
            never.

    Raises:
        FleetError: the folder cannot be used, or a number of seconds is none.
    """

    def __init__(
        self,
        folder: Path,
        lanes: Callable[[], Iterable[tuple[str, Lane]]],
        save_every: float | None,
        evict_after: float | None,
    ) -> None:
        for what, value in (("save_every", save_every), ("evict_after", evict_after)):
            if value is not None and not value > 0:
                raise FleetError(f"{what}={value!r}: give a number of seconds above 0, or None for never")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FleetError(
                f"{folder}: cannot keep states there ({error.strerror}); name a folder that can be written"
            ) from error
        self._folder, self._lanes = folder, lanes
        self._save_every, self._evict_after = save_every, evict_after
        self._written: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        #: States that could not be written, and the last reason.
        self.failed, self.why = 0, ""

    def path(self, name: str) -> Path:
        """Where the state of a camera lies."""
        return self._folder / f"{name}.state"

    def start(self) -> None:
        """Begin, where there is something to do by the clock."""
        if self._thread is None and (self._save_every or self._evict_after):
            self._thread = threading.Thread(target=self._run, name="videoeff-keeper", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End; what is being written is written."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def save(self, name: str, lane: Lane) -> bool:
        """Write the state of a camera; a failure is logged and counted, since the camera can go on.

        Returns:
            Whether it was written.
        """
        return self._try(name, lambda: write(lane, self.path(name)))

    def resume(self, name: str, lane: Lane) -> bool:
        """Let a new camera go on from its state, if there is one that fits.

        Returns:
            Whether it does.
        """
        path = self.path(name)
        if not path.exists():
            return False
        try:
            lane.restore(path)
        except VideoEffError as error:
            log.warning("camera %s begins afresh: %s", name, first_line(error))
            return False
        return True

    def _run(self) -> None:
        while not self._stop.wait(BEAT):
            now = time.monotonic()
            for name, lane in self._lanes():
                if self._stop.is_set():
                    return
                self._look(name, lane, now)

    def _look(self, name: str, lane: Lane, now: float) -> None:
        idle = now - lane.last
        if self._evict_after is not None and idle > self._evict_after and not lane.evicted:
            self._try(name, lambda: lane.evict(self.path(name)))
        elif self._is_due(name, now) and lane.changed and not lane.evicted:
            self._written[name] = now
            self.save(name, lane)

    def _is_due(self, name: str, now: float) -> bool:
        return self._save_every is not None and now - self._written.setdefault(name, now) >= self._save_every

    def _try(self, name: str, work: Callable[[], object]) -> bool:
        try:
            work()
        except ArtifactError as error:
            self.failed, self.why = self.failed + 1, first_line(error)
            log.warning("camera %s: its state was not kept: %s", name, self.why)
            return False
        return True
