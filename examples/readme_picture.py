"""The picture at the top of the README: a frame of the demonstration's clip, and where the stream computed.

``python examples/readme_picture.py`` writes ``docs/pictures/frame_and_heat.png``; another path may be given.
Clip, network and weights are the project's own; the same versions give the same picture.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import videoeff
from benchmarks.pages import write_picture
from videoeff.demo.model import demo_preprocess, load_demo_model
from videoeff.demo.synth import Scene
from videoeff.video.overlay import caption, legend, overlay_heat

TARGET = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "frame_and_heat.png"
SIZE = (384, 672)
SEED = 2
FRAME = 24
GAP = 8  # pixels between the two halves
MOST_BYTES = 300_000


def picture(seed: int = SEED, at: int = FRAME) -> NDArray[np.uint8]:
    """Both halves side by side, (H, 2·W + gap, 3), uint8 RGB."""
    scene = Scene(at + 100, SIZE, seed=seed, objects=6, noise=1.5)  # the cloud comes after frame `at`
    preprocess = demo_preprocess()
    frames = [scene.frame(index)[0] for index in range(at + 1)]
    stream = videoeff.convert(
        load_demo_model(), preprocess(frames[0]), threshold=0.2, predict=1.5, block=8, dilation=1
    )
    for frame in frames[:-1]:
        stream(preprocess(frame))
    stream.clear_report()
    with stream.observe() as seen:
        stream(preprocess(frames[-1]))
    macs = stream.report().macs
    heat = overlay_heat(frames[-1], seen.heat(*SIZE)[0].numpy())
    left = caption(frames[-1], f"frame {at} of a noisy clip")
    right = caption(
        heat, f"what streaming computed of it: {100 * macs['needed'] / macs['dense']:.0f} % of the work"
    )
    right = legend(right, "of the layers computed here")
    gap = np.full((SIZE[0], GAP, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def main() -> None:
    """Write the picture, as a PNG of few colours."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    buffer = io.BytesIO()
    image = Image.fromarray(picture()).quantize(
        256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE
    )
    image.save(buffer, "PNG", optimize=True)
    if len(buffer.getvalue()) > MOST_BYTES:
        sys.exit(f"{len(buffer.getvalue())} bytes; a picture of the README has at most {MOST_BYTES}")
    write_picture(target, buffer.getvalue())
    print(f"wrote {target.name}, {len(buffer.getvalue())} bytes")


if __name__ == "__main__":
    main()
