"""The page as text: self-contained, complete, and harmless whatever the names in a model are."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TypedDict

import networkx as nx
import pytest

from tests.support.synthetic_graphs import HISTORY, HOSTILE, SUMMARY, add_node, residual
from videoeff.errors import ArtifactError
from videoeff.inspect.html import json_for_script, render_html, write_html


class Graph(TypedDict):
    """A graph as the page's script reads it."""

    nodes: list[dict[str, str | float]]
    edges: list[tuple[int, int, str]]


class Page(HTMLParser):
    """Elements, attributes and the text of each script and style of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.bodies: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag in self.bodies:
            self.bodies[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in self.bodies:
            self.bodies[self._inside][-1] += data
        else:
            self.text += data

    @property
    def data(self) -> dict[str, Graph]:
        result: dict[str, Graph] = json.loads(self.bodies["script"][0])
        return result


def page(before: nx.DiGraph, after: nx.DiGraph, **changes: object) -> Page:
    options: dict[str, object] = {"title": "resnet", "summary": SUMMARY, "history": HISTORY, **changes}
    return Page(render_html(before, after, **options))  # type: ignore[arg-type]


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = render_html(residual((1,)), residual((1,), stage="lowered"), title="t", summary={}, history=[])
    found = Page(text)
    loaders = {"link", "img", "iframe", "object", "embed", "base", "audio", "video", "source", "form", "a"}
    assert not loaders & {tag for tag, _ in found.tags}
    assert not [
        a
        for _, attrs in found.tags
        for a in attrs
        if a in ("src", "href", "srcset", "style") or a[:2] == "on"
    ]
    addresses = set(re.findall(r"https?://[^\s\"'<>`)]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a namespace, never fetched
    assert not re.search(r"url\((?!#)|@import|sourceMappingURL|\bfetch\(|XMLHttpRequest|importScripts", text)


def test_policy_allows_only_the_scripts_and_the_style_of_the_page() -> None:
    found = page(residual((1,)), residual((1,)))
    (policy,) = [
        a["content"] or "" for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"

    def hashes(bodies: list[str]) -> set[str]:
        return {f"'sha256-{base64.b64encode(hashlib.sha256(b.encode()).digest()).decode()}'" for b in bodies}

    assert set(rules["style-src"].split()) == hashes(found.bodies["style"])
    assert set(rules["script-src"].split()) == hashes(found.bodies["script"][1:])


def test_page_holds_both_graphs_whole() -> None:
    before, after = residual((2, 1)), residual((2, 1), stage="lowered", run=True)
    data = page(before, after).data
    for key, graph in (("before", before), ("after", after)):
        names = [node["name"] for node in data[key]["nodes"]]
        assert sorted(names) == sorted(graph)
        edges = {(names[s], names[t]) for s, t, _ in data[key]["edges"]}
        assert edges == set(graph.edges)
        assert all(s < t for s, t, _ in data[key]["edges"]), "nodes are in topological order"
    by_name = {node["name"]: node for node in data["after"]["nodes"]}
    cache = by_name["cache_0_0"]
    assert (cache["kind"], cache["threshold"], cache["share"]) == ("cache", 0.02, 0.5)
    assert (cache["shape"], cache["module"]) == ("1×64×56×56", "layer1.0")


def test_hostile_names_stay_text() -> None:
    graph: nx.DiGraph = nx.DiGraph(name=HOSTILE, stage="captured")
    add_node(graph, "x", kind="input")
    add_node(graph, HOSTILE, "x", module=HOSTILE, label=HOSTILE, reason=HOSTILE, op="%%DATA%%")
    history = [{"name": HOSTILE, "text": HOSTILE, "changed": True, "notes": [HOSTILE]}]
    found = page(graph, graph, title=HOSTILE, summary={HOSTILE: HOSTILE}, history=history)
    assert len(found.bodies["script"]) == 3
    assert "img" not in {tag for tag, _ in found.tags}
    node = found.data["before"]["nodes"][1]
    assert {node["name"], node["module"], node["label"]} == {HOSTILE}
    assert node["op"] == "%%DATA%%"
    assert (
        found.text.count(HOSTILE) == 2 + 2 + 3
    )  # title twice, one row of the summary, one pass with one note


@pytest.mark.parametrize("value", ["</script>", "<!--<script>", "]]>", "a\u2028b", "&lt;"])
def test_json_for_script_escapes_and_parses_back(value: str) -> None:
    text = json_for_script({value: [value]})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {value: [value]}


def test_summary_and_history_are_tables_without_scripts() -> None:
    found = page(residual((1,)), residual((1,)))
    for word in ("streaming MACs", "98.7 %", "insert-delta-caches", "threshold=0.02, test=rms", "no change"):
        assert word in found.text
    assert "1 declined rewrite" in found.text
    assert "layer1.0.conv1: weights shared, not folded" in found.text


def test_empty_summary_and_history_say_so() -> None:
    found = page(residual((1,)), residual((1,)), summary={}, history=[])
    assert "No summary was given." in found.text
    assert "No pass was run." in found.text


def test_infinite_threshold_and_dynamic_shape_are_shown() -> None:
    graph: nx.DiGraph = nx.DiGraph(name="g", stage="planned")
    add_node(graph, "x", threshold=float("inf"), shape=(1, 3, "s0", 8))
    (node,) = page(graph, graph).data["after"]["nodes"]
    assert node["threshold"] == "inf"
    assert node["shape"] == "1×3×s0×8"


def test_cyclic_graph_keeps_its_order() -> None:
    graph: nx.DiGraph = nx.DiGraph(name="g", stage="planned")
    for name in ("b", "a"):
        add_node(graph, name)
    graph.add_edges_from([("a", "b"), ("b", "a")])
    assert [n["name"] for n in page(graph, graph).data["after"]["nodes"]] == ["b", "a"]


@pytest.mark.parametrize(
    ("attribute", "value", "says"),
    [
        ("kind", "sparse", "kind is 'sparse'"),
        ("share", 1.5, "share is 1.5"),
        ("share", float("nan"), "share is nan"),
        ("shape", 7, "a shape must be a tuple"),
        ("macs", "many", "invalid literal"),
    ],
)
def test_a_bad_attribute_is_named(attribute: str, value: object, says: str) -> None:
    graph = residual((1,))
    graph.nodes["relu_0_0"][attribute] = value
    with pytest.raises(ArtifactError, match=r"graph 'resnet', node 'relu_0_0'.*" + re.escape(says)):
        page(graph, residual((1,)))


def test_a_missing_attribute_a_bad_stage_and_a_bad_key_are_named() -> None:
    graph = residual((1,))
    del graph.nodes["x"]["kernel"]
    with pytest.raises(ArtifactError, match="node 'x': no attribute kernel"):
        page(graph, graph)
    with pytest.raises(ArtifactError, match="stage is 'raw'"):
        page(nx.DiGraph(name="g", stage="raw"), graph)
    bad: nx.DiGraph = nx.DiGraph(name="g", stage="planned")
    bad.add_node(3)
    with pytest.raises(ArtifactError, match="node 3: the key of a node must be its name"):
        page(bad, bad)


def test_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    target.write_text("old")
    bad = residual((1,))
    bad.nodes["x"]["kind"] = "?"
    with pytest.raises(ArtifactError, match=r"'\?'"):
        write_html(target, bad, bad, title="t", summary={}, history=[])
    assert target.read_text() == "old"
    write_html(target, residual((1,)), residual((1,)), title="new", summary={}, history=[])
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(ArtifactError, match=r"absent.*choose a path in an existing folder"):
        write_html(
            tmp_path / "absent" / "p.html", residual((1,)), residual((1,)), title="t", summary={}, history=[]
        )
