"""Fold batch norm into the convolution before it, or after it where that is exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from videoeff.ir import edit
from videoeff.ir.layout import info
from videoeff.ir.program import Program, input_node, is_const, module_path
from videoeff.ops.base import bind, op_name
from videoeff.ops.convolution import explicit_padding
from videoeff.passes.base import Notes, Pass

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose2d")


@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """Scale the weights of a neighbouring convolution instead of its result.

    Into the convolution before: always exact, if nobody else reads that convolution. Into the one after:
    exact where it pads no zeros, since padding comes after the norm's offset. Weights that several
    convolutions share are never touched. Outputs agree to the rounding of the dtype.
    """

    name: ClassVar[str] = "fold-batchnorm"
    needs: ClassVar[frozenset[str]] = frozenset({"unplanned"})

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Fold each batch norm that can be."""
        changed = False
        for node in list(program.nodes):
            if op_name(node) != "batch_norm":
                continue
            reason_before = self._fold_back(program, node)
            if reason_before is None:
                changed = True
                continue
            reason_after = self._fold_forward(program, node)
            if reason_after is None:
                changed = True
                continue
            note(module_path(node) or node.name, f"batch norm not folded: {reason_before}; {reason_after}")
        return edit.sweep(program) or changed

    def _fold_back(self, program: Program, norm: fx.Node) -> str | None:
        conv = norm.args[0]
        if not (isinstance(conv, fx.Node) and op_name(conv) in _CONVOLUTIONS):
            return "no convolution before it"
        if len(conv.users) > 1:
            return "the convolution before it is also read elsewhere"
        parts = _constants(program, conv, norm)
        if isinstance(parts, str):
            return parts
        weight, bias, scale, offset = parts
        transposed = op_name(conv) == "conv_transpose2d"
        if transposed:
            groups = int(bind(conv)["groups"])
            shaped = scale.view(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
            new_weight = weight * shaped.reshape(weight.shape[0], -1)[:, :, None, None]
        else:
            new_weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
        _set_weights(program, conv, new_weight, bias * scale + offset)
        norm.replace_all_uses_with(conv)
        program.graph.erase_node(norm)  # or the norm would still count as a reader of the convolution
        return None

    def _fold_forward(self, program: Program, norm: fx.Node) -> str | None:
        users = list(norm.users)
        if len(users) != 1 or op_name(users[0]) not in ("conv1d", "conv2d", "conv3d"):
            return "no single convolution after it"
        conv = users[0]
        bound = bind(conv)
        kernel = info(bound["weight"]).shape or ()
        if any(p for pads in explicit_padding(bound, kernel[2:]) for p in pads):
            return "the convolution after it pads zeros"
        parts = _constants(program, conv, norm)
        if isinstance(parts, str):
            return parts
        weight, bias, scale, offset = parts
        groups = int(bound["groups"])
        per_input = weight.shape[1]
        index = torch.arange(weight.shape[0], device=weight.device) // (weight.shape[0] // groups)
        columns = index[:, None] * per_input + torch.arange(per_input, device=weight.device)
        spatial = [1] * (weight.ndim - 2)
        new_bias = bias + (weight.flatten(2).sum(2) * offset[columns]).sum(1)
        new_weight = weight * scale[columns].view(weight.shape[0], per_input, *spatial)
        _set_weights(program, conv, new_weight, new_bias)
        norm.replace_all_uses_with(input_node(norm))
        program.graph.erase_node(norm)
        return None


def _constants(program: Program, conv: fx.Node, norm: fx.Node) -> tuple[Tensor, Tensor, Tensor, Tensor] | str:
    """(weight, bias, scale, offset) in float64, or why they may not be used."""
    bound, stats = bind(conv), bind(norm)
    weight_node, bias_node = bound["weight"], bound.get("bias")
    for node in (weight_node, bias_node):
        if node is None:
            continue
        if not is_const(node):
            return "the weights are computed from the frame"
        if len(node.users) > 1:
            return "weights shared"
    if stats.get("training"):
        return "it is in training mode"
    if any(isinstance(n, fx.Node) and not is_const(n) for k, n in stats.items() if k != "input"):
        return "its own parameters are computed from the frame"

    def value(node: fx.Node | None, default: float, size: int) -> Tensor:
        if node is None:
            return torch.full((size,), default, dtype=torch.float64, device=weight.device)
        return program.tensor(node).detach().to(torch.float64)

    weight = program.tensor(weight_node).detach().to(torch.float64)
    mean_node, var_node = stats.get("running_mean"), stats.get("running_var")
    if mean_node is None or var_node is None:
        return "it keeps no running statistics"
    size = program.tensor(mean_node).numel()
    scale = value(stats["weight"], 1.0, size) / torch.sqrt(value(var_node, 1.0, size) + float(stats["eps"]))
    offset = value(stats["bias"], 0.0, size) - value(mean_node, 0.0, size) * scale
    outputs = (
        weight.shape[1] * int(bound["groups"]) if op_name(conv) == "conv_transpose2d" else weight.shape[0]
    )
    return weight, value(bias_node, 0.0, outputs), scale, offset


def _set_weights(program: Program, conv: fx.Node, weight: Tensor, bias: Tensor) -> None:
    old = bind(conv)["weight"]
    dtype = program.tensor(old).dtype
    path = str(old.target)
    weight_node = edit.add_constant(program, conv, f"{path}_folded", weight.to(dtype))
    bias_node = edit.add_constant(program, conv, f"{path}_folded_bias", bias.to(dtype))
    args = list(conv.args)
    args[1] = weight_node
    if len(args) > 2:
        args[2] = bias_node
    else:
        conv.kwargs = {**conv.kwargs, "bias": bias_node}
    conv.args = tuple(args)
