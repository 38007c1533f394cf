"""``compute-sanitizer`` over a few frames: no access outside a tensor, no race inside a block."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[4]
FAILED = 9


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_sanitizer(tool: str) -> None:
    program = shutil.which("compute-sanitizer")
    if program is None:
        pytest.skip("needs compute-sanitizer, which is not on the PATH here")
    command = [program, "--tool", tool, "--error-exitcode", str(FAILED), sys.executable]
    # every tensor an allocation of its own, so that an access beside it is seen
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(
        [*command, "-m", "tests.support.triton.sanitized"], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=850, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    if "Device not supported" in said:
        pytest.skip("compute-sanitizer does not support this device here")
    assert done.returncode == 0, said[-4000:]
