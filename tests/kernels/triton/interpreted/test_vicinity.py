"""The kernels of a bounded reach beside their definition in plain PyTorch, over random bits, interpreted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from videoeff.kernels.bounded import bounded, packed, unpacked, vicinity_of
from videoeff.kernels.call import Bound, Context, Vicinity
from videoeff.ops.home import Near

FRAME = 7
FEW = settings(max_examples=15)


def memory_of(state: dict[str, Tensor], lists: int, fresh: dict[tuple[int, ...], Tensor]) -> Any:
    """The tensors of a plan of nothing else."""
    from videoeff.kernels.triton.binding import APART, Memory

    def zeros(dtype: torch.dtype) -> Tensor:
        return torch.zeros(lists * APART, dtype=dtype)

    return Memory(
        device=torch.device("cpu"), state=state, constants={}, lists=zeros(torch.int32),
        pixels=zeros(torch.int64), frame=torch.full((1,), FRAME, dtype=torch.int32), fresh=fresh,
        stale=zeros(torch.int32), processors=2,
    )  # fmt: skip


def stamped(mask: Tensor) -> Tensor:
    """Stamps of this frame where a mask is set, of the one before elsewhere."""
    return torch.where(mask, FRAME, FRAME - 1).to(torch.int32).flatten()


def squares(mask: Tensor, edge: int) -> Tensor:
    """Which squares of a mask (R, H, W) hold anything, (R, rows, columns)."""
    _, height, width = mask.shape
    padded = torch.nn.functional.pad(mask, (0, -width % edge, 0, -height % edge))
    high, wide = padded.shape[1] // edge, padded.shape[2] // edge
    return padded.view(-1, high, edge, wide, edge).amax((2, 4))


def sparse(shape: tuple[int, ...], one_in: int) -> Tensor:
    """Truth values, one in so many of them true."""
    return torch.randint(one_in, shape) == 0


def home(size: int, out: int, reach: int) -> tuple[Tensor, Tensor]:
    """Places that never fall, up to some pixels around where they would be."""
    centre = (torch.arange(out) * size) // out
    first = (centre - torch.randint(reach + 1, (1,))).clamp(0, size - 1)
    return first, (centre + torch.randint(reach + 1, (1,))).clamp(0, size - 1)


SIZES = st.tuples(st.integers(1, 40), st.sampled_from([1, 3, 17, 63, 64, 65, 130]))


@given(
    size=SIZES,
    sources=st.lists(st.tuples(SIZES, st.booleans(), st.sampled_from([0, 2, 90])), max_size=2),
    seed=st.integers(0, 99),
    moved=st.sampled_from([1, 60, 10**6]),
)
@FEW
def test_what_lies_near(
    size: tuple[int, int], sources: list[tuple[tuple[int, int], bool, int]], seed: int, moved: int
) -> None:
    """As ``vicinity_of`` says, of any sizes, of several sources or none, near everywhere or in part."""
    from videoeff.kernels.triton import vicinity
    from videoeff.kernels.triton.worklist import Worklist

    torch.manual_seed(seed)
    rows, masks, near = 2, {}, []
    for number, (extent, whole, reach) in enumerate(sources):
        masks[f"s{number}"] = sparse((rows, *extent), moved)
        places = (None, None) if whole else tuple(home(extent[i], size[i], reach) for i in range(2))
        near.append(Near(f"s{number}", (rows, *extent), *places))
    found = Vicinity("v", (rows, *size), tuple(near))
    memory, lists = memory_of({}, 4, {}), {}
    for number, (name, mask) in enumerate(masks.items()):
        extent = sources[number][0]
        source = Worklist(name, (rows, *extent), 1, 2 * number, tensors={"mask": stamped(mask)})
        listed = Worklist(vicinity.changed(name), (rows, *extent), vicinity.SQUARE, 2 * number + 1)
        listed.tensors = {"stamps": stamped(squares(mask, vicinity.SQUARE))}
        lists[listed.name] = listed
        launch = vicinity.pack_launch(vicinity.Source(source, listed), memory)
        listed.tensors["words"].fill_(-1)  # what another frame left
        launch.run(full=False, counting=True)
        assert torch.equal(unpacked(listed.tensors["words"].view(*mask.shape[:2], -1), mask.shape[2]), mask)
    vicinity.gather_launch(found, lists, memory).run(full=False, counting=True)
    context = Context((), {}, {}, torch.zeros(rows, dtype=torch.bool), False, False, masks)
    words = memory.vicinities["v"].view(rows, size[0], -1)
    assert torch.equal(words, packed(vicinity_of(found, context)))


@given(
    size=SIZES,
    tile=st.sampled_from([1, 2, 4, 16]),
    seed=st.integers(0, 99),
    fresh=st.sampled_from([(), (2,), (0, 2)]),
    sweep=st.sampled_from([0, 1, 3]),
    many=st.sampled_from([1, 3, 40, 10**6]),
)
@FEW
def test_what_is_put_off(
    size: tuple[int, int], tile: int, seed: int, fresh: tuple[int, ...], sweep: int, many: int
) -> None:
    """As ``bounded`` says of the pixels of the tiles reached; every tile with pixels that are due, once."""
    from videoeff.kernels.triton import vicinity
    from videoeff.kernels.triton.worklist import Worklist

    torch.manual_seed(seed)
    streams: tuple[int, ...] = (2, 0)  # of three streams, this value's rows belong to two
    extent = (2, *size)
    marks, near = (sparse(extent, many) for _ in range(2))
    tiles = squares(sparse(extent, 3 * many), tile)
    reached = tiles.repeat_interleave(tile, 1).repeat_interleave(tile, 2)[:, : size[0], : size[1]]
    starts = sorted(torch.randint(size[0] + 1, (sweep - 1,)).tolist()) if sweep else []
    bound = Bound(Vicinity("v", extent, ()), "d", "p", (0, *starts, size[0]) if sweep else ())
    phase = torch.tensor([2**31 - 1, 0, 4], dtype=torch.int32)
    flags = torch.tensor([s in fresh for s in range(3)])
    call = SimpleNamespace(extent=extent, layout=SimpleNamespace(streams=streams), name="x")
    context = Context((), {"d": packed(marks), "p": phase}, {}, flags, bool(fresh), False)
    context.vicinities["v"] = near
    expected = bounded(call, bound, context, reached)  # type: ignore[arg-type] # it is like a call
    expected = expected | context.fresh_rows(streams)

    state = {"d": packed(marks), "p": phase}
    if fresh:  # which hold nothing yet
        state["d"][context.fresh_rows(streams).flatten()] = -1
    memory = memory_of(state, 2, {streams: context.fresh_rows(streams).flatten().to(torch.uint8)})
    memory.vicinities["v"] = packed(near).flatten()
    own = Worklist("x", extent, tile, 0)
    own.tensors = {
        "listed": torch.full((own.tiles,), -1, dtype=torch.int32),
        "stamps": torch.zeros(own.tiles, dtype=torch.int32),
        "due": torch.full_like(packed(marks), -1).flatten(),
    }
    unbounded = Worklist("r", extent, tile, 1, tensors={"stamps": stamped(tiles)})
    b: Any = SimpleNamespace(memory=memory, worklist=own, unbounded=unbounded, call=call, streams=streams)
    vicinity.launch(b, bound).run(full=False, counting=True)
    due = own.tensors["due"].view(2, size[0], -1)
    assert torch.equal(due, packed(expected.expand(extent)))
    assert torch.equal(state["d"], context.state["d"])
    wanted = torch.nonzero(squares(expected, tile).flatten()).flatten().tolist()
    count = int(memory.count(own)[0])
    assert sorted(own.tensors["listed"][:count].tolist()) == wanted
    assert torch.nonzero(own.tensors["stamps"] == FRAME).flatten().tolist() == wanted


def test_a_mean_is_declined() -> None:
    """It is computed whole, which lowering knows; a bound of its own would have no place."""
    from dataclasses import replace

    from tests.support.streams import stream_of
    from videoeff.kernels.backend import Declined
    from videoeff.kernels.triton.describe import describe

    stream = stream_of(torch.nn.AdaptiveAvgPool2d(1), torch.rand(1, 3, 8, 8), backend="triton")
    call = stream.engines[""].plan.instructions[-1].call
    assert not isinstance(describe(call), Declined)
    found = describe(replace(call, bound=Bound(Vicinity("v", call.extent, ()), "d", "p", ())))
    assert isinstance(found, Declined)
    assert "a mean" in found.reason
