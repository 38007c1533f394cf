"""Models in which the values of a frame decide about sizes: they stream in parts, and give what they gave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, nms, roi_align

import videoeff
from tests.support.bodies import Body
from tests.support.calls import dense
from tests.support.small_nets import SIZE, clip
from videoeff.errors import ArtifactError, CaptureError
from videoeff.serialize.operators import import_operators
from videoeff.testing import relative_error

# torchvision's own rule for the size of what nms gives
pytestmark = pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated:FutureWarning")

Form = Callable[[Any, Tensor], Any]


def boxes(s: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Forty boxes (40, 4) and their scores (40,), made of two convolutions."""
    flat = s.d(torch.relu(s.c(x))).flatten(2)[0].T[:80].reshape(40, 6)
    return torch.cat([flat[:, :2], flat[:, :2] + flat[:, 2:4].abs() + 0.5], 1), flat[:, 4]


def suppressed(s: Any, x: Tensor) -> Any:
    corners, scores = boxes(s, x)
    kept = nms(corners, scores, 0.3)
    return corners[kept], scores[kept]


def suppressed_among_many(s: Any, x: Tensor) -> Any:
    flat = s.d(s.c(x)).flatten()[:400].reshape(80, 5)
    corners = torch.cat([flat[:, :2], flat[:, :2] + flat[:, 2:4].abs()], 1)
    return corners[nms(corners, flat[:, 4], 0.5)]


def suppressed_by_class(s: Any, x: Tensor) -> Any:
    corners, scores = boxes(s, x)
    return corners[batched_nms(corners, scores, (scores > 0).long(), 0.3)]


def above(s: Any, x: Tensor) -> Any:
    y = s.d(s.c(x))
    return y[y > 0]


def places(s: Any, x: Tensor) -> Any:
    return torch.nonzero(s.d(s.c(x)).abs() > 0.2)


def where(s: Any, x: Tensor) -> Any:
    return torch.where(s.d(s.c(x)).abs() > 0.2)


def crop(s: Any, x: Tensor) -> Any:
    y = s.c(x)
    rows = int(y.abs().mean() * 20) % 10 + 4
    return s.d(y)[:, :, :rows]


def selected_mean(s: Any, x: Tensor) -> Any:
    y = s.c(x)
    return s.d(y * y.masked_select(y > 0).mean())


def unique(s: Any, x: Tensor) -> Any:
    return torch.unique((s.d(s.c(x)) > 0).int())


def repeated(s: Any, x: Tensor) -> Any:
    y = s.d(s.c(x))
    return y[0, 0].repeat_interleave((y[0, 0, :, 0] > 0).long(), dim=0)


def best(s: Any, x: Tensor) -> Any:
    y = s.d(s.c(x)).flatten()
    return y.topk(int((y > 0).sum())).values


def regions(s: Any, x: Tensor) -> Any:
    corners, scores = boxes(s, x)
    return roi_align(s.c(x), [corners[nms(corners, scores, 0.3)]], (2, 2))


def looped(s: Any, x: Tensor) -> Any:
    y = s.d(s.c(x))[0, 0, 0]
    return [v * 2 for v in y[y.abs() > 0.01]]


def branch(s: Any, x: Tensor) -> Any:
    y = s.c(x)
    return s.d(y) if y.mean() > 0 else -s.d(y)


FORMS = (
    suppressed, suppressed_among_many, suppressed_by_class, above, places, where, crop, selected_mean, unique,
    repeated, best, regions, looped, branch,
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_sizes_that_the_frame_decides_about(form: Form) -> None:
    model = Body(form).double()
    frames = list(clip(5, SIZE, torch.float64))
    stream = videoeff.convert(model, frames[0])
    for frame in frames:
        assert relative_error(stream(frame), dense(model, frame)) < 1e-9
    report = stream.report()
    assert report.convolutions_streamed == 1.0
    assert report.frames == 4
    assert report.macs["needed"] < report.macs["dense"]


@pytest.mark.parametrize("form", [suppressed_among_many, above, places, where, unique, selected_mean])
def test_of_an_export_they_stream_in_parts(form: Form, tmp_path: Path) -> None:
    frames = list(clip(4))
    exported = torch.export.export(Body(form), (frames[0],), strict=False)
    stream = videoeff.convert(exported, frames[0])
    stream.save(tmp_path / "it.veff")
    for made in (stream, videoeff.load(tmp_path / "it.veff", model=exported)):
        for frame in frames:
            assert relative_error(made(frame), dense(exported.module(), frame)) < 1e-5
        assert made.report().convolutions_streamed == 1.0


def test_the_reason_names_the_operator() -> None:
    reason = dict(videoeff.convert(Body(places), torch.rand(SIZE)).report().eager)[""]
    assert "what nonzero" in reason
    assert "differs in size from frame to frame" in reason


def test_no_part_to_stream_names_the_operator_and_the_fix() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3, 3, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            y = nn.functional.conv2d(x, self.weight, padding=1)
            return y[y > 0.5]

    with pytest.raises(CaptureError, match=r"what index .*differs in size from frame to frame"):
        videoeff.convert(Functional().eval(), torch.rand(SIZE))


def test_a_model_that_is_one_convolution_says_why() -> None:
    class Layer(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y[y > 0]

    with pytest.raises(CaptureError, match=r"differs in size from frame.*in parts: Layer: no part of it"):
        videoeff.convert(Layer(3, 3, 3).eval(), torch.rand(SIZE))


def test_sparse_outputs() -> None:
    model = Body(lambda s, x: s.d(s.c(x)).to_sparse())
    frames = list(clip(3))
    stream = videoeff.convert(model, frames[0])
    for frame in frames:
        found, expected = stream(frame), dense(model, frame)
        assert found.layout is torch.sparse_coo
        torch.testing.assert_close(found.to_dense(), expected.to_dense(), rtol=1e-5, atol=1e-5)


def test_an_operator_that_nothing_registers_is_named(tmp_path: Path) -> None:
    with torch.library._scoped_library("videoeff_test", "FRAGMENT") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
        library.impl("twice", torch.empty_like, "Meta")
        model = Body(lambda s, x: torch.ops.videoeff_test.twice(s.d(s.c(x))))
        torch.export.save(torch.export.export(model, (torch.rand(SIZE),), strict=False), tmp_path / "own.pt2")
    with pytest.raises(
        ArtifactError, match="calls the operator videoeff_test::twice, which nothing here registers"
    ):
        import_operators(tmp_path / "own.pt2")
