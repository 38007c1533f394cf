"""Results as rows of text, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from videoeff.bench.figures import best
from videoeff.bench.spec import COARSE, PEERS, SKIPS
from videoeff.calibration.controls import skip_label

Rows = list[list[str]]

STREAM_HEAD = ["changes", "E/D", "A/D", "videoeff, ms", "best dense, ms", "speed-up", "efficiency"]


def percent(share: float | None) -> str:
    """A share as text."""
    if share is None:
        return ""
    return f"{100 * share:.1f} %" if 0 < share < 0.0995 else f"{100 * share:.0f} %"


def milliseconds(value: float | None) -> str:
    """A time in ms as text, three figures."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread_of(summary: Mapping[str, Any]) -> str:
    """Median and quartiles as text."""
    low, high = milliseconds(summary["low"]), milliseconds(summary["high"])
    return f"{milliseconds(summary['median'])} ({low}–{high})"


def title_of(row: Mapping[str, Any]) -> str:
    """``resnet50 at 360×480, 2 threads``."""
    height, width = row["size"]
    threads = "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"
    return f"{row['model']} at {height}×{width}, {threads}"


def stream_rows(row: Mapping[str, Any], real: bool = False) -> Rows:
    """The stream's settings of one result."""
    rows = []
    for one in row["stream"]:
        label = f"τ = {one['label']}, {percent(one['changed'])}" if real else percent(one["changed"])
        peer = one["best_peer"]
        dense = f"{milliseconds(one['best_peer_ms'])} ({peer})" if peer else ""
        still = one["scheduled_share"] == 0
        rows.append(
            [
                label,
                percent(one["needed_share"]),
                percent(one["scheduled_share"]),
                spread_of(one["spread"]),
                dense,
                f"{one['speedup']:.2f}×" if peer else "",
                "" if still or not peer else f"{one['efficiency']:.2f}",
            ]
        )
    return rows


def dense_rows(row: Mapping[str, Any]) -> Rows:
    """The dense runtimes of one result: times, or why there are none."""
    rows = []
    for kind in PEERS:
        found = row["dense"].get(kind)
        if found is None:
            continue
        error = row["parity"].get(kind)
        rows.append(
            [
                kind,
                f"not measured: {found['failed']}" if "failed" in found else spread_of(found),
                "" if error is None else f"{error:.1e}",
            ]
        )
    return rows


ERROR_HEAD = ["on this clip", "ms a frame", "relative error"]


def error_rows(row: Mapping[str, Any]) -> Rows:
    """Time beside error on a real clip: the best float32, the coarse ones, frame skipping, the stream."""
    errors, dense = row["errors"], row["dense"]
    times = {kind: found["median"] for kind, found in dense.items() if "median" in found}
    exact = best(times)
    rows = []
    if exact is not None:
        rows.append([f"{exact}, float32", milliseconds(times[exact]), "0"])
    rows += [[k, milliseconds(times[k]), f"{errors[k]:.2g}"] for k in COARSE if k in times and k in errors]
    for step in SKIPS if exact is not None else ():
        label = skip_label(step)
        words = f"{label} of {exact} (each {milliseconds(times[exact])})"
        rows.append([words, milliseconds(times[exact] / step), f"{errors[label]:.2g}"])
    for one in row["stream"]:
        error = errors[one["label"]]
        rows.append([f"videoeff, τ = {one['label']}", milliseconds(one["ms"]), f"{error:.2g}"])
    return rows


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(c.replace("|", "/") for c in r) + " |" for r in rows]
    return "\n".join(lines) + "\n"
