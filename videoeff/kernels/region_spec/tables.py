"""Tables that no operator is asked for: those that pick pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from videoeff.ops.axis_tables import Table


def picked(indices: Sequence[int]) -> Table:
    """The table that picks pixels."""
    index = torch.tensor(list(indices), dtype=torch.int32).view(-1, 1)
    return Table(index, torch.ones(index.shape, dtype=torch.float64))
