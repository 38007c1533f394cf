"""Tables of the detectors' benchmark from its JSON results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.detectors_data import CLIPS
from benchmarks.detectors_score import DETECTORS

from videoeff.bench.page import fill
from videoeff.bench.tables import markdown, milliseconds, percent, spread_of
from videoeff.serialize.files import write_text

Row = Mapping[str, Any]

FULL_HEAD = [
    "", "ms a frame (quartiles)", "all changes, ms", "MACs needed", "scheduled", "F1 (95 %)",
    "settled (95 %)", "settled, over int8's", "error at detections",
]  # fmt: skip
#: Columns of the short table: title, and the label of the contender; "best" stands for the best float32.
SHORT = (
    ("best float32", "best"),
    ("OpenVINO int8", "openvino-int8"),
    ("every 2nd frame", "every 2nd frame"),
    ("every 4th frame", "every 4th frame"),
    ("videoeff, τ = 0", "videoeff, τ = 0"),
    ("τ = 0.05", "videoeff, τ = 0.05"),
    ("τ = 0.1", "videoeff, τ = 0.1"),
    ("*noise, σ = 2*", "noise, σ = 2"),
)
SHORT_TEXT = (
    "First line: ms a frame, and of videoeff the share of the MACs that had to be recomputed. Second line: "
    "agreement with the dense network, F1 at one score / settled (detections above a high score that the "
    "other has above a low one). Bold is the shortest time of those whose settled agreement is at least "
    "int8's. Of the frames that are not skipped each takes as long as with the best float32. The last column "
    "is the network on noisy frames: what its own flicker is worth."
)


def rows_of(document: Row) -> list[Row]:
    """The results, clip by clip."""
    found = document["sections"].get("detectors", {})
    keys = [f"{network}/{clip}" for clip in CLIPS for network in DETECTORS]
    return [found[k] for k in keys if k in found]


def interval(figure: Mapping[str, Any] | None, signed: bool = False) -> str:
    """``0.94 (0.91–0.97)``; without the interval where there were too few frames for one."""
    if figure is None:
        return ""
    sign = "+" if signed else ""
    if figure["low"] is None:
        return f"{figure['value']:{sign}.3f}".replace("-", "−")
    low, high = (f"{figure[k]:{sign}.3f}" for k in ("low", "high"))
    return f"{figure['value']:{sign}.3f} ({low}{' to ' if signed else '–'}{high})".replace("-", "−")


def full_rows(row: Row) -> list[list[str]]:
    """Everybody on one clip."""
    rows = []
    for one in row["contenders"]:
        ms = spread_of(one["spread"]) if "spread" in one else milliseconds(one.get("ms"))
        error = one.get("error")
        label = f"*{one['label']}*" if one["group"] in ("control", "skip") else one["label"]
        rows.append(
            [
                f"{label}, the best" if one["label"] == row["best"] else label,
                ms,
                milliseconds(one.get("worst_ms")),
                percent(one.get("needed")),
                percent(one.get("scheduled")),
                interval(one.get("f1")),
                interval(one.get("settled")),
                interval(one.get("settled_over_int8"), signed=True),
                "" if error is None else f"{error:.2g}",
            ]
        )
    return rows


def title_of(row: Row) -> str:
    """Network, clip and window."""
    height, width = row["size"]
    first, last = row["frames"]
    return f"{DETECTORS[row['network']].title} on {row['clip']}, {height}×{width}, frames {first} to {last}"


def tables(document: Row) -> str:
    """All figures."""
    parts = []
    for row in rows_of(document):
        if "failed" in row:
            parts.append(
                f"### {DETECTORS[row['network']].title} on {row['clip']}\n\nNot measured: {row['failed']}\n"
            )
            continue
        said = (
            f"{percent(row['changed'])} of the pixels change by more than 8 grey levels from frame to frame; "
            f"the dense network finds {row['detections']:.1f} objects a frame."
        )
        said += "".join(f" {k} did not take part: {v}." for k, v in row["failed_contenders"].items())
        parts.append(f"### {title_of(row)}\n\n{said}\n\n{markdown(FULL_HEAD, full_rows(row))}")
    return "\n".join(parts)


def fastest(row: Row) -> str:
    """The contender with the shortest time of those that agree no less than int8; "" without int8."""
    found = {c["label"]: c for c in row["contenders"]}
    if "openvino-int8" not in found:
        return ""
    least = found["openvino-int8"]["settled"]["value"]
    good: dict[str, float] = {
        k: c["ms"] for k, c in found.items() if "ms" in c and c.get("settled", {"value": 1})["value"] >= least
    }
    return min(good, key=lambda k: good[k])


def short_cell(one: Row | None, bold: bool) -> str:
    """One contender in two lines."""
    if one is None:
        return "–"
    first = milliseconds(one["ms"]) if "ms" in one else ""
    first = f"**{first}**" if bold else first
    if one["group"] == "stream":
        first += f" ({percent(one['needed'])})"
    second = " / ".join(_short(one[k]["value"]) for k in ("f1", "settled"))
    return f"{first}<br>{second}" if first else f"*{second}*"


def _short(value: float) -> str:
    """``.94``, and ``1`` only where it is exactly that; never rounded up to it."""
    return "1" if value == 1 else f"{min(value, 0.9994):.3f}".removeprefix("0")


def short(document: Row) -> str:
    """The table of the README: a line for each clip and network."""
    rows = []
    for row in rows_of(document):
        if "failed" in row:
            continue
        found = {c["label"]: c for c in row["contenders"]}
        quick = fastest(row)
        cells = [short_cell(found.get(label), label == quick) for _, label in SHORT]
        best = milliseconds(found[row["best"]]["ms"])
        cells[0] = f"{'**' * (row['best'] == quick)}{best}{'**' * (row['best'] == quick)}<br>{row['best']}"
        rows.append([f"{row['clip']}, {DETECTORS[row['network']].title}", *cells])
    return markdown(["", *(title for title, _ in SHORT)], rows) + "\n" + SHORT_TEXT + "\n"


def machine(document: Row) -> str:
    """Machine, versions and commands."""
    lines = []
    for number in sorted({r["run"] for r in rows_of(document)}):
        run = document["runs"][number]
        about = run["machine"]
        versions = ", ".join(f"{p} {v}" for p, v in about["versions"].items())
        lines.append(
            f"- `{run['command']}` on {about['cpu']}, {about['cores']} cores "
            f"({', '.join(about['instruction_sets'])}), {about['threads']} threads; "
            f"Python {about['python']}, {versions}"
        )
    return "\n".join(lines) + "\n"


def clips(_: Row) -> str:
    """The clips and their windows."""
    return "\n".join(
        f"- *{name}*: {clip.about}; judged from frame {clip.first + 1} on" for name, clip in CLIPS.items()
    )


PARTS = {"short": short, "tables": tables, "machine": machine, "clips": clips}


def render(document: Row, target: Path, pages: Sequence[Path]) -> list[Path]:
    """Write the tables to ``target`` and between the marks of pages; what was written.

    A page marks a part as ``<!-- detectors:short --> … <!-- /detectors:short -->``; one that is not there or
    marks none is left alone.
    """
    parts = {name: make(document) for name, make in PARTS.items()}
    head = "# Two trained detectors on four clips\n\nWritten by `benchmarks/detectors.py`.\n\n"
    write_text(target, head + "\n".join(parts[k] for k in ("machine", "short", "tables")))
    written = [target]
    for page in pages:
        before = page.read_text(encoding="utf-8") if page.is_file() else ""
        if re.search(r"<!-- detectors:\w+ -->", before):
            write_text(page, fill(before, "detectors", parts))
            written.append(page)
    return written
