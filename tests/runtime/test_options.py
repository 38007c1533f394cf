"""Options of a stream: checked when made and when set."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.calls import make
from tests.support.small_nets import SIZE
from videoeff.errors import StateError
from videoeff.runtime.options import Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nan_policy": "ignore"}, "nan_policy='ignore' is none of error, recompute"),
        ({"on_resize": "yes"}, "on_resize='yes' is none of error, replan"),
        ({"on_resize": None}, "on_resize=None is none of"),
    ],
)
def test_unknown_words(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StateError, match=message):
        Options(**options)


def test_options_set_later() -> None:
    _, stream = make()
    with pytest.raises(StateError, match="nan_policy='no'"):
        stream.nan_policy = "no"
    with pytest.raises(StateError, match="on_resize='no'"):
        stream.on_resize = "no"
    assert stream.options == Options()
    broken = torch.full(SIZE, float("nan"))
    with pytest.raises(StateError, match="NaN"):
        stream(broken)
    stream.nan_policy = "recompute"
    assert not bool(torch.isfinite(stream(broken)).any())
    stream.alias_outputs = True
    frame = torch.rand(SIZE)
    assert stream(frame).data_ptr() == stream(frame).data_ptr()
