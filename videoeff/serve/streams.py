"""Streams to clients: server-sent events, WebSocket messages and moving pictures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from videoeff.serve.problems import Problem

if TYPE_CHECKING:
    from videoeff.serve.hub import Client, Hub
    from videoeff.serve.service import Service

#: Seconds without an output after which a sign of life is sent, so that a client that is gone is noticed.
_LIFE = 10.0

_BOUNDARY = "videoeff-frame"


class Stream(StreamingResponse):
    """A response without an end, that tells when the client has gone.

    Args:
        content: what to send.
        gone: called once at the end, also where nothing was sent.
        media_type: of the whole.
    """

    def __init__(self, content: AsyncIterator[bytes], gone: Callable[[], None], media_type: str) -> None:
        super().__init__(content, media_type=media_type, headers={"x-accel-buffering": "no"})
        self._gone = gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._gone()


def events(service: Service, camera: str) -> Stream:
    """Every output of a camera as server-sent events.

    Raises:
        Problem: there is no such camera, or there are too many clients.
    """
    service.find(camera)
    client = service.hub.open(camera)
    return Stream(_events(client), lambda: service.hub.leave(camera, client), "text/event-stream")


async def _events(client: Client) -> AsyncIterator[bytes]:
    yield b"retry: 2000\n\n"
    async for name, number, text in _messages(client):
        if name:
            place = "" if number is None else f"id: {number}\n"
            yield f"event: {name}\n{place}data: {text}\n\n".encode()
        else:
            yield b": nothing new\n\n"


async def _messages(client: Client) -> AsyncIterator[tuple[str, int | None, str]]:
    """(kind, number, JSON) of all that a client is told; an empty kind where a sign of life is due."""
    told = 0
    while True:
        item = await client.get(_LIFE)
        if client.lost > told:
            lost, told = client.lost - told, client.lost
            yield "lost", None, json.dumps({"lost": lost, "in_all": told})
        if item is not None:
            yield "output", item.number, item.text
        elif client.ended:
            yield "end", None, json.dumps({"why": client.ended})
            return
        else:
            yield "", None, ""


async def live(service: Service, camera: str, socket: WebSocket) -> None:
    """Every output of a camera as a message of JSON; also what the client lost, and why it ends."""
    try:
        service.find(camera)
        client = service.hub.open(camera)
    except Problem as problem:
        await socket.send_denial_response(JSONResponse(problem.to_json(), problem.status))
        return
    try:
        await socket.accept()
        sending = asyncio.create_task(_send(client, socket))
        hearing = asyncio.create_task(_hear(socket))
        done, waiting = await asyncio.wait({sending, hearing}, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for task in done:
            task.result()
    finally:
        service.hub.leave(camera, client)


async def _send(client: Client, socket: WebSocket) -> None:
    try:
        async for name, _, text in _messages(client):
            if name == "output":
                await socket.send_text(text)
            elif name:
                await socket.send_text(json.dumps({name: json.loads(text)}))
        await socket.close(1001, client.ended)
    except WebSocketDisconnect:  # it went while something was sent
        return


async def _hear(socket: WebSocket) -> None:
    """Wait until the client goes; what it says is not needed."""
    while True:
        message: Any = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return


def preview(service: Service, camera: str, heat: bool, width: int | None, fps: float) -> Stream:
    """The frames of a camera as a moving picture, at most ``fps`` a second.

    Raises:
        Problem: there is no such camera, or there are too many clients.
    """
    service.find(camera)
    hub = service.hub
    hub.check_room()
    hub.previews += 1

    def gone() -> None:
        hub.previews -= 1

    return Stream(
        _parts(service, camera, heat, width, fps), gone, f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
    )


async def _parts(
    service: Service, camera: str, heat: bool, width: int | None, fps: float
) -> AsyncIterator[bytes]:
    """Pictures; the line that begins the next is sent at once, since browsers show a picture only then."""
    loop, shown = asyncio.get_running_loop(), None
    yield f"--{_BOUNDARY}\r\n".encode()
    while not service.hub.closed.is_set():
        try:
            entry = service.find(camera)
        except Problem:  # it was removed
            return
        output = entry.camera.latest
        if output is not None and (entry, output.number) != shown:
            shown = (entry, output.number)
            jpeg = await loop.run_in_executor(service.pool, entry.pictures.jpeg, output, heat, width)
            head = (
                f"content-type: image/jpeg\r\ncontent-length: {len(jpeg)}\r\nx-frame: {output.number}\r\n\r\n"
            )
            yield head.encode() + jpeg + f"\r\n--{_BOUNDARY}\r\n".encode()
        await _pause(service.hub, 1 / fps)


async def _pause(hub: Hub, seconds: float) -> None:
    """Wait, though not beyond the end of the service."""
    try:
        await asyncio.wait_for(hub.closed.wait(), seconds)
    except TimeoutError:
        return
