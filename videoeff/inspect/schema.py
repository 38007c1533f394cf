"""What a graph handed to ``videoeff.inspect`` must carry, and reading it safely.

Graph attributes: ``name`` (str) and ``stage`` ("captured", "planned" or "lowered"). The key of a node is its
name. An edge may carry ``shape``. A node carries the fields of :class:`NodeRecord`; further attributes are
kept and shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import networkx as nx

from videoeff.errors import ArtifactError

KINDS: tuple[str, ...] = ("input", "output", "local", "layout", "dense", "cache", "const")
"""Every value of the node attribute ``kind``, in the order of the legends."""

STAGES: tuple[str, ...] = ("captured", "planned", "lowered")
"""Every value of the graph attribute ``stage``, in the order of compilation."""

Dim = int | str
"""One extent of a shape: a number, or the name of a dynamic size such as ``"s0"``."""


@dataclass(frozen=True)
class NodeRecord:
    """One node of a graph, checked and with plain types only.

    ``macs`` counts the dense multiply-accumulates of one frame, ``share`` is the mean active share after the
    first frame (0 to 1, None where nothing was run), ``state_bytes`` the bytes of the buffers the node owns.
    """

    name: str
    label: str
    op: str
    module: str
    kind: str
    shape: tuple[Dim, ...] | None
    dtype: str
    args: str
    macs: int
    share: float | None
    params: int
    state_bytes: int
    kernel: str
    reason: str
    threshold: float | None
    extra: Mapping[str, str] = field(default_factory=dict)


_FIELDS = tuple(f.name for f in fields(NodeRecord) if f.name not in ("name", "extra"))


def read_nodes(graph: nx.DiGraph) -> list[NodeRecord]:
    """Returns the nodes in topological order, ties in the order of insertion (cyclic: insertion order).

    Raises:
        ArtifactError: a node key is not a string, an attribute is missing, or a value is out of its range.
    """
    position = {name: i for i, name in enumerate(graph)}
    order = list(graph)
    if nx.is_directed_acyclic_graph(graph):
        order = list(nx.lexicographical_topological_sort(graph, key=position.__getitem__))
    return [_read_node(graph, name) for name in order]


def graph_title(graph: nx.DiGraph) -> tuple[str, str]:
    """Returns ``(name, stage)`` of a graph.

    Raises:
        ArtifactError: the stage is none of :data:`STAGES`.
    """
    name, stage = str(graph.graph.get("name", "graph")), str(graph.graph.get("stage", ""))
    if stage not in STAGES:
        raise ArtifactError(
            f"graph {name!r}: stage is {stage!r}; set graph.graph['stage'] to one of {STAGES}"
        )
    return name, stage


def shape_text(shape: tuple[Dim, ...] | None) -> str:
    """``(1, 64, 56, 56)`` as ``"1×64×56×56"``; None as ``""``."""
    if shape is None:
        return ""
    return "×".join(str(d) for d in shape) if shape else "scalar"


def to_shape(value: object) -> tuple[Dim, ...] | None:
    """A shape with plain numbers; symbolic sizes become their names. None stays None."""
    if value is None:
        return None
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"a shape must be a tuple, not {type(value).__name__}")
    return tuple(d if type(d) is int else str(d) for d in value)


def _read_node(graph: nx.DiGraph, name: object) -> NodeRecord:
    where = f"graph {graph.graph.get('name', 'graph')!r}, node {name!r}"
    if not isinstance(name, str):
        raise ArtifactError(f"{where}: the key of a node must be its name, a string")
    data = graph.nodes[name]
    missing = [key for key in _FIELDS if key not in data]
    if missing:
        raise ArtifactError(
            f"{where}: no attribute {', '.join(missing)}; see videoeff.inspect.schema.NodeRecord"
        )
    if data["kind"] not in KINDS:
        raise ArtifactError(f"{where}: kind is {data['kind']!r}; use one of {KINDS}")
    try:
        share = None if data["share"] is None else float(data["share"])
        record = NodeRecord(
            name=name,
            label=str(data["label"]),
            op=str(data["op"]),
            module=str(data["module"] or ""),
            kind=str(data["kind"]),
            shape=to_shape(data["shape"]),
            dtype=str(data["dtype"]),
            args=str(data["args"]),
            macs=int(data["macs"]),
            share=share,
            params=int(data["params"]),
            state_bytes=int(data["state_bytes"]),
            kernel=str(data["kernel"] or ""),
            reason=str(data["reason"] or ""),
            threshold=None if data["threshold"] is None else float(data["threshold"]),
            extra={str(k): str(v) for k, v in data.items() if k not in _FIELDS},
        )
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{where}: {error}; see videoeff.inspect.schema.NodeRecord") from error
    if share is not None and not (math.isfinite(share) and 0.0 <= share <= 1.0):
        raise ArtifactError(
            f"{where}: share is {share}; it must be within 0 and 1, or None where nothing was run"
        )
    return record
