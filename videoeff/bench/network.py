"""The networks every contender runs: from a reference, flat outputs, settled statistics, folded norms."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from videoeff.bench.clips import as_input, smooth
from videoeff.bench.spec import Job
from videoeff.errors import ArtifactError, CaptureError
from videoeff.serialize.files import write_atomic
from videoeff.serialize.models import build
from videoeff.serialize.operators import import_operators
from videoeff.testing import relative_error, settle_batch_norm
from videoeff.video.preprocess import Preprocess

#: Batch norms are settled on pictures of about this size: their statistics hardly depend on it.
_SETTLE_SIZE = (192, 256)
#: Statistics are widened until a disturbance of the input grows no more than this.
_AMPLIFICATION = 10.0


class Flat(nn.Module):
    """A network whose outputs are a flat tuple of tensors, as every runtime can return them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) to its tensors."""
        return tuple(v for v in pytree.tree_leaves(self.model(picture)) if isinstance(v, Tensor))


class DetectorMaps(nn.Module):
    """What of a torchvision two-stage detector is a map: normalisation, backbone with pyramid, RPN head.

    The rest selects and sorts boxes, which no runtime here can export as it is; all convolutions are inside.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.rpn.head
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(detector.transform.image_mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(detector.transform.image_std).view(1, 3, 1, 1))

    def forward(self, picture: Tensor) -> tuple[Any, Any]:
        """(B, 3, H, W) in [0, 1] to the head's scores and box offsets of every level."""
        features = self.backbone((picture - self.mean) / self.std)
        scores, offsets = self.head(list(features.values()))
        return scores, offsets


def note_on(reference: str) -> str:
    """What of the model is measured, "" for all of it."""
    if "rcnn" in reference:
        return "normalisation, backbone, pyramid and RPN head: the rest selects and sorts boxes"
    return ""


def network(reference: str) -> nn.Module:
    """The module a reference names, in evaluation mode, with flat outputs.

    Raises:
        CaptureError: the reference does not resolve.
    """
    model = build(reference)
    if hasattr(model, "rpn") and hasattr(model, "transform"):
        return Flat(DetectorMaps(model)).eval()
    return Flat(model).eval()


def make_weights(reference: str, path: Path, seed: int, look: Preprocess) -> None:
    """Write the weights that every process will load: random, with batch norms settled on such an input."""
    torch.manual_seed(seed)
    model = network(reference)
    settle(model, look.size or _SETTLE_SIZE, seed, look)
    state = model.state_dict()
    write_atomic(path, lambda temporary: torch.save(state, temporary))


def settle(model: nn.Module, size: tuple[int, int], seed: int, look: Preprocess | None = None) -> None:
    """Give random weights sane activations.

    Deep networks of random weights are chaotic with plain statistics: a disturbance of 1e-6 can change the
    whole output, and then no two ways of rounding agree. Variances are widened until it does not.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    height, width = (min(a, b) for a, b in zip(size, _SETTLE_SIZE, strict=True))
    rng = _rng(seed)
    look = look or Preprocess()
    plain = [
        torch.stack(
            [torch.from_numpy(smooth(height, width, look.channels, rng, cell)) for cell in (4, 12, 24, 48)]
        )
        for _ in range(2)
    ]
    batches = [_as_inputs(b + 0.1 * torch.rand(b.shape), look) for b in plain]
    settle_batch_norm(model, [(b,) for b in batches])
    for _ in range(20):
        if amplification(model, _as_inputs(plain[0][:1], look)) < _AMPLIFICATION:
            return
        for norm in norms:
            assert norm.running_var is not None  # settled above
            norm.running_var.mul_(1.5)


def _as_inputs(pictures: Tensor, look: Preprocess) -> Tensor:
    """Pictures (N, C, H, W) in 0..1 as a model is fed them, in float32, so that they can be disturbed."""
    found = np.stack([as_input(p, replace(look, dtype="float32")) for p in pictures.numpy()])
    return torch.from_numpy(found)


def _rng(seed: int) -> Any:
    return np.random.default_rng(seed)


def amplification(model: nn.Module, picture: Tensor) -> float:
    """Relative change of the outputs over that of the input, for a disturbance of 1e-6."""
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before, after = model(picture), model(picture + 1e-6 * noise)
    return relative_error(after, before) / 1e-6


def load(job: Job) -> nn.Module | torch.export.ExportedProgram:
    """The network of a job, with its weights.

    A ``.pt2`` file is read as it is: whoever takes it from elsewhere screens it first.

    Raises:
        ArtifactError: a file is missing, or the weights do not fit.
    """
    torch.manual_seed(0)
    if job.reference.endswith(".pt2"):
        path = Path(job.reference)
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file; give a .pt2 or a reference such as timm:NAME")
        import_operators(path)
        return torch.export.load(path)
    model = network(job.reference)
    if job.weights:
        try:
            model.load_state_dict(torch.load(job.weights, weights_only=True))
        except RuntimeError as error:
            lines = str(error).splitlines()
            raise ArtifactError(f"{job.weights}: does not fit {job.reference} ({lines[0]})") from error
    return model.requires_grad_(False)


def example(job: Job) -> Tensor:
    """A picture (1, C, H, W) of a job's size, the same for every process; channels last."""
    generator = torch.Generator().manual_seed(1)
    picture = torch.rand(job.look.channels, *job.size, generator=generator)
    fed = torch.from_numpy(as_input(picture.numpy(), job.look))[None]
    return fed.contiguous(memory_format=torch.channels_last)


def folded(model: nn.Module | torch.export.ExportedProgram, example: Tensor) -> tuple[nn.Module, int]:
    """The network with batch norms folded into the convolutions before them, and how many were.

    A norm is folded where, on the example, its input is the very tensor a convolution returned and both ran
    once; the result is then checked. An exported program is folded as a graph.

    Raises:
        CaptureError: the folded module computes something else.
    """
    if isinstance(model, torch.export.ExportedProgram):
        return _folded_graph(model, example)
    pairs = _pairs(model, example)
    if not pairs:
        return model, 0
    twin = copy.deepcopy(model)
    for convolution, norm in pairs:
        _fold_pair(twin, convolution, norm)
    with torch.no_grad():
        error = relative_error(twin(example), model(example))
    if not error < 1e-3:
        raise CaptureError(f"folding {len(pairs)} batch norms changed the outputs by {error:.2g}")
    return twin, len(pairs)


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    made: dict[int, str] = {}
    calls: dict[str, int] = {}
    found: list[tuple[str, str]] = []
    kept: list[Any] = []  # keeps tensors alive, so that no two have one id

    def watch(name: str) -> Any:
        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            kept.append(output)
            if isinstance(module, nn.Conv2d):
                made[id(output)] = name
            elif id(inputs[0]) in made:
                found.append((made.pop(id(inputs[0])), name))

        return after

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [
        m.register_forward_hook(watch(n)) for n, m in model.named_modules() if type(m) in kinds and n != ""
    ]
    with torch.no_grad():
        model(example)
    for hook in hooks:
        hook.remove()
    return [(c, n) for c, n in found if calls[c] == 1 and calls[n] == 1]


def _fold_pair(model: nn.Module, convolution: str, norm: str) -> None:
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    before, after = model.get_submodule(convolution), model.get_submodule(norm)
    assert isinstance(before, nn.Conv2d)  # as _pairs found them
    assert isinstance(after, nn.BatchNorm2d)
    fused = fuse_conv_bn_eval(before, after)
    model.set_submodule(convolution, fused.requires_grad_(False))
    model.set_submodule(norm, nn.Identity())


def _folded_graph(exported: torch.export.ExportedProgram, example: Tensor) -> tuple[nn.Module, int]:
    from videoeff.capture.export import capture
    from videoeff.ops.base import op_name
    from videoeff.passes import parse_passes, run_passes

    captured = capture(exported, (example,))
    program = run_passes(captured, parse_passes("fold-batchnorm,drop-noops"))
    before, after = (sum(op_name(n) == "batch_norm" for n in p.nodes) for p in (captured, program))
    return program.module, before - after


def convolution_bytes(programs: Sequence[Any]) -> int:
    """Bytes of all convolution outputs of some planned Programs."""
    from videoeff.analysis import is_convolution
    from videoeff.ir.layout import info

    total = 0
    for program in programs:
        for node in program.nodes:
            if is_convolution(node):
                value = info(node)
                total += value.numel * (value.dtype.itemsize if value.dtype is not None else 0)
    return total
