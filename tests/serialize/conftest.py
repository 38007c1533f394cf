"""Artifacts that several tests read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import videoeff
from tests.support.small_nets import (
    SIZE,
    Plain,
    lively,
)


@pytest.fixture(name="plain", scope="module")
def _plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a small model."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("artifact") / "plain.veff"
    videoeff.convert(lively(Plain()), torch.rand(SIZE), threshold=0.05).save(path)
    return path
