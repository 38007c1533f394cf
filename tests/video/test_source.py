"""Clips in and out, preprocessing and overlays: round trips, damage, and every error a user can meet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from videoeff.errors import ArtifactError, VideoError
from videoeff.video.overlay import caption, colour_table, legend, overlay_heat
from videoeff.video.source import ClipWriter, Preprocess, check_writable, open_clip

SIZE = (48, 64)


def picture(index: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A smooth picture that moves with `index`, so that compression keeps it close."""
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [np.sin((x + 4 * index) / 19), np.cos((y - 3 * index) / 17), np.sin((x + y + 5 * index) / 27)]
    return (127 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)


def noisy(index: int) -> NDArray[np.uint8]:
    """A picture that compresses badly, so that a cut file is cut inside a frame."""
    return np.random.default_rng(index).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def write(path: Path, frames: list[NDArray[np.uint8]], fps: float = 25.0) -> Path:
    with ClipWriter(path, fps, frames[0].shape[:2]) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def images(folder: Path, count: int = 12, suffix: str = "png") -> Path:
    folder.mkdir()
    for index in range(count):
        Image.fromarray(picture(index)).save(folder / f"img{index}.{suffix}")
    return folder


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi"])
def test_a_written_clip_reads_back(tmp_path: Path, suffix: str) -> None:
    frames = [picture(index) for index in range(20)]
    path = write(tmp_path / f"clip{suffix}", frames, fps=29.97)
    with open_clip(path) as clip:
        got = list(clip)
        assert clip.truncated is None
        assert clip.size == SIZE
        assert clip.fps == pytest.approx(29.97, rel=1e-3)
        assert clip.frame_count == (None if suffix == ".mkv" else 20)
        assert clip.source == str(path)
        assert clip.decoder.startswith("pyav ")
        assert clip.decoder.endswith(" / h264")
    assert len(got) == 20
    for frame, original in zip(got, frames, strict=True):
        assert frame.dtype == np.uint8
        assert frame.shape == (*SIZE, 3)
        # Chroma at half resolution costs about 2; another frame is 11 away, red and blue swapped 19.
        assert np.abs(frame.astype(int) - original).mean() < 4


def test_a_file_can_be_read_twice_and_in_part(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", [picture(index) for index in range(10)])
    with open_clip(path) as clip:
        whole = list(clip)
        assert np.array_equal(np.stack(list(clip)), np.stack(whole))
    with open_clip(path, frames=4) as clip:
        assert clip.frame_count == 4
        assert np.array_equal(np.stack(list(clip)), np.stack(whole[:4]))
        assert clip.truncated is None
    with open_clip(path, frames=100) as clip:
        assert clip.frame_count == 10
        assert len(list(clip)) == 10
        assert clip.truncated is None


def test_odd_sizes_are_padded_to_even(tmp_path: Path) -> None:
    frame = picture(0, (45, 63))
    with open_clip(write(tmp_path / "odd.mp4", [frame] * 3)) as clip:
        assert clip.size == (46, 64)
        got = next(iter(clip))
    assert np.abs(got[:45, :63].astype(int) - frame).mean() < 4
    assert np.abs(got[45, :63].astype(int) - frame[44]).mean() < 12


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_truncated_file_keeps_its_frames_and_says_so(tmp_path: Path, suffix: str, share: float) -> None:
    path = write(tmp_path / f"clip{suffix}", [noisy(index) for index in range(30)])
    with open_clip(path) as clip:
        whole = list(clip)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with open_clip(path) as clip:
        assert clip.truncated is None
        got = list(clip)
        assert 1 <= len(got) < 30
        assert clip.truncated == f"the data ends inside a frame, after {len(got)} whole ones"
    for index, frame in enumerate(got):
        assert np.array_equal(frame, whole[index])  # nothing made up by concealment


def test_a_file_cut_between_two_frames_is_noticed(tmp_path: Path) -> None:
    import av

    path = write(tmp_path / "clip.mp4", [noisy(index) for index in range(30)])
    with av.open(str(path)) as container:
        starts = sorted(packet.pos for packet in container.demux(video=0) if packet.pos is not None)
    path.write_bytes(path.read_bytes()[: starts[15]])
    with open_clip(path) as clip:
        assert len(list(clip)) == 15
        assert clip.truncated is not None


def test_a_limit_before_the_cut_is_not_truncation(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", [noisy(index) for index in range(30)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_clip(path, frames=3) as clip:
        assert len(list(clip)) == 3
        assert clip.truncated is None


def test_a_file_without_a_decodable_frame_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", [noisy(index) for index in range(10)])
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 40])
    with pytest.raises(VideoError, match=r"clip\.mp4: no frame could be decoded"):
        open_clip(path)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"nothing\.mp4: no such file"):
        open_clip(tmp_path / "nothing.mp4")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    with pytest.raises(VideoError, match=r"empty\.mp4: the file is empty"):
        open_clip(str(empty))
    for name, data in {"junk.mp4": bytes(range(256)) * 40, "notes.txt": b"not a video\n" * 50}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(VideoError, match=rf"{name}: (not a video|no video stream)"):
            open_clip(tmp_path / name)


def test_sound_alone_has_no_video_stream(tmp_path: Path) -> None:
    import wave

    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    with pytest.raises(VideoError, match=r"sound\.wav: no video stream in it \(it holds: audio\)"):
        open_clip(path)


@pytest.mark.parametrize("source", [97, "97", -3])
def test_a_missing_camera_is_an_error(source: int | str) -> None:
    with pytest.raises(VideoError, match=rf"camera {source}: "):
        open_clip(source)


def test_no_frames_asked_for_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="frames=0"):
        open_clip(tmp_path, frames=0)


# ---------------------------------------------------------------- folders of images


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg"])
def test_a_folder_is_read_in_natural_order(tmp_path: Path, suffix: str) -> None:
    folder = images(tmp_path / "frames", 12, suffix)
    (folder / "notes.txt").write_text("not an image")
    with open_clip(folder) as clip:
        assert clip.size == SIZE
        assert clip.frame_count == 12
        assert clip.decoder.startswith("pillow ")
        got = list(clip)
        assert clip.truncated is None
        assert len(list(clip)) == 12
    for index, frame in enumerate(got):
        difference = np.abs(frame.astype(int) - picture(index))
        assert difference.max() == 0 if suffix != "jpg" else difference.mean() < 6
    with open_clip(folder, frames=3) as clip:
        assert clip.frame_count == 3
        assert len(list(clip)) == 3


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="empty: no images in this folder"):
        open_clip(tmp_path / "empty")
    folder = images(tmp_path / "mixed", 3)
    Image.fromarray(picture(0, (20, 30))).save(folder / "img7.png")
    with pytest.raises(VideoError, match=r"img7\.png: 30x20, but img0\.png is 64x48"):
        open_clip(folder)
    broken = images(tmp_path / "broken", 1)
    (broken / "img0.png").write_bytes(b"no image")
    with pytest.raises(VideoError, match=r"img0\.png: not a readable image"):
        open_clip(broken)
    deep = tmp_path / "deep"
    deep.mkdir()
    Image.fromarray(np.full(SIZE, 40000, np.uint16)).save(deep / "a.png")
    with pytest.raises(VideoError, match=r"a\.png: more than 8 bits"):
        open_clip(deep)


def test_a_damaged_image_half_way_ends_the_clip(tmp_path: Path) -> None:
    folder = images(tmp_path / "frames", 6)
    data = (folder / "img4.png").read_bytes()
    (folder / "img4.png").write_bytes(data[: len(data) // 2])
    with open_clip(folder) as clip:
        assert len(list(clip)) == 4
        assert clip.truncated is not None
        assert "img4.png" in clip.truncated


# ---------------------------------------------------------------- writing


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"older")
    with pytest.raises(VideoError, match="frame 1 is"):
        write(path, [picture(0), picture(0, (20, 30))])
    with pytest.raises(VideoError, match="no frame was written"), ClipWriter(path, 25, SIZE):
        pass
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


def test_the_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with ClipWriter(path, 25, SIZE) as writer:
        writer.write(picture(0))
        assert not path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


def test_wrong_frames_and_arguments_are_refused(tmp_path: Path) -> None:
    with ClipWriter(tmp_path / "clip.mp4", 25, SIZE) as writer:
        writer.write(picture(0))
        with pytest.raises(VideoError, match=r"frame 1 is uint8 \(20, 30, 3\); expected uint8 \(48, 64, 3\)"):
            writer.write(picture(0, (20, 30)))
        with pytest.raises(VideoError, match="float32"):
            writer.write(picture(0).astype(np.float32))
    with pytest.raises(VideoError, match="not open"):
        writer.write(picture(0))
    with pytest.raises(VideoError, match="unknown kind of video"):
        ClipWriter(tmp_path / "clip.gif", 25, SIZE)
    with pytest.raises(VideoError, match="positive rate"):
        ClipWriter(tmp_path / "clip.mp4", 0, SIZE)
    with pytest.raises(VideoError, match="0x48 pixels"):
        ClipWriter(tmp_path / "clip.mp4", 25, (48, 0))


def test_unwritable_targets_are_found_at_once(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="does not exist"):
        ClipWriter(tmp_path / "nowhere" / "clip.mp4", 25, SIZE)
    with pytest.raises(ArtifactError, match="this is a folder"):
        check_writable(tmp_path, ArtifactError)
    if Path("/proc").is_dir():  # a folder in which even root cannot make a file
        with pytest.raises(VideoError, match="cannot write here"):
            check_writable("/proc/clip.mp4")
    assert check_writable(str(tmp_path / "fine.json"), ArtifactError) == tmp_path / "fine.json"
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- preprocessing


def test_preprocess_scales_normalises_and_swaps() -> None:
    frame = picture(3)
    plain = Preprocess()(frame)
    assert plain.shape == (1, 3, *SIZE)
    assert plain.dtype == torch.float32
    assert plain.is_contiguous()
    expected = torch.from_numpy(frame.transpose(2, 0, 1)[None].astype(np.float32)) / 255
    torch.testing.assert_close(plain, expected)
    torch.testing.assert_close(Preprocess(bgr=True)(frame), expected.flip(1))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    by_hand = (expected - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(Preprocess(mean=mean, std=std)(frame), by_hand)
    by_hand = (expected.flip(1) - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(Preprocess(bgr=True, mean=mean, std=std)(frame), by_hand)


def test_preprocess_resizes_unless_the_size_matches() -> None:
    frame = noisy(0)
    assert torch.equal(Preprocess(size=SIZE)(frame), Preprocess()(frame))
    small = Preprocess(size=(24, 32), scale=1.0)(frame)
    assert small.shape == (1, 3, 24, 32)
    # Antialiasing averages: halving noise of deviation 74 leaves well under its half.
    assert small.std() < 45
    assert small.mean() == pytest.approx(frame.mean(), abs=2)
    flat = Preprocess(size=(31, 17), scale=1.0)(np.full((*SIZE, 3), 90, np.uint8))
    torch.testing.assert_close(flat, torch.full((1, 3, 31, 17), 90.0))


def test_preprocess_refuses_what_is_no_frame() -> None:
    with pytest.raises(VideoError, match="expected uint8"):
        Preprocess()(picture(0).astype(np.float32))
    with pytest.raises(VideoError, match=r"\(48, 64\)"):
        Preprocess()(picture(0)[..., 0])


def test_preprocess_survives_json() -> None:
    pre = Preprocess((352, 480), 1 / 127, (0.1, 0.2, 0.3), (0.5, 0.5, 0.6), True, decoder="pyav 1 / h264")
    text = json.dumps(pre.to_json())
    assert Preprocess.from_json(text) == pre
    assert Preprocess.from_json(json.loads(text)) == pre
    assert Preprocess.from_json(Preprocess().to_json()) == Preprocess()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 2.2}, "unknown gamma"),
        ({"mean": ...}, "missing mean"),
        ({"size": [10]}, r"size=\(10,\)"),
        ({"size": [10.5, 3]}, "size="),
        ({"scale": "1"}, "scale="),
        ({"scale": float("nan")}, "scale="),
        ({"mean": [1, 2]}, "mean="),
        ({"std": [1, 1, 0]}, "std="),
        ({"bgr": 1}, "bgr="),
        ({"resize": "magic"}, "resize='magic'"),
        ({"resize": []}, "resize="),
        ({"decoder": None}, "decoder="),
    ],
)
def test_preprocess_json_names_what_is_wrong(change: dict[str, object], message: str) -> None:
    data = {**Preprocess().to_json(), **change}
    data = {key: value for key, value in data.items() if value is not ...}
    with pytest.raises(ArtifactError, match=message):
        Preprocess.from_json(data)


@pytest.mark.parametrize("data", ["[1]", "{", "3"])
def test_preprocess_json_must_be_an_object(data: str) -> None:
    with pytest.raises(ArtifactError, match="preprocessing: "):
        Preprocess.from_json(data)


# ---------------------------------------------------------------- overlays


def test_heat_covers_what_computed_and_leaves_the_rest_as_it_is() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    before = frame.copy()
    heat = np.zeros((4, 6), np.float32)
    heat[1, 2], heat[2, 4], heat[3, 5] = 1.0, 0.2, np.nan
    drawn = overlay_heat(frame, heat, opacity=0.5)
    assert drawn.shape == frame.shape
    assert drawn.dtype == np.uint8
    hot = np.zeros((40, 60), bool)
    hot[10:20, 20:30] = hot[20:30, 40:50] = True
    assert (drawn[~hot] == frame[~hot]).all()
    full = frame[10:20, 20:30] / 2 + colour_table()[255] / 2
    assert np.abs(drawn[10:20, 20:30] - full).max() <= 0.5
    share = 0.5 * 0.2**0.8
    little = frame[20:30, 40:50] * (1 - share) + colour_table()[51] * share
    assert np.abs(drawn[20:30, 40:50] - little).max() <= 0.5 + 1e-3
    assert (frame == before).all()
    assert overlay_heat(frame, np.ones((7, 11))).shape == frame.shape  # no whole factor


def test_more_heat_is_lighter_and_more_opaque() -> None:
    lightness = colour_table() @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) >= 0).all()
    assert lightness[-1] - lightness[0] > 150
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    white = overlay_heat(np.full((1, 256, 3), 255, np.uint8), ramp).astype(int)
    black = overlay_heat(np.zeros((1, 256, 3), np.uint8), ramp).astype(int)
    seen_through = (white - black)[0, :, 0]  # the frame's share of what is seen
    assert (np.diff(seen_through) <= 1).all()  # whole grey levels
    assert seen_through[0] == 255
    assert seen_through[-1] == pytest.approx(255 * 0.35, abs=1)


def test_a_legend_is_a_bar_of_the_heat_colours_between_words() -> None:
    frame = np.full((240, 320, 3), 90, np.uint8)
    drawn = legend(frame, "of the layers")
    changed = (drawn != frame).any(axis=(1, 2))
    height = int(changed.sum())
    assert 10 < height < 40
    assert changed[-height:].all()
    row = drawn[240 - height // 2].astype(int)
    yellow = np.abs(row - colour_table()[255]).sum(1) < 30
    assert yellow.any()  # the bar's hot end
    assert (row[yellow.argmax() :] > 230).all(axis=1).any()  # white letters behind it
    assert (frame == 90).all()
    assert (legend(frame[:60], "no room") == frame[:60]).all()
    longer = legend(frame, "of the layers, in many more words than there is room for at this size")
    assert longer.shape == frame.shape


def test_overlays_refuse_other_shapes() -> None:
    frame = picture(0)
    with pytest.raises(VideoError, match="heat map"):
        overlay_heat(frame, np.zeros((1, 4, 4)))
    with pytest.raises(VideoError, match="expected uint8"):
        overlay_heat(frame[..., 0], np.zeros((4, 4)))
    with pytest.raises(VideoError, match="expected uint8"):
        caption(frame.astype(np.float32), "x")
    with pytest.raises(VideoError, match="expected uint8"):
        legend(frame[..., 0], "x")


def test_a_caption_is_white_on_a_dark_strip() -> None:
    frame = np.full((120, 200, 3), 180, np.uint8)
    drawn = caption(frame, "37 % active")
    changed = (drawn != frame).any(axis=(1, 2))
    height = int(changed.sum())
    assert 10 < height < 40
    assert changed[:height].all()
    assert (drawn[:height] == 63).all(axis=2).mean() > 0.5
    assert (drawn[:height] > 200).all(axis=2).sum() > 40
    assert (frame == 180).all()
    two = caption(frame, "37 % active\nand more")
    assert (two != frame).any(axis=(1, 2)).sum() > 1.5 * height


# ---------------------------------------------------------------- the module


def test_importing_is_light() -> None:
    code = (
        "import sys, videoeff.video.source, videoeff.video.overlay; "
        "print([name for name in ('torch', 'av', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "size", "fps", "count"),
    [("campus", (360, 480), 10.0, 795), ("plaza", (720, 1280), 25.0, 341)],
)
def test_real_clips(shared_data: Path, name: str, size: tuple[int, int], fps: float, count: int) -> None:
    """The header of plaza counts fields, 682 at 50 per second; its time stamps say 341 frames at 25."""
    with open_clip(shared_data / f"{name}.avi") as clip:
        assert (clip.size, clip.fps, clip.frame_count) == (size, fps, count)
        assert sum(1 for _ in clip) == count
        assert clip.truncated is None
