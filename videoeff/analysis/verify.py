"""What is legal at each stage of a Program. Leftovers raise."""

from __future__ import annotations

from torch import fx

from videoeff.errors import VerifyError
from videoeff.ir.grids import grid_of, grid_problem
from videoeff.ir.layout import info
from videoeff.ir.markers import (
    KINDS,
    TESTS,
    cache_name,
    cache_option,
    channels_of,
    growth_problem,
    is_cache,
    is_concat,
    is_threshold,
    noise_problem,
)
from videoeff.ir.program import Program
from videoeff.ir.watched import watched_problem
from videoeff.ops.base import op_of


def verify(program: Program) -> None:
    """Check the graph against the rules of its stage.

    Raises:
        VerifyError: a node breaks a rule; the message names it and the rule.
    """
    try:
        program.graph.lint()
    except RuntimeError as error:
        raise VerifyError(f"{program.name}: the graph is not well formed: {error}") from error
    found = [n for n in program.nodes if is_cache(n)]
    if program.stage == "captured":
        if found or any(is_concat(n) for n in program.nodes):
            raise VerifyError(
                f"{program.name}: {found[:1] or 'a concat'} stands in a graph that was not planned"
            )
        return
    if program.stage != "planned":
        raise VerifyError(f"{program.name}: no such stage: {program.stage!r}")
    _verify_names(program, found)
    for node in found:
        _verify_cache(program, node)
    for node in program.placeholders:
        for user in node.users:
            if not is_cache(user):
                raise VerifyError(f"{user.name} reads the input {node.name} without a delta cache between")
    for node in program.nodes:
        if node.op == "call_function" and not is_cache(node):
            _verify_reads(node)


def _verify_names(program: Program, found: list[fx.Node]) -> None:
    names: dict[str, fx.Node] = {}
    for node in found:
        name = cache_name(node)
        if name in names:
            raise VerifyError(
                f"{program.name}: {node.name} and {names[name].name} share the layer name {name!r}"
            )
        names[name] = node


def _verify_cache(program: Program, node: fx.Node) -> None:
    name = cache_name(node)
    for option, legal in (("kind", KINDS), ("test", TESTS)):
        if cache_option(node, option) not in legal:
            raise VerifyError(
                f"{name}: {option}={cache_option(node, option)!r} is none of {', '.join(legal)}"
            )
    threshold, predict = cache_option(node, "threshold"), cache_option(node, "predict")
    for what, value in (("threshold", threshold), ("predict", predict)):
        if not is_threshold(value):
            raise VerifyError(f"{name}: {what}={value} must be a finite number, 0 or larger")
    if cache_option(node, "block") < 1 or cache_option(node, "dilation") < 0:
        raise VerifyError(f"{name}: block must be at least 1 and dilation at least 0")
    within, refresh = cache_option(node, "within"), cache_option(node, "refresh")
    if within is not None and not is_threshold(within):
        raise VerifyError(f"{name}: within={within} must be a finite number of pixels, 0 or larger")
    if not isinstance(refresh, int) or refresh < 0:
        raise VerifyError(f"{name}: refresh={refresh} must be a whole number of frames, 0 or larger")
    shape = info(node).shape
    if shape is None:
        raise VerifyError(f"{name}: it keeps {node.args[0]}, which is not a tensor")
    _verify_grid(node, shape)
    _verify_input_test(node, shape)
    _verify_watched(node, shape)
    _verify_layout(program, node, shape)
    if cache_option(node, "streams") is None and threshold > 0:
        raise VerifyError(f"{name}: its streams are mixed, so its threshold must stay 0 (it is {threshold})")


def _verify_grid(node: fx.Node, shape: tuple[int, ...]) -> None:
    """A grid is one, and has a scale for each channel or one for all."""
    name, option = cache_name(node), cache_option(node, "grid")
    if problem := grid_problem(option):
        raise VerifyError(f"{name}: {problem}")
    grid = grid_of(option)
    if grid is None:
        return
    if cache_option(node, "kind") == "state" or (cache_option(node, "kind") == "input" and grid.dim >= 0):
        raise VerifyError(f"{name}: a frame has one scale, and what the model carries is kept as it is")
    if grid.dim >= len(shape) or (grid.dim >= 0 and len(grid.scales) != shape[grid.dim]):
        count = len(grid.scales)
        raise VerifyError(f"{name}: a grid of {count} scale(s) for dimension {grid.dim} of {list(shape)}")
    if grid.dim >= 0 and grid.dim in cache_option(node, "layout"):
        raise VerifyError(f"{name}: the scales of its grid follow pixels or streams, not channels")


def _verify_input_test(node: fx.Node, shape: tuple[int, ...]) -> None:
    """Noise, and hits that grow, are of frames alone; the noise of each channel is known."""
    name, noise, weak, grow = cache_name(node), *(cache_option(node, o) for o in ("noise", "weak", "grow"))
    if problem := noise_problem(noise) or growth_problem(weak, grow):
        raise VerifyError(f"{name}: {problem}")
    if (cache_option(node, "test") == "noise") != bool(noise):
        raise VerifyError(f"{name}: test={cache_option(node, 'test')!r} with noise={noise!r}")
    if not noise and not grow:
        return
    if cache_option(node, "kind") != "input":
        raise VerifyError(f"{name}: a test by noise, or hits that grow, are of inputs alone")
    channels = channels_of(shape, cache_option(node, "layout"))
    if noise and len(noise) != channels:
        raise VerifyError(f"{name}: noise of {len(noise)} channel(s) for {channels}")


def _verify_watched(node: fx.Node, shape: tuple[int, ...]) -> None:
    """Watched pixels are those of a frame, and a mask of its size."""
    name, text = cache_name(node), cache_option(node, "watched")
    if text == "":
        return
    layout = info(node).layout
    if cache_option(node, "kind") != "input" or layout is None or not info(node).is_spatial:
        raise VerifyError(f"{name}: watched pixels are those of a frame alone")
    if problem := watched_problem(text, layout.extent(shape)):
        raise VerifyError(f"{name}: {problem}")


def _verify_layout(program: Program, node: fx.Node, shape: tuple[int, ...]) -> None:
    """The layout names dimensions of the value, each once, and a stream for each of its rows."""
    name, layout, streams = cache_name(node), cache_option(node, "layout"), cache_option(node, "streams")
    named = [d for d in layout if d is not None] if isinstance(layout, tuple) and len(layout) == 3 else [-1]
    if len(set(named)) != len(named) or not all(isinstance(d, int) and 0 <= d < len(shape) for d in named):
        raise VerifyError(f"{name}: layout={layout!r} does not name dimensions of {list(shape)}")
    if streams is not None:
        rows = 1 if layout[0] is None else shape[layout[0]]
        legal = range(program.streams)
        if (
            not isinstance(streams, (tuple, list))
            or len(streams) != rows
            or any(s not in legal for s in streams)
        ):
            raise VerifyError(
                f"{name}: streams={streams!r} does not give each of its {rows} row(s) one of "
                f"{program.streams} stream(s)"
            )


def _verify_reads(node: fx.Node) -> None:
    """A local op may follow pixels only through caches or nodes whose pixels are traced."""
    if op_of(node) is None or info(node).dense or not info(node).is_spatial:
        return
    for source in node.all_input_nodes:
        if info(source).is_spatial and info(source).dense:
            raise VerifyError(
                f"{node.name} reads {source.name} densely computed ({info(source).dense}) uncached"
            )
