"""The CUDA backend: regions as Triton kernels of one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch

from videoeff.kernels.backend import Accepted, Backend, Declined, Group
from videoeff.kernels.call import Context, RegionCall
from videoeff.kernels.region_spec.spec import RegionSpec
from videoeff.kernels.triton.describe import describe, interpreted, served_device


class TritonBackend(Backend[RegionSpec]):
    """Serves on CUDA what ``describe`` has a region spec for; interpreted on the CPU for tests.

    Triton is imported on use.
    """

    name = "triton"
    grouping = True

    def pixel_stride_of(self, channels: int, device: str) -> int:
        """Pixels begin at 16 bytes in half precision: channels are loaded eight (or four) at a time."""
        if device != served_device() or channels < 3:
            return 0
        return 4 if channels <= 4 else -(-channels // 8) * 8

    def unavailable(self) -> str:
        """Why it cannot work on this machine."""
        if find_spec("triton") is None:
            return "triton is not installed"
        if interpreted():
            return ""
        if not torch.cuda.is_available():
            return "PyTorch finds no CUDA device"
        major, minor = torch.cuda.get_device_capability()
        return "" if major >= 8 else f"the device is sm_{major}{minor}, at least sm_80 is needed"

    def accept(self, call: RegionCall) -> Accepted[RegionSpec] | Declined:
        """The region's spec."""
        return describe(call)

    def build(self, accepted: Accepted[RegionSpec]) -> Callable[[Context], None]:
        """The call as a plan of its own, whose mask everybody may read."""
        return self.build_group([accepted], frozenset({accepted.call.name})).run

    def build_group(self, accepted: Sequence[Accepted[RegionSpec]], exported: frozenset[str]) -> Group:
        """The calls as one plan."""
        from videoeff.kernels.triton.plan import TritonPlan

        return TritonPlan(accepted, exported)
