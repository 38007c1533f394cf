"""The demonstration's network: a small segmenter made of the parts that real mobile networks are made of.

It labels each pixel of a synthetic clip (`videoeff.demo.synth`) as background, disc, square or triangle.
`examples/train_demo.py` trains it; the trained weights ship with the package.
"""

from __future__ import annotations

from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from videoeff.demo.synth import CLASSES
from videoeff.errors import ArtifactError
from videoeff.video.preprocess import Preprocess

CHECKPOINT = "segmenter.safetensors"
MULTIPLE = 16  # heights and widths are multiples of this


def demo_preprocess() -> Preprocess:
    """How a frame becomes the segmenter's input: its own size, about zero mean and unit deviation."""
    return Preprocess(mean=(0.45, 0.45, 0.45), std=(0.25, 0.25, 0.25))


def _conv(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = None,
) -> nn.Sequential:
    """Convolution and batch norm, and an activation if one is given."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if act is not None:
        layers.append(act())
    return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """Scales each channel by what the whole picture says about it."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Take and return (B, C, H, W)."""
        gate = functional.relu(self.reduce(functional.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(self.expand(gate))


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project; the input is added where the shapes allow."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        expanded: int,
        kernel: int,
        stride: int,
        act: type[nn.Module],
        squeezed: int = 0,
    ) -> None:
        super().__init__()
        self.expand = _conv(inputs, expanded, act=act)
        self.depthwise = _conv(expanded, expanded, kernel, stride, groups=expanded, act=act)
        self.gate = SqueezeExcite(expanded, squeezed) if squeezed else nn.Identity()
        self.project = _conv(expanded, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Take (B, inputs, H, W); return (B, outputs, H/stride, W/stride)."""
        y: Tensor = self.project(self.gate(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class Segmenter(nn.Module):
    """Labels pixels: (B, 3, H, W) in, logits (B, 4, H/4, W/4) out; H and W are multiples of 16.

    A stem and three stages down to a sixteenth of the size; a pyramid back up, joined by concatenation at
    an eighth and by addition at a quarter; a head of two layers.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.stem = _conv(3, 16, 3, stride=2, act=nn.ReLU)
        self.stage1 = nn.Sequential(
            InvertedResidual(16, 24, 64, 3, 2, nn.SiLU),
            InvertedResidual(24, 24, 72, 3, 1, nn.SiLU),
        )
        self.stage2 = nn.Sequential(
            InvertedResidual(24, 40, 96, 3, 2, nn.SiLU),
            InvertedResidual(40, 40, 160, 3, 1, nn.SiLU, squeezed=16),
        )
        self.stage3 = nn.Sequential(
            InvertedResidual(40, 64, 160, 5, 2, nn.Hardswish),
            InvertedResidual(64, 64, 256, 5, 1, nn.Hardswish),
            InvertedResidual(64, 64, 256, 3, 1, nn.Hardswish),
        )
        self.lateral16 = _conv(64, width, act=nn.ReLU)
        self.lateral8 = _conv(40, width, act=nn.ReLU)
        self.lateral4 = _conv(24, width)
        self.merge8 = nn.Sequential(
            _conv(2 * width, width, act=nn.ReLU),
            _conv(width, width, 3, groups=width),
            _conv(width, width, act=nn.ReLU),
        )
        self.merge4 = nn.Sequential(
            _conv(width, width, 3, groups=width),
            _conv(width, width, act=nn.ReLU),
        )
        self.head = nn.Sequential(_conv(width, 32, 3, act=nn.ReLU), nn.Conv2d(32, len(CLASSES), 1))

    def forward(self, x: Tensor) -> Tensor:
        """Take (B, 3, H, W); return logits (B, 4, H/4, W/4)."""
        c4 = self.stage1(self.stem(x))
        c8 = self.stage2(c4)
        p16 = self.lateral16(self.stage3(c8))
        up8 = functional.interpolate(p16, scale_factor=2.0, mode="nearest")
        p8 = self.merge8(torch.cat((self.lateral8(c8), up8), 1))
        up4 = functional.interpolate(p8, scale_factor=2.0, mode="bilinear", align_corners=False)
        p4 = self.merge4(functional.relu(self.lateral4(c4) + up4))
        logits: Tensor = self.head(p4 + up4)
        return logits


def load_demo_model() -> nn.Module:
    """The trained segmenter, in eval mode, with the weights that ship with the package.

    Raises:
        ArtifactError: the weights are missing from the installation, unreadable, or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    model = Segmenter()
    path = resources.files("videoeff.demo").joinpath(CHECKPOINT)
    try:
        model.load_state_dict(load(path.read_bytes()))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(
            f"{path}: the demonstration's weights cannot be used ({error}); reinstall videoeff, or train "
            "them anew with examples/train_demo.py"
        ) from error
    return model.eval()


def label_map(logits: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Turn logits (1, C, h, w) into labels (H, W), uint8: bilinear to `size`, then the largest channel."""
    full = functional.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    return full.argmax(1)[0].to(torch.uint8).cpu().numpy()


def confusion(predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count pixels as (4, 4), int64: truth by row, prediction by column. Both inputs are (H, W) labels."""
    count = len(CLASSES)
    pairs = truth.astype(np.int64) * count + predicted
    return np.bincount(pairs.ravel(), minlength=count * count).reshape(count, count).astype(np.int64)


def mean_iou(counts: NDArray[np.int64]) -> float:
    """Mean intersection over union of a (4, 4) confusion, over the classes that occur in it; 0..1."""
    both = np.diag(counts).astype(np.float64)
    either = counts.sum(0) + counts.sum(1) - both
    return float(np.mean(both[either > 0] / either[either > 0]))
