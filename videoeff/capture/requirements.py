"""What an example call must be to be captured; each refusal says what to give instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from videoeff.analysis import is_convolution
from videoeff.errors import CaptureError
from videoeff.ir.layout import info
from videoeff.ir.program import Program
from videoeff.ops.base import op_name

#: Values of a call that are constants of the stream: another one is another call.
_LITERALS = (
    type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.memory_format,
    torch.layout, torch.Size, torch.Generator,
)  # fmt: skip


def require_call(args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> None:
    """Raise unless an example call holds tensors and constants alone.

    Raises:
        CaptureError: it holds an object of another class.
    """
    for path, leaf in pytree.tree_leaves_with_path((tuple(args), dict(kwargs))):
        if isinstance(leaf, (Tensor, *_LITERALS)):
            continue
        kind = type(leaf)
        place = pytree.keystr(path[1:])
        what = f"argument {place}" if path[0] == pytree.SequenceKey(0) else f"keyword argument {place}"
        raise CaptureError(
            f"{name}: {what} is a {kind.__module__}.{kind.__qualname__}, whose tensors cannot be seen; "
            f"register the class: torch.export.register_dataclass({kind.__qualname__}) for a dataclass, else "
            f"torch.utils._pytree.register_pytree_node({kind.__qualname__}, flatten, unflatten)"
        )


def require_batch(program: Program) -> None:
    """Raise if a picture without a batch leaves nothing to follow.

    Raises:
        CaptureError: no input has four dimensions, one has three, and no two-dimensional convolution's pixels
            are followed.
    """
    shapes = [tuple(info(node).shape or ()) for node in program.placeholders]
    convolutions = [n for n in program.nodes if is_convolution(n) and len(info(n).shape or ()) in (3, 4)]
    flat = [n for n in convolutions if op_name(n) in ("conv2d", "conv_transpose2d")]
    if not flat or any(len(s) >= 4 for s in shapes) or not any(len(s) == 3 for s in shapes):
        return
    if all(info(node).dense for node in convolutions):
        shape = list(next(s for s in shapes if len(s) == 3))
        raise CaptureError(
            f"{program.name}: the example is {shape}, a picture without a batch, and no pixel of it can "
            f"be followed; give a batch, {[1, *shape]} (frame[None]), to a model that takes one; where the "
            "model's own code adds it, convert the module that is called with the batch"
        )
