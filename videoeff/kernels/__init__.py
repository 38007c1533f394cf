"""How regions are computed: one folder a backend, one entry each in the priority list."""

from videoeff.kernels.backend import Counted, Group, Implementation, NotFinite
from videoeff.kernels.cpp.region import CppRegion
from videoeff.kernels.reference.region import ReferenceRegion
from videoeff.kernels.triton.region import TritonRegion

#: Tried in this order by ``backend="auto"``.
IMPLEMENTATIONS: tuple[Implementation, ...] = (TritonRegion(), CppRegion(), ReferenceRegion())

__all__ = ["IMPLEMENTATIONS", "Counted", "Group", "Implementation", "NotFinite"]
