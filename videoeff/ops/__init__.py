"""What each operator means to a stream: layout, reach, cost and test cases. One export line an op."""

from videoeff.ops import channel, convolution, layout, pixel, pooling, quantize, resample, reshape, select
from videoeff.ops.base import OPS, REGISTRY, Case, NotLocal, Op, op_of

__all__ = [
    "OPS",
    "REGISTRY",
    "Case",
    "NotLocal",
    "Op",
    "channel",
    "convolution",
    "layout",
    "op_of",
    "pixel",
    "pooling",
    "quantize",
    "resample",
    "reshape",
    "select",
]
