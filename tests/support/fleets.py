"""A small network and clips for fleets."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import videoeff
from videoeff.fleet.output import Output
from videoeff.fleet.status import CameraStatus
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.video.preprocess import Preprocess

SIZE = (24, 32)
PREPROCESS = Preprocess(size=SIZE)


def network(batch: int = 1, seed: int = 0, **options: object) -> StreamingModule:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1)).eval()
    stream = videoeff.convert(net, torch.rand(batch, 3, *SIZE), **options)  # type: ignore[arg-type]
    stream.extra["preprocess"] = PREPROCESS.to_json()
    return stream


def clip(seed: int, count: int, size: tuple[int, int] = SIZE) -> list[NDArray[np.uint8]]:
    """Pictures of a still scene in which a square moves."""
    made = np.random.default_rng(seed)
    scene = made.integers(0, 256, (*size, 3), dtype=np.uint8)
    frames = []
    for i in range(count):
        frame = scene.copy()
        frame[4:10, i % (size[1] - 6) : i % (size[1] - 6) + 6] = made.integers(0, 256, 3)
        frames.append(frame)
    return frames


def straight(stream: StreamingModule, frames: list[NDArray[np.uint8]]) -> list[torch.Tensor]:
    """What a stream of its own returns for a clip."""
    twin = stream.twin()
    return [twin(PREPROCESS(frame)) for frame in frames]


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def assert_all_counted(status: CameraStatus) -> None:
    """Every picture that was decoded is accounted for."""
    known = status.frames + status.refused + status.skipped + status.late + status.waiting
    assert known == status.counters.decoded


@contextmanager
def collecting() -> Iterator[tuple[dict[str, list[Output]], Callable[[Output], None]]]:
    found: dict[str, list[Output]] = defaultdict(list)
    yield found, lambda output: found[output.camera].append(output)
