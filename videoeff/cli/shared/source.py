"""What ``videoeff convert`` converts: an exported program, or a model by reference with a state dict."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videoeff.errors import ArtifactError, CaptureError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from videoeff.video.preprocess import Preprocess


@dataclass(frozen=True)
class Source:
    """A model to convert.

    Attributes:
        model: an exported program, or a module in evaluation mode.
        name: what to call it.
        size: (H, W) its input is fixed to, None where it is free.
        streams: the batch it is fixed to, None where it is free.
        dtype: of its input.
        channels: of its input.
        multiple: (H, W) its input has to be divided by, where an exported program says so.
        images: it takes a list of images (C, H, W), as torchvision's detectors do.
        notes: what was unwrapped, for people.
        check: compares a stream with whatever else runs the file, on frames (B, 3, H, W); returns a note,
            raises where they differ. None where nothing else runs it.
    """

    model: nn.Module | torch.export.ExportedProgram
    name: str
    size: tuple[int, int] | None
    streams: int | None
    dtype: torch.dtype
    images: bool = False
    notes: tuple[str, ...] = ()
    channels: int = 3
    multiple: tuple[int, int] = (1, 1)
    check: Callable[[Callable[[Tensor], Any], Sequence[Tensor]], str] | None = None

    @property
    def exported(self) -> bool:
        """It is an exported program, whose input is fixed."""
        import torch

        return isinstance(self.model, torch.export.ExportedProgram)

    @property
    def uint8(self) -> bool:
        """It takes whole grey levels."""
        return not self.dtype.is_floating_point


def read_source(path: Path, reference: str | None, key: str | None = None) -> Source:
    """Read SOURCE.

    Args:
        path: the file.
        reference: what builds the model that a checkpoint belongs to.
        key: which weights of the checkpoint to take.

    Raises:
        ArtifactError: the file is missing, damaged, of another kind, or does not fit the model.
        CaptureError: the reference does not resolve.
    """
    from videoeff.cli.shared.checkpoint import is_artifact
    from videoeff.cli.shared.checkpoint_file import SUFFIXES, few
    from videoeff.cli.shared.exported import is_export

    kinds = f"a .pt2, an .onnx, or a state dict ({', '.join(SUFFIXES)}) with --model"
    if not path.exists():
        raise ArtifactError(f"{path}: no such file; give {kinds}")
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.name.endswith((".pt2", ".onnx", *SUFFIXES)))
        given = f"give one of its files: {few(inside)}" if inside else f"give {kinds}"
        raise ArtifactError(f"{path}: is a folder; {given}")
    if path.stat().st_size == 0:
        raise ArtifactError(f"{path}: the file is empty; copy it again")
    if is_artifact(path):
        raise ArtifactError(f"{path}: is a converted stream already; use videoeff run {path} CLIP")
    whole = {".onnx": _onnx}.get(path.suffix.lower(), _exported if is_export(path) else None)
    if whole is not None or path.suffix.lower() == ".pt2":
        for option, value in (("--model", reference), ("--key", key)):
            if value is not None:
                raise ArtifactError(f"{path}: an exported program is a whole model; leave {option} out")
        return (whole or _exported)(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise ArtifactError(f"{path}: unknown kind of file; give {kinds}")
    return _with_weights(path, reference, key)


def _exported(path: Path) -> Source:
    from videoeff.cli.shared.exported import load_export

    program = load_export(path)
    inputs = [_fake(program, name) for name in program.graph_signature.user_inputs]
    images = [v for v in inputs if v is not None and len(v.shape) == 4]
    if len(images) != 1 or len(inputs) != 1:
        found = ", ".join(str(list(v.shape)) if v is not None else "a value" for v in inputs) or "nothing"
        raise CaptureError(
            f"{path}: takes {found}; this command feeds one batch of pictures (B, C, H, W); convert such a "
            "model in Python with videoeff.convert"
        )
    batch, channels, height, width = (s if isinstance(s, int) else None for s in images[0].shape)
    if channels not in (1, 3, 4, None):
        hint = "export it for (B, C, H, W)" if width in (1, 3, 4) else "convert it in Python instead"
        raise CaptureError(
            f"{path}: takes {list(images[0].shape)}, {channels} channels; clips have 1 (grey), 3 or 4 "
            f"(with opacity); {hint}"
        )
    _check_dtype(path, images[0].dtype)
    size = (height, width) if height is not None and width is not None else None
    multiple = (_factor(images[0].shape[2]), _factor(images[0].shape[3]))
    half = str(images[0].dtype) in ("torch.float16", "torch.bfloat16")
    notes = (f"{path.name}: is in half precision, which a CPU computes far slower; export it in float32",)
    return Source(
        program, path.stem, size, batch, images[0].dtype, notes=notes if half else (), channels=channels or 3,
        multiple=multiple,
    )  # fmt: skip


def _check_dtype(path: Path, dtype: torch.dtype) -> None:
    """Pictures hold 0..255, which a number of the model has to hold too."""
    import torch

    if dtype in (torch.int8, torch.bool) or dtype.is_complex:
        raise CaptureError(
            f"{path}: takes {str(dtype)[6:]}, which cannot hold grey levels 0 to 255; export it for uint8 or "
            "float32, or convert it in Python with videoeff.convert"
        )


def _factor(side: Any) -> int:
    """What a height or width has to be divided by: 32 for the symbol ``32*s39``, 1 for a plain one."""
    expression = getattr(getattr(side, "node", None), "expr", None)
    if expression is None:
        return 1
    factor, _ = expression.as_coeff_Mul()
    return int(factor) if factor.is_Integer and factor > 1 else 1


def _onnx(path: Path) -> Source:
    from videoeff.cli.shared.onnx_model import compare_with_runtime, load_onnx, picture_input

    model = load_onnx(path)
    batch, size, dtype = picture_input(path)
    return Source(model, path.stem, size, batch, dtype, check=partial(compare_with_runtime, path))


def _fake(program: torch.export.ExportedProgram, name: Any) -> Tensor | None:
    node = next((n for n in program.graph.nodes if n.op == "placeholder" and n.name == name), None)
    value = None if node is None else node.meta.get("val")
    return value if hasattr(value, "shape") else None


def _with_weights(path: Path, reference: str | None, key: str | None) -> Source:
    import torch

    from videoeff.cli.shared.checkpoint import load_into, read_state_dict

    if reference is None:
        raise ArtifactError(
            f"{path}: is a state dict of {len(read_state_dict(path))} tensors, which has no network in it; "
            "name what builds the network: --model torchvision:NAME, timm:NAME, package.module:callable or "
            "file.py:callable"
        )
    model = build_model(reference).eval()
    notes = load_into(model, path, reference, key)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    images = type(model).__module__.startswith("torchvision.models.detection")
    name = reference.rpartition(":")[2]
    return Source(model, name, None, None, dtype, images, notes, channels_of(model))


def channels_of(model: nn.Module) -> int:
    """How many channels a module takes, by its first convolution; 3 where that says nothing usual."""
    from torch import nn

    first = next((m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)), None)
    return first.in_channels if first is not None and first.in_channels in (1, 4) else 3


def build_model(reference: str) -> nn.Module:
    """The model a reference names; the working folder is importable, as in ``python -m``."""
    from videoeff.serialize.models import build

    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return build(reference)
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def check_fixed(source: Source, path: Path, size: tuple[int, int] | None, streams: int) -> tuple[int, int]:
    """The input size asked for, or the one the source is fixed to.

    Raises:
        CaptureError: none is known, or the source is fixed to another.
    """
    if source.size is not None and size is not None and source.size != size:
        raise CaptureError(
            f"{path}: was exported for {source.size[0]}x{source.size[1]} alone, not {size[0]}x{size[1]}; "
            "leave --input-size out, or export it with dynamic height and width"
        )
    if source.streams is not None and source.streams != streams:
        raise CaptureError(
            f"{path}: was exported for a batch of {source.streams}; give --streams {source.streams}, or "
            "export it with a dynamic batch"
        )
    found = size or source.size
    if found is None:
        raise CaptureError(
            f"{path}: its input size is free; give the size the frames are resized to: --input-size HEIGHT "
            "WIDTH"
        )
    _check_multiple(source, path, found)
    return found


def _check_multiple(source: Source, path: Path, size: tuple[int, int]) -> None:
    if not any(s % m for s, m in zip(size, source.multiple, strict=True)):
        return
    below = [max(m, s // m * m) for s, m in zip(size, source.multiple, strict=True)]
    above = [-(-s // m) * m for s, m in zip(size, source.multiple, strict=True)]
    raise CaptureError(
        f"{path}: was exported for heights in steps of {source.multiple[0]} and widths in steps of "
        f"{source.multiple[1]}, not for {size[0]}x{size[1]}; give --input-size {below[0]} {below[1]} or "
        f"{above[0]} {above[1]}"
    )


def check_frames(source: Source, preprocess: Preprocess, streams: int, count: int) -> list[Tensor]:
    """Pictures (B, 3, H, W) of noise of which a square moves, to compare a stream on."""
    import torch

    first = example_call(source, preprocess, streams)
    frames = []
    for number in range(count):
        frame = first.clone()
        height, width = frame.shape[-2] // 4, frame.shape[-1] // 4
        if number:
            place = frame[..., number * height // 2 :, number * width // 2 :][..., :height, :width]
            place.copy_(torch.flip(place, (-1, -2)))
        frames.append(frame)
    return frames


def example_call(source: Source, preprocess: Preprocess, streams: int) -> Any:
    """An example call: pictures of noise through the preprocessing."""
    import numpy as np

    assert preprocess.size is not None  # set by the command
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*preprocess.size, 3), dtype=np.uint8) for _ in range(streams)]
    return call_of(source, preprocess, frames)


def call_of(source: Source, preprocess: Preprocess, frames: Sequence[Any]) -> Any:
    """A call of one picture (H, W, 3), uint8, for each stream."""
    import torch

    batch = torch.cat([preprocess(f) for f in frames])
    batch = batch if preprocess.dtype == "uint8" and not source.uint8 else batch.to(source.dtype)
    return (list(batch),) if source.images else batch
