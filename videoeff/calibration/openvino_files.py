"""A network as files of other runtimes: ONNX, OpenVINO's own format, and that quantised to int8 by NNCF."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from videoeff.errors import BackendError, first_line

Array = NDArray[Any]


def write_onnx(model: nn.Module, example: Sequence[Tensor], path: Path) -> None:
    """Write a network as ONNX, at a fixed size; its inputs are called ``input_0`` and so on.

    Raises:
        BackendError: neither exporter of PyTorch can.
    """
    names = [f"input_{i}" for i in range(len(example))]
    reasons = []
    for dynamo in (False, True):  # the older exporter takes seconds where the newer takes minutes
        try:
            torch.onnx.export(
                model, tuple(example), str(path), dynamo=dynamo, input_names=names, verbose=False
            )
            return
        except Exception as error:  # noqa: BLE001 - exporters raise anything; it is kept as the reason
            reasons.append(f"{type(error).__name__}: {first_line(error)}")
    raise BackendError("neither exporter of PyTorch could write it as ONNX: " + "; ".join(reasons))


def write_openvino(
    onnx: Callable[[], Path], module: Callable[[], tuple[nn.Module, Sequence[Tensor]]], path: Path
) -> None:
    """Write a network in OpenVINO's own format, in float32.

    Args:
        onnx: gives its ONNX file, where there can be one.
        module: gives the network and an example, where there is none.
        path: the file to write, ``.xml``.
    """
    import openvino

    try:
        converted = openvino.convert_model(str(onnx()))
    except Exception:  # noqa: BLE001 - whatever the exporter or the importer raises, there is another way
        model, example = module()
        converted = openvino.convert_model(torch.export.export(model, tuple(example)))
    openvino.save_model(converted, str(path), compress_to_fp16=False)


def write_int8(source: Path, frames: Collection[Any], transform: Callable[[Any], Any], path: Path) -> None:
    """Quantise a network to int8 after training, by NNCF, and write it in OpenVINO's own format.

    Weights are symmetric and activations are not (NNCF's mixed preset), as its manual advises for
    activations other than ReLU; biases are corrected the fast way, which is its default.

    Args:
        source: the network in OpenVINO's own format.
        frames: what to calibrate on.
        transform: makes of one of them what the network takes.
        path: the file to write, ``.xml``.
    """
    import nncf
    import openvino

    quantised = nncf.quantize(
        openvino.Core().read_model(str(source)),
        nncf.Dataset(frames, transform),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(frames),
    )
    openvino.save_model(quantised, str(path), compress_to_fp16=False)


def input_numbers(model: Any, count: int) -> list[int]:
    """For each input of an OpenVINO model the number of the network's input; an exporter may drop some.

    Raises:
        BackendError: they cannot be told apart.
    """
    named = [[n for n in port.get_names() if n.startswith("input_")] for port in model.inputs]
    if all(named):
        return [int(names[0].removeprefix("input_")) for names in named]
    if len(named) == count:
        return list(range(count))
    raise BackendError(f"it has {len(named)} inputs as OpenVINO reads it, and the network has {count}")


class Compiled:
    """A network in OpenVINO's own format, ready to run on the CPU.

    Args:
        path: its file.
        count: how many inputs the network has.
        threads: it may use.
    """

    def __init__(self, path: Path, count: int, threads: int) -> None:
        import openvino

        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = openvino.Core().compile_model(str(path), "CPU", options)
        self._numbers = input_numbers(compiled, count)
        self._request = compiled.create_infer_request()
        self._outputs = len(compiled.outputs)

    def __call__(self, inputs: Sequence[Array]) -> list[Array]:
        """Its outputs for one frame."""
        fed = {place: np.ascontiguousarray(inputs[number]) for place, number in enumerate(self._numbers)}
        found = self._request.infer(fed, share_inputs=True, share_outputs=True)
        return [np.array(found[i]) for i in range(self._outputs)]  # the next frame overwrites them
