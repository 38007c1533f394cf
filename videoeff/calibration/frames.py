"""The frames of a clip that calibration looks at: blocks to search on, and a part that is held back."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from numpy.typing import NDArray
from torch import Tensor

from videoeff.calibration.controls import Feed
from videoeff.calibration.sample import frame_count
from videoeff.errors import VideoError
from videoeff.video.source import open_clip

Call = tuple[tuple[Any, ...], dict[str, Any]]

#: Share of the clip that is held back: its last part.
HELD = 1 / 3
#: Blocks to search on that lie side by side, as one long one.
_TOGETHER = 6
#: Fewer frames are no clip to calibrate on.
FEWEST = 12
#: Of a frame every so many-th row and column is compared with the next frame's.
_SKETCH = 4
#: Bytes of calls that are kept, so that they need not be made again.
_KEPT = 1_000_000_000


def clip_length(clip: Any) -> int:
    """Frames of a clip, counted by reading it where it does not say so.

    Raises:
        VideoError: it cannot be read, or is too short.
    """
    count = frame_count(clip) if is_source(clip) else len(clip)
    if count < FEWEST:
        raise VideoError(
            f"the clip has {count} frame(s); calibration searches on two thirds and judges on one, and needs "
            f"at least {FEWEST}"
        )
    return count


def is_source(clip: Any) -> bool:
    """Whether it names a clip, and is not its frames."""
    return isinstance(clip, (str, Path))


@dataclass(frozen=True)
class Parts:
    """Which frames are used for what, by number.

    Attributes:
        search: blocks of consecutive frames to search on, in the order in which they are added.
        long: the same frames in fewer, longer blocks, which also show what is lost only slowly.
        held: blocks that are held back.
    """

    search: tuple[range, ...]
    long: tuple[range, ...]
    held: tuple[range, ...]

    def wanted(self) -> list[int]:
        """All numbers, in order."""
        return sorted({i for block in (*self.search, *self.held) for i in block})


def part(total: int, length: int, blocks: int, held: int) -> Parts:
    """Divide a clip.

    Args:
        total: its frames.
        length: of a block to search on.
        blocks: of these, at most.
        held: frames held back that are judged, at most; where there are more, several blocks over the part.
    """
    first_held = total - max(1, int(total * HELD))
    count = max(1, math.ceil(blocks / _TOGETHER))
    together = max(1, min(math.ceil(blocks / count), first_held // count // length))
    long = _spread(0, first_held, together * length, count)
    short = [range(i, min(i + length, b.stop)) for b in long for i in range(b.start, b.stop, length)]
    return Parts(
        tuple(_scattered(short)),
        long,
        _spread(first_held, total, held, 1)
        if total - first_held <= held
        else _spread(first_held, total, max(1, held // 4), 4),
    )


def _spread(first: int, end: int, length: int, blocks: int) -> tuple[range, ...]:
    """Blocks that do not overlap, spread over the frames from ``first`` to ``end``."""
    room = end - first
    length = min(length, room)
    count = max(1, min(blocks, room // length))
    free = room - count * length
    starts = [first + i * length + (free * i // (count - 1) if count > 1 else 0) for i in range(count)]
    return tuple(range(start, start + length) for start in starts)


def _scattered(blocks: Sequence[range]) -> list[range]:
    """The same blocks in another order: the first few of them are already spread over the whole."""
    digits = max(1, (len(blocks) - 1).bit_length())
    order = sorted(range(len(blocks)), key=lambda i: f"{i:0{digits}b}"[::-1])
    return [blocks[i] for i in order]


@dataclass
class Frames:
    """Frames by number, as the calls of a stream.

    Attributes:
        pictures: the frames as they were decoded or given.
        feed: makes the call of one.
        digest: SHA-256 of the clip.
    """

    pictures: dict[int, Any]
    feed: Feed
    digest: str
    _calls: dict[int, Call] = field(default_factory=dict)
    _bytes: int = 0

    def call(self, number: int) -> Call:
        """The call of a frame; kept while there is room."""
        found = self._calls.get(number)
        if found is None:
            found = self.feed(self.pictures[number])
            size = sum(v.nbytes for v in pytree.tree_leaves(found) if isinstance(v, Tensor))
            if self._bytes + size <= _KEPT:
                self._calls[number], self._bytes = found, self._bytes + size
        return found

    def sketch(self, number: int) -> NDArray[np.float32]:
        """Some of a frame's values, to compare it with others."""
        picture = self.pictures[number]
        value = picture if isinstance(picture, np.ndarray) else _first_tensor(picture)
        rows, columns = (-3, -2) if isinstance(picture, np.ndarray) else (-2, -1)
        at = [slice(None)] * value.ndim
        for axis in (rows, columns):
            if value.ndim >= -axis:
                at[axis] = slice(None, None, _SKETCH)
        return np.asarray(value[tuple(at)], dtype=np.float32)

    @property
    def decoded(self) -> bool:
        """Whether frames are pictures of grey levels, so that a camera's noise can be measured and added."""
        return all(isinstance(p, np.ndarray) and p.dtype == np.uint8 for p in self.pictures.values())


def busiest_first(blocks: Sequence[range], frames: Frames) -> tuple[range, ...]:
    """The same blocks: first the one in which most moves, then ones spread over all by how much moves.

    On a few blocks, settings are to be told apart by what they lose of what moves.
    """

    def activity(block: range) -> float:
        pictures = [frames.sketch(i) for i in block]
        moved = [np.abs(a - b).mean() for a, b in itertools.pairwise(pictures)]
        return float(np.mean(moved)) if moved else 0.0

    return tuple(_scattered(sorted(blocks, key=activity, reverse=True)))


def read_frames(clip: Any, wanted: Sequence[int], feed: Feed, alpha: bool) -> Frames:
    """The frames of some numbers.

    Args:
        clip: a clip's name, or its frames.
        wanted: numbers, in order.
        feed: makes the call of a frame.
        alpha: read opacity as a fourth channel.

    Raises:
        VideoError: the clip cannot be read as far.
    """
    if not is_source(clip):
        pictures = {i: clip[i] for i in wanted}
        return Frames(pictures, feed, _digest_of(clip))
    pictures, numbers = {}, set(wanted)
    with open_clip(clip, frames=wanted[-1] + 1, alpha=alpha) as source:
        for number, picture in enumerate(source):
            if number in numbers:
                pictures[number] = picture
    if len(pictures) < len(numbers):
        raise VideoError(
            f"{clip}: ends after {max(pictures, default=-1) + 1} frames, though it says it has "
            f"{wanted[-1] + 1} at least; write it anew"
        )
    return Frames(pictures, feed, _digest_of_file(Path(clip)))


def _first_tensor(frame: Any) -> Any:
    """The first tensor of a call, on the CPU; zeros where it has none."""
    for value in pytree.tree_leaves(frame):
        if isinstance(value, Tensor):
            return value.detach().cpu().float().numpy()
    return np.zeros(1, np.float32)


def _digest_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def _digest_of(frames: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        for value in pytree.tree_leaves(frame):
            if isinstance(value, Tensor):
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            elif isinstance(value, np.ndarray):
                digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
