"""How regions are computed: one folder a backend, one entry each in the priority list."""

from videoeff.kernels.base import Implementation
from videoeff.kernels.reference.region import ReferenceRegion

#: Tried in this order by ``backend="auto"``.
IMPLEMENTATIONS: tuple[Implementation, ...] = (ReferenceRegion(),)

__all__ = ["IMPLEMENTATIONS", "Implementation"]
