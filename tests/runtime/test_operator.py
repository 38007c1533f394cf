"""A stream inside torch.compile and torch.export is one operator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import videoeff
from videoeff.errors import BackendError, StateError
from videoeff.testing import assert_close


class Around(nn.Module):
    """A network that holds a stream."""

    def __init__(self, stream: nn.Module) -> None:
        super().__init__()
        self.stream = stream

    def forward(self, frame: Tensor) -> Tensor:
        result: Tensor = self.stream(frame * 2.0) + 1.0
        return result


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1)).eval()


def clip() -> list[Tensor]:
    torch.manual_seed(1)
    first = torch.rand(1, 3, 21, 18)
    frames = [first]
    for step in range(1, 4):
        frames.append(frames[-1].clone())
        frames[-1][..., 2 * step : 2 * step + 4, 3:7] += 0.5
    return frames


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiled_without_a_graph_break(compiler: str) -> None:
    net = network()
    stream = videoeff.convert(net, clip()[0])
    torch._dynamo.reset()
    compiled = torch.compile(Around(stream), backend=compiler, fullgraph=True)
    with torch.no_grad():
        for frame in clip():
            assert_close(compiled(frame), net(frame * 2.0) + 1.0)
        assert stream.report().frames == len(clip()) - 1
        # The buffers stay as the frame left them: the next frame recomputes little.
        share = stream.report().layers[1].active_share
        assert share is not None
        assert 0 < share < 0.5
        stream.reset()
        assert_close(compiled(clip()[2]), net(clip()[2] * 2.0) + 1.0)
    torch._dynamo.reset()


def test_a_compiled_frame_with_nan_is_refused() -> None:
    net = network()
    stream = videoeff.convert(net, clip()[0])
    torch._dynamo.reset()
    compiled = torch.compile(Around(stream), backend="aot_eager", fullgraph=True)
    bad = clip()[1]
    bad[0, 1, 2, 3] = float("nan")
    with torch.no_grad():
        compiled(clip()[0])
        with pytest.raises(StateError, match=r"argument 0 holds NaN or infinity at 1 element\(s\)"):
            compiled(bad)
        assert_close(compiled(clip()[2]), net(clip()[2] * 2.0) + 1.0)
    torch._dynamo.reset()


def test_a_compiled_frame_of_another_size() -> None:
    stream = videoeff.convert(network(), clip()[0])
    torch._dynamo.reset()
    compiled = torch.compile(Around(stream), backend="eager", fullgraph=False)
    with torch.no_grad(), pytest.raises(StateError, match="convert"):
        compiled(torch.rand(1, 3, 30, 18))
    torch._dynamo.reset()


def test_exported_as_one_operator() -> None:
    net = network()
    stream = videoeff.convert(net, clip()[0])
    program = torch.export.export(Around(stream), (clip()[0],), strict=False)
    called = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert torch.ops.videoeff.frame.default in called
    assert not any("convolution" in str(t) or "conv2d" in str(t) for t in called)
    module = program.module()
    with torch.no_grad():
        for frame in clip():
            assert_close(module(frame), net(frame * 2.0) + 1.0)


def test_the_operator_without_its_stream() -> None:
    net = network()
    stream = videoeff.convert(net, clip()[0])
    program = torch.export.export(Around(stream), (clip()[0],), strict=False).module()
    frame = torch.ops.videoeff.frame
    gone = stream.number + 1000
    with pytest.raises(StateError, match=f"no stream {gone} in this process"):
        frame([clip()[0]], stream.ticket, [], gone)
    with torch.no_grad():
        assert_close(program(clip()[0]), net(clip()[0] * 2.0) + 1.0)  # the one that is there serves on


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(BackendError, match="device='cuda:99' cannot be used here"):
        videoeff.convert(network(), clip()[0], device="cuda:99")


def test_the_device_of_the_model_is_served_by_the_backend_asked_for() -> None:
    stream = videoeff.convert(network(), clip()[0], device="cpu", backend="reference")
    assert {i.kernel for i in stream.engines[""].plan.instructions} == {"reference"}
    with torch.no_grad():
        assert_close(stream(clip()[0]), network()(clip()[0]))
