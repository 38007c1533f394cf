"""Every rule of a planned graph: a graph that breaks it is refused with the layer's name and the rule."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from tests.support.streams import captured, planned, tensors_of
from videoeff.analysis import annotate
from videoeff.analysis.verify import verify
from videoeff.errors import VerifyError
from videoeff.ir.parser import text_to_program
from videoeff.ir.program import Program


def program() -> Program:
    """Two streams through two convolutions."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 2, 4, 2, 1))
    return planned(captured(model, torch.rand(2, 3, 8, 8)))


def edited(old: str, new: str) -> Program:
    """The graph with the last ``old`` of its text replaced."""
    given = program()
    before, found, after = str(given).rpartition(old)
    assert found, f"{old!r} does not stand in\n{given}"
    text = before + new + after
    again = text_to_program(text, tensors_of(given), given.in_spec, given.out_spec)
    annotate(again)
    return again


def test_a_planned_graph_is_legal() -> None:
    verify(program())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind='map'", "kind='maps'", "2: kind='maps' is none of"),
        ("test='max'", "test='least'", "2: test='least' is none of"),
        ("threshold=0.0", "threshold=-0.1", "2: threshold=-0.1 must be a finite number"),
        ("threshold=0.0", "threshold=0.0, predict=-1.0", "2: predict=-1.0 must be a finite number"),
        ("threshold=0.0", "threshold=0.0, block=0", "2: block must be at least 1"),
        ("threshold=0.0", "threshold=0.0, weak=0.0", "2: weak=0.0: weak must be more than 0"),
        ("threshold=0.0", "threshold=0.0, grow=1", "2: a test by noise, or hits that grow, are of inputs"),
        ("threshold=0.0", "threshold=0.0, noise=((0.0, 1.0, 0.0,),)", "2: test='max' with noise="),
        ("threshold=0.0", "threshold=0.0, watched='1x8x8:'", "2: watched pixels are those of a frame alone"),
        ("threshold=0.0", "threshold=0.0, dilation=-1", "2: .* and dilation at least 0"),
        ("layout=(0, 2, 3,)", "layout=(0, 2, 2,)", "2: layout=.* does not name dimensions of"),
        ("layout=(0, 2, 3,)", "layout=(0, 2, 4,)", "2: layout=.* does not name dimensions of"),
        ("streams=(0, 1,), test", "streams=(0,), test", "2: streams=.* does not give each of its 2 row"),
        ("streams=(0, 1,), test", "streams=(0, 2,), test", "2: streams=.* one of 2 stream"),
        ("streams=(0, 1,), test='max', threshold=0.0", "streams=None, test='max', threshold=0.5",
         "2: its streams are mixed, so its threshold must stay 0"),
        ("'2', kind", "'0', kind", "share the layer name '0'"),
        ("conv2d.default(delta_cache,", "conv2d.default(input_1,", "reads the input input_1 without"),
        ('stage="planned"', 'stage="captured"', "stands in a graph that was not planned"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_named(old: str, new: str, said: str) -> None:
    with pytest.raises(VerifyError, match=said):
        verify(edited(old, new))


@pytest.mark.parametrize(
    ("watched", "said"),
    [
        ("'1x8x9:eNpjYGBgAAAABAAB'", "input_1: watched is a mask of 1x8x9 for an input of [2, 8, 8]"),
        ("'1x8x8:'", "input_1: watched: it has 0 byte(s) for 64 pixels"),
        ("'1x8x8:eJz7DwABAQEA'", "input_1: watched: "),
        ("7", "input_1: watched is no mask of pixels"),
        ("None", "input_1: watched is no mask of pixels"),
    ],
)
def test_watched_pixels_that_are_no_mask(watched: str, said: str) -> None:
    given = program()
    text = str(given).replace("kind='input'", f"kind='input', watched={watched}", 1)
    again = text_to_program(text, tensors_of(given), given.in_spec, given.out_spec)
    annotate(again)
    with pytest.raises(VerifyError, match=re.escape(said)):
        verify(again)
