"""Means over all pixels of a map: sums of tiles are kept, those of tiles that changed are made anew."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from videoeff.kernels.region_spec.producers import Mean
from videoeff.kernels.triton import rows
from videoeff.kernels.triton.binding import Binding, Launch, site_of
from videoeff.kernels.triton.configs import power_of_two, present, special
from videoeff.kernels.triton.device import length, plain_site
from videoeff.kernels.triton.epilogue import place_of, room_of

#: Edge of a tile in pixels.
TILE = 16

#: Channels summed at once.
WIDE = 32


def tiled(layer: str) -> str:
    """The name of the list of a mean's tiles."""
    return f"{layer}/tiles"


@triton.jit(do_not_specialize=["full"])
def tile_sums(
    site, worklist, source, sums, stale, channels, full, U: tl.constexpr, BN: tl.constexpr, NB: tl.constexpr
):  # fmt: skip
    """Sum the pixels of each listed tile, always in the same order.

    Args:
        source: ``ViewArgs`` of the map.
        sums: (tiles of all rows, channels) float32.
        stale: whether all sums are to be made anew, int32.
        channels: of the map.
    """
    site = plain_site(site)
    tiles, whole = length(worklist, site, full | tl.load(stale))
    inner = tl.arange(0, U * U)
    for t in tl.range(tl.program_id(0), tiles * NB, tl.num_programs(0)):
        slot = t // NB
        tile = tl.where(whole != 0, slot, tl.load(worklist.listed + slot))
        y = ((tile // site.tiles_wide) % site.tiles_high) * U + inner // U
        x = (tile % site.tiles_wide) * U + inner % U
        cols = (t % NB) * BN + tl.arange(0, BN)
        here = ((y < site.height) & (x < site.width))[:, None] & room_of(
            source, cols, (cols < channels)[None, :]
        )
        place = place_of(source, tile // (site.tiles_high * site.tiles_wide), y, x, cols)
        values = tl.load(source.pointer + place, mask=here, other=0.0).to(tl.float32)
        tl.store(sums + tile * channels + cols, tl.sum(values, 0), mask=cols < channels)


def launches(b: Binding, found: Mean) -> tuple[Launch, ...]:
    """The sums of tiles, and the rows that follow from them."""
    memory, worklist = b.memory, b.before
    assert worklist is not None  # its tiles
    channels = b.spec.channels
    sums = memory.keep(torch.zeros(worklist.tiles * channels, dtype=torch.float32))
    stale = memory.stale[memory.place(worklist) :]
    wide = power_of_two(min(channels, WIDE))
    blocks = -(-channels // wide)
    config = special("tiles", worklist.extent, channels, present(b.call.device))
    programs = max(1, min(memory.processors * config.programs, worklist.tiles * blocks))
    given = {
        "site": site_of(worklist),
        "worklist": b.worklist_of(worklist),
        "source": b.view(found.input),
        "sums": sums,
        "stale": stale,
        "channels": channels,
        "U": TILE,
        "BN": wide,
        "NB": blocks,
    }
    options = {"num_warps": config.warps, "maxnreg": 128}
    first = Launch(b.call.name, tile_sums, programs, given, options, ("full",))
    pixels = worklist.extent[1] * worklist.extent[2]
    held = rows.MeanArgs(sums, worklist.tiles // worklist.extent[0], channels, pixels)
    return first, *rows.launches(b, held, stale)
