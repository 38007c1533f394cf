"""Which metrics suit a network: by a word, or by the form of its outputs where that leaves no doubt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from videoeff.calibration.agreement import (
    DetectionAgreement,
    ErrorAtDetections,
    MeanIoU,
    PixelAgreement,
    Segmentation,
    SettledAgreement,
    map_of,
)
from videoeff.calibration.decoders import (
    STRIDES,
    CellDecoder,
    Decoder,
    FastestDet,
    Torchvision,
    Ultralytics,
    UltralyticsSelected,
    Yolox,
    array,
    described,
    first_tensor,
    grid,
    is_detections,
    only_tensor,
)
from videoeff.calibration.metrics import Metric, RelativeError
from videoeff.errors import MetricError

#: The words of ``--decoder``; ``ultralytics:15`` says how many classes there are.
WORDS = ("fastestdet", "yolox", "ultralytics", "torchvision", "segmentation", "none")

#: Strides of the cells of Ultralytics' heads: as usual, with a finer level, with a coarser one, tiny.
_ULTRALYTICS = (STRIDES, (4, *STRIDES), (*STRIDES, 64), STRIDES[1:])
#: Most rows of an end-to-end head; it selects 300 unless told otherwise.
_SELECTED = 1000


def metrics_for(outputs: Any, size: tuple[int, int], word: str | None = None) -> tuple[Metric, ...]:
    """The metrics that suit a network; the last is the one to go by.

    Args:
        outputs: of the dense network, for one frame.
        size: (H, W) of the network's input in pixels.
        word: one of :data:`WORDS`; None recognises the outputs.

    Returns:
        For detectors the error at detections, agreement and settled agreement; for label maps the relative
        error, the mean intersection over union and pixel agreement; else the relative error.

    Raises:
        MetricError: the word is unknown, or what it names cannot read these outputs.
    """
    decoder = decoder_for(outputs, size, word)
    if isinstance(decoder, Segmentation):
        return RelativeError(), MeanIoU(decoder), PixelAgreement(decoder)
    if decoder is None:
        return (RelativeError(),)
    error = (ErrorAtDetections(decoder),) if isinstance(decoder, CellDecoder) else ()
    return *error, DetectionAgreement(decoder), SettledAgreement(decoder)


def metric_for(outputs: Any, size: tuple[int, int], word: str | None = None) -> Metric:
    """The one metric to judge a network by.

    It is settled agreement of detections, pixel agreement of label maps, else the relative error.
    Arguments and errors are those of :func:`metrics_for`.
    """
    return metrics_for(outputs, size, word)[-1]


def decoder_for(
    outputs: Any, size: tuple[int, int], word: str | None = None
) -> Decoder | Segmentation | None:
    """What reads a network's outputs; None where they are judged as numbers.

    Args:
        outputs: of the dense network, for one frame.
        size: (H, W) of the network's input in pixels.
        word: one of :data:`WORDS`; None recognises the outputs.

    Raises:
        MetricError: the word is unknown, or what it names cannot read these outputs.
    """
    decoder = _recognised(outputs, size) if word is None else _named(outputs, size, word)
    if decoder is not None:
        decoder.read(outputs)  # it says here, not in the middle of a clip, what does not fit
    return decoder


def _named(outputs: Any, size: tuple[int, int], word: str) -> Decoder | Segmentation | None:
    name, colon, number = word.partition(":")
    if name not in WORDS or (colon and (name != "ultralytics" or not number.isdecimal())):
        raise MetricError(
            f"decoder {word!r} is unknown; known: {', '.join(WORDS)}, and ultralytics:N for N classes"
        )
    first = first_tensor(outputs)
    if name == "ultralytics" and first is not None and first.ndim == 3:
        if _is_selected(first) and not colon:
            return UltralyticsSelected()
        return Ultralytics(classes=int(number) if colon else _classes(outputs, first))
    if name == "yolox":
        return _yolox(first, size)
    if name == "segmentation":
        return _segmentation(outputs)
    simple: dict[str, Decoder | None] = {
        "fastestdet": FastestDet(size=size),
        "ultralytics": Ultralytics(),
        "torchvision": Torchvision(),
    }
    return simple.get(name)


def _recognised(outputs: Any, size: tuple[int, int]) -> Decoder | Segmentation | None:
    if is_detections(outputs):
        return Torchvision()
    if isinstance(outputs, Mapping) and "out" in outputs and map_of(outputs) is not None:
        return _segmentation(outputs)
    only, first = only_tensor(outputs), first_tensor(outputs)
    if only is not None and _is_fastestdet(only, size):
        return FastestDet(size=size)
    if only is not None and _is_yolox(only, size):
        return _yolox(only, size)
    if first is not None and first.ndim == 3 and first.is_floating_point():
        counts = {len(grid(size, strides)) for strides in _ULTRALYTICS}
        if first.shape[1] > 4 and first.shape[2] in counts and _classes(outputs, first):
            return Ultralytics(classes=_classes(outputs, first))
        if _is_selected(first):
            return UltralyticsSelected()
    return None


def _is_fastestdet(output: Tensor, size: tuple[int, int]) -> bool:
    """A map of a sixteenth: objectness, four values of the box, probabilities that sum to 1."""
    sides = (size[0] // 16, size[1] // 16)
    if output.ndim != 4 or output.shape[1] < 7 or tuple(output.shape[2:]) != sides:
        return False
    values = array(output)
    return _shares(values[:, [0]]) and _shares(values[:, 5:]) and _near(values[:, 5:].sum(1), 1)


def _is_yolox(output: Tensor, size: tuple[int, int]) -> bool:
    """Rows of boxes, objectness and classes, one for each cell."""
    if output.ndim != 3 or output.shape[1] != len(grid(size, STRIDES)) or output.shape[2] < 6:
        return False
    return _shares(array(output)[..., 4:])


def _yolox(output: Tensor | None, size: tuple[int, int]) -> Yolox:
    """Sizes in pixels are above 0; raw ones are logarithms, below 0 for boxes smaller than their stride."""
    sized = output is not None and output.ndim == 3 and bool((output[..., 2:4] > 0).all())
    return Yolox(size=size, raw=not sized)


def _is_selected(output: Tensor) -> bool:
    """Rows of corners in order, a score and a whole number."""
    if output.ndim != 3 or output.shape[2] < 6 or output.shape[1] > _SELECTED or not output.shape[1]:
        return False
    rows = array(output)
    ordered = (rows[..., 2:4] >= rows[..., 0:2] - 1e-3).all()
    kinds = rows[..., 5]
    return bool(ordered and (kinds >= 0).all() and (kinds == kinds.round()).all()) and _shares(rows[..., 4])


def _classes(outputs: Any, output: Tensor) -> int:
    """How many channels (B, C, N) behind the box are classes, the rest being masks' or keypoints' values.

    The network may say so itself: by scores (B, classes, N) under that name beside the output, or by masks
    (B, coefficients, h, w) behind it. Else all channels up to the first that leaves 0..1.
    """
    behind = output.shape[1] - 4
    for found in _mappings(outputs):
        scores = found.get("scores")
        if isinstance(scores, Tensor) and scores.ndim == 3 and scores.shape[2] == output.shape[2]:
            return min(behind, scores.shape[1])
    if isinstance(outputs, (tuple, list)) and len(outputs) == 2:
        masks = outputs[1]
        if isinstance(masks, Tensor) and masks.ndim == 4 and masks.shape[1] < behind:
            return behind - masks.shape[1]
    values = array(output)[:, 4:]
    outside = np.nonzero(((values < 0) | (values > 1)).any((0, 2)))[0]
    return int(outside[0]) if len(outside) else behind


def _mappings(outputs: Any) -> Iterator[Mapping[Any, Any]]:
    """The dictionaries among outputs, however deep."""
    if isinstance(outputs, Mapping):
        yield outputs
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs
    if isinstance(parts, Sequence) or isinstance(outputs, Mapping):
        for part in parts:
            if isinstance(part, (Mapping, list, tuple)):
                yield from _mappings(part)


def _segmentation(outputs: Any) -> Segmentation:
    """One class alone is told at 0.5 where the values are probabilities, at 0 where they are logits."""
    found = map_of(outputs)
    sure = found is not None and found.is_floating_point() and found.shape[1] == 1 and _shares(array(found))
    return Segmentation(0.5 if sure else 0.0)


def _shares(values: Any) -> bool:
    """Whether all values lie in 0..1, but for rounding."""
    return bool(((values >= -1e-5) & (values <= 1 + 1e-5)).all())


def _near(values: Any, target: float) -> bool:
    return bool(np.allclose(values, target, atol=1e-3))


def advice(outputs: Any, size: tuple[int, int]) -> str:
    """A hint where outputs that were not recognised might be logits of classes; "" where they cannot be."""
    found = map_of(outputs)
    if found is None or decoder_for(outputs, size) is not None:
        return ""
    return (
        f"outputs of {described(outputs)} were judged as numbers; if they are logits of classes, "
        "--decoder segmentation judges the labels"
    )
