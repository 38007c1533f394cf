"""The search: which settings keep a budget at the least cost, or are the most faithful at a given cost.

It saves in the order in which saving costs least: a sharp test of the input first, then a bounded reach (in
the last layers another one; and how soon what it puts off is refreshed), then thresholds, then predicted
changes. Every step tries its values on the best few of the step before, on few frames; neighbours of the best
follow; and the survivors are run on more and more frames, until few are left that have kept the budget on all
of them. Of these again the best one's neighbours are tried, on all frames; and at last the best one with
thresholds layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from videoeff.calibration.metrics import Better
from videoeff.calibration.settings import EXACT, Settings, is_coarser
from videoeff.calibration.space import Space
from videoeff.calibration.trials import Trial

#: On few frames a loss may be this many times what is allowed, until more frames are run.
SLACK = 1.25
#: The same where what lies next to it kept the budget on all frames.
LOOSE = 2.0
#: So many of the best have their neighbours tried.
CLIMBERS = 3
#: Factors of thresholds layer by layer that are tried, from one to the next, and when they are near enough.
SCALES, SCALE, NEAR = 6, 1.5, 1.1
#: The first of them.
FIRST = 0.7
#: What loses so many times what is allowed needs no coarser neighbour tried.
HOPELESS = 2.0
#: Settings that each step starts from.
BEAM = 4
#: Settings that go on to more frames, the first time; half as many the next.
SURVIVORS = 8
#: Settings that are run on all frames at least.
FEW = 3
#: What lost less than this share of what is allowed is taken to lose as much, when frames are compared.
FLOOR = 0.1
#: How much of it is expected of others after the first failure and after the second, as a power.
EXPECTED = (0.4, 0.7)
#: What lost no less on the frames searched on is safer only if it costs so much more.
DEARER = 1.25
#: Trials on all frames that the next safer setting is sought with.
LOOKS = 4
#: A trial takes about this share of the first, which computes the dense outputs too.
_LATER = 0.5
#: Share of the time that the trials on few frames may take.
_STEPS = 0.6


@dataclass(frozen=True)
class Goal:
    """What is sought.

    Attributes:
        limit: the figure to keep, or the cost.
        better: which figures are better.
        of_cost: the limit is a cost, and the best figure is sought; else the least cost.
        exact: only the exact stream keeps it. Others may be right on a clip and promise nothing for the next.
    """

    limit: float
    better: Better
    of_cost: bool = False
    exact: bool = False

    def loss(self, figure: float) -> float:
        """How bad a figure is: smaller is better."""
        return figure if self.better == "lower" else -figure

    def share(self, figure: float) -> float:
        """What a figure loses, over what is allowed: 1 at the limit, 0 for no loss."""
        lost, allowed = (figure, self.limit) if self.better == "lower" else (1 - figure, 1 - self.limit)
        if allowed <= 0:
            return 0.0 if self.keeps(figure) else math.inf
        return max(0.0, lost) / allowed

    def keeps(self, figure: float, slack: float = 1.0) -> bool:
        """Whether a figure keeps the limit, if the loss may be ``slack`` times what is allowed."""
        if self.better == "lower":
            return figure <= self.limit * (slack if self.limit > 0 else 1.0)
        allowed = 1.0 - self.limit
        return figure >= (1.0 - slack * allowed if allowed > 0 else self.limit)


@dataclass
class Search:
    """Tries settings until few are left.

    Attributes:
        run: tries settings on the frames of a level, 0 being the fewest.
        cost: of a trial.
        goal: what is sought.
        space: the values to try.
        levels: how many levels of frames there are.
        left: seconds until the time is up.
        trials: all trials by settings and level.
        layerwise: of settings, the same with thresholds layer by layer, whose common factor is to be set.
    """

    run: Callable[[Settings, int], Trial]
    cost: Callable[[Trial], float]
    goal: Goal
    space: Space
    levels: int
    left: Callable[[], float] = lambda: math.inf
    trials: dict[tuple[Settings, int], Trial] = field(default_factory=dict)
    layerwise: Callable[[Settings], list[Settings]] = lambda _: []

    def candidates(self) -> list[Trial]:
        """Settings that keep the budget on all frames, the best first, the exact stream last."""
        before = self.left()
        self._try(EXACT, 0)
        if (
            math.isfinite(before)
            and self.space.size(BEAM) * (before - self.left()) * _LATER > _STEPS * self.left()
        ):
            self.space = self.space.thinned()
        for number, step in enumerate(self.space.steps()):
            for settings in [s for origin in self._beam() for s in step(origin)]:
                self._try(settings, 0)
            if number == 0 and not any(s.input.levels for s in self._beam()):
                for settings in self.space.unbounded():
                    self._try(settings, 0)
        self._climb()
        found = self._scaled(self._refined(self._survivors()))
        exact = self._try(EXACT, 0 if self.over() else self.levels - 1, always=True)
        if not self.goal.of_cost or self.cost(exact) <= self.goal.limit:
            found.append(exact)
        return found

    def strain(self, trial: Trial) -> float:
        """How near the limit a trial is: 1 at it, above 1 beyond it."""
        return (
            self.cost(trial) / self.goal.limit if self.goal.of_cost else self.goal.share(trial.figure.value)
        )

    def safer(self, failed: Sequence[tuple[Trial, float]]) -> Trial | None:
        """The best that should keep the budget on other frames, where some that kept it here did not there.

        What they lost there over what they lost here is expected of all: a part of that at first, since
        others need not fail alike, and all of it after three failures.

        Args:
            failed: what was tried there, and its strain there.

        Returns:
            A trial on all frames, None if there is nothing left that lies further from the limit.
        """
        worse = max(there / max(self.strain(trial), FLOOR) for trial, there in failed)
        worse = max(1.0, worse) ** (EXPECTED[len(failed) - 1] if len(failed) <= len(EXPECTED) else 1.0)
        tried, (last, _) = {t.settings for t, _ in failed}, failed[-1]
        for _ in range(LOOKS):
            most: dict[Settings, Trial] = {}  # each on the most frames it was run on
            for (settings, _), trial in sorted(self.trials.items(), key=lambda item: item[0][1]):
                most[settings] = trial
            able = [t for t in most.values() if t.settings not in tried and not t.settings.exact]
            able = [t for t in able if self.strain(t) * worse <= 1 and self._beyond(t, last)]
            if not able:  # then what is furthest from the limit, once
                rest = (t for t in most.values() if t.settings not in tried and not t.settings.exact)
                able = sorted((t for t in rest if self._beyond(t, last)), key=self.strain)[:1]
            if not able:
                return None
            best = self.ranked(able)[0]
            key = best.settings, self.levels - 1
            if key in self.trials:
                return best
            self.trials[key] = self.run(*key)
        return None

    def _beyond(self, trial: Trial, other: Trial) -> bool:
        """Whether one is another matter than another that failed, and not the same once more."""
        if self.strain(trial) < self.strain(other):
            return True
        return not self.goal.of_cost and self.cost(trial) >= DEARER * self.cost(other)

    def over(self) -> bool:
        """Whether the time is up."""
        return self.left() <= 0

    def front(self) -> list[Trial]:
        """The trials on few frames that no other beats in both cost and figure, the cheapest first."""
        return self._front(t for (_, level), t in self.trials.items() if level == 0)

    def keeps(self, trial: Trial, sure: bool, slack: float = 1.0) -> bool:
        """Whether a trial keeps the budget.

        Args:
            trial: the trial.
            sure: judge by the cautious figure.
            slack: on what is allowed.
        """
        if self.goal.of_cost:
            return self.cost(trial) <= self.goal.limit * (1.0 if sure else max(1.0, slack))
        if trial.settings.exact or self.goal.exact:
            return trial.settings.exact
        return self.goal.keeps(trial.cautious if sure else trial.figure.value, slack)

    def ranked(self, trials: Iterable[Trial]) -> list[Trial]:
        """The best first: the cheapest, or the most faithful."""

        def rank(trial: Trial) -> tuple[float, float]:
            cost, loss = self.cost(trial), self.goal.loss(trial.figure.value)
            return (loss, cost) if self.goal.of_cost else (cost, loss)

        return sorted(trials, key=rank)

    def _try(self, settings: Settings, level: int, always: bool = False) -> Trial:
        key = (settings, level)
        if key not in self.trials and (
            always or not self.trials or not (self.over() or self._hopeless(settings))
        ):
            self.trials[key] = self.run(settings, level)
        return self.trials.get(key) or self.trials[EXACT, 0]

    def _hopeless(self, settings: Settings) -> bool:
        """Whether settings that save no more than these have lost far too much."""
        if self.goal.of_cost:
            return False
        return any(
            is_coarser(settings, tried)
            for (tried, _), t in self.trials.items()
            if not tried.exact and not self.goal.keeps(t.figure.value, HOPELESS)
        )

    def _at(self, level: int) -> list[Trial]:
        return [t for (_, at), t in self.trials.items() if at == level]

    def _front(self, trials: Iterable[Trial]) -> list[Trial]:
        found: list[Trial] = []
        for trial in sorted(trials, key=lambda t: (self.cost(t), self.goal.loss(t.figure.value))):
            if not found or self.goal.loss(trial.figure.value) < self.goal.loss(found[-1].figure.value):
                found.append(trial)
        return found

    def _beam(self) -> list[Settings]:
        """What the next step starts from: the best so far, and a few that lose less."""
        front = self._front(t for t in self._at(0) if self.goal.of_cost or self.keeps(t, False, SLACK))
        if self.goal.of_cost:
            best = [t for t in front if self.keeps(t, False)][-1:]
            front = best + [t for t in front if not self.keeps(t, False)]
        if len(front) > BEAM:
            front = [front[i * (len(front) - 1) // (BEAM - 1)] for i in range(BEAM)]
        return [t.settings for t in front] or [EXACT]

    def _climb(self) -> None:
        """Try the neighbours of the best few, until they stay the best."""
        seen: set[Settings] = set()
        while not self.over():
            kept = self.ranked(t for t in self._at(0) if self.keeps(t, False))[:CLIMBERS]
            new = [t.settings for t in kept if t.settings not in seen]
            if not new:
                return
            seen.add(new[0])
            for settings in self.space.neighbours(new[0]):
                self._try(settings, 0)

    def _refined(self, found: list[Trial]) -> list[Trial]:
        """With what lies next to the best and keeps the budget on all frames, while that betters the best."""
        last = self.levels - 1
        while found and not self.over():
            best = found[0]
            for settings in self.space.neighbours(best.settings):
                few = self._try(settings, 0)
                if few.settings != settings or (settings, last) in self.trials or self.over():
                    continue
                if not self.keeps(few, False, LOOSE) or self._refuted(settings):
                    continue
                if last and self.ranked([few, self.trials[best.settings, 0]])[0] is not few:
                    continue
                trial = self.trials[settings, last] = self.run(settings, last)
                if self.keeps(trial, True):
                    found.append(trial)
            found = self.ranked(found)
            if found[0] is best:
                break
        return found

    def _scaled(self, found: list[Trial]) -> list[Trial]:
        """Also the best one with thresholds layer by layer, at the factors that just keep the budget."""
        if not found or self.over():
            return found
        last, best = self.levels - 1, found[0].settings
        for settings in self.layerwise(best):
            factor, kept, missed = FIRST, 0.0, 0.0
            for _ in range(SCALES):
                if self.over():
                    break
                scaled = replace(settings, threshold=factor * settings.threshold)
                trial = self.trials[scaled, last] = self.run(scaled, last)
                if self.keeps(trial, True):
                    found.append(trial)
                    kept = factor
                else:
                    missed = factor
                if kept and missed:
                    if max(kept, missed) < NEAR * min(kept, missed):
                        break
                    factor = math.sqrt(kept * missed)
                else:
                    factor *= SCALE if bool(kept) != self.goal.of_cost else 1 / SCALE
        return self.ranked(found)

    def _refuted(self, settings: Settings) -> bool:
        """Whether settings that save no more than these did not keep the budget on more frames."""
        if self.goal.of_cost:
            return False
        last = self.levels - 1
        return any(
            is_coarser(settings, tried)
            for (tried, level), t in self.trials.items()
            if level and not self.keeps(t, level == last, 1.0 if level == last else SLACK)
        )

    def _survivors(self) -> list[Trial]:
        """Settings run on more and more frames, the best first. Takes others where all of them fail."""
        tried: set[Settings] = {EXACT}
        late = 0
        while True:
            waiting = [t for t in self._at(0) if t.settings not in tried and self.keeps(t, False, SLACK)]
            waiting = self.ranked(t for t in waiting if not self._refuted(t.settings))
            waiting = waiting[: FEW if self.over() else SURVIVORS]
            late += self.over()
            if not waiting or late > 2:
                return []
            tried |= {t.settings for t in waiting}
            for level in range(1, self.levels):
                run = [self.run(t.settings, level) for t in waiting]
                self.trials |= {(t.settings, level): t for t in run}
                kept = self.ranked(t for t in run if self.keeps(t, False, SLACK))
                waiting = kept[: max(FEW, SURVIVORS >> level)]
            found = [t for t in waiting if self.keeps(t, True)]
            if found:
                return found
