"""Contenders' answers on a labelled clip, judged; each kept in a file, so that one more costs no other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import videoeff
from benchmarks.labelled_contenders import Contender, follow, hold, options_on
from benchmarks.labelled_nets import DETECTOR, pad, padded, preprocess
from benchmarks.labelled_score import Judged, Truth, judge_boxes, judge_mask
from videoeff.calibration.boxes import Boxes
from videoeff.serialize.files import write_atomic

Array = NDArray[Any]
Note = Callable[[str], None]


def answer(kind: str, output: Tensor, size: tuple[int, int]) -> Any:
    """What a network's output says of a frame of ``size`` (height, width): a mask (H, W) or boxes."""
    height, width = size
    if kind == "segmenter":
        return (output[0, 0, :height, :width] > 0).numpy()
    found = DETECTOR.boxes(output.numpy(), padded(size))
    edges = [width, height, width, height]
    return Boxes(np.clip(found.boxes, 0, edges), found.scores, found.labels)


class Judge:
    """Judges contenders on one clip.

    Args:
        kind: ``segmenter`` or ``detector``.
        model: that network, in evaluation mode.
        frames: (T, H, W, 3).
        masks: (T, H, W).
        truth: what the masks say.
    """

    def __init__(self, kind: str, model: nn.Module, frames: Array, masks: Array, truth: Truth) -> None:
        self.kind, self.model, self.frames, self.masks, self.truth = kind, model, frames, masks, truth
        self.size: tuple[int, int] = (masks.shape[1], masks.shape[2])
        self.prepare = preprocess(self.size)
        self._dense: list[Any] | None = None

    def inputs(self, every: int = 1) -> Iterator[Tensor]:
        """Frames 0, n, 2n … as the network takes them."""
        for frame in self.frames[::every]:
            yield self.prepare(pad(frame)).contiguous(memory_format=torch.channels_last)

    def dense(self) -> list[Any]:
        """The dense network's answers to all frames, computed once."""
        if self._dense is None:
            model = self.model.to(memory_format=torch.channels_last)
            with torch.inference_mode():
                self._dense = [answer(self.kind, model(x), self.size) for x in self.inputs()]
        return self._dense

    def stream(self, contender: Contender) -> tuple[list[Any], float]:
        """A stream's answers to frames 0, n, 2n …, and the share of the work of those after the first."""
        example = next(self.inputs())
        options = options_on(contender, self.frames, self.prepare)
        stream = videoeff.convert(self.model, example, **options)
        with torch.inference_mode():
            answers = [answer(self.kind, stream(x), self.size) for x in self.inputs(contender.every)]
        macs = stream.report().macs
        return answers, macs["needed"] / macs["dense"]

    def judge(self, contender: Contender) -> tuple[Judged, float]:
        """Judge one; with the share of the dense network's work a frame."""
        frames, every = len(self.frames), contender.every
        if contender.dense:
            seen, work = self.dense()[::every], 1.0
        else:
            seen, work = self.stream(contender)
        if self.kind == "segmenter":
            answers = hold(seen, every, frames)
        elif contender.tracker:
            answers = follow(seen, every, frames)
        else:
            answers = [boxes.above(DETECTOR.score) for boxes in hold(seen, every, frames)]
        counts, found = zip(*(self._one(a, i) for i, a in enumerate(answers)), strict=True)
        return Judged(np.array(counts, np.int64), list(found)), work / every

    def _one(self, given: Any, frame: int) -> tuple[list[int], Array]:
        mask, truth = self.masks[frame], self.truth
        if self.kind == "segmenter":
            return judge_mask(given, mask, truth.objects[frame])
        return judge_boxes(given, mask, truth.objects[frame], truth.small[frame])


class Kept:
    """What was judged already, a file each.

    Args:
        folder: of the files.
        checkpoint: of the network; another network's answers are others.
    """

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.folder, self._network = folder, checkpoint.read_bytes()

    def path(self, kind: str, clip: str, contender: Contender) -> Path:
        """The file of one contender on one clip."""
        digest = hashlib.blake2b(self._network + repr(contender).encode(), digest_size=8).hexdigest()
        return self.folder / f"{kind}-{clip}-{digest}.npz"

    def put(self, path: Path, judged: Judged, work: float) -> None:
        """Keep."""
        lengths = np.array([len(f) for f in judged.found], np.int64)
        found = np.concatenate([*judged.found, np.empty(0, bool)])

        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                np.savez_compressed(
                    file, counts=judged.counts, found=found, lengths=lengths, work=np.array(work)
                )

        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, write)

    def get(self, path: Path) -> tuple[Judged, float]:
        """What was kept."""
        with np.load(path, allow_pickle=False) as arrays:
            found = np.split(arrays["found"], np.cumsum(arrays["lengths"])[:-1])
            return Judged(arrays["counts"], found), float(arrays["work"])


def judge_all(
    make: Callable[[], Judge],
    kept: Kept,
    clip: str,
    kind: str,
    contenders: Sequence[Contender],
    note: Note,
    again: bool = False,
) -> dict[str, tuple[Judged, float]]:
    """Every contender on a clip, judged or as it was kept; the clip is read only if one is missing."""
    found, judge = {}, None
    for contender in contenders:
        path = kept.path(kind, clip, contender)
        if again or not path.is_file():
            judge = judge or make()
            judged, work = judge.judge(contender)
            kept.put(path, judged, work)
            note(f"{kind} on {clip}: {contender.label}, {work:.3f} of the work")
        found[contender.label] = kept.get(path)
    return found
