"""Training of the segmenter and the detector, in one go, on the clips of one fold.

Three scenes are too few to learn what is no object, so one empty picture of each scene of the other fold is
shown too, as the owner of a camera could take it. No object of the other fold is ever shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss
from torchvision.transforms import v2

from benchmarks.labelled_data import OBJECT, OUTSIDE, UNKNOWN, load, objects
from benchmarks.labelled_nets import MEAN, STD, STRIDE, Both
from videoeff.serialize.files import write_atomic

Array = NDArray[Any]
Note = Callable[[str], None]

#: Height and width of a crop.
CROP = (192, 224)
BATCH = 6
STEPS = 500
#: Learning rates of the heads and, where it starts from ImageNet, of the backbone.
RATE, GENTLE = 2e-3, 3e-4
#: Share of the crops that begin as a scene without objects.
EMPTY = 0.4
#: Objects smaller than this in a crop are not boxes to learn.
SMALL = 60


class Samples:
    """Crops with objects of other clips pasted in, flipped, scaled and coloured at random.

    A fixed camera shows one background all along; pasting keeps the networks from learning it by heart.

    Args:
        clips: frames and masks of each.
        scenes: pictures without objects (H, W, 3), of the clips' scenes and of others.
        seed: of the choices.
    """

    def __init__(self, clips: Sequence[tuple[Array, Array]], scenes: Sequence[Array], seed: int) -> None:
        self.clips, self.scenes = clips, scenes
        self.random = np.random.default_rng(seed)
        self.colours = v2.Compose(
            [
                v2.ColorJitter(0.4, 0.4, 0.5, 0.15),
                v2.RandomGrayscale(0.15),
                v2.RandomApply([v2.GaussianBlur(3, (0.3, 1.2))], 0.3),
            ]
        )

    def _draw(self) -> tuple[Tensor, Tensor]:
        """A crop of any clip, flipped and scaled: picture (3, h, w) in 0..1 and mask (h, w)."""
        index = int(self.random.integers(len(self.clips)))
        frames, masks = self.clips[index]
        frame = int(self.random.integers(len(frames)))
        picture, mask = frames[frame], masks[frame]
        if self.random.random() < EMPTY:
            picture = self.scenes[int(self.random.integers(len(self.scenes)))]
            mask = np.zeros(picture.shape[:2], np.uint8)
        height, width = mask.shape
        scale = float(np.exp(self.random.uniform(np.log(0.6), np.log(1.6))))
        high, wide = (min(side, round(c / scale)) for side, c in zip((height, width), CROP, strict=True))
        top, left = self.random.integers(height - high + 1), self.random.integers(width - wide + 1)
        picture = picture[top : top + high, left : left + wide]
        mask = mask[top : top + high, left : left + wide]
        if self.random.random() < 0.5:
            picture, mask = picture[:, ::-1], mask[:, ::-1]
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255
        marks = torch.from_numpy(np.ascontiguousarray(mask))[None, None].float()
        pixels = F.interpolate(pixels, CROP, mode="bilinear", align_corners=False, antialias=True)
        return self.colours(pixels[0].clamp(0, 1)), F.interpolate(marks, CROP, mode="nearest")[0, 0].byte()

    def one(self) -> tuple[Tensor, Tensor]:
        """A picture (3, h, w) in 0..1 and its mask (h, w)."""
        picture, mask = self._draw()
        for _ in range(int(self.random.integers(3))):
            other, shape = self._draw()
            inside = shape == OBJECT
            soft = F.avg_pool2d(inside[None, None].float(), 3, 1, 1)[0, 0]
            picture = torch.lerp(picture, other, soft)
            mask = torch.where(
                inside, OBJECT, torch.where((soft > 0) & (mask != OBJECT), UNKNOWN, mask)
            ).byte()
        return picture, mask

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised pictures (B, 3, h, w) and masks (B, h, w) without end."""
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        while True:
            pictures, masks = (torch.stack(v) for v in zip(*(self.one() for _ in range(size)), strict=True))
            noise = torch.randn_like(pictures) * float(self.random.uniform(0, 0.02))
            yield ((pictures + noise).clamp(0, 1) - mean) / std, masks


def empty_scene(frames: Array, masks: Array) -> Array:
    """The median of each pixel over frames in which no object covers it; of all where one always does."""
    kept = np.linspace(0, len(frames) - 1, min(len(frames), 40)).astype(int)
    some = frames[kept].astype(np.float32)
    hidden = np.ma.masked_array(some, np.broadcast_to((masks[kept] != 0)[..., None], some.shape))
    median = cast(Any, np.ma.median)(hidden, axis=0)
    seen: Array = np.where(np.ma.getmaskarray(median), np.median(some, axis=0), median.data)
    return seen.astype(np.uint8)


def segment_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy and Dice over the known pixels; logits (B, 1, H, W), masks (B, H, W)."""
    known = ((masks != UNKNOWN) & (masks != OUTSIDE)).float()
    target = (masks == OBJECT).float()
    entropy = F.binary_cross_entropy_with_logits(logits[:, 0], target, known)
    share = logits[:, 0].sigmoid() * known
    dice = 1 - (2 * (share * target).sum() + 1) / (share.sum() + (target * known).sum() + 1)
    return entropy + 0.5 * dice


def targets(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the detector should say of a mask (H, W).

    Returns:
        Heat (h, w), 1 at the middle of a box and falling off around it; boxes (4, h, w) in pixels of the
        box a cell belongs to; and which cells count (h, w).
    """
    height, width = (s // STRIDE for s in mask.shape)
    heat, boxes = torch.zeros(height, width), torch.zeros(4, height, width)
    counted = torch.ones(height, width)
    y = (torch.arange(height) + 0.5)[:, None] * STRIDE
    x = (torch.arange(width) + 0.5)[None] * STRIDE
    found = objects(mask.numpy())
    for box, area in zip(found.boxes.tolist(), found.areas.tolist(), strict=True):
        left, top, right, bottom = box
        if area < SMALL:
            counted[(y >= top - 8) & (y < bottom + 8) & (x >= left - 8) & (x < right + 8)] = 0
            continue
        middle = ((left + right) / 2, (top + bottom) / 2)
        spread = (max((right - left) / 6, STRIDE / 2), max((bottom - top) / 6, STRIDE / 2))
        bump = torch.exp(-0.5 * (((x - middle[0]) / spread[0]) ** 2 + ((y - middle[1]) / spread[1]) ** 2))
        bump[min(int(middle[1] / STRIDE), height - 1), min(int(middle[0] / STRIDE), width - 1)] = 1.0
        ours = bump > heat
        boxes[:, ours] = torch.tensor(box)[:, None]
        heat = torch.maximum(heat, bump)
    return heat, boxes, counted


def detect_loss(cells: Tensor, masks: Tensor) -> Tensor:
    """Focal loss of the scores and overlap of the boxes; cells (B, 5, h, w), masks (B, H, W)."""
    heat, boxes, counted = (torch.stack(v) for v in zip(*(targets(m) for m in masks), strict=True))
    logit = cells[:, 0]
    share = logit.sigmoid()
    peak = (heat == 1.0).float()
    focal = peak * (1 - share) ** 2 * F.logsigmoid(logit)
    focal = focal + (1 - peak) * (1 - heat) ** 4 * share**2 * F.logsigmoid(-logit) * counted
    b, y, x = torch.nonzero(heat > 0.3, as_tuple=True)
    middle = torch.stack([x, y], 1).add(0.5) * STRIDE
    reach = cells[b, 1:, y, x].clamp(max=6).exp() * STRIDE
    found = torch.cat([middle - reach[:, :2], middle + reach[:, 2:]], 1)
    weight = heat[b, y, x]
    overlap: Tensor = generalized_box_iou_loss(found, boxes[b, :, y, x], reduction="none")
    count = peak.sum().clamp(min=1)
    boxed = (weight * overlap).sum() / weight.sum().clamp(min=1)
    return 2 * boxed - focal.sum() / count


def train(
    folder: Path,
    names: Sequence[str],
    scenes: Sequence[str],
    weights: Path | None,
    note: Note,
    steps: int = STEPS,
) -> Both:
    """Train both networks on some clips.

    Args:
        folder: of the clips.
        names: the clips.
        scenes: clips of which only the empty scene is shown.
        weights: ImageNet weights of the backbone; None starts from nothing.
        note: told what happens.
        steps: of the optimiser.
    """
    torch.manual_seed(0)
    model = Both()
    if weights is not None:
        model.backbone.load(weights)
        model.backbone.stages[0].requires_grad_(False)
    heads = [*model.segment.parameters(), *model.detect.parameters()]
    rates = [RATE, GENTLE if weights is not None else RATE]
    parts = [heads, list(model.backbone.parameters())]
    groups = [{"params": part, "lr": rate} for part, rate in zip(parts, rates, strict=True)]
    optimiser = torch.optim.AdamW(groups, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps, pct_start=0.1)
    clips = [load(folder, name) for name in names]
    empty = [empty_scene(*clip) for clip in clips] + [empty_scene(*load(folder, name)) for name in scenes]
    batches = Samples(clips, empty, seed=0).batches(BATCH)
    model.train()
    if weights is not None:  # ImageNet's statistics are better than those of six crops
        for part in model.backbone.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
    began = time.monotonic()
    for step in range(steps):
        pictures, masks = next(batches)
        logits, cells = model(pictures)
        losses = segment_loss(logits, masks), detect_loss(cells, masks)
        optimiser.zero_grad()
        torch.autograd.backward(losses[0] + losses[1])
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if step % 25 == 24 or step == steps - 1:
            spent = time.monotonic() - began
            note(f"step {step + 1}/{steps}, {spent:.0f} s: " + ", ".join(f"{x.item():.3f}" for x in losses))
    return model.eval()


def save(model: Both, path: Path) -> None:
    """Write a checkpoint, in half precision: under two megabytes."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda partial: torch.save(state, partial))


def restore(path: Path) -> Both:
    """Read a checkpoint."""
    model = Both()
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval()
