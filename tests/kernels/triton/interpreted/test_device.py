"""Lists on the device, interpreted: no tile twice, nothing left from the frame before; places of pixels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.streams import stream_of
from tests.support.triton.compare import dense, squares
from tests.support.triton.nets import NETS, build
from videoeff.testing import TOLERANCES, relative_error

TILES, WIDTH = 24, 16
APPENDS = st.lists(
    st.lists(st.tuples(st.integers(0, TILES - 1), st.booleans()), min_size=WIDTH, max_size=WIDTH), max_size=4
)


@given(frames=st.lists(APPENDS, min_size=1, max_size=3))
def test_append_lists_every_tile_once(frames: list[list[list[tuple[int, bool]]]]) -> None:
    """In one append, over several, and afresh in the next frame."""
    from tests.support.triton.appending import append

    stamps, listed = torch.zeros(TILES, dtype=torch.int32), torch.full((TILES,), -1, dtype=torch.int32)
    for frame, appends in enumerate(frames, 1):
        count = torch.zeros(1, dtype=torch.int32)
        wanted: set[int] = set()
        for pairs in appends:
            tiles = torch.tensor([u for u, _ in pairs], dtype=torch.int32)
            which = torch.tensor([w for _, w in pairs], dtype=torch.int32)
            append[(1,)](tiles, which, stamps, listed, count, frame, N=WIDTH)
            wanted |= {u for u, w in pairs if w}
            found = listed[: int(count)].tolist()
            assert len(found) == len(set(found)), "a tile twice"
            assert set(found) == wanted
            assert set(torch.nonzero(stamps == frame).flatten().tolist()) == wanted


@given(number=st.integers(0, (1 << 30) - 1), by=st.integers(1, (1 << 30) - 1))
def test_division_by_a_product(number: int, by: int) -> None:
    """Of every number that may come, by every size that may be."""
    from videoeff.kernels.triton.binding import divisor

    how = divisor(by)
    factor, shift = how >> 5, how & 31
    assert factor < 1 << 32
    assert (2 * number * factor >> 32) >> shift == number // by


def test_division_on_the_device() -> None:
    """At the ends of what may come."""
    from tests.support.triton.appending import divide
    from videoeff.kernels.triton.binding import divisor

    for by in (1, 2, 3, 7, 16, 480, 65535, 1 << 29):
        numbers = [n for n in (0, 1, by - 1, by, by + 1, 3 * by - 1, (1 << 30) - 1) if n < 1 << 30]
        given_ = torch.tensor((numbers + [0] * 8)[:8], dtype=torch.int32)
        quotient, rest = torch.zeros_like(given_), torch.zeros_like(given_)
        divide[(1,)](given_, by, divisor(by), quotient, rest, N=8)
        assert torch.equal(quotient, given_ // by), by
        assert torch.equal(rest, given_ % by), by


@pytest.mark.parametrize("r", [0, 3, 40])
def test_places_in_large_memory(r: int) -> None:
    """Of 40 streams of a map of 2^26 elements some lie past what 32 bits tell."""
    from tests.support.triton.appending import places
    from videoeff.kernels.triton.binding import VAST
    from videoeff.kernels.triton.records import ViewArgs

    strides, even, found = (1 << 26, 1 << 14, 8), 8, torch.zeros(2, dtype=torch.int64)
    vast = tl_constexpr(strides[0] * (r + 1) >= VAST)
    row, line, column = (s // even for s in strides)
    view = ViewArgs(torch.zeros(1), *strides, 1, tl_constexpr(even), row, line, column, None, vast)
    places[(1,)](view, found, r, 5, 7)
    first = r * strides[0] + 5 * strides[1] + 7 * strides[2]
    assert found.tolist() == [first, first + 1]


@pytest.mark.parametrize("name", NETS)
def test_networks_in_large_memory(name: str, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """Places in 64 bits are the same places."""
    from videoeff.kernels.triton import binding

    frames = list(squares(2, (2, 3, 13, 18), device))
    expected = [dense(build(name, device), f) for f in frames]
    monkeypatch.setattr(binding, "VAST", 1)
    stream = stream_of(build(name, device), frames[0], backend="triton")
    for frame, truth in zip(frames, expected, strict=True):
        assert relative_error(stream(frame), truth) <= TOLERANCES[torch.float32].relative


def tl_constexpr(value: int) -> object:
    """A number known at compile time."""
    import triton.language as tl

    return tl.constexpr(value)
