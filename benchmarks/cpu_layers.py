"""Single convolutions: the native kernel against oneDNN, over every distinct shape of the benchmark's models.

    python benchmarks/cpu_layers.py --budget 300 --sizes 360x480 --models resnet50

For each shape, on one map:

- ``dense_ms``: oneDNN's convolution as PyTorch calls it, channels last, the better of plain and prepacked
  weights;
- ``ms``: the native kernel with every pixel active, change test and store included;
- ``ratio``: dense_ms / ms;
- ``per_pixel``: for 1, 2, 5 and 10 % of the input pixels changed in blobs, the time per active output pixel
  over the kernel's own time per pixel with all of them active, both by the plan's own clock; ``empty_us`` is
  the time with none.

Weights and inputs are random; what is active gets new input before every run, as the layer before would write
it, so that every computed pixel is stored.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import suite
from benchmarks.store import Store
from videoeff.bench.clips import BlobClip
from videoeff.bench.figures import geometric_mean
from videoeff.bench.machine import describe
from videoeff.bench.network import network

ACTIVE = (0.01, 0.02, 0.05, 0.10)
FEWEST_PIXELS = 400  # on smaller maps 1 % is no blob
FEWEST_ACTIVE = 48  # with fewer active pixels the fixed cost of a call is what shows; left out of the summary


Timed = tuple[Callable[[int], None], Callable[[], int | None]]


@dataclass(frozen=True, order=True)
class Shape:
    """A convolution without batch: channels, kernel, stride, padding, dilation (rows, columns), input map."""

    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    height: int
    width: int

    @property
    def result(self) -> tuple[int, int]:
        """Height and width of the output."""
        sides = zip(
            (self.height, self.width), self.kernel, self.stride, self.padding, self.dilation, strict=True
        )
        rows, columns = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides)
        return rows, columns

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        rows, columns = self.result
        return rows * columns * self.outputs * self.inputs // self.groups * self.kernel[0] * self.kernel[1]

    def __str__(self) -> str:
        kind = f"{self.kernel[0]}x{self.kernel[1]}"
        if self.stride != (1, 1):
            kind += f"/{self.stride[0]}"
        if self.dilation != (1, 1):
            kind += f" dilated {self.dilation[0]}"
        if self.groups > 1:
            kind += " depthwise" if self.groups == self.inputs else f" in {self.groups} groups"
        return f"{kind} {self.inputs}->{self.outputs} on {self.height}x{self.width}"


def _pair(value: Sequence[int]) -> tuple[int, int]:
    """Rows and columns; one number is both."""
    return value[0], value[-1]


class Convolutions(TorchDispatchMode):
    """Collects the shapes of the convolutions that run inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch
        self.found: set[Shape] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at one call."""
        if function is torch.ops.aten.convolution.default and not args[6]:  # not transposed
            picture, weight, _, stride, padding, dilation, _, _, groups = args
            _, inputs, height, width = picture.shape
            kernel, steps = _pair(weight.shape[2:]), (_pair(stride), _pair(padding), _pair(dilation))
            self.found.add(Shape(inputs, weight.shape[0], kernel, *steps, groups, height, width))
        return function(*args, **(kwargs or {}))


def shapes(
    models: Iterable[Any], sizes: Sequence[tuple[int, int]], note: Callable[[str], None]
) -> set[Shape]:
    """Every distinct convolution of some models at some sizes."""
    found: set[Shape] = set()
    for model in models:
        exported = model.reference.endswith(".pt2")
        device = "cpu" if exported else "meta"
        if exported and not Path(model.reference).is_file():
            note(f"{model.name}: its file is not there; its layers are left out")
            continue
        with torch.device(device):
            made = torch.export.load(model.reference).module() if exported else network(model.reference)
        for size in sizes:
            with torch.no_grad(), Convolutions() as seen:
                made(torch.rand(1, 3, *model.fit(size), device=device))
            found |= seen.found
    return found


# ---------------------------------------------------------------- the two sides


class Dense:
    """oneDNN, as PyTorch calls it."""

    def __init__(self, shape: Shape, weight: Tensor, bias: Tensor) -> None:
        self.shape, self.bias = shape, bias
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.packed: Tensor | None = None
        size = [1, shape.inputs, shape.height, shape.width]
        options = (list(shape.padding), list(shape.stride), list(shape.dilation), shape.groups)
        try:
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(weight.to_mkldnn(), *options, size)
        except RuntimeError:  # a PyTorch without it
            self.packed = None

    def plain(self, x: Tensor) -> Tensor:
        """Weights as they are."""
        s = self.shape
        return torch.conv2d(x, self.weight, self.bias, s.stride, s.padding, s.dilation, s.groups)

    def prepacked(self, x: Tensor) -> Tensor:
        """Weights in oneDNN's own order."""
        s = self.shape
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.packed, self.bias, s.padding, s.stride, s.dilation, s.groups, "none", [], ""
        )
        return found

    def ways(self) -> list[Callable[[Tensor], Tensor]]:
        """Those there are."""
        return [self.plain] if self.packed is None else [self.plain, self.prepacked]


class Native:
    """A native plan of this one convolution, whose input mask is told.

    Args:
        shape: the convolution.
        weight: (O, I/groups, kh, kw).
        bias: (O).
        picture: its input, channels last, kept and written by the caller.
    """

    def __init__(self, shape: Shape, weight: Tensor, bias: Tensor, picture: Tensor) -> None:
        from videoeff.kernels.cpp import abi, library, winograd
        from videoeff.kernels.region_spec.producers import Window

        self._library = library.load()
        rows, columns = shape.result
        self.out = torch.zeros(1, shape.outputs, rows, columns).contiguous(memory_format=torch.channels_last)
        self._keep = [weight.contiguous(), bias, picture]
        self._streams = (ctypes.c_int32 * 1)(0)
        op = abi.Op()
        op.kind, op.dtype, op.mask = abi.Kind.CONV, abi.Dtype.F32, 1
        op.out, op.in_ = self._view(abi, self.out), self._view(abi, picture)
        (op.kh, op.kw), (op.sy, op.sx) = shape.kernel, shape.stride
        (op.py, op.px), (op.dy, op.dx) = shape.padding, shape.dilation
        op.groups, op.nreach, op.test, op.dense_share = shape.groups, 1, abi.ChangeTest.MAX, 2.0
        window = Window(shape.kernel, shape.stride, shape.padding, shape.dilation)
        channels, size = (shape.inputs, shape.outputs), (shape.height, shape.width)
        op.winograd = int(winograd.pays(channels, window, shape.groups, size, shape.result))
        op.weight, op.bias = self._keep[0].data_ptr(), bias.data_ptr()
        op.width[0] = shape.outputs
        op.reach[0] = abi.Reach(0, abi.ReachKind.WINDOW)
        op.streams = ctypes.cast(self._streams, ctypes.c_void_p)
        masks = (abi.Mask * 2)(abi.Mask(1, shape.height, shape.width, 0), abi.Mask(1, rows, columns, 0))
        error = ctypes.create_string_buffer(400)
        handle = self._library.vf_plan_create((abi.Op * 1)(op), 1, masks, 2, -1, error, 400)
        if not handle:
            raise RuntimeError(error.value.decode())
        self._handle = handle
        self._frames = (abi.Frame * 1)()
        self._fresh = (ctypes.c_uint8 * 1)(1)
        self._threads = torch.get_num_threads()
        self.run(0)
        self._fresh[0] = 0

    @staticmethod
    def _view(abi: Any, x: Tensor) -> Any:
        _, channels, height, width = x.shape
        return abi.View(
            x.data_ptr(),
            x.numel(),
            x.numel(),
            width * channels,
            channels,
            1,
            1,
            height,
            width,
            channels,
            0,
            0,
        )

    def tell(self, mask: Tensor) -> None:
        """Which input pixels changed, bool (H, W)."""
        self._library.vf_mask_write(self._handle, 0, mask.contiguous().data_ptr())

    def run(self, count: int = 1) -> None:
        """One frame."""
        answer = self._library.vf_plan_run(
            self._handle, self._frames, 0, self._fresh, 1, self._threads, count
        )
        if answer:
            raise RuntimeError(f"the native plan stopped with code {answer}")

    def run_timed(self) -> int:
        """One frame; the time of the convolution alone, in ns, as the plan's own clock has it."""
        self._library.vf_plan_times(self._handle, 1)
        self.run()
        return int(self._library.vf_plan_times(self._handle, 0)[0])

    def active(self) -> int:
        """Pixels computed since this was asked last."""
        counts = self._library.vf_plan_counts(self._handle)
        found, counts[0], counts[1] = int(counts[0]), 0, 0
        return found

    def close(self) -> None:
        """Free it."""
        self._library.vf_plan_destroy(self._handle)


# ---------------------------------------------------------------- timing


def timed(calls: Sequence[Timed], seconds: float) -> list[float]:
    """Median ms of each call, interleaved; 4 to 15 rounds, of which the first does not count.

    Args:
        calls: (what to set up for a round, what to time: it may return its own time in ns).
        seconds: to spend.
    """
    times: list[list[float]] = [[] for _ in calls]
    deadline = time.perf_counter() + seconds
    number = 0
    while number < 4 or (number < 15 and time.perf_counter() < deadline):
        for (setup, call), kept in zip(calls, times, strict=True):
            setup(number)
            begin = time.perf_counter_ns()
            own = call()
            kept.append(1e-6 * (own if isinstance(own, int) else time.perf_counter_ns() - begin))
        number += 1
    return [statistics.median(k[1:]) for k in times]


class Source:
    """The input, written anew before every call as the layer before would: only what the mask says."""

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        size = (1, shape.inputs, shape.height, shape.width)

        def noise() -> Tensor:
            return torch.randn(size, generator=generator).contiguous(memory_format=torch.channels_last)

        self.pictures = [noise(), noise()]
        self.picture = self.pictures[0].clone(memory_format=torch.preserve_format)
        self._pixels = self.picture.permute(0, 2, 3, 1).view(-1, shape.inputs)
        self._others = [p.permute(0, 2, 3, 1).view(-1, shape.inputs) for p in self.pictures]

    def whole(self, number: int) -> None:
        """Every pixel."""
        self.picture.copy_(self.pictures[number % 2])

    def where(self, index: Tensor) -> Callable[[int], None]:
        """The pixels of an index; the values of a round differ from those of the one before."""
        values = [p[index] for p in self._others]
        return lambda number: void(self._pixels.index_copy_(0, index, values[number % 2]))


def void(_: Any) -> None:
    """Nothing, of something."""


def measure(shape: Shape, seconds: float) -> dict[str, Any]:
    """One shape."""
    generator = torch.Generator().manual_seed(0)
    fan = shape.inputs // shape.groups * shape.kernel[0] * shape.kernel[1]
    weight = torch.randn(shape.outputs, shape.inputs // shape.groups, *shape.kernel, generator=generator)
    weight /= fan**0.5
    bias = torch.randn(shape.outputs, generator=generator)
    source = Source(shape, generator)
    dense, native = Dense(shape, weight, bias), Native(shape, weight, bias, source.picture)
    everything = torch.ones(shape.height, shape.width, dtype=torch.bool)

    def native_whole(number: int) -> None:
        native.tell(everything)
        source.whole(number)

    def dense_call(way: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        return lambda: void(way(source.picture))

    try:
        with torch.inference_mode():
            native_whole(1)
            native.run()
            error = float((native.out - dense.plain(source.picture)).abs().max() / native.out.abs().max())
            if not error < 1e-4:
                raise RuntimeError(f"differs from oneDNN by {error:.2g} of the largest magnitude")
            calls: list[Timed] = [(native_whole, native.run)]
            calls += [(source.whole, dense_call(w)) for w in dense.ways()]
            ours, *others = timed(calls, seconds)
            row: dict[str, Any] = {
                "shape": asdict(shape),
                "macs": shape.macs,
                "ms": ours,
                "plain_ms": others[0],
                "prepacked_ms": others[1] if len(others) > 1 else None,
                "dense_ms": min(others),
                "ratio": min(others) / ours,
                "error": error,
            }
            if big_enough(shape):
                row |= partly(shape, native, source, native_whole, seconds)
        return row
    finally:
        native.close()


def big_enough(shape: Shape) -> bool:
    """Whether 1 % of the output is a blob."""
    rows, columns = shape.result
    return rows * columns >= FEWEST_PIXELS


def blobs(shape: Shape, share: float) -> Tensor:
    """A mask of the input with a share of its pixels in blobs."""
    clip = BlobClip((shape.height, shape.width), share, channels=1)
    clip.next(), clip.next()
    return torch.from_numpy(clip.changed)


def partly(
    shape: Shape, native: Native, source: Source, whole: Callable[[int], None], seconds: float
) -> dict[str, Any]:
    """Times with some of the pixels active, beside the kernel's own with all of them, by the plan's clock."""
    rows, columns = shape.result
    names, pixels, calls = [], {}, []
    nothing = torch.zeros(shape.height, shape.width, dtype=torch.bool)
    masks = {"nothing": nothing, **{f"{share:g}": blobs(shape, share) for share in ACTIVE}}
    for name, mask in masks.items():
        write = source.where(mask.flatten().nonzero().flatten())

        def setup(number: int, mask: Tensor = mask, write: Callable[[int], None] = write) -> None:
            native.tell(mask)
            write(number)

        setup(0)
        native.active()
        native.run()
        pixels[name] = native.active()
        names.append(name)
        calls.append((setup, native.run_timed))
    every, empty, *found = timed([(whole, native.run_timed), *calls], seconds)
    own = every / (rows * columns)
    part = {
        name: {
            "active": pixels[name] / (rows * columns),
            "pixels": pixels[name],
            "ms": ms,
            "relative": ms / pixels[name] / own,
        }
        for name, ms in zip(names[1:], found, strict=True)
    }
    return {"empty_us": 1e3 * empty, "per_pixel": part}


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures of the table of goals, maps and single pixels apart."""
    good = {k: r for k, r in rows.items() if "ratio" in r}
    maps = {k: r for k, r in good.items() if r["shape"]["height"] * r["shape"]["width"] > 1}
    found: dict[str, Any] = {"shapes": len(rows), "failed": len(rows) - len(good)}
    if maps:
        worst = min(maps, key=lambda k: maps[k]["ratio"])
        found["geometric_mean"] = geometric_mean(
            [r["ratio"] for r in maps.values()], [r["macs"] for r in maps.values()]
        )
        found["worst"], found["worst_shape"] = maps[worst]["ratio"], worst
    for share in ACTIVE:
        parts = {k: r["per_pixel"][f"{share:g}"] for k, r in maps.items() if "per_pixel" in r}
        values = {k: p["relative"] for k, p in parts.items() if p["pixels"] >= FEWEST_ACTIVE}
        if values:
            weights = [maps[k]["macs"] for k in values]
            slowest = max(values, key=lambda k: values[k])
            found[f"per_pixel_{share:g}"] = {
                "geometric_mean": geometric_mean(list(values.values()), weights),
                "median": statistics.median(values.values()),
                "within_1.3": sum(v <= 1.3 for v in values.values()) / len(values),
                "worst": values[slowest],
                "worst_shape": slowest,
            }
    return found


def run(
    store: Store,
    run_number: int,
    threads: int,
    sizes: Sequence[tuple[int, int]],
    models: Sequence[str],
    budget: float,
    note: Callable[[str], None],
    data: Path | None = None,
) -> int:
    """Measure shapes that are not known yet, until the budget is spent; how many failed or were left out."""
    torch.set_num_threads(threads)
    choice = suite.Choice(tuple(models), data=data, parts=("synthetic",), sizes=((1, 1),))
    chosen = [t.model for t in suite.tasks(choice)]
    wanted = sorted(shapes(chosen, sizes, note), key=lambda s: s.macs)
    left = [s for s in wanted if not store.known("layers", str(s))]
    note(f"layers: {len(wanted)} shapes, {len(left)} to measure")
    deadline, bad = time.monotonic() + budget, 0
    for number, shape in enumerate(left):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            note(f"layers: the budget is spent; {len(left) - number} shape(s) left out")
            bad += len(left) - number
            break
        try:
            row = measure(shape, min(0.5, remaining / (len(left) - number) / 4))
        except RuntimeError as error:
            row, bad = {"failed": str(error).splitlines()[0]}, bad + 1
            note(f"layers: {shape}: {row['failed']}")
        store.add("layers", str(shape), row | {"run": run_number, "threads": threads})
        if number % 50 == 49:
            store.write()
    store.put("summaries", "layers", summary(store.section("layers")) | {"threads": threads})
    return bad


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=[], choices=[m.name for m in suite.MODELS])
    parser.add_argument("--sizes", nargs="+", default=["360x480", "720x1280"], metavar="HxW")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=300.0)
    parser.add_argument("--data", type=Path, default=None, help="folder of the trained detector")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    store = Store(options.json, options.again)
    number = store.started("python benchmarks/cpu_layers.py", describe(options.threads), {})
    sizes = [(int(h), int(w)) for h, _, w in (s.partition("x") for s in options.sizes)]

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    bad = run(store, number, options.threads, sizes, options.models, options.budget, note, options.data)
    for key, row in store.section("layers").items():
        if "ratio" in row:
            near = " ".join(f"{k}:{v['relative']:.2f}" for k, v in row.get("per_pixel", {}).items())
            print(
                f"{row['ratio']:6.2f}  {row['dense_ms']:8.3f} ms  {row['macs'] / 1e6:9.1f} M  {key}  {near}"
            )
    for name, value in store.section("summaries")["layers"].items():
        print(f"{name}: {value}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
