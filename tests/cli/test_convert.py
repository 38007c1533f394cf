"""``videoeff convert``: sources, preprocessing, coverage and the verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import videoeff
from tests.cli.conftest import REFERENCE, call, call_json, refused
from tests.support import quantised
from tests.support import tiny_models as tiny
from videoeff.video.preprocess import Preprocess

HERE = Path(tiny.__file__)


def exported(path: Path, dynamic: bool = True, batch: int = 1) -> Path:
    side = torch.export.Dim("h", min=4, max=64), torch.export.Dim("w", min=4, max=64)
    shapes = {"x": {2: 8 * side[0], 3: 8 * side[1]}} if dynamic else None
    program = torch.export.export(
        tiny.build(), (torch.zeros(batch, 3, *tiny.SIZE),), dynamic_shapes=shapes, strict=False
    )
    torch.export.save(program, path)
    return path


def outputs_agree(path: Path) -> bool:
    frame = torch.rand(1, 3, *tiny.SIZE)
    with torch.no_grad():
        return torch.allclose(videoeff.load(path)(frame), tiny.build()(frame), atol=1e-5)


def test_state_dict_with_a_reference(artifact: Path) -> None:
    stream = videoeff.load(artifact)
    assert outputs_agree(artifact)
    assert stream.extra["model"] == REFERENCE
    assert stream.extra["source"] == "tiny.pth"
    assert stream.extra["input_size"] == list(tiny.SIZE)
    pre = Preprocess.from_json(stream.extra["preprocess"])
    assert pre == Preprocess(size=tiny.SIZE, decoder=pre.decoder)
    assert pre.decoder.startswith("pyav ")


def test_preprocessing_is_recorded(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.veff"
    options = ("--scale", 1, "--mean", 1, 2, 3, "--std", 4, 5, 6, "--bgr")
    call_json("convert", checkpoint, "--model", REFERENCE, "--input-size", 16, 24, "-o", out, *options)
    pre = Preprocess.from_json(videoeff.load(out).extra["preprocess"])
    assert pre == Preprocess((16, 24), 1.0, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), True, decoder=pre.decoder)


def test_exported_program_of_free_size(tmp_path: Path) -> None:
    source, out = exported(tmp_path / "m.pt2"), tmp_path / "a.veff"
    found = call_json("convert", source, "-o", out, "--input-size", *tiny.SIZE)
    assert found["name"] == "m"
    assert outputs_agree(out)
    assert "--input-size HEIGHT WIDTH" in refused("convert", source, "-o", out)


def test_exported_program_of_fixed_size(tmp_path: Path) -> None:
    source, out = exported(tmp_path / "m.pt2", dynamic=False, batch=2), tmp_path / "a.veff"
    assert call_json("convert", source, "-o", out, "--streams", 2)["input_size"] == list(tiny.SIZE)
    assert videoeff.load(out).streams == 2
    assert "--streams 2" in refused("convert", source, "-o", out)
    message = refused("convert", source, "-o", out, "--streams", 2, "--input-size", 64, 64)
    assert "was exported for 32x48 alone" in message


def test_exported_program_by_another_name(tmp_path: Path) -> None:
    source = exported(tmp_path / "m.pt")
    assert call("convert", source, "-o", tmp_path / "a.veff", "--input-size", *tiny.SIZE).exit_code == 0


def test_exported_program_of_a_quantised_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, frame = quantised.Net().eval(), torch.rand(1, 3, *tiny.SIZE)
    source, out = tmp_path / "q.pt2", tmp_path / "a.veff"
    with torch.no_grad():
        torch.export.save(torch.export.export(net, (frame,)), source)
        expected = net(frame)
    call_json("convert", source, "-o", out)
    stream = videoeff.load(out)
    assert any(state.grid is not None for state in stream.engines[""].plan.state)
    direct = videoeff.convert(net, frame)(frame)
    for found, same, wanted in zip(stream(frame), direct, expected, strict=True):
        assert torch.equal(found, same)
        assert torch.linalg.vector_norm(found - wanted) < 0.1 * torch.linalg.vector_norm(wanted)


def wrapped(kind: str) -> Any:
    state = tiny.build().state_dict()
    return {
        "state_dict": {"state_dict": state, "epoch": 3, "lr": torch.tensor(0.1)},
        "model": {"model": state, "optimizer": {"state": {}}},
        "nested": {"checkpoint": 1, "model": {"state_dict": state}},
        "DataParallel": {f"module.{k}": v for k, v in state.items()},
        "compiled, parallel, in a dict": {
            "model_state_dict": {f"_orig_mod.module.{k}": v for k, v in state.items()}
        },
    }[kind]


@pytest.mark.parametrize(
    "kind", ["state_dict", "model", "nested", "DataParallel", "compiled, parallel, in a dict"]
)
def test_checkpoints_are_unwrapped(kind: str, tmp_path: Path) -> None:
    source, out = tmp_path / "c.pth", tmp_path / "a.veff"
    torch.save(wrapped(kind), source)
    found = call_json("convert", source, "--model", REFERENCE, "--input-size", *tiny.SIZE, "-o", out)
    assert bool(found["notes"]) == ("arallel" in kind)
    assert outputs_agree(out)


def test_safetensors(tmp_path: Path) -> None:
    source, out = tmp_path / "c.safetensors", tmp_path / "a.veff"
    save_file(tiny.build().state_dict(), source)
    call_json("convert", source, "--model", REFERENCE, "--input-size", *tiny.SIZE, "-o", out)
    assert outputs_agree(out)


def test_old_pickles_of_tensors(tmp_path: Path) -> None:
    source, out = tmp_path / "c.pth", tmp_path / "a.veff"
    torch.save(tiny.build().state_dict(), source, _use_new_zipfile_serialization=False)
    call_json("convert", source, "--model", REFERENCE, "--input-size", *tiny.SIZE, "-o", out)
    assert outputs_agree(out)


def test_reference_in_the_working_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_models.py").write_text(HERE.read_text())
    monkeypatch.chdir(tmp_path)
    reference = "my_own_models:build"
    call_json("convert", checkpoint, "--model", reference, "--input-size", 16, 16, "-o", "a.veff")
    assert videoeff.load("a.veff").extra["model"] == reference


def test_torchvision_by_name(tmp_path: Path) -> None:
    from torchvision.models import get_model

    source, out = tmp_path / "s.pth", tmp_path / "a.veff"
    torch.save(get_model("shufflenet_v2_x0_5", weights=None).state_dict(), source)
    reference = "torchvision:shufflenet_v2_x0_5"
    found = call_json("convert", source, "--model", reference, "--input-size", 64, 64, "-o", out)
    assert found["name"] == "shufflenet_v2_x0_5"
    assert found["convolutions_streamed"] == 1.0


def test_thresholds_and_options(checkpoint: Path, tmp_path: Path) -> None:
    out, base = tmp_path / "a.veff", ("convert", checkpoint, "--model", REFERENCE, "--input-size", 32, 32)
    call_json(*base, "-o", out, "--threshold", 0.1, "--block", 4, "--dilation", 1, "--predict", 1.5)
    text = str(videoeff.load(out).programs[""])
    assert "block=4" in text
    assert "dilation=1" in text
    assert "predict=1.5" in text
    values = dict.fromkeys(videoeff.load(out).thresholds(), 0.25)
    given = tmp_path / "t.json"
    given.write_text(json.dumps(values))
    call_json(*base, "-o", out, "--thresholds", given)
    assert videoeff.load(out).thresholds() == values
    passes = "drop-noops,insert-delta-caches"
    call_json(*base, "-o", out, "--passes", passes)
    assert [r.name for r in videoeff.load(out).programs[""].history] == passes.split(",")
    call_json(*base, "-o", out, "--recipe", "exact", "--nan-policy", "recompute", "--strict", "--name", "me")
    stream = videoeff.load(out)
    assert (stream.name, stream.nan_policy) == ("me", "recompute")


def test_noise_is_measured_on_a_clip(checkpoint: Path, tmp_path: Path) -> None:
    """Of a clip at the model's size, in the model's units."""
    folder, rng = tmp_path / "clip", np.random.default_rng(0)
    folder.mkdir()
    for number in range(20):
        picture = np.clip(rng.normal(120, 3, (*tiny.SIZE, 3)).round(), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
    out = tmp_path / "a.veff"
    found = call_json(
        "convert", checkpoint, "--model", REFERENCE, "--input-size", *tiny.SIZE, "-o", out,
        "--std", 0.5, 0.25, 1, "--noise-of", folder, "--noise-lag", 2,
        "--block", 4, "--weak", 0.4, "--grow", 1,
    )  # fmt: skip
    assert any("noise σ" in note for note in found["notes"])
    (instruction,) = (i for i in videoeff.load(out).engines[""].plan.instructions if i.call.kind == "input")
    test = instruction.call.test
    assert (test.kind, test.threshold, test.block, test.weak, test.grow) == ("noise", 4.0, 4, 0.4, 1)
    for (gain, floor, black), std in zip(test.noise, (0.5, 0.25, 1.0), strict=True):
        sigma = (floor + gain * max(120 / 255 / std - black, 0)) ** 0.5
        assert sigma == pytest.approx(3 / 255 / std, rel=0.15)


def test_dry_run_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    base = ("convert", checkpoint, "--model", REFERENCE, "--dry-run", "--input-size", 128, 128)
    result = call(*base, "-o", tmp_path / "a.veff")
    assert result.exit_code == 0
    assert not list(tmp_path.iterdir())
    assert "Streaming can pay" in result.stdout
    assert "state" in result.stdout
    found = call_json(*base)
    layers = {x["name"]: x for x in found["layers"]}
    assert layers["head"]["streams"]
    assert found["verdict"]["pays"]
    assert 0 < found["verdict"]["reached"] < 0.05
    assert found["state_bytes_per_stream"] == sum(x["state_bytes"] for x in found["layers"])


def test_verdict_on_small_maps(checkpoint: Path) -> None:
    found = call_json("convert", checkpoint, "--model", REFERENCE, "--dry-run", "--input-size", 8, 8)
    assert not found["verdict"]["pays"]
    assert "reaches most of the map" in found["verdict"]["sentence"]
    assert found["verdict"]["saturated"] == 1.0
    options = ("--dry-run", "--input-size", 8, 8, "--threshold", 0.1)
    lossy = call_json("convert", checkpoint, "--model", REFERENCE, *options)["verdict"]
    assert lossy["pays"] is None
    assert "only as far as the thresholds" in lossy["sentence"]


def test_verdict_where_little_streams(tmp_path: Path) -> None:
    source = tmp_path / "p.pth"
    torch.save(tiny.build_flat().state_dict(), source)
    base = ("convert", source, "--model", f"{HERE}:build_flat", "--input-size", 32, 32)
    found = call_json(*base, "--dry-run")
    assert not found["verdict"]["pays"]
    assert "Streaming cannot pay" in found["verdict"]["sentence"]
    whole = [x for x in found["layers"] if not x["streams"] and x["kind"] != "input"]
    assert whole
    assert all(x["why"] for x in whole)
    assert "does not stream" in refused(*base, "--strict", "-o", tmp_path / "a.veff")


def test_one_changed_square_is_followed(checkpoint: Path) -> None:
    found = call_json("convert", checkpoint, "--model", REFERENCE, "--dry-run", "--input-size", 64, 64)
    reach = {x["name"]: x["reach"] for x in found["layers"]}
    assert reach["x"] == 64 / 64**2
    stem = next(v for k, v in reach.items() if k.startswith("stem"))
    assert stem == 25 / 32**2  # 8x8 pixels touch 5x5 outputs of a 3x3 window at stride 2


def test_in_bfloat16(checkpoint: Path, tmp_path: Path) -> None:
    """From a checkpoint and from an export: the artifact takes and gives float32, and verifies."""
    export, first, second = exported(tmp_path / "m.pt2"), tmp_path / "a.veff", tmp_path / "b.veff"
    size = ("--input-size", *tiny.SIZE, "--precision", "bf16")
    made = call_json("convert", checkpoint, "--model", REFERENCE, "-o", first, *size)
    assert "computes in bfloat16; frames and outputs are float32" in made["notes"]
    call_json("convert", export, "-o", second, *size)
    frame = torch.rand(1, 3, *tiny.SIZE)
    found = videoeff.load(first)(frame)
    assert found.dtype == torch.float32
    assert torch.equal(found, videoeff.load(second)(frame))
    with torch.no_grad():
        assert torch.allclose(found, tiny.build()(frame), atol=0.05)
    for artifact in (first, second):
        verified = call_json("verify", artifact, "--frames", 3)
        assert verified["holds"]
        assert verified["dtype"] == "bfloat16"
    assert call("inspect", first).exit_code == 0


def test_bfloat16_takes_no_calibration(checkpoint: Path, tmp_path: Path) -> None:
    options = ("--model", REFERENCE, "--input-size", *tiny.SIZE, "-o", tmp_path / "a.veff")
    for words in (("--precision", "bf16", "--calibration", "c.mp4"), ("--precision", "int8")):
        assert "belong together" in refused("convert", checkpoint, *options, *words)
