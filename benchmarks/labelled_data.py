"""Clips with a mask for every frame: reading them, and the objects, boxes and tracks in the masks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networkx.utils import UnionFind
from numpy.typing import NDArray
from torchvision.ops import box_iou

from videoeff.errors import VideoError
from videoeff.video.source import open_clip

Array = NDArray[Any]

#: Grey levels of a mask.
OBJECT, UNKNOWN, OUTSIDE = 255, 170, 85
#: Objects of fewer pixels count neither as found nor as missed; nor do detections of them.
SMALLEST = 100
#: Boxes of neighbouring frames that overlap by more are one object.
LINK = 0.3
#: An object may be out of sight for this many frames.
GAP = 5
#: Boxes that cover more than this share of a new object make it a part of something seen before.
COVERED = 0.2


@dataclass(frozen=True)
class Clip:
    """A clip of a fixed camera.

    Attributes:
        fold: the networks that judge it were trained on the clips of the other fold.
        about: what it shows.
    """

    fold: str
    about: str


#: Both folds hold corridors and rooms; cars are in one clip only. Chosen before anything was trained.
CLIPS = {
    "highwayi": Clip("a", "a motorway, 240×320, the only clip with cars"),
    "humanbody2": Clip("a", "an office, 240×320, people close to the camera"),
    "candela": Clip("a", "a lobby from above, 288×352, a man sits down and leaves a bag"),
    "hallandmonitor": Clip("b", "a corridor, 240×352, people far away"),
    "caviar1": Clip("b", "a shopping mall, 256×384, people stand and walk"),
    "office": Clip("b", "a room, 240×360, a man stands reading"),
}
FOLDS = ("a", "b")
SOURCE = (
    "SBI2015 and CDnet 2014 (office). NAME.mp4 and NAME.masks.npz with `masks`, uint8 (T, H, W): "
    "255 moving object, 170 unknown, 85 outside, 0 background"
)


def other(fold: str) -> str:
    """The fold that a network judged on ``fold`` was trained on."""
    return FOLDS[1 - FOLDS.index(fold)]


def of_fold(fold: str) -> list[str]:
    """The clips of a fold."""
    return [name for name, clip in CLIPS.items() if clip.fold == fold]


def missing(folder: Path, names: Iterable[str]) -> str:
    """Which files of some clips are not there and where they come from; "" if all are."""
    files = [f"{name}{suffix}" for name in names for suffix in (".mp4", ".masks.npz")]
    absent = [name for name in files if not (folder / name).is_file()]
    return f"{', '.join(absent)} missing: {SOURCE}" if absent else ""


def load(folder: Path, name: str) -> tuple[Array, Array]:
    """Frames (T, H, W, 3) and masks (T, H, W) of a clip, both uint8.

    Raises:
        VideoError: the clip and its masks do not fit.
    """
    with open_clip(folder / f"{name}.mp4") as source:
        frames = np.stack(list(source))
    with np.load(folder / f"{name}.masks.npz", allow_pickle=False) as arrays:
        masks: Array = arrays["masks"]
    if frames.shape[:3] != masks.shape:
        raise VideoError(
            f"{name}: frames are {frames.shape[:3]}, masks {masks.shape}; give the masks of this clip"
        )
    return frames, masks


@dataclass(frozen=True)
class Objects:
    """The connected objects of one mask.

    Attributes:
        boxes: (N, 4), left, top, right, bottom in pixels, right and bottom not included.
        areas: (N,), pixels.
    """

    boxes: Array
    areas: Array

    def __len__(self) -> int:
        return len(self.areas)

    def where(self, kept: Array) -> Objects:
        """Those that a mask (N,) names."""
        return Objects(self.boxes[kept], self.areas[kept])

    @property
    def large(self) -> Objects:
        """Those that count."""
        return self.where(self.areas >= SMALLEST)

    @property
    def small(self) -> Objects:
        """Those that neither count as found nor as missed."""
        return self.where(self.areas < SMALLEST)


def objects(mask: Array) -> Objects:
    """The objects of a mask (H, W), connected by sides, corners and the unknown rim around them.

    Boxes and areas are those of the pixels that are surely object.
    """
    inside = np.pad(mask == OBJECT, ((0, 0), (1, 1)))
    linked = np.pad((mask == OBJECT) | (mask == UNKNOWN), ((0, 0), (1, 1))).astype(np.int8)
    rows, starts = np.nonzero(np.diff(linked, axis=1) == 1)
    _, ends = np.nonzero(np.diff(linked, axis=1) == -1)
    first = np.searchsorted(rows, np.arange(len(mask) + 1))
    joined: Any = UnionFind(range(len(rows)))
    for above, here, after in zip(first, first[1:], first[2:], strict=False):
        for i in range(above, here):  # runs [start, end) of two rows touch, corners included
            low = here + int(np.searchsorted(ends[here:after], starts[i]))
            high = here + int(np.searchsorted(starts[here:after], ends[i], side="right"))
            joined.union(i, *range(low, high))
    sums = np.cumsum(inside, axis=1)
    boxes, areas = [], []
    for group in joined.to_sets():
        runs = np.array(sorted(group))
        row, left, right = rows[runs], starts[runs], ends[runs]
        pixels = sums[row, right] - sums[row, left]
        if not pixels.any():
            continue
        there = np.concatenate(
            [np.nonzero(inside[r, a + 1 : b + 1])[0] + a for r, a, b in zip(row, left, right, strict=True)]
        )
        full = row[pixels > 0]
        boxes.append([there.min(), full.min(), there.max() + 1, full.max() + 1])
        areas.append(int(pixels.sum()))
    order = np.argsort(-np.array(areas, dtype=np.int64), kind="stable")
    found = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return Objects(found[order], np.array(areas, dtype=np.int64)[order])


@dataclass
class Track:
    """One object over time.

    Attributes:
        frames: in which it is seen, in order.
        places: its number among the objects of each of those frames.
        boxes: its box in each of them.
        new: it appeared while the clip ran, and is no part of what was there before.
    """

    frames: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    boxes: list[Array] = field(default_factory=list)
    new: bool = False

    def add(self, frame: int, place: int, box: Array) -> None:
        """See it once more."""
        self.frames.append(frame)
        self.places.append(place)
        self.boxes.append(box)


def tracks(truth: Sequence[Objects]) -> list[Track]:
    """Objects linked from frame to frame by the overlap of their boxes, the largest overlap first."""
    found: list[Track] = []
    alive: list[Track] = []
    for frame, seen in enumerate(truth):
        alive = [t for t in alive if frame - t.frames[-1] <= GAP]
        free = set(range(len(seen)))
        if alive and len(seen):
            last = np.stack([t.boxes[-1] for t in alive])
            overlap = box_iou(torch.from_numpy(last), torch.from_numpy(seen.boxes)).numpy()
            pairs = sorted(zip(*np.nonzero(overlap > LINK), strict=True), key=lambda p: -overlap[p])
            used: set[int] = set()
            for i, j in ((int(a), int(b)) for a, b in pairs):
                if i not in used and j in free:
                    alive[i].add(frame, j, seen.boxes[j])
                    used.add(i)
                    free.remove(j)
        before = np.concatenate([o.boxes for o in truth[max(0, frame - GAP) : frame]] or [np.empty((0, 4))])
        for j in sorted(free):
            track = Track(new=frame > 0 and not _covered(seen.boxes[j], before))
            track.add(frame, j, seen.boxes[j])
            found.append(track)
            alive.append(track)
    return found


def _covered(box: Array, others: Array) -> bool:
    """Whether any of some boxes (N, 4) covers more than a fifth of a box (4,)."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return bool((np.maximum(width, 0) * np.maximum(height, 0) > COVERED * area).any())


def speeds(track: Track, span: int = 12) -> Array:
    """Pixels a frame that the middle of a track's box moves, over ``span`` frames around each sight of it."""
    middles = np.array([[b[0] + b[2], b[1] + b[3]] for b in track.boxes]) / 2
    frames = np.array(track.frames)
    found = np.zeros(len(frames))
    for index, frame in enumerate(frames):
        low = int(np.searchsorted(frames, frame - span // 2))
        high = int(np.searchsorted(frames, frame + span // 2, side="right")) - 1
        if high > low:
            found[index] = np.linalg.norm(middles[high] - middles[low]) / (frames[high] - frames[low])
    return found


def stops(track: Track, slowest: float, least: int) -> list[tuple[int, int]]:
    """Stretches (first, last place in the track) of at least ``least`` sights no faster than ``slowest``."""
    slow = speeds(track) <= slowest
    found, begin = [], 0
    for still, group in itertools.groupby(slow):
        count = len(list(group))
        if still and count >= least:
            found.append((begin, begin + count - 1))
        begin += count
    return found
