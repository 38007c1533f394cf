"""Whether float32's rounding explains a difference from the dense model: float64 tells.

At threshold 0 a float32 stream stays within :data:`LAW` of the dense model. Some networks magnify rounding so
far that two correct float32 computations of them differ by more. Where the law is exceeded, the dense network
is computed once more in float64, and both are compared with that: the stream may be off by a small multiple
of what eager PyTorch itself is off by. Where float64 cannot be run, the law stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from videoeff.errors import first_line
from videoeff.testing import TOLERANCES, relative_error

#: Largest difference from the dense model over an output's largest magnitude, float32, threshold 0.
LAW = TOLERANCES[torch.float32].relative

#: A stream may be off by this many times what eager PyTorch is off by: two bits. Both errors are draws of one
#: kind of rounding, and neither is the largest that can come. On 40 frames each of four clips, YOLOX-Nano at
#: 416x416, PyTorch in its two memory formats is off by 3.8e-5 to 1e-4 and by 1.7e-5 to 3.7e-5 in the median,
#: and a stream on the CPU, which adds in chains of 128, by 0.88 to 1.0 times the larger of both (0.48 to 1.62
#: times in single frames). In chains of up to 512 products it was 2.1 times (1.4 to 4.2): kernels that add a
#: whole reduction in one chain, as those on CUDA do, need the room.
FACTOR = 4.0

#: Whatever eager PyTorch is off by, no stream may be off by more. Beyond ten times the law float32 says so
#: little about a network that a comparison could not tell a fault from rounding.
CEILING = 10 * LAW

_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}


class NoFloat64(Exception):
    """A network cannot be computed in float64; the message says why."""


@dataclass
class Rounding:
    """What float64 says about outputs that differ from eager PyTorch's by more than the law.

    Attributes:
        errors: by output, how far eager PyTorch and the stream are from float64: the largest of all frames
            that were added, over the output's largest magnitude.
        unknown: why float64 does not tell, "" where it does.
        fault: a difference was larger than any rounding, so that float64 was not asked.
        who: whose outputs are judged.
    """

    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    unknown: str = ""
    fault: bool = False
    who: str = "the stream"

    def add(
        self,
        found: Sequence[Any],
        wanted: Sequence[Any],
        eager: Sequence[Sequence[Any]],
        exact: Sequence[Any],
    ) -> None:
        """Judge one frame's outputs.

        Args:
            found: the outputs to judge, flat.
            wanted: what the law compares them with. Only outputs further than the law from it are looked at.
            eager: those of eager PyTorch in float32, computed in one or more ways.
            exact: those in float64.
        """
        if any(len(values) != len(found) for values in (wanted, *eager, exact)):
            self.unknown = self.unknown or "there it has another number of outputs"
            return
        for index, (ours, theirs, truth) in enumerate(zip(found, wanted, exact, strict=True)):
            if relative_error(ours, theirs) > LAW:
                self.add_one(str(index), ours, [values[index] for values in eager], truth)

    def exceeds(self, found: Sequence[Any], eager: Sequence[Any]) -> bool:
        """Whether outputs are further apart than the law, so that float64 has to be asked.

        Where they are further apart than rounding can bring them, that is noted, and nothing is left to ask.
        """
        if len(found) != len(eager):
            self.fault = True
            return False
        pairs = list(zip(found, eager, strict=True))
        apart = max((relative_error(a, b) for a, b in pairs), default=0.0)
        if any(not b.is_floating_point() and relative_error(a, b) for a, b in pairs):
            self.unknown = self.unknown or "outputs that are whole numbers differ"
            return False
        self.fault = self.fault or not apart <= 2 * CEILING
        return apart > LAW and not self.fault and not self.unknown

    def add_one(self, name: str, found: Any, eager: Sequence[Any], exact: Any) -> None:
        """Judge one output of a frame, whether or not it is within the law."""
        if not isinstance(found, Tensor) or found.dtype != torch.float32:
            self.unknown = self.unknown or f"output {name} is not float32"
        elif not isinstance(exact, Tensor) or exact.dtype != torch.float64:
            self.unknown = self.unknown or f"output {name} of the network in float64 is not float64"
        else:
            before = self.errors.get(name, (0.0, 0.0))
            theirs = max(relative_error(e.double(), exact) for e in eager)
            ours = relative_error(found.double(), exact)
            self.errors[name] = max(before[0], theirs), max(before[1], ours)

    @property
    def holds(self) -> bool:
        """Whether rounding explains everything that was added; never where nothing was."""
        told = bool(self.errors) and not self.unknown and not self.fault
        return told and all(map(_allowed, self.errors.values()))

    @property
    def worst(self) -> tuple[float, float]:
        """How far eager PyTorch and the stream are from float64 in the output that is worst off."""
        return max(self.errors.values(), key=lambda e: (not _allowed(e), e[1]), default=(0.0, 0.0))

    def __str__(self) -> str:
        if self.fault:
            return f"too far apart for rounding ({2 * CEILING:g})"
        if self.unknown or not self.errors:
            reason = self.unknown or "nothing was compared"
            return f"float64 cannot tell whether it is rounding: {reason}"
        theirs, ours = self.worst
        told = f"eager PyTorch is off by {theirs:.1e} of float64, {self.who} by {ours:.1e}"
        if self.holds:
            return f"the network itself is that sensitive to float32's rounding: {told}"
        return f"it is not rounding: {told} (allowed: {FACTOR:g} times eager's, at most {CEILING:g})"

    def to_json(self) -> dict[str, Any] | None:
        """A plain dictionary; None where nothing exceeded the law."""
        if not (self.errors or self.unknown or self.fault):
            return None
        theirs, ours = self.worst
        return {"eager": theirs, "found": ours, "holds": self.holds, "sentence": str(self)}


def _allowed(errors: tuple[float, float]) -> bool:
    theirs, ours = errors
    return ours <= min(FACTOR * theirs, CEILING)


class Doubled:
    """A network in float32 and its double in float64, for frames that stand alone.

    Args:
        model: the network in float32, in evaluation mode; it is copied.

    Raises:
        NoFloat64: it has no such double.
    """

    def __init__(self, model: nn.Module) -> None:
        try:
            self.single, self.double = copy.deepcopy(model), copy.deepcopy(model).double()
        except Exception as error:  # any module may fail to be copied, and says why
            raise NoFloat64(first_line(error)) from error

    def __call__(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
    ) -> tuple[list[list[Tensor]], list[Tensor]]:
        """One frame's flat outputs: of eager PyTorch in both memory formats, and in float64.

        Raises:
            NoFloat64: it does not run in float64, or what it computes depends on the frames before.
        """
        before = _versions(self.double)
        exact = flat(run_double(lambda a, k: self.double(*a, **k), args, kwargs or {}))
        if _versions(self.double) != before:
            raise NoFloat64("the model changes buffers of its own from frame to frame")
        calls = [(args, dict(kwargs or {}))]
        calls.append(channels_last(calls[0]))
        with torch.no_grad():
            return [flat(self.single(*a, **k)) for a, k in calls], exact


def _versions(model: nn.Module) -> list[tuple[str, int, int]]:
    """What changes when a parameter or buffer is written or replaced."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [(name, id(tensor), tensor._version) for name, tensor in tensors]


def flat(outputs: Any) -> list[Tensor]:
    """The tensors among a model's outputs, in order."""
    return [v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor)]


def channels_last(values: Any) -> Any:
    """The same values, pictures (B, C, H, W) with their channels last in memory."""
    return pytree.tree_map_only(
        Tensor, lambda v: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v, values
    )


def run_double(call: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Compute a network whose tensors are float64 on a frame of float32 or whole numbers.

    Where its code names float32 it computes in float64 too.

    Args:
        call: takes args and kwargs.
        args: of the model's call.
        kwargs: of the model's call.

    Raises:
        NoFloat64: it fails, or something that depends on the frame is computed in less than float64.
    """
    args, kwargs = pytree.tree_map(_widened, (args, dict(kwargs)))
    try:
        with torch.no_grad(), _default_float64(), _InFloat64():  # type: ignore[no-untyped-call] # torch's own
            return call(args, kwargs)
    except NoFloat64:
        raise
    except Exception as error:  # whatever an operator raises is the reason, and reported
        raise NoFloat64(first_line(error)) from error


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(_WIDER.get(value.dtype, value.dtype))
    return value


@contextmanager
def _default_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _InFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call] # its __init_subclass__
    """Reads float64 where an operator is told float32, and refuses what falls below float64."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = pytree.tree_map_only(torch.dtype, lambda d: _WIDER.get(d, d), (args, kwargs or {}))
        found = func(*args, **kwargs)
        low = next((v.dtype for v in flat(found) if _is_low(v.dtype)), None)
        if low is not None and not all(_is_low(v.dtype) for v in flat((args, kwargs))):
            raise NoFloat64(f"{func} computes in {str(low).removeprefix('torch.')}")
        return found


def _is_low(dtype: torch.dtype) -> bool:
    """Whether a dtype keeps fractions less exactly than float64."""
    fractions = dtype.is_floating_point or dtype.is_complex
    return fractions and dtype not in (torch.float64, torch.complex128)
