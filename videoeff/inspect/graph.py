"""Programs and streams as ``networkx`` graphs.

Every function here returns an ``nx.DiGraph`` that follows ``videoeff.inspect.schema``. Graph attributes are
``name``, ``stage`` ("captured", "planned" or "lowered") and ``streams``. An edge carries the ``shape`` of the
tensor on it. A node is named as in the Program's text and carries:

``label``
    what to write on it: the layer's own name, or the operator.
``op``
    the operator as in the text: ``aten.conv2d.default``, ``veff.delta_cache``, ``input``, ``output``,
    ``const``, and ``eager`` for code of a model captured in parts that runs as it is.
``module``
    dotted path of the module it came from, "" where there is none.
``kind``
    "input", "output", "const", "cache" (a kept value with its change test), "layout" (moves values, computes
    nothing), "local" (pixels can be followed through it) or "dense" (computed whole).
``shape``, ``dtype``, ``args``
    of the value, and the arguments as in the text. ``shape`` is None for a value that is no tensor.
``macs``
    multiply-accumulates of one frame computed whole, all streams; 0 where it multiplies no weights.
``params``
    elements of the constants it reads.
``share``
    active share of its region after the first frame, 0 to 1; None where nothing ran, and on nodes that
    compute nothing (constants, layout, outputs). A model captured in parts has no share on its eager nodes.
``state_bytes``
    on caches: bytes kept, all streams. Parts of one concatenation share a buffer; the first part carries it.
``kernel``, ``reason``
    lowered graphs: who computes its region, and why not another; or why it is computed whole.
``threshold``
    on caches: of the change test. None elsewhere.
``region``
    the layer name of the one cache the node feeds without another cache between: all nodes of a region are
    one fused call. Left out where there is none; ``regions`` instead, separated by ", ", where it feeds
    several.
``part``
    models captured in parts: the engine's name, which also prefixes the node's name and module.
``cache_kind``, ``test``, ``predict``, ``into``
    on caches: what is kept ("input", "map", "gate", "global"), the change test, π where it predicts, and the
    shared buffer it is a slice of.
``watched``
    on the cache of an input with zones: the share of its pixels that is watched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import networkx as nx
import torch
from torch import fx

from videoeff.analysis import annotate
from videoeff.analysis.cost import macs, parameters
from videoeff.analysis.regions import Region, regions
from videoeff.errors import ArtifactError
from videoeff.inspect.schema import STAGES
from videoeff.ir.layout import info
from videoeff.ir.markers import cache_name, cache_option, is_cache, is_concat
from videoeff.ir.printer import args_to_text, target_to_text
from videoeff.ir.program import Program, module_path
from videoeff.ir.watched import text_to_mask
from videoeff.ops.base import op_of
from videoeff.runtime.engine import Engine
from videoeff.runtime.report import LayerReport, layer_reports
from videoeff.runtime.streaming_module import StreamingModule

Activity = Mapping[str, float | None]
"""Active share by layer name, as a report's JSON holds it."""

_NO_PIXELS = "its result has no pixels"

_BITS = re.compile(r"(watched='[^:']*:)[^']*'")


def program_to_networkx(program: Program, *, stage: str | None = None) -> nx.DiGraph:
    """The graph of a captured or planned Program.

    Args:
        program: annotated, as ``capture`` and every pass leave it.
        stage: what to call the graph's stage; the Program's own if None.

    Raises:
        ArtifactError: no such stage.
    """
    chosen = program.stage if stage is None else stage
    if chosen not in STAGES:
        raise ArtifactError(f"graph {program.name!r}: no stage {chosen!r}; use one of {', '.join(STAGES)}")
    graph: nx.DiGraph = nx.DiGraph(name=program.name, stage=chosen, streams=program.streams)
    _add_program(graph, program, "", _feeds(program))
    return graph


def stream_to_networkx(stream: StreamingModule, *, activity: Activity | None = None) -> nx.DiGraph:
    """The graph as it runs, stage "lowered": planned nodes with kernels, reasons, state and activity.

    A model captured in parts gives one graph: each part's nodes, prefixed by its name, one node for each
    piece that runs as it is, and the model's inputs and output. What passes between the parts is eager code
    and not known in general; a part's input is tied to the part whose output it equals once two frames have
    run, and to the model's inputs otherwise.

    Args:
        stream: the stream; its counters are read, which waits for the device.
        activity: active share by layer name instead of the stream's own report, for a stream that was loaded
            and has run nothing.

    Raises:
        ArtifactError: ``activity`` names a layer the stream does not have, or holds what is no share.
    """
    reports = _reports(stream)
    if activity is not None:
        _check_activity(stream.name, activity, reports)
    graph = _whole(stream, {k: e.plan.program for k, e in stream.engines.items()}, "lowered")
    for _, data in graph.nodes(data=True):
        found = [reports[name] for name in _layers_of(data) if name in reports]
        if not found or data["kind"] == "const":
            continue
        first = found[0]
        data["kernel"] = "" if data["kind"] == "input" else first.kernel
        data["reason"] = first.reason or data["reason"]
        if data["kind"] == "cache":
            data["state_bytes"] = first.state_bytes
        if data["kind"] != "layout":
            shares = [x.active_share if activity is None else activity.get(x.name) for x in found]
            data["share"] = max((s for s in shares if s is not None), default=None)
    return graph


def captured_to_networkx(stream: StreamingModule) -> nx.DiGraph:
    """The graph before the rewrite, stage "captured".

    An artifact holds only the planned graph, so this one is derived: caches are taken out and planned
    concatenations become ``aten.cat`` again (with ``aten.channel_shuffle`` where channels interleave). It
    computes what the planned graph computes. For a stream made by ``convert`` in this process it equals the
    captured graph up to what the rewrite dropped or changed in constants: batch norm folded into weights,
    operators without effect, channel shuffles folded into weights. To see those as well, hand the captured
    Program to :func:`program_to_networkx`.
    """
    programs = {name: captured_program(engine.program) for name, engine in stream.engines.items()}
    feeds: dict[str, dict[str, list[str]]] = {k: _feeds(e.plan.program) for k, e in stream.engines.items()}
    return _whole(stream, programs, "captured", feeds)


def captured_program(program: Program) -> Program:
    """A planned Program without its caches and planned concatenations, as plain operators; a copy."""
    twin = program.clone()
    for node in list(twin.nodes):
        if is_concat(node):
            node.replace_all_uses_with(_concatenation(twin, node))
            twin.graph.erase_node(node)
    for node in list(twin.nodes):
        if is_cache(node):
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            twin.graph.erase_node(node)
    twin = twin.at_stage("captured")
    annotate(twin)
    twin.module.recompile()
    return twin


def _concatenation(program: Program, node: fx.Node) -> fx.Node:
    dim, step = node.kwargs["dim"], int(node.kwargs.get("step", 1))  # type: ignore[arg-type]
    with program.graph.inserting_before(node):
        made = program.graph.call_function(torch.ops.aten.cat.default, (node.args[0], dim))
        made.meta["module"] = module_path(node)
        if step > 1:
            made = program.graph.call_function(torch.ops.aten.channel_shuffle.default, (made, step))
            made.meta["module"] = module_path(node)
    return made


def _feeds(program: Program) -> dict[str, list[str]]:
    """For each node's name the layers whose regions it is in; constants go with their readers."""
    found: dict[str, list[str]] = {}
    for region in regions(program):
        for node in (*region.nodes, *region.constants, region.cache, *_raw_inputs(region)):
            found.setdefault(node.name, []).append(region.name)
    return found


def _raw_inputs(region: Region) -> Iterable[fx.Node]:
    return (n for n in region.reads if n.op == "placeholder")


def _whole(
    stream: StreamingModule,
    programs: Mapping[str, Program],
    stage: str,
    feeds: Mapping[str, dict[str, list[str]]] | None = None,
) -> nx.DiGraph:
    graph: nx.DiGraph = nx.DiGraph(name=stream.name, stage=stage, streams=stream.streams)
    if not stream.body.left:
        program = programs[""]
        _add_program(graph, program, "", _feeds(program) if feeds is None else feeds[""])
        return graph
    inputs = []
    for index, (shape, dtype) in enumerate(stream.body.signature.frame_specs):
        inputs.append("input" if index == 0 else f"input_{index + 1}")
        _add(graph, inputs[-1], "", kind="input", op="input", shape=shape, dtype=_dtype(dtype))
    for prefix, program in programs.items():
        _add_program(graph, program, prefix, _feeds(program) if feeds is None else feeds[prefix])
    links = _links(stream.engines)
    for prefix, program in programs.items():
        for index, node in enumerate(program.placeholders):
            source = links.get((prefix, index))
            name = f"{prefix}.{node.name}"
            for before in inputs if source is None else [f"{source}.output"]:
                graph.add_edge(before, name, shape=graph.nodes[before]["shape"])
    _add_eager(graph, stream, list(programs), set(links.values()))
    return graph


def _add_eager(graph: nx.DiGraph, stream: StreamingModule, parts: list[str], used: set[str]) -> None:
    """One node for each piece of the model that runs as it is, the outermost last, and the model's output."""
    pieces = sorted(stream.body.left, key=lambda piece: piece[0] == "")
    outer = next((f"{p}.eager" if p else "eager" for p, _ in reversed(pieces)), "")
    for path, why in pieces:
        name = f"{path}.eager" if path else "eager"
        _add(graph, name, path, kind="dense", op="eager", label=path or stream.name, reason=why)
        if name != outer:
            graph.add_edge(name, outer)
    _add(graph, "output", "", kind="output", op="output")
    ends = [p for p in parts if p not in used] or parts[-1:]
    for part in ends:
        for name in [n for n in graph if n.endswith("eager") and n != outer] or [outer]:
            if name:
                graph.add_edge(f"{part}.output", name, shape=graph.nodes[f"{part}.output"]["shape"])
    graph.add_edge(outer or f"{ends[0]}.output", "output")


def _links(engines: Mapping[str, Engine]) -> dict[tuple[str, int], str]:
    """For a part's input (part, index) the part whose output it equals; only what has run is compared."""
    ran = {name: engine for name, engine in engines.items() if engine.counts.frames}
    given: list[tuple[str, torch.Tensor]] = []
    found: dict[tuple[str, int], str] = {}
    for name, engine in ran.items():
        values = engine.values()
        leaves: Any = engine.program.output.args[0]
        given += [(name, values[cache_name(n)]) for n in leaves if is_cache(n)]
    for name, engine in ran.items():
        values = engine.values()
        for index, node in enumerate(engine.program.placeholders):
            cache = next((u for u in node.users if is_cache(u)), None)
            if cache is None:
                continue
            kept = values[cache_name(cache)]
            for source, value in given:
                if source != name and value.shape == kept.shape and torch.equal(value, kept):
                    found[name, index] = source
                    break
    return found


def _add_program(graph: nx.DiGraph, program: Program, prefix: str, feeds: Mapping[str, list[str]]) -> None:
    before = f"{prefix}." if prefix else ""
    marked = {r.name: r.dense for r in regions(program)}
    alone = _only_call_of_its_module(program)
    for node in program.nodes:
        layers = list(dict.fromkeys(feeds.get(node.name, [])))
        kind, reason = _kind(node, [marked[name] for name in layers if name in marked])
        value = None if node.op == "output" else info(node)
        leaves: Any = node.args[0] if node.op == "output" else ()
        if node.op == "output" and len(leaves) == 1 and isinstance(leaves[0], fx.Node):
            value = info(leaves[0])
        extra: dict[str, object] = {}
        if len(layers) == 1:
            extra["region"] = before + layers[0]
        elif layers:
            extra["regions"] = ", ".join(before + name for name in layers)
        if prefix:
            extra["part"] = prefix
        path = module_path(node)
        _add(
            graph,
            before + node.name,
            (before + path).rstrip(".") if path or prefix else "",
            label=_label(node, node in alone),
            kind=kind,
            reason=reason,
            op=_op(node),
            shape=None if value is None else value.shape,
            dtype="" if value is None or value.dtype is None else _dtype(value.dtype),
            args="" if node.op in ("placeholder", "get_attr") else _args(node),
            macs=macs(node),
            params=parameters(node) if node.op == "call_function" else 0,
            threshold=float(cache_option(node, "threshold")) if is_cache(node) else None,
            **extra,
            **_cache_facts(node),
        )
        for source in node.all_input_nodes:
            graph.add_edge(before + source.name, before + node.name, shape=info(source).shape)


def _add(graph: nx.DiGraph, name: str, module: str, **attributes: object) -> None:
    empty: dict[str, object] = {
        "label": name,
        "op": "",
        "module": module,
        "kind": "",
        "shape": None,
        "dtype": "",
        "args": "",
        "macs": 0,
        "share": None,
        "params": 0,
        "state_bytes": 0,
        "kernel": "",
        "reason": "",
        "threshold": None,
    }
    graph.add_node(name, **{**empty, **attributes})


def _kind(node: fx.Node, region_reasons: list[str]) -> tuple[str, str]:
    """The node's kind and, for a dense one, why."""
    fixed = {"placeholder": "input", "output": "output", "get_attr": "const"}.get(node.op)
    if fixed or is_cache(node):
        return fixed or "cache", ""
    value, op = info(node), op_of(node)
    if value.layout is None:
        return "const", ""
    if is_concat(node) or (
        op is not None and op.role == "layout" and (value.shape is None or not value.dense)
    ):
        return "layout", ""
    reason = value.dense or next((r for r in region_reasons if r), "")
    if reason:
        return "dense", reason
    return ("local", "") if value.is_spatial else ("dense", _NO_PIXELS)


def _op(node: fx.Node) -> str:
    if node.op == "call_function":
        return target_to_text(node.target)
    return {"placeholder": "input", "get_attr": "const"}.get(node.op, node.op)


def _args(node: fx.Node) -> str:
    """The arguments as they stand in the text; of a mask of pixels only its size."""
    return _BITS.sub(r"\1…'", args_to_text(node))


def _cache_facts(node: fx.Node) -> dict[str, object]:
    if not is_cache(node):
        return {}
    facts: dict[str, object] = {"cache_kind": cache_option(node, "kind"), "test": cache_option(node, "test")}
    if cache_option(node, "predict"):
        facts["predict"] = cache_option(node, "predict")
    if cache_option(node, "watched"):
        share = float(text_to_mask(cache_option(node, "watched")).float().mean())
        facts["watched"] = f"{100 * share:.1f} % of the pixels"
    if cache_option(node, "into") is not None:
        buffer, first, step, _ = cache_option(node, "into")
        facts["into"] = f"{buffer}, from channel {first}" + (f", every {step}" if step > 1 else "")
    return facts


def _label(node: fx.Node, alone: bool) -> str:
    if is_cache(node):
        return f"keep {_leaf(cache_name(node))}"
    if node.op == "get_attr":
        return str(node.target).rpartition(".")[2]
    if node.op == "call_function":
        if alone:
            return _leaf(module_path(node))
        return _op(node).removeprefix("aten.").removeprefix("veff.").split(".")[0]
    return node.name


def _leaf(path: str) -> str:
    """The end of a dotted path from its last name that is not a number: ``b.0.1`` of ``a.b.0.1``."""
    parts = path.split(".")
    start = len(parts) - 1
    while start > 0 and parts[start][:1].isdigit():
        start -= 1
    return ".".join(parts[start:])


def _only_call_of_its_module(program: Program) -> set[fx.Node]:
    by_module: dict[str, list[fx.Node]] = {}
    for node in program.nodes:
        if node.op == "call_function" and not is_cache(node) and module_path(node):
            by_module.setdefault(module_path(node), []).append(node)
    return {nodes[0] for nodes in by_module.values() if len(nodes) == 1}


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _reports(stream: StreamingModule) -> dict[str, LayerReport]:
    found = {}
    for prefix, engine in stream.engines.items():
        for layer in layer_reports(engine, f"{prefix}." if prefix else ""):
            found[layer.name] = layer
    return found


def _layers_of(data: Mapping[str, Any]) -> list[str]:
    if "region" in data:
        return [str(data["region"])]
    return str(data["regions"]).split(", ") if "regions" in data else []


def _check_activity(name: str, activity: Activity, reports: Mapping[str, LayerReport]) -> None:
    unknown = sorted(set(activity) - set(reports))
    if unknown:
        raise ArtifactError(
            f"{name}: the activity is of another model: it has no layer {', '.join(unknown[:3])}; "
            "use the report of a run of this stream"
        )
    for layer, share in activity.items():
        if share is not None and not 0.0 <= share <= 1.0:
            raise ArtifactError(f"{name}: the activity of {layer} is {share}; a share lies within 0 and 1")
