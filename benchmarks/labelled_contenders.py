"""Who is judged, as data: the dense network, streams, frame skipping, with a tracker and without."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.labelled_nets import DETECTOR
from videoeff.bench.spec import CLIP_INPUT
from videoeff.calibration.boxes import Boxes
from videoeff.calibration.controls import ordinal
from videoeff.video.preprocess import Preprocess

Array = NDArray[Any]

#: Frames a second of all clips, which the tracker is told.
RATE = 25.0


@dataclass(frozen=True)
class Contender:
    """One way to get an answer for every frame.

    Attributes:
        label: what to call it.
        options: of ``videoeff.convert``; None for the dense network.
        every: only every n-th frame is looked at; the last answer is kept, or moved by the tracker.
        tracker: boxes go through ByteTrack. A segmenter has none.
        timed: its time is measured too.
    """

    label: str
    options: Mapping[str, Any] | None = field(default=None, hash=False)
    every: int = 1
    tracker: bool = False
    timed: bool = field(default=True, repr=False)

    @property
    def dense(self) -> bool:
        """Whether it asks the dense network."""
        return self.options is None


def skipping(every: int, tracker: bool = False) -> Contender:
    """The dense network on every n-th frame."""
    return Contender(f"every {ordinal(every)} frame{', ByteTrack' if tracker else ''}", None, every, tracker)


DENSE = Contender("dense")
#: Stands for the noise of the camera as the first third of a clip shows it.
MEASURED = "measured"
STEPS = (2, 3, 4, 8)


def streaming(threshold: float, every: int = 1, **options: Any) -> Contender:
    """A stream that tests its input on blocks, with a threshold for all layers and further options."""
    told = [f"{name} {value:g}" for name, value in options.items()]
    label = ", ".join(
        [f"τ = {threshold:g}", *told, *([f"every {ordinal(every)} frame"] if every > 1 else [])]
    )
    return Contender(label, {"threshold": threshold, **CLIP_INPUT, **options}, every)


def by_noise(level: float, **options: Any) -> Contender:
    """A stream at τ = 0 whose input is tested against the noise of the camera, at so many of its σ."""
    told = [f"{name} {value:g}" for name, value in options.items()]
    test = {"noise": MEASURED, "input_threshold": level, "block": 4, "weak": 0.4, "grow": 1}
    return Contender(", ".join(["τ = 0", *told, f"{level:g} σ of the noise"]), {**test, **options})


#: One more is one line.
CONTENDERS: tuple[Contender, ...] = (
    DENSE,
    *(streaming(threshold) for threshold in (0.0, 0.05, 0.1, 0.2)),
    replace(streaming(0.02), timed=False),
    replace(streaming(0.1, every=2), timed=False),
    replace(streaming(0.0, input_threshold=0.25), timed=False),
    *(streaming(0.0, reach=0, input_threshold=level) for level in (0.125, 0.25, 0.5)),
    streaming(0.0, every=2, reach=0, input_threshold=0.25),
    *(by_noise(level, reach=0) for level in (4.0, 8.0)),
    *(skipping(n) for n in STEPS),
    Contender("dense, ByteTrack", None, 1, True),
    *(skipping(n, True) for n in STEPS),
)


def options_on(contender: Contender, frames: Array, look: Preprocess) -> dict[str, Any]:
    """What ``videoeff.convert`` is told on a clip of frames (T, H, W, 3)."""
    options = dict(contender.options or {})
    if options.get("noise") == MEASURED:
        from videoeff.calibration.noise import estimate_noise

        noise = estimate_noise(frames[: max(2, len(frames) // 3)])
        options["noise"] = noise.as_model_sees(look)
    return options


def no_tracker() -> str:
    """Why there is no tracker, "" if there is one."""
    absent = [name for name in ("trackers", "supervision") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}; pip install trackers" if absent else ""


def hold(answers: Sequence[Any], every: int, frames: int) -> list[Any]:
    """The last of the answers to frames 0, n, 2n … for every frame."""
    return [answers[frame // every] for frame in range(frames)]


class Tracker:
    """ByteTrack between and on the frames that a detector looks at.

    On a frame that was looked at the boxes are the detections above the score and those weaker ones that
    ByteTrack ties to a known object. Between them known objects move on as their Kalman filters say, and
    detections that are no known object yet stay where they are.
    """

    def __init__(self) -> None:
        from trackers import ByteTrackTracker

        self._tracker: Any = ByteTrackTracker(
            frame_rate=RATE,
            track_activation_threshold=DETECTOR.score,
            high_conf_det_threshold=DETECTOR.score,
            minimum_consecutive_frames=1,
        )
        self._last = Boxes(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64))
        self._identities = np.empty(0, np.int64)

    def see(self, boxes: Boxes, frame: int) -> Boxes:
        """Take a frame's detections; what is there."""
        import supervision

        found = self._tracker.update(
            supervision.Detections(
                xyxy=boxes.boxes.astype(np.float32).reshape(-1, 4),
                confidence=boxes.scores.astype(np.float32),
                class_id=boxes.labels.astype(int),
            ),
            timestamp=(frame + 1) / RATE,
        )
        identities = np.asarray(found.tracker_id if found.tracker_id is not None else [], np.int64)
        kept = (found.confidence > DETECTOR.score) | (identities >= 0) if len(found) else np.empty(0, bool)
        order = np.argsort(-found.confidence[kept], kind="stable") if len(found) else np.empty(0, int)
        if len(found):
            self._last = Boxes(
                found.xyxy[kept][order].astype(np.float64),
                found.confidence[kept][order].astype(np.float64),
                found.class_id[kept][order].astype(np.int64),
            )
            self._identities = identities[kept][order]
        else:
            self._last = Boxes(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64))
            self._identities = np.empty(0, np.int64)
        return self._last

    def guess(self, frame: int) -> Boxes:
        """What is there in a later frame that nobody looked at."""
        import supervision

        ahead = copy.deepcopy(self._tracker)
        ahead.update(supervision.Detections.empty(), timestamp=(frame + 1) / RATE)
        moved = {int(t.tracker_id): t.get_state_bbox() for t in ahead.tracks if t.tracker_id >= 0}
        boxes = [
            moved.get(identity, box)
            for identity, box in zip(self._identities.tolist(), self._last.boxes, strict=True)
        ]
        return Boxes(np.array(boxes, np.float64).reshape(-1, 4), self._last.scores, self._last.labels)


def follow(answers: Sequence[Boxes], every: int, frames: int) -> list[Boxes]:
    """The boxes of every frame, of the detections in frames 0, n, 2n …, by ByteTrack."""
    tracker = Tracker()
    return [
        tracker.see(answers[frame // every], frame) if frame % every == 0 else tracker.guess(frame)
        for frame in range(frames)
    ]
