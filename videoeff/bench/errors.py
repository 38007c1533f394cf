"""How far a contender's outputs on a clip are from float32, beside which its time means something."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoeff.bench.contenders import Contenders
from videoeff.bench.spec import COARSE, EAGER, SKIPS, STREAM
from videoeff.calibration.controls import skip_label

Outputs = Sequence[NDArray[Any]]

#: Most frames whose outputs are looked at, the first included.
MOST = 13


def relative(found: Outputs, expected: Outputs) -> float:
    """||found − expected|| / ||expected|| over all arrays of a frame."""
    wrong = sum(
        float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(found, expected, strict=True)
    )
    size = sum(float(np.square(b.astype(np.float64)).sum()) for b in expected)
    return math.sqrt(wrong / size) if size else math.sqrt(wrong)


def mean_error(found: Sequence[Outputs], expected: Sequence[Outputs]) -> float:
    """Mean relative error of the frames after the first."""
    return statistics.mean(relative(a, b) for a, b in zip(found[1:], expected[1:], strict=True))


def on_clip(
    contenders: Contenders, clip: dict[str, Any], frames: int, streams: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """The mean relative error of everybody who is not exact, against eager PyTorch.

    Args:
        contenders: the contenders, checked.
        clip: a clip that starts anew whenever it is asked for.
        frames: of the clip; at most :data:`MOST` are looked at.
        streams: the stream's settings by label.

    Returns:
        For each coarse runtime, each way of frame skipping and each of the stream's settings its error.
    """
    count = min(frames, MOST)

    def outputs(kind: str) -> list[Outputs]:
        arrays = contenders.outputs(kind, clip, count)
        return [
            [a for name, a in arrays.items() if name.startswith(f"frame{index}_")] for index in range(count)
        ]

    expected = outputs(EAGER)
    found = {kind: mean_error(outputs(kind), expected) for kind in COARSE if kind in contenders.ready}
    for step in SKIPS:
        held = [expected[index - index % step] for index in range(count)]
        found[skip_label(step)] = mean_error(held, expected)
    for label, options in streams.items():
        contenders.ready[STREAM].ask("configure", **options)
        found[label] = mean_error(outputs(STREAM), expected)
    return found
