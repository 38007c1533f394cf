"""Real RTSP and RTMP servers; skipped where none is installed. What needs none is in test_http."""

from __future__ import annotations

import random

import pytest

from tests.support.cameras import IMPATIENT, QUICK, Proxy, check_order, free_port, take, until
from tests.support.rtsp import RtmpServer, RtspServer, ffmpeg_missing, rtsp_missing
from videoeff.video.live import Source, Transport, open_source


def wait_lost(source: Source) -> None:
    until(lambda: source.state == "lost")


@pytest.fixture
def rtsp() -> None:
    """Needs an RTSP server."""
    if rtsp_missing():
        pytest.skip(rtsp_missing())


@pytest.mark.usefixtures("rtsp")
def test_pictures_come_by_tcp_and_by_udp() -> None:
    with RtspServer(audio=True) as server:
        for protocol in ("tcp", "udp", "auto"):
            transport = Transport(protocol=protocol, timeout=20, stall=10)
            with open_source(server.url(), policy="every", transport=transport) as source:
                pictures = take(source, 25)
                assert source.state == "live"
            check_order(pictures)
            assert [p.number for p in pictures] == list(range(25))
            assert pictures[-1].time == pytest.approx(24 / 50, abs=0.15)
            assert pictures[0].size == (48, 64)
            frame = pictures[0].frame
            assert frame.shape == (48, 64, 3)
            assert frame.max() > 150  # the white ball on black
            assert frame.min() < 50
            counters = source.counters
            assert (counters.connections, counters.lost, counters.refused) == (1, 0, 0)


@pytest.mark.usefixtures("rtsp")
def test_a_server_that_comes_late_dies_and_comes_back_with_another_size() -> None:
    port = free_port()
    with open_source(f"rtsp://127.0.0.1:{port}/live", policy="every", transport=QUICK) as source:
        until(lambda: source.state == "lost")
        assert "nothing listens" in source.why
        with RtspServer(port=port):
            first = take(source, 20)
        until(lambda: source.state == "lost")
        assert source.why
        assert source.counters.lost == 1
        with RtspServer((64, 96), port):
            until(lambda: source.state == "live")
            second = take(source, 30)
            assert second[-1].size == (64, 96)
            assert second[-1].frame.shape == (64, 96, 3)
            counters = source.counters
    check_order([*first, *second])
    assert (counters.connections, counters.lost, counters.resized) == (2, 1, 1)


@pytest.mark.usefixtures("rtsp")
def test_a_stall_and_damage_on_the_way() -> None:
    random_bytes = random.Random(0)

    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[random_bytes.randrange(len(changed))] ^= 0xFF
        return bytes(changed)

    with RtspServer() as server, Proxy(server.port) as proxy:
        with open_source(proxy.url("/live", "rtsp"), transport=IMPATIENT) as source:
            pictures = take(source, 5)
            proxy.stalled.set()
            until(lambda: source.state == "lost")
            assert "came for 1 s" in source.why
            proxy.stalled.clear()
            until(lambda: source.state == "live")
            pictures += take(source, 5)
            assert source.counters.lost >= 1
            proxy.harm = flip
            number = source.counters.decoded
            until(lambda: source.counters.decoded > number + 20 or source.state == "lost")
            proxy.harm = None
            number = source.counters.decoded
            until(lambda: source.state == "live" and source.counters.decoded > number + 20)
            pictures += take(source, 5)
        check_order(pictures)


@pytest.mark.usefixtures("rtsp")
def test_a_login() -> None:
    with RtspServer(password="geh/eim?") as server:
        address = server.url().replace("//", "//user:geh%2Feim%3F@")
        with open_source(address, transport=QUICK) as source:
            take(source, 3)
        for login in ("//user:falsch@", "//"):
            slow = Transport(timeout=20, backoff=(0.05, 60))
            with open_source(server.url().replace("//", login), transport=slow) as source:
                wait_lost(source)
                assert "refuses the login (401)" in source.why
                assert "falsch" not in f"{source.why}{source.address}{source!r}"
                assert source.take(0.5) is None
                assert source.state == "lost"


@pytest.mark.usefixtures("rtsp")
def test_a_path_that_the_server_does_not_have() -> None:
    with RtspServer() as server, open_source(server.url("/other"), transport=QUICK) as source:
        until(lambda: source.state == "lost")
        assert "no such stream (404)" in source.why


@pytest.mark.usefixtures("rtsp")
def test_a_sound_without_video() -> None:
    with RtspServer(video=False) as server, open_source(server.url(), transport=QUICK) as source:
        until(lambda: "no video" in source.why)
        assert source.state == "lost"
        assert source.why == "no video stream in it (it holds: audio)"


@pytest.mark.skipif(bool(ffmpeg_missing()), reason=ffmpeg_missing())
def test_rtmp() -> None:
    port = free_port()
    with open_source(f"rtmp://127.0.0.1:{port}/live/stream", policy="every", transport=QUICK) as source:
        with RtmpServer(port):
            first = take(source, 20)
        until(lambda: source.state == "lost")
        with RtmpServer(port):
            second = take(source, 10)
            counters = source.counters
    check_order([*first, *second])
    assert (counters.connections, counters.lost) == (2, 1)
