"""How regions are computed: one folder a backend, one entry each in the priority list."""

from typing import Any

from videoeff.kernels.backend import Accepted, Backend, Counted, Declined, Group, NotFinite
from videoeff.kernels.cpp.region import CppBackend
from videoeff.kernels.reference.region import ReferenceBackend
from videoeff.kernels.triton.region import TritonBackend

#: Tried in this order by ``backend="auto"``. What a backend's descriptions are is its own affair.
BACKENDS: tuple[Backend[Any], ...] = (TritonBackend(), CppBackend(), ReferenceBackend())

__all__ = ["BACKENDS", "Accepted", "Backend", "Counted", "Declined", "Group", "NotFinite"]
