"""Single 8-bit convolutions: the native kernel in a stream against oneDNN's, as PyTorch calls it.

    python benchmarks/int8_layers.py

Typical layers of resnet50, hrnet_w18, mobilenet_v2 and YOLOX-Nano, each with ReLU and its result in 8 bits
again:

- ``onednn_ms``: ``torch.ops.onednn.qconv_pointwise`` on prepacked weights, u8 × s8 → u8, channels last, less
  what the operator takes for 16 channels of one pixel, so that PyTorch's share of a call is left out;
- ``ms``: the layer inside a stream of this one layer in QDQ form, by the plan's own clock, with every pixel
  changed. Comparing results with the old ones, storing them and the mask of what changed are in it; the test
  and the rounding of the frame are not, as in a network they are shared by all layers;
- ``ratio``: onednn_ms / ms.

Both get the same values and must agree to one step of 8 bits, in turn, frame by frame; times are medians, and
``least`` holds the least ones. Weights and inputs are random. Results go to
``benchmarks/results/int8-layers.json``, the table to ``docs/cpu.md``.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cpu_layers import Shape
from benchmarks.cpu_render import run_line
from benchmarks.pages import fill
from benchmarks.store import Store
from videoeff import convert
from videoeff.bench.machine import describe
from videoeff.kernels.cpp.plan import NativePlan
from videoeff.ops import quantize  # registers the operators of QDQ
from videoeff.serialize.files import write_text

ROOT = Path(__file__).resolve().parents[1]
PART = "int8-layers"
PAIRS = torch.ops.quantized_decomposed
assert quantize.TO_CODES

#: Goals: the mean by multiply-accumulates, and the worst.
GOALS = (0.8, 0.5)

#: A median over so many times the least time is of a machine that was busy with something else.
DISTURBED = 1.5


def _shape(inputs: int, outputs: int, kernel: int, size: tuple[int, int], stride: int = 1) -> Shape:
    """A convolution that keeps the size but for its stride; ``outputs`` 0: depthwise."""
    groups, outputs = (1, outputs) if outputs else (inputs, inputs)
    edge, step, rim = (kernel, kernel), (stride, stride), (kernel // 2, kernel // 2)
    return Shape(inputs, outputs, edge, step, rim, (1, 1), groups, *size)


#: Layers by network, at 360×480 and 352×480.
LAYERS: Mapping[str, tuple[Shape, ...]] = {
    "resnet50": (
        _shape(3, 64, 7, (360, 480), 2),
        _shape(64, 64, 3, (90, 120)),
        _shape(64, 256, 1, (90, 120)),
        _shape(128, 128, 3, (90, 120), 2),
        _shape(512, 128, 1, (45, 60)),
        _shape(256, 256, 3, (23, 30)),
        _shape(512, 1024, 1, (45, 60), 2),
        _shape(512, 512, 3, (12, 15)),
        _shape(1024, 2048, 1, (23, 30), 2),
    ),
    "hrnet_w18": (
        _shape(18, 18, 3, (88, 120)),
        _shape(36, 36, 3, (44, 60)),
        _shape(144, 144, 3, (11, 15)),
    ),
    "mobilenet_v2": (
        _shape(16, 96, 1, (180, 240)),
        _shape(96, 0, 3, (180, 240), 2),
        _shape(144, 0, 3, (90, 120)),
        _shape(144, 24, 1, (90, 120)),
    ),
    "yolox_nano": (
        _shape(64, 0, 3, (44, 60)),
        _shape(64, 64, 1, (44, 60)),
    ),
}

#: What is timed for PyTorch's share of a call.
PIXEL = _shape(16, 16, 1, (1, 1))


class Rounded(nn.Module):
    """Values as u8 numbers and back.

    Args:
        scale: of a step; number 0 stands for 0.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale, self.how = scale, (scale, 0, 0, 255, torch.uint8)

    def forward(self, x: Tensor) -> Tensor:
        """The values that the numbers stand for."""
        found: Tensor = PAIRS.dequantize_per_tensor(PAIRS.quantize_per_tensor(x, *self.how), *self.how)
        return found


class Layer(nn.Module):
    """A convolution in QDQ form, with ReLU.

    Args:
        shape: the convolution.
        codes: its weights, s8 (O, I/groups, kh, kw).
        scales: what a step of them is worth, (O).
        bias: (O).
        steps: of the input and of the result.
    """

    def __init__(
        self, shape: Shape, codes: Tensor, scales: Tensor, bias: Tensor, steps: tuple[float, float]
    ) -> None:
        super().__init__()
        self.shape = shape
        self.codes: Tensor
        self.scales: Tensor
        self.zeros: Tensor
        self.bias: Tensor
        self.before, self.after = Rounded(steps[0]), Rounded(steps[1])
        for name, value in (("codes", codes), ("scales", scales), ("bias", bias)):
            self.register_buffer(name, value)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of values."""
        s = self.shape
        weight = PAIRS.dequantize_per_channel(self.codes, self.scales, self.zeros, 0, -127, 127, torch.int8)
        value = torch.conv2d(self.before(x), weight, self.bias, s.stride, s.padding, s.dilation, s.groups)
        found: Tensor = self.after(value.relu())
        return found


class Dense:
    """oneDNN's 8-bit convolution of a layer, as PyTorch calls it."""

    def __init__(self, layer: Layer) -> None:
        s, step, self._step = layer.shape, layer.before.scale, layer.after.scale
        self._how = (list(s.stride), list(s.padding), list(s.dilation), s.groups)
        codes, self._scales, self._bias = layer.codes, layer.scales, layer.bias
        self._packed = torch.ops.onednn.qconv_prepack(
            codes, self._scales, step, 0, *self._how, [1, s.inputs, s.height, s.width]
        )
        self._given, self._zeros = step, torch.zeros(s.outputs, dtype=torch.int32)

    def __call__(self, numbers: Tensor) -> Tensor:
        """The result's numbers, u8 (B, O, H, W), of the input's, u8 (B, C, H, W)."""
        found: Tensor = torch.ops.onednn.qconv_pointwise(
            numbers, self._given, 0, self._packed, self._scales, self._zeros, self._bias, *self._how,
            self._step, 0, torch.uint8, "relu", [], "",
        )  # fmt: skip
        return found


def measure(shape: Shape, rounds: int) -> dict[str, Any]:
    """One layer.

    Raises:
        RuntimeError: the two disagree, or the layer is no single native op of a stream.
    """
    layer = _layer(shape)
    given_step, step = layer.before.scale, layer.after.scale
    numbers = [_numbers(shape, seed) for seed in (1, 2)]
    numbers[1] = torch.where(numbers[1] == numbers[0], 255 - numbers[0], numbers[1])
    frames = [n.float() * given_step for n in numbers]
    dense, call, pixel = Dense(layer), Dense(_layer(PIXEL)), _numbers(PIXEL, 0)
    given = numbers[0].clone(memory_format=torch.preserve_format)
    with torch.inference_mode():
        stream = convert(layer, frames[0], alias_outputs=True)
        plan, name = _op_of(stream)
        times: dict[str, list[float]] = {"onednn": [], "call": [], "ours": []}
        off = 0.0
        for number in range(rounds + 4):
            given.copy_(numbers[number % 2])  # as the layer before would write it
            begin = time.perf_counter_ns()
            expected = dense(given)
            middle = time.perf_counter_ns()
            call(pixel)
            times["onednn"].append(middle - begin)
            times["call"].append(time.perf_counter_ns() - middle)
            plan.times(reset=True)
            found = stream(frames[number % 2])
            times["ours"].append(plan.times()[name])
            if number < 4:
                off = max(off, float((found / step - expected.float()).abs().max()))
    if off > 1.01:
        raise RuntimeError(f"{shape}: off from oneDNN by {off:.1f} steps of 8 bits")
    late = {key: [1e-6 * t for t in kept[4:]] for key, kept in times.items()}
    median = {key: statistics.median(kept) for key, kept in late.items()}
    least = {key: min(kept) for key, kept in late.items()}
    return {
        "macs": shape.macs,
        "onednn_ms": median["onednn"] - median["call"],
        "call_ms": median["call"],
        "ms": median["ours"],
        "ratio": (median["onednn"] - median["call"]) / median["ours"],
        "least": {
            "onednn_ms": least["onednn"] - least["call"],
            "ms": least["ours"],
            "ratio": (least["onednn"] - least["call"]) / least["ours"],
        },
        "rounds": rounds,
        "steps_off": off,
    }


def _layer(shape: Shape) -> Layer:
    """A layer of random weights."""
    torch.manual_seed(0)
    fan = shape.inputs // shape.groups * shape.kernel[0] * shape.kernel[1]
    codes = torch.randint(-127, 128, (shape.outputs, shape.inputs // shape.groups, *shape.kernel))
    scales = torch.linspace(0.5, 1.5, shape.outputs) / 127
    # of sums of so many products three deviations fill the numbers
    steps = (1 / 255, 3 * (fan / 9) ** 0.5 / 255)
    return Layer(shape, codes.to(torch.int8), scales, torch.randn(shape.outputs) / 10, steps).eval()


def _numbers(shape: Shape, seed: int) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    size = (1, shape.inputs, shape.height, shape.width)
    found = torch.randint(0, 256, size, dtype=torch.uint8, generator=made)
    return found.contiguous(memory_format=torch.channels_last)


def _op_of(stream: Any) -> tuple[NativePlan, str]:
    """The plan and the name of its one convolution of 8-bit numbers."""
    plans = [g for e in stream.engines.values() for g in e.plan.groups if isinstance(g, NativePlan)]
    found = [(plan, call.name) for plan in plans for call in plan.calls if call.macs]
    if len(found) != 1:
        raise RuntimeError(f"the stream has {len(found)} native convolutions, wanted is one")
    return found[0]


def keep_memory() -> None:
    """Let glibc keep what is freed: a result of oneDNN's is allocated anew, ours is not."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


# ---------------------------------------------------------------- tables


def summary(rows: Mapping[str, Mapping[str, Any]], least: bool = False) -> tuple[float, float, str]:
    """The mean ratio by multiply-accumulates, the worst ratio and its layer."""
    ratios = {key: (row["least"] if least else row)["ratio"] for key, row in rows.items()}
    weight = sum(row["macs"] for row in rows.values())
    mean = sum(rows[key]["macs"] * ratio for key, ratio in ratios.items()) / weight
    worst = min(ratios, key=lambda key: ratios[key])
    return mean, ratios[worst], worst


def render(document: Mapping[str, Any]) -> dict[str, str]:
    """The parts of the page by name."""
    rows = document["sections"].get(PART, {})
    head = ("layer", "M MACs", "oneDNN int8, ms", "videoeff int8, ms", "speed", "of least times")
    lines = [_line(head), _line(["---"] * len(head))]
    for key, row in rows.items():
        least = row["least"]["ratio"]
        cells = (f"{row['onednn_ms']:.3f}", f"{row['ms']:.3f}", f"**{row['ratio']:.2f}**", f"{least:.2f}")
        lines.append(_line([key, f"{1e-6 * row['macs']:.0f}", *cells]))
    mean, worst, where = summary(rows)
    least_mean, least_worst, least_where = summary(rows, least=True)
    goals = (
        f"Mean by multiply-accumulates {mean:.2f} (goal {GOALS[0]}), worst {worst:.2f} (goal {GOALS[1]}; "
        f"{where}). Of the least times: {least_mean:.2f} and {least_worst:.2f} ({least_where})."
    )
    if busy := sum(_disturbed(row) for row in rows.values()):
        goals += (
            f" **The machine was busy in this run**: of {busy} of {len(rows)} layers a median "
            f"is over {DISTURBED} times the least time and says nothing; go by the least times."
        )
    return {"table": "\n".join(lines), "goals": goals, "command": run_line(document["runs"][-1])}


def _disturbed(row: Mapping[str, Any]) -> bool:
    """Whether one of the two was held up in most rounds."""
    return any(row[side] > DISTURBED * row["least"][side] for side in ("onednn_ms", "ms"))


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60, help="frames of each layer")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / f"{PART}.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "cpu.md")
    parser.add_argument("--render", action="store_true", help="write the table only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    store = Store(options.json, again=True)
    if not options.render:
        command = f"python benchmarks/int8_layers.py --threads {options.threads} --rounds {options.rounds}"
        store.document["runs"], store.document["sections"] = [], {}  # all layers of one run
        store.started(command, describe(options.threads), {"rounds": options.rounds})
        for network, shapes in LAYERS.items():
            for shape in shapes:
                row = measure(shape, options.rounds)
                print(f"{network} {shape}: {row['ratio']:.2f}", file=sys.stderr, flush=True)
                store.put(PART, f"{network}: {shape}", row)
    page = options.page.read_text(encoding="utf-8")
    write_text(options.page, fill(page, PART, render(store.document)))


if __name__ == "__main__":
    main()
