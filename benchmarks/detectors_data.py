"""The clips and networks of the detectors' benchmark: where they come from, and how they are disturbed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videoeff.calibration.controls import noisy

Frame = NDArray[np.uint8]
Disturb = Callable[[Frame, np.random.Generator], Frame]


@dataclass(frozen=True)
class Clip:
    """A clip of a fixed camera.

    Attributes:
        file: its name in the data folder.
        size: (height, width) the networks see, multiples of 32.
        first: the frame before the first one judged.
        frames: how many are judged and timed.
        about: what it shows.
    """

    file: str
    size: tuple[int, int]
    first: int
    frames: int
    about: str


#: What is judged is the last third of each: what calibration holds back.
CLIPS = {
    "campus": Clip("campus.avi", (352, 480), 530, 264, "480×360, 10 fps, people on a path, a clean picture"),
    "plaza": Clip(
        "plaza.avi", (704, 1280), 228, 112, "1280×720, 50 fps, a crowded square, compression noise"
    ),
    "one-by-one": Clip(
        "one-by-one-person-detection.mp4",
        (416, 768),
        930,
        463,
        "768×432, 10 fps, an entrance, people pass singly",
    ),
    "car": Clip(
        "car-detection.mp4", (416, 768), 252, 124, "768×432, 12.5 fps, a road, cars pass now and then"
    ),
}

_EXPORT = """
    import torch
    side = [32 * torch.export.Dim(name, min=4, max=60) for name in "hw"]
    example = torch.rand(1, 3, 352, 480)
    exported = torch.export.export(model, (example,), dynamic_shapes=({2: side[0], 3: side[1]},))
    torch.export.save(exported, "NAME.pt2")"""

SOURCES = {
    "campus.avi": "samples/data/vtest.avi of github.com/opencv/opencv; it may be re-encoded",
    "plaza.avi": (
        "a public clip whose first source is not recorded: 341 frames of a crowded square. Another clip of "
        "a fixed camera at 1280×720 under this name runs too, with figures of its own"
    ),
    "one-by-one-person-detection.mp4": "github.com/intel-iot-devkit/sample-videos (CC BY 4.0)",
    "car-detection.mp4": "github.com/intel-iot-devkit/sample-videos (CC BY 4.0)",
    "fastestdet.pt2": f"""github.com/dog-qiuqiu/FastestDet (BSD-3-Clause). In a checkout of it:

    from module.detector import Detector
    model = Detector(80, True)
    model.load_state_dict(torch.load("weights/..."))  # the weights in its repository
    model.eval()
{_EXPORT.replace("NAME", "fastestdet")}""",
    "yolox_nano.pt2": f"""github.com/Megvii-BaseDetection/YOLOX (Apache-2.0). With its package installed
and yolox_nano.pth of its releases:

    from yolox.exp import get_exp
    model = get_exp(None, "yolox-nano").get_model().eval()
    model.load_state_dict(torch.load("yolox_nano.pth")["model"])
    model.head.decode_in_inference = False
{_EXPORT.replace("NAME", "yolox_nano")}""",
}


def missing(folder: Path, files: Iterable[str]) -> str:
    """Which of some files are not in a folder and where each comes from, "" if all are there."""
    absent = [name for name in files if not (folder / name).is_file()]
    return "\n".join(f"{name} is missing: {SOURCES[name]}" for name in absent)


def noise(sigma: float) -> Disturb:
    """Gaussian noise of ``sigma`` grey levels."""
    return lambda frame, generator: noisy(frame, sigma, generator)


def jpeg(quality: int) -> Disturb:
    """Through JPEG and back."""

    def code(frame: Frame, _: np.random.Generator) -> Frame:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer).convert("RGB"))

    return code


#: The network's own noise floor: how it agrees with itself on a slightly disturbed frame.
CONTROLS: dict[str, Disturb] = {"noise, σ = 1": noise(1), "noise, σ = 2": noise(2), "JPEG 95": jpeg(95)}
