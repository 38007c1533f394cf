"""``videoeff run`` on addresses: live streams over HTTP from a server of the tests."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import call, call_json, refused
from tests.support.cameras import QUICK, HttpServer, Proxy, broadcast, free_port, live, until
from videoeff.cli.shared import live as live_clips
from videoeff.cli.shared.live import LiveClip
from videoeff.errors import VideoError
from videoeff.video.live import open_source
from videoeff.video.source import open_clip


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg reads these; servers of the tests are on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def serving(pieces: Callable[[], Iterator[bytes]] = broadcast) -> HttpServer:
    return HttpServer({"/live.ts": live(pieces)})


def two_sizes() -> Iterator[bytes]:
    return itertools.chain(itertools.islice(broadcast(), 8), broadcast((64, 96), first=8, start=8 / 50))


def test_so_many_frames(artifact: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    with serving() as server:
        address = server.url("/live.ts?token=geheim").replace("//", "//me:geheim@")
        found = call_json("run", artifact, address, "--frames", 6, "--policy", "every", "--report", report)
    assert json.loads(report.read_text()) == found
    assert (found["frames"], found["stopped"], found["lost"]) == (6, None, 0)
    shown = server.url("/live.ts?token=***").replace("//", "//me:***@")
    assert found["clip"] == found["source"]["address"] == shown
    assert found["source"]["state"] == "live"
    assert found["source"]["counters"]["delivered"] >= 6
    assert found["fps"] > 0
    assert "geheim" not in report.read_text()


def test_so_many_seconds_and_what_people_are_told(artifact: Path) -> None:
    with serving() as server:
        address = server.url().replace("//", "//me:geheim@")
        result = call("run", artifact, address, "--seconds", 0.5, "--stall", 10, "--transport", "udp")
    assert result.exit_code == 0, result.output
    assert (
        f"note: {server.url().replace('//', '//me:***@')}: live at the end; connected 1 time(s)"
        in result.stderr
    )
    assert "came too late and were dropped" in result.stderr
    assert "geheim" not in result.output


def test_a_clip_has_no_source(artifact: Path, clip: Path) -> None:
    assert call_json("run", artifact, clip)["source"] is None


def test_another_size_goes_on_where_frames_are_resized(artifact: Path, tmp_path: Path) -> None:
    options = ("--policy", "every", "--frames", 20, "--stall", 60)
    with serving(two_sizes) as server:
        found = call_json("run", artifact, server.url(), *options)
        assert (found["frames"], found["stopped"]) == (20, None)
        assert found["source"]["counters"]["resized"] == 1
        overlay = tmp_path / "o.mp4"
        found = call_json("run", artifact, server.url(), *options, "-o", overlay, status=1)
        assert found["frames"] == 8
        assert "the clip ends early: frame 8 has another size: (64, 96) after (48, 64)" in found["stopped"]
        with open_clip(overlay) as drawn:
            assert len(list(drawn)) == 8


def test_a_server_that_is_not_there(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_clips, "FIRST", 0.5)
    address = f"rtsp://me:geheim@127.0.0.1:{free_port()}/x"
    words = refused("run", artifact, address)
    assert "rtsp://me:***@127.0.0.1" in words
    assert "lost: the connection was refused: nothing listens at that port; trying again" in words
    assert "no picture came within 0.5 s: the connection was refused" in words
    assert "geheim" not in words


def test_a_stream_that_is_lost_and_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server, Proxy(server.port) as proxy:
        source = open_source(proxy.url(), policy="every", transport=QUICK)
        with LiveClip(source, None, None, "run") as clip:
            frames = iter(clip)
            assert next(frames).shape == (48, 64, 3)
            proxy.cut()
            until(lambda: source.counters.lost == 1)
            for _ in range(20):
                next(frames)
            assert clip.time is not None
            assert clip.time > 0
            told = clip.to_json()
            assert told["counters"]["lost"] == 1
            assert f"{proxy.url()}: live at the end; connected 2 time(s), lost 1" in clip.notes()[0]
    assert source.state == "closed"
    assert capsys.readouterr().out == ""


def test_opacity_and_sizes() -> None:
    with serving(two_sizes) as server:
        with LiveClip(open_source(server.url(), policy="every", transport=QUICK), 5, None, "run") as clip:
            clip.alpha = True
            frames = list(clip)
            assert [frame.shape for frame in frames] == [(48, 64, 4)] * 5
            assert all((frame[..., 3] == 255).all() for frame in frames)
            assert clip.frame_count == 5
        with LiveClip(open_source(server.url(), policy="every", transport=QUICK), 20, None, "run") as clip:
            assert len(list(clip)) == 8
            assert clip.truncated == "frame 8 has another size: (64, 96) after (48, 64)"
        with LiveClip(open_source(server.url(), policy="every", transport=QUICK), 20, None, "run") as clip:
            clip.resizes = True
            assert {frame.shape for frame in clip} == {(48, 64, 3), (64, 96, 3)}
            assert clip.truncated is None


def test_a_stream_without_a_picture_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_clips, "FIRST", 0.3)
    source = open_source(f"http://127.0.0.1:{free_port()}/x", transport=QUICK)
    with pytest.raises(VideoError, match=r"no picture came within 0\.3 s"):
        LiveClip(source, None, None, "run")
    assert source.state == "closed"


def test_options_of_addresses_need_one(artifact: Path, clip: Path) -> None:
    for option, value in (("--seconds", 1), ("--transport", "tcp"), ("--policy", "every"), ("--stall", 2)):
        result = call("run", artifact, clip, option, value)
        assert result.exit_code == 2
        assert "are for addresses on a network" in result.stderr
    assert "rtsp:/x: malformed" in refused("run", artifact, "rtsp:/x")
    assert "ftp:// is not read" in refused("run", artifact, "ftp://x/y")


def test_comparing_and_outputs(artifact: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "x.npz"
    with serving() as server:
        found = call_json(
            "run", artifact, server.url(), "--frames", 4, "--compare", "--controls", "--outputs", outputs
        )
    assert found["error"]["max_abs"] < 1e-5
    assert any("int8 is left out" in note for note in found["comparison"]["notes"])
    assert len(np.load(outputs)["output_0"]) == 4


def test_other_commands_say_who_reads_addresses(artifact: Path) -> None:
    words = refused("verify", artifact, "rtsp://me:geheim@cam/1")
    assert "rtsp://me:***@cam/1: an address on a network" in words
    assert "geheim" not in words
