"""Read-only facts about a Program: shapes, layouts, cost."""

from videoeff.analysis.annotate import annotate
from videoeff.analysis.cost import is_convolution, macs, parameters
from videoeff.ir.layout import invalidate

__all__ = ["annotate", "invalidate", "is_convolution", "macs", "parameters"]
