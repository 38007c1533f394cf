"""What holds for every pass (law 10), and how lists of passes are written, read and refused."""

from __future__ import annotations

import re

import pytest
import torch

from tests.support.nets import ZOO, network
from tests.support.streams import captured, outputs_of, planned, read_back
from videoeff.analysis import annotate
from videoeff.analysis.verify import verify
from videoeff.errors import OrderError, PassError, VerifyError
from videoeff.ir.program import Program
from videoeff.passes import Pass, parse_passes, recipe, run_passes
from videoeff.passes.base import PassResult
from videoeff.passes.insert_delta_caches import InsertDeltaCaches
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.passes.mark_dense import MarkDense
from videoeff.passes.pipeline import check_order, passes_hash, passes_to_text
from videoeff.passes.recipes import PASSES, RECIPES
from videoeff.testing import changing_frames, relative_error

OPTIONS: dict[str, tuple[Pass, ...]] = {
    "insert-thresholds": (
        InsertThresholds(0.1),
        InsertThresholds(0.1, predict=1.5, input_threshold=0.2, block=4),
    ),
    "mark-dense": (MarkDense(("stems*",)), MarkDense(smallest=0)),
}


def steps(program: Program) -> list[tuple[Pass, Program]]:
    """Every pass of the delta recipe, also with options, with the Program it is given there."""
    found = []
    for item in recipe("delta"):
        found += [(p, program) for p in (item, *OPTIONS.get(item.name, ()))]
        program = item.run(program).program
    return found


@pytest.mark.parametrize("name", ZOO)
def test_every_pass_on_every_network(name: str) -> None:
    """Idempotent, outputs kept, the given Program untouched, legal, and its text parses back."""
    spec = ZOO[name]
    model = network(spec)
    frame = next(changing_frames(spec.shapes, 1, seed=5))
    program = captured(model, *frame)
    with torch.no_grad():
        expected = outputs_of(program, *frame)
    for item, given in steps(program):
        before = str(given)
        once: PassResult = item.run(given)
        assert str(given) == before, f"{item}: changed the Program it was given"
        assert once.changed == (str(once.program) != before), f"{item}: not honest about what it changed"
        assert relative_error(outputs_of(once.program, *frame), expected) <= 1e-9, item
        twice = item.run(once.program)
        assert str(twice.program) == str(once.program), f"{item}: not idempotent"
        assert not twice.changed, f"{item}: says it changed what it did not"
        again = read_back(once.program)
        annotate(again)
        verify(again)
        assert str(again) == str(once.program), f"{item}: its text does not parse back"
        assert relative_error(outputs_of(again, *frame), expected) <= 1e-9, item
        assert once.program.history[-1].text == str(item)


def test_recipes_hold_known_passes() -> None:
    assert set(RECIPES) == {"exact", "delta"}
    for passes in RECIPES.values():
        assert all(PASSES[p.name] is type(p) for p in passes)
    on_request = {"bound-reach"}  # convert(reach=...) adds it
    assert {p.name for p in RECIPES["delta"]} == set(PASSES) - on_request


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_prints_and_parses(name: str) -> None:
    text = passes_to_text(recipe(name))
    assert parse_passes(text) == recipe(name)
    assert passes_to_text(parse_passes(text)) == text
    assert re.fullmatch("[0-9a-f]{16}", passes_hash(text))
    others = [passes_to_text(recipe(other)) for other in RECIPES if other != name]
    assert passes_hash(text) not in [passes_hash(other) for other in (*others, text + " ", "")]


def test_a_hash_is_the_same_in_every_process() -> None:
    """It is kept in artefacts."""
    assert passes_hash("drop-noops,fuse-pointwise") == "f2c6ec63f0e3b216"


@pytest.mark.parametrize(
    "item",
    [
        InsertThresholds(0.1, "max", 1.25, 0.02, "l2", 8, 2),
        InsertThresholds(input_threshold=0.0),
        MarkDense(("layer4.*", "fc"), 16),
        MarkDense(smallest=0),
    ],
    ids=str,
)
def test_options_print_and_parse(item: Pass) -> None:
    assert parse_passes(str(item)) == (item,)


def test_spaces_do_not_matter() -> None:
    text = " drop-noops ,insert-delta-caches , mark-dense{ smallest = 9 ,layers=a.*+b } "
    assert parse_passes(text)[2] == MarkDense(("a.*", "b"), 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("fold-batch-norm", "no pass 'fold-batch-norm'; there are fold-batchnorm"),
        ("drop-noops;mark-dense", "cannot read"),
        ("drop-noops,,mark-dense", "cannot read"),
        ("mark-dense{layers=a", "cannot read"),
        ("mark-dense{treshold=3}", "mark-dense: no option 'treshold'; it has layers, smallest"),
        ("mark-dense{smallest}", "write key=value"),
        ("drop-noops{x=1}", "it has none"),
        ("mark-dense{smallest=big}", "smallest='big' is no int"),
        ("insert-thresholds{threshold=much}", "threshold='much' is no float"),
        ("insert-thresholds{input_threshold=much}", "input_threshold='much' is no"),
    ],
)
def test_bad_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(PassError, match=message):
        parse_passes(text)


def test_unknown_recipe() -> None:
    with pytest.raises(PassError, match="no recipe 'best'; there are exact, delta"):
        recipe("best")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("insert-delta-caches,fold-batchnorm", "pass 2, fold-batchnorm, needs 'unplanned'"),
        ("fuse-pointwise", "pass 1, fuse-pointwise, needs 'caches': put insert-delta-caches before it"),
        ("insert-delta-caches,drop-noops", "pass 2, drop-noops, needs"),
        ("drop-noops,plan-layout,insert-delta-caches", "pass 2, plan-layout, needs 'caches'"),
        ("insert-delta-caches,trace-channels", "pass 2, trace-channels, needs 'unplanned'"),
    ],
)
def test_wrong_order_is_refused_before_anything_runs(text: str, message: str) -> None:
    program = captured(network(ZOO["plain"]), *next(changing_frames(ZOO["plain"].shapes, 1)))
    before = str(program)
    with pytest.raises(OrderError, match=message):
        run_passes(program, parse_passes(text))
    assert str(program) == before


def test_order_of_a_planned_program() -> None:
    program = captured(network(ZOO["plain"]), *next(changing_frames(ZOO["plain"].shapes, 1)))
    done = planned(program)
    check_order(parse_passes("insert-thresholds"), done)
    with pytest.raises(OrderError, match="drop-noops"):
        check_order(parse_passes("drop-noops"), done)
    assert str(InsertDeltaCaches().run(done).program) == str(done)


def test_a_pass_that_breaks_the_graph_is_caught() -> None:
    class Breaks(Pass):
        name = "breaks"

        def rewrite(self, program: Program, note: object) -> bool:
            for node in program.nodes:
                if "delta_cache" in str(node.target):
                    node.kwargs = {**node.kwargs, "threshold": -1.0}
            return True

    program = captured(network(ZOO["plain"]), *next(changing_frames(ZOO["plain"].shapes, 1)))
    with pytest.raises(VerifyError, match="must be a finite number"):
        run_passes(program, (InsertDeltaCaches(), Breaks()))
