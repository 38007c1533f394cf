"""The search on made-up trials whose costs and losses are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from videoeff.calibration.cost import Sample
from videoeff.calibration.intervals import Interval
from videoeff.calibration.search import EXPECTED, NEAR, SURVIVORS, Goal, Search
from videoeff.calibration.settings import EXACT, InputTest, Settings, is_coarser
from videoeff.calibration.space import Space
from videoeff.calibration.trials import Trial

INPUTS = (InputTest(), InputTest(2.0, 4, 1), InputTest(4.0, 4, 1), InputTest(8.0, 4, 1))


def trial(settings: Settings, loss: float, work: float) -> Trial:
    """One of a metric of which higher figures are better."""
    found = Interval(1.0 - loss, None, None, 10)
    return Trial(settings, found, found.value, Sample({}, {}, 0.0, work, 10))


def loss_of(settings: Settings) -> float:
    """Grows with all that saves, most with thresholds."""
    reach = 0.0 if settings.reach is None else 0.01 / (1 + settings.reach)
    return 0.001 * settings.input.levels + reach + settings.threshold + 0.01 * settings.predict


def work_of(settings: Settings) -> float:
    """Falls with all that saves."""
    reach = 1.0 if settings.reach is None else 0.3 + 0.02 * settings.reach
    return (
        reach * (1 - 0.05 * settings.input.levels) * (1 - 2 * settings.threshold) * (1 - settings.predict / 4)
    )


class Clip:
    """Runs settings; remembers which, on which level."""

    def __init__(self, extra: float = 0.0) -> None:
        self.runs: list[tuple[Settings, int]] = []
        self.extra = extra

    def run(self, settings: Settings, level: int) -> Trial:
        """On more frames ``extra`` more is lost."""
        self.runs.append((settings, level))
        lost = 0.0 if settings.exact else loss_of(settings) + self.extra * level
        return trial(settings, lost, work_of(settings))

    def search(self, goal: Goal, levels: int = 3) -> Search:
        """A search of three levels over a small space."""
        return Search(self.run, lambda t: t.work, goal, Space(INPUTS, thresholds=(0.0, 0.05)), levels)


def test_the_cheapest_that_keeps_the_figure_comes_first() -> None:
    """The best of the whole space, found without trying it all, and everything named keeps the budget."""
    clip = Clip()
    found = clip.search(Goal(0.98, "higher")).candidates()
    space = [Settings(i, r) for i in INPUTS for r in Space(INPUTS).reaches]
    kept = [s for s in space if loss_of(s) <= 0.02]
    assert found[0].work == pytest.approx(min(map(work_of, kept)))
    assert found[-1].settings == EXACT
    assert all(t.settings.exact or loss_of(t.settings) <= 0.02 for t in found)
    assert [t.work for t in found[:-1]] == sorted(t.work for t in found[:-1])


def test_what_fails_on_more_frames_is_dropped() -> None:
    """What keeps the budget on few frames only is not chosen: others are taken, the exact one at last."""
    found = Clip(extra=0.007).search(Goal(0.98, "higher")).candidates()
    assert all(t.settings.exact or loss_of(t.settings) + 2 * 0.007 <= 0.02 for t in found)
    assert len(found) > 1
    assert [t.settings for t in Clip(extra=1.0).search(Goal(0.98, "higher")).candidates()] == [EXACT]


def test_of_a_cost_the_most_faithful_comes_first() -> None:
    """Everything named costs no more than the limit; the exact stream is not among them if it costs more."""
    clip = Clip()
    found = clip.search(Goal(0.5, "higher", of_cost=True)).candidates()
    assert all(t.work <= 0.5 for t in found)
    assert EXACT not in [t.settings for t in found]
    kept = [s for s in (Settings(i, r) for i in INPUTS for r in Space(INPUTS).reaches) if work_of(s) <= 0.5]
    assert loss_of(found[0].settings) <= min(map(loss_of, kept)) + 0.002


def test_no_setting_costs_as_little() -> None:
    """An impossible cost leaves nothing."""
    assert Clip().search(Goal(0.001, "higher", of_cost=True)).candidates() == []


def test_nothing_coarser_than_what_is_hopeless_is_tried() -> None:
    """A test of the input that loses far too much is not combined with more that saves."""
    clip = Clip()
    clip.search(Goal(0.999, "higher")).candidates()
    assert [s for s, _ in clip.runs if s.input.levels == 4.0] == [Settings(INPUTS[2])]
    assert not [s for s, _ in clip.runs if s.input.levels == 8.0]


def test_slow_trials_try_fewer_values() -> None:
    """Where the first trial takes a tenth of the time, about every other value is left out."""
    clip, time = Clip(), [100.0]

    def run(settings: Settings, level: int) -> Trial:
        time[0] -= 10.0 if len(clip.runs) == 0 else 1.0
        return clip.run(settings, level)

    search = Search(run, lambda t: t.work, Goal(0.98, "higher"), Space(INPUTS), 3, lambda: time[0])
    found = search.candidates()
    assert search.space == Space(INPUTS).thinned()
    assert not [s for s, _ in clip.runs if s.input == INPUTS[2]]
    assert found[0].work < 0.9


def test_the_search_ends_when_the_time_is_up() -> None:
    """Then the exact stream is all there is."""
    clip = Clip()
    search = clip.search(Goal(0.98, "higher"))
    search.left = lambda: 0.0
    assert [t.settings for t in search.candidates()] == [EXACT]
    assert len(clip.runs) == 1


@pytest.mark.parametrize(
    ("limit", "better", "figure", "kept"),
    [(0.98, "higher", 0.98, True), (0.98, "higher", 0.97, False), (0.03, "lower", 0.03, True),
     (0.03, "lower", 0.031, False), (1.0, "higher", 0.9999, False), (0.0, "lower", 1e-9, False)],
)  # fmt: skip
def test_a_figure_keeps_a_limit(limit: float, better: str, figure: float, kept: bool) -> None:
    """At the limit it is kept, beyond it not."""
    goal = Goal(limit, "higher" if better == "higher" else "lower")
    assert goal.keeps(figure) is kept


def test_slack_is_on_the_loss() -> None:
    """1.25 times 0.02 may be lost of an agreement of 0.98."""
    goal = Goal(0.98, "higher")
    assert goal.keeps(0.976, 1.25)
    assert not goal.keeps(0.974, 1.25)
    assert goal.loss(0.9) > goal.loss(0.95)


def test_coarser_settings() -> None:
    """Every value counts; input tests of other forms are not compared."""
    fine = Settings(INPUTS[1], 8.0)
    assert is_coarser(Settings(INPUTS[2], 8.0), fine)
    assert is_coarser(Settings(INPUTS[1], 0.0, 0.1), fine)
    assert not is_coarser(Settings(INPUTS[2], None), fine)
    assert not is_coarser(Settings(INPUTS[2], 8.0, refresh=4), fine)
    assert not is_coarser(Settings(InputTest(9.0, 8, 0), 0.0), fine)
    assert is_coarser(Settings(InputTest(9.0, 8, 0), 0.0), EXACT)


def test_the_bound_of_the_last_layers_is_compared() -> None:
    """None stands for the same bound as in the others; one that is smaller than the reach does nothing."""
    wide = Settings(INPUTS[1], 0.0, late=16.0)
    assert is_coarser(Settings(INPUTS[1], 0.0), wide)
    assert not is_coarser(wide, Settings(INPUTS[1], 0.0))
    assert not is_coarser(wide, Settings(INPUTS[1], 8.0))
    assert is_coarser(Settings(INPUTS[1], 8.0, late=4.0), Settings(INPUTS[1], 8.0))
    assert is_coarser(wide, Settings(INPUTS[1], None, late=4.0))


def test_settings_are_plain_json() -> None:
    """Also where the last layers have no bound."""
    free = Settings(INPUTS[1], 0.0, late=math.inf)
    assert json.loads(json.dumps(free.to_json(), allow_nan=False))["late"] == "none"
    assert "reach 0 (none in the last layers)" in str(free)
    assert Settings(INPUTS[1], 0.0, late=16.0).to_json()["late"] == 16.0
    assert Settings(INPUTS[1]).to_json()["late"] is None


def test_neighbours_differ_by_one_place() -> None:
    """None of them is the settings themselves, and none sets what does nothing."""
    space = Space(INPUTS)
    found = space.neighbours(Settings(INPUTS[2], 8.0, 0.05))
    assert Settings(INPUTS[3], 8.0, 0.05) in found
    assert Settings(INPUTS[2], 0.0, 0.05) in found
    assert Settings(INPUTS[2], 8.0, 0.05, late=8.0) not in found
    assert Settings(INPUTS[2], 8.0, 0.05) not in found
    assert len(set(found)) == len(found)
    assert all(s.late is None and s.refresh == 64 for s in space.neighbours(EXACT))


def test_the_best_gets_better_on_all_frames() -> None:
    """What fails on few frames by chance is found next to what keeps the budget on all of them."""
    clip = Clip()
    settings = (Settings(i, r) for i in INPUTS for r in (None, 16.0, 8.0, 0.0))
    best = min((s for s in settings if loss_of(s) <= 0.02), key=work_of)

    def run(settings: Settings, level: int) -> Trial:
        found = clip.run(settings, level)
        unlucky = settings == best and level == 0
        return trial(settings, 1.5 * 0.02, found.work) if unlucky else found

    space = Space(INPUTS, lates=(None,), refreshes=(64,), thresholds=(0.0,))
    search = Search(run, lambda t: t.work, Goal(0.98, "higher"), space, 2)
    assert search.candidates()[0].settings == best


def test_the_next_safer_setting() -> None:
    """Where more was lost on other frames, the cheapest that loses so much less here; in part at first."""
    search = Clip().search(Goal(0.96, "higher"))
    first = search.candidates()[0]
    assert search.strain(first) == pytest.approx(loss_of(first.settings) / 0.04)
    found = search.safer([(first, 2**2.5 * search.strain(first))])  # 2.5 is one over the first power
    assert found is not None
    assert found.work > first.work
    able = [s for s, _ in search.trials if loss_of(s) < loss_of(first.settings) and not s.exact]
    assert loss_of(first.settings) <= 0.02
    assert found.work == pytest.approx(min(map(work_of, able)))
    assert (found.settings, 2) in search.trials
    again = search.safer([(first, 1.5 * search.strain(first)), (found, 3 * search.strain(found))])
    assert again is not None
    assert loss_of(again.settings) <= 0.04 / 3 ** EXPECTED[1]
    last = search.safer([(first, 1e6)] * 3)
    assert last is not None
    assert search.strain(last) < search.strain(first)


def test_the_next_that_costs_less() -> None:
    """Where the cost was a quarter higher on other frames, the most faithful that costs so much less."""
    search = Clip().search(Goal(0.5, "higher", of_cost=True))
    first = search.candidates()[0]
    found = search.safer([(first, 1.25**2.5 * search.strain(first))])
    assert found is not None
    assert found.work <= 0.4
    assert loss_of(found.settings) >= loss_of(first.settings)


def test_thresholds_layer_by_layer_are_scaled_to_the_limit() -> None:
    """The common factor is the largest that keeps the budget, up to a tenth; for a cost the smallest."""
    clip = Clip()

    def layerwise(settings: Settings) -> list[Settings]:
        return [replace(settings, threshold=0.02, layers=(("a", 1.0),))]

    for goal in (Goal(0.95, "higher"), Goal(0.4, "higher", of_cost=True)):
        search = clip.search(goal)
        search.layerwise = layerwise
        own = [t for t in search.candidates() if t.settings.layers]
        assert own
        best = own[0].settings
        factors = {t.settings.threshold for (_, level), t in search.trials.items() if t.settings.layers}
        assert len(factors) > 2
        if goal.of_cost:
            assert all(t.work <= 0.4 for t in own)
            assert loss_of(best) == min(loss_of(t.settings) for t in own)
        else:
            assert loss_of(replace(best, threshold=NEAR * best.threshold)) > 0.05


def test_nothing_coarser_than_what_failed_on_more_frames_is_run_on_them() -> None:
    """Where the first survivors all fail, those that save more than one of them are left out."""
    clip = Clip(extra=1.0)
    clip.search(Goal(0.97, "higher")).candidates()
    run = [s for s, level in clip.runs if level == 1]
    first, later = run[:SURVIVORS], run[SURVIVORS:]
    assert later
    assert not any(is_coarser(s, f) for s in later for f in first)
