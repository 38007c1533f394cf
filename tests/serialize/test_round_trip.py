"""Artifacts: what goes in comes out, without the model's source."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import videoeff
from tests.serialize.artifacts import assert_streams_agree, same
from tests.support.small_nets import (
    FORMS,
    SIZE,
    CalledTwice,
    Gated,
    Plain,
    Structured,
    TwoInputs,
    clip,
    lively,
)
from videoeff.errors import ArtifactError, BackendError, StateError
from videoeff.passes.pipeline import passes_hash
from videoeff.serialize import format as file_format


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (Plain, {}),
        (Plain, {"recipe": "exact"}),
        (Plain, {"threshold": 0.1, "input_threshold": 0.02, "block": 4, "dilation": 1}),
        (Gated, {"threshold": 0.1, "predict": 1.0}),
        (CalledTwice, {"threshold": 0.05, "alias_outputs": True, "nan_policy": "recompute"}),
    ],
    ids=["plain", "exact", "blocks", "gates-concat-predict", "shared"],
)
def test_round_trip(model: Callable[[], nn.Module], options: dict[str, Any], tmp_path: Path) -> None:
    stream = videoeff.convert(lively(model()), torch.rand(SIZE), name="It", **options)
    stream.extra |= {
        "preprocess": {"scale": 255},
        "source": "clip.avi",
        "input_size": [20, 24],
        "model": None,
    }
    path = tmp_path / "it.veff"
    stream.save(path)
    loaded = videoeff.load(path)
    assert loaded.name == "It"
    assert loaded.extra == stream.extra
    assert loaded.thresholds() == stream.thresholds()
    assert (loaded.alias_outputs, loaded.nan_policy) == (stream.alias_outputs, stream.nan_policy)
    assert [str(p) for p in loaded.programs.values()] == [str(p) for p in stream.programs.values()]
    assert [p.history for p in loaded.programs.values()] == [p.history for p in stream.programs.values()]
    assert [e.plan.state for e in loaded.engines.values()] == [e.plan.state for e in stream.engines.values()]
    assert_streams_agree(stream, loaded, list(clip(5)))
    assert loaded.report().to_json()["macs"] == stream.report().to_json()["macs"]
    again = tmp_path / "again.veff"
    loaded.save(again)
    assert file_format.read_document(again) == file_format.read_document(path)


@pytest.mark.parametrize("form", FORMS)
def test_output_structures(form: str, tmp_path: Path) -> None:
    stream = videoeff.convert(Structured(form).eval(), torch.rand(SIZE))
    stream.save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff")
    for frame in clip(3):
        found, expected = loaded(frame), stream(frame)
        assert same(found, expected)
        if form in ("dict", "ordered", "nested"):
            assert list(found) == list(expected)
            assert type(found) is type(expected)
        if form == "namedtuple":
            assert torch.equal(found.coarse, expected.coarse)
            assert found._fields == ("coarse", "fine")
            assert type(found).__name__ == "Pair"


def test_several_inputs_and_literals(tmp_path: Path) -> None:
    frames = [(torch.rand(SIZE), torch.rand(1, 1, 20, 24)) for _ in range(3)]
    stream = videoeff.convert(TwoInputs().eval(), frames[0], kwargs={"flip": True})
    stream.save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff")
    for image, depth in frames:
        expected = stream(image, depth, flip=True)
        assert same(loaded(image, depth, flip=True), expected)
        assert same(loaded(depth=depth, image=image, flip=True), expected), "the parameters' names are kept"
    with pytest.raises(StateError, match="converted for True"):
        loaded(image, depth, flip=False)


def test_bfloat16(tmp_path: Path) -> None:
    stream = videoeff.convert(lively(Plain()).bfloat16(), torch.rand(SIZE).bfloat16(), threshold=0.1)
    stream.save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff")
    assert {t.dtype for t in loaded.buffers()} == {torch.bfloat16}
    assert_streams_agree(stream, loaded, list(clip(3, dtype=torch.bfloat16)))
    stream.float()
    stream.save(tmp_path / "wide.veff")
    assert_streams_agree(stream, videoeff.load(tmp_path / "wide.veff"), list(clip(3)))


def test_changed_thresholds_are_saved_and_the_state_is_not(tmp_path: Path) -> None:
    stream = videoeff.convert(lively(Gated()), torch.rand(SIZE))
    frames = list(clip(4))
    stream(frames[3])
    stream.set_threshold(0.2)
    stream.set_threshold(0.05, "left")
    stream.save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff")
    assert loaded.thresholds() == stream.thresholds()
    assert_streams_agree(stream, loaded, frames)  # the loaded one begins with frame 1


def test_batches(tmp_path: Path) -> None:
    stream = videoeff.convert(lively(Gated()), torch.rand(3, 3, 20, 24), threshold=0.1)
    stream.save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff")
    assert loaded.streams == 3
    assert_streams_agree(stream, loaded, list(clip(3, (3, 3, 20, 24))))


def test_the_file_is_about_as_large_as_the_weights(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 64, 3, padding=1)
            self.again = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in range(6))
            for conv in self.again:
                conv.weight = self.again[0].weight

        def forward(self, x: Tensor) -> Tensor:
            y: torch.Tensor = self.first(x)
            for conv in self.again:
                y = conv(torch.relu(y))
            return y

    model = Tied().eval()
    stream = videoeff.convert(model, torch.rand(1, 3, 8, 8))
    stream(torch.rand(1, 3, 8, 8))
    path = tmp_path / "it.veff"
    stream.save(path)
    weights = sum(p.numel() * 4 for p in model.parameters())
    assert weights < path.stat().st_size < weights + 40_000
    loaded = videoeff.load(path)
    assert len({t.data_ptr() for t in loaded.buffers() if t.ndim == 4 and t.shape[1] == 64}) == 1
    assert_streams_agree(stream, loaded, [torch.rand(1, 3, 8, 8) for _ in range(2)])


def test_what_the_description_holds(plain: Path) -> None:
    document, tensors = file_format.read(plain)
    assert document["format"] == "videoeff"
    assert document["format_version"] == 1
    assert document["versions"] == {"videoeff": videoeff.__version__, "torch": torch.__version__}
    (engine,) = document["engines"]
    assert engine["passes"].startswith("fold-batchnorm,")
    assert "insert-thresholds{threshold=0.05}" in engine["passes"]
    assert engine["passes_hash"] == passes_hash(engine["passes"])
    assert [h["name"] for h in engine["history"]] == re.findall(
        r"([a-z-]+)(?:\{[^}]*\})?(?:,|$)", engine["passes"]
    )
    stream = videoeff.load(plain)
    assert engine["state"] == [s.to_json() for s in stream.engines[""].plan.state]
    names = {s["name"] for s in engine["state"]}
    assert {"x.value", "x.scale", "first.value", "first.scale", "second.value"} <= names
    assert set(re.findall(r"const\(.(\S+?).\)", engine["graph"])) == {n.removeprefix("0:") for n in tensors}


def test_a_loaded_stream_is_not_planned_anew(plain: Path) -> None:
    stream = videoeff.load(plain)
    stream.on_resize = "replan"
    with pytest.raises(StateError, match="loaded from a file and cannot be planned anew"):
        stream(torch.rand(1, 3, 16, 16))


def test_a_fresh_process_without_the_model(plain: Path, tmp_path: Path) -> None:
    code = f"""
import sys
import videoeff
assert "torch" not in sys.modules
stream = videoeff.load({str(plain)!r})
import torch
frame = torch.arange(3 * 20 * 24, dtype=torch.float32).view(1, 3, 20, 24) / 1000
out = [stream(frame), stream(frame + (frame > 1.2))]
assert "torchvision" not in sys.modules and "tests.support.small_nets" not in sys.modules
torch.save(out, {str(tmp_path / "out.pt")!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    frame = torch.arange(3 * 20 * 24, dtype=torch.float32).view(1, 3, 20, 24) / 1000
    stream = videoeff.load(plain)
    expected = [stream(frame), stream(frame + (frame > 1.2))]
    for a, b in zip(torch.load(tmp_path / "out.pt"), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # another number of threads


def test_nothing_is_unpickled(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert videoeff.load(plain)(torch.rand(SIZE)).shape == (1, 4, 10, 12)


def test_loading_in_inference_mode(plain: Path) -> None:
    with torch.inference_mode():
        stream = videoeff.load(plain)
        stream(torch.rand(SIZE))
    assert stream(torch.rand(SIZE)).shape == (1, 4, 10, 12)


def test_another_backend(plain: Path) -> None:
    assert videoeff.load(plain, backend="reference")(torch.rand(SIZE)).shape == (1, 4, 10, 12)
    with pytest.raises(BackendError, match="no backend 'warp'"):
        videoeff.load(plain, backend="warp")


def test_what_has_no_file_form(tmp_path: Path) -> None:
    class Special(dict[str, Any]):
        """A container pytree knows, but no file does."""

    def flatten(value: Special) -> tuple[list[Any], list[str]]:
        return list(value.values()), list(value)

    pytree.register_pytree_node(
        Special,
        flatten,
        lambda values, keys: Special(zip(keys, values, strict=True)),
        serialized_type_name="tests.Special",
    )

    class Returns(Structured):
        def forward(self, x: Tensor) -> Any:
            return Special(super().forward(x))

    stream = videoeff.convert(Returns("dict").eval(), torch.rand(SIZE))
    assert isinstance(stream(torch.rand(SIZE)), Special)
    with pytest.raises(ArtifactError, match=r"Special, which has no file form"):
        stream.save(tmp_path / "it.veff")
    stream = videoeff.convert(lively(Plain()), torch.rand(SIZE))
    stream.extra["model"] = object()
    with pytest.raises(ArtifactError, match="no JSON form"):
        stream.save(tmp_path / "it.veff")
    assert list(tmp_path.iterdir()) == []
