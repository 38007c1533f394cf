"""Streams to clients: events, WebSocket messages, moving pictures; slow and vanishing clients; the end."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tests.support.serving import PATIENCE, Running, events_of, running, until
from videoeff.errors import VideoError

CAMERAS = {"front": {"source": "rtsp://host/x"}, "yard": {"source": "rtsp://host/y"}}


@pytest.fixture
def one() -> Iterator[Running]:
    """Two cameras, and room for three clients."""
    with running(cameras=CAMERAS, max_clients=3, client_queue=4, preview_fps=50) as made:
        yield made


@contextlib.contextmanager
def events(one: Running, camera: str = "front") -> Iterator[Iterator[tuple[str, Any]]]:
    """The events of a camera from now on."""
    before = one.service.hub.clients
    with one.client.stream("GET", f"/cameras/{camera}/events") as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        until(lambda: one.service.hub.clients > before)
        yield events_of(reply.iter_lines())


@contextlib.contextmanager
def live(one: Running, camera: str = "front") -> Iterator[ClientConnection]:
    """A WebSocket of a camera."""
    before = one.service.hub.clients
    with one.socket(f"/cameras/{camera}/live") as made:
        until(lambda: one.service.hub.clients > before)
        yield made


@contextlib.contextmanager
def giving(one: Running, camera: str = "front", outputs: Any = None) -> Iterator[None]:
    """Frames as fast as the service takes them, until the block ends."""
    stop = threading.Event()

    def give() -> None:
        while not stop.wait(0.001):
            one.fleet.give(camera, outputs)

    thread = threading.Thread(target=give)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def gone(one: Running) -> None:
    """Wait until the service knows that all clients have gone."""
    until(lambda: one.service.hub.clients == 0, "that no client is left")


def test_every_output_is_an_event(one: Running) -> None:
    with events(one) as found:
        for number in range(3):
            one.fleet.give("front", torch.full((2,), float(number)))
            kind, output = next(found)
            assert kind == "output"
            assert (output["camera"], output["number"]) == ("front", number)
            assert output["outputs"][0]["values"] == [number, number]
    gone(one)


def test_a_slow_reader_is_told_what_it_lost() -> None:
    big = torch.zeros(1000)
    with running(cameras=CAMERAS, client_queue=4) as one, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", one.port))
        slow.sendall(f"GET /cameras/front/events HTTP/1.1\r\nHost: 127.0.0.1:{one.port}\r\n\r\n".encode())
        until(lambda: one.service.hub.clients == 1)
        with giving(one, outputs=big):
            until(lambda: one.service.hub.lost > 20, "loss")
            with events(one) as found:  # meanwhile others are served as ever
                numbers = [output["number"] for kind, output in (next(found) for _ in range(30)) if kind]
        assert numbers == sorted(numbers)
        text = b""
        slow.settimeout(PATIENCE)
        while b"event: lost" not in text:
            text += slow.recv(1 << 20)
        line = text.partition(b"event: lost")[2]
        while b"\n\n" not in line:
            line += slow.recv(1 << 16)
        told = json.loads(line.partition(b"data: ")[2].partition(b"\n")[0])
        assert told["lost"] > 0
        assert told["in_all"] >= told["lost"]


def test_the_end_of_a_camera_ends_its_events(one: Running) -> None:
    with events(one) as found:
        one.json("DELETE", "/cameras/front")
        assert next(found) == ("end", {"why": "the camera was removed"})
        assert next(found, None) is None
    gone(one)


def test_events_go_on_over_a_change_of_the_camera(one: Running) -> None:
    with events(one) as found:
        one.json("PATCH", "/cameras/front", json={"threshold": 0.5})
        one.fleet.give("front")
        assert next(found)[0] == "output"


def test_a_change_that_loses_the_camera_ends_its_events(one: Running) -> None:
    with events(one) as found:
        one.fleet.refusals["front"] = VideoError("it is gone; look for it")
        one.refused("PATCH", "/cameras/front", 400, json={"fps": 1})
        assert next(found)[0] == "end"


def test_signs_of_life(one: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videoeff.serve.streams._LIFE", 0.01)
    with events(one) as found:
        assert next(found) == ("", None)


def test_a_socket_gets_every_output_and_why_it_ends(one: Running) -> None:
    with live(one) as socket_:
        for number in range(3):
            one.fleet.give("front")
            assert json.loads(socket_.recv(PATIENCE))["number"] == number
        socket_.send("what a client says is not needed")
        one.fleet.give("front")
        assert json.loads(socket_.recv(PATIENCE))["number"] == 3
        one.json("DELETE", "/cameras/front")
        assert json.loads(socket_.recv(PATIENCE)) == {"end": {"why": "the camera was removed"}}
        with pytest.raises(ConnectionClosed) as caught:
            socket_.recv(PATIENCE)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1001, "the camera was removed")
    gone(one)


def test_a_socket_that_is_slow_is_told_what_it_lost(one: Running) -> None:
    hub = one.service.hub
    with live(one) as socket_:
        with giving(one, outputs=torch.zeros(1000)):
            until(lambda: hub.lost > 20, "loss")
        while True:
            found = json.loads(socket_.recv(PATIENCE))
            if "lost" in found:
                break
        assert found["lost"]["lost"] > 0


def test_a_message_that_is_too_long_ends_the_socket(one: Running) -> None:
    with live(one) as socket_:
        socket_.send("x" * 5000)
        with pytest.raises(ConnectionClosed) as caught:
            socket_.recv(PATIENCE)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009  # too big
    gone(one)


@pytest.mark.parametrize("path", ["/cameras/absent/live", "/cameras/front/nothing"])
def test_a_socket_to_nowhere_is_refused(one: Running, path: str) -> None:
    with pytest.raises(InvalidStatus) as caught, one.socket(path):
        pass
    assert caught.value.response.status_code in (403, 404)


def parts(reply: httpx.Response) -> Iterator[tuple[int, Image.Image]]:
    """(number, picture) of each part of a moving picture."""
    data, chunks = b"", reply.iter_bytes()
    boundary = b"--" + reply.headers["content-type"].partition("boundary=")[2].encode()
    while True:
        while data.count(boundary) < 2:
            data += next(chunks)
        head, _, body = data.partition(boundary)[2].partition(b"\r\n\r\n")
        names = dict(line.split(b": ") for line in head.strip().split(b"\r\n"))
        size = int(names[b"content-length"])
        assert body[size:].startswith(b"\r\n" + boundary)
        yield int(names[b"x-frame"]), Image.open(io.BytesIO(body[:size]))
        data = body[size + 2 :]


def test_a_moving_picture(one: Running) -> None:
    one.fleet.give("front")
    with one.client.stream("GET", "/cameras/front/preview.mjpeg?width=80") as reply:
        assert reply.headers["content-type"].startswith("multipart/x-mixed-replace")
        found = parts(reply)
        number, picture = next(found)  # at once, though nothing comes behind it
        assert (number, picture.size) == (0, (80, 48))
        assert abs(np.array(picture).astype(int)[4, 4] - 70).max() > 60  # the heat of the fleet's left half
        one.fleet.give("front")
        assert next(found)[0] == 1
        one.json("PATCH", "/cameras/front", json={"fps": 2})
        one.fleet.give("front")
        assert next(found)[0] == 0
    gone(one)


def test_a_moving_picture_without_heat(one: Running) -> None:
    one.fleet.give("front")
    with one.client.stream("GET", "/cameras/front/preview.mjpeg?heat=0") as reply:
        picture = next(parts(reply))[1]
    assert abs(np.array(picture).astype(int)[4, 4] - 70).max() < 6
    assert one.fleet["front"].heat_asked == 0


def test_a_moving_picture_keeps_to_its_rate() -> None:
    with running(cameras=CAMERAS, preview_fps=4) as one, giving(one):
        with one.client.stream("GET", "/cameras/front/preview.mjpeg?fps=50") as reply:
            found = parts(reply)
            first, second = next(found)[0], next(found)[0]
        assert second > first + 1  # frames come far more often


def test_the_end_of_a_camera_ends_its_moving_picture(one: Running) -> None:
    one.fleet.give("front")
    with one.client.stream("GET", "/cameras/front/preview.mjpeg") as reply:
        chunks = reply.iter_bytes()
        next(chunks)
        one.json("DELETE", "/cameras/front")
        assert b"".join(chunks).endswith(b"--videoeff-frame\r\n")
    gone(one)


def test_too_many_clients_are_refused_and_come_in_when_others_go(one: Running) -> None:
    with events(one), live(one, "yard"), one.client.stream("GET", "/cameras/yard/preview.mjpeg"):
        until(lambda: one.service.hub.clients == 3)
        for path in ("events", "preview.mjpeg"):
            error = one.refused("GET", f"/cameras/front/{path}", 503)
            assert error["where"] == "max_clients"
        with pytest.raises(InvalidStatus) as caught, live(one):
            pass
        assert caught.value.response.status_code == 503
        assert one.json("GET", "/cameras")["clients"] == 3
    gone(one)
    with events(one):
        assert one.service.hub.clients == 1


def test_clients_that_vanish_are_forgotten(one: Running) -> None:
    paths = ("events", "preview.mjpeg", "events")
    sockets = []
    for path in paths:
        made = socket.create_connection(("127.0.0.1", one.port), PATIENCE)
        made.sendall(f"GET /cameras/front/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        sockets.append(made)
    until(lambda: one.service.hub.clients == 3)
    with giving(one):
        for made in sockets:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not closed
            made.close()
        gone(one)
    assert one.json("GET", "/healthz") == {"alive": True}


def test_a_client_that_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videoeff.serve.server._STUCK", 1)
    with running(cameras=CAMERAS) as one, socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", one.port))
        stuck.sendall(b"GET /cameras/front/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: one.service.hub.clients == 1)
        with giving(one, outputs=torch.zeros(1000)):
            gone(one)


def test_no_client_holds_up_the_end() -> None:
    """One of each kind, and one that reads nothing of what waits for it."""
    with contextlib.ExitStack() as stack:
        with running(cameras=CAMERAS) as one:
            kinds: list[Callable[[], Any]] = [
                lambda: events(one),
                lambda: live(one),
                lambda: one.client.stream("GET", "/cameras/front/preview.mjpeg"),
            ]
            for kind in kinds:
                stack.enter_context(contextlib.suppress(Exception))
                stack.enter_context(kind())
            stuck = stack.enter_context(contextlib.closing(socket.socket()))
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.connect(("127.0.0.1", one.port))
            stuck.sendall(b"GET /cameras/front/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            until(lambda: one.service.hub.clients == 4)
            with giving(one, outputs=torch.zeros(1000)):
                until(lambda: one.service.hub.lost > 20, "loss")
        assert not one.service.started
