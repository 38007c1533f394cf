"""The demonstration's network: its shape, its shipped weights, and how well they label unseen clips."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from videoeff.demo import model as demo
from videoeff.demo.synth import CLASSES, Scene
from videoeff.errors import ArtifactError


def test_the_network_is_small_and_takes_multiples_of_16() -> None:
    network = demo.Segmenter().eval()
    assert 150_000 <= sum(weight.numel() for weight in network.parameters()) <= 300_000
    with torch.inference_mode():
        for height, width in ((16, 16), (64, 96), (80, 48)):
            logits = network(torch.zeros(2, 3, height, width))
            assert logits.shape == (2, len(CLASSES), height // 4, width // 4)


def test_it_exports_whole() -> None:
    network = demo.load_demo_model()
    frame = torch.randn(1, 3, 64, 96)
    exported = torch.export.export(network, (frame,)).module()
    torch.testing.assert_close(exported(frame), network(frame))


def test_the_shipped_weights_label_a_clip_they_never_saw() -> None:
    """The floor lies under the validation figure of the training script, and far above an untrained net."""
    scene = Scene(frames=120, seed=11)
    pre, counts = demo.demo_preprocess(), np.zeros((4, 4), np.int64)
    network = demo.load_demo_model()
    assert not network.training
    with torch.inference_mode():
        for index in (0, 30, 60, 90):  # the third is under the cloud
            picture, truth = scene.frame(index)
            counts += demo.confusion(demo.label_map(network(pre(picture)), truth.shape), truth)
    assert counts.sum() == 4 * 256 * 448
    assert demo.mean_iou(counts) > 0.85


def test_the_checkpoint_is_small_and_finite() -> None:
    path = resources.files("videoeff.demo").joinpath(demo.CHECKPOINT)
    assert len(path.read_bytes()) < 1_200_000
    for name, value in demo.load_demo_model().state_dict().items():
        assert torch.isfinite(value).all(), name


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_unusable_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / demo.CHECKPOINT
    if damage == "cut":
        whole = resources.files("videoeff.demo").joinpath(demo.CHECKPOINT).read_bytes()
        path.write_bytes(whole[:1000])
    elif damage == "other":
        save_file({"weight": torch.zeros(3)}, path)
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    with pytest.raises(ArtifactError, match=r"segmenter\.safetensors: .*cannot be used"):
        demo.load_demo_model()


def test_mean_iou_by_hand() -> None:
    truth = np.array([[0, 0], [1, 1]], np.uint8)
    predicted = np.array([[0, 1], [1, 1]], np.uint8)
    counts = demo.confusion(predicted, truth)
    assert counts[0, 1] == 1
    assert counts.sum() == 4
    assert demo.mean_iou(counts) == pytest.approx((1 / 2 + 2 / 3) / 2)  # absent classes do not count
    assert demo.mean_iou(demo.confusion(truth, truth)) == 1.0


def test_labels_come_back_at_full_size() -> None:
    logits = torch.zeros(1, 4, 2, 3)
    logits[:, 2, :, 1:] = 5.0
    labels = demo.label_map(logits, (8, 12))
    assert labels.shape == (8, 12)
    assert labels.dtype == np.uint8
    assert (labels[:, 6:] == 2).all()
    assert (labels[:, :2] == 0).all()
