"""Streams in forked processes and in several threads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import videoeff
from videoeff.kernels.cpp import library
from videoeff.kernels.cpp.planes import native_planes
from videoeff.testing import relative_error

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)).eval()


@pytest.fixture(params=["openmp", "own"])
def threads_of(request: pytest.FixtureRequest) -> Iterator[str]:
    """Plans work on two threads: those of PyTorch's OpenMP runtime, or their own."""
    if library.load().use_openmp(request.param == "openmp") is not (request.param == "openmp"):
        pytest.skip("this build of PyTorch has no OpenMP")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield request.param
    library.load().use_openmp(True)
    torch.set_num_threads(threads)


def ends_well(child: int) -> bool:
    """Whether a child ends with status 0 within half a minute."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("what", ["drops", "runs"])
def test_a_forked_child(threads_of: str, what: str) -> None:
    """The threads of the parent are not in the child: nothing may wait for them there."""
    stream = videoeff.convert(net(), torch.rand(1, 3, 96, 128), alias_outputs=True)
    frames = [torch.rand(1, 3, 96, 128) for _ in range(3)]
    for frame in frames:
        stream(frame)
    child = os.fork()
    if child == 0:
        if what == "runs":
            stream(frames[0])
        del stream
        os._exit(0)
    assert ends_well(child)


def test_the_threads_do_not_matter(threads_of: str) -> None:
    model = net()
    stream = videoeff.convert(model, torch.rand(1, 3, 97, 131))
    generator = torch.Generator().manual_seed(3)
    frame = torch.rand(1, 3, 97, 131, generator=generator)
    with torch.no_grad():
        for step in range(8):
            frame = frame.clone()
            frame[:, :, 8 * step : 8 * step + 20, 5:90] = torch.rand(1, 3, 20, 85, generator=generator)
            assert relative_error(stream(frame), model(frame)) < 1e-5


def test_more_threads_than_the_machine_has() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(7)
    try:
        model, frame = net(), torch.rand(1, 3, 96, 128)
        stream = videoeff.convert(model, frame)
        with torch.no_grad():
            assert relative_error(stream(frame), model(frame)) < 1e-5
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", [(1, 21, 90, 121), (2, 3, 190, 247), (3, 86, 23, 31), (1, 5, 33, 1024)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
def test_planes(threads_of: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = (torch.rand(shape) * 255).to(dtype).contiguous(memory_format=torch.channels_last)
    copied = native_planes(values)
    assert copied is not None
    assert copied.is_contiguous()
    assert torch.equal(copied, values)


def test_what_planes_leaves_to_pytorch() -> None:
    large = torch.rand(1, 16, 128, 128)
    assert native_planes(large) is None
    assert native_planes(large.contiguous(memory_format=torch.channels_last)) is not None
    assert native_planes(large.contiguous(memory_format=torch.channels_last)[:, :, ::2]) is None
    assert native_planes(large.to(torch.complex128).contiguous(memory_format=torch.channels_last)) is None
    assert native_planes(torch.rand(1, 16, 8, 8).contiguous(memory_format=torch.channels_last)) is None
    assert native_planes(torch.rand(1 << 18)) is None


def test_streams_run_side_by_side_in_threads(threads_of: str) -> None:
    model = net()
    streams = [videoeff.convert(model, torch.rand(1, 3, 96, 128)) for _ in range(2)]
    errors: list[float] = []

    def run(number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for _ in range(20):
                frame = torch.rand(1, 3, 96, 128, generator=generator)
                errors.append(relative_error(streams[number](frame), model(frame)))

    workers = [threading.Thread(target=run, args=(n,)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(errors) == 40
    assert max(errors) < 1e-4
