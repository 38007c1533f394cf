"""Does what was captured compute what the model computes, frame after frame?

A graph knows only what its trace saw. A model may remember more: the last frame in an attribute, a counter, a
global variable. So model and graph are run side by side on several frames, from the model's own state, and
where they differ the reason is looked for and named.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from videoeff.analysis import macs
from videoeff.capture.frames import Call, calls, copied, smaller
from videoeff.capture.keeping import Keeper, Leaf, differing, leaves, put, same
from videoeff.capture.randomness import RandomWatch, advice
from videoeff.capture.reachable import PLAIN, fields
from videoeff.errors import CaptureError
from videoeff.ir.program import Program

#: Runs one frame after the other, from a stream's beginning.
Run = Callable[[Call], Sequence[Any]]

#: How many frames are compared; more where the model counts in numbers of its own.
FRAMES, COUNTED_FRAMES = 3, 5

#: What counters are set to: so many frames have passed. Whatever happens every n-th frame, for the usual n,
#: happens then or in the frame after.
AHEAD = 25199

# Objects inside objects of an output that are looked into.
_DEEPEST = 6

# Multiply-accumulates of a frame that are compared at their own size without hesitation.
_CHEAP = 200_000_000

# Largest difference over the output's largest magnitude. The graph calls the same operators on the same
# values; only where PyTorch decomposes an in-place one may a sum be taken in another order.
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}


def require_agreement(
    model: nn.Module,
    keeper: Keeper,
    program: Program,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    remembers: bool,
) -> None:
    """Raise unless a Program computes what the model computes.

    Small pictures are tried first, as they cost little; whatever they say against the Program, the example's
    size decides. A graph that names sizes takes no small pictures. If the example is large, and the trace saw
    the forward change nothing but buffers, then the model alone is asked whether it gives a small picture the
    same result again after others.

    Args:
        model: the model.
        keeper: what it held before it was captured, which it holds again afterwards.
        program: what was captured.
        args: positional arguments of the example.
        kwargs: its keyword arguments.
        remembers: whether the trace saw the forward change something of the model that is no buffer.

    Raises:
        CaptureError: it does not; what the model remembers is named.
    """
    example = (tuple(args), dict(kwargs))
    carried = [c.name for c in program.carried]
    small = smaller(example)
    try:
        if small is not None and _small_agrees(model, keeper, program, small, carried, alone=not remembers):
            return
        check(model, keeper, lambda: _runner(program), example, program.name, carried)
    finally:
        keeper.restore()


def _small_agrees(
    model: nn.Module, keeper: Keeper, program: Program, small: Call, carried: Sequence[str], *, alone: bool
) -> bool:
    """Whether small pictures show a Program, or a model alone where that may do, to be as it should."""
    frames = list(itertools.islice(calls(*small), COUNTED_FRAMES if not alone else FRAMES))
    try:
        return _first_difference(model, keeper, _runner(program), frames) is None
    except Exception:  # noqa: BLE001  one of them has a fixed size: anything may be raised
        if not alone or sum(macs(node) for node in program.nodes) <= _CHEAP:
            return False
    try:
        keeper.restore()
        first = _call(model, frames[0])
        for frame in frames[1:FRAMES]:
            _call(model, frame)
        if not carried and close(_call(model, frames[0]), first):
            return True
        return not _remembers(model, keeper, frames, carried)
    except Exception:  # noqa: BLE001  the model has a fixed size
        return False


def _runner(program: Program) -> Run:
    carried = program.initial()
    interpreter = fx.Interpreter(program.module, garbage_collect_values=True)

    def run(call: Call) -> Sequence[Any]:
        nonlocal carried
        flat = [v for v in pytree.tree_leaves(call) if isinstance(v, Tensor)]
        outputs, carried = program.parted(tuple(interpreter.run(*flat, *carried)))
        return outputs

    return run


def check(
    model: nn.Module,
    keeper: Keeper,
    begin: Callable[[], Run],
    example: Call,
    name: str,
    carried: Sequence[str] = (),
    *,
    history: bool = False,
) -> None:
    """Raise unless what was captured gives the model's outputs on several frames.

    Args:
        model: the model.
        keeper: what it held before it was captured.
        begin: makes a function that runs what was captured, frame after frame.
        example: the example call.
        name: what to call the model.
        carried: the buffers that a stream carries.
        history: whether what was captured runs code of the model's, which may remember too. A stream could
            neither reset that nor keep it in a snapshot.

    Raises:
        CaptureError: it does not.
    """
    frames = _frames(model, keeper, example, name)
    number = _first_difference(model, keeper, begin(), frames)
    why = "" if number is None else _why(model, keeper, frames, carried)
    if number is None and history:
        why = _remembers(model, keeper, frames, carried)
    keeper.restore()
    if number is not None:
        raise CaptureError(f"{name}: frame {number + 1} of the model is not that of its trace: {why}")
    if why:
        raise CaptureError(f"{name}: {why}")


def _frames(model: nn.Module, keeper: Keeper, example: Call, name: str) -> list[Call]:
    """Calls that the model takes: random pictures, or the example made darker where it takes no others."""
    reason = ""
    for gentle in (False, True):
        frames = list(itertools.islice(calls(*example, gentle=gentle), COUNTED_FRAMES))
        keeper.restore()
        try:
            _call(model, frames[0])
        except Exception as error:  # noqa: BLE001  the model's own code may raise anything
            reason = f"{type(error).__name__}: {error}"
            continue
        return frames
    raise CaptureError(
        f"{name}: it runs on the example, but fails on the same picture 1 % darker ({reason}), so what it "
        "does from frame to frame cannot be seen; convert with an example like the frames to come"
    )


def _call(model: nn.Module, call: Call) -> list[Any]:
    args, kwargs = copied(call)
    with torch.no_grad():
        return pytree.tree_leaves(model(*args, **kwargs))


def _first_difference(model: nn.Module, keeper: Keeper, run: Run, frames: Sequence[Call]) -> int | None:
    """The first frame in which model and graph differ, from the model's own state on.

    Counters are looked for if there are frames enough to see what they do.
    """
    keeper.restore()
    counters: list[tuple[Any, Any]] = []
    counting = len(frames) >= COUNTED_FRAMES
    before = _numbers(model) if counting else {}
    for number, frame in enumerate(frames):
        if number >= FRAMES and not counters:
            break
        if number == FRAMES - 1 and counters:
            for holder, key in counters:
                put(holder, key, AHEAD)
        expected = _call(model, frame)
        with torch.no_grad():
            found = list(run(copied(frame)))
        if not close(found, expected):
            return number
        if counting and number < FRAMES - 1:
            now = _numbers(model)
            counters = [now[n][1:] for n in now if n in before and now[n][0] != before[n][0]]
            before = now
    return None


def _numbers(model: nn.Module) -> dict[str, Leaf]:
    return {n: v for n, v in leaves(model, tensors=False).items() if type(v[0]) is int}


def close(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether outputs agree, but for rounding; objects by what they hold."""
    found, expected = ([leaf for value in values for leaf in _held(value)] for values in (found, expected))
    if len(found) != len(expected):
        return False
    return all(_close(a, b) for a, b in zip(found, expected, strict=True))


def _held(value: Any, depth: int = 0) -> list[Any]:
    """An output as a flat list: an object of an unregistered class gives its class and its attributes."""
    leaves: list[Any] = pytree.tree_leaves(value)
    flat: list[Any] = []
    for leaf in leaves:
        inner: Any = None
        if isinstance(leaf, Mapping):
            inner = dict(leaf)
        elif isinstance(leaf, (list, tuple)):
            inner = list(leaf)
        elif not isinstance(leaf, (Tensor, *PLAIN)):
            inner = fields(leaf) or None
        if inner is None or depth > _DEEPEST:
            flat.append(leaf)
        else:
            flat += [type(leaf), *_held(inner, depth + 1)]
    return flat


def _equal(a: Any, b: Any) -> bool:
    """Whether two values are equal; those that cannot be compared count as equal."""
    try:
        return bool(a == b) or bool(a != a and b != b)
    except (RuntimeError, ValueError, TypeError):
        return True


def _close(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and (a is b or _equal(a, b))
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    if a.layout is not torch.strided:
        a, b = a.to_dense(), b.to_dense()
    if torch.equal(a, b):
        return True
    if a.is_complex():
        return _close(torch.view_as_real(a), torch.view_as_real(b))
    if not a.is_floating_point():
        return False
    apart = ~((a == b) | (a.isnan() & b.isnan()))
    if not bool(apart.any()):
        return True
    size = float(b.nan_to_num(posinf=0.0, neginf=0.0).abs().max())
    return float((a - b).abs()[apart].max()) <= _TOLERANCE.get(a.dtype, 0.0) * size


def _remembers(model: nn.Module, keeper: Keeper, frames: Sequence[Call], carried: Sequence[str]) -> str:
    """What a model that has seen some frames remembers, if its result depends on it; "" if it does not."""
    values = {n: t.detach().clone() for n, t in _tensors(model).items() if n in carried}

    def begin() -> None:
        """Nothing but what is carried is left of the frames before."""
        keeper.restore()
        with torch.no_grad():
            for name, tensor in _tensors(model).items():
                if name in values and tensor.shape == values[name].shape:
                    tensor.copy_(values[name])

    watch = RandomWatch()
    with watch:
        again = _call(model, frames[0])
    if watch.found:
        return advice(", ".join(watch.found))
    begin()
    if close(_call(model, frames[0]), again):
        return ""
    alone = leaves(model)
    keeper.restore()
    start = leaves(model)
    for frame in (*frames[:FRAMES], frames[0]):
        _call(model, frame)
    return _advice(model, _first(carried, differing(alone, leaves(model)), differing(start, alone)))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _first(carried: Sequence[str], *found: Sequence[str]) -> list[str]:
    """The first of the lists of names that holds some which are not carried; those."""
    left = ([n for n in names if n not in carried] for names in found)
    return next((names for names in left if names), [])


def _advice(model: nn.Module, names: Sequence[str]) -> str:
    what = ", ".join(repr(n) for n in names[:4]) or "something outside the module"
    if names and set(names) <= {name for name, _ in model.named_buffers()}:
        return (
            f"it writes {what} in some frames and not in others, as an attribute says; no graph follows "
            "that: write it in every frame (torch.where chooses the value)"
        )
    return (
        f"it remembers what came before in {what}; a stream carries buffers alone: register it as a buffer "
        "(register_buffer) and write into that (copy_), or pass it to the forward and return it"
    )


def _why(model: nn.Module, keeper: Keeper, frames: Sequence[Call], carried: Sequence[str]) -> str:
    """Why a model and its graph differ: what it remembers, or that it draws random numbers."""
    keeper.restore()
    start = leaves(model)
    watch = RandomWatch()
    with watch:
        first = _call(model, frames[0])
    alone = leaves(model)
    if watch.found:
        return advice(", ".join(watch.found))
    keeper.restore()
    if not all(same(a, b) for a, b in zip(_call(model, frames[0]), first, strict=False)):
        return (
            "its result is not the same twice for one frame: it draws random numbers outside PyTorch, or "
            "reads a clock; make that an argument of its forward"
        )
    keeper.restore()
    _call(model, frames[1])
    again = _call(model, frames[0])
    later = leaves(model)
    for name in carried:
        if name in alone and name in later and alone[name][0].shape != later[name][0].shape:
            return (
                f"it gives the buffer {name!r} another shape from frame to frame; a buffer that a stream "
                "carries keeps its shape: write into a fixed number of places"
            )
    history = _first(carried, differing(alone, later))
    if history or not close(again, first):
        return _advice(model, history or _first(carried, differing(start, alone)))
    written = _first(carried, differing(start, alone))
    what = f" (its forward sets {', '.join(repr(n) for n in written[:4])})" if written else ""
    return (
        f"its forward uses a value that the trace took for a constant{what}; compute it from the forward's "
        "arguments, or register it as a buffer"
    )
