"""A frame on a GPU: nothing waits, nothing is allocated, one graph is replayed, on any stream and device."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.streams import stream_of
from tests.support.triton.compare import THRESHOLDS, calls, dense, passes, squares, triton_plans
from tests.support.triton.nets import NETS, build
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import TOLERANCES, poison, relative_error

pytestmark = pytest.mark.gpu

SHAPE = (2, 3, 61, 83)
HOW = ("exact", "relative", "blocks", "predicted")
BOUND = TOLERANCES[torch.float32].relative


def make(name: str, how: str, device: torch.device, **options: Any) -> tuple[StreamingModule, list[Tensor]]:
    """A stream that has seen three frames, and frames that follow."""
    frames = list(squares(9, SHAPE, device))
    stream = stream_of(build(name, device), frames[0], passes=passes(how), backend="triton", **options)
    poison(stream)
    for frame in frames[:3]:
        stream(frame)
    torch.cuda.synchronize()
    return stream, frames[3:]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", NETS)
def test_nothing_waits_for_the_device(name: str, how: str, device: torch.device) -> None:
    stream, frames = make(name, how, device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for frame in frames:
            stream(frame)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", NETS)
def test_nothing_is_allocated(name: str, how: str, device: torch.device) -> None:
    stream, frames = make(name, how, device, alias_outputs=True)

    def allocations() -> int:
        return int(torch.cuda.memory_stats(device)["allocation.all.allocated"])

    before = allocations()
    for frame in frames:
        stream(frame)
    assert allocations() == before


#: Kernels of a frame that belong to no region: its opening, where the picture lies (at most an address and
#: four strides), and that NaN was found.
OPENING = 1 + 5 + 1


def most_kernels(stream: StreamingModule) -> int:
    """How many kernels a frame may have: one for each region, and a few more.

    A second one for an input that is tested in blocks and for a prediction, and four for the sums of a mean
    and the parts of the linear layers behind it.
    """
    total = OPENING
    for call in calls(stream).values():
        pooled = call.extent[1:] == (1, 1)
        total += (
            1 + (call.kind == "input" and call.test.block > 1) + (call.prediction is not None) + 4 * pooled
        )
    return total


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", NETS)
def test_one_graph_is_replayed(name: str, how: str, device: torch.device) -> None:
    """One launch by the host, and at most one kernel for each region beside those listed above."""
    stream, frames = make(name, how, device, alias_outputs=True)
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        for frame in frames[:4]:
            stream(frame)
        torch.cuda.synchronize()
    events = profile.events()
    assert events is not None
    graphs = [e for e in events if e.name == "cudaGraphLaunch"]
    launched = [e for e in events if e.name in ("cudaLaunchKernel", "cuLaunchKernel", "cuLaunchKernelEx")]
    device_kinds = [e for e in events if e.device_type.name == "CUDA"]
    ran = [e for e in device_kinds if not e.name.startswith(("Memcpy", "Memset", "cudaGraph"))]
    assert len(graphs) == 4
    assert len(launched) <= 4 * 5  # where the frame lies
    assert 0 < len(ran) <= 4 * most_kernels(stream), sorted({e.name for e in ran})


@pytest.mark.slow
@pytest.mark.parametrize("how", ["exact", "predicted"])
def test_ten_thousand_frames_keep_no_memory(how: str, device: torch.device) -> None:
    module = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1)).to(device)
    frames = list(squares(50, (1, 3, 32, 40), device))
    stream = stream_of(module, frames[0], passes=passes(how), backend="triton")
    for frame in frames:
        stream(frame)
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    held = sum(issubclass(type(o), Tensor) for o in gc.get_objects())
    for number in range(10_000):
        result = stream(frames[number % 50])
    torch.cuda.synchronize()
    del result
    gc.collect()
    assert (torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)) == before
    assert sum(issubclass(type(o), Tensor) for o in gc.get_objects()) <= held
    if how == "exact":
        stream(frames[0])
        assert relative_error(stream(frames[1]), dense(module, frames[1])) <= BOUND


def test_frame_1000_is_no_worse_than_frame_2(device: torch.device) -> None:
    """Errors do not add up: what is computed never starts from what was computed before."""
    module = build("gates", device)
    frames = list(squares(40, SHAPE, device))
    stream = stream_of(module, frames[0], backend="triton")
    poison(stream)
    stream(frames[0])
    second = relative_error(stream(frames[1]), dense(module, frames[1]))
    for number in range(2, 999):
        stream(frames[number % 40])
    last = relative_error(stream(frames[1]), dense(module, frames[1]))
    assert second <= BOUND / 10
    assert last <= max(second, 2 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("name", NETS)
def test_another_cuda_stream(name: str, device: torch.device) -> None:
    """Made on one and used on others; each frame waits for the one before, as the caller's streams say."""
    module = build(name, device)
    frames = list(squares(6, SHAPE, device))
    stream = stream_of(module, frames[0], backend="triton")
    poison(stream)
    torch.cuda.synchronize()
    found = []
    for number, frame in enumerate(frames):
        own = torch.cuda.current_stream(device)
        if number % 2:
            own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # as PyTorch has it
        own.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(own):
            found.append(stream(frame))
        torch.cuda.current_stream(device).wait_stream(own)
    torch.cuda.synchronize()
    for frame, result in zip(frames, found, strict=True):
        assert relative_error(result, dense(module, frame)) <= BOUND


def test_a_second_device() -> None:
    """While the first one is the current one."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices; there is one here")
    import videoeff

    place = torch.device("cuda", 1)
    module = build("gates", place)
    assert torch.cuda.current_device() == 0
    frames = list(squares(4, SHAPE, place))
    streams = [
        stream_of(module, frames[0], backend="triton"),
        videoeff.convert(
            build("gates", torch.device("cpu")), frames[0].cpu(), device=place, backend="triton"
        ),
    ]
    for frame in frames:
        for stream in streams:
            result = stream(frame)
            assert result.device == place
            assert relative_error(result, dense(module, frame)) <= BOUND


def test_copies_moves_and_casts(device: torch.device) -> None:
    """A copy has buffers and a graph of its own; on the CPU and back, and in half precision, it goes on."""
    stream, frames = make("residual", "exact", device)
    module = build("residual", device)
    twin = copy.deepcopy(stream)
    assert relative_error(twin(frames[0]), stream(frames[0])) == 0.0
    twin.to("cpu").to(device)
    assert relative_error(twin(frames[1]), dense(module, frames[1])) <= BOUND
    twin.half()
    result = twin(frames[2].half())
    assert (
        relative_error(result, dense(module.half(), frames[2].half())) <= TOLERANCES[torch.float16].relative
    )


def test_float32_rounded_to_tf32(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorch's setting for convolutions allows."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    module = build("pyramid", device)
    frames = list(squares(4, SHAPE, device))
    stream = stream_of(module, frames[0], backend="triton")
    for frame in frames:
        assert relative_error(stream(frame), dense(module, frame)) <= 5e-3  # 10 bits of each factor


def test_every_threshold_has_a_graph(device: torch.device) -> None:
    for how in THRESHOLDS:
        stream, frames = make("residual", how, device)
        stream(frames[0])
        assert all(plan.graph is not None for plan in triton_plans(stream)), how


@pytest.mark.parametrize("how", ["exact", "relative"])
def test_branches_side_by_side(how: str, device: torch.device) -> None:
    """In lanes or one after the other, every value is the same to the last bit; many times over."""
    streams = [make("branches", how, device)[0] for _ in range(2)]
    plans = triton_plans(streams[1])
    for plan in plans:
        assert len({slot.lane for slot in plan.slots}) > 1
        plan.record_anew(lanes=False)
    for frame in squares(200, SHAPE, device, seed=3):
        for stream in streams:
            stream(frame)
        for name, value in streams[0].values().items():
            assert torch.equal(value, streams[1].values()[name]), name
