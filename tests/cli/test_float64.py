"""``videoeff verify`` where float32 exceeds the law: the dense network in float64 decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.cli.conftest import REFERENCE, call, call_json
from tests.support import sensitive_net
from tests.support import tiny_models as tiny
from videoeff.kernels.call import RegionCall
from videoeff.kernels.reference import region

SENSITIVE = f"{Path(sensitive_net.__file__)}:build"
DETECTOR = f"{Path(sensitive_net.__file__)}:detector"

#: What a kernel's values of the first layer become, from the values and the active pixels.
Disturb = Callable[[Tensor], Tensor]


def converted(reference: str, out: Path, *options: object) -> Path:
    from videoeff.serialize.models import build

    torch.save(build(reference).state_dict(), out.with_suffix(".pth"))
    size = ("--input-size", *tiny.SIZE)
    call_json("convert", out.with_suffix(".pth"), "--model", reference, *size, "-o", out, *options)
    return out


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(SENSITIVE, tmp_path_factory.mktemp("sensitive") / "a.veff")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Disturb], None]:
    """Makes the reference's kernel of a layer compute something else."""

    def change(layer: str, disturb: Disturb) -> None:
        right = region.commit

        def wrong(call: RegionCall, context, new, old, active) -> None:  # type: ignore[no-untyped-def]
            right(call, context, disturb(new) if layer in call.name else new, old, active)

        monkeypatch.setattr(region, "commit", wrong)

    return change


def rounded(by: float) -> Disturb:
    generator = torch.Generator().manual_seed(1)
    return lambda new: new * (1 + by * torch.randn(new.shape, generator=generator)).to(new.dtype)


def options(artifact: Path, *more: object) -> tuple[object, ...]:
    return ("verify", artifact, "--frames", 3, "--backend", "reference", *more)


@pytest.mark.parametrize("model", [(), ("--model", SENSITIVE)], ids=["", "with the model"])
def test_rounding_that_the_network_magnifies_holds(
    artifact: Path, kernel: Callable[[str, Disturb], None], model: tuple[object, ...]
) -> None:
    kernel("spread", rounded(6e-8))
    found = call_json(*options(artifact, *model))
    assert found["relative"] > 1e-4
    assert found["holds"]
    judgements = [found["float64"], found["model_float64"]] if model else [found["float64"]]
    for told in judgements:
        assert told["holds"]
        assert 1e-5 < told["eager"] < told["found"] < 4 * told["eager"]
    assert found["model_float64"] is None or model
    text = call(*options(artifact, *model)).stdout
    assert "the network itself is that sensitive to float32's rounding: eager PyTorch is off by" in " ".join(
        text.split()
    )
    assert "Holds: the law of threshold 0" in text


@pytest.mark.parametrize("model", [(), ("--model", SENSITIVE)], ids=["", "with the model"])
@pytest.mark.parametrize(
    ("layer", "disturb"),
    [
        ("spread", rounded(4.5e-7)),  # eight roundings in a place that the network magnifies
        ("sum", lambda new: new * 1.002),  # an operator that is a little wrong
        ("head", lambda new: new * 1.002),
        ("head", lambda new: new + 8e-4 * new.abs().max()),
    ],
    ids=["eight roundings", "sum", "head", "offset"],
)
def test_a_fault_in_a_sensitive_network_is_refused(
    artifact: Path,
    kernel: Callable[[str, Disturb], None],
    model: tuple[object, ...],
    layer: str,
    disturb: Disturb,
) -> None:
    kernel(layer, disturb)
    found = call_json(*options(artifact, *model), status=1)
    assert not found["holds"]
    assert found["float64"] is not None
    assert not found["float64"]["holds"]
    assert "BROKEN: the law of threshold 0" in call(*options(artifact, *model)).stdout


def test_a_small_fault_in_a_network_that_is_not_sensitive_is_refused(
    tmp_path: Path, kernel: Callable[[str, Disturb], None]
) -> None:
    artifact = converted(REFERENCE, tmp_path / "a.veff")
    kernel("head", lambda new: new * 1.0002)
    found = call_json(*options(artifact), status=1)
    assert 1e-4 < found["relative"] < 1e-3
    assert found["float64"]["eager"] < 1e-6
    assert "it is not rounding" in " ".join(call(*options(artifact)).stdout.split())


def test_stale_pixels_are_refused(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = region.commit

    def wrong(call: RegionCall, context, new, old, active) -> None:  # type: ignore[no-untyped-def]
        if "spread" in call.name and not context.all_fresh:
            new = new.clone()
            new[..., ::2] = old[..., ::2]
        right(call, context, new, old, active)

    monkeypatch.setattr(region, "commit", wrong)
    found = call_json(*options(artifact), status=1)
    assert found["first_frame_relative"] < 5e-4 < 1e-2 < found["relative"]
    assert not found["holds"]


@pytest.mark.parametrize("by", [6e-8, 4.5e-7])
def test_a_model_in_parts_is_judged_by_its_layers(
    by: float, tmp_path: Path, kernel: Callable[[str, Disturb], None]
) -> None:
    artifact = converted(DETECTOR, tmp_path / "a.veff")
    kernel("spread", rounded(by))
    holds = by < 1e-7
    found = call_json(*options(artifact, "--model", DETECTOR), status=0 if holds else 1)
    assert found["judged_by"] == "layers"
    assert found["holds"] is found["float64"]["holds"] is holds
    assert found["float64"]["found"] > 1e-4


def test_a_tolerance_of_the_users_own_is_not_loosened(
    artifact: Path, kernel: Callable[[str, Disturb], None]
) -> None:
    kernel("spread", rounded(6e-8))
    found = call_json(*options(artifact, "--tolerance", 1e-4), status=1)
    assert found["float64"] is None
    assert call_json(*options(artifact, "--tolerance", 1e-3))["holds"]


def test_with_thresholds_the_first_frame_is_judged_so(
    tmp_path: Path, kernel: Callable[[str, Disturb], None]
) -> None:
    artifact = converted(SENSITIVE, tmp_path / "a.veff", "--threshold", 0.1)
    kernel("spread", rounded(6e-8))
    found = call_json(*options(artifact))
    assert found["first_frame_relative"] > 1e-4
    assert found["float64"]["holds"]
    assert found["holds"]


def test_where_float64_cannot_be_run_the_law_stays(
    artifact: Path, kernel: Callable[[str, Disturb], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from videoeff.cli.shared import float64
    from videoeff.rounding import NoFloat64

    def cannot(_stream: object) -> None:
        raise NoFloat64("it fixes a dtype inside")

    kernel("spread", rounded(6e-8))
    monkeypatch.setattr(float64, "_in_float64", cannot)
    found = call_json(*options(artifact), status=1)
    assert not found["holds"]
    told = "float64 cannot tell whether it is rounding: it fixes a dtype inside"
    assert told in found["float64"]["sentence"]
    assert told in " ".join(call(*options(artifact)).stdout.split())
