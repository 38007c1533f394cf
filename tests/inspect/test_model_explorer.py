"""The JSON for Model Explorer, against the classes of ai-edge-model-explorer 0.1.34 as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.synthetic_graphs import residual
from videoeff.errors import ArtifactError
from videoeff.inspect.model_explorer import write_model_explorer, write_node_data

# Fields that the reader knows: name -> type, or the table of the elements of a list.
KEY_VALUE = {"key": str, "value": str}
METADATA = {"id": str, "attrs": [KEY_VALUE]}
EDGE = {"sourceNodeId": str, "sourceNodeOutputId": str, "targetNodeInputId": str}
NODE = {
    "id": str,
    "label": str,
    "namespace": str,
    "attrs": [KEY_VALUE],
    "incomingEdges": [EDGE],
    "outputsMetadata": [METADATA],
}
COLLECTION = {
    "label": str,
    "graphs": [{"id": str, "nodes": [NODE], "groupNodeAttributes": dict}],
    "graphSorting": str,
}


def check(value: object, schema: Any, where: str = "$") -> None:
    """Asserts that a JSON value has exactly the fields and the types of a table."""
    if isinstance(schema, list):
        assert isinstance(value, list), where
        for i, item in enumerate(value):
            check(item, schema[0], f"{where}[{i}]")
    elif isinstance(schema, dict):
        assert isinstance(value, dict), where
        assert set(value) == set(schema), where
        for key, inner in schema.items():
            check(value[key], inner, f"{where}.{key}")
    else:
        assert isinstance(value, schema), where


def test_file_has_the_form_that_the_loader_reads(tmp_path: Path) -> None:
    before, after = residual((2, 1), weights=True), residual((2, 1), stage="lowered", run=True)
    path = tmp_path / "graphs.json"
    write_model_explorer(path, before, after)
    collection = json.loads(path.read_text())
    check(collection, COLLECTION)
    for data, graph in zip(collection["graphs"], (before, after), strict=True):
        ids = [node["id"] for node in data["nodes"]]
        assert sorted(ids) == sorted(graph)
        edges = {
            (edge["sourceNodeId"], node["id"]) for node in data["nodes"] for edge in node["incomingEdges"]
        }
        assert edges == set(graph.edges)
    assert [graph["id"] for graph in collection["graphs"]] == ["before", "after"]


def test_modules_become_namespaces_and_numbers_attributes(tmp_path: Path) -> None:
    write_model_explorer(tmp_path / "g.json", residual((1,)), residual((1,), stage="lowered", run=True))
    nodes = {n["id"]: n for n in json.loads((tmp_path / "g.json").read_text())["graphs"][1]["nodes"]}
    node = nodes["cache_0_0"]
    attributes = {a["key"]: a["value"] for a in node["attrs"]}
    assert node["namespace"] == "layer1/0"
    assert (attributes["op"], attributes["threshold"], attributes["share"]) == (
        "veff.delta_cache",
        "0.02",
        "0.5",
    )
    assert "kernel" not in attributes, "an empty attribute is left out"
    tensor = {a["key"]: a["value"] for a in node["outputsMetadata"][0]["attrs"]}
    assert tensor["tensor_shape"] == "1×64×56×56"
    assert [e["targetNodeInputId"] for e in nodes["add_0_0"]["incomingEdges"]] == ["0", "1"]


@pytest.mark.parametrize(("quantity", "column"), [("share", "share"), ("macs", "macs")])
def test_node_data_names_nodes_that_have_the_quantity(tmp_path: Path, quantity: Any, column: str) -> None:
    before, after = residual((1,)), residual((1,), stage="lowered", run=True)
    path = tmp_path / "data.json"
    write_node_data(path, before, after, quantity=quantity)
    data = json.loads(path.read_text())
    assert set(data) == ({"after"} if quantity == "share" else {"before", "after"})
    for key in data:
        graph = {"before": before, "after": after}[key]
        wanted = {name: {"value": d[column]} for name, d in graph.nodes(data=True) if d[column]}
        assert data[key]["results"] == wanted
        assert [item["stop"] for item in data[key]["gradient"]] == [0, 0.5, 1]


def test_node_data_without_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no node has a value for 'active share'; run a clip"):
        write_node_data(tmp_path / "data.json", residual((1,)), residual((1,)))
    assert not list(tmp_path.iterdir())


def test_a_bad_graph_leaves_no_file(tmp_path: Path) -> None:
    graph = residual((1,))
    graph.nodes["x"]["kind"] = "?"
    with pytest.raises(ArtifactError, match="kind is"):
        write_model_explorer(tmp_path / "g.json", graph, graph)
    assert not list(tmp_path.iterdir())
