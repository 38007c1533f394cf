"""Cameras of the tests: video over HTTP by Python alone, and a proxy that cuts, stalls and corrupts."""

from __future__ import annotations

import contextlib
import io
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import numpy as np

from tests.support.clips import numbered
from videoeff.video.live import Picture, Source, Transport

#: For tests: it connects again at once, but no slow machine looks like a stalled server.
QUICK = Transport(timeout=20.0, stall=10.0, backoff=(0.05, 0.2))

#: For tests of stalled servers: on a slow machine there may be more of them.
IMPATIENT = Transport(timeout=1.0, stall=1.0, backoff=(0.05, 0.2))


#: Seconds after which what is waited for counts as missing. Generous: machines are slow at times.
DEADLINE = 30.0

Answer = Callable[["Handler"], None]


def until(true: Callable[[], bool], what: str = "what was waited for") -> None:
    """Wait until something is true; fail after :data:`DEADLINE`."""
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, f"{what} did not come within {DEADLINE} s"
        time.sleep(0.005)


def check_order(pictures: Sequence[Picture]) -> None:
    """Numbers, times and arrivals go forward."""
    for before, after in itertools.pairwise(pictures):
        assert before.time is not None
        assert after.time is not None
        assert (after.number, after.time, after.arrived) > (before.number, before.time, before.arrived)
        assert after.time > before.time
        assert after.arrived >= before.arrived


def take(source: Source, count: int) -> list[Picture]:
    """The next pictures of a source; fails after :data:`DEADLINE` for each."""
    found = []
    for _ in range(count):
        picture = source.take(DEADLINE)
        assert picture is not None, f"no picture came: {source.state}, {source.why}"
        found.append(picture)
    return found


def broadcast(
    size: tuple[int, int] = (48, 64),
    *,
    rate: int = 50,
    first: int = 0,
    key: int = 8,
    b_frames: int = 0,
    start: float = 0.0,
) -> Iterator[bytes]:
    """MPEG-TS of flat pictures without end, in the pieces that each picture gives.

    Args:
        size: (H, W).
        rate: pictures a second, as stamped.
        first: number of the first picture.
        key: pictures from one key frame to the next.
        b_frames: pictures between two that refer to one another.
        start: stamp of the first picture, in seconds.
    """
    import av

    sink = _Sink()
    with av.open(sink, "w", format="mpegts") as container:
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"bf": str(b_frames), "g": str(key), "qp": "10", "sc_threshold": "0"}
        if not b_frames:
            stream.options |= {"tune": "zerolatency"}
        stream.codec_context.time_base = Fraction(1, rate)
        for index in itertools.count():
            image = av.VideoFrame.from_ndarray(numbered(first + index, size), format="rgb24")
            image = image.reformat(format="yuv420p")
            image.pts, image.time_base = round(start * rate) + index, Fraction(1, rate)
            container.mux(stream.encode(image))
            yield sink.taken()


class _Sink(io.RawIOBase):
    """A file that keeps what is written until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._kept += bytes(data)
        return len(data)

    def taken(self) -> bytes:
        kept, self._kept = bytes(self._kept), bytearray()
        return kept


class Handler(BaseHTTPRequestHandler):
    """Answers by the answers of its server."""

    server: _Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        answer = self.server.answers.get(self.path.partition("?")[0])
        if answer is None:
            self.send_error(404)
            return
        with contextlib.suppress(ConnectionError, TimeoutError):
            answer(self)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests are quiet."""

    def begin(self, kind: str, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, answers: Mapping[str, Answer]) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answers = answers
        self.asked: list[str] = []
        self.closing = threading.Event()
        self.open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: clients that hang up are what is tested."""


class HttpServer:
    """A server of video over HTTP, in a thread, on a port of this machine.

    Args:
        answers: what answers to which path.
        port: 0 for any free one.
    """

    def __init__(self, answers: Mapping[str, Answer], port: int = 0) -> None:
        self._server = _Server(port, answers)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def asked(self) -> list[str]:
        """The paths that were asked for."""
        return self._server.asked

    def url(self, path: str = "/live.ts") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.closing.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in tuple(self._server.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()


def live(pieces: Callable[[], Iterable[bytes]], *, gap: float = 0.01, kind: str = "video/mp2t") -> Answer:
    """An answer of pieces as time passes, each connection from its beginning."""

    def answer(handler: Handler) -> None:
        handler.begin(kind)
        for piece in pieces():
            handler.wfile.write(piece)
            if handler.server.closing.wait(gap):
                return

    return answer


def whole(data: bytes, kind: str = "video/mp4", sent: int | None = None) -> Answer:
    """An answer of known length; `sent`: hang up after so many bytes."""

    def answer(handler: Handler) -> None:
        handler.begin(kind, len(data))
        handler.wfile.write(data[:sent])

    return answer


class Proxy:
    """Stands between a source and its server, and does harm.

    Args:
        server: the server's port.
        port: where to listen; 0 for any free one.

    Attributes:
        port: where it listens.
        stalled: while set, nothing passes.
        harm: changes what the server sends; None leaves it.
    """

    def __init__(self, server: int, port: int = 0) -> None:
        self._server = server
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listening.getsockname()[1]
        self.stalled = threading.Event()
        self.harm: Callable[[bytes], bytes] | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._closing = False

    def url(self, path: str = "/live.ts", scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def cut(self) -> None:
        """Hang up on everybody."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self.stalled.clear()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join(DEADLINE)
        self._listening.close()

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server))
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            self._start(self._pass, client, server, False)
            self._start(self._pass, server, client, True)

    def _pass(self, source: socket.socket, target: socket.socket, back: bool) -> None:
        with source, contextlib.suppress(OSError):
            while data := source.recv(4096):
                while self.stalled.is_set() and not self._closing:
                    time.sleep(0.01)
                if back and self.harm is not None:
                    data = self.harm(data)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def silent() -> contextlib.AbstractContextManager[int]:
    """The port of a server that takes connections and says nothing."""
    return _listening(None)


def garbage(text: bytes) -> contextlib.AbstractContextManager[int]:
    """The port of a server that says something else than was asked for, and hangs up."""
    return _listening(text)


@contextlib.contextmanager
def _listening(text: bytes | None) -> Iterator[int]:
    server = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def work() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            if text is None:
                kept.append(client)
                continue
            with client, contextlib.suppress(OSError):
                client.recv(4096)
                client.sendall(text)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(DEADLINE)
        for client in kept:
            client.close()


def free_port() -> int:
    """A port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def hls(names: Iterable[str], seconds: float, *, ended: bool) -> bytes:
    """A playlist of segments of one length, in each of which stamps begin anew."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-MEDIA-SEQUENCE:0", "#EXT-X-TARGETDURATION:2"]
    for name in names:
        lines += ["#EXT-X-DISCONTINUITY", f"#EXTINF:{seconds:.3f},", name]
    return "\n".join([*lines, *(["#EXT-X-ENDLIST"] if ended else []), ""]).encode()


def jpegs() -> Iterator[bytes]:
    """Pictures as cameras send them to browsers, without any stamps."""
    from PIL import Image

    for index in itertools.count():
        kept = io.BytesIO()
        Image.fromarray(numbered(index)).save(kept, "JPEG")
        head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(kept.getvalue())}\r\n\r\n"
        yield head.encode() + kept.getvalue() + b"\r\n"


def sound(path: Path) -> Path:
    """Write a second of silence."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp2", rate=48000)
        for index in range(40):
            piece = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            piece.rate, piece.pts = 48000, 1152 * index
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path
