"""From what was judged and timed, clip by clip, to the figures of the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.labelled_contenders import DENSE, STEPS, Contender, skipping
from benchmarks.labelled_score import (
    CLASSES,
    Judged,
    Statistic,
    Term,
    Truth,
    at_equal_ms,
    delays,
    f1,
    interval,
    miou,
    paired_mean,
    precision,
    recall,
    share,
)
from videoeff.bench.figures import best

Figure = dict[str, float | None]

#: What is told of each network: the first is compared with skipping at equal time.
FIGURES: dict[str, dict[str, Statistic]] = {
    "segmenter": {"miou": miou},
    "detector": {"recall": recall, "precision": precision, "f1": f1},
}


class Figures:
    """The figures of one network over clips.

    Args:
        kind: ``segmenter`` or ``detector``.
        truth: of each clip.
        judged: of each clip, by label, with the share of the work.
        timed: of each clip, as :mod:`benchmarks.labelled_time` gives it; those not timed are absent.
        contenders: those to tell of.
    """

    def __init__(
        self,
        kind: str,
        truth: Mapping[str, Truth],
        judged: Mapping[str, Mapping[str, tuple[Judged, float]]],
        timed: Mapping[str, Mapping[str, Any]],
        contenders: Sequence[Contender],
    ) -> None:
        self.kind, self.truth, self.judged, self.timed = kind, truth, judged, timed
        self.clips = list(judged)
        self.contenders = [c for c in contenders if all(c.label in judged[clip] for clip in self.clips)]

    def of(self, contender: Contender) -> list[Judged]:
        """One contender on every clip."""
        return [self.judged[clip][contender.label][0] for clip in self.clips]

    def counts(self, contender: Contender) -> list[Any]:
        """Its counts on every clip."""
        return [one.counts for one in self.of(contender)]

    def ms(self, contender: Contender, clip: str) -> float | None:
        """Milliseconds a frame on a clip, None where it was not timed."""
        row = self.timed.get(clip)
        if row is None:
            return None
        if not contender.dense:
            found: float | None = row["streams"].get(contender.label)
            return found
        times: Mapping[str, float] = row["dense"]
        name = best(times)
        assert name is not None  # eager PyTorch always runs
        extra = 0.0
        if contender.tracker:
            trackers = row.get("tracker") or {}
            if str(contender.every) not in trackers:
                return None
            extra = trackers[str(contender.every)]
        return float(times[name] / contender.every + extra)

    def every_ms(self, contender: Contender) -> dict[int, float]:
        """On every clip on which it was timed, by the clip's place."""
        found = {i: self.ms(contender, clip) for i, clip in enumerate(self.clips)}
        return {i: ms for i, ms in found.items() if ms is not None}

    def over_skipping(self, contender: Contender, statistic: Statistic, tracker: bool) -> Figure | None:
        """The contender's figure minus that of frame skipping at the same time, over the clips timed."""
        ours = self.every_ms(contender)
        rows = {1: DENSE} | {n: skipping(n, tracker) for n in STEPS}
        known = {c.label for c in self.contenders}
        if not ours or any(c.label not in known for c in rows.values()):
            return None
        times = {n: self.every_ms(c) for n, c in rows.items()}
        clips = [i for i in ours if all(i in ms for ms in times.values())]
        if not clips:
            return None
        weights = at_equal_ms(
            [ours[i] for i in clips], {n: [ms[i] for i in clips] for n, ms in times.items()}
        )

        def counts(one: Contender) -> list[Any]:
            every = self.counts(one)
            return [every[i] for i in clips]

        terms: list[Term] = [([1.0] * len(clips), counts(contender))]
        terms += [([-w for w in row], counts(rows[n])) for n, row in weights.items() if any(row)]
        return interval(terms, statistic)

    def figure(self, contender: Contender, statistic: Statistic) -> tuple[Figure, Figure]:
        """A figure, mean over clips, and its difference from the dense network's."""
        plain = [1.0] * len(self.clips)
        ours, dense = (plain, self.counts(contender)), ([-1.0] * len(self.clips), self.counts(DENSE))
        return interval([ours], statistic), interval([ours, dense], statistic)

    def speeds(self, contender: Contender) -> dict[str, dict[str, Figure]]:
        """The share of the objects found that stand, are slow and are fast; and minus the dense network's."""
        found = {}
        truth = [self.truth[clip] for clip in self.clips]
        ours = [j.sights(t) for j, t in zip(self.of(contender), truth, strict=True)]
        dense = [j.sights(t) for j, t in zip(self.of(DENSE), truth, strict=True)]
        for kind, name in enumerate(CLASSES):
            there = [i for i, sights in enumerate(ours) if sights[:, kind, 1].any()]
            if not there:
                continue
            mine: Term = ([1.0] * len(there), [ours[i][:, kind] for i in there])
            theirs: Term = ([-1.0] * len(there), [dense[i][:, kind] for i in there])
            found[name] = {"share": interval([mine], share), "minus_dense": interval([mine, theirs], share)}
        return found

    def by_clip(self, contender: Contender, statistic: Statistic) -> dict[str, Any]:
        """The first figure on every clip, minus the dense network's, with work and time."""
        rows = {}
        for clip in self.clips:
            judged, work = self.judged[clip][contender.label]
            ours: Term = ([1.0], [judged.counts])
            dense: Term = ([-1.0], [self.judged[clip][DENSE.label][0].counts])
            rows[clip] = {
                "figure": interval([ours], statistic),
                "minus_dense": interval([ours, dense], statistic),
                "work": work,
                "ms": self.ms(contender, clip),
            }
        return rows

    def row(self, contender: Contender) -> dict[str, Any]:
        """Everything about one contender, as plain values."""
        statistics = FIGURES[self.kind]
        main = next(iter(statistics.values()))
        truth = [self.truth[clip] for clip in self.clips]
        ms = self.every_ms(contender)
        late, dense = delays(self.of(contender), truth), delays(self.of(DENSE), truth)
        row: dict[str, Any] = {
            "label": contender.label,
            "group": "dense" if contender.dense else "stream",
            "every": contender.every,
            "tracker": contender.tracker,
            "work": float(np.mean([self.judged[clip][contender.label][1] for clip in self.clips])),
            "ms": float(np.mean(list(ms.values()))) if ms else None,
            "timed": [self.clips[i] for i in ms],
            "clips": self.by_clip(contender, main),
            "speeds": self.speeds(contender),
            "later": paired_mean(late.pop("delays"), dense.pop("delays")),
            "objects": late,
        }
        for name, statistic in statistics.items():
            row[name], row[f"{name}_minus_dense"] = self.figure(contender, statistic)
        if not contender.dense:
            row["over_skipping"] = self.over_skipping(contender, main, tracker=False)
            if self.kind == "detector":
                row["over_skipping_tracker"] = self.over_skipping(contender, main, tracker=True)
        return row

    def to_json(self) -> dict[str, Any]:
        """All of them."""
        frames = {clip: len(self.truth[clip].objects) for clip in self.clips}
        return {"kind": self.kind, "frames": frames, "contenders": [self.row(c) for c in self.contenders]}
