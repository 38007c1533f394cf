"""Masks of watched pixels as text."""

from __future__ import annotations

import base64
import re
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from videoeff.ir.watched import mask_to_text, text_to_mask, watched_problem


@given(extent=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 70)), seed=st.integers(0, 99))
def test_a_mask_reads_back(extent: tuple[int, int, int], seed: int) -> None:
    mask = torch.rand(extent, generator=torch.Generator().manual_seed(seed)) > 0.5
    text = mask_to_text(mask)
    assert (text == "") == bool(mask.all())
    assert watched_problem(text, extent) == ""
    if text:
        assert torch.equal(text_to_mask(text), mask)
        assert text.isascii()
        assert "'" not in text
        assert "#" not in text


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (5, "no mask"),
        (None, "no mask"),
        ("x", "no mask"),
        ("1x8x8", "no mask"),
        ("1x8x8:?", "no mask"),
        (f"2x8x8:{packed(bytes(16))}", r"a mask of 2x8x8 for an input of \[3, 8, 8\]"),
        (f"1x8x9:{packed(bytes(9))}", "a mask of 1x8x9"),
        ("1x8x8:abc", "bits cannot be read"),
        ("1x8x8:YWJj", "bits cannot be read"),
        (f"1x8x8:{packed(bytes(7))}", r"7 byte\(s\) for 64 pixels"),
        (f"1x8x8:{packed(bytes(10**7))}", r"9 byte\(s\) for 64 pixels"),  # no more is unpacked
    ],
)
def test_what_is_no_mask(text: object, said: str) -> None:
    problem = watched_problem(text, (3, 8, 8))
    assert re.search(said, problem), problem
