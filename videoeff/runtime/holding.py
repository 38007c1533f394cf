"""Looking at every n-th frame: the outputs handed out between, and which streams look when."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from videoeff.errors import StateError
from videoeff.kernels.host import OutputMemory, copied
from videoeff.runtime.body import StreamBody


class Call(NamedTuple):
    """A call that fits a stream.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        frames: the tensors among both, flattened.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    frames: Sequence[Tensor]


#: Looks at a frame; the outputs may be the stream's buffers themselves.
Look = Callable[[Call], Any]


@dataclass(frozen=True)
class HeldState:
    """What a stream holds between two frames that it looks at; a copy of it is part of its snapshot.

    Attributes:
        outputs: the last outputs.
        age: frames handed out since the stream looked, the one it looked at included.
        frames: the tensors of the frame looked at last; empty for one stream, which needs none.
        fresh: of each engine, the streams whose next frame was to be their first right after that look.
        due: streams that were reset since.
    """

    outputs: Any
    age: int
    frames: tuple[Tensor, ...]
    fresh: Mapping[str, tuple[bool, ...]]
    due: frozenset[int] = frozenset()


class Hold:
    """Hands out the last outputs between two frames that the stream looks at.

    All streams of a batch look at the same frames. A stream that was reset alone looks at its next frame at
    once. The others are then shown the frame again that they looked at last, so that nothing of theirs
    changes, and from then on all keep to the common beat.
    """

    def __init__(self) -> None:
        self._held: HeldState | None = None
        self._memory = OutputMemory(4)
        #: Whether the last frame was looked at.
        self.looked = True
        #: Frames handed out without looking, since counting began.
        self.count = 0

    def drop(self, stream: int | None = None) -> None:
        """Look at the next frame: all streams, or one of them."""
        held = self._held
        self._held = None if held is None or stream is None else replace(held, due=held.due | {stream})

    def frame(self, every: int, body: StreamBody, call: Call, look: Look, alias: bool) -> Any:
        """One frame: looked at, or the last outputs once more.

        Args:
            every: look at every n-th frame.
            body: what the stream runs.
            call: the frame.
            look: looks at a frame.
            alias: whether outputs may be the buffers themselves.

        Returns:
            The outputs.
        """
        held = self._held
        if held is None or held.age >= every:
            return self._look(body, call, look, alias, age=1)
        due = _forgotten(held, body)
        if len(due) == body.streams:
            return self._look(body, call, look, alias, age=1)
        if due:
            with ExitStack() as stack:
                for engine in body.engines.values():
                    stack.enter_context(engine.without_refresh(set(range(body.streams)) - due))
                return self._look(body, _others_held(body, call, held.frames, due), look, alias, held.age + 1)
        self.looked = False
        self.count += 1
        self._held = replace(held, age=held.age + 1)
        return pytree.tree_map(_same if alias else self._copy, held.outputs)

    def _look(self, body: StreamBody, call: Call, look: Look, alias: bool, age: int) -> Any:
        outputs = look(call)
        frames = _own(call.frames) if body.streams > 1 else ()
        fresh = {name: engine.fresh for name, engine in body.engines.items()}
        if alias:
            self._held = HeldState(outputs, age, frames, fresh)
            return pytree.tree_map(_same, outputs)
        # What lies in the buffers stays as it is until the next look, so that the caller gets a copy; what
        # does not is the caller's, and a copy of it is kept.
        buffers: set[int] = set().union(*(engine.storages for engine in body.engines.values()))
        leaves, spec = pytree.tree_flatten(outputs)
        kept, handed = [], []
        for value in leaves:
            mine = isinstance(value, Tensor) and value.untyped_storage().data_ptr() in buffers
            twin = self._copy(value)
            kept.append(value if mine else twin)
            handed.append(twin if mine else value)
        self._held = HeldState(pytree.tree_unflatten(kept, spec), age, frames, fresh)
        return pytree.tree_unflatten(handed, spec)

    def _copy(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return copied(value, self._memory)
        return value if isinstance(value, (int, float, str, type(None))) else copy.deepcopy(value)

    def check_reset(self, name: str, body: StreamBody) -> None:
        """Whether one stream of a batch may be reset alone, between two frames that the stream looks at.

        Args:
            name: the model's.
            body: what the stream runs.

        Raises:
            StateError: the streams share an argument, or carry something that another look would move on.
        """
        carried = [c.name for e in body.engines.values() for c in e.program.carried]
        shared = _shared(body)
        if carried or shared:
            what = (
                f"the forward changes the buffer {carried[0]!r} whenever the batch is looked at"
                if carried
                else f"its argument {shared[0]} has no batch dimension"
            )
            raise StateError(
                f"{name}: one stream of the batch cannot be reset alone while only every n-th frame is "
                f"looked at: {what}; reset() resets all of them, or look at every frame with stream.every(1)"
            )

    def snapshot(self) -> HeldState | None:
        """A copy of what is held, None where the next frame will be looked at by all streams."""
        return None if self._held is None else _copy_of(self._held)

    def restore(self, held: HeldState | None) -> None:
        """Continue from a snapshot."""
        self._held = None if held is None else _copy_of(held)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hold:
        twin = Hold()
        twin.looked, twin.count = self.looked, self.count
        twin.restore(self._held)
        return twin


def _forgotten(held: HeldState, body: StreamBody) -> set[int]:
    """The streams that forgot their last frame since it was looked at, in whatever way."""
    due = set(held.due)
    for name, engine in body.engines.items():
        before = held.fresh.get(name, ())
        if engine.fresh != before:
            due |= {i for i, fresh in enumerate(engine.fresh) if fresh and before[i : i + 1] != (True,)}
    return due


def _others_held(body: StreamBody, call: Call, before: Sequence[Tensor], due: set[int]) -> Call:
    """The call with the frame that was looked at last in all streams but those that are due."""
    shared = set(_shared(body))
    mixed = []
    for index, (old, new) in enumerate(zip(before, call.frames, strict=True)):
        frame = old.clone()
        if index not in shared:
            for stream in due:
                frame[stream] = new[stream]
        mixed.append(frame)
    args, kwargs = body.signature.call(mixed)
    return Call(args, kwargs, mixed)


def _shared(body: StreamBody) -> list[int]:
    """The tensors of a call that all streams of the batch share."""
    specs = body.signature.frame_specs
    return [i for i, (shape, _) in enumerate(specs) if not shape or shape[0] != body.streams]


def _own(frames: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Copies that may be written and read in any mode."""
    with torch.inference_mode(False), torch.no_grad():
        return tuple(f.detach().clone() for f in frames)


def _copy_of(held: HeldState) -> HeldState:
    with torch.inference_mode(False), torch.no_grad():
        return replace(held, outputs=pytree.tree_map(_cloned, held.outputs), frames=_own(held.frames))


def _cloned(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _same(value: Any) -> Any:
    return value
