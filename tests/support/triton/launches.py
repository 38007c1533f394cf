"""What the CUDA backend would launch, on a machine without a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from videoeff.kernels.backend import Accepted
from videoeff.kernels.call import Context, RegionCall
from videoeff.kernels.region_spec.spec import RegionSpec
from videoeff.kernels.triton.configs import Config, Device


def launches(
    stream: Any, capability: int, sizes: Callable[[RegionCall], Config] | None = None
) -> list[tuple[Any, Mapping[str, Config]]]:
    """The launches of a reference stream's regions as the CUDA backend would make them, and their sizes."""
    from videoeff.kernels.triton import plan

    (engine,) = stream.engines.values()
    calls = [dataclasses.replace(i.call, device="cuda") for i in engine.plan.instructions]
    own = {} if sizes is None else {calls[-1].name: sizes(calls[-1])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "present", lambda kind: Device("", f"sm_{capability}"))
        made = plan.TritonPlan([accepted(c) for c in calls], frozenset(), own)
    fresh = torch.zeros(engine.program.streams, dtype=torch.bool)
    made._bind(Context((), engine.state, engine._constants, fresh, any_fresh=True, all_fresh=True))
    return [(launch, made.configs) for launch in made.launches]


def accepted(call: RegionCall) -> Accepted[RegionSpec]:
    """A region as the CUDA backend takes it, which it must."""
    from videoeff.kernels.triton.describe import describe

    found = describe(call)
    assert isinstance(found, Accepted), found
    return found
