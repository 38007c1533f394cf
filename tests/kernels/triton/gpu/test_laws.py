"""The laws, on a GPU."""

from __future__ import annotations

import pytest
import torch

from tests.support.streams import stream_of
from tests.support.triton.compare import dense, squares
from tests.support.triton.laws import *  # noqa: F403 - the tests themselves
from tests.support.triton.nets import NETS, build
from videoeff.testing import TOLERANCES, poison, relative_error

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", NETS)
def test_law_1_of_every_backend(name: str, backend: str, dtype: torch.dtype, device: torch.device) -> None:
    """Also where no kernel serves a dtype."""
    module = build(name, device, dtype)
    frames = list(squares(4, (2, 3, 45, 58), device, dtype))
    stream = stream_of(module, frames[0], backend=backend)
    poison(stream)
    for frame in frames:
        assert relative_error(stream(frame), dense(module, frame)) <= TOLERANCES[dtype].relative
