"""Work that is done in a process of its own: what it imports changes settings of the process it runs in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from videoeff.errors import BackendError

#: Seconds that a worker may take.
SECONDS = 1800.0


def run_worker(module: str, folder: Path, threads: int, where: str) -> None:
    """Run ``python -m module FOLDER`` to its end.

    Args:
        module: what to run.
        folder: where it finds what it needs, and leaves what it makes.
        threads: it may use.
        where: of what, for messages.

    Raises:
        BackendError: it failed; its last words.
    """
    count = str(threads)
    environment = os.environ | {
        "OMP_NUM_THREADS": count,
        "CI": "true",  # else OpenVINO and NNCF send statistics of use
        "NNCF_CI": "1",
    }
    command = [sys.executable, "-W", "ignore", "-m", module, str(folder)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"{where}quantising took more than {SECONDS:.0f} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no word"]
        raise BackendError(f"{where}quantising failed: {lines[-1][:300]}")
