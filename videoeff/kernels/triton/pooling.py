"""Maximum pooling."""

from __future__ import annotations

import triton
import triton.language as tl

from videoeff.kernels.region_spec.producers import MaxPool
from videoeff.kernels.triton.binding import Binding, Launch
from videoeff.kernels.triton.device import block_columns, commit, count_pixels, length, pixels, plain_site
from videoeff.kernels.triton.programme import place_of, programme, room_of

#: Most columns of a window that are unrolled.
UNROLLED = tl.constexpr(7)


@triton.jit
def _tap(top, source, r, iy, inside, ix, cols, exists, width):
    """The larger of what is known and one tap; NaN of either. What lies beside the input is no candidate."""
    ok = (inside & (ix >= 0) & (ix < width))[:, None] & room_of(source, cols, exists[None, :])
    value = tl.load(source[0] + place_of(source, r, iy, ix, cols), mask=ok, other=float("-inf"))
    return tl.maximum(top, value, propagate_nan=tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=["full", "counting"])
def maximum(
    site, work, out, test, args, edges, full, counting, source, shape, window,
    U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, NB: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr,
    CODE: tl.constexpr, TEST: tl.constexpr, TOGETHER: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    """The largest value of a window, strided, dilated, padded.

    Args:
        source: the input, like ``out``.
        shape: (H, W of the input, channels).
        window: (stride y, x, padding y, x, dilation y, x).
    """
    site = plain_site(site)
    units, whole = length(work, site, full)
    chunks = tl.cdiv(units, BM // (U * U))
    for t in tl.range(tl.program_id(0), chunks * NB, tl.num_programs(0)):
        chunk = t // NB
        block = t % NB
        r, y, x, valid = pixels(chunk, units, whole, work, site, U, BM)
        count_pixels(work, valid, block, counting)
        cols, exists = block_columns(block, shape[2], None, BN)
        left = x * window[1] - window[3]
        top = tl.full([BM, BN], float("-inf"), source[0].dtype.element_ty)
        for ky in range(KH):
            iy = y * window[0] - window[2] + ky * window[4]
            inside = valid & (iy >= 0) & (iy < shape[0])
            if KW <= UNROLLED:
                for kx in tl.static_range(KW):
                    top = _tap(top, source, r, iy, inside, left + kx * window[5], cols, exists, shape[1])
            else:
                for kx in range(KW):
                    top = _tap(top, source, r, iy, inside, left + kx * window[5], cols, exists, shape[1])
        value = programme(top.to(tl.float32), args, CODE, r, y, x, cols, valid, exists[None, :], test[5])
        commit(value, chunk, block, full, r, y, x, valid, cols, exists[None, :], site, work, out, test,
               edges, U, BM, BN, NB, TEST, TOGETHER, EDGES)  # fmt: skip


def launch(b: Binding, found: MaxPool) -> Launch:
    """The launch of a maximum pooling."""
    window = found.window
    blocks = -(-b.channels // b.config.BN)
    special = {
        "source": b.view(found.input),
        "shape": (found.input.extent[1], found.input.extent[2], b.columns(b.channels)),
        "window": (*window.stride, *window.padding, *window.dilation),
        "KH": window.kernel[0],
        "KW": window.kernel[1],
    }
    return b.launch(maximum, blocks, b.channels, special).bounded()
