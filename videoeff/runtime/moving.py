"""What moving or casting a stream needs beside moving its tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from videoeff.analysis import annotate
from videoeff.ir.program import Program
from videoeff.runtime.signature import FrameSpec

Move = Callable[[Tensor], Tensor]


def sharing(move: Move) -> Move:
    """``move``, after which tensors that shared memory share it still."""
    done: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def once(tensor: Tensor) -> Tensor:
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
        if key not in done or not tensor.numel():
            done[key] = (tensor.detach(), move(tensor))  # the first keeps its address from being used again
        return done[key][1]

    return once


def retype(program: Program, frame_specs: Sequence[FrameSpec], move: Move) -> None:
    """Give a program's inputs the dtypes that ``move`` gives them, and annotate it anew.

    Raises:
        CaptureError: the graph fixes a dtype inside.
    """
    specs = iter(frame_specs)
    for node in program.nodes:
        node.meta.pop("value", None)
        if node.op == "placeholder":
            shape = node.meta["input"][0]
            node.meta["input"] = (shape, move(torch.empty(0, dtype=next(specs).dtype)).dtype)
    annotate(program)
