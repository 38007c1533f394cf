"""Whatever a client sends: it is told what is wrong, and the service goes on."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import PATIENCE, Running, running, until
from videoeff.errors import ArtifactError, FleetError, VideoError

NEW = {"name": "new", "source": "rtsp://host/x"}
WITH = '{"name": "new", "source": "rtsp://host/x", "%s": %s}'
JSON = {"content-type": "application/json"}
TOKEN = "a-token-of-32-characters-or-so"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with room for two cameras, one of which is there, and for one client."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "media").mkdir()
    (folder / "media/text.mp4").write_text("no video")
    (folder / "secret.mp4").write_bytes(b"secret")
    (folder / "media/link.mp4").symlink_to(folder / "secret.mp4")
    with running(
        cameras={"front": {"source": "rtsp://host/front"}},
        media=[str(folder / "media")],
        keep=str(folder),
        max_cameras=2,
        max_clients=1,
        max_body=2000,
        allow_hosts=["host"],
    ) as made:
        made.fleet.give("front")
        yield made


@dataclass(frozen=True)
class Bad:
    """A request that cannot be served.

    Attributes:
        status: of the answer.
        word: that the error holds.
        method: of the request.
        path: of the request.
        options: of the request, as httpx takes them.
        fleet: what the fleet answers, where the request comes so far.
    """

    status: int
    word: str
    method: str = "POST"
    path: str = "/cameras"
    options: dict[str, Any] = field(default_factory=dict)
    fleet: tuple[str, Any] | None = None


def adding(status: int, word: str, fleet: Any = None, **values: Any) -> Bad:
    body = {key: value for key, value in (NEW | values).items() if value is not ...}
    return Bad(status, word, options={"json": body}, fleet=None if fleet is None else ("new", fleet))


def sending(status: int, word: str, content: str | bytes) -> Bad:
    return Bad(status, word, options={"content": content, "headers": JSON})


def full_disk() -> ArtifactError:
    error = ArtifactError("front.saved: cannot be written (No space left on device)")
    error.__cause__ = OSError(28, "No space left on device")
    return error


CASES = {
    "wrong scheme": adding(403, "'gopher' are not read", source="gopher://host/x"),
    "malformed address": adding(400, "malformed", source="rtsp://host:port/x"),
    "no source": adding(400, "source: is missing", source=...),
    "host that is not allowed": adding(403, "the host evil is not allowed", source="http://evil/x"),
    "metadata of a cloud": adding(403, "not allowed", source="http://169.254.169.254/latest/meta-data"),
    "not a video": adding(
        400, "holds no video", VideoError("text.mp4: holds no video; choose another"), source="text.mp4"
    ),
    "no permission": adding(
        400, "Permission denied", VideoError("text.mp4: unreadable (Permission denied)"), source="text.mp4"
    ),
    "no such file": adding(400, "there is no absent.mp4", source="absent.mp4"),
    "path with ..": adding(403, "below a media folder", source="../secret.mp4"),
    "absolute path": adding(403, "below a media folder", source="/etc/passwd"),
    "link out": adding(403, "leads out of the media folder", source="link.mp4"),
    "file address": adding(403, "'file' are not read", source="file:///etc/passwd"),
    "device that was not configured": adding(403, "device 0 was not configured", source=0),
    "negative device": adding(400, "source: -1 cannot be used", source=-1),
    "taken name": adding(409, "the name front is taken", name="front"),
    "name with a path": adding(400, "'../front' is no name", name="../front"),
    "name with a line break": adding(400, "is no name", name="a\nb"),
    "name that is too long": adding(400, "is no name", name="n" * 65),
    "no name": adding(400, "name: is missing", name=...),
    "unknown network": adding(400, "there is no network other", network="other"),
    "unknown key": adding(400, "treshold: unknown key; did you mean threshold?", treshold=1),
    "text for a number": adding(400, "threshold: '0.1' cannot be used", threshold="0.1"),
    "list for a text": adding(400, "source", source=["rtsp://host/x"]),
    "number out of range": adding(400, "audit: 2 cannot be used", audit=2),
    "odd zones": adding(400, "zones", zones={"watch": [[[0, 0], [1, 1]]]}),
    "unknown key of zones": adding(400, "zones", zones={"wach": []}),
    "source that fails": adding(400, "no frames", VideoError("rtsp://host/x: gives no frames; check it")),
    "fleet that refuses": adding(409, "shares a batch", FleetError("new: shares a batch; add it alone")),
    "NaN": sending(400, "NaN, which is no number", WITH % ("threshold", "NaN")),
    "infinity": sending(400, "Infinity", WITH % ("threshold", "-Infinity")),
    "a number beyond all": sending(400, "threshold: inf cannot be used", WITH % ("threshold", "1e999")),
    "a very long number": sending(400, "every: ", WITH % ("every", "9" * 1500)),
    "malformed JSON": sending(400, "is no JSON (Expecting value, line 1 column 10)", '{"name": }'),
    "nothing": sending(400, "is no JSON", ""),
    "no object": sending(400, "is no JSON object", "[1, 2]"),
    "a key twice": sending(400, "has the key 'name' twice", '{"name": "a", "name": "b"}'),
    "deep nesting": sending(400, "nests more than", "[" * 900),
    "deep nesting behind quotes": sending(400, "nests more than", '{"a": "\\"[", "b": ' + "[" * 900),
    "no UTF-8": sending(400, "is no UTF-8 (byte 1)", b'"\xff"'),
    "too large": sending(413, "more than 2000 bytes", json.dumps(NEW | {"x": "y" * 3000})),
    "another kind of body": Bad(
        415, "not JSON", options={"content": json.dumps(NEW), "headers": {"content-type": "text/xml"}}
    ),
    "no kind of body": Bad(415, "of no kind", options={"content": json.dumps(NEW)}),
    "a body where none belongs": Bad(413, "more than", "GET", "/cameras", {"content": "x" * 3000}),
    "change of an unknown camera": Bad(404, "no camera absent", "PATCH", "/cameras/absent", {"json": {}}),
    "change of the name": Bad(400, "name: unknown key", "PATCH", "/cameras/front", {"json": {"name": "x"}}),
    "change to nonsense": Bad(400, "every: 0", "PATCH", "/cameras/front", {"json": {"every": 0}}),
    "change to no source": Bad(400, "is missing", "PATCH", "/cameras/front", {"json": {"source": None}}),
    "unknown camera": Bad(404, "no camera absent", "GET", "/cameras/absent"),
    "outputs of an unknown camera": Bad(404, "no camera absent", "GET", "/cameras/absent/outputs"),
    "events of an unknown camera": Bad(404, "no camera absent", "GET", "/cameras/absent/events"),
    "removal of an unknown camera": Bad(404, "no camera absent", "DELETE", "/cameras/absent"),
    "encoded path": Bad(404, "", "GET", "/cameras/..%2f..%2fetc%2fpasswd"),
    "unknown path": Bad(404, "nothing here", "GET", "/admin"),
    "wrong method": Bad(405, "DELETE is not served here; use", "DELETE", "/cameras"),
    "unknown method": Bad(405, "BREW is not served here", "BREW", "/cameras"),
    "no label map": Bad(404, "no label map", "GET", "/cameras/front/mask.png"),
    "width of nothing": Bad(400, "width", "GET", "/cameras/front/frame.jpg?width=0"),
    "width of everything": Bad(400, "width", "GET", "/cameras/front/frame.jpg?width=100000"),
    "heat of what": Bad(400, "heat", "GET", "/cameras/front/preview.mjpeg?heat=maybe"),
    "rate that is no number": Bad(400, "fps", "GET", "/cameras/front/preview.mjpeg?fps=nan"),
    "full disk": Bad(507, "No space left on device", path="/cameras/front/save", fleet=("save", full_disk())),
    "state that was never saved": Bad(409, "no state of it was saved", path="/cameras/front/restore"),
    "foreign name": Bad(421, "not called", "GET", options={"headers": {"host": "evil.example"}}),
    "foreign page": Bad(403, "may not use", options={"json": NEW, "headers": {"origin": "http://evil.example"}}),
}  # fmt: skip


@pytest.mark.parametrize("bad", CASES.values(), ids=CASES)
def test_it_is_told_and_the_service_goes_on(one: Running, bad: Bad) -> None:
    one.fleet.refusals = dict([bad.fleet] if bad.fleet else [])
    error = one.refused(bad.method, bad.path, bad.status, **bad.options)
    assert bad.word in "{where}: {what}; {fix}".format(**error)
    well(one)


def well(one: Running) -> None:
    """The service lives, and its one camera is there as before."""
    assert one.json("GET", "/healthz") == {"alive": True}
    shown = one.json("GET", "/cameras")
    assert [camera["name"] for camera in shown["cameras"]] == ["front"]
    assert shown["cameras"][0]["settings"]["source"] == "rtsp://host/front"
    until(lambda: one.json("GET", "/cameras")["clients"] == 0)


def test_too_many_cameras(one: Running) -> None:
    one.fleet.refusals = {}
    one.json("POST", "/cameras", 201, json=NEW)
    error = one.refused("POST", "/cameras", 409, json=NEW | {"name": "third"})
    assert error["what"] == "there are 2 cameras, and no more are allowed"
    one.json("DELETE", "/cameras/new")
    well(one)


POST = "POST /cameras HTTP/1.1\nHost: localhost\nConnection: close\nContent-Type: application/json\n"


def raw(one: Running, text: str, *, end: Callable[[socket.socket], None] | None = None) -> bytes:
    """What the service answers to bytes; nothing where the client goes away instead of reading."""
    with socket.create_connection(("127.0.0.1", one.port), PATIENCE) as made:
        made.sendall(text.replace("\n", "\r\n").encode())
        if end is not None:
            end(made)
            return b""
        answer = b""
        while chunk := made.recv(1 << 16):
            answer += chunk
        return answer


def test_a_large_body_in_parts(one: Running) -> None:
    answer = raw(one, POST + "Transfer-Encoding: chunked\n\n1000\n" + "x" * 0x1000 + "\n0\n\n")
    assert b" 413 " in answer.partition(b"\r\n")[0]
    well(one)


@pytest.mark.parametrize("length", ["-1", "x", "9" * 30])
def test_an_odd_length(one: Running, length: str) -> None:
    assert raw(one, POST + f"Content-Length: {length}\n\n{{}}").partition(b"\r\n")[0].split()[1] in (
        b"400",
        b"413",
    )
    well(one)


def test_no_http_at_all(one: Running) -> None:
    assert b" 400 " in raw(one, "\x16\x03\x01 hello\n\n").partition(b"\r\n")[0]
    assert b" 400 " in raw(one, "GET /cameras HTTP/1.0\n\n")  # without a Host
    assert b" 431 " in raw(one, f"GET / HTTP/1.1\nHost: localhost\nConnection: close\nX: {'y' * 20_000}\n\n")
    well(one)


def reset(made: socket.socket) -> None:
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.mark.parametrize(
    "text",
    [
        "POST /cameras HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: 100\n\n{",
        "GET /cameras/front/events HTTP/1.1\nHost: localhost\n\n",
        "GET /cameras/front/preview.mjpeg HTTP/1.1\nHost: localhost\n\n",
        "GET /cameras/front/live HTTP/1.1\nHost: localhost\nConnection: Upgrade\nUpgrade: websocket\n"
        "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\n\n",
        "GET /cam",
    ],
)
def test_a_client_that_goes_in_the_middle(one: Running, text: str) -> None:
    raw(one, text, end=reset)
    one.fleet.give("front")
    well(one)


def test_a_slow_client(one: Running) -> None:
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", one.port))
        slow.sendall(b"GET /cameras/front/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: one.service.hub.clients == 1)
        for _ in range(100):
            one.fleet.give("front")
        assert one.refused("GET", "/cameras/front/events", 503)["where"] == "max_clients"
        assert one.json("GET", "/healthz") == {"alive": True}
    well(one)


@pytest.mark.parametrize("given", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic eDp5"}])
def test_without_the_token(given: dict[str, str]) -> None:
    with running(token=TOKEN) as guarded:
        error = guarded.refused("POST", "/cameras", 401, json=NEW, headers=given)
        assert "the token is missing or wrong" in error["what"]
        assert len(guarded.fleet) == 0
        assert guarded.json("GET", "/healthz") == {"alive": True}


def test_a_defect_is_told_without_a_traceback(one: Running, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Any:
        raise RuntimeError("a secret of the code")

    one.fleet["front"].status = broken
    try:
        error = one.refused("GET", "/cameras/front", 500)
    finally:
        del one.fleet["front"].status
    assert error["what"] == "the service failed"
    assert "secret" not in json.dumps(error)
    until(lambda: "a secret of the code" in caplog.text)
    well(one)


def test_no_permission_on_a_media_folder(tmp_path: Path) -> None:
    (tmp_path / "media").write_text("no folder")
    with running(media=[str(tmp_path / "media")]) as made:
        error = made.refused("POST", "/cameras", 400, json=NEW | {"source": "a/b.mp4"})
        assert error["where"] == "source"
        assert made.json("GET", "/healthz") == {"alive": True}
