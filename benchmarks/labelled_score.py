"""Answers against labels: what is found in a frame, over an object's life, and how sure a figure is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.labelled_data import OBJECT, OUTSIDE, UNKNOWN, Objects, Track, objects, speeds, stops, tracks
from videoeff.calibration.boxes import Boxes, pairing
from videoeff.calibration.intervals import FEWEST, RESAMPLES

Array = NDArray[Any]
Statistic = Callable[[Array], Array]

#: Frames of a block for the bootstrap: one second.
BLOCK = 25
#: Shorter tracks are splinters of others.
SHORTEST = 5
#: A segmenter finds an object if it marks more than this share of its pixels.
MARKED = 0.5
#: A detection that lies in what does not count by more than this share counts neither as right nor as wrong.
IGNORED = 0.5
#: Pixels a frame: an object stands if it moves no more for a second; it is slow if it moves no more.
STANDING, SLOW = 0.1, 1.0
CLASSES = ("standing", "slow", "fast")


@dataclass(frozen=True)
class Truth:
    """What the masks of a clip say.

    Attributes:
        objects: of each frame, those that count.
        small: of each frame, those that do not.
        tracks: the objects over time.
        classes: of each frame, 0, 1 or 2 for each object: it stands, is slow or fast.
    """

    objects: list[Objects]
    small: list[Objects]
    tracks: list[Track]
    classes: list[Array]

    @classmethod
    def of(cls, masks: Array) -> Truth:
        """Read masks (T, H, W)."""
        every = [objects(mask) for mask in masks]
        large = [o.large for o in every]
        found = tracks(large)
        classes = [np.full(len(o), 2) for o in large]
        for track in found:
            kinds = np.where(speeds(track) <= SLOW, 1, 2)
            for first, last in stops(track, STANDING, BLOCK):
                kinds[first : last + 1] = 0
            for frame, place, kind in zip(track.frames, track.places, kinds, strict=True):
                classes[frame][place] = kind
        return cls(large, [o.small for o in every], [t for t in found if len(t.frames) >= SHORTEST], classes)


@dataclass
class Judged:
    """One contender on one clip.

    Attributes:
        counts: (T, 4): of a segmenter, pixels that are rightly object, wrongly object, wrongly background and
            rightly background; of a detector, boxes found, wrong and missed, and 0.
        found: of each frame, whether each object is found.
    """

    counts: Array
    found: list[Array]

    def sights(self, truth: Truth) -> Array:
        """Objects found and there, (T, 3, 2), by speed."""
        array = np.zeros((len(self.found), len(CLASSES), 2), np.int64)
        for frame, (found, kinds) in enumerate(zip(self.found, truth.classes, strict=True)):
            for kind in range(len(CLASSES)):
                array[frame, kind] = found[kinds == kind].sum(), (kinds == kind).sum()
        return array

    def first(self, track: Track) -> int | None:
        """Frames from an object's first sight to the first in which it is found, None if it never is."""
        for frame, place in zip(track.frames, track.places, strict=True):
            if self.found[frame][place]:
                return frame - track.frames[0]
        return None


def judge_mask(marked: Array, mask: Array, truth: Objects) -> tuple[list[int], Array]:
    """A segmenter's answer (H, W) to one frame: counts of pixels, and which objects are found.

    Unknown pixels and those outside do not count.
    """
    inside, known = mask == OBJECT, (mask != UNKNOWN) & (mask != OUTSIDE)
    right, wrong = marked & known & inside, marked & known & ~inside
    counts = [right.sum(), wrong.sum(), (inside & ~marked).sum(), (known & ~inside & ~marked).sum()]
    found = np.zeros(len(truth), bool)
    for index, (left, top, end, bottom) in enumerate(truth.boxes.astype(int)):
        there = inside[top:bottom, left:end]
        found[index] = right[top:bottom, left:end].sum() > MARKED * there.sum()
    return [int(c) for c in counts], found


def judge_boxes(boxes: Boxes, mask: Array, truth: Objects, small: Objects) -> tuple[list[int], Array]:
    """A detector's answer to one frame: boxes found, wrong and missed, and which objects are found."""
    there = Boxes(truth.boxes, np.ones(len(truth)), np.zeros(len(truth), np.int64))
    paired = pairing(boxes, there)
    found = np.zeros(len(truth), bool)
    found[[j for _, j in paired]] = True
    ours = {i for i, _ in paired}
    wrong = sum(not _ignored(box, mask, small) for index, box in enumerate(boxes.boxes) if index not in ours)
    return [int(found.sum()), wrong, int((~found).sum()), 0], found


def _ignored(box: Array, mask: Array, small: Objects) -> bool:
    """Whether a detection lies where nothing counts."""
    left, top, right, bottom = (int(v) for v in np.rint(box))
    inside = np.isin(mask[top:bottom, left:right], (UNKNOWN, OUTSIDE))
    for a, b, c, d in small.boxes.astype(int):
        inside[max(b - top, 0) : max(d - top, 0), max(a - left, 0) : max(c - left, 0)] = True
    return bool(inside.size == 0 or inside.mean() > IGNORED)


# ---------------------------------------------------------------- figures


def miou(counts: Array) -> Array:
    """Mean of object's and background's intersection over union, of counts (..., 4) of a segmenter."""
    right, wrong, missed, background = np.moveaxis(counts.astype(np.float64), -1, 0)
    both = wrong + missed
    return 0.5 * (_over(right, right + both) + _over(background, background + both))


def recall(counts: Array) -> Array:
    """Share of the objects found, of counts (..., 4) of a detector."""
    return _over(counts[..., 0], counts[..., 0] + counts[..., 2])


def precision(counts: Array) -> Array:
    """Share of the detections that are right, of counts (..., 4) of a detector."""
    return _over(counts[..., 0], counts[..., 0] + counts[..., 1])


def f1(counts: Array) -> Array:
    """Twice what is found over detections and objects, of counts (..., 4) of a detector."""
    return _over(2 * counts[..., 0], 2 * counts[..., 0] + counts[..., 1] + counts[..., 2])


def share(counts: Array) -> Array:
    """Found over there, of (..., 2)."""
    return _over(counts[..., 0], counts[..., 1])


def _over(top: Array, bottom: Array) -> Array:
    """A ratio, NaN where there is nothing."""
    ratio: Array = np.where(bottom > 0, top / np.maximum(bottom, 1), np.nan)
    return ratio


#: (weights of the clips, counts of the frames of each clip): a figure is the sum of such terms.
Term = tuple[Sequence[float], Sequence[Array]]


def interval(terms: Sequence[Term], statistic: Statistic, block: int = BLOCK) -> dict[str, float | None]:
    """A sum of weighted statistics of clips with its interval of 95 %, by bootstrap over blocks of frames.

    All terms are drawn together: the difference of two contenders is a paired one. Clips in which a term has
    no value do not count. There is no interval for fewer than five blocks.

    Args:
        terms: one for each contender; weights are multiplied by one over the number of clips.
        statistic: of sums of counts (..., k).
        block: consecutive frames that are drawn together.
    """
    rng = np.random.default_rng(0)
    values, drawn, blocks = [], [], 0
    for clip in range(len(terms[0][0])):
        value, draws, chosen = 0.0, np.zeros(RESAMPLES), None
        for weights, counts in terms:
            if weights[clip] == 0:
                continue
            frames = counts[clip]
            sums = np.add.reduceat(frames.astype(np.int64), range(0, len(frames), block), axis=0)
            if chosen is None:
                chosen = rng.integers(0, len(sums), (RESAMPLES, len(sums)))
                blocks += len(sums)
            value += weights[clip] * float(statistic(sums.sum(0)))
            draws = draws + weights[clip] * statistic(sums[chosen].sum(1))
        if not np.isnan(value):
            values.append(value)
            drawn.append(draws)
    if not values:
        return {"value": None, "low": None, "high": None}
    mean = float(np.mean(values))
    if blocks < FEWEST:
        return {"value": mean, "low": None, "high": None}
    over = np.nanmean(np.stack(drawn), axis=0)
    low, high = np.nanquantile(over, [0.025, 0.975])
    return {"value": mean, "low": float(low), "high": float(high)}


def at_equal_ms(ms: Sequence[float], skips: Mapping[int, Sequence[float]]) -> dict[int, list[float]]:
    """How much of every n-th frame costs as much as a contender: weights of each n for each clip.

    Between two n they are linear in the time. A contender slower than the densest is compared with that one,
    one quicker than the sparsest with that.

    Args:
        ms: of the contender on each clip.
        skips: of every n-th frame on each clip, by n.
    """
    weights = {n: [0.0] * len(ms) for n in skips}
    for clip, ours in enumerate(ms):
        row = sorted((times[clip], n) for n, times in skips.items())
        slower = next((i for i, (time, _) in enumerate(row) if time >= ours), len(row) - 1)
        quicker = max(slower - 1, 0)
        (low, a), (high, b) = row[quicker], row[slower]
        part = 0.0 if high == low else min(max((ours - low) / (high - low), 0.0), 1.0)
        weights[a][clip] += 1 - part
        weights[b][clip] += part
    return weights


def delays(judged: Sequence[Judged], truth: Sequence[Truth]) -> dict[str, Any]:
    """When objects that appear are first found, and which never are, over all clips.

    An object that is never found counts with the whole of its life in the mean.
    """
    late, lost, missed, there = [], 0, 0, 0
    for one, true in zip(judged, truth, strict=True):
        for track in true.tracks:
            first = one.first(track)
            there += 1
            missed += first is None
            if track.new:
                late.append(track.frames[-1] - track.frames[0] + 1 if first is None else first)
                lost += first is None
    return {
        "new": len(late),
        "delays": late,
        "mean_delay": float(np.mean(late)) if late else None,
        "median_delay": float(np.median(late)) if late else None,
        "never": lost,
        "objects": there,
        "missed": missed,
    }


def paired_mean(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float | None]:
    """Mean difference over objects with its interval of 95 %, by bootstrap over objects."""
    difference = np.array(ours, float) - np.array(theirs, float)
    if len(difference) < FEWEST:
        return {"value": float(difference.mean()) if len(difference) else None, "low": None, "high": None}
    rng = np.random.default_rng(0)
    drawn = difference[rng.integers(0, len(difference), (RESAMPLES, len(difference)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": float(difference.mean()), "low": float(low), "high": float(high)}
