"""Files that were damaged, or are no artifact, are refused."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import videoeff
from tests.support.small_nets import (
    SIZE,
)
from videoeff.errors import ArtifactError


def test_truncated_files(plain: Path, tmp_path: Path) -> None:
    data, path = plain.read_bytes(), tmp_path / "cut.veff"
    header = struct.unpack("<Q", data[:8])[0]
    for size in (0, 4, 8, 100, 8 + header // 2, 8 + header, len(data) - 200, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ArtifactError, match=r"cut\.veff: "):
            videoeff.load(path)
    path.write_bytes(data + b"more")
    with pytest.raises(ArtifactError, match=r"cut\.veff: "):
        videoeff.load(path)


def test_every_flipped_bit_is_noticed(plain: Path, tmp_path: Path) -> None:
    data, path = bytearray(plain.read_bytes()), tmp_path / "bad.veff"
    header = struct.unpack("<Q", bytes(data[:8]))[0]
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(0, len(data), (60,), generator=generator).tolist()
    places += torch.randint(8, 8 + header, (60,), generator=generator).tolist()
    before = videoeff.load(plain)(torch.ones(SIZE))
    for number, place in enumerate([*range(0, 8), *places]):
        data[place] ^= 1 << number % 8
        path.write_bytes(bytes(data))
        if chr(plain.read_bytes()[place]) == " ":  # only padding may differ
            with contextlib.suppress(ArtifactError):
                assert torch.equal(videoeff.load(path)(torch.ones(SIZE)), before), place
        else:
            with pytest.raises(ArtifactError, match=r"bad\.veff: "):
                videoeff.load(path)
        data[place] ^= 1 << number % 8


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "it.veff"
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"a": 1}))
    onnx = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xd0\x0f"  # the first bytes of an ONNX file
    checkpoint = io.BytesIO()
    torch.save({"weight": torch.rand(3)}, checkpoint)
    generator = torch.Generator().manual_seed(0)
    noise = bytes(torch.randint(0, 256, (5000,), generator=generator).tolist())
    for data in (zipped.getvalue(), onnx, checkpoint.getvalue(), noise, b"\0" * 64, b"{}", b"RIFF....AVI "):
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"it\.veff: is no artifact"):
            videoeff.load(path)
    save_file({"weight": torch.rand(3)}, path)
    with pytest.raises(ArtifactError, match="is a safetensors file, but no artifact"):
        videoeff.load(path)
    with pytest.raises(ArtifactError, match=r"absent\.veff: no such file.*convert -o"):
        videoeff.load(tmp_path / "absent.veff")
    with pytest.raises(ArtifactError, match="no such file"):
        videoeff.load(tmp_path)
