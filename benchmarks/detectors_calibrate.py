"""Calibrated streams of the detectors' benchmark: settings that two thirds of a clip suggest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from videoeff.bench.spec import STREAM
from videoeff.calibration.calibrate import calibrate
from videoeff.video.preprocess import Preprocess

#: What calibrated streams are called, by the word of their budget.
LABELS = {"settled": f"{STREAM}, settled kept", "int8": f"{STREAM}, as close as int8"}
BUDGETS = tuple(LABELS)
#: Settled agreement that is to be kept: of a network, and on one clip.
SETTLED: Mapping[str, float] = {"fastestdet": 0.97, "yolox_nano": 0.99, "fastestdet/campus": 0.98}

Note = Callable[[str], None]


@dataclass(frozen=True)
class Calibrated:
    """One calibration.

    Attributes:
        options: how a worker configures its stream.
        told: budget, settings, figures on the part that was searched on and on that held back, seconds.
    """

    options: Mapping[str, Any]
    told: Mapping[str, Any]


def budget_of(word: str, network: str, clip: str) -> str:
    """The budget that a word of :data:`BUDGETS` stands for."""
    if word != "settled":
        return word
    return f"settled={SETTLED.get(f'{network}/{clip}', SETTLED[network])}"


def calibrated(
    file: Path, clip: Path, preprocess: Preprocess, budget: str, threads: int, note: Note
) -> Calibrated:
    """Calibrate a network on a clip.

    Args:
        file: of the exported network.
        clip: file.
        preprocess: from a frame to the input.
        budget: as :func:`videoeff.calibrate` takes it.
        threads: to compute with.
        note: told what was found.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        record = calibrate(torch.export.load(file), clip, budget, preprocess=preprocess).record
    finally:
        torch.set_num_threads(before)
    held = record["held"]
    note(f"{budget}: {held['label']}: {held['figure']['value']:.4f}, {100 * held['work']:.1f} % of the work")
    kept = (
        "budget",
        "kept",
        "limit",
        "held_limit",
        "settings",
        "chosen",
        "held",
        "curve",
        "seconds",
        "notes",
    )
    options = {"passes": record["passes"], "layers": record["settings"]["layers"]}
    return Calibrated(options, {k: record[k] for k in kept})
