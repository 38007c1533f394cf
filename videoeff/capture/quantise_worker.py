"""Quantises an exported network, in a process of its own: ``python -m ... FOLDER``.

FOLDER holds ``network.pt2`` and the calls to calibrate on, ``0.pt``, ``1.pt`` and so on, each a tuple of
arguments. ``quantised.pt2`` is written beside them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

NETWORK, QUANTISED = "network.pt2", "quantised.pt2"


def quantise(folder: Path) -> None:
    """Quantise the network in a folder by NNCF's post-training quantisation."""
    import nncf
    from torchvision import ops  # registers operators that networks may call

    from videoeff.ops import quantize  # and so does this

    assert ops
    assert quantize
    module = torch.export.load(folder / NETWORK).module()
    calls = sorted(folder.glob("*.pt"), key=lambda path: int(path.stem))

    def fed(path: Path) -> Any:
        return tuple(torch.load(path, weights_only=True))

    with torch.no_grad():
        quantised = nncf.quantize(
            module, nncf.Dataset(calls, fed), preset=nncf.QuantizationPreset.MIXED, subset_size=len(calls)
        )
        exported = torch.export.export(quantised, fed(calls[0]), strict=False)
    torch.export.save(exported, folder / QUANTISED)


if __name__ == "__main__":
    quantise(Path(sys.argv[1]))
