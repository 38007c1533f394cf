"""A stream as one HTML page or one Model Explorer file: the graph before and after the rewrite."""

from __future__ import annotations

import os
from html import escape
from typing import Any

import networkx as nx

from videoeff.calibration.picture import curve_picture
from videoeff.calibration.record import summary
from videoeff.inspect.graph import Activity, captured_to_networkx, program_to_networkx, stream_to_networkx
from videoeff.inspect.html import write_html
from videoeff.inspect.model_explorer import write_model_explorer
from videoeff.inspect.tables import count_text, share_text
from videoeff.ir.program import Program
from videoeff.runtime.report import zones_text
from videoeff.runtime.streaming_module import StreamingModule


def write_stream_html(
    path: str | os.PathLike[str],
    stream: StreamingModule,
    *,
    activity: Activity | None = None,
    captured: Program | None = None,
) -> None:
    """Writes one self-contained page: graphs before and after, totals, what each pass did and declined.

    Args:
        path: the file to write.
        stream: the stream; run it on a clip first to see the active shares.
        activity: active share by layer name, from the JSON of a report, instead of the stream's own counts.
        captured: the Program before any pass, to be shown as "before". Without it that graph is derived
            from the planned one (see ``captured_to_networkx``), where folded batch norms no longer appear.

    Raises:
        ArtifactError: ``activity`` does not fit the stream, or ``path`` cannot be written.
    """
    after = stream_to_networkx(stream, activity=activity)
    write_html(
        path,
        _before(stream, captured),
        after,
        title=f"{stream.name}: before and after",
        summary=stream_summary(stream, after),
        history=stream_history(stream),
        calibration=calibration_html(stream),
    )


def calibration_html(stream: StreamingModule) -> str:
    """What a calibration recorded, as HTML with its picture; "" for a stream that was not calibrated."""
    record = stream.extra.get("calibration")
    if record is None:
        return ""
    lines = "".join(f"<p>{escape(line)}</p>" for line in summary(record))
    return f"{curve_picture(record).svg()}{lines}"


def write_stream_model_explorer(
    path: str | os.PathLike[str],
    stream: StreamingModule,
    *,
    activity: Activity | None = None,
    captured: Program | None = None,
) -> None:
    """Writes both graphs of a stream for Google's Model Explorer; arguments as :func:`write_stream_html`.

    Raises:
        ArtifactError: ``activity`` does not fit the stream, or ``path`` cannot be written.
    """
    after = stream_to_networkx(stream, activity=activity)
    write_model_explorer(path, _before(stream, captured), after)


def stream_summary(stream: StreamingModule, graph: nx.DiGraph) -> dict[str, str]:
    """Totals of a stream as rows of text.

    Args:
        stream: the stream.
        graph: what ``stream_to_networkx`` made of it; its shares are the ones counted.
    """
    report = stream.report()
    nodes = [data for _, data in graph.nodes(data=True)]
    work = [n for n in nodes if n["macs"]]
    dense = sum(n["macs"] for n in work)
    measured = [n for n in work if n["share"] is not None]
    caches = sum(n["kind"] == "cache" for n in nodes)
    calls = sum(n["kind"] in ("local", "dense", "layout") for n in nodes)
    frames = [
        f"{'×'.join(str(s) for s in n['shape'])} {n['dtype']}"
        for n in nodes
        if n["kind"] == "input" and n["op"] == "input" and "part" not in n
    ]
    rows = {
        "input": ", ".join(frames),
        "streams": str(stream.streams),
        "operators": f"{calls}, in {caches} fused regions, each with one kept value",
        "zones": zones_text(report.ignored) if report.ignored else "",
        "state": f"{report.state_bytes / 2**20:.1f} MiB",
        "dense work": f"{count_text(dense)} MACs per frame",
        "convolution work that streams": share_text(report.convolutions_streamed),
    }
    if measured:
        needed = sum(n["macs"] * n["share"] for n in measured)
        total = sum(n["macs"] for n in measured)
        rows["recomputed after the first frame"] = (
            f"{count_text(int(needed))} MACs per frame, {share_text(needed / total if total else None)}"
        )
    else:
        rows["recomputed after the first frame"] = "nothing was run yet"
    if report.frames:
        rows["frames counted"] = f"{report.frames}, first frames left out"
    kernels = sorted({n["kernel"] for n in nodes if n["kernel"]})
    rows["kernels"] = ", ".join(kernels)
    for part, why in report.eager:
        rows[f"runs as it is: {part or 'the outermost module'}"] = why
    return {key: value for key, value in rows.items() if value}


def stream_history(stream: StreamingModule) -> list[dict[str, Any]]:
    """What each pass did, in order: ``name``, ``text`` (its options), ``changed`` and ``notes``.

    The parts of a model captured in parts ran the same passes; their entries are joined and each note names
    its part.
    """
    rows: list[dict[str, Any]] = []
    for prefix, program in stream.programs.items():
        for index, record in enumerate(program.history):
            notes = [f"{prefix}: {note}" if prefix else note for note in record.notes]
            if index == len(rows):
                options = record.text.removeprefix(record.name).removeprefix("{").removesuffix("}")
                rows.append({"name": record.name, "text": options, "changed": False, "notes": []})
            rows[index]["changed"] = rows[index]["changed"] or record.changed
            rows[index]["notes"] += notes
    return rows


def _before(stream: StreamingModule, captured: Program | None) -> nx.DiGraph:
    derived = captured_to_networkx(stream)
    if captured is None:
        return derived
    graph = program_to_networkx(captured)
    for name, data in graph.nodes(data=True):  # passes keep names, so what is left names its region
        if name in derived and "region" in derived.nodes[name]:
            data["region"] = derived.nodes[name]["region"]
    return graph
