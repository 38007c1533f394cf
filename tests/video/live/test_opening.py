"""What cannot be mended by waiting is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest

from tests.support.cameras import QUICK, check_order, take, until
from tests.support.clips import numbered, write
from videoeff.errors import VideoError
from videoeff.video.live import Source, open_source


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("missing.mp4", "missing.mp4: no such file or folder"),
        ("rtsp://", "no host is named"),
        ("rtsp://me:geheim@cam:port/x", "rtsp://me:***@cam:port/x: malformed"),
        ("gopher://me:geheim@cam/x", "gopher:// is not read; addresses begin with rtsp://"),
        ("987", "camera 987: no such camera"),
        (987, "camera 987: no such camera"),
        (-1, "camera -1: no such camera"),
    ],
)
def test_what_is_not_there(source: str | int, words: str) -> None:
    with pytest.raises(VideoError) as found:
        open_source(source)
    assert words in str(found.value)
    assert "geheim" not in str(found.value)


def test_files_without_video(tmp_path: Path) -> None:
    for name, content in (("a.mp4", b""), ("b.mp4", b"no video at all"), ("c.txt", b"text")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoError, match=name):
            open_source(tmp_path / name)
    with pytest.raises(VideoError, match="no images in this folder"):
        open_source(tmp_path)


@pytest.mark.parametrize("source", ["rtsp://cam/1", "a.mp4"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"policy": "newest"}, "policy 'newest'"), ({"queue": 0}, "queue=0"), ({"frames": 0}, "frames=0")],
)
def test_arguments_out_of_their_range(source: str, wrong: dict[str, Any], words: str, tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", [numbered(0)] * 3)
    with pytest.raises(VideoError, match=words):
        open_source(source if "://" in source else tmp_path / source, **wrong)


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "rtmp", "rtmps", "http", "https"])
def test_schemes_that_are_read(scheme: str) -> None:
    source = open_source(f"{scheme}://me:geheim@camera.invalid/1")
    assert isinstance(source, Source)
    assert (source.network, source.state) == (True, "connecting")
    assert source.address == f"{scheme}://me:***@camera.invalid/1"
    source.close()
    assert source.state == "closed"


def test_a_protocol_that_ffmpeg_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(url: str, **_: Any) -> None:
        assert url == "srt://127.0.0.1:1/"
        raise av.error.ProtocolNotFoundError(1330794744, "Protocol not found", url)

    monkeypatch.setattr(av, "open", lacks)
    with pytest.raises(VideoError) as found:
        open_source("srt://cam:9000?passphrase=geheimgeheim")
    said = str(found.value)
    for words in (
        "passphrase=***",
        f"PyAV {av.__version__} has no SRT",
        "--no-binary av",
        "mediamtx",
        "RTSP",
    ):
        assert words in said
    assert "geheim" not in said


class _Unplugged(OSError):
    """What FFmpeg says of a camera that was pulled out."""


def test_a_camera_that_is_pulled_out_and_put_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is none here: what stands for its device is a file."""
    path = write(tmp_path / "video0.mkv", [numbered(i) for i in range(10)])
    opened: list[dict[str, Any]] = []
    original = av.open

    def from_file(device: str, **given: Any) -> Any:
        opened.append({"device": device, **given})
        if len(opened) == 2:
            raise _Unplugged(19, "No such device")
        return original(str(path))

    monkeypatch.setattr(av, "open", from_file)
    monkeypatch.setattr("videoeff.video.live.opening.camera_device", lambda index: f"/dev/video{index}")
    with open_source(0, policy="every", transport=QUICK) as source:
        assert (source.address, source.network) == ("camera 0", False)
        first = take(source, 10)
        until(lambda: source.counters.lost >= 1)
        second = take(source, 10)
    check_order([*first, *second])
    assert opened[0]["device"] == "/dev/video0"
    assert opened[0]["format"] == "v4l2"
