"""The state of a stream as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import videoeff
from tests.support.calls import assert_same, make
from tests.support.remembering import SHAPE, Last, Net, counts, in_parts
from tests.support.small_nets import Gated, Plain, clip, lively
from videoeff.errors import ArtifactError, StateError
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.serialize.state import digest_of_network, load_state, save_state


def _saved(stream: StreamingModule, path: Path) -> str:
    network = digest_of_network(stream)
    save_state(stream.snapshot(), network, path)
    return network


@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_a_stream_goes_on_from_a_file(tmp_path: Path, threshold: float) -> None:
    _, stream = make(Gated(), threshold=threshold)
    frames = list(clip(6))
    for frame in frames[:3]:
        stream(frame)
    network = _saved(stream, tmp_path / "state")
    straight = [stream(f) for f in frames[3:]]
    other = stream.twin()
    other.restore(load_state(tmp_path / "state", network))
    assert_same([other(f) for f in frames[3:]], straight, 0.0)
    assert other.report().frames == 3  # none of them was computed whole


@pytest.mark.parametrize("make_model", [lambda: Net(in_parts(counts)), Last], ids=["parts", "whole"])
def test_what_the_model_writes_is_kept(tmp_path: Path, make_model: Callable[[], nn.Module]) -> None:
    frames = [torch.rand(SHAPE) for _ in range(4)]
    stream = videoeff.convert(lively(make_model()), frames[0])
    for frame in frames[:2]:
        stream(frame)
    network = _saved(stream, tmp_path / "state")
    straight = [stream(f) for f in frames[2:]]
    other = stream.twin()
    other.restore(load_state(tmp_path / "state", network))
    assert_same([other(f) for f in frames[2:]], straight, 0.0)


def test_a_batch_keeps_which_streams_are_fresh(tmp_path: Path) -> None:
    stream = videoeff.convert(lively(Plain()), torch.rand(2, 3, 20, 24), threshold=0.3)
    frames = [torch.rand(2, 3, 20, 24) for _ in range(3)]
    stream(frames[0])
    stream.reset(1)
    network = _saved(stream, tmp_path / "state")
    straight = [stream(f) for f in frames[1:]]
    other = stream.twin()
    other.restore(load_state(tmp_path / "state", network))
    assert_same([other(f) for f in frames[1:]], straight, 0.0)


@pytest.mark.parametrize("in_two", [False, True], ids=["whole", "parts"])
def test_ignored_pixels_stay_as_they_were(tmp_path: Path, in_two: bool) -> None:
    model = Net(in_parts(counts)) if in_two else Last()
    frames = [torch.rand(SHAPE) for _ in range(4)]
    stream = videoeff.convert(lively(model), frames[0])
    watched = torch.ones(SHAPE[-2:], dtype=torch.bool)
    watched[: SHAPE[-2] // 2] = False
    stream.set_zones(watched)
    for frame in frames[:2]:
        stream(frame)
    network = _saved(stream, tmp_path / "state")
    straight = [stream(f) for f in frames[2:]]
    other = stream.twin()
    other.restore(load_state(tmp_path / "state", network))
    assert_same([other(f) for f in frames[2:]], straight, 0.0)


def test_a_state_of_other_weights_is_refused(tmp_path: Path) -> None:
    _, stream = make(Plain())
    stream(next(iter(clip(1))))
    _saved(stream, tmp_path / "state")
    torch.manual_seed(9)
    other = videoeff.convert(lively(Plain()), next(iter(clip(1))))
    with pytest.raises(StateError, match="other weights"):
        load_state(tmp_path / "state", digest_of_network(other))


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    _, stream = make(Plain())
    stream(next(iter(clip(1))))
    network = _saved(stream, tmp_path / "state")
    whole = (tmp_path / "state").read_bytes()
    for name, data in {
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:-5] + bytes([whole[-5] ^ 64]) + whole[-4:],
        "empty": b"",
        "text": b"not a state",
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ArtifactError, match=name):
            load_state(tmp_path / name, network)
    stream.save(tmp_path / "net.veff")
    with pytest.raises(ArtifactError, match="not a stream's state"):
        load_state(tmp_path / "net.veff", network)
    with pytest.raises(ArtifactError, match="missing"):
        load_state(tmp_path / "missing", network)


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    _, stream = make(Plain())
    with pytest.raises(ArtifactError, match="cannot be written"):
        _saved(stream, tmp_path / "nowhere" / "state")
    assert not list(tmp_path.iterdir())
