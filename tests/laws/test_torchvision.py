"""One torchvision model of each kind, with random weights: threshold 0 within law 1 on a moving object."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
import torchvision
from torch import nn

import videoeff
from videoeff.runtime.partitioned import PartitionedModel
from videoeff.testing import assert_close, moving_clip, poison, settle_batch_norm

#: Model, shape of a frame, and the share of its convolution work that must stream.
WHOLE = {
    "resnet18": ((1, 3, 64, 64), 1.0),
    "mobilenet_v2": ((2, 3, 64, 64), 1.0),
    "mobilenet_v3_small": ((1, 3, 64, 64), 1.0),
    "shufflenet_v2_x0_5": ((1, 3, 64, 64), 1.0),
    "efficientnet_b0": ((1, 3, 64, 64), 1.0),
    "densenet121": ((1, 3, 64, 64), 1.0),
    "convnext_tiny": ((1, 3, 64, 64), 1.0),
    "squeezenet1_1": ((1, 3, 64, 64), 1.0),
    "googlenet": ((1, 3, 64, 64), 1.0),
    "swin_t": ((1, 3, 64, 64), 1.0),
    "vit_b_32": ((1, 3, 224, 224), 1.0),
    "lraspp_mobilenet_v3_large": ((1, 3, 64, 64), 1.0),
    "deeplabv3_mobilenet_v3_large": ((1, 3, 64, 64), 1.0),
    "r3d_18": ((1, 3, 4, 32, 32), 1.0),
}
DETECTORS = ("ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn")


def model_of(name: str, shape: tuple[int, ...], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = (
        torchvision.models.get_model(name, weights=None, weights_backbone=None, **options)
        if ("lraspp" in name or "deeplab" in name)
        else torchvision.models.get_model(name, weights=None, **options)
    )
    return settle_batch_norm(model.eval(), [(torch.rand(4, *shape[1:]),) for _ in range(3)])


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_whole_models(name: str) -> None:
    shape, share = WHOLE[name]
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    model = model_of(name, shape, **options)
    stream = videoeff.convert(model, torch.rand(shape))
    poison(stream)
    frames = list(moving_clip(4, shape))
    with torch.no_grad():
        for frame in frames:
            assert_close(stream(frame), model(frame), name)
    report = stream.report()
    assert report.convolutions_streamed >= share
    assert report.macs["needed"] < report.macs["dense"]
    assert not report.eager


@pytest.mark.slow
def test_optical_flow() -> None:
    """RAFT takes two frames and an option; its correlation volume is global, its encoders stream."""
    torch.manual_seed(0)
    model = settle_batch_norm(
        torchvision.models.optical_flow.raft_small(weights=None).eval(),
        [(torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128), 1)],
    )
    frames = list(moving_clip(5, (1, 3, 128, 128)))
    options = {"num_flow_updates": 2}
    stream = videoeff.convert(model, (frames[0], frames[1]), kwargs=options)
    with torch.no_grad():
        for before, after in itertools.pairwise(frames):
            assert_close(stream(before, after, **options), model(before, after, **options), "flow")


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_detectors(name: str) -> None:
    """Captured in parts: what each part hands on is compared, and the form of the detections.

    In float64, where only a real difference shows: with these random weights the dense float32 model itself
    is up to 6e-5 away from its float64 self. Detections are discrete: with random weights thousands of boxes
    score alike, and one that rounds the other way changes which survive. They are no measure of the maps
    they come from.
    """
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None).eval()
    settle_batch_norm(model.backbone, [(torch.rand(2, 3, 320, 320),)])
    model.double()
    frames = [[f[0]] for f in moving_clip(4, (1, 3, 320, 320), dtype=torch.float64)]
    stream = videoeff.convert(model, (frames[0],))
    poison(stream)
    assert isinstance(stream.body, PartitionedModel)
    paths = list(stream.body.call_sites)
    assert "backbone" in paths
    truth, found = Outputs(model, paths), Outputs(stream.body.model, paths)
    for frame in frames:
        with torch.no_grad():
            expected, detections = model(frame), stream(frame)
        assert [sorted(d) for d in detections] == [sorted(d) for d in expected]
        for path in paths:
            assert_close(found.take(path), truth.take(path), path)
    assert stream.report().convolutions_streamed > 0.9
    assert stream.report().eager


class Outputs:
    """What submodules return, call by call."""

    def __init__(self, model: nn.Module, paths: list[str]) -> None:
        self.seen: dict[str, list[Any]] = {p: [] for p in paths}
        for path in paths:
            model.get_submodule(path).register_forward_hook(self._hook(path))

    def _hook(self, path: str) -> Callable[..., None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            self.seen[path].append(pytree.tree_map(torch.clone, output))

        return keep

    def take(self, path: str) -> list[Any]:
        found, self.seen[path] = self.seen[path], []
        assert found
        return found
