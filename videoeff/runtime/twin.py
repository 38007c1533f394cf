"""A twin of what a stream runs: weights in the same memory, state of its own."""

from __future__ import annotations

import copy
from typing import Any

import torch

from videoeff.runtime.body import StreamBody


def twin_of(body: StreamBody) -> StreamBody:
    """Another body of the same network that begins with its first frame.

    What a model's own code writes from frame to frame is state, so that the twin has its own.
    """
    with torch.inference_mode(False), torch.no_grad():
        memo: dict[Any, Any] = {id(engine): engine.twin() for engine in body.engines.values()}
        if id(body) in memo:
            return memo[id(body)]  # type: ignore[no-any-return]
        state = set(map(id, body.outside.values()))
        module: Any = body
        memo |= {id(t): t for t in (*module.parameters(), *module.buffers()) if id(t) not in state}
        twin = copy.deepcopy(body, memo)
        twin.outside.reset()
        if twin.freezer is not None:
            twin.freezer.reset()
    twin.clear_counts()
    return twin
