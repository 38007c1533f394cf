"""What a model is fed: whole grey levels, one and four channels, letterboxes, values nobody can mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import videoeff
from tests.cli.conftest import REFERENCE, call, call_json, refused
from tests.support import tiny_models as tiny
from tests.support.clips import Frame, write
from videoeff.cli.shared.output import join_rows
from videoeff.video.preprocess import Preprocess
from videoeff.video.source import open_clip

SIZE = (32, 48)


class Net(nn.Module):
    """Two convolutions over what a picture holds, whatever its number format."""

    def __init__(self, channels: int = 3, divisor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2, H, W)."""
        x = x.to(torch.float32)
        x = x / self.divisor if self.divisor != 1.0 else x
        found: Tensor = self.b(torch.relu(self.a(x)))
        return found


def exported(folder: Path, channels: int, dtype: torch.dtype, divisor: float = 1.0) -> Path:
    """The net as a ``.pt2`` for one size."""
    path = folder / f"net{channels}.pt2"
    example = torch.zeros(1, channels, *SIZE, dtype=dtype)
    torch.export.save(torch.export.export(Net(channels, divisor).eval(), (example,)), path)
    return path


def moving(count: int = 5) -> list[Frame]:
    """A square over a still ramp of greys."""
    still = np.tile(np.linspace(20, 200, 96).astype(np.uint8), (64, 1))[..., None].repeat(3, 2)
    frames = []
    for index in range(count):
        frame = still.copy()
        frame[20:34, 10 + 8 * index : 24 + 8 * index] = (230, 60, 20)
        frames.append(frame)
    return frames


@pytest.fixture
def clip_of_squares(tmp_path: Path) -> Path:
    """A folder of pictures, so that nothing but the square changes."""
    folder = tmp_path / "squares"
    folder.mkdir()
    for index, frame in enumerate(moving()):
        Image.fromarray(frame).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_a_model_is_fed_what_it_takes(
    tmp_path: Path, clip_of_squares: Path, channels: int, dtype: torch.dtype
) -> None:
    whole = not dtype.is_floating_point
    source, out, kept = exported(tmp_path, channels, dtype), tmp_path / "a.veff", tmp_path / "x.npz"
    call_json("convert", source, "-o", out)
    recorded = Preprocess.from_json(videoeff.load(out).extra["preprocess"])
    assert (recorded.channels, recorded.dtype) == (channels, "uint8" if whole else "float32")
    assert recorded.scale == (1 if whole else 1 / 255)
    found = call_json("run", out, clip_of_squares, "--compare", "--outputs", kept)
    assert 0 < found["active_share"] < 1  # it was 0 where every frame became 0
    assert found["error"]["relative_l2"] < 1e-5
    model = Net(channels).eval()
    with torch.no_grad(), open_clip(clip_of_squares, alpha=channels == 4) as frames:
        expected = np.stack([model(recorded(frame).to(dtype)).numpy() for frame in frames])
    np.testing.assert_allclose(
        np.load(kept)["output_0"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )
    assert call_json("verify", out, clip_of_squares)["holds"]
    assert call_json("verify", out)["holds"]


def test_the_opacity_of_pictures_reaches_a_model_of_four_channels(tmp_path: Path) -> None:
    folder, out, kept = tmp_path / "frames", tmp_path / "a.veff", tmp_path / "x.npz"
    folder.mkdir()
    frames = []
    for index in range(3):
        frame = np.random.default_rng(index).integers(0, 256, (*SIZE, 4), dtype=np.uint8)
        Image.fromarray(frame).save(folder / f"{index}.png")
        frames.append(frame)
    call_json("convert", exported(tmp_path, 4, torch.uint8), "-o", out)
    call_json("run", out, folder, "--outputs", kept, "-o", tmp_path / "o.mp4")
    model = Net(4).eval()
    with torch.no_grad():
        expected = [model(torch.from_numpy(f).permute(2, 0, 1)[None]).numpy() for f in frames]
    np.testing.assert_allclose(np.load(kept)["output_0"], np.stack(expected), rtol=1e-4, atol=1e-2)
    assert len(list(open_clip(tmp_path / "o.mp4"))) == 3


def test_an_artifact_that_makes_every_frame_zero_is_refused(tmp_path: Path, clip_of_squares: Path) -> None:
    """Version 0.1.0 wrote such artifacts of models that take uint8."""
    stream = videoeff.convert(Net().eval(), torch.zeros(1, 3, *SIZE, dtype=torch.uint8))
    stream.extra["preprocess"] = Preprocess(SIZE).to_json()
    stream.save(tmp_path / "a.veff")
    for command in ("run", "verify"):
        words = refused(command, tmp_path / "a.veff", clip_of_squares)
        assert "takes whole numbers (uint8), and its preprocessing makes fractions" in words
        assert "convert it anew, without --scale" in words
    stream.extra["preprocess"] = Preprocess(SIZE, 1.0).to_json()  # whole grey levels in float32 are fine
    stream.save(tmp_path / "b.veff")
    assert call_json("run", tmp_path / "b.veff", clip_of_squares)["active_share"] > 0
    del stream.extra["preprocess"]
    stream.save(tmp_path / "c.veff")
    assert call_json("run", tmp_path / "c.veff", clip_of_squares)["active_share"] > 0


@pytest.mark.parametrize(
    ("scale", "mean"),
    [(1e-12, ("--mean", 0.5, 0.5, 0.5)), (1e-60, ())],
)
def test_frames_that_become_one_value_are_refused(
    checkpoint: Path, tmp_path: Path, clip_of_squares: Path, scale: float, mean: tuple[object, ...]
) -> None:
    out = tmp_path / "a.veff"
    options = ("--model", REFERENCE, "--input-size", *tiny.SIZE, "--scale", scale, *mean)
    found = call_json("convert", checkpoint, *options, "-o", out)
    assert any("networks are trained on spans of about 1 to 255" in note for note in found["notes"])
    for command in ("run", "verify"):
        words = refused(command, out, clip_of_squares)
        assert "every value of a frame becomes" in words
        assert "though the frame shows more than one grey level" in words


def test_a_clip_of_one_grey_level_is_fine(artifact: Path, tmp_path: Path) -> None:
    black = write(tmp_path / "black.mp4", [np.zeros((64, 96, 3), np.uint8)] * 3)
    assert call_json("run", artifact, black)["frames"] == 3


@pytest.mark.parametrize("fit", ["letterbox", "letterbox-top-left"])
def test_a_letterbox_is_fed_drawn_and_undone(
    checkpoint: Path, tmp_path: Path, clip_of_squares: Path, fit: str
) -> None:
    """The heat lies where the square moved in the frame, and a box of the input finds back to it."""
    out, overlay, code = tmp_path / "a.veff", tmp_path / "o.mp4", tmp_path / "draw.py"
    options = ("--model", REFERENCE, "--input-size", 96, 96, "--fit", fit, "--pad", 0)
    call_json("convert", checkpoint, *options, "-o", out)
    pre = Preprocess.from_json(videoeff.load(out).extra["preprocess"])
    assert (pre.fit, pre.pad, pre.size) == (fit, 0, (96, 96))
    code.write_text(
        "import numpy as np\n\ndef box(frame, outputs, preprocess):\n"
        "    there = preprocess.place(frame.shape[:2])\n"
        "    whole = np.array([there.left, there.top, there.left + there.width, there.top + there.height])\n"
        "    box = preprocess.boxes_on_frame(whole.astype(float), frame.shape[:2])\n"
        "    assert box.tolist() == [0, 0, 96, 64], box\n"
        "    frame[:6, :6] = (0, 0, 255)\n"
    )
    found = call_json("run", out, clip_of_squares, "--compare", "-o", overlay, "--draw", f"{code}:box")
    assert found["error"]["relative_l2"] < 1e-5
    drawn, before = list(open_clip(overlay)), list(open_clip(clip_of_squares))
    assert drawn[0].shape == (64, 96, 3)
    assert (drawn[2][1:5, 1:5, 2] > 200).all()
    heated = np.abs(drawn[3].astype(int) - before[3]).sum(2) > 110  # the input alone gives 55
    rows, columns = np.nonzero(heated[8:])
    assert abs(rows.mean() + 8 - 27) < 2  # the square's middle row
    assert abs(columns.mean() - 37) < 6  # between its places in the last two frames
    assert 250 < heated[8:].sum() < 700


def test_channels_are_read_off_the_first_convolution(tmp_path: Path, clip_of_squares: Path) -> None:
    source, out = tmp_path / "grey.pth", tmp_path / "a.veff"
    torch.save(Net(1).state_dict(), source)
    code = tmp_path / "grey.py"
    code.write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)\n\n"
        "    def forward(self, x):\n        return self.b(self.a(x.float()))\n\n\nbuild = Net\n"
    )
    options = ("--model", f"{code}:build", "--input-size", *SIZE)
    call_json("convert", source, *options, "--mean", 0.5, "--std", 0.25, "-o", out)
    pre = Preprocess.from_json(videoeff.load(out).extra["preprocess"])
    assert (pre.channels, pre.mean, pre.std) == (1, (0.5,), (0.25,))
    assert call_json("run", out, clip_of_squares)["active_share"] > 0
    call_json("convert", source, *options, "--uint8", "-o", out)
    assert videoeff.load(out).body.signature.frame_specs[0].dtype == torch.uint8
    assert call_json("run", out, clip_of_squares)["active_share"] > 0


def test_options_that_an_export_contradicts(tmp_path: Path) -> None:
    source, out = exported(tmp_path, 3, torch.float32), tmp_path / "a.veff"
    assert "--channels 1: the exported program takes 3" in refused(
        "convert", source, "-o", out, "--channels", 1
    )
    assert "--uint8: the exported program takes fractions" in refused("convert", source, "-o", out, "--uint8")
    assert "three finite numbers" in refused("convert", source, "-o", out, "--mean", 0.5)
    assert "three finite numbers" in refused("convert", source, "-o", out, "--std", 1, 2)
    whole = exported(tmp_path, 1, torch.uint8)
    assert "give scale=1" in refused("convert", whole, "-o", out, "--scale", 0.5)
    assert "give scale=1" in refused("convert", whole, "-o", out, "--mean", 0.5)
    assert "no order of colours" in refused("convert", whole, "-o", out, "--bgr")
    assert not out.exists()


def test_sizes_that_an_export_does_not_take(tmp_path: Path) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            """(B, 3, H, W) down and up by 8."""
            found: Tensor = self.a(
                nn.functional.interpolate(nn.functional.max_pool2d(x, 8), scale_factor=8.0) + x
            )
            return found

    steps = {2: 8 * torch.export.Dim("h", min=2, max=64), 3: 8 * torch.export.Dim("w", min=2, max=64)}
    program = torch.export.export(Halves(), (torch.zeros(1, 3, 32, 48),), dynamic_shapes={"x": steps})
    torch.export.save(program, tmp_path / "steps.pt2")
    words = refused("convert", tmp_path / "steps.pt2", "-o", tmp_path / "a.veff", "--input-size", 36, 50)
    assert "heights in steps of 8 and widths in steps of 8, not for 36x50" in words
    assert "--input-size 32 48 or 40 56" in words
    call_json("convert", tmp_path / "steps.pt2", "-o", tmp_path / "a.veff", "--input-size", 40, 56)


def test_a_size_that_a_model_cannot_halve_is_named(tmp_path: Path) -> None:
    code, source = tmp_path / "fpn.py", tmp_path / "fpn.pth"
    code.write_text(
        "import torch\nfrom torch import nn\n\nclass Fpn(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.a = nn.Conv2d(3, 4, 3, 2, 1)\n\n    def forward(self, x):\n"
        "        up = nn.functional.interpolate(self.a(x), scale_factor=2.0)\n"
        "        return torch.cat([x, up], 1)\n\n\nbuild = Fpn\n"
    )
    torch.save({"a.weight": torch.zeros(4, 3, 3, 3), "a.bias": torch.zeros(4)}, source)
    options = ("--model", f"{code}:build", "--dry-run", "--input-size")
    words = refused("convert", source, *options, 33, 50)
    assert "33x50 is no multiple of 32" in words
    assert "try --input-size 32 64" in words
    call_json("convert", source, *options, 32, 64)


@pytest.mark.parametrize(
    ("divisor", "options", "named"),
    [
        (255.0, (), True),
        (255.0, ("--scale", 1), False),
        (1.0, (), False),
        (2.0, (), False),
    ],
)
def test_a_scale_applied_twice_is_named(
    tmp_path: Path, divisor: float, options: tuple[object, ...], named: bool
) -> None:
    source = exported(tmp_path, 3, torch.float32, divisor)
    notes = call_json("convert", source, "--dry-run", *options)["notes"]
    assert any("the model divides its input by 255 itself" in note for note in notes) == named


def test_means_in_grey_levels_are_named(tmp_path: Path) -> None:
    source = exported(tmp_path, 3, torch.float32)
    result = call("convert", source, "--dry-run", "--mean", 123.7, 116.3, 103.5)
    assert result.exit_code == 0
    assert "lies outside the scaled grey levels" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        (["a.pt2", "--mean", "1", "2", "3", "-o", "x"], ["a.pt2", "--mean", "1,2,3", "-o", "x"]),
        (["--std", "-1", "1e-3", "clip.mp4"], ["--std", "-1,1e-3", "clip.mp4"]),
        (["--mean", "1", "2", "3", "4", "5"], ["--mean", "1,2,3,4", "5"]),
        (["--mean"], ["--mean"]),
        (["--mean=1,2,3", "--scale", "1"], ["--mean=1,2,3", "--scale", "1"]),
        (["--", "--mean", "1", "2"], ["--", "--mean", "1", "2"]),
    ],
)
def test_rows_of_numbers_are_one_word(words: list[str], joined: list[str]) -> None:
    assert join_rows(words, ("--mean", "--std")) == joined


def test_rows_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    for row in (("--mean", "x"), ("--mean=1,x,2",), ("--mean",)):
        result = call("convert", "x.pt2", "-o", tmp_path / "a.veff", *row)
        assert result.exit_code == 2
        assert "--mean" in result.stderr


def test_artifacts_whose_record_and_channels_disagree_are_refused(
    tmp_path: Path, clip_of_squares: Path
) -> None:
    stream = videoeff.convert(Net(1).eval(), torch.zeros(1, 1, *SIZE))
    stream.extra["preprocess"] = Preprocess(SIZE).to_json()
    stream.save(tmp_path / "a.veff")
    words = refused("run", tmp_path / "a.veff", clip_of_squares)
    assert "takes 1 channels, and its preprocessing makes 3; convert it anew with --channels 1" in words
    pairs = videoeff.convert(Net(2).eval(), torch.zeros(1, 2, *SIZE))
    pairs.save(tmp_path / "b.veff")
    assert "this command feeds pictures of 1, 3 or 4 channels" in refused(
        "run", tmp_path / "b.veff", clip_of_squares
    )
