"""The terminal tables as text."""

from __future__ import annotations

import networkx as nx
import pytest

from tests.support.synthetic_graphs import HISTORY, add_node, residual
from videoeff.inspect import graph_table, history_table, to_text
from videoeff.inspect.tables import count_text, end_of, grouped


def test_graph_table_shows_every_node_but_constants() -> None:
    graph = residual((1,), stage="lowered", run=True, weights=True)
    text = to_text(graph_table(graph), width=200)
    lines = text.splitlines()
    rows = {line.split()[0]: line for line in lines if line.split() and line.split()[0] in graph}
    assert set(rows) == {name for name, data in graph.nodes(data=True) if data["kind"] != "const"}
    for cell in ("layer1.0", "veff.delta_cache", "1×64×56×56", "0.02", "50.0 %"):
        assert cell in rows["cache_0_0"]
    assert "cpu.conv2d_sparse" in rows["conv2d_2"]
    assert "116 M" in rows["conv2d_2"]
    assert "not run" in rows["linear"]
    assert "resnet, lowered" in text


def test_totals_weigh_the_share_by_macs() -> None:
    graph: nx.DiGraph = nx.DiGraph(name="g", stage="planned")
    add_node(graph, "a", macs=3_000_000, share=0.1)
    add_node(graph, "b", "a", macs=1_000_000, share=0.5)
    add_node(graph, "c", "b", macs=6_000_000)
    total = to_text(graph_table(graph)).splitlines()[-1]
    assert total.split() == ["3", "nodes", "10", "M", "20.0", "%"]


def test_names_are_not_markup() -> None:
    graph: nx.DiGraph = nx.DiGraph(name="[bold]g[/bold]", stage="captured")
    add_node(graph, "[red]x[/red]", module="[/]")
    text = to_text(graph_table(graph))
    for word in ("[bold]g[/bold]", "[red]x[/red]", "[/]"):
        assert word in text


def test_history_table_shows_options_and_declined_rewrites() -> None:
    lines = to_text(history_table(HISTORY)).splitlines()
    fold = next(line for line in lines if "fold-batchnorm" in line)
    insert = next(line for line in lines if "insert-delta-caches" in line)
    remove = next(line for line in lines if "remove-dropout" in line)
    assert fold.split()[1] == "yes"
    assert "layer1.0.conv1: weights shared, not folded" in fold
    assert "threshold=0.02, test=rms" in insert
    assert remove.split() == ["remove-dropout", "no"]


def test_text_is_plain_and_fits_its_width() -> None:
    text = to_text(graph_table(residual((1,))), width=90)
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 90


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (999, "999"), (1000, "1 k"), (1_234_567, "1.23 M")])
def test_count_text(value: int, text: str) -> None:
    assert count_text(value) == text


def test_a_narrow_screen_shows_one_line_a_node() -> None:
    graph = residual((1,))
    nodes = [d for _, d in graph.nodes(data=True) if d["kind"] != "const"]
    lines = to_text(graph_table(graph, width=80), width=80).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert len(lines) == len(nodes) + 6  # title, heads, two rules, totals and the blank lines around them
    assert not any("…" in line for line in lines[4:-3])


def test_a_long_name_keeps_its_end() -> None:
    assert end_of("backbone.stage2.0.conv", 10) == "…e2.0.conv"
    assert end_of("short", 10) == "short"


def test_a_reason_of_many_layers_is_told_once() -> None:
    notes = ["a: it is an output", "b: too small", "c: it is an output", "no layer"]
    assert grouped(notes) == ["a and 1 more: it is an output", "b: too small", "no layer"]
