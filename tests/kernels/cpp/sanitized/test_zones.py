"""Ignored pixels in native plans: the reference's decisions to the bit, in rows and frames of any form."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.native_streams import ISAS, THRESHOLDS, engine_of, passes, plans_of
from tests.support.streams import stream_of
from videoeff.errors import StateError
from videoeff.kernels.bounded import packed
from videoeff.kernels.cpp import abi, library
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.runtime.zoning import apply
from videoeff.testing import moving_clip, poison

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "it is there")

#: Rows of less than a word, and of several words; no multiple of any vector.
WIDTHS = (7, 150)
NAME = "input_1"


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


def stream(how: str, width: int, dtype: torch.dtype, backend: str = "cpp") -> StreamingModule:
    """A stream of 2 x 3 x 19 x width."""
    torch.manual_seed(0)
    example = torch.rand(2, 3, 19, width, dtype=dtype)
    found = stream_of(net().to(dtype), example, passes=passes(how), backend=backend)
    poison(found)
    return found


def mask(width: int, seed: int = 0) -> Tensor:
    """Rows that are watched, rows that are ignored, and rows with holes, in each of two streams."""
    found = torch.rand(2, 19, width, generator=torch.Generator().manual_seed(seed)) > 0.4
    found[0, 2:9] = False
    found[1, 5:14, : width // 2] = False
    found[:, 15:17] = True
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("how", THRESHOLDS)
def test_every_instruction_set_ignores_like_the_reference(how: str, width: int) -> None:
    native, reference = (stream(how, width, torch.float64, backend) for backend in ("cpp", "reference"))
    watched = mask(width)
    for one in (native, reference):
        apply(one.body, {0: watched})
    (plan,) = plans_of(native)
    for isa in range(len(ISAS)):
        plan.release()
        plan.isa = isa
        for one in (native, reference):
            one.reset()
            one.clear_report()
        first: list[Tensor] = []
        for number, frame in enumerate(moving_clip(5, (2, 3, 19, width), noise=0.05, dtype=torch.float64)):
            if number == 3:
                native.reset(1)
                reference.reset(1)
            with native.observe() as seen, reference.observe() as expected:
                native(frame)
                reference(frame)
            assert torch.equal(seen.changed[NAME], expected.changed[NAME]), f"{ISAS[isa]}, frame {number}"
            kept = native.values()[NAME]
            assert torch.equal(kept, reference.values()[NAME])
            first = [frame[0] if not first else first[0], frame[1] if number in (0, 3) else first[1]]
            for row, base in enumerate(first):
                assert torch.equal(kept[row][:, ~watched[row]], base[:, ~watched[row]])
                if number not in ((0,), (0, 3))[row]:
                    assert not bool((seen.changed[NAME][row] & ~watched[row]).any())
        figures = [engine_of(one).recorder for one in (native, reference)]
        assert (
            figures[0]._figures.keys() == figures[1]._figures.keys() == ({NAME} if how != "exact" else set())
        )
        for name in figures[0]._figures:
            ours, theirs = (recorder.series(name)[1] for recorder in figures)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, equal_nan=True)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "planes": lambda f: f,
    "channels last": lambda f: f.contiguous(memory_format=torch.channels_last),
    "columns first": lambda f: f.transpose(2, 3).contiguous().transpose(2, 3),
    "every second column": lambda f: f.repeat_interleave(2, 3)[..., ::2],
    "upside down in memory": lambda f: f.flip(2).contiguous().flip(2),
}


@pytest.mark.parametrize("how", ["exact", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_of_any_form(dtype: torch.dtype, how: str) -> None:
    """The same pixels are stored however the frame lies; in each form what is not finite is found."""
    zoned, plain = (stream(how, 37, dtype) for _ in range(2))
    watched = mask(37)
    apply(zoned.body, {0: watched})
    shown = watched.unsqueeze(1)
    for name, form in FORMS.items():
        zoned.reset()
        plain.reset()
        frames = [form(f) for f in moving_clip(3, (2, 3, 19, 37), noise=0.1, dtype=dtype)]
        for frame in frames:
            assert torch.equal(zoned(frame), plain(torch.where(shown, frame, frames[0]))), name
        for place in ((0, 2, 4, 5), (1, 0, 6, 1), (0, 1, 16, 36), (1, 2, 18, 36)):
            bad = form(frames[1].clone(memory_format=torch.preserve_format))
            bad[place] = float("inf")
            before = zoned.values()[NAME].clone()
            with pytest.raises(StateError, match="NaN or infinity at"):
                zoned(bad)
            assert torch.equal(zoned.values()[NAME], before)


def refused(edit: Callable[[Any], object]) -> str:
    """What the native side says of edited descriptors of a stream with zones; "" if it takes them."""
    found = stream("exact", 37, torch.float32)
    apply(found.body, {0: mask(37)})
    found(torch.rand(2, 3, 19, 37))
    (plan,), engine = plans_of(found), engine_of(found)
    ops, masks, kept = plan.descriptors(engine._state, engine._constants)
    kept.append(edit(ops))
    native, error = library.load(), ctypes.create_string_buffer(512)
    handle = native.vf_plan_create(ops, len(ops), masks, len(masks), -1, error, len(error))
    if handle:
        native.vf_plan_destroy(handle)
    del kept
    return error.value.decode()


def test_watched_pixels_are_checked() -> None:
    assert refused(lambda _: None) == ""

    def beyond(ops: Any) -> Tensor:
        bits = packed(mask(37))
        bits[1, 7, 0] |= 1 << 37
        ops[0].watched = bits.data_ptr()
        return bits

    assert refused(beyond) == "op 0: watched pixels beyond its row 26"

    def elsewhere(ops: Any) -> None:
        assert ops[1].kind == abi.Kind.CONV
        ops[1].watched = ops[0].watched

    assert "of watched pixels, is for inputs" in refused(elsewhere)


def test_a_plan_copies_what_it_is_told() -> None:
    """The descriptor's memory may go; other zones make another plan."""
    zoned, plain = (stream("exact", 37, torch.float32) for _ in range(2))
    frames = list(moving_clip(4, (2, 3, 19, 37), noise=0.1))
    seen = frames[0]
    for number, frame in enumerate(frames):
        watched = mask(37, number)
        apply(zoned.body, {0: watched})
        seen = torch.where(watched.unsqueeze(1), frame, seen) if number else frame
        assert torch.equal(zoned(frame), plain(seen))
        (plan,) = plans_of(zoned)
        assert plan.nbytes["masks"] >= plans_of(plain)[0].nbytes["masks"] + 2 * 19 * 8
