"""Streams in forked processes and in several threads."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch
from torch import nn

import videoeff
from videoeff.kernels.cpp import library
from videoeff.testing import relative_error

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)).eval()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_can_drop_a_stream() -> None:
    """The workers of the pool are not in the child: nothing may wait for them there."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        stream = videoeff.convert(net(), torch.rand(1, 3, 96, 128))
        for _ in range(3):
            stream(torch.rand(1, 3, 96, 128))
        child = os.fork()
        if child == 0:
            del stream
            os._exit(0)
        deadline = time.monotonic() + 30
        ended, status = 0, 0
        while not ended and time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.01)
        if not ended:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert ended == child
        assert status == 0
    finally:
        torch.set_num_threads(threads)


def test_streams_run_side_by_side_in_threads() -> None:
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
