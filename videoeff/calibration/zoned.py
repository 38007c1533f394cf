"""Frames of a clip for a stream with zones, the same whichever frame a trial begins with."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from videoeff.calibration.controls import Feed
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.runtime.zoning import compose_on, masks_of


def frozen(feed: Feed, stream: StreamingModule, first: Any) -> Feed:
    """A feed whose frames keep, where zones ignore pixels, those of the clip's first frame.

    Trials begin at many places of a clip. So that the outputs of the dense network are the same in all of
    them, what a stream would keep from its own first frame is the same everywhere.

    Args:
        feed: makes the call of a frame.
        stream: the stream, with its zones.
        first: the clip's first frame.
    """
    masks = masks_of(stream.body)
    if not masks:
        return feed
    base = _tensors(feed(first))

    def fed(frame: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        with torch.no_grad():
            seen = compose_on(masks, stream.body, _tensors(feed(frame)), base)
        return stream.body.signature.call(seen)

    return fed


def _tensors(call: Any) -> list[Tensor]:
    return [v for v in pytree.tree_leaves(call) if isinstance(v, Tensor)]
