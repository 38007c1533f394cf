"""What tests of streams share: clips, poisoned buffers, one table of tolerances.

Made for this project's own tests and for anybody who adds an operator, a pass or a backend::

    stream = videoeff.convert(model, example)
    poison(stream)
    for frame in moving_clip(6, example.shape):
        assert_close(stream(frame), model(frame), "frame")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from videoeff.runtime.engine import Engine


@dataclass(frozen=True)
class Tolerance:
    """How far a stream at threshold 0 may be from what it stands for, and why not less.

    Attributes:
        relative: of a whole network, against the dense model: largest error over the output's largest
            magnitude.
        reason: where that error comes from.
        node: of one node, against its value computed in float64 from the buffers and constants that it reads:
            the same measure.
        node_reason: where that error comes from.
    """

    relative: float
    reason: str
    node: float
    node_reason: str


#: One row a dtype; nothing is looser on one machine than on another.
TOLERANCES: Mapping[torch.dtype, Tolerance] = {
    torch.float64: Tolerance(
        1e-9, "sums in another order and folded batch norms round near 1e-16; 1e-9 leaves room for depth",
        1e-12, "sums of a few thousand products, each rounded near 1e-16, in another order",
    ),
    torch.float32: Tolerance(
        1e-4, "the same at 6e-8 a step, magnified by the depth of the network; typically 1e-6",
        1e-5, "the same at 6e-8 a step",
    ),
    torch.float16: Tolerance(
        2e-2, "a folded batch norm rounds its weights once, the dense model every layer's result at 5e-4",
        2e-3, "the result rounded at 5e-4, and again where a region keeps a step in half precision",
    ),
    torch.bfloat16: Tolerance(
        1.5e-1, "a folded batch norm rounds its weights once, the dense model every layer's result at 4e-3",
        1e-2, "the result rounded at 4e-3, and again where a region keeps a step in half precision",
    ),
}  # fmt: skip


_EXACT = Tolerance(0.0, "exact", 0.0, "exact")


def relative_error(found: Any, expected: Any) -> float:
    """Largest error of any output over that output's largest magnitude; infinity where kinds differ.

    Args:
        found: tensors in any structure.
        expected: tensors in the same structure. Values that are no floating-point tensors must be equal.

    Returns:
        The error; infinity where a shape, a dtype or an exact value differs, or a NaN is in only one of them.
    """
    left, left_spec = pytree.tree_flatten(found)
    right, right_spec = pytree.tree_flatten(expected)
    if left_spec != right_spec:
        return float("inf")
    return max((_leaf_error(a, b) for a, b in zip(left, right, strict=True)), default=0.0)


def _leaf_error(found: Any, expected: Any) -> float:
    if not isinstance(expected, Tensor):
        return 0.0 if type(found) is type(expected) and found == expected else float("inf")
    if not isinstance(found, Tensor) or found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(found, expected) else float("inf")
    a, b = found.detach().to("cpu", torch.float64), expected.detach().to("cpu", torch.float64)
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    error = torch.where(same, torch.zeros_like(a), (a - b).abs()).max()
    if not bool(error.isfinite()):
        return float("inf")
    size = float(torch.where(b.isfinite(), b.abs(), torch.zeros_like(b)).max())
    return float(error) / size if size > 0 else float(error)


def assert_close(found: Any, expected: Any, what: str = "output") -> None:
    """Raise unless a stream's outputs agree with the dense model's within the table of tolerances.

    Raises:
        AssertionError: they do not; the message gives the error and the row it broke.
    """
    dtypes = [
        v.dtype for v in pytree.tree_leaves(expected) if isinstance(v, Tensor) and v.is_floating_point()
    ]
    row = max((TOLERANCES[d] for d in dtypes), key=lambda t: t.relative, default=_EXACT)
    error = relative_error(found, expected)
    if not error <= row.relative:
        raise AssertionError(f"{what}: relative error {error:.3g} exceeds {row.relative:g} ({row.reason})")


def poison(stream: nn.Module) -> None:
    """Fill every buffer of a stream with NaN (the largest value for integers) and reset it.

    A kernel that reads what no frame has written yet then shows it: NaN spreads to the outputs.

    Args:
        stream: a ``StreamingModule``, an ``Engine`` or any module that holds some.
    """
    for module in stream.modules():
        if isinstance(module, Engine):
            module.reset()
            for tensor in module.state.values():
                if tensor.is_floating_point():
                    tensor.fill_(float("nan"))
                else:
                    tensor.fill_(True if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).max)


def moving_clip(
    count: int,
    shape: Sequence[int],
    *,
    objects: int = 1,
    noise: float = 0.0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Frames of textured squares that move over a still, textured background.

    Args:
        count: number of frames.
        shape: shape of a frame, ``(B, …, H, W)``. Each entry of the batch has a background and objects of
            its own.
        objects: squares in each entry, each a fifth to a third of the smaller side.
        noise: standard deviation of fresh noise on every pixel and frame; 0 for a noiseless sensor.
        dtype: of the frames; values lie in about [0, 1].
        seed: same seed, same clip.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64)

    streams, inner, (height, width) = int(shape[0]), list(shape[1:-2]), shape[-2:]
    background = random(streams, *inner, height, width)
    side = max(1, min(height, width) // 5)
    bodies = []
    for stream in range(streams):
        for _ in range(objects):
            size = side + int(random(1) * (min(height, width) // 3 - side + 1))
            place = random(2) * torch.tensor([height - size, width - size])
            step = (random(2) - 0.5) * 2 * max(1.0, side / 2)
            bodies.append((stream, size, place, step, random(*inner, size, size)))
    for index in range(count):
        frame = background.clone()
        for stream, size, place, step, texture in bodies:
            room = torch.tensor([height - size, width - size], dtype=torch.float64).clamp(min=1)
            folded = (place + index * step) % (2 * room)  # bounce at the borders
            y, x = (int(v) for v in torch.minimum(folded, 2 * room - folded))
            frame[stream, ..., y : y + size, x : x + size] = texture
        if noise:
            frame += noise * torch.randn(frame.shape, generator=generator, dtype=torch.float64)
        yield frame.to(dtype)


def changing_frames(
    shapes: Sequence[Sequence[int]], count: int, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Iterator[tuple[Tensor, ...]]:
    """Tuples of inputs, normally distributed, that change from frame to frame in a random place or two.

    Args:
        shapes: shapes of the inputs. In those of four or more dimensions a random box of the last two
            changes, in one entry of the batch; others change whole, and only now and then.
        count: number of frames.
        dtype: of the inputs.
        seed: same seed, same frames.
    """
    generator = torch.Generator().manual_seed(seed)

    def whole(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    frames = [torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes]
    for _ in range(count):
        yield tuple(f.to(dtype) for f in frames)
        frames = [f.clone() for f in frames]
        for frame in frames:
            if frame.ndim < 4:
                if whole(3) == 0:
                    frame += torch.randn(frame.shape, generator=generator, dtype=torch.float64)
                continue
            height, width = frame.shape[-2:]
            y, x = whole(height), whole(width)
            part = frame[whole(frame.shape[0]), ..., y : y + 1 + whole(4), x : x + 1 + whole(4)]
            part += torch.randn(part.shape, generator=generator, dtype=torch.float64)


def settle_batch_norm(model: nn.Module, inputs: Sequence[Sequence[Any]]) -> nn.Module:
    """Give random weights sane activations: set batch-norm statistics from a few calls.

    Args:
        model: the model, returned in evaluation mode.
        inputs: positional arguments of each call.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain averages
        norm.train()
    with torch.no_grad():
        for args in inputs:
            model(*args)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()
