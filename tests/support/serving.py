"""A service on a free port of this machine, in a thread."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.support.fake_fleet import FakeFleet
from videoeff.serve.server import Server, listen
from videoeff.serve.service import Service
from videoeff.serve.settings import ServeSettings, checked

PATIENCE = 30.0


@dataclass
class Running:
    """A service that answers.

    Attributes:
        service: behind it.
        fleet: of the service.
        address: to ask.
        client: that asks.
    """

    service: Service
    fleet: Any
    address: str
    client: httpx.Client

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rpartition(":")[2])

    def socket(self, path: str, **options: Any) -> ClientConnection:
        """A WebSocket, a context manager."""
        address = self.address.replace("http", "ws", 1) + path
        made: ClientConnection = connect(
            address, proxy=None, open_timeout=PATIENCE, close_timeout=1, **options
        )
        return made

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request."""
        return self.client.request(method, path, **options)

    def json(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        """One request and what it answers, which has to have a status."""
        reply = self.ask(method, path, **options)
        assert reply.status_code == status, reply.text
        return reply.json()

    def refused(self, method: str, path: str, status: int, **options: Any) -> dict[str, str]:
        """What a refused request is told."""
        body = self.json(method, path, status, **options)
        assert set(body) == {"error"}
        error: dict[str, str] = body["error"]
        assert set(error) == {"what", "where", "fix"}
        assert all(error.values()), error
        assert "Traceback" not in json.dumps(error)
        return error


def settings_of(**values: Any) -> ServeSettings:
    """Settings with one network that is never loaded."""
    return checked(
        ServeSettings,
        {"networks": {"net": {"path": "net.veff"}}, "port": 0} | values,
        "the test",
    )


@contextlib.contextmanager
def running(
    fleet: Any = None, token: str | None = None, models: Any = None, **values: Any
) -> Iterator[Running]:
    """A service that runs until the block ends; then it has to end within seconds, whatever clients do."""
    settings = settings_of(**values)
    made: Any = FakeFleet() if fleet is None else fleet
    service = Service(settings, made, models or {name: None for name in settings.networks})
    with contextlib.closing(listen(settings.host, 0)) as sock:
        told: list[str] = []
        server = Server(service, token, sock, told.append)
        service.start()
        thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
        thread.start()
        until(lambda: told or not thread.is_alive())
        assert told, "the server did not start"
        try:
            with httpx.Client(base_url=told[0], timeout=PATIENCE, trust_env=False) as client:
                yield Running(service, made, told[0], client)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            stuck = thread.is_alive()
            service.close()
        assert not stuck, "the server did not end"


def until(condition: Callable[[], Any], what: str = "what was waited for") -> Any:
    """Wait for something, with patience for a machine that is busy."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.005)
    return found


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """(kind, value) of server-sent events; "" for a sign of life."""
    kind = ""
    for line in lines:
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))
            kind = ""
        elif line.startswith(":"):
            yield "", None
