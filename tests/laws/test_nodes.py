"""The node check of half-precision streams fails where a kernel leaves something out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.support.streams import BACKENDS, assert_nodes_close, node_errors, stream_of
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import TOLERANCES, moving_clip, relative_error

SHAPE = (2, 3, 18, 22)
CONSTANTS = ["0.bias", "2.bias", "4.bias", "4.weight"]


def made(backend: str, dtype: torch.dtype) -> tuple[nn.Module, StreamingModule, list[Tensor]]:
    """A network, its stream, two frames."""
    first, second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Conv2d(16, 4, 1)).to(dtype).eval()
    frames = list(moving_clip(2, SHAPE, dtype=dtype))
    return model, stream_of(model, frames[0], backend=backend), frames


def leave_out(stream: StreamingModule, constant: str, channels: int | None = None) -> None:
    """Give the kernels zeros for a constant, or for its first channels; the check has the true one."""
    (engine,) = stream.engines.values()
    zeroed = engine._constants[constant].clone()
    zeroed[:channels] = 0
    engine._constants = {**engine._constants, constant: zeroed}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("constant", CONSTANTS)
def test_a_constant_that_is_left_out_is_caught(constant: str, dtype: torch.dtype, backend: str) -> None:
    _, stream, frames = made(backend, dtype)
    leave_out(stream, constant)
    for frame in frames:
        with stream.observe() as seen:
            stream(frame)
        wrong = {name for name, error in node_errors(stream, seen).items() if error > TOLERANCES[dtype].node}
        assert wrong == {constant.partition(".")[0]}
        with pytest.raises(AssertionError, match=rf"^{constant[0]}: .* exceeds {TOLERANCES[dtype].node:g} "):
            assert_nodes_close(stream, seen)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_outputs_alone_would_let_it_pass(backend: str) -> None:
    """Four channels without their bias are within what half precision may differ from the dense model."""
    dtype = torch.bfloat16
    model, stream, frames = made(backend, dtype)
    leave_out(stream, "2.bias", channels=4)
    for frame in frames:
        with stream.observe() as seen, torch.no_grad():
            error = relative_error(stream(frame), model(frame))
        assert TOLERANCES[dtype].node < error <= TOLERANCES[dtype].relative
        with pytest.raises(AssertionError, match=r"^2: .* exceeds 0.01 "):
            assert_nodes_close(stream, seen)
