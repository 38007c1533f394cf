"""Read-only facts about a Program: shapes, layouts, cost."""

from videoeff.analysis.annotate import annotate, invalidate
from videoeff.analysis.cost import is_convolution, macs, parameters

__all__ = ["annotate", "invalidate", "is_convolution", "macs", "parameters"]
