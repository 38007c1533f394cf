"""Cameras on a few threads: what a fleet costs beside the calls of its streams, and how it shares the time.

    python benchmarks/fleet.py --data FOLDER

YOLOX-Nano at 352×480 (τ = 0.1, the frame tested at 4 grey levels) over real clips; the folder holds those of
``benchmarks/detectors.py``. Three parts, each in a process of its own:

- ``overhead``: campus at its own rate and as fast as it goes, by a fleet of one camera and by a loop of four
  lines over the same source: take, preprocess, stream. In turns; medians. A picture's time is from its
  decoding to the moment the outputs are handed out.
- ``sixteen``: sixteen cameras, four clips in turn, as fast as they go and none dropped, against each clip
  alone by that loop with all threads; then at their own rates with "latest", where what comes too late is
  dropped.
- ``memory``: what the process grows by with these sixteen cameras, with their sources alone, and the sum of
  the states.

Results go to ``benchmarks/results/fleet.json``, the tables to ``docs/cameras.md``.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.cpu_render import run_line
from benchmarks.detectors_data import CLIPS, missing
from benchmarks.pages import fill
from benchmarks.store import Store, read
from videoeff import Fleet, convert
from videoeff.bench.machine import describe
from videoeff.calibration.feed import feed_of
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.serialize.files import write_text
from videoeff.video.live import Source, open_source
from videoeff.video.preprocess import Preprocess

ROOT = Path(__file__).resolve().parents[1]
MARK = "fleet"
PARTS = ("overhead", "sixteen", "memory")
SIZE = (352, 480)
THRESHOLD = 0.1
INPUT_THRESHOLD = 0.0625
CAMERAS = 16
ROUNDS = 4

#: What the troubles of ``benchmarks/soak.py`` are called.
NAMES = {
    "cut": "cut connections",
    "stall": "stalls",
    "damage": "seconds of damaged packets",
    "size": "changes of size",
    "kill": "kills of the server",
}

#: Goals: overhead at p50; frames of sixteen cameras over those of one; memory over the sum of states.
GOALS = {"overhead": 0.05, "throughput": 0.9, "memory": 1.1}


def network(data: Path) -> StreamingModule:
    """The stream that all cameras have a twin of."""
    pre = Preprocess(SIZE, 1.0, bgr=True, resize="torch-bilinear-antialias-uint8")
    exported = torch.export.load(data / "yolox_nano.pt2")
    stream = convert(exported, torch.zeros(1, 3, *SIZE), threshold=THRESHOLD, input_threshold=INPUT_THRESHOLD)
    stream.extra["preprocess"] = pre.to_json()
    return stream


def clip_of(data: Path, number: int) -> Path:
    """The clip of a camera: they take turns."""
    return data / list(CLIPS.values())[number % len(CLIPS)].file


# ---------------------------------------------------------------- overhead


def by_loop(stream: StreamingModule, source: Source) -> dict[str, list[float]]:
    """Times by a loop of one's own, in ms: from decoding to outputs, preprocessing, stream."""
    feed = feed_of(stream, "benchmark")
    times: dict[str, list[float]] = {"total": [], "preprocess": [], "stream": []}
    with source:
        for picture in source:
            begin = time.monotonic()
            args, kwargs = feed(picture.frame)
            middle = time.monotonic()
            stream(*args, **kwargs)
            end = time.monotonic()
            for key, (first, last) in {
                "total": (picture.arrived, end),
                "preprocess": (begin, middle),
                "stream": (middle, end),
            }.items():
                times[key].append((last - first) * 1e3)
    return times


def by_fleet(stream: StreamingModule, source: Source, threads: int) -> dict[str, list[float]]:
    """Times by a fleet of this camera alone, in ms."""
    times: dict[str, list[float]] = {"total": [], "waited": [], "ms": []}

    def note(output: Any) -> None:
        times["total"].append((time.monotonic() - output.picture.arrived) * 1e3)
        times["waited"].append(output.waited_ms)
        times["ms"].append(output.ms)

    with Fleet(stream, workers=threads) as fleet:
        fleet.add("campus", source, on_output=note)
        fleet.wait()
    return times


def overhead(data: Path, threads: int, frames: int) -> dict[str, Any]:
    """One camera by a fleet, and by a loop."""
    stream, clip = network(data), clip_of(data, 0)
    row: dict[str, Any] = {"frames": frames, "rounds": ROUNDS}
    for pace in (True, False):
        kept: dict[str, list[float]] = {}
        seconds = {"loop": 0.0, "fleet": 0.0}
        for turn in range(ROUNDS):
            for side in ("loop", "fleet") if turn % 2 == 0 else ("fleet", "loop"):
                source = open_source(clip, pace=pace, frames=frames)
                begin = time.perf_counter()
                found = (
                    by_loop(stream.twin(), source) if side == "loop" else by_fleet(stream, source, threads)
                )
                seconds[side] += time.perf_counter() - begin
                for key, values in found.items():
                    kept.setdefault(f"{side}_{key}", []).extend(values[3:])
        medians = {key: statistics.median(values) for key, values in kept.items()}
        row["paced" if pace else "free"] = medians | {
            f"{side}_fps": ROUNDS * frames / spent for side, spent in seconds.items()
        }
    return row


# ---------------------------------------------------------------- sixteen cameras


def alone(stream: StreamingModule, clip: Path, seconds: float) -> float:
    """Pictures a second of one clip by a loop with all threads, decoding in its own thread."""
    twin, feed, done = stream.twin(), feed_of(stream, "benchmark"), 0
    with open_source(clip, loop=True) as source:
        begin = time.perf_counter()
        for picture in source:
            args, kwargs = feed(picture.frame)
            twin(*args, **kwargs)
            done += 1
            if time.perf_counter() - begin > seconds:
                break
        return done / (time.perf_counter() - begin)


def together(
    stream: StreamingModule, data: Path, threads: int, seconds: float, cameras: int, pace: bool
) -> dict[str, Any]:
    """Cameras in a fleet for some seconds."""
    with Fleet(stream, workers=threads) as fleet:
        for number in range(cameras):
            fleet.add(
                f"cam{number:02}",
                clip_of(data, number),
                loop=True,
                pace=pace,
                policy="latest" if pace else "every",
            )
        while any(not fleet[name].status().frames for name in fleet):
            time.sleep(0.05)
        before = {c.name: c for c in fleet.status().cameras}
        begin = time.perf_counter()
        time.sleep(seconds)
        status = fleet.status()
        spent = time.perf_counter() - begin
    fps, late, rows = [], [], []
    for after in status.cameras:
        fps.append((after.frames - before[after.name].frames) / spent)
        late.append((after.late - before[after.name].late) / spent)
        rows.append(after.ms.p50 if after.ms else 0.0)
    return {"fps": fps, "late": late, "ms": rows, "busy": status.busy, "seconds": spent}


def sixteen(data: Path, threads: int, seconds: float, cameras: int) -> dict[str, Any]:
    """Sixteen cameras against each clip alone; the clips alone before and after."""
    stream = network(data)
    clips = list(dict.fromkeys(clip_of(data, i) for i in range(cameras)))
    singles: dict[str, list[float]] = {clip.name: [] for clip in clips}
    free = []
    for _ in range(2):
        for clip in clips:
            singles[clip.name].append(alone(stream, clip, seconds / 4))
        free.append(together(stream, data, threads, seconds, cameras, pace=False))
    single = {name: statistics.fmean(values) for name, values in singles.items()}
    return {
        "cameras": cameras,
        "single_fps": single,
        "free": free,
        "paced": together(stream, data, threads, seconds, cameras, pace=True),
    }


def throughput(row: Mapping[str, Any]) -> float:
    """Pictures of all cameras over those of one stream in the same time and the same mix of clips."""
    names = list(row["single_fps"])
    ratios = []
    for run in row["free"]:
        needed = sum(fps / row["single_fps"][names[i % len(names)]] for i, fps in enumerate(run["fps"]))
        ratios.append(needed)
    return statistics.fmean(ratios)


# ---------------------------------------------------------------- memory


def memory() -> int:
    """Bytes that the process holds."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) * 1024


def grown(data: Path, threads: int, seconds: float, cameras: int, computing: bool) -> dict[str, Any]:
    """What the process grows by with cameras, or with their sources alone."""
    stream = network(data)
    warm = stream.twin()
    feed = feed_of(stream, "benchmark")
    with open_source(clip_of(data, 0), frames=20) as source:
        for picture in source:
            args, kwargs = feed(picture.frame)
            warm(*args, **kwargs)
    before, state = memory(), 0
    if computing:
        with Fleet(stream, workers=threads) as fleet:
            for number in range(cameras):
                fleet.add(f"cam{number:02}", clip_of(data, number), loop=True, policy="every", queue=1)
            time.sleep(seconds)
            state = fleet.status().state_bytes
            return {"grown": memory() - before, "state": state}
    sources = [open_source(clip_of(data, n), loop=True, policy="every", queue=1) for n in range(cameras)]
    for source in sources:
        source.start()
    end = time.monotonic() + seconds
    kept: dict[int, Any] = {}  # as the last output keeps its picture
    while time.monotonic() < end:
        for number, source in enumerate(sources):
            if (newest := source.take(0.01)) is not None:
                kept[number] = (newest, feed(newest.frame))
    found = {"grown": memory() - before, "state": 0}
    for source in sources:
        source.close()
    return found


# ---------------------------------------------------------------- tables


def render(document: Mapping[str, Any]) -> dict[str, str]:
    """The parts of the page by name."""
    rows = document["sections"][MARK]
    parts = {"command": run_line(document["runs"][-1])}
    if "overhead" in rows:
        parts["overhead"] = _overhead_table(rows["overhead"])
    if "sixteen" in rows:
        parts["sixteen"] = _sixteen_table(rows["sixteen"])
    if "memory" in rows:
        parts["memory"] = _memory_line(rows["memory"])
    if "soak" in rows:
        parts["soak"] = _soak_text(rows["soak"])
    return parts


def _overhead_table(row: Mapping[str, Any]) -> str:
    lines = [
        "| campus | stream(frame) | preprocessing | loop, decoded to done | fleet, decoded to handed out "
        "| fleet over loop |",
        "|---|---|---|---|---|---|",
    ]
    for key, name in (("paced", "at 10 pictures a second"), ("free", "as fast as it goes")):
        m = row[key]
        ratio = (
            m["fleet_total"] / m["loop_total"] - 1 if key == "paced" else m["loop_fps"] / m["fleet_fps"] - 1
        )
        loop, fleet = (
            f"{m[f'{side}_total']:.2f} ms" if key == "paced" else f"{m[f'{side}_fps']:.0f} a second"
            for side in ("loop", "fleet")
        )
        lines.append(
            f"| {name} | {m['loop_stream']:.2f} ms | {m['loop_preprocess']:.2f} ms | {loop} | {fleet} "
            f"| **{100 * ratio:+.1f} %** |"
        )
    return "\n".join(lines)


def _sixteen_table(row: Mapping[str, Any]) -> str:
    names = list(row["single_fps"])
    lines = [
        "| clip | alone, all threads | each of its cameras, none dropped | each at its own rate | late |",
        "|---|---|---|---|---|",
    ]
    for index, name in enumerate(names):
        own = range(index, row["cameras"], len(names))
        free = statistics.fmean(run["fps"][i] for run in row["free"] for i in own)
        paced, late = (statistics.fmean(row["paced"][key][i] for i in own) for key in ("fps", "late"))
        lines.append(
            f"| {name} | {row['single_fps'][name]:.0f} a second | {free:.1f} | {paced:.1f} | {late:.1f} |"
        )
    least = min(min(run["fps"]) for run in row["free"])
    mean = statistics.fmean(statistics.fmean(run["fps"]) for run in row["free"])
    lines.append("")
    lines.append(
        f"All {row['cameras']} cameras together compute **{throughput(row):.2f}** times the pictures that "
        f"one stream with all threads would in the same mix (goal {GOALS['throughput']}). The slowest "
        f"camera has {least:.1f} pictures a second, the mean is {mean:.1f}."
    )
    return "\n".join(lines)


def _memory_line(row: Mapping[str, Any]) -> str:
    fleet, sources, state = (
        row[key][what] / 1e6 for key, what in (("fleet", "grown"), ("sources", "grown"), ("fleet", "state"))
    )
    return (
        f"With {row['cameras']} cameras the process grows by {fleet:.0f} MB: the sum of the states is "
        f"{state:.0f} MB, sources alone (decoders, pictures that wait) take {sources:.0f} MB. Without these "
        f"it is **{(fleet - sources) / state:.2f}** times the states (goal {GOALS['memory']})."
    )


def _soak_text(row: Mapping[str, Any]) -> str:
    faults = ", ".join(f"{count} {NAMES[name]}" for name, count in sorted(row["faults"].items()))
    grown = row["growth"]
    odd = f"{row['unaccounted_connections']} of them and {row['unaccounted']} of {row['decoded']} pictures"
    return (
        f"In {row['minutes']:g} minutes {row['cameras']} cameras met {faults}. **{row['live_again']} of "
        f"{row['cameras']}** were live at the end. {row['connections']} connections gave pictures, "
        f"{row['lost']} were lost and made again; {odd} are in no "
        f"count ({row['frames']} were computed, {row['late']} came too "
        f"late, {row['refused']} were refused). From the first quarter to the last the process grew by "
        f"{grown['memory'] / 1e6:+.1f} MB beside the states, {grown['threads']:+.0f} threads and "
        f"{grown['files']:+.0f} open files (`{row['command']}`)."
    )


# ---------------------------------------------------------------- main


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One part, in this process."""
    torch.set_num_threads(options.threads)
    if options.part == "overhead":
        return overhead(options.data, options.threads, options.frames)
    if options.part == "sixteen":
        return sixteen(options.data, options.threads, options.seconds, options.cameras)
    common = (options.data, options.threads, options.seconds, options.cameras)
    return grown(*common, computing=options.part == "memory-fleet")


def _apart(options: argparse.Namespace, part: str) -> dict[str, Any]:
    """One part in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "row.json"
        command = [sys.executable, __file__, "--data", str(options.data), "--part", part, "--json", str(path)]
        for key in ("threads", "frames", "seconds", "cameras"):
            command += [f"--{key}", str(getattr(options, key))]
        subprocess.run(command, check=True)
        found: dict[str, Any] = read(path)["sections"]["one"][part]
        return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=150, help="of each round of the overhead")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each run of sixteen cameras")
    parser.add_argument("--cameras", type=int, default=CAMERAS)
    parser.add_argument("--part", choices=(*PARTS, "memory-fleet", "memory-sources"))
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "fleet.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "cameras.md")
    parser.add_argument("--render", action="store_true", help="write the tables only")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    options = _options(arguments)
    if absent := missing(options.data, [*(c.file for c in CLIPS.values()), "yolox_nano.pt2"]):
        sys.exit(absent)
    one = options.part is not None
    store = Store(options.json, again=True)
    if one and not options.render:
        store.put("one", options.part, measure(options))
        return
    if not options.render:
        command = f"python benchmarks/fleet.py --data FOLDER --threads {options.threads}"
        store.document["runs"] = []
        settings = {key: getattr(options, key) for key in ("frames", "seconds", "cameras")}
        store.started(command, describe(options.threads), settings)
        store.put(MARK, "overhead", _apart(options, "overhead"))
        store.put(MARK, "sixteen", _apart(options, "sixteen"))
        row = {side: _apart(options, f"memory-{side}") for side in ("fleet", "sources")}
        store.put(MARK, "memory", row | {"cameras": options.cameras})
    page = options.page.read_text(encoding="utf-8")
    write_text(options.page, fill(page, MARK, render(store.document)))


if __name__ == "__main__":
    main()
