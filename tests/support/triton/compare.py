"""A stream beside the reference's: values and decisions, node by node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from tests.support.streams import assert_nodes_close, stream_of
from videoeff.kernels.call import RegionCall
from videoeff.kernels.change_test import distance
from videoeff.kernels.triton.plan import TritonPlan
from videoeff.passes import Pass, recipe
from videoeff.passes.bound_reach import BoundReach
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.runtime.observation import Observation
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import TOLERANCES, poison, relative_error

#: How far a node of a small network may be from the reference's; half precision as the table says.
NODE = {d: t.relative for d, t in TOLERANCES.items()} | {torch.float32: TOLERANCES[torch.float32].node}

#: Every change test, each with a threshold that holds some changes back; what is at the input differs, too.
THRESHOLDS: dict[str, InsertThresholds] = {
    "exact": InsertThresholds(),
    "max": InsertThresholds(0.05, "max", input_test="max"),
    "l2": InsertThresholds(0.2, "l2", input_test="l2"),
    "rms": InsertThresholds(0.05, "rms", input_test="rms", input_threshold=0.0),
    "relative": InsertThresholds(0.1),
    "blocks": InsertThresholds(0.1, block=4, dilation=1),
    "blocks-max": InsertThresholds(0.05, "max", input_test="max", block=3),
    "predicted": InsertThresholds(0.2, predict=1.0),
}

#: A bounded reach, with the change test that it is put behind.
BOUNDS: dict[str, tuple[str, BoundReach]] = {
    "bounded": ("exact", BoundReach(2, 6)),
    "bounded-relative": ("relative", BoundReach(1, 4)),
    "bounded-blocks": ("blocks", BoundReach(0, 0)),
    "bounded-predicted": ("predicted", BoundReach(2, 5)),
}


def passes(how: str) -> list[Pass]:
    """The usual passes with one of ``THRESHOLDS``, or of ``BOUNDS``."""
    test, *bound = BOUNDS.get(how, (how,))
    return [*recipe("delta")[:-1], THRESHOLDS[test], *bound]


def calls(stream: StreamingModule) -> dict[str, RegionCall]:
    """The calls of a stream by layer."""
    return {i.call.name: i.call for e in stream.engines.values() for i in e.plan.instructions}


def kernels(stream: StreamingModule) -> dict[str, str]:
    """Which backend serves each layer, with the reason where it is not the first."""
    found = [i for e in stream.engines.values() for i in e.plan.instructions]
    return {i.call.name: f"{i.kernel} ({i.reason})" if i.reason else i.kernel for i in found}


def triton_plans(stream: StreamingModule) -> list[TritonPlan]:
    """The plans of a stream that all run on the device."""
    groups = [g for e in stream.engines.values() for g in e.plan.groups]
    plans = [g for g in groups if isinstance(g, TritonPlan)]
    assert plans == groups
    return plans


def entry(outputs: Any, stream: int | slice) -> Any:
    """One stream's part of the outputs."""
    return pytree.tree_map(lambda t: t[stream], outputs)


def same(a: Any, b: Any) -> bool:
    """Bitwise equal outputs."""
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    return len(left) == len(right) and all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


@dataclass
class Twins:
    """One network as two poisoned streams, of a backend and of the reference.

    Attributes:
        stream: the backend's.
        reference: the reference's.
        module: the dense model.
        bound: how far two nodes may be apart, over the node's largest magnitude.
        flips: layers in which a change was as large as the threshold, but for rounding, and fell differently.
    """

    stream: StreamingModule
    reference: StreamingModule
    module: nn.Module
    bound: float
    flips: list[str] = field(default_factory=list)

    def frame(self, *frame: Tensor, follow: bool = False) -> tuple[Any, Any]:
        """One frame of both, compared node by node with each other and with float64; the outputs.

        Args:
            frame: the model's arguments.
            follow: start the stream from the reference's state, so that it decides about the same changes.
        """
        before = {name: value.clone() for name, value in self.reference.values().items()}
        if follow:
            self.stream.restore(self.reference.snapshot())
        with self.stream.observe() as seen, self.reference.observe() as expected:
            found, truth = self.stream(*frame), self.reference(*frame)
        alike = True
        for name, call in calls(self.reference).items():
            if alike:
                self._covers(call, seen, expected)
            alike &= bool((seen.changed[name] == expected.changed[name]).all())
            if not alike and not self._near_the_limit(call, seen, expected, before[name]):
                break  # what follows was computed from other values
            error = relative_error(self.stream.values()[name], self.reference.values()[name])
            assert error <= self.bound, f"{name}: {error:.2g}"
        assert_nodes_close(self.stream, seen)
        return found, truth

    def _covers(self, call: RegionCall, seen: Observation, expected: Observation) -> None:
        """Every pixel that a change reaches was computed, and no other pixel moved."""
        name, active = call.name, seen.active[call.name]
        assert not bool((seen.changed[name] & ~active).any()), f"{name}: a pixel moved that was not computed"
        if call.kind == "input":  # the reference looks at all of it
            return
        missed = int((expected.active[name] & ~active).sum())
        assert not missed, f"{name}: {missed} pixels that a change reaches were not computed"

    def _near_the_limit(
        self, call: RegionCall, seen: Observation, expected: Observation, before: Tensor
    ) -> bool:
        """Backends may disagree only about a change as large as the threshold; whether to go on comparing."""
        name, layout = call.name, call.layout
        mine, theirs = seen.changed[name], expected.changed[name]
        found, truth = self.stream.values()[name], self.reference.values()[name]
        kind = call.test.kind if call.test.threshold > 0 else "max"
        expected_by, found_by = (distance(v, before, layout, kind) for v in (truth, found))
        amount = torch.where(theirs, expected_by, found_by)
        limit = torch.tensor(call.test.threshold, device=amount.device)
        if call.scale:
            limit = limit * self.reference.engines[""].state[call.scale].view(-1, 1, 1)
        channels = truth.numel() / amount.numel()
        room = self.bound * float(truth.abs().max()) * (channels**0.5 if kind == "l2" else 1.0)
        clear = (mine != theirs) & ((amount - limit).abs() > room)
        assert not bool(clear.any()), f"{name}: {int(clear.sum())} decisions differ"
        if call.test.threshold == 0:
            return True
        if bool((mine != theirs).any()):
            self.flips.append(name)
            return False
        return True


def twins(
    module: nn.Module, *example: Tensor, how: str = "exact", backend: str = "triton", **options: Any
) -> Twins:
    """A backend's stream beside the reference's, both poisoned."""
    made = [
        stream_of(module, *example, passes=passes(how), backend=b, **options) for b in (backend, "reference")
    ]
    for stream in made:
        poison(stream)
    # cuDNN's own ways to convolve are not as exact as those of the CPU
    table = {d: t.relative for d, t in TOLERANCES.items()} if made[0].device.type == "cuda" else NODE
    bound = max(table[t.dtype] for t in example if t.is_floating_point())
    return Twins(made[0], made[1], module, bound)


def dense(module: nn.Module, *frame: Tensor) -> Any:
    """The dense model's outputs."""
    with torch.no_grad():
        return module(*frame)


def squares(
    count: int,
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Frames in which one small square changes, in one stream after the other."""
    generator = torch.Generator().manual_seed(seed)
    frame = torch.rand(shape, generator=generator)
    for index in range(count):
        if index:
            frame = frame.clone()
            top, left = (5 * index) % (shape[2] - 3), (7 * index) % (shape[3] - 4)
            part = frame[index % shape[0], :, top : top + 3, left : left + 4]
            part.copy_(torch.rand(part.shape, generator=generator))
        yield frame.to(device, dtype)
