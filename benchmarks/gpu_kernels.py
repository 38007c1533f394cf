"""Single convolutions on a GPU, and a small network beside the reference before anything is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cpu_layers import Shape, shapes
from benchmarks.gpu_compile import Ahead, Compiler
from benchmarks.gpu_frames import DEVICE, error_of, reason_of
from benchmarks.store import Store
from videoeff.bench.clips import BlobClip
from videoeff.bench.figures import geometric_mean
from videoeff.bench.spec import Model
from videoeff.testing import TOLERANCES

Note = Callable[[str], None]


# ---------------------------------------------------------------- parity


class Small(nn.Module):
    """A kernel of every kind: stem, pooling, residual, depthwise, gate, resampling, concatenation, head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 7, 2, 3)
        self.a, self.b = nn.Conv2d(20, 20, 3, padding=1), nn.Conv2d(20, 20, 3, padding=2, dilation=2)
        self.wide, self.depth = nn.Conv2d(20, 72, 1), nn.Conv2d(72, 72, 5, 2, 2, groups=72)
        self.squeeze, self.excite = nn.Conv2d(72, 8, 1), nn.Conv2d(8, 72, 1)
        self.narrow = nn.Conv2d(72, 40, 1)
        self.group = nn.Conv2d(40, 40, 3, padding=1, groups=2)
        self.grow = nn.ConvTranspose2d(40, 24, 4, 2, 1)
        self.head = nn.Conv2d(44, 10, 1)
        self.fc = nn.Linear(40, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) to a map (B, 10, H/4, W/4) and scores (B, 10)."""
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        x = F.relu(self.b(F.relu(self.a(x))) + x)
        y = F.silu(self.depth(F.hardswish(self.wide(x))))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        y = self.group(self.narrow(y))
        up = F.interpolate(self.grow(y), size=x.shape[2:], mode="bilinear")
        return self.head(torch.cat([x, up], 1)).softmax(1), self.fc(y.mean((2, 3)))


def parity(dtype: torch.dtype, frames: int = 5) -> dict[str, Any]:
    """The CUDA backend beside the reference on the same device, value by value, at threshold 0."""
    import videoeff

    torch.manual_seed(0)
    model = Small().eval().requires_grad_(False).to(DEVICE, dtype).to(memory_format=torch.channels_last)
    clip = BlobClip((96, 128), 0.05)
    first = _pair(clip, dtype)
    ours = videoeff.convert(model, first, backend="auto")
    reference = videoeff.convert(model, first, backend="reference")
    worst, where = 0.0, ""
    for number in range(frames):
        frame = first if number == 0 else _pair(clip, dtype)
        ours(frame), reference(frame)
        expected = reference.values()
        for name, value in ours.values().items():
            error = error_of([value], [expected[name]])
            if error > worst:
                worst, where = error, f"{name}, frame {number + 1}"
    kernels = {i.kernel for e in ours.engines.values() for i in e.plan.instructions}
    limit = TOLERANCES[dtype].relative
    row = {"error": worst, "limit": limit, "where": where, "kernels": sorted(kernels)}
    if not worst <= limit:
        row["failed"] = f"differs from the reference by {worst:.2g} in {where}"
    elif kernels != {"triton"}:
        row["failed"] = f"not all of it runs on the CUDA backend: {', '.join(sorted(kernels))}"
    return row


def _pair(clip: BlobClip, dtype: torch.dtype) -> Tensor:
    picture = torch.from_numpy(clip.next()).to(DEVICE, dtype)
    return torch.stack([picture, picture.flip(2)]).contiguous(memory_format=torch.channels_last)


# ---------------------------------------------------------------- convolutions


def reference_of(shape: Shape) -> str:
    """The convolution as ``gpu_compile`` names it."""
    pairs = (shape.kernel, shape.stride, shape.padding, shape.dilation)
    middle = "/".join(",".join(str(n) for n in p) for p in pairs)
    return f"conv:{shape.inputs}/{shape.outputs}/{middle}/{shape.groups}"


def measure(shape: Shape, streams: int, dtype: torch.dtype) -> dict[str, Any]:
    """One convolution: the stream's kernel with everything listed, and cuDNN's, both as CUDA graphs."""
    import videoeff
    from videoeff.bench.cuda_kernels import Kernel, graph_ms, places

    torch.manual_seed(0)
    module = nn.Conv2d(
        shape.inputs, shape.outputs, shape.kernel, shape.stride, shape.padding, shape.dilation, shape.groups
    )
    module = module.eval().requires_grad_(False).to(DEVICE, dtype).to(memory_format=torch.channels_last)
    size = (streams, shape.inputs, shape.height, shape.width)
    x = torch.randn(size, device=DEVICE, dtype=dtype).contiguous(memory_format=torch.channels_last)
    stream = videoeff.convert(module, x, backend="triton")
    found, expected = stream(x), module(x)
    error = error_of([found], [expected])
    if not error <= TOLERANCES[dtype].relative:
        return {"failed": f"differs from cuDNN by {error:.2g}"}
    (place,) = places(stream.engines)
    kernel = Kernel(place, place.now)
    for fresh in kernel.memory.fresh.values():
        fresh.fill_(1)  # everything is stored, as in a first frame

    def ours() -> None:
        for launch in kernel.launches:
            launch.run(full=True, counting=False)

    with torch.inference_mode():
        mine, dense = graph_ms(ours), graph_ms(lambda: void(module(x)))
    macs = shape.macs * streams
    return {
        "shape": asdict(shape),
        "streams": streams,
        "macs": macs,
        "ms": mine,
        "cudnn_ms": dense,
        "ratio": dense / mine,
        "tflops": 2e-9 * macs / mine,
        "error": error,
        "config": asdict(place.now),
    }


def void(_: Any) -> None:
    """Nothing, of something."""


def summary(rows: Mapping[str, Mapping[str, Any]], all_macs: float) -> dict[str, Any]:
    """The figures of the table of goals; single pixels and depthwise convolutions count as the others do."""
    good = {k: r for k, r in rows.items() if "ratio" in r}
    failed = sum("failed" in r for r in rows.values())
    found: dict[str, Any] = {"shapes": len(good), "failed_shapes": failed}
    if good:
        worst = min(good, key=lambda k: good[k]["ratio"])
        weights = [r["macs"] for r in good.values()]
        found |= {
            "geometric_mean": geometric_mean([r["ratio"] for r in good.values()], weights),
            "worst": good[worst]["ratio"],
            "worst_shape": worst,
            "share_of_macs": sum(weights) / all_macs if all_macs else 1.0,
        }
    return found


def wanted_shapes(models: Sequence[Model], size: tuple[int, int], note: Note) -> list[Shape]:
    """Every distinct convolution of some networks on maps, those with most work first."""
    found = [s for s in shapes(models, [size], note) if s.height * s.width > 1]
    return sorted(found, key=lambda s: -s.macs)


def run(
    store: Store,
    number: int,
    wanted: Sequence[Shape],
    streams: int,
    dtype: torch.dtype,
    deadline: float,
    note: Note,
    compiler: Compiler | None = None,
    device: tuple[str, int] = ("", 90),
) -> int:
    """Measure shapes that are not known yet, until the deadline; how many failed or were left out."""
    name = str(dtype).removeprefix("torch.")
    left = [s for s in wanted if not store.known("convolutions", str(s))]
    ahead = [Ahead(reference_of(s), (s.height, s.width), streams, name, 0.0, *device) for s in left]
    if compiler is not None:
        for one in ahead:
            compiler.ask(one, 1)
    bad = 0
    for index, shape in enumerate(left):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            note(f"convolutions: the budget is spent; {len(left) - index} shape(s) left out")
            bad += len(left) - index
            break
        if compiler is not None:
            compiler.wait([ahead[index]], remaining)
        try:
            row = measure(shape, streams, dtype)
        except Exception as error:  # noqa: BLE001 - one shape's failure is a row, not the end
            row = {"failed": reason_of(error)}
        bad += "failed" in row
        if "failed" in row:
            note(f"convolutions: {shape}: {row['failed']}")
        store.add("convolutions", str(shape), row | {"run": number})
        if index % 10 == 9:
            store.write()
    total = float(sum(s.macs for s in wanted) * streams)
    found = summary(store.section("convolutions"), total)
    store.put("summaries", "convolutions", found | {"run": number, "all_shapes": len(wanted)})
    return bad
