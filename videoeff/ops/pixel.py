"""Element-wise ops: arithmetic between maps, gates, scalars and per-channel tensors, activations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from videoeff.ir.layout import PixelLayout, info
from videoeff.ops.base import (
    Case,
    Lambda,
    Masks,
    NotLocal,
    Op,
    Reach,
    overloads,
    register,
    shape_of,
    stream_inputs,
)

_UNARY = """relu relu6 leaky_relu elu selu celu gelu silu mish sigmoid hardsigmoid hardswish hardtanh tanh
softplus log_sigmoid hardshrink softshrink threshold rrelu exp expm1 log log1p log2 sqrt rsqrt square abs neg
sin cos tan erf reciprocal floor round ceil trunc sign sgn isnan isinf isfinite logical_not bitwise_not clone
contiguous alias detach dropout feature_dropout alpha_dropout clamp clamp_min clamp_max nan_to_num frac atan
sinh cosh asinh _to_copy lift_fresh positive""".split()
_BINARY = """add sub mul div pow maximum minimum fmod remainder atan2 eq ne lt le gt ge logical_and logical_or
logical_xor bitwise_and bitwise_or bitwise_xor copysign rsub floor_divide hypot""".split()


def _pixel_overloads() -> list[Any]:
    names = [f"{u}.default" for u in _UNARY]
    names += ["clamp.Tensor", "clamp_min.Tensor", "clamp_max.Tensor", "round.decimals"]
    for binary in _BINARY:
        names += [f"{binary}.Tensor", f"{binary}.Scalar", f"{binary}.default", f"{binary}.Tensor_mode"]
        names += [f"{binary}.Scalar_mode", f"{binary}.Tensor_Tensor", f"{binary}.Tensor_Scalar"]
        names += [f"{binary}.Scalar_Tensor"]
    names += ["max.other", "min.other", "where.self", "where.ScalarOther", "where.ScalarSelf"]
    names += ["lerp.Scalar", "lerp.Tensor", "addcmul.default", "addcdiv.default"]
    names += ["masked_fill.Scalar", "masked_fill.Tensor", "to.dtype", "type_as.default"]
    names += ["to.dtype_layout", "to.other", "to.device", "fill.Scalar", "zeros_like.default"]
    names += ["ones_like.default", "full_like.default"]
    return list(dict.fromkeys(overloads(*names)))


def broadcast_layout(node: fx.Node) -> PixelLayout:
    """The layout of a broadcast result: each role where one of the inputs has it.

    Raises:
        NotLocal: two inputs have one role in different dimensions, or one dimension has two roles.
    """
    shape = shape_of(node)
    roles: dict[str, int | None] = {"rows": None, "h": None, "w": None}
    for source in stream_inputs(node):
        layout, source_shape = info(source).layout, shape_of(source)
        assert layout is not None  # stream inputs have layouts
        for role in roles:
            dim = getattr(layout, role)
            if dim is None:
                continue
            size, place = source_shape[dim], dim - len(source_shape) + len(shape)
            if roles[role] is None or (size > 1 and shape[place] == size):
                taken = roles[role]
                if taken is not None and taken != place and shape[taken] > 1:
                    raise NotLocal("its inputs keep their pixels in different dimensions")
                roles[role] = place
    used = [d for d in roles.values() if d is not None]
    if len(set(used)) != len(used):
        raise NotLocal("its inputs disagree which dimension holds pixels")
    for source in stream_inputs(node):
        layout, source_shape = info(source).layout, shape_of(source)
        assert layout is not None  # stream inputs have layouts
        for role, place in roles.items():
            own = getattr(layout, role)
            if own is None or place is None:
                continue
            if own - len(source_shape) + len(shape) != place and source_shape[own] > 1:
                raise NotLocal("its inputs keep their pixels in different dimensions")
    rows = roles["rows"]
    streams = None if rows is None else _common_streams(node, shape[rows])
    return PixelLayout(rows, roles["h"], roles["w"], streams)


def _common_streams(node: fx.Node, count: int) -> tuple[int, ...] | None:
    """The stream of each of ``count`` result rows, None where a row reads several streams."""
    found: set[tuple[int, ...] | None] = set()
    for source in stream_inputs(node):
        layout = info(source).layout
        streams = None if layout is None else layout.streams
        found.add(streams * count if streams is not None and len(streams) == 1 else streams)
    (common, *others) = found
    return common if not others and common is not None and len(common) == count else None


def any_mask(node: fx.Node) -> Reach:
    """A result pixel changes where the same pixel of any input does; masks broadcast."""
    names = [n.name for n in stream_inputs(node)]
    if len(names) == 1:
        return lambda masks: masks[names[0]]

    def reach(masks: Masks) -> Tensor:
        result = masks[names[0]]
        for name in names[1:]:
            result = result | masks[name]
        return result

    return reach


@register
class Pixel(Op):
    """Element-wise functions of any number of maps, gates, scalars and constant tensors."""

    name = "pixel"
    role = "pixel"

    def targets(self) -> Sequence[Any]:
        """Every element-wise overload known here."""
        return _pixel_overloads()

    def layout(self, node: fx.Node) -> PixelLayout:
        """Broadcast of the inputs' layouts."""
        return broadcast_layout(node)

    def reach(self, node: fx.Node) -> Reach:
        """Any input's pixel."""
        return any_mask(node)

    def cases(self) -> Sequence[Case]:
        """All torch activations, and arithmetic between maps, gates, scalars and channels."""
        shape = (2, 4, 11, 13)
        activations: list[Any] = [
            nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1), nn.ELU(), nn.SELU(), nn.CELU(), nn.GELU(),
            nn.GELU(approximate="tanh"), nn.SiLU(), nn.Mish(), nn.Sigmoid(), nn.Hardsigmoid(), nn.Hardswish(),
            nn.Hardtanh(-0.5, 0.7), nn.Tanh(), nn.Softplus(), nn.Softsign(), nn.LogSigmoid(), nn.Hardshrink(),
            nn.Softshrink(), nn.Tanhshrink(), nn.Threshold(0.1, 20.0), nn.RReLU(),
        ]  # fmt: skip
        cases = [Case(f"{type(a).__name__.lower()}{i}", partial(_same, a)) for i, a in enumerate(activations)]
        two = (shape, shape)
        functions: dict[str, tuple[Any, tuple[tuple[int, ...], ...]]] = {
            "add": (lambda a, b: a + b, two),
            "add-alpha": (lambda a, b: torch.add(a, b, alpha=0.5), two),
            "sub-mul-div": (lambda a, b: (a - b) * 0.3 / (b * b + 1.0), two),
            "where": (lambda a, b: torch.where(a > b, a, b * 2), two),
            "clamp": (lambda a: a.clamp(-0.4, 0.5), (shape,)),
            "minimum-maximum": (lambda a, b: torch.minimum(a, b) + torch.maximum(a, b * 0.1), two),
            "per-channel": (lambda a: a * torch.linspace(0.5, 2.0, 4).view(1, 4, 1, 1), (shape,)),
            "per-pixel-constant": (lambda a: a + torch.linspace(0.0, 1.0, 13), (shape,)),
            "one-channel": (lambda a: a * a.mean(1, keepdim=True), (shape,)),
            "gate": (lambda a: a * torch.sigmoid(a.mean((2, 3), keepdim=True)), (shape,)),
            "inplace": (lambda a: F.relu(a * 2, inplace=True).add_(1.0), (shape,)),
        }
        cases += [Case(n, partial(Lambda, f), shapes) for n, (f, shapes) in functions.items()]
        return cases


def _same(module: nn.Module) -> nn.Module:
    return module
