"""What the test of a frame saw: figures of which cuts, steps of the light and a codec's pulses are told."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videoeff.kernels.call import Context, RegionCall
from videoeff.kernels.change_test import block_amounts, distance, limit_of, only_watched, pixels_first

#: Rows and columns between the pixels that are compared as pictures.
_STEP = 4


class Watcher:
    """Figures of one input's test; remembers which blocks moved a little in the frame before."""

    def __init__(self) -> None:
        self._before: Tensor | None = None

    def look(self, call: RegionCall, context: Context, new: Tensor, old: Tensor) -> None:
        """Leave the figures of a frame in the context, before it is stored.

        They are (R, 4) float32: the share of blocks that moved; the share that newly moved a little; and,
        where at least half moved, the correlation of frame and value, and the share of their squared
        difference that another light explains (frame = gain · value + offset). NaN stands for what is not
        known: all of it in a stream's first frame. Of zones, only blocks and pixels that are watched count.
        """
        test, rows = call.test, call.extent[0]
        scale = context.state[call.scale] if call.scale else None
        moved = new
        if (grid := call.value.grid) is not None:
            kept = grid.decode(old)
            moved, old = kept + grid.beyond(new, old), kept
        watched = call.watched_on(old.device)
        amount = only_watched(distance(moved, old, call.layout, test.kind, test.noise), watched)
        limit = limit_of(test.threshold, scale)
        mean = block_amounts(amount, test)
        hit = ~(mean <= limit)
        small = ~(mean <= limit * test.weak) if test.block > 1 or test.grow > 0 else hit
        fresh = context.fresh_rows(call.layout.streams).expand(rows, 1, 1)
        small = small & ~fresh
        before = self._before if self._before is not None else torch.zeros_like(small)
        self._before = small
        blocks = _watched_blocks(watched, test.block, mean)
        strong, rises = (v.flatten(1).float().sum(1) / blocks for v in (hit, small & ~before))
        alike = torch.where(strong[:, None] >= 0.5, _alike(new, old, call, watched), torch.nan)
        figures = torch.cat([torch.stack([strong, rises], 1), alike], 1)
        context.seen[call.name] = figures.masked_fill(fresh.view(rows, 1), torch.nan)


def _watched_blocks(watched: Tensor | None, block: int, mean: Tensor) -> Tensor:
    """How many blocks of each row hold a pixel that is watched, (R,)."""
    if watched is None:
        return mean.new_full((len(mean),), mean[0].numel(), dtype=torch.float32)
    pixels = watched.float().unsqueeze(1)
    held = F.max_pool2d(pixels, block, ceil_mode=True).flatten(1).sum(1)
    return held.expand(len(mean)).clamp(min=1)


def _alike(new: Tensor, old: Tensor, call: RegionCall, watched: Tensor | None) -> Tensor:
    """Correlation, and share of the difference that a line explains, (R, 2), over some pixels.

    Both are 1 where one is the same everywhere: a black frame is no other scene.
    """
    now, was = (
        pixels_first(v, call.layout)[:, ::_STEP, ::_STEP].double().sum(-1).flatten(1) for v in (new, old)
    )
    some = torch.ones_like(now, dtype=torch.bool)
    if watched is not None:
        some = watched[:, ::_STEP, ::_STEP].flatten(1).expand_as(now)
    count = some.sum(1).clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return torch.where(some, values, 0.0).sum(1) / count

    apart, far = mean((now - was).square()), mean(now.square()) + mean(was.square())
    now, was = now - mean(now)[:, None], was - mean(was)[:, None]
    a, b, both = mean(now.square()), mean(was.square()), mean(now * was)
    plain = torch.minimum(torch.minimum(a, b), apart) <= 1e-12 * far
    found = torch.stack([both / (a * b).sqrt(), 1 - (a - both.square() / b) / apart], 1)
    return torch.where(plain[:, None], torch.ones_like(found), found).float()
