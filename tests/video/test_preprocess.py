"""Letterboxes and the way back, models of one and four channels, whole grey levels, and doubtful values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.clips import Frame
from videoeff.errors import ArtifactError, VideoError
from videoeff.video.fit import FITS, Place, place
from videoeff.video.preprocess import RESIZES, Preprocess

#: What version 0.1.0 wrote.
OLD = {
    "size": [64, 96], "scale": 1 / 255, "mean": None, "std": None, "bgr": True,
    "resize": "torch-bilinear-antialias", "decoder": "pyav 18.1.0",
}  # fmt: skip


def noise(size: tuple[int, int], channels: int = 3) -> Frame:
    return np.random.default_rng(0).integers(0, 256, (*size, channels), dtype=np.uint8)


# ---------------------------------------------------------------- letterbox


@pytest.mark.parametrize(
    ("frame", "size", "fit", "expected"),
    [
        ((480, 640), (640, 640), "letterbox", Place(80, 0, 480, 640)),
        ((480, 640), (640, 640), "letterbox-top-left", Place(0, 0, 480, 640)),
        ((640, 480), (640, 640), "letterbox", Place(0, 80, 640, 480)),
        ((720, 1280), (416, 416), "letterbox-top-left", Place(0, 0, 234, 416)),
        ((720, 1280), (416, 416), "letterbox", Place(91, 0, 234, 416)),
        ((11, 20), (32, 32), "letterbox", Place(7, 0, 18, 32)),
        ((10, 10), (640, 640), "letterbox", Place(0, 0, 640, 640)),
        ((1, 5000), (32, 32), "letterbox", Place(15, 0, 1, 32)),
        ((480, 640), (640, 640), "stretch", Place(0, 0, 640, 640)),
        ((480, 640), None, "letterbox", Place(0, 0, 480, 640)),
    ],
)
def test_where_a_frame_lies(
    frame: tuple[int, int], size: tuple[int, int] | None, fit: str, expected: Place
) -> None:
    assert place(frame, size, fit) == expected
    assert Preprocess(size, fit=fit).place(frame) == expected


@pytest.mark.parametrize("fit", ["letterbox", "letterbox-top-left"])
@pytest.mark.parametrize("shape", [(40, 80), (80, 40), (64, 64), (31, 77)])
def test_a_letterbox_is_the_resized_frame_in_grey(fit: str, shape: tuple[int, int]) -> None:
    frame = noise(shape)
    pre = Preprocess((64, 64), 1.0, fit=fit)
    x, there = pre(frame), pre.place(shape)
    assert x.shape == (1, 3, 64, 64)
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[there.top : there.top + there.height, there.left : there.left + there.width] = True
    alone = Preprocess((there.height, there.width), 1.0)(frame)
    torch.testing.assert_close(x[0, :, inside], alone.flatten(2)[0], rtol=0, atol=0)
    assert (x[0, :, ~inside] == 114).all()
    # Scale, mean and std are of the padding too; its level is another if asked for.
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    y = Preprocess((64, 64), mean=mean, std=std, fit=fit, pad=255)(frame)
    for channel in range(3):
        expected = torch.full((64, 64), (1 - mean[channel]) / std[channel])
        torch.testing.assert_close(y[0, channel][~inside], expected[~inside])


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(40, 80), (480, 640), (37, 21)])
def test_boxes_find_back_to_the_frame(fit: str, shape: tuple[int, int]) -> None:
    """A white rectangle is found in the input by its pixels, and lies where it was drawn."""
    height, width = shape
    top, left, bottom, right = height // 5, width // 4, height // 2, width - width // 3
    frame = np.zeros((*shape, 3), np.uint8)
    frame[top:bottom, left:right] = 255
    pre = Preprocess((640, 640), fit=fit, pad=0)
    rows, columns = (pre(frame)[0, 0] > 0.5).nonzero(as_tuple=True)
    found = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
    box = torch.tensor([[found]])
    back = pre.boxes_on_frame(box, shape)
    assert back.shape == (1, 1, 4)
    off = max(height / pre.place(shape).height, width / pre.place(shape).width) + 0.01
    torch.testing.assert_close(back[0, 0], torch.tensor([left, top, right, bottom]).float(), rtol=0, atol=off)
    also = pre.boxes_on_frame(np.array(found, np.float64), shape)
    assert isinstance(also, np.ndarray)
    assert also.dtype == np.float64
    np.testing.assert_allclose(also, back[0, 0].numpy(), rtol=1e-6)


def test_boxes_end_at_the_frame() -> None:
    pre = Preprocess((640, 640), fit="letterbox")
    wide = pre.boxes_on_frame(torch.tensor([-50.0, 0.0, 700.0, 640.0]), (480, 640))
    assert wide.tolist() == [0, 0, 640, 480]
    with pytest.raises(VideoError, match=r"expected \(\.\.\., 4\)"):
        pre.boxes_on_frame(torch.zeros(4, 5), (480, 640))


# ---------------------------------------------------------------- resizing in whole grey levels


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("bgr", [False, True])
def test_a_resize_in_whole_grey_levels_is_the_other_one_rounded(fit: str, bgr: bool) -> None:
    frame = noise((90, 150))
    exact, rounded = (Preprocess((64, 96), 1.0, bgr=bgr, fit=fit, resize=resize)(frame) for resize in RESIZES)
    assert rounded.dtype == torch.float32
    assert rounded.is_contiguous()
    assert torch.equal(rounded, rounded.round())
    assert float((rounded - exact).abs().max()) <= 1.01  # rounded after the rows, and after the columns
    assert abs(float((rounded - exact).mean())) < 0.05


def test_no_resize_makes_no_difference() -> None:
    frame = noise((40, 60))
    one, other = (Preprocess((40, 60), bgr=True, mean=(0.1, 0.2, 0.3), resize=r)(frame) for r in RESIZES)
    assert torch.equal(one, other)


# ---------------------------------------------------------------- channels and whole grey levels


def test_one_channel_is_the_grey_of_pillow() -> None:
    frame = noise((40, 60))
    grey = torch.from_numpy(np.array(Image.fromarray(frame).convert("L"))).float()
    x = Preprocess(scale=1.0, channels=1)(frame)
    assert x.shape == (1, 1, 40, 60)
    assert torch.equal(x[0, 0], grey)
    y = Preprocess(mean=(0.5,), std=(0.25,), channels=1)(frame)
    torch.testing.assert_close(y[0, 0], (grey / 255 - 0.5) / 0.25)


def test_four_channels_are_colours_and_opacity() -> None:
    frame = noise((40, 60), 4)
    expected = torch.from_numpy(frame).permute(2, 0, 1).float()
    assert torch.equal(Preprocess(scale=1.0, channels=4)(frame)[0], expected)
    swapped = Preprocess(scale=1.0, channels=4, bgr=True)(frame)[0]
    assert torch.equal(swapped, expected[[2, 1, 0, 3]])
    opaque = Preprocess(scale=1.0, channels=4)(frame[..., :3])[0]
    assert torch.equal(opaque[:3], expected[:3])
    assert (opaque[3] == 255).all()
    boxed = Preprocess((60, 60), 1.0, channels=4, fit="letterbox", pad=7)(frame)[0]
    assert (boxed[:3, :10] == 7).all()
    assert (boxed[3, :10] == 255).all()
    for channels in (1, 3):  # the opacity is of no interest to others
        both = (Preprocess(channels=channels)(f) for f in (frame, np.ascontiguousarray(frame[..., :3])))
        assert torch.equal(*both)


def test_whole_grey_levels_stay_as_they_are() -> None:
    frame = noise((40, 60))
    x = Preprocess(scale=1.0, dtype="uint8")(frame)
    assert x.dtype == torch.uint8
    assert torch.equal(x[0], torch.from_numpy(frame).permute(2, 0, 1))
    small = Preprocess((20, 30), 1.0, dtype="uint8")(frame)
    exact = Preprocess((20, 30), 1.0)(frame)
    assert float((small.float() - exact).abs().max()) <= 0.5
    white = Preprocess((64, 64), 1.0, dtype="uint8", fit="letterbox")(np.full((32, 64, 3), 255, np.uint8))
    assert sorted(set(white.flatten().tolist())) == [114, 255]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 2}, "channels=2; expected 1, 3 or 4"),
        ({"channels": True}, "channels=True"),
        ({"channels": 1, "mean": (0.1, 0.2, 0.3)}, "expected one finite number"),
        ({"channels": 4, "std": (0.1, 0.2, 0.3)}, "expected four finite numbers"),
        ({"mean": (0.5,)}, "expected three finite numbers"),
        ({"channels": 1, "bgr": True}, "no order of colours"),
        ({"fit": "crop"}, "fit='crop' is not known here; known: stretch, letterbox, letterbox-top-left"),
        ({"pad": 256}, "pad=256; expected a whole grey level"),
        ({"pad": 0.5}, "pad=0.5"),
        ({"dtype": "int8"}, "dtype='int8' is not known"),
        ({"dtype": "uint8"}, "give scale=1 and neither mean nor std"),
        ({"dtype": "uint8", "scale": 1.0, "std": (1.0, 1.0, 1.0)}, "neither mean nor std"),
        ({"scale": 0.0}, "other than 0"),
    ],
)
def test_values_that_cannot_be_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ArtifactError, match=message.replace("(", r"\(")):
        Preprocess(**fields)  # type: ignore[arg-type]  # wrong on purpose


def test_frames_of_no_pixels_are_refused() -> None:
    with pytest.raises(VideoError, match="expected uint8"):
        Preprocess((8, 8))(np.zeros((0, 4, 3), np.uint8))


# ---------------------------------------------------------------- records and doubts


def test_a_record_of_version_0_1_0_means_what_it_meant() -> None:
    pre = Preprocess.from_json(OLD)
    assert pre == Preprocess((64, 96), bgr=True, decoder="pyav 18.1.0")
    assert (pre.fit, pre.channels, pre.dtype) == ("stretch", 3, "float32")


def test_new_fields_survive_json() -> None:
    pre = Preprocess((64, 96), 1.0, channels=1, dtype="uint8", fit="letterbox", pad=0)
    assert Preprocess.from_json(pre.to_json()) == pre


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        (Preprocess(mean=(123.7, 116.3, 103.5)), "lies outside the scaled grey levels, 0 to 1"),
        (Preprocess(mean=(0.5, 0.5, 0.5), std=(58.4, 57.1, 57.4)), "span 0.01712"),
        (Preprocess(scale=1.0, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)), "span 1275"),
        (Preprocess(scale=1 / 255**2), "span 0.003922"),
    ],
)
def test_likely_mistakes_are_named(pre: Preprocess, words: str) -> None:
    assert words in " ".join(pre.doubts())


@pytest.mark.parametrize(
    "pre",
    [
        Preprocess(),
        Preprocess(scale=1.0),
        Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        Preprocess(scale=1.0, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4), bgr=True),
        Preprocess(scale=1.0, mean=(103.9, 116.8, 123.7)),
        Preprocess(scale=1 / 127.5, mean=(1.0, 1.0, 1.0)),
        Preprocess(scale=1.0, mean=(127.5, 127.5, 127.5), std=(128.0, 128.0, 128.0)),
        Preprocess(channels=1, mean=(0.1307,), std=(0.3081,)),
        Preprocess(scale=1.0, dtype="uint8"),
    ],
)
def test_usual_ways_raise_no_doubt(pre: Preprocess) -> None:
    assert pre.doubts() == ()
