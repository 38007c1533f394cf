"""Quantises an exported network in a process of its own: ``python -m videoeff.calibration.quantise FOLDER``.

NNCF and OpenVINO's converter change settings of the process, and send statistics of use unless its
environment says no; so they do not run in the caller's. FOLDER holds ``network.pt2``, for each of its inputs
the values on the calibration frames, ``input_0.raw`` and so on, and their dtypes and shapes (N, ...) in
``inputs.json``. ``int8.xml`` is written beside them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videoeff.calibration.openvino_files import input_numbers, write_int8, write_onnx, write_openvino
from videoeff.serialize.operators import import_operators

NETWORK, INPUTS, INT8 = "network.pt2", "inputs.json", "int8.xml"


def quantise(folder: Path) -> None:
    """Quantise the network in a folder."""
    import openvino

    import_operators(folder / NETWORK)
    module = torch.export.load(folder / NETWORK).module()
    forms = json.loads((folder / INPUTS).read_text(encoding="utf-8"))
    frames = [
        np.memmap(folder / f"input_{number}.raw", dtype, "r", shape=tuple(shape))
        for number, (dtype, shape) in enumerate(forms)
    ]
    count = len(frames)
    example = [torch.from_numpy(np.array(values[0])) for values in frames]

    def onnx() -> Path:
        write_onnx(module, example, folder / "network.onnx")
        return folder / "network.onnx"

    source = folder / "network.xml"
    write_openvino(onnx, lambda: (module, example), source)
    numbers = input_numbers(openvino.Core().read_model(str(source)), count)

    def fed(index: int) -> Any:
        return [np.array(frames[number][index]) for number in numbers]

    write_int8(source, range(len(frames[0])), fed, folder / INT8)


if __name__ == "__main__":
    quantise(Path(sys.argv[1]))
