"""Tables of the labelled study from its JSON results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cpu_render import run_line
from benchmarks.detectors_render import interval
from benchmarks.labelled_data import CLIPS
from benchmarks.labelled_nets import KINDS
from benchmarks.labelled_score import CLASSES
from benchmarks.pages import fill
from videoeff.bench.tables import markdown, milliseconds, percent
from videoeff.serialize.files import write_text

Row = Mapping[str, Any]

#: What the first figure of each network is called.
MAIN = {"segmenter": "miou", "detector": "recall"}
TITLES = {"segmenter": "mIoU", "detector": "recall"}


def figure(one: Row | None, signed: bool = False) -> str:
    """A figure with its interval; a dash where there is none."""
    if one is None or one["value"] is None:
        return "–"
    return interval(one, signed)


def short(one: Row | None, signed: bool = False) -> str:
    """A figure alone."""
    if one is None or one["value"] is None:
        return "–"
    return f"{one['value']:{'+' if signed else ''}.3f}".replace("-", "−")


def _label(row: Row) -> str:
    return f"*{row['label']}*" if row["group"] == "dense" else str(row["label"])


def of(document: Row, kind: str) -> Row | None:
    """The results of a network."""
    found: Row | None = document["sections"].get("labelled", {}).get(kind)
    return found


def segmenter(document: Row) -> str:
    """mIoU, mean over clips."""
    found = of(document, "segmenter")
    if found is None:
        return ""
    head = ["", "MACs", "ms", "mIoU (95 %)", "minus dense", "minus skipping at equal ms"]
    rows = [
        [
            _label(row),
            percent(row["work"]),
            milliseconds(row["ms"]),
            figure(row["miou"]),
            "" if row["label"] == "dense" else figure(row["miou_minus_dense"], signed=True),
            figure(row.get("over_skipping"), signed=True) if row["group"] == "stream" else "",
        ]
        for row in found["contenders"]
    ]
    return markdown(head, rows)


def detector(document: Row) -> str:
    """Recall, precision and F1, mean over clips."""
    found = of(document, "detector")
    if found is None:
        return ""
    head = [
        "", "MACs", "ms", "recall (95 %)", "minus dense", "precision", "F1 minus dense",
        "recall minus skipping at equal ms", "minus skipping with ByteTrack",
    ]  # fmt: skip
    rows = [
        [
            _label(row),
            percent(row["work"]),
            milliseconds(row["ms"]),
            figure(row["recall"]),
            "" if row["label"] == "dense" else figure(row["recall_minus_dense"], signed=True),
            short(row["precision"]),
            "" if row["label"] == "dense" else figure(row["f1_minus_dense"], signed=True),
            figure(row.get("over_skipping"), signed=True) if row["group"] == "stream" else "",
            figure(row.get("over_skipping_tracker"), signed=True) if row["group"] == "stream" else "",
        ]
        for row in found["contenders"]
    ]
    return markdown(head, rows)


def objects(document: Row) -> str:
    """When objects are first found, which never, and what standing and slow ones come to."""
    parts = []
    for kind in KINDS:
        found = of(document, kind)
        if found is None:
            continue
        head = ["", "first found after, frames: median, mean", "later than dense, mean (95 %)", "never found"]
        head += [f"found of {name} objects (minus dense)" for name in CLASSES]
        rows = []
        for row in found["contenders"]:
            told = row["objects"]
            delay = (
                "–" if told["mean_delay"] is None else f"{told['median_delay']:g}, {told['mean_delay']:.1f}"
            )
            late = row["later"]
            rows.append(
                [
                    _label(row),
                    delay,
                    "" if row["label"] == "dense" else _frames(late),
                    f"{told['missed']} of {told['objects']}, of the new {told['never']} of {told['new']}",
                    *(_speed(row, name) for name in CLASSES),
                ]
            )
        parts.append(f"**{kind.capitalize()}**\n\n{markdown(head, rows)}")
    return "\n".join(parts)


def _frames(one: Row) -> str:
    """``+0.8 (+0.2 to +1.5)``."""
    if one["value"] is None:
        return "–"
    text = f"{one['value']:+.1f}"
    if one["low"] is not None:
        text += f" ({one['low']:+.1f} to {one['high']:+.1f})"
    return text.replace("-", "−")


def _speed(row: Row, name: str) -> str:
    one = row["speeds"].get(name)
    if one is None:
        return "–"
    if row["label"] == "dense":
        return short(one["share"])
    return f"{short(one['share'])} ({short(one['minus_dense'], signed=True)})"


def clips(document: Row) -> str:
    """The first figure on every clip: dense, and everybody's difference from it with work and time."""
    parts = []
    for kind in KINDS:
        found = of(document, kind)
        if found is None:
            continue
        names = [name for name in CLIPS if name in found["frames"]]
        rows = []
        for row in found["contenders"]:
            cells = [_label(row)]
            for name in names:
                one = row["clips"][name]
                if row["label"] == "dense":
                    cells.append(figure(one["figure"]))
                else:
                    cost = percent(one["work"])
                    if one["ms"] is not None:
                        cost += f", {milliseconds(one['ms'])} ms"
                    cells.append(f"{figure(one['minus_dense'], signed=True)}; {cost}")
            rows.append(cells)
        parts.append(
            f"**{kind.capitalize()}: {TITLES[kind]} on each clip**\n\n{markdown(['', *names], rows)}"
        )
    return "\n".join(parts)


def machine(document: Row) -> str:
    """Machine, versions and commands."""
    rows = [row for section in document["sections"].values() for row in section.values()]
    numbers = sorted({row["run"] for row in rows if "run" in row})
    return "\n".join(run_line(document["runs"][number]) for number in numbers) + "\n"


PARTS = {
    "segmenter": segmenter,
    "detector": detector,
    "objects": objects,
    "clips": clips,
    "machine": machine,
}


def render(document: Row, target: Path, pages: Sequence[Path]) -> list[Path]:
    """Write all tables to ``target``, and parts of them between the marks of pages; what was written.

    One of :data:`PARTS` goes between ``<!-- labelled:NAME -->`` and ``<!-- /labelled:NAME -->``. A page that
    is not there or marks nothing is left alone.
    """
    parts = {name: make(document) for name, make in PARTS.items()}
    head = "# Streaming against labels\n\nWritten by `benchmarks/labelled.py`.\n\n"
    write_text(target, head + "\n".join(parts.values()))
    written = [target]
    for page in pages:
        before = page.read_text(encoding="utf-8") if page.is_file() else ""
        if re.search(r"<!-- /?labelled:\w+ -->", before):
            write_text(page, fill(before, "labelled", parts))
            written.append(page)
    return written
