"""Kernels compiled side by side, for a GPU that is not there."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.streams import stream_of
from tests.support.triton.launches import launches

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="needs triton, which is not installed here"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset:UserWarning"),
]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The launches of a small network, on a driver that compiles and launches nothing."""
    from triton.runtime import driver

    from benchmarks.ahead import Pretended

    module = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 1)).eval()
    stream = stream_of(module, torch.rand(1, 3, 24, 40), backend="reference")
    monkeypatch.setattr(driver, "_active", Pretended(90))
    return [launch for launch, _ in launches(stream, 90)]


def test_every_kernel_is_compiled(made: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.jit import JITFunction

    from videoeff.kernels.triton.compiling import compile_all

    compile_all(made, threads=2)

    def nothing_left(function: Any, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{function} was compiled when it was launched")

    monkeypatch.setattr(JITFunction, "_do_compile", nothing_left)
    assert len(made) > 3
    for launch in made:
        launch.warm()


def test_a_kernel_that_does_not_compile_is_left_to_its_launch(made: list[Any]) -> None:
    from triton.compiler import CompilationError

    from videoeff.kernels.triton.compiling import compile_all

    broken = replace(made[-1], arguments=made[-1].arguments | {"CODE": ((1000, 0, 0, 0.0, 0.0),)})
    compile_all([*made[:1], broken], threads=2)
    with pytest.raises(CompilationError):
        # Triton 3.7 and 3.8 keep what failed, and raise when the launch asks it for its metadata.
        _ = broken.warm().packed_metadata


def test_counters_and_sizes_make_no_kernels_of_their_own(made: list[Any]) -> None:
    """What differs from layer to layer only by number is one kernel."""
    stream = stream_of(
        nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(6))).eval(),
        torch.rand(1, 8, 20, 36), backend="reference",
    )  # fmt: skip
    keys = set()
    for launch, _ in launches(stream, 90):
        if launch.kernel.__name__ == "convolution":
            told = dict.fromkeys(launch.told, 0)
            binder = launch.kernel.device_caches[0][-1]
            keys.add(str(binder(**launch.arguments, **told, **launch.options, debug=False)[1:]))
    assert len(keys) == 2  # the last one has no list that follows
