"""Artifacts of earlier versions load, and compute what they computed then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

import videoeff
from tests.serialize.kept_models import Parts
from tests.support.streams import BACKENDS
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.serialize.format import read_document
from videoeff.testing import assert_close

DATA = Path(__file__).parent / "data"


def load(name: str, version: str, **options: Any) -> StreamingModule:
    model = Parts() if name == "parts" else None
    return videoeff.load(DATA / f"{name}-{version}.veff", model=model, **options)


def expected(name: str, version: str) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The frames (T, 3, H, W) uint8, and the outputs of each as they were then."""
    kept = load_file(DATA / f"{name}-{version}.safetensors")
    frames = kept.pop("frames")
    outputs: list[dict[str, Tensor]] = [{} for _ in frames]
    for key, value in kept.items():
        number, _, output = key.partition(".")
        outputs[int(number)][output] = value
    return frames, outputs


@pytest.mark.parametrize("backend", [None, *BACKENDS])
@pytest.mark.parametrize("version", ["0.1.0"])
@pytest.mark.parametrize("name", ["whole", "parts"])
def test_outputs(name: str, version: str, backend: str | None) -> None:
    stream = load(name, version, backend=backend)
    frames, outputs = expected(name, version)
    for index, (frame, then) in enumerate(zip(frames, outputs, strict=True)):
        picture = frame.float() / 255
        found = stream([picture] if name == "parts" else picture[None], gain=1.5)
        assert set(found) == set(then)
        for output, value in then.items():
            assert_close(found[output], value, f"frame {index}, {output}")
    shares = [x.active_share for x in stream.report().layers if x.kind == "map"]
    assert any(share is not None and 0.0 < share < 0.9 for share in shares), "part of the picture is computed"


@pytest.mark.parametrize(("name", "layer"), [("whole", "deep"), ("parts", "head#2.0")])
def test_thresholds_names_and_extra(name: str, layer: str) -> None:
    stream = load(name, "0.1.0")
    assert stream.name == name
    assert stream.extra == {"source": "kept_models.py", "model": None}
    thresholds = stream.thresholds()
    assert thresholds[layer] == 0.1
    assert 0.05 in thresholds.values()
    assert list(stream.engines) == ([""] if name == "whole" else ["body", "head#1", "head#2"])
    assert len(stream.report().eager) == (0 if name == "whole" else 1)


@pytest.mark.parametrize("name", ["whole", "parts"])
def test_saved_again_the_description_is_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "again.veff"
    load(name, "0.1.0").save(path)
    then, now = read_document(DATA / f"{name}-0.1.0.veff"), read_document(path)
    for document in (then, now):
        document.pop("versions")  # of what wrote it
    assert now == then
