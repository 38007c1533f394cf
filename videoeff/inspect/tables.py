"""Tables for a terminal or a notebook."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import networkx as nx
from rich import box
from rich.console import Console, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from videoeff.inspect.schema import NodeRecord, graph_title, read_nodes, shape_text

#: Below so many characters a graph is shown with one column for name and module.
NARROW = 120


def graph_table(graph: nx.DiGraph, width: int | None = None) -> Table:
    """One row per node but constants, in topological order, with a line of totals.

    Columns: name, module, op, shape, threshold, kernel, MACs (dense, per frame) and share (mean active share
    after the first frame). The total of the share is weighted by MACs over the nodes that were run.

    Args:
        graph: of a program or a stream.
        width: characters of the screen. On a narrow one a row is one line: one column names the module (the
            node where it has none) by the end of its name, and columns without an entry are left out.

    Raises:
        ArtifactError: the graph breaks the contract of ``videoeff.inspect.schema``.
    """
    name, stage = graph_title(graph)
    records = [record for record in read_nodes(graph) if record.kind != "const"]
    total = sum(record.macs for record in records)
    run = [(record.share, record.macs) for record in records if record.share is not None]
    weight = sum(macs for _, macs in run)
    mean = sum(share * macs for share, macs in run) / weight if weight else None

    if width is not None and width < NARROW:
        return _narrow_table(f"{name}, {stage}", records, total, mean, width)
    table = Table(title=Text(f"{name}, {stage}"), box=box.SIMPLE_HEAD, show_footer=True)
    table.add_column("name", footer=Text(f"{len(records)} nodes"), overflow="fold")
    table.add_column("module", overflow="fold")
    table.add_column("op", overflow="fold")
    table.add_column("shape")
    table.add_column("threshold", justify="right")
    table.add_column("kernel", overflow="fold")
    table.add_column("MACs", justify="right", footer=Text(count_text(total)))
    table.add_column("share", justify="right", footer=Text(share_text(mean)))
    for record in records:
        threshold = "" if record.threshold is None else f"{record.threshold:.3g}"
        macs = count_text(record.macs) if record.macs else ""
        cells = (
            record.name,
            record.module,
            record.op,
            shape_text(record.shape),
            threshold,
            record.kernel,
            macs,
        )
        table.add_row(*(Text(cell) for cell in (*cells, share_text(record.share))))
    return table


def _narrow_table(
    title: str, records: Sequence[NodeRecord], total: int, mean: float | None, width: int
) -> Table:
    columns: dict[str, list[str]] = {
        "op": [end_of(r.op.removesuffix(".default").rpartition("aten.")[2], 18) for r in records],
        "shape": [shape_text(r.shape) for r in records],
        "τ": ["" if r.threshold is None else f"{r.threshold:.3g}" for r in records],
        "kernel": [r.kernel for r in records],
        "MACs": [count_text(r.macs) if r.macs else "" for r in records],
        "share": ["" if r.share is None else share_text(r.share) for r in records],
    }
    columns = {head: cells for head, cells in columns.items() if any(cells)}
    footers = {"MACs": count_text(total), "share": share_text(mean)}
    wide = {
        head: max(len(text) for text in (head, footers.get(head, ""), *cells))
        for head, cells in columns.items()
    }
    room = max(12, width - sum(wide.values()) - 3 * len(columns) - 5)
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, show_footer=True)
    table.add_column("layer", footer=Text(f"{len(records)} nodes"), no_wrap=True)
    for head in columns:
        right: JustifyMethod = "right" if head in ("τ", "MACs", "share") else "left"
        table.add_column(head, footer=Text(footers.get(head, "")), justify=right, no_wrap=True)
    for number, record in enumerate(records):
        cells = (end_of(record.module or record.name, room), *(c[number] for c in columns.values()))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def end_of(text: str, width: int) -> str:
    """A name cut to its last ``width`` characters, which tell layers apart."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def history_table(history: Sequence[Mapping[str, object]]) -> Table:
    """One row per pass: its name, its options, whether it changed the program, and its declined rewrites."""
    table = Table(title=Text("passes"), box=box.SIMPLE_HEAD)
    table.add_column("pass")
    table.add_column("options", overflow="fold")
    table.add_column("changed")
    table.add_column("declined", overflow="fold")
    for entry in history:
        notes = entry.get("notes") or ()
        lines = grouped([str(note) for note in notes] if isinstance(notes, (list, tuple)) else [str(notes)])
        changed = "yes" if entry.get("changed", False) else "no"
        cells = (str(entry.get("name", "")), str(entry.get("text", "")), changed, "\n".join(lines))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def grouped(notes: Sequence[str]) -> list[str]:
    """Notes of the form ``layer: reason``; a reason that layers share is told once, with the first."""
    layers: dict[str, list[str]] = {}
    for note in notes:
        layer, colon, reason = note.partition(": ")
        layers.setdefault(reason if colon else note, []).append(layer if colon else "")
    lines = []
    for reason, names in layers.items():
        if len(names) == 1:
            lines.append(f"{names[0]}: {reason}" if names[0] else reason)
        else:
            lines.append(f"{names[0]} and {len(names) - 1} more: {reason}")
    return lines


def to_text(renderable: RenderableType, *, width: int = 160) -> str:
    """A renderable as plain text without colours, at most ``width`` characters wide."""
    console = Console(
        file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False
    )
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n") + "\n"


def count_text(value: int) -> str:
    """A count with a decimal prefix: 1234567 as ``"1.23 M"``."""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return str(value)


def share_text(share: float | None) -> str:
    """A share as a percentage, ``"not run"`` for None."""
    if share is None:
        return "not run"
    return f"{100 * share:.1f} %"
