"""Fleet: many cameras on a few threads."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch

from videoeff.errors import FleetError
from videoeff.fleet.camera import RATE_OVER, Camera
from videoeff.fleet.keeping import Keeper, write
from videoeff.fleet.lane import Lane
from videoeff.fleet.output import Output
from videoeff.fleet.status import CameraStatus, FleetStatus
from videoeff.fleet.turns import Turns
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.serialize.load import load
from videoeff.serialize.state import digest_of_network

if TYPE_CHECKING:
    from videoeff.video.live import Source, Transport
    from videoeff.video.preprocess import Preprocess
    from videoeff.video.zones import Zones

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class _Network:
    """A network that cameras use; the stream is the one that theirs are twins of, and sees no frame."""

    stream: StreamingModule
    digest: str
    where: str
    lock: threading.Lock = field(default_factory=threading.Lock)  # one worker at a time makes a twin


@dataclass(frozen=True)
class _Settings:
    """What cameras of one batch have in common."""

    network: int
    threshold: float | None
    zones: Zones | None
    every: int | None
    audit: float | None
    audit_budget: float | None
    preprocess: Preprocess | None


class Fleet:
    """Many cameras on a few threads. Each has a stream of its own: its state, thresholds and report.

    Streams of one network have its weights in common. A network that was converted for a batch of B serves up
    to B cameras with the same settings together; each is still a stream of its own. Pictures are decoded in
    a thread for each camera, and computed by ``workers`` threads, each picture by one of them; a camera that
    is alone has all of them. While the workers keep up, every picture is computed. When they do not, each
    camera gets the same share of the time, and what comes too late is dropped and counted.

    ::

        with videoeff.Fleet("net.veff") as fleet:
            fleet.add("front", "rtsp://10.0.0.7/stream", on_output=print)
            fleet.add("yard", 0)
            fleet.wait()

    Args:
        network: the network of cameras that name none: a stream, whose twins they get, or an artifact.
        workers: threads that compute; None: as many as PyTorch uses (``torch.get_num_threads()``).
        keep: folder for the states of cameras. A camera goes on from the state it finds there, and leaves its
            own when it is removed or the fleet is closed.
        evict_after: seconds without a picture after which a camera's state is written to ``keep`` and its
            memory freed; the next picture brings it back.
        save_every: seconds between copies of each camera's state in ``keep``; None: only when it leaves.

    Raises:
        FleetError: a number is out of its range, or ``keep`` is needed or cannot be used.
        VideoEffError: the network cannot be read.
    """

    def __init__(
        self,
        network: StreamingModule | str | Path | None = None,
        *,
        workers: int | None = None,
        keep: str | Path | None = None,
        evict_after: float | None = None,
        save_every: float | None = None,
    ) -> None:
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise FleetError(f"workers={workers!r}: give a whole number from 1 on, or None")
        if keep is None and (evict_after is not None or save_every is not None):
            raise FleetError("evict_after and save_every write states to a folder; name one by keep=")
        self.workers = workers or torch.get_num_threads()
        self._lock = threading.RLock()
        self._networks: dict[Hashable, _Network] = {}
        self._network = None if network is None else self._known(network)
        self._cameras: dict[str, Camera] = {}
        self._lanes: dict[str, Lane] = {}
        self._shared: dict[_Settings, list[Lane]] = {}  # lanes of batches
        self._turns: Turns[Lane] = Turns()
        self._keeper = (
            None if keep is None else Keeper(Path(keep), self._single_lanes, save_every, evict_after)
        )
        self._threads: list[threading.Thread] = []
        self._since: float | None = None
        self._spans: deque[tuple[float, float]] = deque(maxlen=4096)  # (begin, end) of turns, monotonic
        self._closed = False

    # -- cameras ---------------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        source: str | Path | int | Source,
        *,
        network: StreamingModule | str | Path | None = None,
        threshold: float | None = None,
        zones: Zones | None = None,
        every: int | None = None,
        audit: float | None = None,
        audit_budget: float | None = None,
        fps: float | None = None,
        policy: str | None = None,
        queue: int = 8,
        transport: Transport | None = None,
        preprocess: Preprocess | None = None,
        pace: bool = False,
        loop: bool = False,
        on_output: Callable[[Output], None] | None = None,
    ) -> Camera:
        """Add a camera; it begins at once where the fleet has started.

        Args:
            name: letters, digits, dots, underscores and hyphens, at most 64.
            source: a file, a folder, a camera's number, a URL, or an opened source, which the fleet closes.
            network: another network than the fleet's.
            threshold: of all layers; None: those the network was converted or calibrated with.
            zones: what of the frame is watched.
            every: look at every n-th picture only; None: as the network was converted.
            audit: share of the pictures that are compared with the dense network, when a worker is idle;
                None: as the network was converted.
            audit_budget: the mean error of the last audits that is out of bounds.
            fps: pictures a second at most; more are left out.
            policy: "latest" or "every"; see ``open_source``.
            queue: pictures that wait at most under "every".
            transport: how a network source is reached.
            preprocess: how a frame becomes the network's input; None: as it was recorded with the network.
            pace: give a file's frames at the file's own rate.
            loop: begin a file again at its end.
            on_output: called with every output, in a thread of the fleet; it should be quick.

        Raises:
            FleetError: the name is taken or odd, there is no network, or a number is out of its range.
            VideoEffError: the network, the source or a setting cannot be used.
        """
        if not NAME.fullmatch(name):
            raise FleetError(
                f"camera {name!r}: a name has letters, digits, dots, underscores and hyphens, begins with a "
                "letter or digit and is at most 64 long"
            )
        if fps is not None and not 0 < fps < float("inf"):
            raise FleetError(f"camera {name}: fps={fps!r}: give pictures a second above 0, or None for all")
        with self._lock:
            self._check_free(name)
            used = self._network if network is None else self._known(network)
            if used is None:
                raise FleetError(
                    f"camera {name}: the fleet has no network; give network= here or to the fleet"
                )
            settings = _Settings(id(used), threshold, zones, every, audit, audit_budget, preprocess)
            lane = self._lane(used, settings)
        if isinstance(source, (str, Path, int)):
            from videoeff.video.live import open_source

            opened = open_source(
                source, policy=policy, queue=queue, transport=transport, pace=pace, loop=loop
            )
        else:
            opened = source
        try:
            with self._lock:
                self._check_free(name)
                if self._closed:
                    raise FleetError(f"camera {name}: the fleet is closed")
                seat = lane.free
                if seat is None:  # another thread took the last one
                    lane = self._lane(used, settings)
                    seat = lane.free or 0
                camera = Camera(name, opened, lane, seat, fps=fps, on_output=on_output)
                lane.sit(camera, seat)
                self._cameras[name], self._lanes[name] = camera, lane
                self._turns.add(lane)
        except BaseException:
            opened.close()
            raise
        if self._keeper is not None and lane.seats == 1:
            self._keeper.resume(name, lane)
        opened.when_ready(lambda: self._turns.ready(lane))
        if self._since is not None:
            opened.start()
        return camera

    def remove(self, name: str) -> CameraStatus:
        """Remove a camera: its source is closed and, where states are kept, its state written.

        Returns:
            Its last status.

        Raises:
            FleetError: there is no such camera.
        """
        with self._lock:
            camera = self[name]
            lane = self._lanes.pop(name)
            del self._cameras[name]
        camera.source.close()
        if lane.seats == 1:
            self._end_turns(lane)
        status = camera.status()
        if lane.seats == 1 and self._keeper is not None and not lane.evicted:
            self._keeper.save(name, lane)
        lane.leave(camera)
        with self._lock:
            if lane.seats > 1 and not any(lane.cameras):
                for lanes in self._shared.values():
                    if lane in lanes:
                        lanes.remove(lane)
                self._end_turns(lane)
        camera.end()
        return status

    def __getitem__(self, name: str) -> Camera:
        """A camera.

        Raises:
            FleetError: there is none of this name.
        """
        with self._lock:
            found = self._cameras.get(name)
            if found is None:
                known = ", ".join(self._cameras) or "none"
                raise FleetError(f"no camera {name!r}; there are: {known}")
            return found

    def __contains__(self, name: object) -> bool:
        return name in self._cameras

    def __iter__(self) -> Iterator[str]:
        """Names, in the order they were added."""
        with self._lock:
            return iter(list(self._cameras))

    def __len__(self) -> int:
        return len(self._cameras)

    # -- running ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to read and compute; nothing where it has begun.

        Raises:
            FleetError: it was closed.
        """
        with self._lock:
            if self._closed:
                raise FleetError("the fleet is closed; make another one")
            if self._since is not None:
                return
            self._since = time.monotonic()
            threads = torch.get_num_threads()
            for number in range(self.workers):
                worker = threading.Thread(target=self._work, name=f"videoeff-worker-{number}", daemon=True)
                self._threads.append(worker)
                worker.start()
            torch.set_num_threads(threads)  # workers set theirs; other threads begin with this
            cameras = list(self._cameras.values())
        if self._keeper is not None:
            self._keeper.start()
        for camera in cameras:
            camera.source.start()

    def close(self) -> None:
        """Remove all cameras and end all threads. Closing twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            names = list(self._cameras)
            sources = [c.source for c in self._cameras.values()]
        closing = [threading.Thread(target=s.close, daemon=True) for s in sources]
        for thread in closing:  # together: each may wait for a server
            thread.start()
        for thread in closing:
            thread.join()
        if self._keeper is not None:
            self._keeper.close()
        for name in names:
            self.remove(name)
        self._turns.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all sources have ended and all pictures are computed; cameras that go on never end.

        Returns:
            Whether that was so within ``timeout`` seconds.
        """
        limit = None if timeout is None else time.monotonic() + timeout
        while not self._is_over():
            if limit is not None and time.monotonic() >= limit:
                return False
            time.sleep(0.01)
        return True

    def _is_over(self) -> bool:
        with self._lock:
            cameras = [(c.source, self._lanes[n]) for n, c in self._cameras.items()]
        return all(
            s.state in ("ended", "closed") and not s.waiting() and not self._turns.is_busy(lane)
            for s, lane in cameras
        )

    def status(self) -> FleetStatus:
        """What it does."""
        with self._lock:
            cameras = list(self._cameras.values())
            lanes = {id(lane): lane for lane in self._lanes.values()}.values()
        found = tuple(camera.status() for camera in cameras)
        now = time.monotonic()
        uptime = 0.0 if self._since is None else now - self._since
        span = min(RATE_OVER, uptime)
        spans = list(self._spans)
        if len(spans) == self._spans.maxlen:
            span = min(span, now - spans[0][0])
        busy = sum(max(0.0, end - max(begin, now - span)) for begin, end in spans)
        return FleetStatus(
            workers=self.workers,
            busy=min(1.0, busy / (span * self.workers)) if span > 0 else 0.0,
            uptime=uptime,
            state_bytes=sum(lane.figures().state_bytes for lane in lanes),
            cameras=found,
        )

    # -- state -----------------------------------------------------------------------------------------

    def save(self, name: str, path: str | Path) -> None:
        """Write the state of a camera's stream, whole or not at all, for ``restore`` here or elsewhere.

        Raises:
            FleetError: there is no such camera, or its stream is one of a batch.
            ArtifactError: the file cannot be written.
        """
        write(self._own_lane(name), Path(path))

    def restore(self, name: str, path: str | Path) -> None:
        """Let a camera's stream go on from a file that ``save`` wrote, here or in another fleet.

        Raises:
            FleetError: there is no such camera, or its stream is one of a batch.
            ArtifactError: the file is missing or damaged.
            StateError: the state is of another network, size or set of thresholds.
        """
        self._own_lane(name).restore(Path(path))

    def _own_lane(self, name: str) -> Lane:
        with self._lock:
            self[name]
            lane = self._lanes[name]
        if lane.seats > 1:
            raise FleetError(
                f"camera {name}: shares a batch of {lane.seats}, whose state is not kept camera by camera; "
                "use a network that was converted with one stream"
            )
        return lane

    def _single_lanes(self) -> list[tuple[str, Lane]]:
        with self._lock:
            return [(name, lane) for name, lane in self._lanes.items() if lane.seats == 1]

    # -- inside ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_free(self, name: str) -> None:
        if name in self._cameras:
            raise FleetError(f"camera {name}: there is one of this name; choose another, or remove it first")

    def _known(self, network: StreamingModule | str | Path) -> _Network:
        """A network, read once."""
        key = id(network) if isinstance(network, StreamingModule) else _version_of(Path(network))
        if key not in self._networks:
            stream = network if isinstance(network, StreamingModule) else load(network)
            where = stream.name if network is stream else str(network)
            self._networks[key] = _Network(stream, digest_of_network(stream), where)
        return self._networks[key]

    def _lane(self, network: _Network, settings: _Settings) -> Lane:
        """A lane with a free seat, for cameras of these settings."""
        if network.stream.streams > 1:
            for lane in self._shared.setdefault(settings, []):
                if lane.free is not None:
                    return lane

        def make() -> StreamingModule:
            with network.lock:
                stream = network.stream.twin()
            if settings.threshold is not None:
                stream.set_threshold(settings.threshold)
            if settings.every is not None:
                stream.every(settings.every)
            kept = stream.options.audit
            share = kept.share if settings.audit is None else settings.audit
            bound = kept.at_most if settings.audit_budget is None else settings.audit_budget
            stream.audit(
                share, metric=kept.metric, at_most=bound, at_least=kept.at_least, over=kept.over, idle=True
            )
            return stream.on_drift(lambda drift: lane.drifted(drift))

        lane = Lane(make, network.digest, settings.preprocess, settings.zones, network.where)
        if network.stream.streams > 1:
            self._shared[settings].append(lane)
        return lane

    def _end_turns(self, lane: Lane) -> None:
        """Let a lane have no more turns. A worker, in somebody's on_output, waits for no other worker."""
        self._turns.remove(lane, 0.0 if threading.current_thread() in self._threads else None)

    def _work(self) -> None:
        """What a worker does."""
        threads = 0
        while (lane := self._turns.take()) is not None:
            wanted = max(1, self.workers // max(1, self._turns.busy))
            if wanted != threads:
                threads = wanted
                torch.set_num_threads(threads)
            began = time.monotonic()
            computed = lane.run()
            if computed and not self._turns.waiting:
                lane.audit()
            ended = time.monotonic()
            if computed:
                self._spans.append((began, ended))
            self._turns.done(lane, ended - began, more=lane.waiting)


def _version_of(path: Path) -> tuple[str, int, int]:
    """Tells one version of a file from another; where there is none, reading it will say so."""
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path.resolve()), found.st_mtime_ns, found.st_size
