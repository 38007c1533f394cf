"""Outputs to clients: every client has a queue of its own, and loses the oldest where it is too slow.

Outputs come from the fleet's threads, and clients wait in the event loop. Neither waits for the other: an
output is turned to JSON once, by a thread of the hub, and only while somebody listens.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from videoeff.serve.problems import Problem

if TYPE_CHECKING:
    from videoeff.fleet.output import Output

#: Outputs of one camera that wait to be turned to JSON.
_WAITING = 32


@dataclass(frozen=True)
class Item:
    """One output for clients.

    Attributes:
        number: of the picture.
        text: the output as JSON.
    """

    number: int
    text: str


@dataclass(eq=False)
class Client:
    """One stream of a camera's outputs.

    Attributes:
        queue: outputs that wait, the oldest first.
        lost: outputs that were dropped, since the client was too slow or the service was.
        ended: why no further output comes, "" while some may.
    """

    most: int
    queue: deque[Item] = field(default_factory=deque)
    lost: int = 0
    ended: str = ""
    _event: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, item: Item) -> None:
        """Add an output; the oldest goes where the queue is full. In the event loop."""
        if len(self.queue) >= self.most:
            self.queue.popleft()
            self.lost += 1
        self.queue.append(item)
        self._event.set()

    def lose(self, count: int) -> None:
        """Count outputs that never came so far as the queue."""
        self.lost += count

    def end(self, why: str) -> None:
        """Let the client take what waits, and then nothing more."""
        self.ended = self.ended or why
        self._event.set()

    async def get(self, timeout: float) -> Item | None:
        """The next output; None after ``timeout`` seconds without one, and at the end."""
        if not self.queue and not self.ended:
            self._event.clear()
            try:
                await asyncio.wait_for(self._event.wait(), timeout)
            except TimeoutError:
                return None
        return self.queue.popleft() if self.queue else None


class _Channel:
    """The outputs of one camera, on their way to its clients."""

    def __init__(self) -> None:
        self.clients: set[Client] = set()
        self.waiting: deque[Output] = deque()
        self.skipped = 0
        self.busy = False


class Hub:
    """All clients of all cameras.

    Args:
        encode: an output as JSON text, or None for one of a camera that is gone; called in a thread of the
            hub.
        pool: that thread, or several.
        most: clients at a time, those of previews included.
        queue: outputs that wait for one client.
    """

    def __init__(
        self, encode: Callable[[Output], str | None], pool: ThreadPoolExecutor, *, most: int, queue: int
    ) -> None:
        self._encode, self._pool = encode, pool
        self._most, self._queue = most, queue
        self._channels: dict[str, _Channel] = {}
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lost_before = 0
        self.previews = 0
        self.closed = asyncio.Event()

    @property
    def clients(self) -> int:
        """Streams that are open."""
        with self._lock:
            return self.previews + sum(len(channel.clients) for channel in self._channels.values())

    @property
    def lost(self) -> int:
        """Outputs that were dropped for slow clients, also those that have gone."""
        with self._lock:
            clients = [client for channel in self._channels.values() for client in channel.clients]
        return self._lost_before + sum(client.lost for client in clients)

    def attach(self) -> None:
        """Serve clients in the event loop that runs."""
        self._loop = asyncio.get_running_loop()

    def open(self, camera: str) -> Client:
        """A new client of a camera. In the event loop.

        Raises:
            Problem: there are too many.
        """
        self.check_room()
        client = Client(self._queue)
        with self._lock:
            self._channels.setdefault(camera, _Channel()).clients.add(client)
        return client

    def check_room(self) -> None:
        """Refuse a client too many.

        Raises:
            Problem: of status 503.
        """
        if self.clients >= self._most:
            raise Problem(
                503,
                f"{self._most} streams of events and previews are open, and no more are allowed",
                "max_clients",
                "close one, or raise `max_clients` of the service",
            )

    def leave(self, camera: str, client: Client) -> None:
        """The client has gone. In the event loop."""
        with self._lock:
            channel = self._channels.get(camera)
            if channel is not None:
                channel.clients.discard(client)
                if not channel.clients and not channel.busy:
                    del self._channels[camera]
        self._lost_before += client.lost

    def publish(self, output: Output) -> None:
        """Hand an output to its camera's clients. From any thread; returns at once."""
        with self._lock:
            channel = self._channels.get(output.camera)
            if channel is None or not channel.clients or self._loop is None:
                return
            if len(channel.waiting) >= _WAITING:
                channel.waiting.popleft()
                channel.skipped += 1
            channel.waiting.append(output)
            if channel.busy:
                return
            channel.busy = True
            self._loop.call_soon_threadsafe(self._begin, output.camera, channel)

    def _begin(self, camera: str, channel: _Channel) -> None:
        task = asyncio.get_running_loop().create_task(self._carry(camera, channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, camera: str, channel: _Channel) -> None:
        """Bring what waits to the clients, until nothing waits."""
        try:
            await self._carry_all(camera, channel)
        finally:
            with self._lock:
                channel.busy = False

    async def _carry_all(self, camera: str, channel: _Channel) -> None:
        while True:
            with self._lock:
                outputs, skipped = list(channel.waiting), channel.skipped
                channel.waiting.clear()
                channel.skipped = 0
                if not outputs:
                    channel.busy = False
                    if not channel.clients:
                        self._channels.pop(camera, None)
                    return
                clients = list(channel.clients)
            loop = asyncio.get_running_loop()
            items = await loop.run_in_executor(self._pool, self._encoded, outputs)
            for client in clients:
                client.lose(skipped)
                for item in items:
                    client.put(item)

    def _encoded(self, outputs: list[Output]) -> list[Item]:
        texts = ((output.number, self._encode(output)) for output in outputs)
        return [Item(number, text) for number, text in texts if text is not None]

    def end(self, camera: str, why: str) -> None:
        """End all clients of a camera. From any thread."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._end, camera, why)

    def _end(self, camera: str, why: str) -> None:
        with self._lock:
            channel = self._channels.get(camera)
            clients = list(channel.clients) if channel is not None else []
        for client in clients:
            client.end(why)

    def close(self) -> None:
        """End all clients of all cameras, those of previews too. In the event loop."""
        self.closed.set()
        with self._lock:
            self._loop = None
        for camera in list(self._channels):
            self._end(camera, "the service ends")
