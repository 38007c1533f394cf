"""The watched pixels of an input as text: the option ``watched`` of a delta cache.

The text is ``"RxHxW:..."``: the extent of the mask, and its bits, packed and compressed, in base64.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TEXT = re.compile(r"(\d{1,9})x(\d{1,9})x(\d{1,9}):([A-Za-z0-9+/=]*)")


def mask_to_text(mask: Tensor) -> str:
    """A mask of watched pixels as text, "" where all of them are.

    Args:
        mask: bool (R, H, W); R is 1 where all rows of the batch share it.
    """
    if bool(mask.all()):
        return ""
    bits = np.packbits(mask.cpu().numpy().reshape(-1))
    extent = "x".join(str(n) for n in mask.shape)
    return f"{extent}:{base64.b64encode(zlib.compress(bits.tobytes(), 9)).decode('ascii')}"


def text_to_mask(text: str) -> Tensor:
    """What :func:`mask_to_text` wrote, bool (R, H, W).

    Raises:
        ValueError: it is no such text.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError("it is no mask of pixels")
    extent = tuple(int(n) for n in found.groups()[:3])
    count = math.prod(extent)
    reader = zlib.decompressobj()
    try:
        data = reader.decompress(base64.b64decode(found[4], validate=True), -(-count // 8) + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"its bits cannot be read ({error})") from error
    if len(data) != -(-count // 8):
        raise ValueError(f"it has {len(data)} byte(s) for {count} pixels")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=count)
    return torch.from_numpy(bits.astype(np.bool_)).view(extent)


def watched_problem(text: Any, extent: Sequence[int]) -> str:
    """Why a value cannot be the watched pixels of an input, "" if it can.

    Args:
        text: the value.
        extent: (R, H, W) of the input.
    """
    if text == "" and isinstance(text, str):
        return ""
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return "watched is no mask of pixels"
    rows, *size = (int(n) for n in found.groups()[:3])
    if rows not in (1, extent[0]) or size != list(extent[1:]):
        return f"watched is a mask of {rows}x{size[0]}x{size[1]} for an input of {list(extent)}"
    try:
        text_to_mask(text)
    except ValueError as error:
        return f"watched: {error}"
    return ""
