"""Networks as they are: servers that hang up, stall, send damage or something else, and come back."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import cameras
from tests.support.cameras import (
    DEADLINE,
    IMPATIENT,
    QUICK,
    HttpServer,
    Proxy,
    broadcast,
    check_order,
    garbage,
    live,
    silent,
    take,
    until,
    whole,
)
from tests.support.clips import number_of, numbered, write
from videoeff.video.live import Counters, Source, Transport, open_source


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg reads these; servers of the tests are on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def serving(pieces: Callable[[], Iterator[bytes]] = broadcast) -> HttpServer:
    return HttpServer({"/live.ts": live(pieces)})


def watched(source: Source) -> list[tuple[str, str]]:
    """The states that a source takes and why, as they come, once it is started."""
    found: list[tuple[str, str]] = []

    def note() -> None:
        if not found or found[-1][0] != source.state:
            found.append((source.state, source.why))

    source.when_ready(note)
    return found


def wait_lost(source: Source) -> None:
    until(lambda: source.state == "lost")


def decoding_threads() -> int:
    return sum(thread.name.startswith("videoeff source") for thread in threading.enumerate())


@pytest.mark.parametrize("b_frames", [0, 2])
def test_pictures_come_in_order_with_their_times(b_frames: int) -> None:
    def pieces() -> Iterator[bytes]:
        return broadcast(b_frames=b_frames)

    with serving(pieces) as server, open_source(server.url(), policy="every", transport=QUICK) as source:
        pictures = take(source, 30)
        assert (source.state, source.why, source.network) == ("live", "", True)
        counters = source.counters
    assert [p.number for p in pictures] == list(range(30))
    assert [number_of(p.frame) for p in pictures] == [i % 28 for i in range(30)]
    assert [p.time for p in pictures] == pytest.approx([i / 50 for i in range(30)], abs=1e-3)
    assert {p.size for p in pictures} == {(48, 64)}
    assert abs(time.time() - pictures[-1].wall) < 2 * DEADLINE
    check_order(pictures)
    assert counters.connections == 1
    assert counters.delivered == 30
    assert counters.lost == counters.late == counters.refused == counters.resized == 0
    assert source.state == "closed"
    assert source.take(None) is None


def test_a_connection_that_is_cut_is_made_again() -> None:
    with serving() as server, Proxy(server.port) as proxy:
        source = open_source(proxy.url(), policy="every", transport=QUICK)
        states = watched(source)
        with source:
            pictures = take(source, 10)
            for lost in (1, 2):
                proxy.cut()
                until(lambda lost=lost: source.counters.lost == lost)  # type: ignore[misc]
                pictures += take(source, 20)
            counters = source.counters
    check_order(pictures)
    assert (counters.connections, counters.lost) == (3, 2)
    cut = ("lost", "the connection was cut")
    assert states == [("live", ""), cut, ("live", ""), cut, ("live", ""), ("closed", "")]


def test_a_server_that_goes_away_and_comes_back_with_another_size() -> None:
    with serving() as server, open_source(server.url(), policy="every", transport=QUICK) as source:
        pictures = take(source, 10)
        server.__exit__()
        until(lambda: source.state == "lost" and "refused" in source.why)
        assert source.counters.connections == 1
        with HttpServer({"/live.ts": live(lambda: broadcast((64, 96)))}, server.port):
            until(lambda: source.state == "live")
            pictures += take(source, 20)
            counters = source.counters
    assert (pictures[0].size, pictures[-1].size) == ((48, 64), (64, 96))
    assert pictures[-1].frame.shape == (64, 96, 3)
    check_order(pictures)
    assert (counters.connections, counters.lost, counters.resized) == (2, 1, 1)


def test_the_size_changes_within_a_connection() -> None:
    def pieces() -> Iterator[bytes]:
        return itertools.chain(
            itertools.islice(broadcast(), 16), broadcast((64, 96), first=16, start=16 / 50)
        )

    with serving(pieces) as server, open_source(server.url(), policy="every", transport=QUICK) as source:
        pictures = take(source, 40)
        counters = source.counters
    assert [p.size for p in pictures] == [p.frame.shape[:2] for p in pictures]
    assert [p.number for p in pictures if p.size == (64, 96)] == list(range(16, 40))
    check_order(pictures)
    assert (counters.connections, counters.lost, counters.resized) == (1, 0, 1)


def test_a_server_that_stalls_counts_as_lost() -> None:
    with serving() as server, Proxy(server.port) as proxy:
        source = open_source(proxy.url(), policy="every", transport=IMPATIENT)
        states = watched(source)
        with source:
            pictures = take(source, 5)
            lost = source.counters.lost
            proxy.stalled.set()
            until(lambda: source.counters.lost > lost)
            proxy.stalled.clear()
            until(lambda: source.state == "live")
            pictures += take(source, 20)
    check_order(pictures)
    assert ("lost", "nothing came for 1 s") in states


def test_damage_on_the_way_ends_nothing() -> None:
    random_bytes = random.Random(0)

    def harm(data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(3):
            changed[random_bytes.randrange(len(changed))] ^= 0xFF
        return bytes(changed) if random_bytes.random() < 0.9 else b""

    def pieces() -> Iterator[bytes]:
        return broadcast((96, 128), key=5)

    with serving(pieces) as server, Proxy(server.port) as proxy:
        source = open_source(proxy.url(), policy="every", transport=QUICK)
        with source:
            pictures = take(source, 10)
            proxy.harm = harm
            while harmed(source.counters) < 4:
                pictures += take(source, 1)
            proxy.harm = None
            number = source.counters.decoded
            while pictures[-1].number < number + 30:
                pictures += take(source, 1)
            assert source.state == "live"
    check_order(pictures)
    assert all(p.frame.shape == (*p.size, 3) for p in pictures)
    # Afterwards pictures are whole again: flat ones.
    assert all(float(p.frame.std()) < 2 for p in pictures[-5:])
    span = (pictures[-1].time or 0.0) - (pictures[0].time or 0.0)
    assert span < pictures[-1].arrived - pictures[0].arrived + 5 + len(pictures) / 50


def harmed(counters: Counters) -> int:
    return counters.damaged + counters.refused + counters.lost


def test_a_slow_consumer_gets_the_newest_or_every_picture() -> None:
    with serving() as server:
        with open_source(server.url(), transport=QUICK) as source:  # "latest" is what networks have
            take(source, 1)
            until(lambda: source.counters.decoded > 20)
            late = source.counters.late
            assert late >= 18
            assert source.waiting() == 1
            newest = take(source, 1)[0]
            assert newest.number >= 20
            counters = source.counters
            assert counters.decoded <= counters.late + counters.delivered + 1
        with open_source(server.url(), policy="every", queue=4, transport=QUICK) as source:
            until(lambda: source.waiting() == 4)
            pictures = take(source, 4)
            until(lambda: source.waiting() == 4)
            pictures += take(source, 12)
            assert [p.number for p in pictures] == list(range(16))
            assert source.counters.late == 0


def test_nobody_takes_anything() -> None:
    """The queue stays as long as it may be; after `stall` seconds the oldest pictures make room."""
    hasty = Transport(timeout=20, stall=0.3, backoff=(0.05, 0.2))
    with serving() as server, open_source(server.url(), policy="every", queue=3, transport=hasty) as source:
        until(lambda: source.counters.late > 20)
        assert source.waiting() == 3
        pictures = take(source, 3)
        assert pictures[0].number > 20
        check_order(pictures)


def test_a_stream_that_begins_without_a_key_frame() -> None:
    def pieces() -> Iterator[bytes]:
        running = broadcast(key=40)
        next(running)
        return running

    with serving(pieces) as server, open_source(server.url(), policy="every", transport=QUICK) as source:
        pictures = take(source, 5)
    assert [number_of(p.frame) for p in pictures] == [(40 + i) % 28 for i in range(5)]
    assert [p.number for p in pictures] == list(range(5))


def test_stamps_that_jump_by_hours() -> None:
    def pieces() -> Iterator[bytes]:
        ahead = itertools.islice(broadcast(start=7200), 20)
        return itertools.chain(itertools.islice(broadcast(), 20), ahead, broadcast(start=60))

    with serving(pieces) as server, open_source(server.url(), policy="every", transport=QUICK) as source:
        pictures = take(source, 60)
    check_order(pictures)
    passed = pictures[-1].arrived - pictures[0].arrived
    assert pictures[-1].time == pytest.approx(59 / 50, abs=0.3 + passed)


@pytest.mark.parametrize("scheme", ["http", "rtsp", "rtmp"])
def test_a_server_that_says_nothing(scheme: str) -> None:
    with silent() as port, open_source(f"{scheme}://127.0.0.1:{port}/x/y", transport=IMPATIENT) as source:
        until(lambda: source.state == "lost")
        assert source.why == "no answer within 1 s"


def test_closing_does_not_wait_for_what_hangs() -> None:
    """A thread that hangs in FFmpeg is left, and ends when its time is over."""
    before = decoding_threads()
    with silent() as port, serving() as server, Proxy(server.port) as proxy:
        opening = open_source(f"http://127.0.0.1:{port}/x", transport=Transport(timeout=4))
        stalled = open_source(proxy.url(), transport=Transport(timeout=20, stall=4))
        with stalled:
            take(stalled, 3)
            proxy.stalled.set()
            opening.start()
            time.sleep(0.3)
            for source in (stalled, opening):
                began = time.monotonic()
                source.close()
                assert time.monotonic() - began < 3
                assert source.state == "closed"
                assert source.take(None) is None
        until(lambda: decoding_threads() <= before, "the end of the threads")


def test_a_program_may_end_without_closing() -> None:
    """Decoders that ran on while Python was torn down once crashed it."""
    with serving() as server, silent() as port:
        program = (
            "from videoeff.video.live import open_source\n"
            f"running = [open_source({server.url()!r}) for _ in range(3)]\n"
            f"hanging = open_source('rtsp://127.0.0.1:{port}/x')\n"
            "hanging.start()\n"
            f"assert all(source.take({DEADLINE}) for source in running)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, timeout=3 * DEADLINE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_something_else_than_video() -> None:
    page = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2000\r\n\r\n" + b"<p>hello</p>" * 200
    )
    with garbage(page) as port:
        for scheme in ("http", "rtsp", "rtmp"):
            with open_source(f"{scheme}://127.0.0.1:{port}/x/y", transport=QUICK) as source:
                wait_lost(source)
                assert source.why
                assert source.counters.connections == 0
    greeting = b"SSH-2.0-OpenSSH_9.2\r\n"
    with garbage(greeting) as port, open_source(f"rtsp://127.0.0.1:{port}/x", transport=QUICK) as source:
        wait_lost(source)
        assert "no video that FFmpeg can read; check scheme, port and path" in source.why


def test_a_name_that_cannot_be_resolved() -> None:
    with open_source("rtsp://no-such-camera.invalid/1", transport=QUICK) as source:
        until(lambda: source.state == "lost")
        assert "the name no-such-camera.invalid cannot be resolved" in source.why


def test_a_stream_with_sound_alone_is_tried_again(tmp_path: Path) -> None:
    sound = cameras.sound(tmp_path / "sound.ts").read_bytes()
    server = HttpServer({"/live.ts": whole(sound)})
    with server, open_source(server.url(), transport=QUICK) as source:
        until(lambda: len(server.asked) > 3)
        assert source.state == "lost"
        assert source.why == "no video stream in it (it holds: audio)"


@pytest.mark.parametrize("code", [401, 403])
def test_a_login_that_is_refused(code: int) -> None:
    slow = Transport(timeout=20, backoff=(0.01, 60))
    with HttpServer({"/live.ts": lambda handler: handler.send_error(code)}) as server:
        address = server.url("/live.ts?token=heimlich").replace("//", "//me:geheim@")
        with open_source(address, transport=slow) as source:
            until(lambda: source.state == "lost")
            assert f"refuses the login ({code})" in source.why
            assert source.take(0.5) is None
            assert source.state == "lost"
            assert len(server.asked) <= 2  # FFmpeg asks again with the login
            assert source.address == server.url("/live.ts?token=***").replace("//", "//me:***@")
            names = [thread.name for thread in threading.enumerate()]
            for text in (source.address, source.why, repr(source), *names):
                assert "geheim" not in text
                assert "heimlich" not in text


def test_files_over_http_end_and_come_at_their_rate(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", [numbered(i, (96, 128)) for i in range(25)], rate=50)
    data = path.read_bytes()
    with HttpServer({"/a.mp4": whole(data), "/cut.ts": whole(ts(tmp_path), sent=188 * 40)}) as server:
        with open_source(server.url("/a.mp4"), transport=QUICK) as source:  # "latest"
            pictures = list(source)
            assert (source.state, source.why) == ("ended", "it came to its end")
        assert pictures[-1].number == 24
        assert pictures[-1].time == pytest.approx(24 / 50)
        assert pictures[-1].arrived - pictures[0].arrived > 0.5 * 24 / 50
        with open_source(
            server.url("/a.mp4"), policy="every", transport=QUICK, loop=True, frames=60
        ) as source:
            pictures = list(source)
            assert source.counters.lost == 0
        assert [number_of(p.frame) for p in pictures] == [i % 25 for i in range(60)]
        check_order(pictures)
        with open_source(server.url("/cut.ts"), policy="every", transport=QUICK) as source:
            until(lambda: bool(source.take() and source.counters.lost > 1))
            assert source.counters.connections > 1


def ts(folder: Path) -> bytes:
    return write(folder / "a.ts", [numbered(i) for i in range(100)]).read_bytes()


def test_hls_with_stamps_that_begin_anew(tmp_path: Path) -> None:
    sizes = [(48, 64), (48, 64), (64, 96)]
    names = [f"{index}.ts" for index in range(3)]
    answers = {}
    for index, (name, size) in enumerate(zip(names, sizes, strict=True)):
        write(tmp_path / name, [numbered(8 * index + k, size) for k in range(8)])
        answers[f"/{name}"] = whole((tmp_path / name).read_bytes(), "video/mp2t")
    kind = "application/vnd.apple.mpegurl"
    answers["/done.m3u8"] = whole(cameras.hls(names, 8 / 25, ended=True), kind)
    answers["/live.m3u8"] = whole(cameras.hls(names, 8 / 25, ended=False), kind)
    with HttpServer(answers) as server:
        with open_source(server.url("/done.m3u8"), policy="every", transport=QUICK) as source:
            pictures = list(source)
            assert (source.state, source.counters.resized) == ("ended", 1)
        assert [number_of(p.frame) for p in pictures] == list(range(24))
        assert [p.time for p in pictures] == pytest.approx([i / 25 for i in range(24)], abs=0.1)
        with open_source(
            server.url("/live.m3u8"), transport=QUICK
        ) as source:  # in stocks, but no picture is late
            pictures = take(source, 20)
            assert pictures[-1].arrived - pictures[0].arrived > 0.5 * 19 / 25
        check_order(pictures)


def test_pictures_without_stamps_have_the_times_of_their_arrival() -> None:
    kind = "multipart/x-mixed-replace; boundary=next"
    server = HttpServer({"/video.mjpg": live(cameras.jpegs, gap=0.1, kind=kind)})
    with server, open_source(server.url("/video.mjpg"), policy="every", transport=QUICK) as source:
        pictures = take(source, 12)
    check_order(pictures)
    passed = pictures[-1].arrived - pictures[0].arrived
    assert pictures[-1].time == pytest.approx(passed, abs=0.2 + 0.1 * passed)  # FFmpeg says 11/25


def test_hundreds_of_attempts_leave_nothing_behind() -> None:
    hasty = Transport(timeout=20, backoff=(0.001, 0.002))
    files, threads = Path("/proc/self/fd"), Path("/proc/self/task")
    if not files.is_dir():
        pytest.skip("needs /proc to count open files and threads")
    with HttpServer({}) as server, open_source(server.url("/missing"), transport=hasty) as source:
        until(lambda: len(server.asked) > 20)
        before = len(list(files.iterdir())), len(list(threads.iterdir()))
        until(lambda: len(server.asked) > 320)
        after = len(list(files.iterdir())), len(list(threads.iterdir()))
        assert source.why.startswith("the server has no such stream")
    assert after[0] - before[0] < 20
    assert after[1] - before[1] < 20
