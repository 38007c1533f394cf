"""ONNX files as sources: every operator equals ONNX Runtime, and what has no counterpart is named."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import videoeff
from tests.cli.conftest import call_json, refused
from tests.support import sensitive_net
from videoeff.cli.shared.onnx_model import compare_with_runtime, load_onnx
from videoeff.cli.shared.onnx_windows import OPERATORS
from videoeff.errors import CaptureError
from videoeff.testing import moving_clip

onnx = pytest.importorskip("onnx", reason="needs the packages of videoeff[onnx]")
pytest.importorskip("onnxruntime", reason="needs the packages of videoeff[onnx]")

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


X = (1, 8, 6, 10)

# operator, constant inputs after the picture, attributes, shape of the picture, version
Case = tuple[str, list[Array | None], dict[str, Any], tuple[int, ...], int]


def case(
    kind: str, *inputs: Array | None, shape: tuple[int, ...] = X, opset: int = 17, **attributes: Any
) -> Case:
    return kind, list(inputs), attributes, shape, opset


UNARY = (
    "Relu Sigmoid Tanh Exp Neg Abs Floor Ceil Round Sign Erf Softplus Softsign HardSwish Sin Cos Identity"
).split()
COMPARING = "Equal Greater GreaterOrEqual Less LessOrEqual".split()
REDUCING = "ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare".split()

CASES = [
    *(case(kind) for kind in UNARY),
    *(case(kind, floats(8, 1, 1)) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", *COMPARING)),
    *(case(kind, axes=[2, 3], keepdims=k) for kind in REDUCING for k in (0, 1)),
    case("ReduceSum", ints(1), keepdims=1), case("ReduceSum", ints(-1), keepdims=0), case("ReduceMean"),
    case("Max", floats(8, 1, 1), floats(1)),
    case("Pow", np.array(2.0, np.float32)), case("Mod", floats(8, 1, 1), fmod=1),
    case("LeakyRelu", alpha=0.2), case("LeakyRelu"), case("Elu"), case("Celu", alpha=0.5),
    case("PRelu", floats(8, 1, 1)), case("PRelu", floats(1)), case("Mish", opset=18),
    case("HardSigmoid"), case("HardSigmoid", alpha=1 / 6), case("Gelu", opset=20),
    case("Gelu", opset=20, approximate="tanh"),
    case("Clip", np.array(-0.5, np.float32), np.array(0.5, np.float32)),
    case("Clip", None, np.array(0.5, np.float32)),
    case("Clip"),
    case("Clip", opset=6, min=-0.1, max=0.3),
    case("Softmax"), case("Softmax", axis=1), case("Softmax", opset=11), case("LogSoftmax", axis=1),
    case("Cast", to=7), case("Dropout"),
    case("Conv", floats(4, 8, 3, 3), floats(4), pads=[1, 1, 1, 1]),
    case("Conv", floats(4, 8, 3, 3), pads=[0, 1, 1, 0], strides=[2, 1]),
    case("Conv", floats(8, 1, 3, 3), group=8, dilations=[2, 2], pads=[2, 2, 2, 2]),
    case("Conv", floats(4, 8, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", floats(4, 8, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2]),
    case("Conv", floats(4, 8, 3, 3), auto_pad="VALID"),
    case("Conv", floats(4, 8, 3), floats(4), shape=(1, 8, 12), pads=[1, 1]),
    case("ConvTranspose", floats(8, 4, 2, 2), floats(4), strides=[2, 2]),
    case("ConvTranspose", floats(8, 2, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1],
         output_padding=[1, 1], group=2),
    case("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("MaxPool", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1]),
    case("MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("MaxPool", kernel_shape=[5, 5], pads=[2, 2, 2, 2]),
    case("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 1, 1], strides=[2, 2]),
    case("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1),
    case("GlobalAveragePool"), case("GlobalMaxPool"),
    case("BatchNormalization", floats(8), floats(8), floats(8), np.abs(floats(8)), epsilon=1e-3),
    case("InstanceNormalization", floats(8), floats(8)),
    case("LayerNormalization", floats(10), floats(10)), case("LayerNormalization", floats(6, 10), axis=2),
    case("MatMul", floats(10, 3)),
    case("Gemm", floats(5, 8), floats(5), shape=(2, 8), transB=1),
    case("Gemm", floats(8, 5), floats(2, 5), shape=(2, 8), alpha=0.5, beta=2.0),
    case("Gemm", floats(8, 5), shape=(8, 2), transA=1),
    case("Einsum", floats(10, 3), equation="bchw,wk->bchk"),
    case("ArgMax", axis=1), case("ArgMin", axis=-1, keepdims=0), case("TopK", ints(3), axis=1),
    case("Concat", floats(1, 2, 6, 10), axis=1), case("Split", axis=1), case("Split", ints(2, 6), axis=1),
    case("Split", axis=1, split=[5, 3], opset=11),
    case("Slice", ints(1), ints(2**63 - 1), ints(2), ints(2)),
    case("Slice", ints(0, -3), ints(3, 9), ints(1, 3)),
    case("Slice", ints(-1), ints(-(2**63)), ints(3), ints(-1)),
    case("Slice", opset=9, starts=[1], ends=[4], axes=[1]),
    case("Gather", np.array(2), axis=1), case("Gather", ints(0, -1, 3), axis=1),
    case("Transpose", perm=[0, 2, 3, 1]), case("Transpose"),
    case("Reshape", ints(0, 2, -1)), case("Reshape", ints(1, 80, 6)),
    case("Flatten"), case("Flatten", axis=2), case("Squeeze", ints(0)), case("Squeeze", opset=11, axes=[0]),
    case("Unsqueeze", ints(0, -1)), case("Unsqueeze", opset=11, axes=[1]),
    case("Expand", ints(3, 8, 1, 1), shape=(1, 8, 6, 10)), case("Tile", ints(1, 2, 1, 1)),
    case("Pad", ints(0, 0, 1, 2, 0, 0, 3, 0)),
    case("Pad", ints(0, 0, 1, 2, 0, 0, 3, 0), np.array(2.5, np.float32)),
    case("Pad", ints(0, 0, 1, 2, 0, 0, 3, 0), mode="reflect"),
    case("Pad", ints(0, 0, 1, 2, 0, 0, 3, 0), mode="edge"),
    case("Pad", ints(1, 2), None, ints(3), opset=18),
    case("Pad", opset=10, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=1.0),
    case("DepthToSpace", blocksize=2),
    case("DepthToSpace", blocksize=2, mode="CRD"),
    case("SpaceToDepth", blocksize=2),
    case("Resize", None, np.array([1, 1, 2, 2], np.float32), mode="nearest",
         coordinate_transformation_mode="asymmetric",
         nearest_mode="floor"),
    case("Resize", None, np.array([1, 1, 2, 2], np.float32), mode="nearest"),
    case("Resize", None, None, ints(1, 8, 9, 15), mode="linear"),
    case("Resize", None, None, ints(1, 8, 3, 5), mode="linear",
         coordinate_transformation_mode="pytorch_half_pixel"),
    case("Resize", None, None, ints(1, 8, 9, 15), mode="linear",
         coordinate_transformation_mode="align_corners"),
    case("Resize", None, None, ints(1, 8, 12, 20), mode="cubic"),
    case("Resize", None, None, ints(12, 20), mode="linear", axes=[2, 3], opset=18),
    case("Upsample", np.array([1, 1, 2, 2], np.float32), opset=9),
]  # fmt: skip

BOOLEAN = {"And", "Or", "Not", "Where"}  # tested together below, on comparisons
POSITIVE = {"Log", "Sqrt", "Reciprocal"}


def model(
    nodes: list[Any], constants: dict[str, Array], shape: tuple[Any, ...], outputs: list[str], opset: int
) -> Any:
    helper = onnx.helper
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", 1, shape)],
        [onnx.ValueInfoProto(name=n) for n in outputs],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


def saved(path: Path, *arguments: Any) -> Path:
    onnx.save(model(*arguments), path)
    return path


def check(path: Path, shape: tuple[int, ...], positive: bool = False) -> None:
    frames = [torch.from_numpy(floats(*shape)) for _ in range(2)]
    if positive:
        frames = [f.abs() + 0.1 for f in frames]
    made = load_onnx(path)
    with torch.no_grad():
        compare_with_runtime(path, made, frames)
    exported = torch.export.export(made, (frames[0],), strict=False).module()
    compare_with_runtime(path, exported, frames)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_an_operator_equals_the_runtime(number: int, tmp_path: Path) -> None:
    kind, inputs, attributes, shape, opset = CASES[number]
    outputs = ["a", "b"] if kind in ("Split", "TopK") else ["a"]
    names = ["" if v is None else f"c{i}" for i, v in enumerate(inputs)]
    constants = {n: v for n, v in zip(names, inputs, strict=True) if v is not None}
    node = onnx.helper.make_node(kind, ["x", *names], outputs, **attributes)
    check(saved(tmp_path / "m.onnx", [node], constants, shape, outputs, opset), shape)


@pytest.mark.parametrize("kind", sorted(POSITIVE))
def test_operators_on_positive_numbers(kind: str, tmp_path: Path) -> None:
    node = onnx.helper.make_node(kind, ["x"], ["a"])
    check(saved(tmp_path / "m.onnx", [node], {}, X, ["a"], 17), X, positive=True)


def test_operators_on_decisions(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    nodes = [
        make("Greater", ["x", "low"], ["p"]),
        make("Less", ["x", "high"], ["q"]),
        make("And", ["p", "q"], ["both"]),
        make("Or", ["p", "q"], ["any"]),
        make("Not", ["both"], ["outside"]),
        make("Where", ["outside", "x", "low"], ["a"]),
    ]  # fmt: skip
    constants = {"low": np.array(-0.3, np.float32), "high": np.array(0.5, np.float32)}
    check(saved(tmp_path / "m.onnx", nodes, constants, X, ["a", "any"], 17), X)


def test_no_operator_is_without_a_case() -> None:
    assert {c[0] for c in CASES} | BOOLEAN | POSITIVE == set(OPERATORS)


# ---------------------------------------------------------------- whole files


def focus(
    path: Path, size: tuple[Any, Any] = (32, 48), extra: list[Any] | None = None, opset: int = 11
) -> Path:
    """The beginning of YOLOX: four slices of every second pixel, and sizes computed by the graph itself."""
    make, constants = (
        onnx.helper.make_node,
        {"s0": ints(0), "s1": ints(1), "end": ints(2**63 - 1), "two": ints(2)},
    )
    constants |= {
        "ax2": ints(2),
        "ax3": ints(3),
        "w": floats(6, 12, 3, 3),
        "b": floats(6),
        "tail": ints(2, 2),
    }
    constants |= {"w2": floats(4, 6, 1, 1), "roi": np.zeros(0, np.float32), "none": np.zeros(0, np.float32)}
    nodes = []
    for name, (row, column) in {"tl": (0, 0), "bl": (1, 0), "tr": (0, 1), "br": (1, 1)}.items():
        nodes += [
            make("Slice", ["x", f"s{row}", "end", "ax2", "two"], [f"{name}_rows"]),
            make(
                "Slice",
                [f"{name}_rows", f"s{column}", "end", "ax3", "two"],
                [name],
                name=f"/stem/{name}/Slice",
            ),
        ]
    nodes += [
        make("Identity", ["w"], ["weight"]),
        make("Concat", ["tl", "bl", "tr", "br"], ["stem"], name="/stem/Concat", axis=1),
        make("Conv", ["stem", "weight", "b"], ["conv"], name="/stem/conv/Conv", pads=[1, 1, 1, 1]),
        make("Sigmoid", ["conv"], ["gate"]), make("Mul", ["conv", "gate"], ["silu"]),
        make("Shape", ["x"], ["shape"]), make("Slice", ["shape", "s0", "two"], ["front"]),
        make("Shape", ["x"], ["again"]), make("Gather", ["again", "ax2"], ["height"]),
        make("Gather", ["again", "ax3"], ["width"]), make("Shape", ["silu"], ["inner"]),
        make("Slice", ["inner", "s0", "two"], ["batch"]),
        make("Concat", ["batch", "height", "width"], ["sizes"], axis=0),
        make("Resize", ["silu", "roi", "none", "sizes"], ["large"], mode="nearest",
             coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        make("Conv", ["large", "w2"], ["head"], name="/head/Conv"),
        *(extra or [make("Flatten", ["head"], ["flat"], axis=2), make("Reshape", ["head", "rows"], ["out"])]),
    ]  # fmt: skip
    constants["rows"] = ints(0, 4, -1)
    return saved(path, nodes, constants, (1, 3, *size), [nodes[-1].output[0]], opset)


@pytest.mark.parametrize("free", [False, True])
def test_convert_and_stream(free: bool, tmp_path: Path) -> None:
    source, out = focus(tmp_path / "net.onnx", ("h", "w") if free else (32, 48)), tmp_path / "a.veff"
    size = ("--input-size", 32, 48) if free else ()
    found = call_json("convert", source, "-o", out, *size)
    assert found["input_size"] == [32, 48]
    assert found["convolutions_streamed"] == 1.0
    assert any("equals ONNX Runtime on 3 frame(s)" in n for n in found["notes"])
    assert any(row["name"].startswith("stem.conv.Conv") for row in found["layers"])
    frames = [torch.rand(1, 3, 32, 48)]
    for row in range(3):
        frames.append(frames[-1].clone())
        frames[-1][..., 4 * row : 4 * row + 6, 8:20] = torch.rand(1, 3, 6, 12)
    compare_with_runtime(source, videoeff.load(out), frames)


def test_with_thresholds_the_first_frame_is_compared(tmp_path: Path) -> None:
    source = focus(tmp_path / "net.onnx")
    found = call_json("convert", source, "-o", tmp_path / "a.veff", "--threshold", 0.1)
    assert any("equals ONNX Runtime on 1 frame(s)" in n for n in found["notes"])


def test_a_difference_from_the_runtime_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = focus(tmp_path / "net.onnx"), tmp_path / "a.veff"
    monkeypatch.setitem(OPERATORS, "Sigmoid", lambda _node, x: torch.sigmoid(x) * 1.001)
    message = refused("convert", source, "-o", out)
    assert "output 'out' differs from ONNX Runtime's by" in message
    assert "frame 1; nothing was written" in message
    assert not out.exists()


# ---------------------------------------------------------------- refusals


def test_operators_without_a_counterpart_are_named(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    nms = [make("NonZero", ["head"], ["found"], name="/nms/NonZero"), make("Cast", ["found"], ["out"], to=1)]
    message = refused("convert", focus(tmp_path / "net.onnx", extra=nms), "-o", tmp_path / "a.veff")
    assert "no counterpart here: NonZero (/nms/NonZero)" in message
    assert "onnx.utils.extract_model" in message
    scale = make("DequantizeLinear", ["q", "scale"], ["w8"])
    nodes = [scale, make("Relu", ["x"], ["y"]), make("QuantizeLinear", ["y", "scale"], ["z"], name="q0")]
    constants = {"q": np.array([1, 2], np.int8), "scale": np.array(0.1, np.float32)}
    source = saved(tmp_path / "q.onnx", nodes, constants, X, ["z"], 13)
    assert "QuantizeLinear (q0); give the float model" in refused(
        "convert", source, "-o", tmp_path / "a.veff"
    )


def test_a_use_without_a_counterpart_says_which(tmp_path: Path) -> None:
    node = onnx.helper.make_node(
        "Resize", ["x", "", "s"], ["a"], name="up", mode="linear", coordinate_transformation_mode="asymmetric"
    )
    source = saved(tmp_path / "m.onnx", [node], {"s": np.array([1, 1, 2, 2], np.float32)}, X, ["a"], 17)
    with pytest.raises(CaptureError, match="Resize 'up': linear with asymmetric"):
        load_onnx(source)(torch.zeros(X))


def test_random_numbers_and_training_mode_are_refused(tmp_path: Path) -> None:
    make, out = onnx.helper.make_node, tmp_path / "a.veff"
    noise = [make("RandomNormal", [], ["n"], name="noise", shape=[1]), make("Add", ["head", "n"], ["out"])]
    assert "RandomNormal (noise)" in refused("convert", focus(tmp_path / "r.onnx", extra=noise), "-o", out)
    nodes = [make("Dropout", ["x", "ratio", "training"], ["a"], name="drop")]
    constants = {"ratio": np.array(0.5, np.float32), "training": np.array(True)}
    source = saved(tmp_path / "d.onnx", nodes, constants, X, ["a"], 13)
    with pytest.raises(CaptureError, match="Dropout 'drop': it is in training mode"):
        load_onnx(source)(torch.zeros(X))


def test_functions_of_a_file_are_inlined(tmp_path: Path) -> None:
    helper = onnx.helper
    body = helper.make_function(
        "own",
        "Twice",
        ["v"],
        ["w"],
        [helper.make_node("Add", ["v", "v"], ["w"])],
        [helper.make_opsetid("", 17)],
    )
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["a"], domain="own")],
        "net",
        [helper.make_tensor_value_info("x", 1, X)],
        [helper.make_tensor_value_info("a", 1, X)],
    )
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    onnx.save(
        helper.make_model(graph, functions=[body], opset_imports=versions, ir_version=8), tmp_path / "m.onnx"
    )
    check(tmp_path / "m.onnx", X)


def test_sizes_computed_from_the_picture_are_named(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    nodes = [
        make("ReduceMax", ["x"], ["m"], keepdims=0),
        make("Cast", ["m"], ["i"], to=7),
        make("Unsqueeze", ["i", "zero"], ["e"]),
        make("Slice", ["x", "zero", "e", "one"], ["a"], name="cut"),
    ]  # fmt: skip
    source = saved(tmp_path / "m.onnx", nodes, {"zero": ints(0), "one": ints(1)}, X, ["a"], 17)
    with pytest.raises(CaptureError, match="Slice 'cut': a size or bound of it is computed from the picture"):
        load_onnx(source)(torch.zeros(X))


def test_half_precision_damage_and_other_inputs(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Add", ["x", "c"], ["a"])
    out = tmp_path / "a.veff"
    half = onnx.helper.make_node("Cast", ["c"], ["d"], to=1)
    add = onnx.helper.make_node("Add", ["x", "d"], ["a"])
    source = saved(tmp_path / "h.onnx", [half, add], {"c": np.array([1], np.float16)}, X, ["a"], 17)
    assert "half precision (c)" in refused("convert", source, "-o", out)
    source = saved(tmp_path / "f.onnx", [node], {"c": floats(1)}, X, ["a"], 17)
    assert "takes [1, 8, 6, 10]" in refused("convert", source, "-o", out)
    assert "leave --key out" in refused("convert", source, "-o", out, "--key", "ema")
    source.write_bytes(source.read_bytes()[:40])
    assert "cannot be read as an ONNX model" in refused("convert", source, "-o", out)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, real = focus(tmp_path / "net.onnx"), builtins.__import__

    def absent(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] == "onnx":
            raise ImportError("no onnx")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert "pip install 'videoeff[onnx]'" in refused("convert", source, "-o", tmp_path / "a.veff")


# ---------------------------------------------------------------- beyond the law


def sensitive(path: Path) -> Path:
    """The network of ``sensitive_net`` as a file."""
    network = sensitive_net.build()
    make, weights = onnx.helper.make_node, {k: v.numpy() for k, v in network.state_dict().items()}
    nodes = [
        make("Conv", ["x", "spread.weight", "spread.bias"], ["spread"], name="/spread/Conv", pads=[1] * 4),
        make("Conv", ["spread", "sum.weight", "sum.bias"], ["sum"], name="/sum/Conv"),
        make("Tanh", ["sum"], ["tanh"]),
        make("Conv", ["tanh", "head.weight", "head.bias"], ["out"], name="/head/Conv", pads=[1] * 4),
    ]
    return saved(path, nodes, weights, (1, 3, 32, 48), ["out"], 17)


@pytest.mark.parametrize(("by", "holds"), [(6e-8, True), (4.5e-7, False)])
def test_rounding_that_the_network_magnifies_is_told_from_a_fault(
    by: float, holds: bool, tmp_path: Path
) -> None:
    path = sensitive(tmp_path / "net.onnx")
    stream = sensitive_net.rough(sensitive_net.build(), by)
    frames = list(moving_clip(3, (1, 3, 32, 48)))
    if holds:
        note = compare_with_runtime(path, stream, frames)
        assert "the network itself is that sensitive to float32's rounding: eager PyTorch is off by" in note
    else:
        with pytest.raises(CaptureError, match="it is not rounding: eager PyTorch is off by"):
            compare_with_runtime(path, stream, frames)


def test_an_operator_that_is_translated_wrongly_is_no_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the stream equals the network in float64, which is as wrong, and ONNX Runtime does not."""
    path = sensitive(tmp_path / "net.onnx")
    monkeypatch.setitem(OPERATORS, "Tanh", lambda _node, x: torch.tanh(x) * 1.001)
    with pytest.raises(CaptureError, match=r"it is not rounding: .* ONNX Runtime by"):
        compare_with_runtime(path, load_onnx(path), list(moving_clip(2, (1, 3, 32, 48))))


def test_a_stream_that_skips_frames_is_compared_in_all_of_them(tmp_path: Path) -> None:
    source = focus(tmp_path / "net.onnx")
    found = call_json("convert", source, "-o", tmp_path / "a.veff", "--every", 4, "--audit", 1)
    assert any("equals ONNX Runtime on 3 frame(s)" in note for note in found["notes"])
    stream = videoeff.load(tmp_path / "a.veff")
    assert (stream.options.every, stream.options.audit.share) == (4, 1.0)
