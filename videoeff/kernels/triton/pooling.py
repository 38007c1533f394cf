"""Maximum pooling."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from videoeff.kernels.region_spec.producers import MaxPool
from videoeff.kernels.triton.binding import Binding, Launch, window_of
from videoeff.kernels.triton.device import block_columns, commit, count_pixels, length, pixels, plain_site
from videoeff.kernels.triton.epilogue import epilogue, place_of, room_of

#: Most columns of a window that are unrolled.
UNROLLED = tl.constexpr(7)


class ShapeArgs(NamedTuple):
    """The sizes of a pooling.

    Attributes:
        height, width: of the input.
        per_group: channels, as ``block_columns`` takes them.
    """

    height: Any
    width: Any
    per_group: Any


@triton.jit
def _tap(top, source, r, iy, inside, ix, cols, exists, width):
    """The larger of what is known and one tap; NaN of either. What lies beside the input is no candidate."""
    ok = (inside & (ix >= 0) & (ix < width))[:, None] & room_of(source, cols, exists[None, :])
    value = tl.load(source.pointer + place_of(source, r, iy, ix, cols), mask=ok, other=float("-inf"))
    return tl.maximum(top, value, propagate_nan=tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=["full", "counting"])
def maximum(
    site, worklist, out, test, args, edges, full, counting, source, shape, window,
    U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, NB: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr,
    CODE: tl.constexpr, TEST: tl.constexpr, TOGETHER: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    """The largest value of a window, strided, dilated, padded.

    Args:
        source: ``ViewArgs`` of the input.
        shape: ``ShapeArgs``.
        window: ``WindowArgs``.
    """
    site = plain_site(site)
    tiles, whole = length(worklist, site, full)
    chunks = tl.cdiv(tiles, BM // (U * U))
    for t in tl.range(tl.program_id(0), chunks * NB, tl.num_programs(0)):
        chunk = t // NB
        block = t % NB
        r, y, x, valid = pixels(chunk, tiles, whole, worklist, site, U, BM)
        count_pixels(worklist, valid, block, counting)
        cols, exists = block_columns(block, shape.per_group, None, BN)
        left = x * window.stride_x - window.padding_x
        top = tl.full([BM, BN], float("-inf"), source.pointer.dtype.element_ty)
        for ky in range(KH):
            iy = y * window.stride_y - window.padding_y + ky * window.dilation_y
            inside = valid & (iy >= 0) & (iy < shape.height)
            if KW <= UNROLLED:
                for kx in tl.static_range(KW):
                    top = _tap(
                        top, source, r, iy, inside, left + kx * window.dilation_x, cols, exists, shape.width
                    )
            else:
                for kx in range(KW):
                    top = _tap(
                        top, source, r, iy, inside, left + kx * window.dilation_x, cols, exists, shape.width
                    )
        value = epilogue(top.to(tl.float32), args, CODE, r, y, x, cols, valid, exists[None, :], test.channels)
        commit(value, chunk, block, full, r, y, x, valid, cols, exists[None, :], site, worklist, out, test,
               edges, U, BM, BN, NB, TEST, TOGETHER, EDGES)  # fmt: skip


def launch(b: Binding, found: MaxPool) -> Launch:
    """The launch of a maximum pooling."""
    window = found.window
    blocks = -(-b.channels // b.config.BN)
    special = {
        "source": b.view(found.input),
        "shape": ShapeArgs(found.input.extent[1], found.input.extent[2], b.columns(b.channels)),
        "window": window_of(window),
        "KH": window.kernel[0],
        "KW": window.kernel[1],
    }
    return b.launch(maximum, blocks, b.channels, special).bounded()
