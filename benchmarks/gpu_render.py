"""Tables, plot and page of the GPU benchmark from its JSON results; needs no GPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from benchmarks.pages import fill, finish_axes, png, write_picture
from videoeff.bench.figures import best
from videoeff.bench.tables import markdown, milliseconds, percent, spread_of
from videoeff.serialize.files import write_text

EAGER, CUDNN_GRAPH, COMPILE, COMPILE_GRAPH = "eager", "cudnn-graph", "compile", "compile-graph"
#: The dense peers; those that are compiled come last, as they take longest to get ready.
PEERS = (EAGER, CUDNN_GRAPH, COMPILE, COMPILE_GRAPH)
COMPILED = (COMPILE, COMPILE_GRAPH)

NOT_MEASURED = "not measured"
NO_GPU = "Not measured: no GPU was available.\n"
PLOT_BYTES = 150_000
PICTURE = "![speed-up over the share of changed pixels, efficiency over A/D](../benchmarks/results/gpu.png)"

#: Dense fp16 TFLOP/s by the vendor's data sheets, for a look; shares are of what this device was measured at.
DATASHEET = {"NVIDIA H200": 989.0, "NVIDIA H100": 989.0, "NVIDIA A100": 312.0}

Dash = Literal["-", "--", ":", "-."]
Document = dict[str, Any]
Row = dict[str, Any]


# ---------------------------------------------------------------- one row


def compared(row: Mapping[str, Any], peak_tflops: float) -> Row:
    """A row with what follows from its times.

    Args:
        row: as the measuring side gives it.
        peak_tflops: of large matrix products on the device.

    Returns:
        Every setting of the stream with the best peer, the speed-up over it, the efficiency (best dense time
        x A/D / time), TFLOP/s as if all were computed and of what was, and the latter's share of the peak.
    """
    medians = {k: float(v["median"]) for k, v in row["dense"].items() if "median" in v}
    peer = best(medians, PEERS)
    settings = []
    for one in row["stream"]:
        ms, macs = float(one["spread"]["median"]), float(one["dense_macs"])
        entry = dict(one) | {
            "ms": ms,
            "best_peer": peer,
            "dense_tflops": 2e-9 * macs / ms,
            "scheduled_tflops": 2e-9 * macs * one["scheduled_share"] / ms,
        }
        entry["share_of_peak"] = entry["scheduled_tflops"] / peak_tflops
        if peer is not None:
            entry["best_peer_ms"] = medians[peer]
            entry["speedup"] = medians[peer] / ms
            entry["efficiency"] = medians[peer] * one["scheduled_share"] / ms
        settings.append(entry)
    return dict(row) | {"stream": settings}


def setting_of(row: Mapping[str, Any], share: float, threshold: float = 0.0) -> Row | None:
    """The stream's entry for a share of changed pixels."""
    for one in row["stream"]:
        if abs(one["share"] - share) < 1e-9 and one["threshold"] == threshold:
            return dict(one)
    return None


# ---------------------------------------------------------------- goals


def rows_of(document: Document, section: str = "frames") -> dict[str, Row]:
    """The good rows of a section."""
    rows = document["sections"].get(section, {})
    return {k: r for k, r in rows.items() if "failed" not in r}


def _find(document: Document, model: str, streams: int) -> Row | None:
    for row in rows_of(document).values():
        if (row["model"], row["streams"], row["size"][1], row["dtype"]) == (model, streams, 1920, "float16"):
            return row
    return None


def _speed(document: Document, model: str, streams: int, share: float, least: float) -> str:
    row = _find(document, model, streams)
    one = None if row is None else setting_of(row, share)
    if row is None or one is None or "speedup" not in one:
        return NOT_MEASURED
    missing = [p for p in PEERS if "median" not in row["dense"].get(p, {})]
    without = f", without {', '.join(missing)}" if missing else ""
    reached = "yes" if one["speedup"] >= least else "no"
    return f"{one['speedup']:.2f}× over {one['best_peer']}{without}: {reached}"


SPEEDS = (
    ("1080p, 8 streams, 5 % changed", 8, 0.05, 4.0),
    ("1080p, 8 streams, 10 % changed", 8, 0.10, 3.0),
    ("1080p, 1 stream, 5 % changed", 1, 0.05, 2.0),
    ("still picture, 1080p, 8 streams", 8, 0.0, 10.0),
    ("still picture, 1080p, 1 stream", 1, 0.0, 10.0),
    ("every pixel changes, 1080p, 8 streams", 8, 1.0, 0.95),
    ("every pixel changes, 1080p, 1 stream", 1, 1.0, 0.95),
)
GOAL_HEAD = ["what", "at least", "measured"]


def goals(document: Document) -> list[list[str]]:
    """The goals beside what was measured; what was not says so and nothing else."""
    rows = [
        [f"{what}, {model}", f"{least:g}×", _speed(document, model, streams, share, least)]
        for what, streams, share, least in SPEEDS
        for model in ("resnet50", "hrnet_w18")
    ]
    kernel, host = NOT_MEASURED, NOT_MEASURED
    found = document["sections"].get("summaries", {}).get("convolutions", {})
    if "geometric_mean" in found:
        kernel = (
            f"{found['geometric_mean']:.2f}× over {found['shapes']} of {found['all_shapes']} shapes with "
            f"{percent(found['share_of_macs'])} of the MACs, worst {found['worst']:.2f}× "
            f"({found['worst_shape']}): {'yes' if found['geometric_mean'] >= 0.7 else 'no'}"
        )
    times = {
        f"{key} at {percent(one['share'])}": one["host_us"]
        for key, row in rows_of(document).items()
        for one in row["stream"]
    }
    if times:
        worst = max(times, key=lambda k: times[k])
        host = f"{times[worst]:.0f} µs at most ({worst}): {'yes' if times[worst] < 50 else 'no'}"
    rows.append(["convolution kernel, full list, over cuDNN's (by MACs)", "0.7×", kernel])
    rows.append(["host time per frame", "under 50 µs", host])
    return rows


# ---------------------------------------------------------------- tables


def machine_text(document: Document) -> str:
    """The devices and the commands, as a list."""
    used = {r.get("run") for rows in document["sections"].values() for r in rows.values()}
    lines = []
    for number in sorted(n for n in used if n is not None):
        run = document["runs"][number]
        machine = run["machine"]
        versions = ", ".join(f"{p} {v}" for p, v in machine["versions"].items())
        sheet = next((v for n, v in DATASHEET.items() if machine["gpu"].startswith(n)), None)
        said = f" (data sheet: {sheet:.0f} in fp16)" if sheet else ""
        lines.append(
            f"- `{run['command']}` on {machine['gpu']}, {machine['memory'] / 2**30:.0f} GiB, driver "
            f"{machine['driver']}, CUDA {machine['cuda']}, cuDNN {machine['cudnn']}, Triton "
            f"{machine['triton']}; large matrix products at {machine['matmul_tflops']:.0f} TFLOP/s{said}; "
            f"{machine['cpu']}, {machine['cores']} cores; Python {machine['python']}, {versions}"
        )
    return "\n".join(lines) + "\n" if lines else NO_GPU


def title_of(row: Mapping[str, Any]) -> str:
    """``resnet50 at 1080×1920, 8 streams, float16``."""
    height, width = row["size"]
    streams = "1 stream" if row["streams"] == 1 else f"{row['streams']} streams"
    return f"{row['model']} at {height}×{width}, {streams}, {row['dtype']}"


def overview(document: Document, threshold: float = 0.0) -> str:
    """One line for each network, size and number of streams."""
    rows = rows_of(document)
    shares = sorted({o["share"] for r in rows.values() for o in r["stream"] if o["threshold"] == threshold})
    if not shares:
        return NO_GPU if not rows else "Not measured.\n"
    head = ["network", "input", "streams", "best dense, ms", *map(percent, shares), "kernels", "host, µs"]
    lines = []
    for row in rows.values():
        found = [setting_of(row, s, threshold) for s in shares]
        first = next((o for o in found if o is not None), None)
        if first is None:
            continue
        peer = f"{milliseconds(first['best_peer_ms'])} ({first['best_peer']})" if "speedup" in first else ""
        cells = [f"{o['speedup']:.2f}×" if o and "speedup" in o else NOT_MEASURED for o in found]
        host = max(o["host_us"] for o in found if o is not None)
        lines.append(
            [
                row["model"], f"{row['size'][0]}×{row['size'][1]}", str(row["streams"]), peer, *cells,
                str(row.get("kernels") or NOT_MEASURED), f"{host:.0f}",
            ]
        )  # fmt: skip
    return markdown(head, lines)


def one_lane(row: Mapping[str, Any]) -> str:
    """What it is worth that kernels run side by side, in a sentence for each share."""
    said = ""
    for one in row.get("one_lane", ()):
        beside = setting_of(row, one["share"], one["threshold"])
        if beside is not None:
            gain = one["spread"]["median"] / beside["spread"]["median"]
            said += (
                f" With all of them one after the other {percent(one['share'])} changed takes "
                f"{milliseconds(one['spread']['median'])} ms, {gain:.2f} times as long."
            )
    return said


DETAIL_HEAD = [
    "changes", "τ", "E/D", "A/D", "ms (quartiles)", "speed-up", "efficiency", "TFLOP/s, as dense",
    "TFLOP/s, computed", "of the peak", "host, µs",
]  # fmt: skip


def details(document: Document) -> str:
    """Every measurement in full."""
    parts = []
    for row in rows_of(document).values():
        megabytes = row["state_bytes"] / 1e6
        kernels = row.get("kernels") or NOT_MEASURED
        partial = " Only part of a round." if row.get("partial") else ""
        parts.append(
            f"### {title_of(row)}\n\nState {megabytes:.0f} MB; kernels per frame: {kernels}, of which "
            f"{row['chain']} have to run one after the other; differs from the dense outputs by "
            f"{row['error']:.1e}.{one_lane(row)}{partial}\n"
        )
        dense = [
            [k, f"{NOT_MEASURED}: {v['failed']}" if "failed" in v else spread_of(v)]
            for k in PEERS
            for v in [row["dense"].get(k, {"failed": "left out"})]
        ]
        parts.append(markdown(["dense peer", "ms (quartiles)"], dense))
        parts.append(markdown(DETAIL_HEAD, [_detail(o) for o in row["stream"]]))
    return "\n".join(parts) if parts else NO_GPU


def _detail(one: Mapping[str, Any]) -> list[str]:
    known = "speedup" in one
    return [
        percent(one["changed"]),
        f"{one['threshold']:g}",
        percent(one["needed_share"]),
        percent(one["scheduled_share"]),
        spread_of(one["spread"]),
        f"{one['speedup']:.2f}× ({one['best_peer']})" if known else NOT_MEASURED,
        f"{one['efficiency']:.2f}" if known and one["scheduled_share"] else "",
        f"{one['dense_tflops']:.0f}",
        f"{one['scheduled_tflops']:.1f}",
        percent(one["share_of_peak"]),
        f"{one['host_us']:.0f}",
    ]


def convolutions(document: Document, count: int = 12) -> str:
    """The slowest and the fastest convolutions against cuDNN's."""
    rows = {k: r for k, r in rows_of(document, "convolutions").items() if "ratio" in r}
    if not rows:
        return NO_GPU
    order = sorted(rows, key=lambda k: rows[k]["ratio"])
    shown = order if len(order) <= 2 * count else [*order[:count], *order[-count:]]
    lines = [
        [k, f"{r['macs'] / 1e9:.2f}", f"{r['cudnn_ms']:.4f}", f"{r['ms']:.4f}", f"{r['ratio']:.2f}",
         f"{r['tflops']:.0f}"]
        for k in shown
        for r in [rows[k]]
    ]  # fmt: skip
    return markdown(["convolution", "G MACs", "cuDNN, ms", "videoeff, ms", "speed", "TFLOP/s"], lines)


def missing(document: Document) -> str:
    """What could not be measured, and why."""
    found = []
    for section, rows in document["sections"].items():
        for key, row in rows.items():
            if "failed" in row:
                found.append(f"- {section}, {key}: {row['failed']}")
            found += [
                f"- {section}, {key}: {kind}: {v['failed']}"
                for kind, v in row.get("dense", {}).items()
                if "failed" in v
            ]
            if row.get("partial"):
                found.append(f"- {section}, {key}: the budget was spent within its first round")
    return "\n".join(found) + "\n" if found else "Nothing failed.\n" if document["runs"] else NO_GPU


def sections(document: Document) -> dict[str, str]:
    """What goes between the marks of the page, by name."""
    return {
        "machine": machine_text(document),
        "goals": markdown(GOAL_HEAD, goals(document)),
        "overview": overview(document),
        "thresholds": overview(document, threshold_of(document)),
        "plot": PICTURE if has_speedups(document) else "",
        "convolutions": convolutions(document),
        "missing": missing(document),
    }


def threshold_of(document: Document) -> float:
    """The threshold other than 0 that was measured."""
    found = {o["threshold"] for r in rows_of(document).values() for o in r["stream"]} - {0.0}
    return min(found, default=0.1)


# ---------------------------------------------------------------- plot


def has_speedups(document: Document) -> bool:
    """Whether there is anything to draw."""
    return any("speedup" in o for r in rows_of(document).values() for o in r["stream"])


def plot(document: Document) -> bytes | None:
    """Speed-up against the share of changed pixels, and efficiency against A/D, as PNG; None without data."""
    if not has_speedups(document):
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    rows = list(rows_of(document).values())
    names = sorted({r["model"] for r in rows})
    counts = sorted({r["streams"] for r in rows})
    colours = {n: pyplot.get_cmap("tab10")(i % 10) for i, n in enumerate(names)}
    kinds: tuple[Dash, ...] = ("-", "--", ":", "-.")
    dashes = {c: kinds[i % 4] for i, c in enumerate(reversed(counts))}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.8), dpi=80)
    for row in (r for r in rows if r["size"][1] == max(x["size"][1] for x in rows)):
        style = {"color": colours[row["model"]], "linestyle": dashes[row["streams"]], "linewidth": 1.2}
        points = [o for o in row["stream"] if "speedup" in o and o["threshold"] == 0 and o["changed"] > 0]
        points.sort(key=lambda o: o["changed"])
        left.plot([100 * o["changed"] for o in points], [o["speedup"] for o in points], marker=".", **style)
        worked = [o for o in points if o["scheduled_share"] > 0]
        right.plot(
            [100 * o["scheduled_share"] for o in worked],
            [o["efficiency"] for o in worked],
            marker=".",
            **style,
        )
    left.set(
        xscale="log", yscale="log", xlabel="pixels that change, %", ylabel="speed-up over the best dense peer"
    )
    right.set(xscale="log", xlabel="A/D, %", ylabel="efficiency")
    for axes in (left, right):
        finish_axes(axes)
    handles = [Line2D([], [], color=colours[n], label=n) for n in names]
    handles += [
        Line2D([], [], color="grey", linestyle=dashes[c], label=f"{c} stream{'s' * (c > 1)}") for c in counts
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    pyplot.close(figure)
    return png(figure)


def render(document: Document, folder: Path, page: Path) -> list[Path]:
    """Write ``gpu.md`` and ``gpu.png`` beside the JSON, where there is any, and fill the page's marks."""
    parts = sections(document)
    written = []
    if document["runs"]:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "gpu.md", full_text(document, parts))
        written.append(folder / "gpu.md")
        picture = plot(document)
        if picture is not None:
            assert len(picture) < PLOT_BYTES, f"the plot has {len(picture)} bytes"
            write_picture(folder / "gpu.png", picture)
            written.append(folder / "gpu.png")
    if page.is_file():
        write_text(page, fill(page.read_text(encoding="utf-8"), "cuda", parts))
        written.append(page)
    return written


def full_text(document: Document, parts: Mapping[str, str]) -> str:
    """All figures as a page of their own."""
    blocks: Iterable[str] = (
        "# GPU benchmark: all figures\n",
        "Written by benchmarks/gpu.py from gpu.json. Times are medians over all frames of all rounds.\n",
        parts["machine"],
        parts["goals"],
        "## Overview\n",
        parts["overview"],
        "## Overview, with a threshold\n",
        parts["thresholds"],
        "## Convolutions\n",
        convolutions(document, 1000),
        "## Frames\n",
        details(document),
        "## Not measured\n",
        parts["missing"],
    )
    return "\n".join(blocks)
