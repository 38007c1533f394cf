"""Sizes that depend on a frame's values: what lies before them is captured in parts, and is exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

import videoeff
from videoeff.errors import ArtifactError, CaptureError
from videoeff.serialize.operators import import_operators
from videoeff.testing import moving_clip, relative_error

# torchvision's own rule for the size of what nms gives
pytestmark = pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated:FutureWarning")


class Net(nn.Module):
    """Two convolutions, and a last step."""

    def __init__(self, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).relu()))


def nms(y: Tensor) -> Tensor:
    boxes = y.flatten(2)[0, :4].T.abs() * 10
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    return boxes[torchvision.ops.nms(boxes, y.flatten(2)[0, 4], 0.5)]


def crop(y: Tensor) -> Tensor:
    return y[..., : int(y.abs().sum()) % 5 + 3]


def masked(y: Tensor) -> Tensor:
    return torch.masked_select(y, y > 0.1).sum() + y


LAST: dict[str, Callable[[Tensor], Tensor]] = {
    "nms": nms,
    "nonzero": lambda y: torch.nonzero(y[:, 0] > 0.1),
    "mask": lambda y: y[y > 0],
    "where": lambda y: torch.where(y[0, 0] > 0.1)[0],
    "unique": lambda y: torch.unique((y * 3).round()),
    "crop": crop,
    "repeat": lambda y: y.repeat(int((y > 0).sum()) % 3 + 1, 1, 1, 1),
    "branch": lambda y: y * 2 if y.sum() > 0 else y,
    "masked-select": masked,
    "loop": lambda y: torch.stack([row.max() for row in y[0, 0] if float(row.sum()) > 0] or [y.sum()]),
}
EXPORTS = ("nms", "nonzero", "mask", "where", "unique", "masked-select")
FRAMES = list(moving_clip(4, (1, 3, 24, 20), noise=0.02))


def assert_exact(stream: videoeff.StreamingModule, model: Callable[[Tensor], Tensor]) -> None:
    """Every frame's result is the model's, and the convolutions stream."""
    with torch.no_grad():
        for frame in FRAMES:
            assert relative_error(stream(frame), model(frame)) <= 1e-5
    assert stream.report().convolutions_streamed == 1.0


@pytest.mark.parametrize("name", LAST)
def test_streams_in_parts(name: str) -> None:
    model = Net(LAST[name]).eval()
    stream = videoeff.convert(model, FRAMES[0])
    assert set(stream.engines) == {"first", "second"}
    assert_exact(stream, model)


@pytest.mark.parametrize("name", EXPORTS)
def test_of_an_export_streams_in_parts(name: str, tmp_path: Path) -> None:
    exported = torch.export.export(Net(LAST[name]).eval(), (FRAMES[0],), strict=False)
    stream = videoeff.convert(exported, FRAMES[0])
    assert set(stream.engines) == {"first", "second"}
    assert_exact(stream, exported.module())
    stream.save(tmp_path / "it.veff")
    assert_exact(videoeff.load(tmp_path / "it.veff", model=exported), exported.module())


def test_the_reason_names_the_operator() -> None:
    stream = videoeff.convert(Net(LAST["nonzero"]).eval(), FRAMES[0])
    assert "what nonzero" in dict(stream.report().eager)[""]
    assert "differs in size from frame to frame" in dict(stream.report().eager)[""]


def test_without_modules_it_is_refused() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4, 3, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.conv2d(x, self.weight)
            return y[y > 1]

    with pytest.raises(CaptureError, match=r"Bare: what index .* differs in size from frame to frame"):
        videoeff.convert(Bare().eval(), FRAMES[0])


def test_operators_of_torchvision_are_imported(tmp_path: Path) -> None:
    path = tmp_path / "nms.pt2"
    torch.export.save(torch.export.export(Net(nms).eval(), (FRAMES[0],), strict=False), path)
    import_operators(path)


def test_an_operator_that_nothing_registers_is_named(tmp_path: Path) -> None:
    with torch.library._scoped_library("videoeff_test", "FRAGMENT") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
        library.impl("twice", torch.empty_like, "Meta")
        model = Net(lambda y: torch.ops.videoeff_test.twice(y)).eval()
        torch.export.save(torch.export.export(model, (FRAMES[0],), strict=False), tmp_path / "own.pt2")
    with pytest.raises(
        ArtifactError, match="calls the operator videoeff_test::twice, which nothing here registers"
    ):
        import_operators(tmp_path / "own.pt2")
