"""Tables, plot and page of the CPU benchmark from its JSON results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.pages import fill, finish_axes, png, write_picture
from videoeff.bench.figures import geometric_mean
from videoeff.bench.tables import (
    STREAM_HEAD,
    dense_rows,
    markdown,
    milliseconds,
    percent,
    stream_rows,
    title_of,
)
from videoeff.serialize.files import write_text

DEPTHWISE = ("mobilenet", "efficientnet", "fastestdet")
PLOT_BYTES = 100_000
PICTURE = "![speed-up over the share of changed pixels, efficiency over A/D](../benchmarks/results/cpu.png)"

Document = dict[str, Any]


def rows_of(document: Document, section: str) -> dict[str, Any]:
    """The good rows of a section."""
    rows = document["sections"].get(section, {})
    return {k: r for k, r in rows.items() if "failed" not in r}


def failures(document: Document) -> list[str]:
    """What could not be measured, and why."""
    found = []
    for section, rows in document["sections"].items():
        for key, row in rows.items():
            if isinstance(row, dict) and "failed" in row:
                found.append(f"- {section}, {key}: {row['failed']}")
            elif isinstance(row, dict):
                dense = row.get("dense", {})
                found += [
                    f"- {section}, {key}: {k}: {v['failed']}" for k, v in dense.items() if "failed" in v
                ]
                if row.get("partial"):
                    found.append(f"- {section}, {key}: the budget was spent within its first round")
    return found


# ---------------------------------------------------------------- goals


def is_depthwise(name: str) -> bool:
    """Whether most of a network's convolutions are depthwise."""
    return any(word in name for word in DEPTHWISE)


def goals(document: Document) -> list[list[str]]:
    """The goals beside what was measured: goal, at least, worst, mean, reached."""
    rows: list[list[str]] = []
    synthetic, clips = rows_of(document, "synthetic"), rows_of(document, "clips")

    def add(what: str, bound: float, values: dict[str, float], most: bool = False) -> None:
        if not values:
            rows.append([what, f"{bound:g}", "not measured", "", ""])
            return
        worst = (max if most else min)(values, key=lambda k: values[k])
        good = sum(v <= bound if most else v >= bound for v in values.values())
        mean = geometric_mean([max(v, 1e-9) for v in values.values()])
        rows.append(
            [what, f"{bound:g}", f"{mean:.3g}", f"{values[worst]:.3g} ({worst})", f"{good} of {len(values)}"]
        )

    layers = document["sections"].get("summaries", {}).get("layers", {})
    if "geometric_mean" in layers:
        shapes = f"{layers['shapes'] - layers['failed']} shapes"
        rows.append(
            [
                "one layer, all pixels, speed over oneDNN (mean by MACs / worst)",
                "0.9 / 0.6",
                f"{layers['geometric_mean']:.2f}",
                f"{layers['worst']:.2f} ({layers['worst_shape']})",
                shapes,
            ]
        )
        for share in ("0.01", "0.02", "0.05", "0.1"):
            part = layers.get(f"per_pixel_{share}")
            if part:
                rows.append(
                    [
                        f"one layer, {percent(float(share))} of the input, time per pixel over its own (≤)",
                        "1.3",
                        f"{part['geometric_mean']:.2f}",
                        f"{part['worst']:.2f} ({part['worst_shape']})",
                        f"{percent(part['within_1.3'])} of the shapes",
                    ]
                )

    def each(
        test: Callable[[Any, Any], bool], value: Callable[[Any], float | None], real: bool = False
    ) -> dict[str, float]:
        found = {}
        for key, row in [*synthetic.items(), *(clips.items() if real else ())]:
            for one in row["stream"]:
                number = value(one) if test(row, one) else None
                if number is not None:
                    what = f"τ = {one['label']}" if key in clips else percent(one["changed"])
                    found[f"{key} at {what}"] = number
        return found

    def middle(one: Any) -> bool:
        return 0.05 <= float(one["scheduled_share"]) <= 0.5

    add(
        "frame, efficiency at A/D 5 to 50 %, other networks",
        0.9,
        each(lambda r, o: middle(o) and not is_depthwise(r["model"]), lambda o: o.get("efficiency"), True),
    )
    add(
        "frame, efficiency at A/D 5 to 50 %, depthwise networks",
        1.1,
        each(lambda r, o: middle(o) and is_depthwise(r["model"]), lambda o: o.get("efficiency"), True),
    )
    add(
        "still picture, time over the best dense runtime (≤)",
        0.02,
        each(lambda _, o: o["label"] == "0", lambda o: o.get("time_share")),
        most=True,
    )
    everything = each(lambda _, o: o["label"] == "1", lambda o: o.get("speedup_pytorch"))
    add("every pixel changes, speed over the best PyTorch", 1.0, everything)
    everything = each(lambda _, o: o["label"] == "1", lambda o: o.get("speedup"))
    add("every pixel changes, speed over the best dense runtime", 0.8, everything)
    real = {
        f"{key} at τ = {one['label']}": one["of_needed"]
        for key, row in clips.items()
        for one in row["stream"]
        if "of_needed" in one
    }
    add("real clips, speed-up over the MACs saved", 0.9, real)
    state = {k: r["state_ratio"] for k, r in synthetic.items() if "state_ratio" in r}
    add("state over all convolution outputs (≤)", 1.2, state, most=True)
    fixed = rows_of(document, "fixed")
    inside = {k: r["native_us_per_op"] for k, r in fixed.items()}
    add("fixed cost of an op with nothing active, inside the plan, µs (≤)", 3.0, inside, most=True)
    whole = {k: r["us_per_op"] for k, r in fixed.items()}
    add("the same for the whole call, the input's test and Python included, µs (≤)", 3.0, whole, most=True)
    return rows


# ---------------------------------------------------------------- tables


def run_line(run: Mapping[str, Any]) -> str:
    """The command of a run and the machine it ran on, as an entry of a list."""
    machine = run["machine"]
    versions = ", ".join(f"{p} {v}" for p, v in machine["versions"].items())
    caches = ", ".join(f"{k} {v}" for k, v in machine["caches"].items())
    return (
        f"- `{run['command']}` on {machine['cpu']}, {machine['cores']} cores "
        f"({', '.join(machine['instruction_sets'])}; {caches}), {machine['threads']} thread(s); "
        f"Python {machine['python']}, {versions}"
    )


def machine_text(document: Document) -> str:
    """The machine and the commands, as a list."""
    lines = []
    for number in sorted({r["run"] for _, r in all_rows(document) if r.get("run") is not None}):
        lines.append(run_line(document["runs"][number]))
    return "\n".join(lines) + "\n"


def all_rows(document: Document) -> Iterable[tuple[str, dict[str, Any]]]:
    """Every row with its section."""
    for section, rows in document["sections"].items():
        for row in rows.values():
            yield section, row


def overview(document: Document) -> str:
    """One line for each model and size: dense times and speed-ups at every share."""
    rows = rows_of(document, "synthetic")
    labels = sorted({o["label"] for r in rows.values() for o in r["stream"]}, key=float)
    head = ["model", "input", "best dense, ms", *(percent(float(x)) for x in labels), "state"]
    lines = []
    for row in rows.values():
        found = {o["label"]: o for o in row["stream"]}
        first = row["stream"][0] if row["stream"] else {}
        best = f"{milliseconds(first.get('best_peer_ms'))} ({first.get('best_peer', '')})"
        speed = [f"{found[x]['speedup']:.2f}×" if "speedup" in found.get(x, {}) else "" for x in labels]
        state = f"{row['state_ratio']:.2f}" if "state_ratio" in row else ""
        lines.append([row["model"], f"{row['size'][0]}×{row['size'][1]}", best, *speed, state])
    return markdown(head, lines)


def dense_table(document: Document) -> str:
    """The dense runtimes beside each other."""
    rows = rows_of(document, "synthetic")
    kinds = ["eager", "compile", "onnxruntime", "openvino"]
    lines = []
    for row in rows.values():
        times = [milliseconds(row["dense"].get(k, {}).get("median")) or "–" for k in kinds]
        everything = next((o["ms"] for o in row["stream"] if o["label"] == "1"), None)
        lines.append(
            [row["model"], f"{row['size'][0]}×{row['size'][1]}", *times, milliseconds(everything) or "–"]
        )
    return markdown(["model", "input", *kinds, "videoeff, all changed"], lines)


def details(document: Document) -> str:
    """Every measurement in full."""
    parts = []
    for section, real in (("synthetic", False), ("clips", True)):
        for key, row in rows_of(document, section).items():
            note = f" ({row['note']})" if row.get("note") else ""
            where = f"{row['clip']}: " if real else ""
            parts.append(f"### {where}{title_of(row)}{note}\n")
            parts.append(markdown(["dense runtime", "ms (quartiles)", "differs by"], dense_rows(row)))
            parts.append(markdown(STREAM_HEAD, stream_rows(row, real=real)))
            if row.get("partial"):
                parts.append(f"{key}: the budget was spent within the first round.\n")
    return "\n".join(parts)


def clips_table(document: Document) -> str:
    """The real clips."""
    head = [
        "clip, model",
        "τ",
        "E/D",
        "A/D",
        "best dense, ms",
        "videoeff, ms",
        "speed-up",
        "of the MACs saved",
    ]
    lines = []
    for key, row in rows_of(document, "clips").items():
        for one in row["stream"]:
            if "speedup" not in one:
                continue
            lines.append(
                [
                    key,
                    one["label"],
                    percent(one["needed_share"]),
                    percent(one["scheduled_share"]),
                    f"{milliseconds(one['best_peer_ms'])} ({one['best_peer']})",
                    milliseconds(one["ms"]),
                    f"{one['speedup']:.2f}×",
                    f"{one['of_needed']:.2f}",
                ]
            )
    return markdown(head, lines)


def layers_table(document: Document, count: int = 12) -> str:
    """The slowest and the fastest layers against oneDNN."""
    rows = {k: r for k, r in rows_of(document, "layers").items() if "ratio" in r}
    order = sorted(rows, key=lambda k: rows[k]["ratio"])
    shown = order if len(order) <= 2 * count else [*order[:count], *order[-count:]]
    lines = []
    for key in shown:
        row = rows[key]
        near = [
            f"{row['per_pixel'][s]['relative']:.2f}" if "per_pixel" in row else ""
            for s in ("0.01", "0.02", "0.05", "0.1")
        ]
        times = [f"{row['dense_ms']:.3f}", f"{row['ms']:.3f}", f"{row['ratio']:.2f}"]
        lines.append([key, f"{row['macs'] / 1e6:.1f}", *times, *near])
    head = ["layer", "M MACs", "oneDNN, ms", "videoeff, ms", "speed", "1 %", "2 %", "5 %", "10 %"]
    return markdown(head, lines)


def fixed_table(document: Document) -> str:
    """The fixed cost."""
    head = ["model", "input", "ops", "still frame, ms", "µs an op", "of it inside the plan"]
    return markdown(
        head,
        [
            [
                k,
                f"{r['size'][0]}×{r['size'][1]}",
                str(r["ops"]),
                f"{r['ms']['median']:.3f}",
                f"{r['us_per_op']:.2f}",
                f"{r['native_us_per_op']:.2f}",
            ]
            for k, r in rows_of(document, "fixed").items()
        ],
    )


GOAL_HEAD = ["what", "goal", "measured (geometric mean)", "worst", "reached"]


def sections(document: Document) -> dict[str, str]:
    """What goes between the marks of the page, by name."""
    lost = failures(document)
    return {
        "machine": machine_text(document),
        "goals": markdown(GOAL_HEAD, goals(document)),
        "overview": overview(document),
        "plot": PICTURE if has_speedups(document) else "",
        "dense": dense_table(document),
        "clips": clips_table(document),
        "layers": layers_table(document),
        "fixed": fixed_table(document),
        "missing": "\n".join(lost) + "\n" if lost else "Nothing.\n",
    }


# ---------------------------------------------------------------- plot


def has_speedups(document: Document) -> bool:
    """Whether there is anything to draw."""
    return any("speedup" in o for r in rows_of(document, "synthetic").values() for o in r["stream"])


def plot(document: Document) -> bytes | None:
    """Speed-up against the share of changed pixels, and efficiency against A/D, as PNG; None without data."""
    if not has_speedups(document):
        return None
    rows = rows_of(document, "synthetic")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.6), dpi=80)
    names = sorted({r["model"] for r in rows.values()})
    colours = {n: pyplot.get_cmap("tab10")(i % 10) for i, n in enumerate(names)}
    for row in rows.values():
        large = row["size"][0] > 500
        style = {"color": colours[row["model"]], "linestyle": "-" if large else ":", "linewidth": 1.2}
        points = [o for o in row["stream"] if o.get("changed") and "speedup" in o]
        left.plot([100 * o["changed"] for o in points], [o["speedup"] for o in points], marker=".", **style)
        points = [o for o in points if o["scheduled_share"] > 0]
        right.plot(
            [100 * o["scheduled_share"] for o in points],
            [o["efficiency"] for o in points],
            marker=".",
            **style,
        )
    left.set(
        xscale="log",
        yscale="log",
        xlabel="pixels that change, %",
        ylabel="speed-up over the best dense runtime",
    )
    right.set(xscale="log", xlabel="A/D, %", ylabel="efficiency")
    for axes in (left, right):
        finish_axes(axes)
    handles = [Line2D([], [], color=colours[n], label=n) for n in names]
    handles.append(Line2D([], [], color="grey", linestyle=":", label="small"))
    handles.append(Line2D([], [], color="grey", linestyle="-", label="large"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    pyplot.close(figure)
    return png(figure)


def render(document: Document, folder: Path, page: Path) -> list[Path]:
    """Write ``cpu.md`` and ``cpu.png`` beside the JSON and fill the marks of the page; what was written."""
    parts = sections(document)
    text = "\n".join(
        [
            "# CPU benchmark: all figures\n",
            "Written by benchmarks/cpu.py from cpu.json. Times are medians over all frames of all rounds.\n",
            parts["machine"],
            parts["goals"],
            "## Fixed cost\n",
            parts["fixed"],
            "## Layers\n",
            layers_table(document, 1000),
            "## Frames\n",
            details(document),
            "## Not measured\n",
            parts["missing"],
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "cpu.md", text)
    written = [folder / "cpu.md"]
    picture = plot(document)
    if picture is not None:
        assert len(picture) < PLOT_BYTES, f"the plot has {len(picture)} bytes"
        write_picture(folder / "cpu.png", picture)
        written.append(folder / "cpu.png")
    if page.is_file():
        write_text(page, fill(page.read_text(encoding="utf-8"), "cpu", parts))
        written.append(page)
    return written
