"""What happened to the picture as a whole: scene cuts, steps of the light, pulses of a codec's key frames.

They are told from four figures that the test of a frame leaves anyway (``videoeff.kernels.reference.seen``).
Nothing is done about them: a cut is computed whole because everything moved. They explain a report, and
pulses say that the test is finer than the codec.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: Frames that are remembered.
MOST = 4096
#: At a cut, or a step of the light, at least this share of the blocks moves, twice that of the frame before.
_WHOLE = 0.5
#: Pictures less alike than the first are of other scenes; those more alike than the second may be of one in
#: another light, if that explains so much of the difference: a large object that passes does not.
_OTHER, _ALIKE, _EXPLAINED = 0.5, 0.7, 0.8
#: At a pulse at least this share of the blocks newly moves, and so many times the share around it.
_PULSE, _TIMES = 0.02, 2.0
#: Frames to each side that a pulse is compared with.
_AROUND = 15
#: So many pulses at least; of the frames at their distance this share has one, of the others at most that.
_FEWEST, _REGULAR, _OTHERS = 5, 0.9, 0.2


@dataclass(frozen=True)
class Events:
    """What happened to one camera's picture, in frames counted from 0 at the start of the report.

    Attributes:
        camera: which input, "" if there is one, and which stream.
        cuts: frames in which another scene began.
        light: frames in which the whole picture became brighter or darker.
        period: frames between pulses of small changes over the whole picture, as a codec's key frames make
            them; None where there are none.
    """

    camera: str
    cuts: tuple[int, ...] = ()
    light: tuple[int, ...] = ()
    period: int | None = None

    def __bool__(self) -> bool:
        return bool(self.cuts or self.light or self.period)

    def __str__(self) -> str:
        parts = []
        if self.cuts:
            parts.append(f"{_count(self.cuts, 'scene cut')} at {_frames(self.cuts)}")
        if self.light:
            parts.append(f"{_count(self.light, 'step')} of the light at {_frames(self.light)}")
        if self.period is not None:
            parts.append(f"key-frame pulses every {self.period} frames")
        text = "; ".join(parts)
        return f"{self.camera}: {text}" if self.camera else text


def _count(found: Sequence[int], what: str) -> str:
    return f"{len(found)} {what}{'s' if len(found) != 1 else ''}"


def _frames(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(n) for n in numbers[:8])
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"frame{'s' if len(numbers) != 1 else ''} {shown}{more}"


@dataclass
class Recorder:
    """Collects the figures of the last :data:`MOST` frames of each input; reads none until asked."""

    frames: int = 0
    #: By input (MOST, rows, 4); the figures of frame n lie at n modulo MOST.
    _figures: dict[str, Tensor] = field(default_factory=dict)
    #: By input the frames that its figures reach from and to.
    _first: dict[str, int] = field(default_factory=dict)
    _last: dict[str, int] = field(default_factory=dict)

    def add(self, seen: Mapping[str, Tensor]) -> None:
        """The figures of the next frame, (rows, 4) by input; their memory may be used again."""
        for name, figures in seen.items():
            ring = self._figures.get(name)
            if ring is None:
                with torch.inference_mode(False):  # made under it, it could not be written outside
                    ring = torch.empty(MOST, *figures.shape, dtype=figures.dtype, device=figures.device)
                self._figures[name] = ring
                self._first[name] = self.frames
            else:
                for missed in range(max(self._last[name] + 1, self.frames - MOST), self.frames):
                    ring[missed % MOST].fill_(math.nan)  # it had no threshold then
            ring[self.frames % MOST].copy_(figures)
            self._last[name] = self.frames
        self.frames += 1

    def series(self, name: str) -> tuple[Sequence[int], Tensor]:
        """The frames of an input that are remembered, and their figures (frames, rows, 4) on the host."""
        ring, last = self._figures[name], self._last[name]
        numbers = range(max(self._first[name], last + 1 - MOST), last + 1)
        return numbers, ring[torch.tensor([n % MOST for n in numbers], device=ring.device)].cpu()

    def events(self) -> tuple[Events, ...]:
        """What happened, of each input and stream of which something is to be told; waits for the device."""
        found = []
        for name in self._figures:
            numbers, series = self.series(name)
            for row in range(series.shape[1]):
                parts = [name] if len(self._figures) > 1 else []
                parts += [f"stream {row}"] if series.shape[1] > 1 else []
                events = events_of(numbers, series[:, row].tolist(), ", ".join(parts))
                found += [events] if events else []
        return tuple(found)


def events_of(numbers: Sequence[int], figures: Sequence[Sequence[float]], camera: str = "") -> Events:
    """The events of one camera.

    Args:
        numbers: of the frames.
        figures: of each frame, as ``videoeff.kernels.reference.seen`` defines them.
        camera: what to call it.
    """
    cuts, light = [], []
    before = 0.0
    for number, (moved, _, alike, explained) in zip(numbers, figures, strict=True):
        if moved >= _WHOLE and moved >= 2 * before:
            if alike < _OTHER:
                cuts.append(number)
            elif alike >= _ALIKE and explained >= _EXPLAINED:
                light.append(number)
        before = moved if moved == moved else 0.0  # NaN: a first frame
    whole = {*cuts, *light}
    rises = [0.0 if n in whole or f[1] != f[1] else f[1] for n, f in zip(numbers, figures, strict=True)]
    return Events(camera, tuple(cuts), tuple(light), _period(rises))


def _period(rises: Sequence[float]) -> int | None:
    """After how many frames small changes rise over the whole picture again and again, None if they do not.

    It is the shortest distance at which nearly all frames of some phase stand out of the frames around them,
    and few others do.
    """
    stands = [_stands_out(rises, i) for i in range(len(rises))]
    total = sum(stands)
    for period in range(2, len(rises) // _FEWEST + 1):
        for phase in range(period):
            inside = stands[phase::period]
            if sum(inside) >= _FEWEST and sum(inside) >= _REGULAR * len(inside):
                others = (total - sum(inside)) / (len(stands) - len(inside))
                if others <= _OTHERS:
                    return period
    return None


def _stands_out(values: Sequence[float], place: int) -> bool:
    """Whether a value is a multiple of the median around it."""
    if values[place] < _PULSE:
        return False
    near = [*values[max(0, place - _AROUND) : place], *values[place + 1 : place + 1 + _AROUND]]
    return bool(near) and values[place] > _TIMES * statistics.median(near)
