"""The graphs as a file for Google's Model Explorer.

The file is one ``GraphCollection``: ``{"label": ..., "graphs": [...]}``, the form that Model Explorer's JSON
loader reads. That form has no place for node data, so every number is an attribute of its node, and
:func:`write_node_data` writes one of them as a node data file, to be loaded after the graphs for colouring.
"""

from __future__ import annotations

import json
import math
import os
from typing import Literal

import networkx as nx

from videoeff.errors import ArtifactError
from videoeff.inspect.files import write_text
from videoeff.inspect.schema import NodeRecord, graph_title, read_nodes, shape_text

Quantity = Literal["share", "macs"]

_GRADIENT = ("#f1f5fb", "#8fb8e3", "#12396b")


def write_model_explorer(path: str | os.PathLike[str], before: nx.DiGraph, after: nx.DiGraph) -> None:
    """Writes both graphs, with the ids ``before`` and ``after``, as one collection.

    Raises:
        ArtifactError: a graph breaks the contract of ``videoeff.inspect.schema``, or ``path`` cannot be
            written.
    """
    collection = {
        "label": graph_title(after)[0],
        "graphs": [_graph("before", before), _graph("after", after)],
        "graphSorting": "name_desc",
    }
    write_text(path, json.dumps(collection, indent=1, allow_nan=False))


def write_node_data(
    path: str | os.PathLike[str], before: nx.DiGraph, after: nx.DiGraph, *, quantity: Quantity = "share"
) -> None:
    """Writes one number per node for the graphs of :func:`write_model_explorer`, as Model Explorer node data.

    A graph without any such number is left out.

    Args:
        path: the file; load it in Model Explorer after the graphs.
        before: the captured graph.
        after: the planned or lowered graph.
        quantity: ``"share"``, the active share from 0 to 1 where something was run, or ``"macs"``, the dense
            multiply-accumulates of one frame where there are any.

    Raises:
        ArtifactError: no node has the quantity, a graph breaks the contract of ``videoeff.inspect.schema``,
            or ``path`` cannot be written.
    """
    name = {"share": "active share", "macs": "dense MACs"}[quantity]
    gradient = [
        {"stop": i / (len(_GRADIENT) - 1), "bgColor": colour, "textColor": "#ffffff" if i == 2 else "#000000"}
        for i, colour in enumerate(_GRADIENT)
    ]
    data = {}
    for graph_id, graph in (("before", before), ("after", after)):
        results = {}
        for record in read_nodes(graph):
            value = record.share if quantity == "share" else (record.macs or None)
            if value is not None:
                results[record.name] = {"value": value}
        if results:
            data[graph_id] = {"name": name, "results": results, "gradient": gradient}
    if not data:
        raise ArtifactError(
            f"{path}: no node has a value for {name!r}; run a clip, or ask for another quantity"
        )
    write_text(path, json.dumps(data, indent=1, allow_nan=False))


def _graph(graph_id: str, graph: nx.DiGraph) -> dict[str, object]:
    name, stage = graph_title(graph)
    records = read_nodes(graph)
    total = sum(record.macs for record in records)
    attributes = {
        "model": name,
        "stage": stage,
        "nodes": str(len(records)),
        "dense MACs per frame": str(total),
    }
    return {
        "id": graph_id,
        "nodes": [_node(graph, record) for record in records],
        "groupNodeAttributes": {"": attributes},
    }


def _node(graph: nx.DiGraph, record: NodeRecord) -> dict[str, object]:
    sources = [
        {"sourceNodeId": source, "sourceNodeOutputId": "0", "targetNodeInputId": str(i)}
        for i, source in enumerate(graph.predecessors(record.name))
    ]
    tensor = {
        "tensor_shape": shape_text(record.shape),
        "tensor_dtype": record.dtype,
        "tensor_name": record.name,
    }
    return {
        "id": record.name,
        "label": record.label or record.name,
        "namespace": record.module.replace("/", "_").replace(".", "/"),
        "attrs": _key_values(_attributes(record)),
        "incomingEdges": sources,
        "outputsMetadata": [{"id": "0", "attrs": _key_values(tensor)}],
    }


def _attributes(record: NodeRecord) -> dict[str, str]:
    threshold = record.threshold
    return {
        "op": record.op,
        "kind": record.kind,
        "module": record.module,
        "args": record.args,
        "macs": str(record.macs),
        "share": "" if record.share is None else f"{record.share:.6g}",
        "params": str(record.params),
        "state_bytes": str(record.state_bytes),
        "kernel": record.kernel,
        "reason": record.reason,
        "threshold": "" if threshold is None or math.isnan(threshold) else f"{threshold:.6g}",
        **record.extra,
    }


def _key_values(attributes: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in attributes.items() if value]
