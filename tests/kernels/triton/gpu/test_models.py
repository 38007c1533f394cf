"""Networks of torchvision and timm at 1080p: node by node as the reference, outputs as the dense model's."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.streams import assert_nodes_close
from tests.support.triton.compare import calls, dense, kernels
from videoeff.bench.network import network, settle
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import TOLERANCES, poison, relative_error

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(900)]

MODELS = (
    "torchvision:mobilenet_v2", "torchvision:mobilenet_v3_large", "torchvision:resnet18",
    "torchvision:resnet50", "torchvision:efficientnet_b0", "torchvision:deeplabv3_resnet50",
    "torchvision:lraspp_mobilenet_v3_large", "torchvision:fasterrcnn_mobilenet_v3_large_fpn",
    "timm:hrnet_w18",
)  # fmt: skip
SIZE = (1088, 1920)  # hrnet adds branches, which fit only if sides divide by 32


@lru_cache(maxsize=1)
def model_of(reference: str) -> nn.Module:
    """A network with random weights and batch-norm statistics of a few pictures, in float32 on the CPU."""
    package = reference.partition(":")[0]
    if find_spec(package) is None:
        pytest.skip(f"needs {package}, which is not installed here")
    torch.manual_seed(0)
    model = network(reference)
    settle(model, SIZE, 0)
    return model.requires_grad_(False)


def frames(count: int, device: torch.device, dtype: torch.dtype) -> Iterator[Tensor]:
    """A coarse picture on which a square of fine noise moves; the last frame is all new."""
    generator = torch.Generator(device).manual_seed(0)

    def picture() -> Tensor:
        coarse = torch.rand(1, 3, SIZE[0] // 32, SIZE[1] // 32, generator=generator, device=device)
        fine = torch.rand(1, 3, *SIZE, generator=generator, device=device)
        return nn.functional.interpolate(coarse, SIZE, mode="bilinear") * 0.8 + fine * 0.2

    still, patch = picture(), torch.rand(1, 3, 200, 300, generator=generator, device=device)
    for index in range(count):
        frame = picture() if index == count - 1 else still.clone()
        if index < count - 1:
            top, left = 100 + 150 * index, 200 + 330 * index
            frame[:, :, top : top + 200, left : left + 300] = patch
        yield frame.to(dtype)


def stream_of(model: nn.Module, frame: Tensor, backend: str) -> StreamingModule:
    stream = videoeff.convert(model, frame, backend=backend)
    poison(stream)
    return stream


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("reference", MODELS, ids=lambda r: r.partition(":")[2])
def test_model(reference: str, dtype: torch.dtype, device: torch.device) -> None:
    """Frames that change in part, then one that changes everywhere."""
    model = copy.deepcopy(model_of(reference)).to(device, dtype)
    clip = list(frames(4, device, dtype))
    stream, oracle = stream_of(model, clip[0], "auto"), stream_of(model, clip[0], "reference")
    bound = TOLERANCES[dtype].relative
    for number, frame in enumerate(clip):
        with stream.observe() as seen:
            found = stream(frame)
        truth = oracle(frame)
        assert_nodes_close(stream, seen)
        for layer, value in oracle.values().items():
            error = relative_error(stream.values()[layer], value)
            assert error <= bound, f"frame {number}, {layer}: {error:.2g}"
        assert relative_error(found, truth) <= bound, number
        assert relative_error(found, dense(model, frame)) <= bound, number
    served = kernels(stream)
    others = {layer: why for layer, why in served.items() if why != "triton"}
    whole = sum(c.macs for c in calls(stream).values())
    outside = sum(c.macs for n, c in calls(stream).items() if n in others)
    assert outside <= 0.001 * whole, others
    shares = [x.active_share for x in stream.report().layers if x.active_share is not None]
    assert min(shares) < 0.5  # the last of three frames was all new
    del stream, oracle, model
    gc.collect()
