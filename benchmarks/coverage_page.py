"""The page that ``benchmarks/coverage.py`` writes: what streams, how exactly, and what does not."""

from __future__ import annotations

from typing import Any

from benchmarks.coverage_models import LIBRARIES, TIMM, library

HEADS = {
    "torchvision": "Every model of torchvision",
    "timm": "One architecture of every family of timm",
    "ultralytics": "Ultralytics: the families and tasks, from their configurations",
    "yolox": "YOLOX",
    "effdet": "EfficientDet (effdet)",
}

COLUMNS = (
    "| model | input | convolutions | streams | error | needed | state, MB | convert, s | partitions |",
    "|---|---|---|---|---|---|---|---|---|",
)


def refused(row: dict[str, Any]) -> bool:
    """Whether a model was rightly refused: it has nothing to stream."""
    return "it has no convolution" in row.get("failed", "")


def shows(row: dict[str, Any]) -> bool:
    """Whether the outputs that were compared moved with the picture, so that an old value would have shown.

    They moved by ten times the law; or by the law, and were off by no more than a hundredth of that. Older
    rows tell by an error above 0.
    """
    if "motion" not in row:
        return bool(row["error"] > 0.0)
    return bool(row["motion"] >= 1e-3 or (row["motion"] >= 1e-4 and row["error"] <= row["motion"] / 100))


def lawful(row: dict[str, Any]) -> bool:
    """Whether a row is as it has to be.

    Law 1: 1e-4 in float32, or 1e-9 in float64 where float32 rounding alone is larger. Something was compared
    that moves with the picture, and the model that was converted is as it was.
    """
    if "failed" in row:
        return refused(row)
    if row.get("harmed") or not row["numbers_compared"] or not shows(row):
        return False
    double = row.get("error_float64")
    return bool(row["error"] <= 1e-4 or (double is not None and double <= 1e-9))


def page(rows: list[dict[str, Any]], frames: int, versions: dict[str, str]) -> str:
    """The committed page."""
    lines = ["# Coverage", "", *_summary(rows, frames, versions), "", *_reading(rows), ""]
    for each, head in HEADS.items():
        own = sorted((r for r in rows if library(r["model"]) == each), key=lambda r: str(r["model"]))
        if own:
            lines += [f"## {head}", "", *COLUMNS, *map(_line, own), ""]
            absent = [
                n for n in TIMM.values() if each == "timm" and not any(r["model"] == f"timm:{n}" for r in own)
            ]
            if absent:
                lines += [f"Not run yet: {', '.join(absent)}.", ""]
        else:
            lines += [f"## {head}", "", f"Not run: {LIBRARIES.get(each, each)} was not installed.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _summary(rows: list[dict[str, Any]], frames: int, versions: dict[str, str]) -> list[str]:
    ran = [r for r in rows if "failed" not in r]
    exact = sum(lawful(r) and r["error"] <= 1e-4 for r in ran)
    double = sum(lawful(r) and r["error"] > 1e-4 for r in ran)
    whole = sum(r["streamed"] >= 0.9999 for r in ran)
    differ = [r["model"] for r in ran if not lawful(r) and shows(r)]
    still = [r["model"] for r in ran if not shows(r)]
    failed = [r["model"] for r in rows if "failed" in r and not refused(r)]
    without = [r["model"] for r in rows if refused(r)]
    used = ", ".join(f"{k} {v}" for k, v in versions.items())
    lines = [
        f"Models converted and streamed over {frames} frames with a moving object at threshold 0, by",
        f"`make coverage` ({used}). Of {len(rows)} models, {exact} stay within 1e-4 of their outputs'",
        f"largest magnitude, and in {whole} every convolution's pixels are followed.",
    ]
    if double:
        lines += [
            f"{double} more are so ill-conditioned with random weights that float32 rounding alone shows;",
            "they stay within 1e-9 in float64, whose error stands in brackets.",
        ]
    lines.append(
        f"**{len(differ)} differ without a word or leave the model changed: {', '.join(differ)}.**"
        if differ
        else "None differs without a word."
    )
    if still:
        lines.append(f"{len(still)} have yet to be repeated with weights that let the picture through.")
    if without:
        lines.append(f"{len(without)} have no convolution and are refused: {', '.join(without)}.")
    if failed:
        lines.append(f"{len(failed)} are not converted: {', '.join(failed)}.")
    return lines


def _reading(rows: list[dict[str, Any]]) -> list[str]:
    older = sum("failed" not in r and "harmed" not in r for r in rows)
    return [
        "Each stream is compared with a second model of the same weights that was never converted, and the",
        "model that was converted must afterwards give the same outputs as before.",
        *(
            [f"(The {older} rows with a * are older: they were compared with the model itself.)"]
            if older
            else []
        ),
        "*streams*: share of the convolutions' multiply-accumulates whose pixels are followed. *error*: the",
        "largest difference over all frames and outputs, over the output's largest magnitude. *needed*: the",
        "share of multiply-accumulates that had to be recomputed, on this clip, in frames after the first;",
        "small inputs make it large, it says nothing about real video. *partitions*: what was captured where",
        "the whole model cannot be exported; the error is then that of the partitions' outputs, since what",
        "follows them sorts near ties of random weights (the difference of the outputs stands in brackets",
        "where it is larger than 1e-4).",
    ]


def _line(row: dict[str, Any]) -> str:
    name = str(row["model"]).rpartition(":")[2]
    if "failed" in row:
        reason = str(row["failed"]).replace("|", "/")[:200]
        return f"| {name} | | | {'refused' if refused(row) else 'not converted'}: {reason} | | | | | |"
    older = "" if "harmed" in row else " *"
    bracket = f" ({row['error_float64']:.1e})" if row.get("error_float64") is not None else ""
    harmed = f"; {row['harmed']}" if row.get("harmed") else ""
    if not shows(row):
        harmed += "; the outputs of these weights do not move with the picture: to be repeated"
    partitions = ", ".join(row["partitions"])
    if (row.get("error_outputs") or 0.0) > 1e-4:
        partitions += f" (outputs: {row['error_outputs']:.1e})"
    return (
        f"| {name}{older} | {row['input']} | {row['convolutions']} | {100 * row['streamed']:.1f} % "
        f"| {row['error']:.1e}{bracket}{harmed} | {100 * row['macs_needed_share']:.0f} % "
        f"| {row['state_bytes'] / 1e6:.1f} | {row['convert_seconds']:.1f} | {partitions} |"
    )
