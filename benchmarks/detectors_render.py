"""Tables of the detectors' benchmark from its JSON results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cpu_render import run_line
from benchmarks.detectors_calibrate import LABELS
from benchmarks.detectors_data import CLIPS
from benchmarks.detectors_score import DETECTORS
from benchmarks.pages import fill
from videoeff.bench.tables import markdown, milliseconds, percent, spread_of
from videoeff.serialize.files import write_text

Row = Mapping[str, Any]

FULL_HEAD = [
    "", "ms a frame (quartiles)", "all changes, ms", "MACs needed", "scheduled", "F1 (95 %)",
    "settled (95 %)", "settled, over int8's", "error at detections",
]  # fmt: skip
#: Rows of the short table: what it says, and the label of the contender; "best" stands for the best float32.
SHORT = (
    ("best float32", "best"),
    ("OpenVINO bfloat16", "openvino-bf16"),
    ("OpenVINO int8", "openvino-int8"),
    ("every 2nd frame", "every 2nd frame"),
    ("every 4th frame", "every 4th frame"),
    ("videoeff, τ = 0", "videoeff, τ = 0"),
    ("videoeff, τ = 0.1", "videoeff, τ = 0.1"),
    *((label, label) for label in LABELS.values()),
)
SHORT_TEXT = (
    "*ms* a frame, the median, and in brackets the share of the dense network's multiply-accumulates. Frame "
    "skipping is the best float32 runtime on every n-th frame, its time spread over all of them; the frames "
    "it computes take as long as ever. *F1* is the agreement of detections with the dense network at one "
    "score; *settled*: of the detections above a high score, the share that the other has above a low one. "
    "*Error* is the output's, relative, where the dense network detects. **Bold** is the shortest time of "
    "those whose settled agreement is at least int8's. *settled kept*: calibrated on the frames before the "
    "judged ones, to a settled agreement of .99 (YOLOX-Nano) and .97 (FastestDet, .98 on campus)."
)
#: The disturbance that stands for the noise floor in the short table.
FLOOR = "noise, σ = 2"


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


def _short(value: float) -> str:
    """``.94``, and ``1`` only where it is exactly that; never rounded up to it."""
    return "1" if value == 1 else f"{min(value, 0.9994):.3f}".removeprefix("0")


def _agreement(one: Row) -> str:
    """``.943 / .976``."""
    return " / ".join(_short(one[k]["value"]) for k in ("f1", "settled"))


def _found(row: Row | None, label: str) -> Row | None:
    """A contender on a clip; None where it, or all, could not be measured."""
    every = [] if row is None else row.get("contenders", [])
    return next((c for c in every if c["label"] == label), None)


def short_cells(row: Row | None, label: str) -> list[str]:
    """One contender on one clip in the short table: time and work, agreement, error."""
    if row is not None and label == "best":
        label = row.get("best", "")
    one = _found(row, label)
    if row is None or one is None:
        return ["–", "–", "–"]
    ms = milliseconds(one["ms"])
    ms = f"**{ms}**" if label == fastest(row) else ms
    if one["group"] == "float32":
        return [f"{ms} ({label})", "", ""]
    if "needed" in one:
        ms += f" ({percent(one['needed'])})"
    return [ms, _agreement(one), "" if one["error"] is None else f"{one['error']:.1g}"]


def short(document: Row) -> str:
    """The table of the README: a line for each clip and setting, both networks beside each other."""
    measured = document["sections"].get("detectors", {})
    head = ["clip", ""]
    for detector in DETECTORS.values():
        head += [f"{detector.title}: ms (MACs)", "F1 / settled", "error"]
    rows, floors = [], []
    for clip in CLIPS:
        ours = [measured.get(f"{network}/{clip}") for network in DETECTORS]
        if not any(ours):
            continue
        for index, (title, label) in enumerate(SHORT):
            cells = [cell for row in ours for cell in short_cells(row, label)]
            if any(cell != "–" for cell in cells):
                rows.append([clip if index == 0 else "", title, *cells])
        floor = [_found(row, FLOOR) for row in ours]
        floors.append(f"{clip} {' and '.join('–' if f is None else _agreement(f) for f in floor)}")
    noise = "The networks' own *noise floor*, F1 / settled on frames with noise of σ = 2 grey levels: "
    return f"{markdown(head, rows)}\n{SHORT_TEXT} {noise}{'; '.join(floors)}.\n"


def machine(document: Row) -> str:
    """Machine, versions and commands."""
    lines = []
    for number in sorted({r["run"] for r in rows_of(document)}):
        lines.append(run_line(document["runs"][number]))
    return "\n".join(lines) + "\n"


def clips(_: Row) -> str:
    """The clips and their windows."""
    return "\n".join(
        f"- *{name}*: {clip.about}; judged from frame {clip.first + 1} on" for name, clip in CLIPS.items()
    )


CALIBRATED_HEAD = [
    "clip, network", "budget", "settled (95 %)", "MACs", "ms", "beside it: every 2nd frame", "int8",
    "chosen", "seconds",
]  # fmt: skip


def calibrations(document: Row) -> str:
    """What calibration chose on each clip, and what that gives on the frames it had not seen."""
    rows = []
    for row in rows_of(document):
        for label, told in row.get("calibrations", {}).items():
            ours = _found(row, label)
            if ours is None:
                continue
            others = []
            for other in ("every 2nd frame", "openvino-int8"):
                one = _found(row, other)
                others.append("–" if one is None else f"{interval_value(one)}, {milliseconds(one['ms'])} ms")
            rows.append(
                [
                    f"{row['clip']}, {DETECTORS[row['network']].title}",
                    _budget(told),
                    interval(ours["settled"]),
                    percent(ours["needed"]),
                    milliseconds(ours["ms"]),
                    *others,
                    told["held"]["label"],
                    f"{told['seconds'][1]:.0f}",
                ]
            )
    return markdown(CALIBRATED_HEAD, rows)


def _budget(told: Row) -> str:
    text = str(told["budget"])
    if text == "int8":
        text += f" ({_short(told['held_limit'])})"
    return text if told["kept"] else f"{text}: not kept"


def interval_value(one: Row) -> str:
    """The settled agreement alone."""
    return _short(one["settled"]["value"])


def curves(document: Row) -> str:
    """How work and fidelity go together on the frames held back, in the order of work."""
    rows = []
    for row in rows_of(document):
        points: dict[str, Row] = {}
        for told in row.get("calibrations", {}).values():
            points |= {p["label"]: p for p in told["curve"]}
        name = f"{row['clip']}, {DETECTORS[row['network']].title}"
        for point in sorted(points.values(), key=lambda p: float(p["work"])):
            rows.append([name, point["label"], percent(point["work"]), interval(point["figure"])])
            name = ""
    return markdown(["clip, network", "settings", "MACs", "settled (95 %)"], rows)


PARTS = {
    "tables": tables,
    "machine": machine,
    "clips": clips,
    "calibrations": calibrations,
    "curves": curves,
}


def render(document: Row, target: Path, pages: Sequence[Path]) -> list[Path]:
    """Write all tables to ``target`` and between the marks of pages; what was written.

    The short table goes between ``<!-- detectors:begin -->`` and ``<!-- detectors:end -->``, one of
    :data:`PARTS` between ``<!-- detectors:NAME -->`` and ``<!-- /detectors:NAME -->``. A page that is not
    there or marks nothing is left alone.
    """
    parts = {name: make(document) for name, make in PARTS.items()}
    compact = short(document)
    head = "# Two trained detectors on four clips\n\nWritten by `benchmarks/detectors.py`.\n\n"
    write_text(target, head + "\n".join((parts["machine"], compact, parts["tables"])))
    written = [target]
    for page in pages:
        before = page.read_text(encoding="utf-8") if page.is_file() else ""
        if not re.search(r"<!-- /?detectors:\w+ -->", before):
            continue
        write_text(page, _between(fill(before, "detectors", parts), compact))
        written.append(page)
    return written


def _between(page: str, text: str) -> str:
    """The page with ``text`` between the marks ``begin`` and ``end``."""
    begin, end = "<!-- detectors:begin -->", "<!-- detectors:end -->"
    filled = f"{begin}\n\n{text.strip()}\n\n{end}"
    return re.sub(f"{begin}.*?{end}", lambda _: filled, page, flags=re.DOTALL)
