"""Controls: what a user would do instead of streaming, and how the network takes its camera's noise.

An error or an agreement of a stream means something only beside these. Each control gives outputs frame by
frame, so that any metric can judge them against the dense network's.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoeff.runtime.dense import Carried, RunProgram, channels_last, run_dense, run_plainly
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.runtime.zoning import as_seen

Frame = NDArray[np.uint8]

#: Makes the arguments of a call, (args, kwargs), of a decoded frame.
Feed = Callable[[Frame], tuple[tuple[Any, ...], dict[str, Any]]]

#: Of the frames a user may compute: every n-th.
SKIPS = (2, 3, 4, 8)
#: Standard deviations of the noise, in grey levels.
SIGMAS = (1.0, 2.0)
_SEED = 7


def ordinal(number: int) -> str:
    """2nd, 3rd, 4th."""
    tens = number % 100 // 10 == 1
    return f"{number}{'th' if tens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def skip_label(step: int) -> str:
    """``every 2nd frame``."""
    return f"every {ordinal(step)} frame"


class Network:
    """The dense network of a stream on decoded frames, with a memory of its own where the model has one.

    Attributes:
        ms: how long each frame took, without making its input.

    Args:
        stream: whose network it is; the stream stays as it is.
        feed: makes the call of a frame.
        run: computes the graphs; as they are if left out.
    """

    def __init__(self, stream: StreamingModule, feed: Feed, run: RunProgram = run_plainly) -> None:
        self._body, self._feed, self._run = stream.body, feed, run
        self._carried = Carried()
        self.ms: list[float] = []

    @property
    def remembers(self) -> bool:
        """Whether the model itself carries something from frame to frame, so that left-out frames matter."""
        return bool(self._body.outside.names) or any(e.program.carried for e in self._body.engines.values())

    def __call__(self, frame: Frame) -> Any:
        """The outputs for a frame (H, W, 3), uint8; with zones, for the frame as the stream sees it."""
        args, kwargs = channels_last(as_seen(self._body, *self._feed(frame)))
        begin = time.perf_counter()
        outputs = run_dense(self._body, args, kwargs, self._carried, self._run)
        self.ms.append(1e3 * (time.perf_counter() - begin))
        return outputs


class Control(abc.ABC):
    """Something else than streaming, on the same clip.

    Attributes:
        label: what tables call it.
        work: share of the dense network's multiply-accumulates that it computes; None where that says
            nothing, as for int8, which computes all of them in another precision.
        note: what a reader has to know of it, "" for nothing.
    """

    label: str
    work: float | None = None
    note: str = ""

    @abc.abstractmethod
    def outputs(self, number: int, frame: Frame, dense: Any) -> Any:
        """The outputs for a frame; called for every frame of a clip in order.

        Args:
            number: of the frame, from 0.
            frame: (H, W, 3), uint8, as decoded.
            dense: the dense network's outputs for it.
        """

    def ms(self, dense: Sequence[float]) -> list[float]:
        """Milliseconds of each frame, given the dense network's; empty where there is nothing to tell."""
        return []


class Held(Control):
    """The network on every n-th frame, whose outputs stand for the frames up to the next one.

    The figures do not show what this adds in delay: a new object is first seen up to n − 1 frames later.

    Args:
        step: n.
        network: the dense network, for a model that itself remembers frames: it then sees every n-th only.
    """

    def __init__(self, step: int, network: Network | None = None) -> None:
        self.label, self.work = skip_label(step), 1 / step
        self._step = step
        self._network = network if network is not None and network.remembers else None
        self._held: Any = None

    def outputs(self, number: int, frame: Frame, dense: Any) -> Any:
        """Those of the last frame that was computed."""
        if number % self._step == 0:
            self._held = dense if self._network is None else self._network(frame)
        return self._held

    def ms(self, dense: Sequence[float]) -> list[float]:
        """The dense network's time, spread over the frames."""
        return [ms / self._step for ms in dense]


class Noise(Control):
    """The network on frames with Gaussian noise added: its own noise floor.

    The noise is added to the decoded frame, before its preprocessing: whole grey levels 0 to 255, rounded and
    cut off there as a camera does. Opacity stays.

    Args:
        sigma: standard deviation in grey levels.
        network: the dense network.
        seed: of the noise.
    """

    def __init__(self, sigma: float, network: Network, seed: int = _SEED) -> None:
        self.label, self.work = f"noise, σ = {sigma:g}", 1.0
        self._sigma, self._network = sigma, network
        self._generator = np.random.default_rng(seed)

    def outputs(self, number: int, frame: Frame, dense: Any) -> Any:
        """Those of the disturbed frame."""
        return self._network(noisy(frame, self._sigma, self._generator))


def noisy(frame: Frame, sigma: float, generator: np.random.Generator) -> Frame:
    """A frame (H, W, C), uint8, with Gaussian noise of ``sigma`` grey levels; a fourth channel stays."""
    colours = frame[..., :3]
    moved = np.clip(np.rint(colours + generator.normal(0, sigma, colours.shape)), 0, 255).astype(np.uint8)
    return np.concatenate([moved, frame[..., 3:]], 2)


def usual_controls(stream: StreamingModule, feed: Feed) -> list[Control]:
    """Every 2nd, 3rd, 4th and 8th frame, and noise of one and two grey levels."""
    held: list[Control] = [Held(step, Network(stream, feed)) for step in SKIPS]
    return held + [Noise(sigma, Network(stream, feed)) for sigma in SIGMAS]
