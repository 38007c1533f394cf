"""The change tests: has a pixel moved far enough to tell its consumers?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videoeff.ir.layout import PixelLayout
from videoeff.kernels.call import RegionCall, Test
from videoeff.kernels.region_spec.codes import CHANGE_TESTS, ChangeTest

#: For each channel gain, floor and black.
Noise = tuple[tuple[float, float, float], ...]


def is_relative(kind: str) -> bool:
    """Whether a kind of test is relative to the scale of its value."""
    return kind == "rms-relative"


def limit_of(threshold: float, scale: Tensor | None) -> Tensor | float:
    """What a quantity has to exceed; (R, 1, 1) where there is a scale (R,)."""
    return threshold if scale is None else (threshold * scale).view(-1, 1, 1)


def energy_limit_of(factor: float, threshold: float) -> float:
    """What predicted energy has to exceed, (π τ)², before the square of the scale."""
    return (factor * threshold) ** 2


def pixels_first(value: Tensor, layout: PixelLayout) -> Tensor:
    """A view of shape (R, H, W, C): streams and pixels first, all else behind."""
    roles = [d for d in (layout.rows, layout.h, layout.w) if d is not None]
    rest = [d for d in range(value.ndim) if d not in roles]
    moved = value.permute((*roles, *rest))
    shape = [value.shape[d] if d is not None else 1 for d in (layout.rows, layout.h, layout.w)]
    return moved.reshape(*shape, -1)


def mask_like(mask: Tensor, value: Tensor, layout: PixelLayout) -> Tensor:
    """A mask (R, H, W) viewed so that it broadcasts against ``value``."""
    places = {layout.rows: 0, layout.h: 1, layout.w: 2}
    for role, axis in ((layout.rows, 0), (layout.h, 1), (layout.w, 2)):
        if role is None and mask.shape[axis] != 1:
            mask = mask.any(axis, keepdim=True)
    order = [places[d] for d in range(value.ndim) if d in places and d is not None]
    kept = mask.permute(*order, *[a for a in range(3) if a not in order])
    sizes = iter(kept.shape)
    return kept.reshape([next(sizes) if d in places else 1 for d in range(value.ndim)])


def _difference(new: Tensor, old: Tensor, layout: PixelLayout) -> Tensor:
    """``new`` less ``old``, (R, H, W, C); whole numbers, which would wrap around, as float32."""
    if not new.is_floating_point():
        new, old = new.to(torch.float32), old.to(torch.float32)
    return pixels_first(new, layout) - pixels_first(old, layout)


def square_mean(new: Tensor, old: Tensor, layout: PixelLayout) -> Tensor:
    """Mean squared difference over channels, (R, H, W) float32 or float64."""
    difference = _difference(new, old, layout)
    wide = torch.float64 if difference.dtype == torch.float64 else torch.float32
    return difference.to(wide).square_().mean(-1)


def variance_of(old: Tensor, layout: PixelLayout, noise: Noise) -> Tensor:
    """The noise's variance of each element, (R, H, W, C), from the value kept."""
    value = pixels_first(old, layout)
    wide = torch.float64 if value.dtype == torch.float64 else torch.float32
    gain, floor, black = torch.tensor(noise, dtype=wide, device=value.device).unbind(1)
    return floor + gain * (value.to(wide) - black).clamp_min_(0)


def distance(new: Tensor, old: Tensor, layout: PixelLayout, kind: str, noise: Noise = ()) -> Tensor:
    """The test's quantity per pixel, (R, H, W)."""
    quantity = CHANGE_TESTS[kind]
    if quantity == ChangeTest.NOISE:
        difference = _difference(new, old, layout)
        variance = variance_of(old, layout, noise)
        return difference.to(variance.dtype).square_().div_(variance).mean(-1).sqrt_()
    if quantity == ChangeTest.RMS:
        return square_mean(new, old, layout).sqrt_()
    difference = _difference(new, old, layout)
    wide = torch.float64 if difference.dtype == torch.float64 else torch.float32
    if quantity == ChangeTest.MAX:
        return difference.abs_().amax(-1).to(wide)
    return difference.to(wide).square_().sum(-1).sqrt_()


def scale_of(value: Tensor, layout: PixelLayout) -> Tensor:
    """Standard deviation of each row's elements, (R,) float32; 0 where it is not finite."""
    flat = pixels_first(value, layout).flatten(1).to(torch.float32)
    spread = flat.std(1, correction=0)
    return torch.where(torch.isfinite(spread), spread, torch.zeros_like(spread))


def moved(call: RegionCall, new: Tensor, old: Tensor, scale: Tensor | None) -> Tensor:
    """Pixels (R, H, W) that exceed the call's threshold; NaN always does, an ignored pixel never."""
    test, layout = call.test, call.layout
    watched = call.watched_on(old.device)
    if test.threshold == 0.0:
        found = (pixels_first(new, layout) != pixels_first(old, layout)).any(-1)
        return found if watched is None else found & watched
    amount = only_watched(distance(new, old, layout, test.kind, test.noise), watched)
    limit = limit_of(test.threshold, scale)
    found = blocks_moved(amount, limit, test) if test.blocks else ~(amount <= limit)
    return found if watched is None else found & watched


def only_watched(amount: Tensor, watched: Tensor | None) -> Tensor:
    """Amounts (R, H, W), those of ignored pixels 0: in the mean of a block these count as unchanged."""
    return amount if watched is None else torch.where(watched, amount, torch.zeros_like(amount))


def block_amounts(amount: Tensor, test: Test) -> Tensor:
    """Mean distance of each square block, (R, h, w); of the noise's test the root mean square."""
    if test.block == 1:
        return amount
    noisy = CHANGE_TESTS[test.kind] == ChangeTest.NOISE
    pixels = (amount.square() if noisy else amount).unsqueeze(1)
    mean = F.avg_pool2d(pixels, test.block, ceil_mode=True, count_include_pad=False).squeeze(1)
    return mean.sqrt_() if noisy else mean


def grown(hit: Tensor, weak: Tensor, steps: int) -> Tensor:
    """Hits (R, h, w) with the weak ones that are, ``steps`` times, among the eight around a hit."""
    for _ in range(steps):
        around = F.max_pool2d(hit.to(torch.float32).unsqueeze(1), 3, 1, 1).squeeze(1) > 0
        hit = hit | (around & weak)
    return hit


def blocks_moved(amount: Tensor, limit: Tensor | float, test: Test) -> Tensor:
    """Square blocks whose mean distance exceeds the limit, and those that follow from them, as pixels."""
    height, width = amount.shape[1:]
    mean = block_amounts(amount, test)
    hit = grown(~(mean <= limit), ~(mean <= limit * test.weak), test.grow)
    if test.dilation > 0:
        wide = 2 * test.dilation + 1
        hit = F.max_pool2d(hit.to(torch.float32).unsqueeze(1), wide, 1, test.dilation).squeeze(1) > 0
    if test.block == 1:
        return hit
    spread = hit.repeat_interleave(test.block, 1).repeat_interleave(test.block, 2)
    return spread[:, :height, :width]
