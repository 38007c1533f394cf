"""Kernels compiled ahead for GPUs that are not here: no spills, little shared memory, matrix units in use."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.streams import stream_of
from tests.support.triton.compare import passes
from tests.support.triton.launches import accepted, launches
from videoeff.kernels.call import RegionCall
from videoeff.kernels.triton import configs, rules
from videoeff.kernels.triton.configs import Config, Device
from videoeff.kernels.triton.rules import Rule
from videoeff.ops.base import Lambda

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="needs triton, which is not installed here"),
    # Triton 3.9 says at its first compilation that its default for fused multiplications will change.
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset:UserWarning"),
]

HALF = torch.float16

#: Bytes of shared memory that a block may have: A100, and H100 and H200.
SHARED = {80: 163 * 1024, 90: 227 * 1024}

#: Kernels of matrix products.
MATRIX = ("convolution", "transposed")


@pytest.fixture(autouse=True)
def shipped_table_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Nobody's own table of sizes."""
    monkeypatch.delenv(rules.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp()))
    rules.forget()
    yield
    rules.forget()


def check(launch: Any, capability: int) -> None:
    """Compile a launch; it must fit the chip and use what the chip has."""
    from benchmarks.ahead import compile_ahead

    made = compile_ahead(launch, capability)
    name = f"{launch.layer} ({launch.kernel.__name__}, {launch.options}) on sm_{capability}: {made}"
    assert made.spilled == 0, name
    assert made.shared <= SHARED[capability], name
    given = launch.arguments
    if launch.kernel.__name__ not in MATRIX:
        return
    if given["source"].pointer.itemsize == 4 and given["PRECISION"] == "ieee":
        return  # exact products have no unit of their own
    if capability == 90 and given["BM"] >= 64:
        assert made.warpgroup, name
    else:
        assert made.warp or made.warpgroup, name


def test_spills_and_registers_are_seen() -> None:
    """A kernel that has far too few registers spills; what is read off it says so."""
    from benchmarks.ahead import compile_ahead

    stream = stream_of(
        nn.Conv2d(16, 32, 3).half(), torch.empty(1, 16, 20, 30, dtype=HALF), backend="reference"
    )
    (launch,) = [x for x, _ in launches(stream, 80) if x.kernel.__name__ == "convolution"]
    free = compile_ahead(launch, 80)
    tight = compile_ahead(dataclasses.replace(launch, options={**launch.options, "maxnreg": 32}), 80)
    assert free.spilled == 0
    assert free.registers > 32
    assert tight.spilled > 0
    assert tight.registers <= 32


# ---------------------------------------------------------------- regions of real networks


class Residual(nn.Module):
    """A bottleneck of a residual network."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(wide, narrow, 1), nn.Conv2d(narrow, narrow, 3, padding=1)
        self.c = nn.Conv2d(narrow, wide, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))) + x)


class Inverted(nn.Module):
    """An inverted bottleneck with squeeze-and-excitation."""

    def __init__(self, narrow: int, wide: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(narrow, wide, 1), nn.Conv2d(wide, 2 * narrow, 1)
        self.depth = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide)
        self.squeeze, self.excite = nn.Conv2d(wide, wide // 4, 1), nn.Conv2d(wide // 4, wide, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.depth(F.hardswish(self.up(x))))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        result: Tensor = self.down(y * gate)
        return result


class ConvNext(nn.Module):
    """A block with a layer norm between a wide depthwise convolution and two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depth, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        result: Tensor = x + self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)
        return result


class Decoder(nn.Module):
    """A level of a decoder: resampled, beside the encoder's level, and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.skip, self.join = nn.Conv2d(128, 48, 1), nn.Conv2d(176, 64, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.interpolate(x, scale_factor=2, mode="bilinear")
        return F.relu(self.join(torch.cat([wide, F.relu(self.skip(wide))], 1)))


class Fused(nn.Module):
    """Two branches of a high-resolution network, of odd widths, added."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(18, 18, 3, padding=1), nn.Conv2d(18, 36, 3, 2, 1)
        self.back = nn.Conv2d(36, 18, 1)

    def forward(self, x: Tensor) -> Tensor:
        coarse = F.relu(self.coarse(x))
        return F.relu(self.fine(x) + F.interpolate(self.back(coarse), scale_factor=2))


class Head(nn.Module):
    """A classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(320, 1280, 1), nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(F.relu6(self.conv(x)).mean((2, 3)))
        return result


#: Name: (module, shape of the frame, dtype, change test).
REGIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], torch.dtype, str]] = {
    "stem": (
        lambda: nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        (2, 3, 270, 480), HALF, "relative",
    ),
    "stem-bfloat16": (
        lambda: nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.SiLU(), nn.Conv2d(32, 32, 3, groups=32)),
        (1, 3, 270, 480), torch.bfloat16, "blocks",
    ),
    "bottleneck": (lambda: Residual(256, 64), (1, 256, 270, 480), HALF, "relative"),
    "bottleneck-exact": (lambda: Residual(1024, 256), (1, 1024, 68, 120), HALF, "exact"),
    "bottleneck-predicted": (lambda: Residual(256, 64), (1, 256, 68, 120), HALF, "predicted"),
    "bottleneck-tf32": (lambda: Residual(128, 64), (1, 128, 68, 120), torch.float32, "relative"),
    "atrous": (
        lambda: nn.Sequential(nn.Conv2d(512, 256, 3, padding=12, dilation=12), nn.ReLU()),
        (1, 512, 34, 60), HALF, "l2",
    ),
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(128, 128, 3, padding=1, groups=32), nn.ReLU()),
        (1, 128, 68, 120), HALF, "relative",
    ),
    "inverted": (lambda: Inverted(40, 240, 5, 2), (1, 40, 68, 120), HALF, "relative"),
    "convnext": (lambda: ConvNext(96), (1, 96, 68, 120), HALF, "relative"),
    "decoder": (Decoder, (1, 128, 68, 120), HALF, "relative"),
    "fused": (Fused, (1, 18, 136, 240), HALF, "relative"),
    "transposed": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(64, 64, 2, 2)
        ),
        (1, 128, 34, 60), HALF, "relative",
    ),
    "bottleneck-bounded": (lambda: Residual(256, 64), (1, 256, 270, 480), HALF, "bounded-relative"),
    "inverted-bounded": (lambda: Inverted(40, 240, 5, 2), (1, 40, 68, 120), HALF, "bounded"),
    "decoder-bounded": (Decoder, (1, 128, 68, 120), HALF, "bounded-relative"),
    "bottleneck-bounded-predicted": (
        lambda: Residual(256, 64), (1, 256, 68, 120), HALF, "bounded-predicted",
    ),
    "transposed-bounded": (
        lambda: nn.Sequential(nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.MaxPool2d(3, 2, 1)),
        (1, 128, 34, 60), HALF, "bounded-relative",
    ),
    "classes": (
        lambda: nn.Sequential(nn.Conv2d(256, 21, 1), nn.Softmax(1)), (1, 256, 68, 120), HALF, "max",
    ),
    "head": (Head, (2, 320, 34, 60), HALF, "relative"),
}  # fmt: skip


@pytest.mark.parametrize("name", REGIONS)
def test_regions(name: str) -> None:
    torch.manual_seed(0)
    module, shape, dtype, how = REGIONS[name]
    example = torch.empty(shape, dtype=dtype)
    stream = stream_of(module().to(dtype), example, passes=passes(how), backend="reference")
    for capability in SHARED:
        for launch, _ in launches(stream, capability):
            check(launch, capability)


# ---------------------------------------------------------------- every shipped size

#: Kinds that the regions above have, and whose sizes ask for nothing of a region.
ELSEWHERE = ("unit", "rows", "tiles", "input", "prediction")


def shipped() -> Iterator[tuple[int, str, Rule]]:
    """Every rule of the shipped table with the capabilities that it serves."""
    table = rules.read(rules.SHIPPED)
    for device, kind, rule, _ in configs.shipped():
        for capability in SHARED:
            own = table.get(f"sm_{capability}", {}).get(kind, ())
            hidden = device == rules.DEFAULT and any(not r.when for r in own)
            if kind not in ELSEWHERE and capability in capabilities(device) and not hidden:
                yield capability, kind, rule


def capabilities(device: str) -> Sequence[int]:
    """Those that a device of the table may have."""
    known = {"sm_80": (80,), "A100": (80,), "sm_90": (90,), "H100": (90,), "H200": (90,)}
    return next((c for words, c in known.items() if words in device), tuple(SHARED))


def within(rule: Rule, fact: str, wanted: int) -> int:
    """A number near the wanted one that the rule's bounds let through."""
    low, high = rule.when.get(fact, (0, math.inf))
    return int(min(max(wanted, low), high))


def example_of(kind: str, rule: Rule) -> tuple[nn.Module, Tensor, bool]:
    """A layer for which a rule is, with a frame, and whether float32 may be rounded."""
    few = within(rule, "inputs", 64) < 16  # what so few channels have are pictures
    inputs = within(rule, "inputs", 3 if few else 64)
    outputs = within(rule, "outputs", 128 if kind in rules.MATRIX else int(rule.use["BN"]))
    if within(rule, "aligned", 1) == 0 and outputs % 8 == 0:
        outputs -= 4
    kernel = next(k for k in (3, 1, 2, 4, 5, 7) if within(rule, "taps", k * k) == k * k)
    side = math.ceil(math.sqrt(within(rule, "all_pixels", within(rule, "pixels", 96 * 96))))
    layers: dict[str, Callable[[], nn.Module]] = {
        "convolution": lambda: nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2),
        "convolution-1x1": lambda: nn.Conv2d(inputs, outputs, 1),
        "grouped": lambda: nn.Conv2d(2 * inputs, 2 * outputs, kernel, padding=kernel // 2, groups=2),
        "transposed": lambda: nn.ConvTranspose2d(inputs, outputs, 4, 2, 1),
        "depthwise": lambda: nn.Conv2d(outputs, outputs, kernel, padding=kernel // 2, groups=outputs),
        "pooling": lambda: nn.MaxPool2d(3, 2, 1),
        "resampling": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
        "pointwise": lambda: Lambda(torch.sigmoid),
    }
    layer = layers[kind]()
    after = nn.Softmax(1) if within(rule, "along", 0) else nn.Hardswish()
    channels = layer.in_channels if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) else outputs
    dtype = HALF if within(rule, "bytes", 2) == 2 else torch.float32
    shape = (within(rule, "streams", 1), channels, side, side)
    return (
        nn.Sequential(layer, after).to(dtype),
        torch.empty(shape, dtype=dtype),
        bool(within(rule, "tf32", 1)),
    )


@pytest.mark.parametrize(
    ("capability", "kind", "rule"),
    [pytest.param(*found, id=f"sm_{found[0]}-{found[1]}-{i}") for i, found in enumerate(shipped())],
)
def test_every_shipped_size(capability: int, kind: str, rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a layer that the rule is for, behind a change test, followed by an activation."""
    module, example, tf32 = example_of(kind, rule)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    device = Device("", f"sm_{capability}")

    def sizes(call: RegionCall) -> Config:
        spec = accepted(call).description
        assert configs.kind_of(spec) == kind
        facts = configs.facts_of(call, spec, kind)
        assert rule.fits(facts) or "tf32" in rule.when, (rule, facts)
        given: dict[str, Any] = {"U": configs.tile_of(call.extent, device), **rule.use}
        return configs.fitted(Config(**given), spec, kind, device)

    stream = stream_of(module, example, passes=passes("relative"), backend="reference")
    found = launches(stream, capability, sizes)
    for launch, _ in found:
        if launch.layer == found[-1][0].layer:
            check(launch, capability)


def test_every_kind_is_looked_at() -> None:
    assert {kind for _, kind, _ in shipped()} | set(ELSEWHERE) == set(rules.KINDS)
