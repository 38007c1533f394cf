"""Programs as text that parses back.

One line a node, in Python's own expression syntax, so that a diff of two Programs is readable and
parsing is ``ast`` and nothing else (no code of the text is ever run)::

    program("resnet18", stage="planned", streams=1)
    x = input()  # float32[1, 3, 96, 96]
    conv1_weight = const("conv1.weight")  # float32[64, 3, 7, 7]
    conv2d = aten.conv2d.default(x, conv1_weight, None, [2, 2], [3, 3])  # float32[1, 64, 48, 48] @ conv1
    return (conv2d,)
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx

from videoeff.errors import ArtifactError
from videoeff.ir.markers import MARKERS
from videoeff.ir.module import LazyGraphModule
from videoeff.ir.program import Program, set_tensor

# Operators that touch files or other processes have no business in a network.
_FORBIDDEN = {"from_file", "save", "_cudnn_init_dropout_state"}
_UNSAFE = ("_unsafe_view", "_unsafe_index")  # named so, but checked like others
_PATH = re.compile(r"\w+(\.\w+)*")  # what fx may write into generated code as it stands
_NAMESPACES = ("aten", "torchvision", "prims", "quantized_decomposed")


def text_to_target(text: str) -> Any:
    """The operator a name stands for.

    Raises:
        ArtifactError: no such operator in this PyTorch, or one that a network must not call.
    """
    if text == "getitem":
        return operator.getitem
    parts = text.split(".")
    if parts[0] == "veff" and len(parts) == 2 and parts[1] in MARKERS:
        return MARKERS[parts[1]]
    if len(parts) == 3 and parts[0] in _NAMESPACES and parts[1] not in _FORBIDDEN:
        if parts[0] == "torchvision":
            import torchvision  # noqa: F401  registers torch.ops.torchvision
        packet = getattr(getattr(torch.ops, parts[0]), parts[1], None)
        overload = getattr(packet, parts[2], None)
        if isinstance(overload, torch._ops.OpOverload) and _is_pure(overload, parts[1]):
            return overload
    raise ArtifactError(
        f"operator {text!r} is unknown to PyTorch {torch.__version__}: the graph was written by another "
        "version or by hand; convert the model again with this version"
    )


def _is_pure(overload: torch._ops.OpOverload, packet: str) -> bool:
    """Whether an operator only computes: it writes nothing it was given and trusts no unchecked index."""
    trusting = "unsafe" in packet and packet not in _UNSAFE
    return not (overload._schema.is_mutable or trusting or "sparse" in packet or "nested" in packet)


class _Reader:
    def __init__(self, names: Mapping[str, fx.Node]) -> None:
        self.names = names

    def value(self, tree: ast.expr) -> Any:
        """The Python value of one argument expression."""
        if isinstance(tree, ast.Constant):
            return tree.value
        if isinstance(tree, ast.Name):
            if tree.id not in self.names:
                raise ArtifactError(f"the graph uses {tree.id!r} before it is defined")
            return self.names[tree.id]
        if isinstance(tree, ast.List):
            return [self.value(e) for e in tree.elts]
        if isinstance(tree, ast.Tuple):
            return tuple(self.value(e) for e in tree.elts)
        if isinstance(tree, ast.Dict):
            return {self.value(k): self.value(v) for k, v in zip(tree.keys, tree.values, strict=True) if k}
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
            return -self.value(tree.operand)
        if isinstance(tree, ast.Attribute) and isinstance(tree.value, ast.Name) and tree.value.id == "torch":
            found = getattr(torch, tree.attr, None)
            if isinstance(found, (torch.dtype, torch.layout, torch.memory_format)):
                return found
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
            args = [self.value(a) for a in tree.args]
            if tree.func.id == "float" and len(args) == 1:
                return float(args[0])
            if tree.func.id == "device" and len(args) == 1:
                return torch.device(args[0])
            if tree.func.id == "slice" and len(args) == 3:
                return slice(*args)
        raise ArtifactError(f"the graph holds an argument that is no value: {ast.unparse(tree)!r}")


def text_to_program(
    text: str,
    tensors: Mapping[str, torch.Tensor],
    in_spec: pytree.TreeSpec,
    out_spec: pytree.TreeSpec,
    literals: tuple[Any, ...] = (),
) -> Program:
    """Read a Program back from its text and its constants.

    Args:
        text: a Program as text, ``str(program)``.
        tensors: the constants by name.
        in_spec: pytree of the call.
        out_spec: pytree of the outputs.
        literals: inputs that are not tensors.

    Raises:
        ArtifactError: the text does not parse, or names what is not there.
    """
    root = torch.nn.Module()
    graph = fx.Graph()
    names: dict[str, fx.Node] = {}
    reader = _Reader(names)
    header: dict[str, Any] = {}
    returned = False
    for number, line in enumerate(text.splitlines(), start=1):
        body, _, comment = line.partition("  # ")
        if not body.strip():
            continue
        try:
            if body.startswith("return "):
                graph.output(reader.value(ast.parse(body.removeprefix("return "), mode="eval").body))
                returned = True
                continue
            tree = ast.parse(body).body[0]
        except SyntaxError as error:
            raise ArtifactError(f"graph line {number} does not parse: {error.msg}: {body[:80]!r}") from None
        if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Call):
            header = {k.arg or "": reader.value(k.value) for k in tree.value.keywords}
            header["name"] = reader.value(tree.value.args[0])
            continue
        if not (isinstance(tree, ast.Assign) and isinstance(tree.targets[0], ast.Name)):
            raise ArtifactError(f"graph line {number} is no assignment: {body[:80]!r}")
        name, call = tree.targets[0].id, tree.value
        if not isinstance(call, ast.Call):
            raise ArtifactError(f"graph line {number} calls nothing: {body[:80]!r}")
        node = _read_node(graph, root, tensors, reader, name, call)
        if node.name != name:
            raise ArtifactError(f"graph line {number}: the name {name!r} is taken")
        shape, _, path = comment.partition("@")
        node.meta["module"] = path.strip()
        if node.op == "placeholder":
            node.meta["input"] = _shape(shape.strip(), number)
        names[name] = node
    if not header or not returned:
        raise ArtifactError("the graph's text is cut short: its header or its return line is missing")
    module = LazyGraphModule(root, graph)
    return Program(
        module=module,
        in_spec=in_spec,
        out_spec=out_spec,
        streams=int(header.get("streams", 1)),
        name=str(header["name"]),
        stage=str(header.get("stage", "captured")),
        literals=literals,
    )


def _shape(text: str, number: int) -> tuple[tuple[int, ...], torch.dtype]:
    name, bracket, sizes = text.partition("[")
    dtype = getattr(torch, name, None)
    if not bracket or not isinstance(dtype, torch.dtype):
        raise ArtifactError(f"graph line {number}: an input states no shape, such as # float32[1, 3, 96, 96]")
    return tuple(int(s) for s in sizes.rstrip("]").split(",") if s.strip()), dtype


def _read_node(
    graph: fx.Graph,
    root: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    reader: _Reader,
    name: str,
    call: ast.Call,
) -> fx.Node:
    target = ast.unparse(call.func)
    if target == "input":
        return graph.create_node("placeholder", name, name=name)
    if target == "const":
        path = reader.value(call.args[0]) if call.args else ""
        if not isinstance(path, str) or not _PATH.fullmatch(path):
            raise ArtifactError(f"the graph names the tensor {path!r}, which is no dotted name")
        if path not in tensors:
            raise ArtifactError(f"the graph names the tensor {path!r}, which the file does not hold")
        set_tensor(root, path, tensors[path])
        return graph.create_node("get_attr", path, name=name)
    args = tuple(reader.value(a) for a in call.args)
    kwargs = {str(k.arg): reader.value(k.value) for k in call.keywords}
    return graph.create_node("call_function", text_to_target(target), args, kwargs, name=name)
