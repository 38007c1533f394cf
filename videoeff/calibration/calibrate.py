"""calibrate: a clip and a budget become the cheapest stream that keeps it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from videoeff.calibration import innovations
from videoeff.calibration.budget import Budget, MetricLike, metric_of, own_metric, parse_budget
from videoeff.calibration.controls import SKIPS, Control, Feed, Held, Network, Noise
from videoeff.calibration.feed import feed_of
from videoeff.calibration.frames import (
    Frames,
    Parts,
    busiest_first,
    clip_length,
    is_source,
    part,
    read_frames,
)
from videoeff.calibration.int8 import Int8
from videoeff.calibration.noise import Noise as CameraNoise
from videoeff.calibration.noise import estimate_noise, resized
from videoeff.calibration.plan import Plan, plan, usual_limit
from videoeff.calibration.record import Calibration, Judged, Outcome, record_of
from videoeff.calibration.search import BEAM, Goal, Search
from videoeff.calibration.settings import EXACT, InputTest, Settings, Units, apply, grey_level
from videoeff.calibration.space import Space
from videoeff.calibration.trials import Bench, Trial, cautious
from videoeff.calibration.zoned import frozen
from videoeff.conversion import Model, convert
from videoeff.errors import MetricError, VideoEffError
from videoeff.passes.pipeline import passes_to_text
from videoeff.runtime.report import zones_text
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.video.preprocess import Preprocess
from videoeff.video.source import open_clip
from videoeff.video.zones import Zones

#: Tests of the input to try: grey levels, edge of the blocks, blocks marked around each.
INPUTS = (
    InputTest(),
    *(InputTest(levels, 8, 1) for levels in (2.0, 4.0, 6.0, 8.0, 12.0, 16.0)),
    *(InputTest(levels, 4, 1) for levels in (2.0, 4.0, 6.0, 8.0, 12.0)),
    *(InputTest(levels, 8, 0, 1) for levels in (2.0, 4.0, 6.0, 8.0)),
    *(InputTest(levels, 4, 0, 1) for levels in (2.0, 4.0, 6.0, 8.0)),
)
#: The same in standard deviations of the camera's noise, where that is known.
NOISY = tuple(InputTest(sigmas, 8, 0, 1, True) for sigmas in (3.0, 4.0, 6.0, 10.0, 16.0))
#: Candidates that are judged on the part that is held back, before the exact stream is taken.
STEPS_BACK = 5
#: Points of the curve.
CURVE = 6
#: What an exact stream may be off by rounding.
ROUNDING = 1e-4
#: Of thresholds layer by layer, how much the error weighs against the cost, and powers of what that suggests.
_WEIGHT, _DAMPED = 100.0, (1.0, 0.5)
#: Frames to calibrate int8 on.
_INT8_FRAMES = 64
#: Frames apart that noise is measured over: a codec copies what hardly moves from frame to frame.
_LAG = 12

#: Told what is done, and the share of all that is done.
Progress = Callable[[str, float], None]


def calibrate(
    model_or_stream: Model | StreamingModule,
    clip: Any,
    budget: str | float = "int8",
    metric: MetricLike = None,
    time_limit: float | None = None,
    *,
    decoder: str | None = None,
    preprocess: Preprocess | None = None,
    by: str = "time",
    progress: Progress | None = None,
    **options: Any,
) -> Calibration:
    """Find the cheapest stream that keeps a budget on a clip.

    Two thirds of the clip are searched on; the last third is held back, and the result is judged there.
    No labels are needed: everything is judged against the dense network.

    Args:
        model_or_stream: a model, or a stream, which stays as it is.
        clip: a video file or a folder of images; or a sequence of frames, each uint8 (H, W, 3) red first, or
            the model's own input (a tensor, or a tuple of positional arguments).
        budget: "int8": as close to the dense network as int8 quantisation would be on this clip, as far as
            the clip can tell them apart. "noise": as close as the camera's own noise leaves it. Or a figure
            to keep: "error=0.03", "f1=0.98", "settled=0.99", "miou=0.95", "pixels=0.99", with a metric of
            your own a number. Or a cost of which the most faithful stream is sought: "work=0.1" (share of the
            dense multiply-accumulates), "ms=5".
        metric: a function of (outputs, dense outputs) that returns a number, or "file.py:function". By
            default settled agreement of detections, pixel agreement of label maps, else the relative error.
        time_limit: seconds all of it may take, about; None: half a minute, and ten seconds for each
            millisecond that a frame takes, but no more than nine minutes.
        decoder: how outputs are read, as in ``videoeff run --decoder``; recognised if None.
        preprocess: from a uint8 frame to the input, for a model; a stream knows its own.
        by: "time": cost is measured time per layer on this machine; or "work": multiply-accumulates.
        progress: told what is being done and the share that is done.
        options: more options of :func:`videoeff.convert`, for a model.

    Returns:
        The calibrated stream and the record of how it was found, which is saved with the stream.

    Raises:
        MetricError: the budget or the metric cannot be used on this network.
        VideoError: the clip cannot be read or is too short.
        VideoEffError: the model cannot be converted.
    """
    if by not in ("time", "work"):
        raise MetricError(f"by={by!r}: cost is counted by 'time' or 'work'")
    own = own_metric(metric)
    asked = parse_budget(budget, own is not None)
    work = _Work(clip, asked, time_limit, by, progress or (lambda _, __: None))
    work.prepare(model_or_stream, preprocess, options)
    work.choose_metric(own, decoder)
    return work.finish(work.search())


class _Work:
    """One calibration."""

    def __init__(
        self, clip: Any, budget: Budget, time_limit: float | None, by: str, progress: Progress
    ) -> None:
        self.clip, self.budget, self.by, self.progress = clip, budget, by, progress
        self.asked_limit = time_limit
        self.began = time.monotonic()
        self.notes: list[str] = []
        self.control: Control | None = None

    # -- before the search -------------------------------------------------------------------------------

    def prepare(
        self, model: Model | StreamingModule, preprocess: Preprocess | None, options: dict[str, Any]
    ) -> None:
        """Read the clip and make the stream."""
        self.progress("reading the clip", 0.0)
        self.total = clip_length(self.clip)
        first = _first_frame(self.clip)
        pictures = isinstance(first, np.ndarray)
        if isinstance(model, StreamingModule):
            if options or preprocess is not None:
                named = ", ".join([*options, *(["preprocess"] if preprocess is not None else [])])
                raise VideoEffError(f"{named}: a stream has these already; give them with a model")
            self.stream = copy.deepcopy(model)
        else:
            self.progress("converting the model", 0.01)
            self.stream = _converted(model, first, preprocess, options)
        feed: Feed = feed_of(self.stream, self.stream.name) if pictures else _as_call
        self.preprocess = getattr(feed, "preprocess", None)
        alpha = bool(getattr(feed, "alpha", False))
        if isinstance(self.stream.zones, Zones) and pictures:
            self.stream.set_zones(self.stream.zones, self.preprocess, first.shape[:2])
        if ignored := self.stream.report().ignored:
            self.notes.append(
                f"zones: {zones_text(ignored)}. Here, and for the dense network too, that is the clip's first"
            )
        feed = frozen(feed, self.stream, first)
        ms = _whole_frame(self.stream, feed(first))
        self.time_limit = usual_limit(ms) if self.asked_limit is None else self.asked_limit
        self.plan: Plan = plan(self.total, ms, _bytes(first), self.time_limit)
        self.parts: Parts = part(self.total, self.plan.length, self.plan.levels[-1], self.plan.held)
        self.frames: Frames = read_frames(self.clip, self.parts.wanted(), feed, alpha)
        self.parts = replace(self.parts, search=busiest_first(self.parts.search, self.frames))
        self.bench = Bench(self.stream, self.frames, Units(grey_level(self.preprocess), self._noise_seen()))

    def choose_metric(self, own: Any, decoder: str | None) -> None:
        """The metric that judges, and the control whose error is the budget."""
        network = Network(self.stream, self.frames.feed)
        outputs = network(self.frames.pictures[self.parts.search[0][0]])
        shape = self.stream.body.signature.frame_specs[0].shape
        self.metric = metric_of(self.budget, own, outputs, (shape[-2], shape[-1]), decoder)
        self.bench.metric = self.metric

    def search(self) -> Search:
        """Set the goal and make the search."""
        limit = self.budget.value
        if self.budget.kind in ("int8", "noise"):
            self.control = self._control()
            self.progress(f"measuring the error of {self.control.label}", 0.1)
            found = self.bench.control(self.control, self.parts.long)
            limit = cautious(found, self.metric)
        assert limit is not None  # parse_budget saw to it
        exact = self.budget.kind == "error" and limit == 0
        self.goal = Goal(limit, self.metric.better, self.budget.of_cost, exact)
        inputs = INPUTS + (NOISY if self.bench.units.noise else ())
        space = Space(inputs if self._takes_pictures() else INPUTS[:1])
        done = 0

        def run(settings: Settings, level: int) -> Trial:
            nonlocal done
            done += 1
            self.progress(f"trying {settings}", 0.15 + 0.6 * min(1.0, done / space.size(BEAM)))
            if level == len(self.plan.levels) - 1:
                return self.bench.run(settings, self.parts.long)
            return self.bench.run(settings, self.parts.search[: self.plan.levels[level]])

        search = Search(run, self.cost, self.goal, space, len(self.plan.levels), self._left)
        search.layerwise = self._layerwise
        return search

    def _layerwise(self, settings: Settings) -> list[Settings]:
        """The settings with thresholds layer by layer, as what each layer does to the outputs suggests."""
        reason = innovations.why_not(self.bench.stream)
        if reason:
            self.notes.append(f"one threshold serves all layers: {reason}")
            return []
        self.progress("measuring what the threshold of each layer does", 0.7)
        base = replace(settings, threshold=max(settings.threshold, innovations.USUAL))
        blocks = self.parts.search[: self.plan.levels[0]]
        found = innovations.measure(self.bench, base, blocks, self.bench.layer_costs(self._by_work))
        factors = found.factors(_WEIGHT)
        return [replace(base, layers=tuple((n, f**p) for n, f in factors.items())) for p in _DAMPED]

    @property
    def _by_work(self) -> bool:
        """Whether cost is work, and not time."""
        return self.budget.kind == "work" or (self.by == "work" and self.budget.kind != "ms")

    def _takes_pictures(self) -> bool:
        """Whether a grey level means something for the input."""
        return all(spec.dtype.is_floating_point for spec in self.stream.body.signature.frame_specs)

    def _left(self) -> float:
        """Seconds that the search may still take."""
        return self.began + 0.75 * self.time_limit - time.monotonic()

    def _control(self) -> Control:
        if not self.frames.decoded:
            raise MetricError(
                f"budget {self.budget}: needs the clip as a file or as uint8 frames (H, W, 3); for "
                "frames that are tensors give error=0.03, work=0.1 or a metric's figure"
            )
        numbers = [i for block in self.parts.search for i in block]
        feed = self.frames.feed
        if self.budget.kind == "int8":
            self.progress("quantising to int8", 0.03)
            some = numbers[:: max(1, len(numbers) // _INT8_FRAMES)]
            return Int8(self.stream, feed, [self.frames.pictures[i] for i in some])
        noise = self._measured_noise()
        if noise is None:
            raise MetricError(
                f"budget {self.budget}: the clip is too short to measure its noise; give a longer one, or a "
                "figure such as error=0.03"
            )
        sigma = round(float(np.mean(noise.sigma(128))), 2)
        self.notes.append(str(noise))
        return Noise(sigma, Network(self.stream, feed))

    def _noise_seen(self) -> tuple[tuple[float, float, float], ...]:
        """The camera's noise after the resize, as the model sees it; empty where that cannot be told."""
        preprocess = self.preprocess
        if preprocess is None or preprocess.channels != 3:
            return ()
        found = self._measured_noise(preprocess)
        return () if found is None or found.doubt else found.as_model_sees(preprocess)

    def _measured_noise(self, preprocess: Preprocess | None = None) -> CameraNoise | None:
        """The camera's noise on a block of the frames searched on; None where it cannot be told.

        Args:
            preprocess: measure frames as it resizes them; None measures them as they come.
        """
        block = max(self.parts.search, key=len)
        lag = min(_LAG, len(block) - 4)
        if not self.frames.decoded or lag < 1:
            return None
        pictures = (self.frames.pictures[i] for i in block)
        return estimate_noise(pictures if preprocess is None else resized(pictures, preprocess), lag=lag)

    def cost(self, trial: Trial) -> float:
        """What is saved on, or kept."""
        return trial.work if self._by_work else self.bench.ms(trial)

    # -- after the search --------------------------------------------------------------------------------

    def finish(self, search: Search) -> Calibration:
        """Search, judge on the part that was held back, and write down what was found."""
        candidates = search.candidates()
        seconds = time.monotonic() - self.began
        self.progress("judging on the part that was held back", 0.78)
        held_limit = self._held_limit()
        chosen, judged, steps = self._step_back(search, candidates, held_limit)
        curve = self._curve(search, judged)
        controls = self._controls()
        apply(self.stream, EXACT, self.bench.units)  # what the record says changed, changed from this
        apply(self.stream, chosen.settings, self.bench.units, record=True)
        self.stream.clear_report()
        outcome = Outcome(
            budget=self.budget,
            metric=self.metric,
            limit=self.goal.limit,
            held_limit=held_limit,
            chosen=self._judged(chosen),
            held=self._judged(judged),
            kept=self._kept(judged, held_limit),
            curve=curve,
            controls=controls,
            notes=[*steps, *self.notes],
            searched=search.trials,
            seconds=(seconds, time.monotonic() - self.began),
            passes=passes_to_text(chosen.settings.passes(self.bench.units)),
        )
        clip = str(self.clip) if is_source(self.clip) else f"{self.total} frames"
        record = record_of(outcome, clip, self.frames.digest, self.total, self.parts, self.by)
        self.stream.extra["calibration"] = record
        self.progress("done", 1.0)
        return Calibration(self.stream, record)

    def _held_limit(self) -> float:
        if self.control is None:
            return self.goal.limit
        return cautious(self.bench.control(self.control, self.parts.held), self.metric)

    def _kept(self, trial: Trial, limit: float) -> bool:
        if self.goal.of_cost:
            return self.cost(trial) <= limit
        value = trial.figure.value
        return replace(self.goal, limit=limit).keeps(value) or (
            trial.settings.exact and abs(value - limit) <= ROUNDING
        )

    def _step_back(
        self, search: Search, candidates: Sequence[Trial], limit: float
    ) -> tuple[Trial, Trial, list[str]]:
        """The best that keeps the budget on the frames held back, and what it gave there."""
        goal = replace(self.goal, limit=limit)
        steps: list[str] = []
        failed: list[tuple[Trial, float]] = []
        trial: Trial | None = candidates[0] if candidates else None
        while trial is not None:
            held = self.bench.run(trial.settings, self.parts.held)
            if self._kept(held, limit):
                return trial, held, steps
            if trial.settings.exact:
                break
            steps.append(
                f"{trial.settings}: kept the budget on the frames searched on, but not on those held back "
                f"({self._amount(held)}), so a safer setting was taken"
            )
            failed.append((trial, replace(search, goal=goal).strain(held)))
            trial = search.safer(failed) if len(failed) < STEPS_BACK else None
            if trial is None and candidates[-1].settings.exact:
                trial = candidates[-1]
        exact = search.trials[EXACT, 0]
        held = self.bench.run(EXACT, self.parts.held)
        if self.goal.of_cost:
            least = min(search.trials.values(), key=self.cost)
            steps.append(
                f"no setting costs as little as {self.budget}: the least that was found is "
                f"{self._amount(least)}, with {least.settings}. The stream is the exact one"
            )
        else:
            steps.append(
                f"not even the exact stream keeps {self.budget}: its {self.metric.name} is "
                f"{held.figure.value:.4g}. The stream is the exact one"
            )
        return exact, held, steps

    def _amount(self, trial: Trial) -> str:
        if self.goal.of_cost:
            unit = "ms" if self.budget.kind == "ms" else "of the work"
            return f"{self.cost(trial):.3g} {unit}"
        return f"{self.metric.name} {trial.figure.value:.4g}"

    def _judged(self, trial: Trial) -> Judged:
        return Judged(
            str(trial.settings), trial.settings.to_json(), trial.figure, trial.work, self.bench.ms(trial)
        )

    def _curve(self, search: Search, judged: Trial) -> list[Judged]:
        """The chosen settings and some others on the part that was held back, as far as time allows."""
        front = [t.settings for t in search.front()]
        if len(front) > CURVE:
            front = [front[i * (len(front) - 1) // (CURVE - 1)] for i in range(CURVE)]
        trials = [judged]
        for number, settings in enumerate(dict.fromkeys([EXACT, *front])):
            if settings == judged.settings or time.monotonic() - self.began > self.time_limit:
                continue
            self.progress("drawing the curve on the part that was held back", 0.85 + 0.02 * number)
            trials.append(self.bench.run(settings, self.parts.held))
        return [self._judged(t) for t in sorted(trials, key=lambda t: t.work)]

    def _controls(self) -> list[Judged]:
        """What a user would do instead, on the part that was held back."""
        network = Network(self.stream, self.frames.feed)
        found = []
        dense_ms = self._dense_ms()
        if not network.remembers:
            for step in SKIPS:
                control = Held(step)
                figure = self.bench.control(control, self.parts.held)
                found.append(Judged(control.label, {}, figure, 1 / step, dense_ms / step))
        if self.control is not None:
            figure = self.bench.control(self.control, self.parts.held)
            found.append(Judged(self.control.label, {}, figure, self.control.work, None))
        return found

    def _dense_ms(self) -> float:
        """Milliseconds of the dense network in PyTorch."""
        network = Network(self.stream, self.frames.feed)
        for _ in range(5):
            network(self.frames.pictures[self.parts.held[0][0]])
        return float(np.median(network.ms[1:]))


def _as_call(frame: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A frame that is the model's own input."""
    return (frame if isinstance(frame, tuple) else (frame,)), {}


def _whole_frame(stream: StreamingModule, call: tuple[tuple[Any, ...], dict[str, Any]]) -> float:
    """Milliseconds of a frame that is computed whole."""
    args, kwargs = call
    found = []
    for _ in range(4):
        stream.reset()
        begin = time.perf_counter()
        with torch.no_grad():
            stream(*args, **kwargs)
        if stream.device.type == "cuda":
            torch.cuda.synchronize(stream.device)
        found.append(1e3 * (time.perf_counter() - begin))
    stream.reset()
    return min(found[1:])


def _first_frame(clip: Any) -> Any:
    if not is_source(clip):
        return clip[0]
    with open_clip(clip, frames=1) as source:
        return next(iter(source))


def _bytes(frame: Any) -> int:
    if isinstance(frame, np.ndarray):
        return int(frame.nbytes)
    return sum(
        v.nbytes for v in (frame if isinstance(frame, tuple) else (frame,)) if isinstance(v, torch.Tensor)
    )


def _converted(
    model: Model, first: Any, preprocess: Preprocess | None, options: dict[str, Any]
) -> StreamingModule:
    """A stream of a model, for the frames of the clip."""
    if not isinstance(first, np.ndarray):
        return convert(model, first, **options)
    chosen = preprocess or Preprocess()
    chosen = replace(chosen, size=chosen.size or (first.shape[0], first.shape[1]))
    stream = convert(model, chosen(first), **options)
    stream.extra.update(preprocess=chosen.to_json())
    return stream
