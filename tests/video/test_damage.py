"""Clips with lost and damaged packets go on as far as the decoder can, and say what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.clips import Frame, copy, first_half, number_of, numbered, write, zeros
from videoeff.video.source import Clip, open_clip

FRAMES = [numbered(index) for index in range(16)]


def read(path: Path) -> tuple[list[Frame], Clip]:
    with open_clip(path) as clip:
        return list(clip), clip


def decoded_by_pyav(path: Path) -> list[Frame]:
    """What PyAV gives when its errors are passed over."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            try:
                images = stream.codec_context.decode(packet if packet.size else None)
            except av.FFmpegError:
                continue
            found += [np.asarray(image.to_ndarray(format="rgb24"), np.uint8) for image in images]
    return found


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        ({5: zeros}, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        ({5: zeros, 6: zeros}, [0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        ({15: zeros}, list(range(15))),
    ],
)
def test_a_packet_that_cannot_be_decoded_is_counted_and_passed_over(
    tmp_path: Path, damage: Mapping[int, Callable[[bytes], bytes]], kept: list[int], suffix: str
) -> None:
    whole = write(tmp_path / f"whole.{suffix}", FRAMES, options={"bf": "0", "qp": "10", "g": "1"})
    path = copy(whole, tmp_path / f"hurt.{suffix}", damage=damage)
    frames, clip = read(path)
    assert [number_of(frame) for frame in frames] == kept
    assert (clip.lost, clip.truncated, clip.skipped) == (len(damage), None, 0)
    assert clip.fps == pytest.approx(25)
    with open_clip(path) as again:  # every pass counts for itself
        assert len(list(again)) == len(list(again)) == len(kept)
        assert again.lost == len(damage)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_what_follows_a_lost_key_frame_comes_as_it_comes_from_pyav(
    tmp_path: Path, suffix: str, b_frames: int
) -> None:
    """Key frames are every eighth; without one nothing is shown until the next."""
    whole = write(tmp_path / f"whole.{suffix}", FRAMES, b_frames=b_frames)
    path = copy(whole, tmp_path / f"hurt.{suffix}", damage={8: zeros})
    frames, clip = read(path)
    expected = decoded_by_pyav(path)
    assert 8 < len(expected) < 16
    assert len(frames) == len(expected)
    assert all((a == b).all() for a, b in zip(frames, expected, strict=True))
    assert clip.lost == 16 - len(frames)
    assert clip.truncated is None


def test_a_lost_beginning_is_counted(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mkv", FRAMES)
    frames, clip = read(copy(whole, tmp_path / "hurt.mkv", drop=[0]))
    assert [number_of(frame) for frame in frames] == list(range(8, 16))
    assert clip.lost == 7


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_packets_that_the_file_does_not_hold_are_seen_by_their_times(tmp_path: Path, suffix: str) -> None:
    frames = [numbered(index) for index in range(24)]
    whole = write(tmp_path / f"whole.{suffix}", frames, options={"bf": "0", "qp": "10", "g": "1"})
    got, clip = read(copy(whole, tmp_path / f"hurt.{suffix}", drop=[5, 6]))
    assert [number_of(frame) for frame in got] == [i for i in range(24) if i not in (5, 6)]
    assert (clip.lost, clip.skipped, clip.truncated) == (0, 2, None)
    assert clip.fps == pytest.approx(25)


def test_frames_that_the_decoder_made_up_in_part_are_counted(tmp_path: Path) -> None:
    noise = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8) for i in range(16)]
    whole = write(tmp_path / "whole.avi", noise, codec="mpeg4", options={})
    frames, clip = read(copy(whole, tmp_path / "hurt.avi", damage={5: first_half}))
    assert len(frames) == 16
    assert (clip.lost, clip.damaged, clip.truncated) == (0, 1, None)


def test_whole_clips_lose_nothing(tmp_path: Path) -> None:
    """Frames that are only referred to (VP8's, VP9's) and frames out of order are none that are lost."""
    kinds = [
        ("libx264", "mp4", None), ("libx264", "mkv", None), ("libx264", "avi", None), ("libx264", "ts", None),
        ("mpeg4", "avi", {"bf": "2", "qmax": "2"}), ("mjpeg", "avi", {}),
        ("mpeg4", "mp4", {"bf": "2", "qmax": "2"}),
        ("libvpx", "webm", {"auto-alt-ref": "1", "lag-in-frames": "10", "b": "200000"}),
        ("libvpx-vp9", "webm", {"auto-alt-ref": "1", "lag-in-frames": "10", "b": "200000"}),
    ]  # fmt: skip
    for codec, suffix, options in kinds:
        if codec not in av.codecs_available:
            continue
        pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        frames = [numbered(index) for index in range(24)]
        path = tmp_path / f"{codec}.{suffix}"
        write(path, frames, codec=codec, options=options, pixels=pixels, b_frames=2)
        got, clip = read(path)
        assert [number_of(frame) for frame in got] == list(range(24)), path
        assert (clip.lost, clip.damaged, clip.skipped, clip.truncated) == (0, 0, 0, None), path


def test_an_empty_packet_in_an_avi_file_is_a_frame_that_stays(tmp_path: Path) -> None:
    """Capture programs write them where they dropped a frame; they once ended the clip."""
    path = write(tmp_path / "a.avi", FRAMES, codec="mjpeg", pixels="yuvj420p", options={})
    data = path.read_bytes()
    movie = data.index(b"movi")
    begin = [i for i in range(movie, len(data)) if data[i : i + 4] == b"00dc"][5]
    size = int.from_bytes(data[begin + 4 : begin + 8], "little")
    padded = size + size % 2
    empty = b"00dc" + bytes(4) + b"JUNK" + (padded - 8).to_bytes(4, "little") + bytes(padded - 8)
    index = data.index(b"idx1")
    entry = index + 8 + 16 * 5
    changed = data[:begin] + empty + data[begin + 8 + padded : entry + 12] + bytes(4) + data[entry + 16 :]
    assert len(changed) == len(data)
    path.write_bytes(changed)
    got, clip = read(path)
    assert [number_of(frame) for frame in got] == [i for i in range(16) if i != 5]
    assert (clip.lost, clip.truncated) == (0, None)


def test_one_frame(tmp_path: Path) -> None:
    for suffix in ("mp4", "mkv", "avi"):
        got, clip = read(write(tmp_path / f"a.{suffix}", FRAMES[3:4]))
        assert [number_of(frame) for frame in got] == [3]
        assert (clip.fps, clip.lost, clip.truncated) == (25, 0, None)


def test_a_broadcast_with_a_hole(tmp_path: Path) -> None:
    """Two packets of 188 bytes did not arrive: what is left comes as from PyAV, and the rate stays."""
    noise = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8) for i in range(24)]
    data = write(tmp_path / "whole.ts", noise, b_frames=2).read_bytes()
    path = tmp_path / "hole.ts"
    path.write_bytes(data[: 188 * 200] + data[188 * 202 :])
    frames, clip = read(path)
    expected = decoded_by_pyav(path)
    assert len(frames) == len(expected)
    assert all((a == b).all() for a, b in zip(frames, expected, strict=True))
    assert clip.lost + clip.damaged > 0
    assert clip.truncated is None
    assert clip.fps == pytest.approx(25)
