"""An ONNX file as a PyTorch module: one submodule for each operator that computes with the picture.

What does not depend on the picture's values (weights, sizes, bounds of slices) is computed by ONNX's own
reference and enters as numbers, so that the module can be captured. The result is compared with ONNX
Runtime on frames before anything is written.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from videoeff.cli.shared.checkpoint_file import few
from videoeff.cli.shared.onnx_ops import STATIC, Node, NotHere
from videoeff.cli.shared.onnx_windows import OPERATORS
from videoeff.errors import ArtifactError, CaptureError, first_line
from videoeff.rounding import LAW, Doubled, NoFloat64, Rounding

#: Largest difference from ONNX Runtime, over the output's largest magnitude: that of a stream from its model.
TOLERANCE = LAW

#: Operators of which only the shape of the input matters.
_SHAPES = ("Shape", "Size")

_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear")


class OnnxNode(nn.Module):
    """One operator with its constants.

    Args:
        node: the operator.
        constants: numbers by the position of the input; those that are no static ones become buffers.
    """

    def __init__(self, node: Node, constants: dict[int, np.ndarray[Any, Any]]) -> None:
        super().__init__()
        self.node = node
        self.numbers: dict[int, np.ndarray[Any, Any]] = {}
        for position, value in constants.items():
            self.numbers[position] = np.array(value)  # a copy, which may be written to as PyTorch asks
            if not _is_static(node.kind, position):
                self.register_buffer(f"input_{position}", torch.from_numpy(self.numbers[position]))

    def forward(self, values: Sequence[Tensor | np.ndarray[Any, Any] | None]) -> Any:
        """The operator's results.

        Args:
            values: its inputs; None where it has a constant, or nothing.
        """
        inputs: list[Any] = list(values)
        for position, number in self.numbers.items():
            static = _is_static(self.node.kind, position)
            inputs[position] = number if static else self.get_buffer(f"input_{position}")
        for position, value in enumerate(inputs):
            if _is_static(self.node.kind, position):
                if isinstance(value, Tensor):
                    raise CaptureError(
                        f"{self.node.kind} {self.node.name!r}: a size or bound of it is computed from the "
                        "picture; export the model without this part"
                    )
            elif isinstance(value, np.ndarray):
                inputs[position] = torch.from_numpy(value)
        try:
            return OPERATORS[self.node.kind](self.node, *inputs)
        except NotHere as error:
            raise CaptureError(
                f"{self.node.kind} {self.node.name!r}: {error}, which has no counterpart here; export the "
                "model with torch.export.save to a .pt2 instead"
            ) from error


def _is_static(kind: str, position: int) -> bool:
    return position >= STATIC.get(kind, 99) or (kind == "Gather" and position == 1)


class OnnxModel(nn.Module):
    """The graph, computed operator by operator."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        graph = model.graph
        opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        known = dict(_initializers(graph))
        self.inputs = [i.name for i in graph.input if i.name not in known]
        self.outputs = [o.name for o in graph.output]
        read = {n for node in graph.node for n in node.input} | set(self.outputs)
        self.fold = _Folder(model.opset_import, model.ir_version)
        self.steps: list[tuple[str, Any, list[str], list[str]]] = []
        for proto in graph.node:
            names, results = list(proto.input), list(proto.output)
            if all(n in known for n in names if n):
                known |= zip(
                    results, self.fold(proto, [known[n] if n else None for n in names]), strict=False
                )
                continue
            node = Node(
                proto.op_type,
                proto.name or results[0],
                _attributes(proto),
                opset,
                sum(r in read for r in results),
            )
            constants = {i: known[n] for i, n in enumerate(names) if n in known}
            path = self._add(node, constants) if proto.op_type not in _SHAPES else ""
            self.steps.append(
                (path, proto, ["" if i in constants else n for i, n in enumerate(names)], results)
            )
        self.known = {n: known[n] for n in self.outputs if n in known}

    def _add(self, node: Node, constants: dict[int, np.ndarray[Any, Any]]) -> str:
        """Put an operator where its name says: ``/stem/conv/Conv`` becomes ``stem.conv.Conv``."""
        parts = [re.sub(r"\W+", "_", p).strip("_") or "node" for p in re.split(r"[/.]", node.name) if p]
        parts = [f"_{p}" if p[0].isdigit() and not p.isdigit() else p for p in parts] or ["node"]
        place: nn.Module = self
        inner_path: list[str] = []
        for part in parts[:-1]:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            inner = place._modules.get(part)
            if inner is not None:  # else an attribute of every module has that name
                place = inner
                inner_path.append(part)
        last, number = parts[-1], 1
        while hasattr(place, last):
            last, number = f"{parts[-1]}_{number}", number + 1
        made = OnnxNode(node, constants)
        place.add_module(last, made)
        return ".".join((*inner_path, last))

    def forward(self, *frames: Tensor) -> Any:
        """The graph's outputs, one of them alone as it is."""
        values: dict[str, Any] = dict(zip(self.inputs, frames, strict=True))
        for path, proto, names, results in self.steps:
            inputs = [values[n] if n else None for n in names]
            if proto.op_type in _SHAPES and isinstance(inputs[0], Tensor):
                found: Any = _shape(proto, inputs[0])
            elif not any(isinstance(v, Tensor) for v in inputs):
                node = self.get_submodule(path) if path else None
                numbers = node.numbers if isinstance(node, OnnxNode) else {}
                found = self.fold(proto, [numbers.get(i, v) for i, v in enumerate(inputs)])
            else:
                found = self.get_submodule(path)(inputs)
            values |= zip(results, found if isinstance(found, (tuple, list)) else (found,), strict=False)
        outputs = [values[n] if n in values else self.known[n] for n in self.outputs]
        outputs = [torch.from_numpy(v) if isinstance(v, np.ndarray) else v for v in outputs]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _shape(proto: Any, value: Tensor) -> np.ndarray[Any, Any]:
    if proto.op_type == "Size":
        return np.array(value.numel(), dtype=np.int64)
    attributes = _attributes(proto)
    sizes = [int(s) for s in value.shape][attributes.get("start", 0) : attributes.get("end", None)]
    return np.array(sizes, dtype=np.int64)


class _Folder:
    """Computes an operator on known numbers, by ONNX's own reference."""

    def __init__(self, opsets: Any, version: int) -> None:
        self.opsets, self.version = list(opsets), version

    def __call__(self, proto: Any, inputs: Sequence[Any]) -> list[Any]:
        import onnx
        from onnx.reference import ReferenceEvaluator

        values = {n: v for n, v in zip(proto.input, inputs, strict=True) if n}
        graph = onnx.helper.make_graph(
            [proto],
            "fold",
            [onnx.ValueInfoProto(name=n) for n in values],
            [onnx.ValueInfoProto(name=n) for n in proto.output if n],
        )
        model = onnx.helper.make_model(graph, opset_imports=self.opsets, ir_version=self.version)
        found = ReferenceEvaluator(model).run(None, values)
        return [v if isinstance(v, list) else np.asarray(v) for v in found]  # a list is a sequence of ONNX


def _initializers(graph: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    from onnx import numpy_helper

    for tensor in graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)


def _attributes(proto: Any) -> dict[str, Any]:
    import onnx

    found = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
    return {
        k: onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for k, v in found.items()
    }


# ---------------------------------------------------------------- reading


def load_onnx(path: Path) -> OnnxModel:
    """Read an ONNX file.

    Raises:
        ArtifactError: the package is not installed, or the file is damaged or incomplete.
        CaptureError: an operator in it has no counterpart here; which.
    """
    try:
        import onnx
        import onnx.inliner
    except ImportError as error:
        raise ArtifactError(
            f"{path}: reading ONNX needs the packages onnx and onnxruntime; run pip install "
            "'videoeff[onnx]', or export the model with torch.export.save to a .pt2"
        ) from error
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
    except Exception as error:
        first = first_line(error)
        raise ArtifactError(
            f"{path}: cannot be read as an ONNX model ({first[:160]}); copy it again, its file of weights "
            "(.data) beside it"
        ) from error
    _check_operators(model, path)
    try:
        return OnnxModel(model).eval()
    except CaptureError as error:
        raise CaptureError(f"{path}: {error}") from error


def picture_input(path: Path) -> tuple[int | None, tuple[int, int] | None, torch.dtype]:
    """(batch, (H, W), kind of numbers) of a file's one input of pictures; None where they are free.

    Raises:
        CaptureError: it takes something else.
    """
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {t.name for t in graph.initializer}
    inputs = [i.type.tensor_type for i in graph.input if i.name not in weights]
    shapes = [[d.dim_value or None for d in i.shape.dim] for i in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (3, None):
        found = ", ".join(map(str, shapes)) or "nothing"
        raise CaptureError(f"{path}: takes {found}; this command feeds one batch of pictures (B, 3, H, W)")
    kind = onnx.helper.tensor_dtype_to_np_dtype(inputs[0].elem_type)
    if str(kind) not in ("float32", "float64", "uint8"):
        raise CaptureError(f"{path}: takes {kind}; export the model so that it takes float32")
    batch, _, height, width = shapes[0]
    size = (height, width) if height is not None and width is not None else None
    return batch, size, torch.from_numpy(np.zeros(0, kind)).dtype


def _check_operators(model: Any, path: Path) -> None:
    from onnx import AttributeProto, TensorProto

    numbers = {t.name for t in model.graph.initializer} | {""}
    foreign: dict[str, str] = {}
    for node in model.graph.node:
        own = node.domain in ("", "ai.onnx")
        nested = any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute)
        random = node.op_type.startswith(("Random", "Bernoulli", "Multinomial"))
        if (
            own
            and not nested
            and not random
            and (node.op_type in _SHAPES or all(n in numbers for n in node.input))
        ):
            numbers.update(node.output)
        elif not own or node.op_type not in OPERATORS:
            foreign.setdefault(
                node.op_type if own else f"{node.domain}.{node.op_type}", node.name or node.output[0]
            )
    if foreign:
        named = few(f"{k} ({v})" for k, v in foreign.items())
        advice = (
            "give the float model it was quantised from"
            if any(k in _QUANTISED for k in foreign)
            else "cut the graph before it (onnx.utils.extract_model), or export the model with "
            "torch.export.save to a .pt2"
        )
        raise CaptureError(f"{path}: operators that have no counterpart here: {named}; {advice}")
    if model.graph.sparse_initializer:
        raise CaptureError(f"{path}: some of its weights are sparse; export the model with dense ones")
    halves = [
        t.name for t in model.graph.initializer if t.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    ]
    if halves:
        raise CaptureError(
            f"{path}: {len(halves)} of its weights are in half precision ({few(halves, 2)}), which a CPU "
            "computes far slower; export the model in float32"
        )


def compare_with_runtime(path: Path, stream: Callable[[Tensor], Any], frames: Sequence[Tensor]) -> str:
    """Compare a stream with ONNX Runtime on frames, the first of which is the stream's first.

    Where they exceed the law, the network is computed in float64, and in float32 by PyTorch: the stream
    and ONNX Runtime may each be off by a small multiple of what PyTorch is off by.

    Returns:
        A note of the difference.

    Raises:
        ArtifactError: ONNX Runtime is not installed or cannot run the file.
        CaptureError: the outputs differ by more than ``TOLERANCE``, and not by rounding alone.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ArtifactError(
            f"{path}: its outputs are compared with ONNX Runtime; run pip install 'videoeff[onnx]'"
        ) from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        wanted = [session.run(None, {name: f.numpy()}) for f in frames]
    except Exception as error:
        first = first_line(error)
        raise ArtifactError(f"{path}: ONNX Runtime cannot run it ({first[:200]}); export it again") from error
    names = [o.name for o in session.get_outputs()]
    worst, float64 = 0.0, _Float64(path)
    for number, (frame, expected) in enumerate(zip(frames, wanted, strict=True), start=1):
        found = torch.utils._pytree.tree_leaves(stream(frame))
        apart = [_difference(np.asarray(a), b) for a, b in zip(expected, found, strict=True)]
        over = next((i for i, one in enumerate(apart) if not one <= TOLERANCE), None)
        if over is not None:
            float64.judge(frame, expected, found)
            if not float64.holds:
                raise CaptureError(
                    f"{path}: output {names[over]!r} differs from ONNX Runtime's by {apart[over]:.1e} of its "
                    f"largest value in frame {number}; nothing was written: {float64}. Export the model with "
                    "torch.export.save to a .pt2"
                )
        worst = max(worst, *apart)
    explained = f"; {float64}" if float64.holds else ""
    return (
        f"{path.name}: equals ONNX Runtime on {len(frames)} frame(s) within {worst:.1e} of the largest value"
        f"{explained}"
    )


class _Float64:
    """The file's network in float64, against which a stream and ONNX Runtime are judged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stream, self.runtime = Rounding(), Rounding(who="ONNX Runtime")
        self.doubled: Doubled | None = None

    def judge(self, frame: Tensor, expected: Sequence[Any], found: Sequence[Tensor]) -> None:
        """One frame, in which outputs of the runtime and of the stream exceed the law."""
        wanted = [torch.from_numpy(np.asarray(v)) for v in expected]
        if not self.stream.exceeds(found, wanted):
            return
        try:
            self.doubled = self.doubled or Doubled(load_onnx(self.path))
            eager, exact = self.doubled((frame,))
        except NoFloat64 as error:
            self.stream.unknown = str(error)
            return
        self.stream.add(found, wanted, eager, exact)
        self.runtime.add(wanted, found, eager, exact)

    @property
    def holds(self) -> bool:
        """Whether rounding explains the difference, of both sides."""
        return self.stream.holds and self.runtime.holds

    def __str__(self) -> str:
        return str(self.runtime if self.stream.holds and not self.runtime.holds else self.stream)


def _difference(expected: np.ndarray[Any, Any], found: Tensor) -> float:
    """Largest difference over the largest magnitude; inf where shapes or kinds differ."""
    values = found.detach().cpu().numpy()
    if expected.shape != values.shape or expected.dtype != values.dtype:
        return float("inf")
    if not expected.size:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, about infinities, which are told apart here
        a, b = expected.astype(np.float64), values.astype(np.float64)
        apart = np.where(a == b, 0.0, np.abs(a - b))
    if np.isnan(apart).any():
        return 0.0 if np.array_equal(a, b, equal_nan=True) else float("inf")
    return float(apart.max() / max(float(np.abs(a[np.isfinite(a)]).max(initial=0.0)), 1e-12))
