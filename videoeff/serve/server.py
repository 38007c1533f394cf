"""The process: an address, the networks, the fleet, and an end that hangs on no client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

from videoeff.errors import FleetError
from videoeff.serve.access import token_of
from videoeff.serve.app import build_app
from videoeff.serve.hub import Hub
from videoeff.serve.service import Service
from videoeff.serve.settings import ServeSettings

#: Seconds that clients have at the end, before their connections are cut.
_GRACE = 1.0
#: Seconds after which a client that takes nothing is cut off, by the system.
_STUCK = 60
#: Connections at a time, whatever they ask.
_CONNECTIONS = 512


def serve(settings: ServeSettings, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: of the operator.
        ready: called with the address once requests are answered.

    Raises:
        VideoEffError: the address is taken, the token, a network or a camera cannot be used, or a state could
            not be saved at the end.
    """
    if not settings.networks:
        raise FleetError("no network was named; give an artifact, or [networks.NAME] in the file of --config")
    token = token_of(settings)
    with contextlib.closing(listen(settings.host, settings.port)) as sock:
        service = _service(settings)
        try:
            service.start()
            Server(service, token, sock, ready).run([sock])
        finally:
            service.close()


def _service(settings: ServeSettings) -> Service:
    from videoeff.fleet.fleet import Fleet
    from videoeff.serialize.load import load

    networks = {name: load(network.path) for name, network in settings.networks.items()}
    if settings.keep is not None:
        try:
            settings.keep.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FleetError(
                f"{settings.keep}: cannot be made ({error.strerror}); choose another folder for --keep"
            ) from error
    fleet = Fleet(
        workers=settings.workers,
        keep=settings.keep,
        evict_after=settings.evict_after,
        save_every=settings.save_every,
    )
    return Service(settings, fleet, networks)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        FleetError: the host is unknown, the port is taken, or may not be used.
    """
    where = f"{host}, port {port}"
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise FleetError(f"{where}: no such host ({error}); check --host") from error
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STUCK * 1000)
        sock.bind(address)
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise FleetError(
            f"{where}: cannot listen there ({error.strerror}); choose another --port; 0 takes a free one"
        ) from error
    return sock


def address_of(host: str, sock: socket.socket) -> str:
    """The address of a socket that listens."""
    port = sock.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Ends all streams when it is asked to end, and cuts what does not go by itself.

    Args:
        service: started.
        token: that requests must carry; None for none.
        sock: that listens.
        ready: called with the address once requests are answered.
    """

    def __init__(
        self, service: Service, token: str | None, sock: socket.socket, ready: Callable[[str], None]
    ) -> None:
        port: int = sock.getsockname()[1]
        super().__init__(
            uvicorn.Config(
                build_app(service, token, port),
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                http="h11",
                loop="asyncio",
                lifespan="on",
                limit_concurrency=_CONNECTIONS,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=10,
                ws_max_size=4096,
                ws_per_message_deflate=False,
            )
        )
        self._hub: Hub = service.hub
        self._address = address_of(service.settings.host, sock)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._ready(self._address)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        self._hub.close()
        cutting = asyncio.create_task(self._cut())
        await super().shutdown(sockets)
        cutting.cancel()

    async def _cut(self) -> None:
        await asyncio.sleep(_GRACE)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the service; that is its usual end, no error. A second one hurries it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
