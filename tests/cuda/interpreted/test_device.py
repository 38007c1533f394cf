"""Lists on the device, interpreted: no unit twice, nothing left over from the frame before."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

UNITS, WIDTH = 24, 16
APPENDS = st.lists(
    st.lists(st.tuples(st.integers(0, UNITS - 1), st.booleans()), min_size=WIDTH, max_size=WIDTH), max_size=4
)


@given(frames=st.lists(APPENDS, min_size=1, max_size=3))
def test_append_lists_every_unit_once(frames: list[list[list[tuple[int, bool]]]]) -> None:
    """In one append, over several, and afresh in the next frame."""
    from tests.cuda.interpreted.appending import append

    stamps, listed = torch.zeros(UNITS, dtype=torch.int32), torch.full((UNITS,), -1, dtype=torch.int32)
    for frame, appends in enumerate(frames, 1):
        count = torch.zeros(1, dtype=torch.int32)
        wanted: set[int] = set()
        for pairs in appends:
            units = torch.tensor([u for u, _ in pairs], dtype=torch.int32)
            which = torch.tensor([w for _, w in pairs], dtype=torch.int32)
            append[(1,)](units, which, stamps, listed, count, frame, N=WIDTH)
            wanted |= {u for u, w in pairs if w}
            found = listed[: int(count)].tolist()
            assert len(found) == len(set(found)), "a unit twice"
            assert set(found) == wanted
            assert set(torch.nonzero(stamps == frame).flatten().tolist()) == wanted
