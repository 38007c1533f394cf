"""A job's network as files that other runtimes read, made once and kept in the job's cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from videoeff.bench import network
from videoeff.bench.clips import BlobClip, as_input
from videoeff.bench.spec import Job
from videoeff.calibration.openvino_files import write_int8, write_onnx, write_openvino
from videoeff.capture.quantised import quantised

#: Frames of the made-up clip that int8 is calibrated on where no real ones are given.
MADE_UP = 16


def onnx_file(job: Job) -> Path:
    """The network as ONNX, at a fixed size."""

    def write(path: Path) -> None:
        model, example = _dense(job)
        write_onnx(model, (example,), path)

    return _cached(job, "model.onnx", write)


def openvino_file(job: Job) -> Path:
    """The network as OpenVINO's own format, in float32."""

    def module() -> tuple[nn.Module, tuple[Tensor]]:
        model, example = _dense(job)
        return model, (example,)

    def write(path: Path) -> None:
        write_openvino(lambda: onnx_file(job), module, path)

    return _cached(job, "model.xml", write)


def int8_file(job: Job) -> tuple[Path, int]:
    """The network in OpenVINO's own format after post-training quantisation to int8 by NNCF.

    Returns:
        The file, and how many frames it was calibrated on.
    """
    frames = _calibration(job)
    model = openvino_file(job)
    digest = _digest(frames, model.with_suffix(".bin"))

    def batch(frame: NDArray[Any]) -> NDArray[Any]:
        return np.array(frame)[None]

    def write(path: Path) -> None:
        write_int8(model, list(frames), batch, path)

    return _cached(job, f"int8-{digest}.xml", write), len(frames)


def quantised_file(job: Job) -> tuple[Path, int]:
    """The network as an exported program after post-training quantisation to int8 by NNCF.

    Returns:
        The file, and how many frames it was calibrated on.
    """
    frames = _calibration(job)
    digest = _digest(frames, Path(job.weights) if job.weights else None)

    def write(path: Path) -> None:
        example = network.example(job).contiguous()
        calls = (torch.from_numpy(np.array(frame)[None]) for frame in frames)
        torch.export.save(quantised(network.load(job), (example,), calls, job.name), path)

    return _cached(job, f"quantised-{digest}.pt2", write), len(frames)


def _digest(frames: NDArray[Any], weights: Path | None) -> str:
    """What names a quantised file: the same frames and weights give the same name."""
    digest = hashlib.blake2b(repr(frames.shape).encode(), digest_size=6)
    for frame in frames:
        digest.update(np.ascontiguousarray(frame).data)
    if weights is not None:
        digest.update(weights.read_bytes())
    return digest.hexdigest()


def _calibration(job: Job) -> NDArray[Any]:
    """The frames to calibrate on, (N, C, H, W)."""
    if job.calibration:
        frames: NDArray[Any] = np.load(job.calibration, mmap_mode="r")
        return frames
    clip = BlobClip(job.size, 0.3, channels=job.look.channels, seed=2)
    return np.stack([as_input(clip.next(), job.look) for _ in range(MADE_UP)])


def _dense(job: Job) -> tuple[nn.Module, Tensor]:
    example = network.example(job).contiguous()
    return network.folded(network.load(job), example)[0], example


def _cached(job: Job, name: str, write: Callable[[Path], None]) -> Path:
    """A file of the job's cache, made if it is not there; made beside it and renamed.

    Of several processes that want it one makes it and the others wait.
    """
    folder = Path(job.cache) / f"{job.name}-{job.size[0]}x{job.size[1]}"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_file():
            making = folder / f"making-{name}-{os.getpid()}"
            making.mkdir(exist_ok=True)
            write(making / name)
            for file in sorted(making.iterdir(), key=lambda f: f.name == name):  # the named file last
                file.replace(folder / file.name)
            making.rmdir()
    return target
