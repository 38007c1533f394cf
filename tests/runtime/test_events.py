"""Events of the picture as a whole, told from the figures of a frame's test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import videoeff
from videoeff.kernels.cpp import library
from videoeff.runtime.events import MOST, Events, Recorder, events_of
from videoeff.runtime.streaming_module import StreamingModule

SIZE = (1, 3, 64, 96)
BACKENDS = ["reference"] if library.unavailable() else ["reference", "cpp"]
NAN = float("nan")


def stream_of(backend: str, streams: int = 1, **options: object) -> StreamingModule:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    settings = {"noise": ((0.0, 1e-4, 0.0),) * 3, "block": 8, "weak": 0.4, "grow": 1} | options
    return videoeff.convert(net, torch.rand(streams, *SIZE[1:]), backend=backend, **settings)  # type: ignore[arg-type]


def scene(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 8, 12, generator=generator)
    return nn.functional.interpolate(small, SIZE[2:], mode="bicubic").clamp(0, 1) * 0.8


def clip(count: int, cut: int, light: int, pulse: int) -> Iterator[Tensor]:
    """Noise of σ = 0.004; a cut, a light that goes on, and every few frames one that is drawn coarsely."""
    generator = torch.Generator().manual_seed(9)
    picture = scene(1)
    for number in range(count):
        if number == cut:
            picture = scene(2)
        if number == light:
            picture = picture * 1.15 + 0.05
        sigma = 0.02 if pulse and number % pulse == 5 else 0.004
        yield picture + sigma * torch.randn(SIZE, generator=generator)


def watched(stream: StreamingModule, frames: Iterator[Tensor]) -> tuple[Events, ...]:
    with torch.no_grad():
        for frame in frames:
            stream(frame)
    return stream.report().events


@pytest.mark.parametrize("backend", BACKENDS)
def test_cuts_steps_of_the_light_and_pulses_are_told_apart(backend: str) -> None:
    stream = stream_of(backend)
    (found,) = watched(stream, clip(80, cut=33, light=57, pulse=12))
    assert (found.cuts, found.light, found.period) == ((33,), (57,), 12)
    told = "1 scene cut at frame 33; 1 step of the light at frame 57; key-frame pulses every 12 frames"
    assert str(found) == told
    assert f"seen in the frames: {found}" in str(stream.report())
    assert stream.report().to_json()["events"][0]["cuts"] == (33,)
    stream.clear_report()
    assert stream.report().events == ()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_happens_in_a_quiet_clip(backend: str) -> None:
    assert watched(stream_of(backend), clip(60, cut=-1, light=-1, pulse=0)) == ()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_moving_camera_and_a_reset_are_no_cuts(backend: str) -> None:
    stream = stream_of(backend)
    wide = torch.nn.functional.interpolate(
        torch.rand(1, 3, 8, 60, generator=torch.Generator().manual_seed(3)), (64, 480)
    )
    found = watched(stream, (wide[..., 6 * i : 6 * i + 96] for i in range(30)))
    assert all(len(e.cuts) <= 1 for e in found)
    stream.clear_report()
    stream.reset()
    with torch.no_grad():
        stream(scene(7))
        stream(scene(7))
    assert stream.report().events == ()


@pytest.mark.parametrize("backend", BACKENDS)
def test_streams_are_told_apart(backend: str) -> None:
    stream = stream_of(backend, streams=2)
    with torch.no_grad():
        for a, b in zip(clip(20, 8, -1, 0), clip(20, -1, 13, 0), strict=True):
            stream(torch.cat([a, b]))
    first, second = stream.report().events
    assert (first.camera, first.cuts, first.light) == ("stream 0", (8,), ())
    assert (second.camera, second.cuts, second.light) == ("stream 1", (), (13,))


@pytest.mark.skipif(len(BACKENDS) < 2, reason="no native library")
@pytest.mark.parametrize(
    "options", [{}, {"block": 1, "weak": 1.0, "grow": 0}, {"noise": (), "input_threshold": 0.1}], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_native_figures_are_those_of_the_reference(options: dict[str, object], dtype: torch.dtype) -> None:
    streams = [stream_of(b, streams=2, **options).to(dtype) for b in BACKENDS]
    figures = []
    for stream in streams:
        with torch.no_grad():
            for number, (a, b) in enumerate(zip(clip(12, 5, 9, 4), clip(12, 7, 3, 0), strict=True)):
                if number == 6:
                    stream.reset(stream=1)
                stream(torch.cat([a, b]).to(dtype))
        engine = stream.engines[""]
        numbers, series = engine.recorder.series(engine.plan.instructions[0].call.name)
        assert list(numbers) == list(range(12))
        figures.append(series)
    known = figures[0].isnan()
    assert torch.equal(known, figures[1].isnan())
    assert known[0].all()
    assert known[6, 1].all()
    assert not known[6, 0, :2].any()
    torch.testing.assert_close(figures[0], figures[1], atol=0.02, rtol=1e-3, equal_nan=True)


def test_a_stream_that_tests_exactly_tells_nothing() -> None:
    stream = stream_of("auto", noise=(), input_threshold=0.0, weak=1.0, grow=0)
    assert watched(stream, clip(6, 3, -1, 0)) == ()
    assert stream.engines[""].recorder.frames == 0


def test_only_the_last_frames_are_remembered() -> None:
    recorder = Recorder()
    for number in range(MOST + 10):
        recorder.add({"x": torch.tensor([[float(number == 5 or number == MOST), 0.0, 0.1, 0.0]])})
    (events,) = recorder.events()
    assert events.cuts == (MOST,)


def test_frames_without_a_test_are_left_out() -> None:
    """An input whose threshold was 0 for some frames has no figures of them."""
    recorder = Recorder()
    moved = torch.tensor([[0.6, 0.0, 0.1, 0.0]])
    for number in range(8):
        recorder.add({} if 2 <= number < 5 else {"x": moved})
    numbers, series = recorder.series("x")
    assert list(numbers) == list(range(8))
    assert [bool(f.isnan().all()) for f in series] == [2 <= n < 5 for n in range(8)]


def test_many_events_are_cut_short_in_text() -> None:
    figures = [[1.0, 0.0, 0.0, 0.0] if n % 10 == 5 else [0.0, 0.0, NAN, NAN] for n in range(100)]
    found = events_of(range(100), figures, "camera 2")
    assert str(found) == "camera 2: 10 scene cuts at frames 5, 15, 25, 35, 45, 55, 65, 75 and 2 more"


def test_a_passing_object_is_neither_cut_nor_light() -> None:
    assert not events_of(range(3), [[NAN] * 4, [0.1, 0.0, NAN, NAN], [0.7, 0.0, 0.8, 0.3]])
