"""Grids: values kept as whole numbers of 8 bits, and the real numbers that they stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

#: The dtype of the numbers kept.
CODES = torch.uint8


@dataclass(frozen=True)
class Grid:
    """An affine grid: the number q, low <= q <= high, stands for ``(q - zero) * scale``.

    The same as PyTorch's ``quantize_per_tensor`` and ``quantize_per_channel`` (affine quantisation: Jacob et
    al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR
    2018, equation 1), of unsigned numbers: a signed 8-bit grid is this one with all numbers raised by 128.

    Attributes:
        scales: one number for the whole value, or one for each channel; above 0.
        zeros: as many: what stands for 0.
        low, high: the smallest and the largest number.
        dim: the dimension of the channels, -1 where one scale serves all.
    """

    scales: tuple[float, ...]
    zeros: tuple[int, ...]
    low: int = 0
    high: int = 255
    dim: int = -1

    @property
    def uniform(self) -> bool:
        """Whether one scale serves all channels."""
        return len(set(self.scales)) == len(set(self.zeros)) == 1

    def encode(self, value: Tensor) -> Tensor:
        """The nearest numbers, of :data:`CODES`; halves go to the even one. NaN becomes ``low``."""
        inverse, zero = self._constants(value, inverse=True)
        codes = (value.to(torch.float32) * inverse).round() + zero
        return torch.nan_to_num(codes.clamp(self.low, self.high), nan=float(self.low)).to(CODES)

    def beyond(self, value: Tensor, codes: Tensor) -> Tensor:
        """How far a value lies from what numbers stand for, float32, beyond what rounding alone may do.

        Half a step is taken off: a value that moved by less may have the same number, or the next one, by
        chance. Without it the noise of rounding looks like a change of a step here and there.
        """
        inverse, zero = self._constants(value, inverse=True)
        steps = (value.to(torch.float32) * inverse + zero).clamp(self.low, self.high)
        steps = torch.nan_to_num(steps, nan=float(self.low))
        far = ((steps - codes.to(torch.float32)).abs() - 0.5).clamp_min(0)
        return far * self._constants(codes, inverse=False)[0]

    def decode(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """What numbers stand for."""
        scale, zero = self._constants(codes, inverse=False)
        return ((codes.to(torch.float32) - zero) * scale).to(dtype)

    def _constants(self, value: Tensor, inverse: bool) -> tuple[Tensor | float, Tensor | float]:
        """The scale, or one over it, and the zero, so that they broadcast against a value."""
        if self.dim < 0:
            return (1.0 / self.scales[0] if inverse else self.scales[0]), float(self.zeros[0])
        shape = [1] * value.ndim
        shape[self.dim] = -1
        made = _tensors if isinstance(value, FakeTensor) else _kept_tensors
        scale, zero = made(self, value.device, inverse)
        return scale.view(shape), zero.view(shape)


def _tensors(grid: Grid, device: torch.device, inverse: bool) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        scales = [1.0 / s for s in grid.scales] if inverse else list(grid.scales)
        scale = torch.tensor(scales, dtype=torch.float32, device=device)
        return scale, torch.tensor(grid.zeros, dtype=torch.float32, device=device)


#: Not where shapes are derived: what is made there has no values.
_kept_tensors = lru_cache(maxsize=4096)(_tensors)


def grid_problem(grid: object) -> str:
    """Why a value is no option ``grid`` of a cache, "" if it is one or ``()``, which stands for none."""
    if grid == ():
        return ""
    legal = isinstance(grid, tuple) and len(grid) == 5 and all(isinstance(p, tuple) for p in grid[:2])
    if legal and isinstance(grid, tuple):
        scales, zeros, low, high, dim = grid
        numbers = all(isinstance(s, float) and 0 < s < math.inf for s in scales)
        whole = all(isinstance(z, int) for z in (*zeros, low, high, dim))
        if numbers and whole and len(scales) == len(zeros) >= 1 and 0 <= low < high <= 255:
            within = all(low <= z <= high for z in zeros)
            if within and (dim >= 0 or (dim == -1 and len(scales) == 1)):
                return ""
    return (
        f"grid={grid!r}: give (scales above 0, as many zeros, low, high, dim) with 0 <= low < high <= 255, "
        "zeros between them, and dim -1 for one scale"
    )


def grid_of(option: Sequence[object]) -> Grid | None:
    """The grid that a cache's option ``grid`` stands for, None for ``()``."""
    return Grid(*option) if option else None  # type: ignore[arg-type]


def option_of(grid: Grid) -> tuple[tuple[float, ...], tuple[int, ...], int, int, int]:
    """A grid as the option of a cache."""
    return (grid.scales, grid.zeros, grid.low, grid.high, grid.dim)
