"""What is measured: models, input sizes, contenders and settings, as plain values that go through JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from videoeff.video.preprocess import Preprocess

#: Dense runtimes, in the order in which they are run; the first is what the others are compared with.
EAGER, COMPILE, ONNXRUNTIME, OPENVINO = "eager", "compile", "onnxruntime", "openvino"
DENSE = (EAGER, COMPILE, ONNXRUNTIME, OPENVINO)
#: Dense runtimes that compute less exactly: what a user would run instead. No speed-up is over them.
OPENVINO_BF16, OPENVINO_INT8 = "openvino-bf16", "openvino-int8"
COARSE = (OPENVINO_BF16, OPENVINO_INT8)
#: Every dense runtime that can take part.
PEERS = (*DENSE, *COARSE)
#: Frame skipping, the control of every saving: every n-th frame is computed and its result kept.
SKIPS = (2, 4)
#: The dense runtimes that are PyTorch.
PYTORCH = (EAGER, COMPILE)
STREAM = "videoeff"
#: The stream of the network after post-training quantisation.
STREAM_INT8 = "videoeff-int8"
#: The stream of the network in bfloat16, which takes and gives float32.
STREAM_BF16 = "videoeff-bf16"
STREAMS = (STREAM, STREAM_BF16, STREAM_INT8)

#: Shares of the input pixels that change from frame to frame.
SHARES = (0.0, 0.01, 0.02, 0.05, 0.10, 0.30, 1.0)

#: The input test of the real clips: about 4 grey levels on 8x8 blocks, dilated by one block.
CLIP_INPUT: Mapping[str, Any] = {"input_threshold": 0.0625, "block": 8, "dilation": 1}


@dataclass(frozen=True)
class Model:
    """A model to measure.

    Attributes:
        reference: ``torchvision:NAME``, ``timm:NAME``, ``package.module:callable``, ``file.py:callable`` or
            the path of an exported program (``.pt2``).
        title: what to call it.
        multiple: height and width are rounded down to a multiple of this.
        bgr: real clips are fed blue first.
        look: what the model is fed, its size aside; None for three channels in 0..1, blue first if ``bgr``.
        trained: the weights are what the reference gives; otherwise random, with batch norms settled.
    """

    reference: str
    title: str = ""
    multiple: int = 1
    bgr: bool = False
    look: Preprocess | None = None
    trained: bool = False

    @property
    def name(self) -> str:
        """The title, or the reference's last part."""
        return self.title or self.reference.rpartition(":")[2].rpartition("/")[2].removesuffix(".pt2")

    def fit(self, size: Sequence[int]) -> tuple[int, int]:
        """The size it is measured at where ``size`` (height, width) was asked for."""
        height, width = (max(self.multiple, s // self.multiple * self.multiple) for s in size)
        return height, width

    def prepare(self, size: Sequence[int]) -> Preprocess:
        """What it is fed where ``size`` (height, width) was asked for."""
        return dataclasses.replace(self.look or Preprocess(bgr=self.bgr), size=self.fit(size))


@dataclass(frozen=True)
class Job:
    """One model at one input size, as the workers are told.

    Attributes:
        reference: of the model.
        weights: file with the weights every process loads, "" for those the reference gives.
        size: (height, width).
        threads: each contender may use.
        cache: folder for exports and compiled code.
        name: of the model.
        calibration: file of frames (N, C, H, W), ``.npy``, to calibrate int8 on; "" for a made-up clip.
        preprocess: what the model is fed, as JSON; empty for three channels in 0..1.
    """

    reference: str
    weights: str
    size: tuple[int, int]
    threads: int
    cache: str
    name: str
    calibration: str = ""
    preprocess: Mapping[str, Any] = field(default_factory=dict)

    @property
    def look(self) -> Preprocess:
        """What the model is fed."""
        return Preprocess.from_json(self.preprocess) if self.preprocess else Preprocess(size=self.size)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Job:
        """What :meth:`to_json` gave."""
        return cls(**{**values, "size": tuple(values["size"])})


@dataclass(frozen=True)
class Settings:
    """How long and how often.

    Attributes:
        threads: of each contender.
        rounds: rounds over all contenders.
        frames: most frames a turn may take; fewer where a frame takes long.
        turn_seconds: about how long a contender's turn may last.
        budget: seconds for the timing of one model at one size; rounds stop early when it is spent.
        prepare_seconds: seconds a contender may take to get ready.
        shares: of changed pixels in the synthetic clips.
        thresholds: of the real clips.
        every: on real clips, the stream looks at every n-th frame, for each n of these.
        input_test: of the real clips: ``input_threshold``, ``block``, ``dilation`` and ``predict``; None for
            ``CLIP_INPUT`` at thresholds above 0.
        peers: the dense runtimes to run, of ``PEERS``.
        seed: of weights and clips.
    """

    threads: int = 1
    rounds: int = 5
    frames: int = 8
    turn_seconds: float = 1.0
    budget: float = 120.0
    prepare_seconds: float = 900.0
    shares: tuple[float, ...] = SHARES
    thresholds: tuple[float, ...] = (0.05, 0.1, 0.2)
    every: tuple[int, ...] = (1,)
    input_test: Mapping[str, Any] | None = None
    peers: tuple[str, ...] = DENSE
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return dataclasses.asdict(self)
