"""Ops over the channels of a pixel (norms, softmax, linear, reductions), and over all pixels at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from videoeff.ir.layout import PixelLayout
from videoeff.ops.base import (
    Case,
    Lambda,
    Masks,
    NotLocal,
    Op,
    Reach,
    bind,
    layout_of,
    normal,
    op_name,
    overloads,
    register,
    require_channels,
    require_constant,
    same_mask,
    shape_of,
    stream_inputs,
)
from videoeff.ops.home import Home, same_home
from videoeff.ops.layout import moved
from videoeff.ops.pixel import any_mask


@register
class Norm(Op):
    """Layer norm and RMS norm over trailing channels; batch norm left unfolded."""

    name = "norm"

    def targets(self) -> Sequence[Any]:
        """Normalisations with a fixed set of channels."""
        return overloads(
            "layer_norm.default", "rms_norm.default", "batch_norm.default",
            "_native_batch_norm_legit_no_training.default",
        )  # fmt: skip

    def layout(self, node: fx.Node) -> PixelLayout:
        """The input's layout."""
        layout, ndim, bound = layout_of(node.args[0]), len(shape_of(node.args[0])), bind(node)
        require_constant(node, "its weight or bias")
        if "normalized_shape" in bound:
            count = len(bound["normalized_shape"])
            require_channels(layout, range(ndim - count, ndim), "the norm")
        else:
            require_channels(layout, (1,), "batch norm")
            if bound.get("training"):
                raise NotLocal("batch norm is in training mode")
        return layout

    def reach(self, node: fx.Node) -> Reach:
        """The same pixel."""
        return same_mask(node)

    def cases(self) -> Sequence[Case]:
        """Over channels last, over channels first, batch norm by itself."""
        return [
            Case("layer", partial(_Permuted, partial(nn.LayerNorm, 4))),
            Case("rms", partial(_Permuted, partial(nn.RMSNorm, 4))),
            Case("batch", _random_batch_norm),
        ]


def _random_batch_norm() -> nn.Module:
    norm = nn.BatchNorm2d(4).eval()
    assert norm.running_mean is not None  # it tracks statistics
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(-1, 1)
    return norm


class _Permuted(nn.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return result


@register
class Softmax(Op):
    """Softmax, log-softmax, GLU and PReLU over channels; softmax over pixels is global."""

    name = "softmax"

    def targets(self) -> Sequence[Any]:
        """Ops with one channel dimension."""
        return overloads(
            "softmax.int", "log_softmax.int", "_softmax.default", "_log_softmax.default", "glu.default",
            "prelu.default", "cumsum.default", "argmax.default",
        )  # fmt: skip

    def layout(self, node: fx.Node) -> PixelLayout:
        """The input's layout if the dimension is one of channels."""
        layout, bound = layout_of(node.args[0]), bind(node)
        shape = shape_of(node.args[0])
        if bound.get("dim", 1) is None:
            raise NotLocal("it looks at all elements")
        dim = normal(int(bound.get("dim", 1)), len(shape))
        require_channels(layout, (dim,), f"{self.name} ({node.target})")
        if op_name(node) == "argmax" and not bound.get("keepdim"):
            return moved(layout, {d: d - (d > dim) for d in range(len(shape)) if d != dim})
        return layout

    def reach(self, node: fx.Node) -> Reach:
        """The same pixel."""
        return any_mask(node)

    def cases(self) -> Sequence[Case]:
        """Over channels; over pixels (dense)."""
        return [
            Case("channels", partial(nn.Softmax, 1)),
            Case("log", partial(nn.LogSoftmax, 1)),
            Case("pixels", partial(Lambda, lambda x: x.flatten(2).softmax(-1).view(x.shape) * x)),
            Case("glu", partial(nn.GLU, 1)),
            Case("prelu", partial(nn.PReLU, 4)),
            Case("argmax", partial(Lambda, lambda x: x.argmax(1))),
        ]


@register
class Linear(Op):
    """``linear`` over the last dimension: a 1x1 convolution where that dimension is the channels."""

    name = "linear"
    role = "window"

    def targets(self) -> Sequence[Any]:
        """Linear."""
        return overloads("linear.default")

    def layout(self, node: fx.Node) -> PixelLayout:
        """The input's layout."""
        layout, ndim = layout_of(node.args[0]), len(shape_of(node.args[0]))
        require_constant(node, "its weight or bias")
        require_channels(layout, (ndim - 1,), "linear")
        return layout

    def reach(self, node: fx.Node) -> Reach:
        """The same pixel."""
        return same_mask(node)

    def home(self, node: fx.Node, source: fx.Node) -> tuple[Home, Home] | None:
        """The same pixel."""
        rows, columns = (same_home(size, size) for size in layout_of(source).extent(shape_of(source))[1:])
        return rows, columns

    def macs(self, node: fx.Node) -> int:
        """Elements of the result times input features."""
        return math.prod(shape_of(node)) * shape_of(node.args[0])[-1]

    def cases(self) -> Sequence[Case]:
        """The ConvNeXt block's order, and a head."""
        return [
            Case("pointwise", partial(_Permuted, partial(nn.Linear, 4, 6))),
            Case("head", partial(_Head, 4)),
            Case("convnext", _ConvNextBlock),
        ]


class _Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(x.mean((2, 3)))
        return result


class _ConvNextBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dw = nn.Conv2d(4, 4, 7, padding=3, groups=4)
        self.norm = nn.LayerNorm(4)
        self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 4)
        self.gamma, self.beta = nn.Parameter(torch.rand(16)), nn.Parameter(torch.rand(16))

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.up(self.norm(self.dw(x).permute(0, 2, 3, 1))))
        energy = torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True)  # global response norm, ConvNeXt V2
        y = y + torch.addcmul(self.beta, self.gamma, y * (energy / (energy.mean(-1, keepdim=True) + 1e-6)))
        result: Tensor = x + self.down(y).permute(0, 3, 1, 2)
        return result


@register
class Reduce(Op):
    """Reductions over channels (per pixel) or over pixels (a gate, a head)."""

    name = "reduce"

    def targets(self) -> Sequence[Any]:
        """Reductions with explicit dimensions."""
        return overloads(
            "mean.dim", "sum.dim_IntList", "amax.default", "amin.default", "prod.dim_int",
            "linalg_vector_norm.default", "norm.ScalarOpt_dim", "var.correction", "std.correction", "var.dim",
            "std.dim", "any.dim", "all.dim", "logsumexp.default",
        )  # fmt: skip

    def _dims(self, node: fx.Node) -> list[int]:
        bound, ndim = bind(node), len(shape_of(node.args[0]))
        dims = bound.get("dim")
        dims = [dims] if isinstance(dims, int) else dims
        return [normal(int(d), ndim) for d in dims] if dims else list(range(ndim))

    def layout(self, node: fx.Node) -> PixelLayout:
        """Reduced pixels are gone, the rest stays."""
        layout, dims, ndim = layout_of(node.args[0]), self._dims(node), len(shape_of(node.args[0]))
        if layout.rows in dims and shape_of(node.args[0])[layout.rows] > 1:
            raise NotLocal("it reduces over streams")
        if bind(node).get("keepdim"):
            return layout
        kept = [d for d in range(ndim) if d not in dims]
        return moved(layout, {old: new for new, old in enumerate(kept)})

    def reach(self, node: fx.Node) -> Reach:
        """Any of the reduced pixels."""
        layout, dims = layout_of(node.args[0]), self._dims(node)
        name = stream_inputs(node)[0].name
        axes = [axis for axis, dim in ((1, layout.h), (2, layout.w)) if dim in dims]

        def reach(masks: Masks) -> Tensor:
            mask = masks[name]
            for axis in axes:
                mask = mask.any(axis, keepdim=True)
            return mask

        return reach

    def cases(self) -> Sequence[Case]:
        """Per pixel, per row, over the map, squeeze-excite."""
        return [
            Case(
                "channel-attention",
                partial(Lambda, lambda x: x * torch.cat([x.mean(1, True), x.amax(1, True)], 1).sum(1, True)),
            ),
            Case("rows", partial(Lambda, lambda x: x * x.mean(3, keepdim=True))),
            Case("map", partial(Lambda, lambda x: x.mean((2, 3)))),
            Case("squeeze-excite", _SqueezeExcite),
        ]


class _SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        result: Tensor = F.relu(x * gate)
        return result


@register
class Global(Op):
    """Ops that look at all pixels of a stream but never across streams; they run on the full buffers."""

    name = "global"
    role = "window"

    def targets(self) -> Sequence[Any]:
        """Batch-preserving global ops."""
        return overloads(
            "group_norm.default", "instance_norm.default", "scaled_dot_product_attention.default",
            "matmul.default", "bmm.default", "upsample_bicubic2d.vec", "upsample_bilinear2d_aa.default",
            "_upsample_bilinear2d_aa.vec", "grid_sampler.default", "roll.default", "flip.default",
            "grid_sampler_2d.default",
        )  # fmt: skip

    def layout(self, node: fx.Node) -> PixelLayout:
        """Streams stay where the batch is the first dimension of every input; pixels are lost."""
        shape, streams = shape_of(node), None
        bound = bind(node)
        dims = bound.get("dims")
        for source in stream_inputs(node):
            layout, size = layout_of(source), shape_of(source)[0]
            if layout.rows != 0 or layout.streams is None or size != shape[0] or len(shape) < 2:
                raise NotLocal("it does not keep streams apart")
            if dims is not None and (not dims or 0 in [normal(int(d), len(shape)) for d in dims]):
                raise NotLocal("it moves values between streams")  # roll without dims moves all elements
            if op_name(node) == "matmul" and len(shape_of(source)) != len(shape):
                raise NotLocal("it multiplies across streams")  # batches meet other dimensions
            if op_name(node) == "matmul" and len(shape_of(source)) < 3:
                raise NotLocal("it multiplies across streams")
            streams = layout.streams
        return PixelLayout(0, None, None, streams)

    def reach(self, node: fx.Node) -> Reach:
        """Anything in the same stream."""
        names = [n.name for n in stream_inputs(node)]

        def reach(masks: Masks) -> Tensor:
            result = masks[names[0]].any(1, keepdim=True).any(2, keepdim=True)
            for name in names[1:]:
                result = result | masks[name].any(1, keepdim=True).any(2, keepdim=True)
            return result

        return reach

    def macs(self, node: fx.Node) -> int:
        """Products of matrix multiplications and attention."""
        name, shape = op_name(node), shape_of(node)
        if name in ("matmul", "bmm"):
            return math.prod(shape) * shape_of(node.args[0])[-1]
        if name == "scaled_dot_product_attention":
            query, key = shape_of(node.args[0]), shape_of(node.args[1])
            return 2 * math.prod(query) * key[-2]
        return 0

    def cases(self) -> Sequence[Case]:
        """Group norm, attention, bicubic resampling, each followed by a local op."""

        def attend(x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
            return mixed.transpose(1, 2).reshape(x.shape).relu()

        return [
            Case("group", partial(nn.GroupNorm, 2, 4)),
            Case("attention", partial(Lambda, attend)),
            Case("bicubic", partial(nn.Upsample, scale_factor=2, mode="bicubic")),
            Case("roll", partial(Lambda, lambda x: x.roll((1, 2), (2, 3)).relu())),
        ]
