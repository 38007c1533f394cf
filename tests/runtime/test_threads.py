"""Two threads in one stream: an error, and an unharmed stream."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.calls import dense, make
from tests.support.small_nets import clip
from videoeff.errors import (
    StateError,
)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_two_threads_in_one_stream() -> None:
    model, stream = make()
    frames = list(clip(4))
    stream(frames[0])
    inside, go_on = threading.Event(), threading.Event()
    engine = stream.engines[""]

    def waits(*_: Any) -> None:
        inside.set()
        assert go_on.wait(30)

    engine.observe(waits)
    results: list[Any] = []
    first = threading.Thread(target=lambda: results.append(stream(frames[1])))
    first.start()
    try:
        assert inside.wait(30)
        for call in (
            lambda: stream(frames[2]),
            stream.reset,
            stream.snapshot,
            lambda: stream.set_threshold(0.1),
            lambda: stream.double(),
        ):
            with pytest.raises(StateError, match=r"two threads.*deepcopy"):
                call()
    finally:
        go_on.set()
        first.join(30)
    engine.observe(None)
    assert_close(results[0], dense(model, frames[1]))
    assert_close(stream(frames[3]), dense(model, frames[3]))


def test_threads_that_race_get_their_frame_or_an_error() -> None:
    model, stream = make()
    frames = list(clip(8))
    stream(frames[0])
    barrier, results = threading.Barrier(4), [0, 0]
    lock = threading.Lock()

    def work() -> None:
        barrier.wait()
        for frame in frames:
            try:
                right = torch.allclose(stream(frame), dense(model, frame), rtol=1e-5, atol=1e-5)
            except StateError:
                continue
            with lock:
                results[not right] += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results[0] > 0
    assert results[1] == 0
    assert_close(stream(frames[3]), dense(model, frames[3]))
