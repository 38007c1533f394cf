"""One self-contained HTML page with the graph before and after, the summary and the pass history.

The page holds its data, style and scripts, and a content security policy that lets nothing else load or run.
Model names are untrusted text: they reach the page as escaped HTML, or as JSON in which ``<``, ``>`` and
``&`` are escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from importlib.resources import files

import networkx as nx

from videoeff.inspect.files import write_text
from videoeff.inspect.schema import graph_title, read_nodes, shape_text, to_shape

_SCRIPTS = (
    "calls.js",
    "model.js",
    "columns.js",
    "layout.js",
    "colour.js",
    "pane.js",
    "view.js",
    "panel.js",
    "page.js",
)


def write_html(
    path: str | os.PathLike[str],
    before: nx.DiGraph,
    after: nx.DiGraph,
    *,
    title: str,
    summary: Mapping[str, object],
    history: Sequence[Mapping[str, object]],
    calibration: str = "",
) -> None:
    """Writes the page of :func:`render_html` to ``path``, whole or not at all.

    Raises:
        ArtifactError: a graph breaks the contract of ``videoeff.inspect.schema``, or ``path`` cannot be
            written.
    """
    write_text(
        path,
        render_html(before, after, title=title, summary=summary, history=history, calibration=calibration),
    )


def render_html(
    before: nx.DiGraph,
    after: nx.DiGraph,
    *,
    title: str,
    summary: Mapping[str, object],
    history: Sequence[Mapping[str, object]],
    calibration: str = "",
) -> str:
    """Returns the page as text.

    Args:
        before: the captured graph.
        after: the planned or lowered graph.
        title: heading of the page.
        summary: rows of the summary table; values are shown as text.
        history: one entry per pass with ``name``, ``text`` (options), ``changed`` and ``notes`` (declined
            rewrites).
        calibration: what a calibration found, as HTML; "" for none.

    Raises:
        ArtifactError: a graph breaks the contract of ``videoeff.inspect.schema``.
    """
    data = json_for_script({"before": _payload(before), "after": _payload(after)})
    style = _asset("page.css")
    library = _asset("vendor/dagre.min.js")
    library = "\n".join(line for line in library.splitlines() if not line.startswith("//# sourceMappingURL"))
    script = "(() => {\n'use strict';\n" + "\n".join(_asset(name) for name in _SCRIPTS) + "\n})();"
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(library)} {_hash(script)};"
        " base-uri 'none'; form-action 'none'"
    )
    pieces = {
        "POLICY": policy,
        "TITLE": escape(title),
        "STYLE": style,
        "SUMMARY": _summary_html(summary),
        "CALIBRATION": calibration
        and f'<section id="calibration"><h2>Calibration</h2>{calibration}</section>',
        "HISTORY": _history_html(history),
        "LICENCE": escape(_asset("vendor/dagre.LICENSE")),
        "DATA": data,
        "LIBRARY": library,
        "SCRIPT": script,
    }
    out = []
    for i, part in enumerate(_asset("page.html").split("%%")):
        out.append(pieces[part] if i % 2 else part)
    return "".join(out)


def json_for_script(value: object) -> str:
    """JSON that is harmless inside a ``<script>`` element, whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _payload(graph: nx.DiGraph) -> dict[str, object]:
    name, stage = graph_title(graph)
    records = read_nodes(graph)
    index = {record.name: i for i, record in enumerate(records)}
    nodes = []
    for record in records:
        row = asdict(record)
        row["shape"] = shape_text(record.shape)
        if record.threshold is not None and not math.isfinite(record.threshold):
            row["threshold"] = str(record.threshold)
        nodes.append(row)
    edges = []
    for source, target, data in graph.edges(data=True):
        shape = data.get("shape")
        text = shape_text(to_shape(shape)) if isinstance(shape, (tuple, list)) else ""
        edges.append([index[source], index[target], text])
    return {"name": name, "stage": stage, "nodes": nodes, "edges": edges}


def _summary_html(summary: Mapping[str, object]) -> str:
    if not summary:
        return '<p class="quiet">No summary was given.</p>'
    rows = (
        f"<tr><th scope=row>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in summary.items()
    )
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _history_html(history: Sequence[Mapping[str, object]]) -> str:
    if not history:
        return '<p class="quiet">No pass was run.</p>'
    return "<ol>" + "".join(_history_entry(entry) for entry in history) + "</ol>"


def _history_entry(entry: Mapping[str, object]) -> str:
    changed = bool(entry.get("changed", False))
    badge = '<span class="badge on">changed</span>' if changed else '<span class="badge">no change</span>'
    head = f"<div><code>{escape(str(entry.get('name', '')))}</code> {badge}</div>"
    text = str(entry.get("text", ""))
    if text:
        head += f'<div class="options"><code>{escape(text)}</code></div>'
    notes = entry.get("notes") or ()
    lines = [str(note) for note in notes] if isinstance(notes, (list, tuple)) else [str(notes)]
    if not lines:
        return f"<li>{head}</li>"
    word = "rewrite" if len(lines) == 1 else "rewrites"
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return (
        f"<li>{head}<details><summary>{len(lines)} declined {word}</summary><ul>{items}</ul></details></li>"
    )


def _asset(name: str) -> str:
    return files("videoeff.inspect").joinpath("assets", *name.split("/")).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
