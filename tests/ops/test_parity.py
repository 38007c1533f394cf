"""Every op, every case, every backend: the stream equals the dense model and computes only what it must."""

from __future__ import annotations

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from tests.support.op_cases import ALL, build
from tests.support.streams import BACKENDS, captured, stream_of
from videoeff.ir.layout import info
from videoeff.ops import OPS, Case, Op, op_of
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import changing_frames, poison, relative_error

#: Cases in which a pixel in one corner reaches the opposite one: an op looks at all pixels of a map and a map
#: follows, or opposite borders are neighbours.
EVERYWHERE = {
    "pixel-gate", "softmax-pixels", "linear-convnext", "reduce-squeeze-excite", "expand-spread",
    "convolution-circular", "convolution-circular-wide",
}  # fmt: skip

#: Cases with a call whose pixels or streams cannot be followed.
UNTRACED = {"softmax-pixels", "global-group", "global-attention", "global-bicubic", "global-roll"}


def dense(module: nn.Module, frame: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        return [t for t in pytree.tree_leaves(module(*frame)) if isinstance(t, Tensor)]


def test_every_op_has_cases() -> None:
    assert not [op.name for op in OPS if not op.cases()]
    for op in OPS:
        names = [case.name for case in op.cases()]
        assert len(names) == len(set(names)), f"{op.name}: two cases share a name"


@pytest.mark.parametrize(("op", "case"), ALL)
def test_case_holds_its_op(op: Op, case: Case) -> None:
    module, example = build(case)
    program = captured(module, *example)
    marker = op.name == "delta_cache"  # stands in planned graphs only
    assert marker or any(op_of(n) is op for n in program.nodes)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("op", "case"), ALL)
def test_stream_equals_dense(op: Op, case: Case, backend: str) -> None:
    module, example = build(case)
    stream = stream_of(module, *example, backend=backend)
    poison(stream)
    last, result = example, None
    for number, frame in enumerate(changing_frames(case.shapes, 6, seed=1)):
        last, result = frame, stream(*frame)
        assert relative_error(pytree.tree_leaves(result), dense(module, frame)) <= 1e-9, f"frame {number}"
    with stream.observe() as seen:
        again = stream(*last)
    assert not [n for n, mask in seen.active.items() if n and mask.any() and not is_input(stream, n)]
    assert not [n for n, mask in seen.changed.items() if mask.any()]
    assert relative_error(again, result) == 0.0


def is_input(stream: StreamingModule, layer: str) -> bool:
    calls = [i.call for e in stream.engines.values() for i in e.plan.instructions]
    return next(c.kind for c in calls if c.name == layer) == "input"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("op", "case"), ALL)
def test_a_pixel_in_a_corner_stays_local(op: Op, case: Case, backend: str) -> None:
    """One pixel of stream 0 changes: stream 1 rests, and so does the opposite corner of all maps."""
    module, example = build(case)
    stream = stream_of(module, *example, backend=backend)
    poison(stream)
    stream(*example)
    touched = tuple(t.clone() for t in example)
    touched[0][0, ..., 0, 0] += 100.0
    with stream.observe() as seen:
        result = stream(*touched)
    assert relative_error(pytree.tree_leaves(result), dense(module, touched)) <= 1e-9
    whole = []
    for engine in stream.engines.values():
        for call in (i.call for i in engine.plan.instructions if i.call.kind != "input"):
            active, changed = seen.active[call.name], seen.changed[call.name]
            streams = call.layout.streams
            if streams is not None and len(streams) == len(active):
                for row, owner in enumerate(streams):
                    assert owner == 0 or not active[row].any(), f"{call.name}: stream 1 was computed"
            if active.shape[1] * active.shape[2] > 1 and bool(active[0, -1, -1]):
                whole.append(call.name)
            assert not bool((changed & ~active).any()), f"{call.name}: a pixel changed that was not computed"
    known = f"{op.name}-{case.name}" in EVERYWHERE
    assert bool(whole) == known, f"computed in the opposite corner: {whole}"


@pytest.mark.parametrize(("op", "case"), ALL)
def test_traced_where_it_can_be(op: Op, case: Case) -> None:
    """A rule that silently gives up would make everything correct and slow."""
    module, example = build(case)
    program = captured(module, *example)
    values = [(n.name, info(n)) for n in program.nodes if n.op not in ("output", "get_attr")]
    lost = [n for n, v in values if v.dense or (v.layout is not None and v.layout.streams is None)]
    assert bool(lost) == (f"{op.name}-{case.name}" in UNTRACED), lost
