"""A graph as text, one line a node; :mod:`videoeff.ir.parser` reads it back."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from videoeff.errors import ArtifactError
from videoeff.ir.layout import ValueInfo
from videoeff.ir.markers import MARKERS


def target_to_text(target: Any) -> str:
    """The operator's name: ``aten.conv2d.default``, ``veff.delta_cache`` or ``getitem``."""
    if target is operator.getitem:
        return "getitem"
    for name, function in MARKERS.items():
        if target is function:
            return f"veff.{name}"
    return str(target)


def _arg(value: Any) -> str:
    if isinstance(value, fx.Node):
        return value.name
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return repr(value)
    if isinstance(value, float):
        return f'float("{value}")' if not math.isfinite(value) else repr(value)
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return str(value)
    if isinstance(value, torch.device):
        return f'device("{value}")'
    if isinstance(value, slice):
        return f"slice({_arg(value.start)}, {_arg(value.stop)}, {_arg(value.step)})"
    if isinstance(value, tuple):
        return "(" + "".join(_arg(v) + ", " for v in value).rstrip(" ") + ")"
    if isinstance(value, list):
        return "[" + ", ".join(_arg(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_arg(k)}: {_arg(v)}" for k, v in value.items()) + "}"
    raise ArtifactError(f"a graph argument of type {type(value).__name__} has no text form")


def args_to_text(node: fx.Node) -> str:
    """The node's arguments as they stand in the text."""
    parts = [_arg(a) for a in node.args] + [f"{k}={_arg(v)}" for k, v in node.kwargs.items()]
    return ", ".join(parts)


def _comment(node: fx.Node) -> str:
    value = node.meta.get("value")
    text = ""
    if isinstance(value, ValueInfo) and value.shape is not None:
        text = f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if node.meta.get("module"):
        text += f" @ {node.meta['module']}"
    return f"  # {text.strip()}" if text else ""


def graph_to_text(graph: fx.Graph, name: str, stage: str, streams: int) -> str:
    """A whole graph: a header with the Program's name, stage and streams, one line a node, what is returned.

    Raises:
        ArtifactError: a node or an argument has no text form.
    """
    lines = [f'program({name!r}, stage="{stage}", streams={streams})']
    for node in graph.nodes:
        if node.op == "output":
            lines.append(f"return {_arg(node.args[0])}")
            continue
        if node.op == "placeholder":
            call = "input()"
        elif node.op == "get_attr":
            call = f"const({str(node.target)!r})"
        elif node.op == "call_function":
            call = f"{target_to_text(node.target)}({args_to_text(node)})"
        else:
            raise ArtifactError(f"{node.name}: a {node.op} node has no text form")
        lines.append(f"{node.name} = {call}{_comment(node)}")
    return "\n".join(lines) + "\n"
