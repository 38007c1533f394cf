"""Fuse pointwise chains and residual adds into the op that feeds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from videoeff.analysis.casts import is_cast
from videoeff.analysis.regions import region_of
from videoeff.ir import edit
from videoeff.ir.layout import info
from videoeff.ir.markers import cache_name, cache_option, is_cache, quantized
from videoeff.ir.program import Program, input_node
from videoeff.ops.base import bind, op_of, overload_name, pair, shape_of
from videoeff.passes.base import Notes, Pass


@dataclass(frozen=True)
class FusePointwise(Pass):
    """Drop the cache between an op and the pointwise op that alone reads it.

    The pair then fills one buffer, and the change test looks at what really follows: a change that a ReLU
    swallows is no change. A region keeps at most one op with a neighbourhood. A map that a gate scales
    (squeeze-excite) and one 1x1 convolution reads is scaled as the convolution reads it: a gate that moves
    recomputes both in any case. What was kept as 8-bit numbers is rounded to them on the way. A cast between
    float32 and bfloat16 stays a step of its own. Exact.
    """

    name: ClassVar[str] = "fuse-pointwise"
    needs: ClassVar[frozenset[str]] = frozenset({"caches"})

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Fuse until nothing more can be."""
        changed = False
        for cache in list(edit.caches(program)):
            if _scales_a_convolution(cache):
                _drop(program, cache)
                changed = True
                continue
            reason = _why_not(cache)
            if reason is None:
                _fuse(program, cache)
                changed = True
            elif reason:
                note(cache_name(cache), reason)
        return changed


def _scales_a_convolution(cache: fx.Node) -> bool:
    """Whether the cache keeps a map times a gate that nothing reads but one 1x1 convolution."""
    user, scaled = next(iter(cache.users), None), input_node(cache)
    if len(cache.users) != 1 or user is None or overload_name(user) != "conv2d.default":
        return False
    if cache_option(cache, "grid"):
        return False
    bound = bind(user)
    weight = bound["weight"]
    plain = not any(pair(bound["padding"])) and int(bound["groups"]) == 1 and weight.op == "get_attr"
    if not plain or bound["input"] is not cache or shape_of(weight)[2:] != (1, 1):
        return False
    if overload_name(scaled) != "mul.Tensor" or info(user).dense or info(scaled).dense:
        return False
    region = region_of(cache)
    gates = [n for n in region.reads if is_cache(n) and not info(n).is_spatial]
    return region.nodes == (scaled,) and len(region.reads) == 2 and len(gates) == 1


def _drop(program: Program, cache: fx.Node) -> None:
    value, grid = input_node(cache), cache_option(cache, "grid")
    if grid:
        value = edit.call(program, cache, quantized, (value, *grid))
        value.meta["value"] = info(cache)
    cache.replace_all_uses_with(value, delete_user_cb=lambda user: user is not value)
    program.graph.erase_node(cache)


def _why_not(cache: fx.Node) -> str | None:
    """None if the cache can go, a reason if a user might wonder, "" if nothing follows pointwise."""
    if len(cache.users) != 1 or cache_option(cache, "kind") != "map":
        return ""
    user = next(iter(cache.users))
    op = op_of(user)
    if op is None or op.role != "pixel" or not info(user).is_spatial or info(user).dense:
        return ""
    if is_cast(user) or any(is_cast(n) for n in region_of(cache).nodes):
        return ""
    follower = next(iter(user.users))
    if len(user.users) != 1 or not is_cache(follower):
        return ""
    layout, shape = info(cache).layout, info(cache).shape
    after, after_shape = info(user).layout, info(user).shape
    assert layout is not None  # a cache keeps a map
    assert shape is not None
    assert after is not None  # and so does the op that reads it
    assert after_shape is not None
    if layout.extent(shape) != after.extent(after_shape):
        return "the pointwise op after it has another number of pixels"
    if info(input_node(cache)).dense:
        return f"not fused with what follows, computed densely: {info(input_node(cache)).dense}"
    for other in user.all_input_nodes:
        if other is not cache and info(other).layout is not None and not info(other).is_spatial:
            return "not fused with the gate after it: a gate that moves would recompute this op as well"
    if len(region_of(cache).anchors) + len(region_of(follower).anchors) > 1:
        return "not fused with the add after it, which is fused with the other operand"
    return None


def _fuse(program: Program, cache: fx.Node) -> None:
    user = next(iter(cache.users))
    follower = next(iter(user.users))
    own, other = region_of(cache), region_of(follower)
    if own.anchors or not other.anchors:
        follower.args = (follower.args[0], cache.args[1])
    _drop(program, cache)
