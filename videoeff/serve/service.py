"""The cameras of the service: what was asked for, what the fleet made of it, and what clients may change."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from videoeff.errors import FleetError, VideoEffError, first_line
from videoeff.serve import sources
from videoeff.serve.hub import Hub
from videoeff.serve.pictures import Pictures
from videoeff.serve.problems import Problem, problem_of
from videoeff.serve.readings import Reader, plain
from videoeff.serve.settings import CameraSettings, ServeSettings
from videoeff.video.address import blanked
from videoeff.video.live.transport import Transport

if TYPE_CHECKING:
    from videoeff.fleet.camera import Camera
    from videoeff.fleet.fleet import Fleet
    from videoeff.fleet.output import Output
    from videoeff.fleet.status import CameraStatus
    from videoeff.runtime.streaming_module import StreamingModule

log = logging.getLogger("videoeff.serve")

Answer = TypeVar("Answer")

#: Threads that make JSON and pictures, beside those of the fleet.
_THREADS = 2


@dataclass(frozen=True, eq=False)
class Entry:
    """One camera of the service.

    Attributes:
        settings: what was asked for.
        trusted: the operator named the source, so that it may be anything.
        network: the name of its network.
        source: what is read: of a file, the whole path.
        camera: of the fleet.
        reader: of its outputs.
        pictures: of its frames.
    """

    settings: CameraSettings
    trusted: bool
    network: str
    source: str | int
    camera: Camera
    reader: Reader
    pictures: Pictures

    @property
    def told(self) -> str | int:
        """The source as it was named, without passwords."""
        source = self.settings.source
        return blanked(source) if isinstance(source, str) else source

    def figures(self, status: CameraStatus) -> dict[str, Any]:
        """A status as plain values, in which the source is called as it was named."""
        found: dict[str, Any] = plain(status.to_json())
        why = found["why"].replace(str(self.source), str(self.told))
        return found | {"address": self.told, "why": why}


@dataclass
class Service:
    """A fleet, and who may do what with it. Safe to use from several threads; what changes cameras waits.

    Attributes:
        settings: of the operator.
        fleet: that computes.
        networks: by configured name.
        pool: threads that make JSON and pictures.
        changes: one thread, so that changes come one after another and hold up nobody who only looks.
    """

    settings: ServeSettings
    fleet: Fleet
    networks: Mapping[str, StreamingModule]

    def __post_init__(self) -> None:
        self.pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="videoeff-serve")
        self.changes = ThreadPoolExecutor(1, thread_name_prefix="videoeff-change")
        self.hub = Hub(
            self._text, self.pool, most=self.settings.max_clients, queue=self.settings.client_queue
        )
        self.began = time.monotonic()
        self.started = False
        self._entries: dict[str, Entry] = {}
        self._changing = threading.Lock()
        self._states: dict[str, str] = {}

    def start(self) -> None:
        """Start the fleet and add the cameras that were configured.

        Raises:
            FleetError: one of them cannot be added.
        """
        self.fleet.start()
        for name, camera in self.settings.cameras.items():
            try:
                self._entries[name] = self._added(name, camera, True)
            except Problem as problem:
                raise FleetError(f"camera {name}: {problem}") from problem
        self.started = True

    def close(self) -> None:
        """End the fleet, which saves the states where `keep` is set, and the threads. Never fails half-way.

        Raises:
            VideoEffError: a state could not be saved; all else is ended.
        """
        self.started = False
        try:
            self.fleet.close()
        finally:
            self.pool.shutdown(cancel_futures=True)
            self.changes.shutdown(cancel_futures=True)

    @property
    def names(self) -> list[str]:
        """The cameras."""
        return list(self._entries)

    def find(self, name: str) -> Entry:
        """A camera.

        Raises:
            Problem: of status 404; there is none.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise Problem(404, f"there is no camera {name[:80]}", "the path", "GET /cameras lists them")
        return entry

    def add(self, name: str, camera: CameraSettings) -> dict[str, Any]:
        """Add a camera that somebody asked for over the network; what :meth:`shown` gives.

        Raises:
            Problem: of status 403 for a source that may not be read, 409 for a name that is taken or a camera
                too many, 400 for settings that cannot be used.
        """
        with self._changing:
            if name in self._entries:
                raise Problem(
                    409,
                    f"the name {name} is taken",
                    "name",
                    "choose another, or change that camera with PATCH",
                )
            most = self.settings.max_cameras
            if len(self._entries) >= most:
                raise Problem(
                    409,
                    f"there are {most} cameras, and no more are allowed",
                    "max_cameras",
                    "remove one, or raise `max_cameras` of the service",
                )
            self._entries[name] = self._added(name, camera, False)
            log.info("camera %s: added", name)
            return self.shown(name)

    def change(self, name: str, values: Mapping[str, Any], camera: CameraSettings) -> dict[str, Any]:
        """Replace a camera's settings; its figures begin anew. What :meth:`shown` gives.

        Args:
            name: of the camera.
            values: the settings that were given.
            camera: all its settings.

        Raises:
            Problem: as :meth:`add`; the camera stays as it was.
        """
        with self._changing:
            before = self.find(name)
            trusted = before.trusted and "source" not in values
            self._check(camera, trusted)
            try:
                self._removed(name)
                self._entries[name] = self._added(name, camera, trusted)
            except Problem as problem:
                if name not in self.fleet:
                    self._take_back(name, before, problem)
                raise
            log.info("camera %s: changed %s", name, ", ".join(sorted(values)))
            return self.shown(name)

    def remove(self, name: str) -> dict[str, Any]:
        """Remove a camera; its last figures.

        Raises:
            Problem: of status 404; there is none. Of status 500 or 507; its state could not be saved, and it
                was removed all the same.
        """
        with self._changing:
            entry = self.find(name)
            try:
                status = self._removed(name)
            finally:
                if name not in self.fleet:
                    self._forget(name)
            log.info("camera %s: removed", name)
            return entry.figures(status)

    def save(self, name: str) -> dict[str, Any]:
        """Write a camera's state into the folder `keep`.

        Raises:
            Problem: of status 404, 409 without such a folder, 500 or 507 where it cannot be written.
        """
        path = self._state_file(name)
        self._ask(f"camera {name}", lambda: self.fleet.save(name, path))
        return {"camera": name, "saved": path.name}

    def restore(self, name: str) -> dict[str, Any]:
        """Take a camera's state from the folder `keep`.

        Raises:
            Problem: of status 404, 409 without such a folder or file, 500 where it cannot be read.
        """
        path = self._state_file(name)
        if not path.exists():
            raise Problem(
                409, "no state of it was saved", f"camera {name}", f"POST /cameras/{name}/save saves it"
            )
        self._ask(f"camera {name}", lambda: self.fleet.restore(name, path))
        return {"camera": name, "restored": path.name}

    def reset(self, name: str) -> dict[str, Any]:
        """Let a camera's next frame be computed whole."""
        self._ask(f"camera {name}", self.find(name).camera.reset)
        return {"camera": name, "reset": True}

    def shown(self, name: str) -> dict[str, Any]:
        """A camera as plain values: its settings without passwords, and its figures.

        Raises:
            Problem: of status 404; there is none.
        """
        entry = self.find(name)
        settings = entry.settings.model_dump(mode="json") | {"source": entry.told, "network": entry.network}
        return {"name": name, "settings": settings, "status": entry.figures(entry.camera.status())}

    def overview(self) -> dict[str, Any]:
        """All cameras, and the service as a whole, as plain values."""
        cameras = []
        for name in self.names:
            try:
                cameras.append(self.shown(name))
            except Problem:  # it was removed just now
                continue
        return {
            "cameras": cameras,
            "networks": list(self.networks),
            "clients": self.hub.clients,
            "lost_by_clients": self.hub.lost,
            "uptime": round(time.monotonic() - self.began, 3),
            "limits": {"cameras": self.settings.max_cameras, "clients": self.settings.max_clients},
        }

    def log_states(self) -> None:
        """Log the cameras whose state changed since the last call."""
        for name in self.names:
            try:
                status = self.find(name).camera.status()
            except Problem:
                continue
            if status.state not in (self._states.get(name, "connecting"), "closed"):
                log.info("camera %s: %s%s", name, status.state, f" ({status.why})" if status.why else "")
            self._states[name] = status.state

    def _text(self, output: Output) -> str | None:
        entry = self._entries.get(output.camera)
        return None if entry is None else entry.reader.text(output)

    def _check(self, camera: CameraSettings, trusted: bool) -> None:
        """Refuse what could never be added, before anything is removed for it."""
        self._network(camera)
        _arguments(camera, {})
        if not trusted:
            sources.allowed(camera.source, self.settings)

    def _network(self, camera: CameraSettings) -> str:
        name = next(iter(self.networks)) if camera.network is None else camera.network
        if name not in self.networks:
            raise Problem(
                400,
                f"there is no network {name}",
                "network",
                f"choose one that was configured: {', '.join(self.networks)}",
            )
        return name

    def _added(self, name: str, camera: CameraSettings, trusted: bool) -> Entry:
        """Add a camera to the fleet."""
        network = self._network(camera)
        source: str | int = camera.source
        options: dict[str, str] = {}
        if not trusted:
            source = sources.allowed(source, self.settings)
            options = sources.options_of(source, self.settings)
        arguments = _arguments(camera, options)
        try:
            made = self._ask(
                f"camera {name}",
                lambda: self.fleet.add(
                    name, source, network=self.networks[network], on_output=self.hub.publish, **arguments
                ),
            )
        except Problem as problem:  # says the name that was given, not where that file lies
            what = problem.what.replace(str(source), str(camera.source))
            raise Problem(problem.status, what, problem.where, problem.fix) from problem
        known = self.settings.networks[network]
        reader = Reader(known.decoder, known.classes)
        return Entry(camera, trusted, network, source, made, reader, Pictures(made))

    def _take_back(self, name: str, before: Entry, problem: Problem) -> None:
        """Give a camera its earlier settings again."""
        try:
            self._entries[name] = self._added(name, before.settings, before.trusted)
        except Problem as again:
            self._forget(name)
            raise Problem(
                problem.status,
                f"{problem.what}; and its earlier settings cannot be used any more ({again.what}), so the "
                "camera was removed",
                f"camera {name}",
                "add it again with POST /cameras",
            ) from again

    def _forget(self, name: str) -> None:
        del self._entries[name]
        self._states.pop(name, None)
        self.hub.end(name, "the camera was removed")

    def _removed(self, name: str) -> CameraStatus:
        return self._ask(f"camera {name}", lambda: self.fleet.remove(name))

    def _state_file(self, name: str) -> Path:
        self.find(name)
        if self.settings.keep is None:
            raise Problem(
                409, "no folder of states was configured", f"camera {name}", "start the service with --keep"
            )
        return self.settings.keep / f"{name}.saved"

    def _ask(self, where: str, call: Callable[[], Answer]) -> Answer:
        """Ask the fleet; what it refuses becomes an answer."""
        try:
            return call()
        except VideoEffError as error:
            log.warning("%s: %s", where, first_line(error))
            raise problem_of(error, where) from error


def _arguments(camera: CameraSettings, options: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of ``Fleet.add`` for settings."""
    found = {
        key: getattr(camera, key)
        for key in (
            "threshold every audit audit_budget fps policy queue pace loop"  # as the fleet calls them
        ).split()
    }
    if camera.zones is not None:
        from videoeff.video.zones import Zones

        try:
            found["zones"] = Zones.from_json(camera.zones)
        except VideoEffError as error:
            problem = problem_of(error, "zones")
            raise Problem(400, problem.what, "zones", problem.fix) from error
    given = {} if camera.transport is None else camera.transport.model_dump(exclude_none=True)
    if given or options:
        found["transport"] = Transport(**given, options=dict(options))
    return found
