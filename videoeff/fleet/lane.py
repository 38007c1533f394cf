"""A lane: one stream and the cameras it serves, one or the seats of a batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from numpy.typing import NDArray
from torch import Tensor

from videoeff.calibration.feed import Feed, feed_of
from videoeff.errors import FleetError, VideoEffError, first_line
from videoeff.fleet.camera import Camera, log, shown_heat
from videoeff.fleet.output import Output
from videoeff.fleet.status import Figures
from videoeff.runtime.observation import Observation
from videoeff.runtime.streaming_module import StreamingModule, StreamState
from videoeff.serialize.state import load_state, save_state

if TYPE_CHECKING:
    from videoeff.runtime.fidelity import Drift
    from videoeff.runtime.report import Report
    from videoeff.video.live import Picture
    from videoeff.video.preprocess import Preprocess
    from videoeff.video.zones import Zones

#: Pixels of the input to a pixel of a heat map.
HEAT_SCALE = 8
#: Seconds that figures of a stream are kept before they are asked for again: a report walks all layers.
FIGURES_KEPT = 0.5
#: Pixels of a frame up to which one thread makes it the network's input: to wake a second one of PyTorch's
#: takes longer than it saves.
SMALL_FRAME = 1 << 19


Heat = NDArray[np.float32]
_Taken = tuple[int, Camera, "Picture"]  # a seat, who sits there and the picture that is computed


class Lane:
    """One stream and the cameras it serves.

    A stream of one entry serves one camera. One of a batch has a seat for each entry, and computes the newest
    pictures of all its cameras together; a camera without a new picture is shown its last one again, in
    which nothing changed.

    Args:
        make: makes the stream, at once and again after it was evicted.
        network: the digest of the network, for states on the disk.
        preprocess: how frames become the network's input; None for the one recorded with the network.
        zones: what of the frames is watched; None for what the network was converted with.
        where: the network, for messages.
    """

    def __init__(
        self,
        make: Callable[[], StreamingModule],
        network: str,
        preprocess: Preprocess | None,
        zones: Zones | None,
        where: str,
    ) -> None:
        self._make, self.network, self._where = make, network, where
        self.lock = threading.RLock()
        self._stream: StreamingModule | None = make()
        self.seats: int = self._stream.streams
        self._feed: Feed = feed_of(self._stream, where)
        if preprocess is not None:
            self._feed = Feed(preprocess, self._feed.signature, self._feed.device)
        if self.seats > 1 and len(self._feed.signature.frame_specs) != 1:
            raise FleetError(
                f"{where}: takes a batch of {self.seats}, and more than one tensor; "
                "cameras share a network of one picture; convert it with one stream"
            )
        self.cameras: list[Camera | None] = [None] * self.seats
        self._zones = zones
        self._zoned_for: tuple[int, int] | None = None  # the size of frames that the zones are placed for
        self._place_zones(self._stream, None)
        self._inputs: Tensor | None = None  # of a batch: the newest input of each seat
        self._kept_at: Path | None = None  # where the state lies while it is evicted
        self._observation: Observation | None = None
        self._figures, self._figures_until = Figures(state_bytes=self._stream.report().state_bytes), 0.0
        self.changed = False  # whether a picture was computed since the state was last written
        self.last = time.monotonic()  # when a picture was last computed

    @property
    def names(self) -> str:
        """Its cameras, for messages."""
        return ", ".join(f"camera {c.name}" for c in self.cameras if c is not None) or "no camera"

    # -- seats -----------------------------------------------------------------------------------------

    @property
    def free(self) -> int | None:
        """A seat that is free; None if none is."""
        return next((i for i, camera in enumerate(self.cameras) if camera is None), None)

    def sit(self, camera: Camera, seat: int) -> None:
        """Give a seat to a camera."""
        with self.lock:
            self.cameras[seat] = camera
            if self._stream is not None and self.seats > 1:
                self._stream.reset(seat)

    def leave(self, camera: Camera) -> None:
        """Free a camera's seat."""
        with self.lock:
            self.cameras = [None if c is camera else c for c in self.cameras]

    @property
    def evicted(self) -> bool:
        """Whether the state lies on the disk."""
        return self._stream is None

    # -- a turn ----------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Compute the next picture of each camera.

        Returns:
            Whether there was one.
        """
        with self.lock:
            taken = [(seat, c, p) for seat, c in enumerate(self.cameras) if c and (p := c.take())]
            if not taken:
                return False
            made, why = [], ""
            try:
                made = self._compute(taken)
            except VideoEffError as error:
                why = first_line(error)
            except Exception as error:  # noqa: BLE001 - the model's own code; other cameras go on
                why = f"the network failed: {type(error).__name__}: {first_line(error)}"
        for camera, output, heat in made:  # out of the lock: whoever is told may ask the fleet for anything
            camera.computed(output, heat)
        for _, camera, _ in taken if why else ():
            camera.refuse(why)
        return True

    @property
    def waiting(self) -> bool:
        """Whether a picture of one of its cameras waits."""
        return any(c is not None and c.source.waiting() > 0 for c in self.cameras)

    def _compute(self, taken: list[_Taken]) -> list[tuple[Camera, Output, Heat | None]]:
        stream, began = self._active(), time.monotonic()
        threads = torch.get_num_threads()
        if all(picture.frame.shape[0] * picture.frame.shape[1] <= SMALL_FRAME for *_, picture in taken):
            torch.set_num_threads(1)
        try:
            args, kwargs = self._call(taken)
        finally:
            torch.set_num_threads(threads)
        self._place_zones(stream, taken)
        self._observe(stream, any(camera.wants_heat for _, camera, _ in taken))
        outputs = stream(*args, **kwargs)
        ms = (time.monotonic() - began) * 1e3
        self.changed, self.last = True, time.monotonic()
        made = []
        for seat, camera, picture in taken:
            own = outputs if self.seats == 1 else self._of_seat(outputs, seat)
            waited = max(0.0, (began - picture.arrived) * 1e3)
            output = Output(camera.name, picture, own, self._feed.preprocess, waited, ms)
            made.append((camera, output, self._heat(camera, seat, picture)))
        return made

    def _call(self, taken: list[_Taken]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.seats == 1:
            return self._feed(taken[0][2].frame)
        feed = self._feed
        (shape, dtype), *_ = feed.signature.frame_specs
        if self._inputs is None:
            self._inputs = torch.zeros(shape, dtype=dtype, device=feed.device)
        values = [(seat, feed.preprocess(picture.frame)) for seat, _, picture in taken]
        for seat, value in values:
            feed.check(value, shape)
            self._inputs[seat].copy_(value[0])
        return feed.signature.call([self._inputs])

    def _place_zones(self, stream: StreamingModule, taken: list[_Taken] | None) -> None:
        """Place the zones in the input; in a letterbox that needs a frame, to know the size of frames.

        Raises:
            FleetError: cameras of one batch have frames of several sizes in a letterbox.
            VideoEffError: the zones do not fit.
        """
        preprocess, padded = self._feed.preprocess, self._feed.preprocess.fit != "stretch"
        if self._zones is None or (padded and taken is None):
            return
        if not padded:
            if taken is None:
                stream.set_zones(self._zones, preprocess)
            return
        sizes = {picture.size for _, _, picture in taken or ()}
        if len(sizes) > 1 or (self.seats > 1 and self._zoned_for not in (None, *sizes)):
            raise FleetError(
                f"{self.names}: zones in a letterbox, and frames of several sizes in one batch; give cameras "
                "of another size a preprocessing of their own, or convert the network with one stream"
            )
        (size,) = sizes
        if size != self._zoned_for:
            stream.set_zones(self._zones, preprocess, size)
            self._zoned_for = size

    def _of_seat(self, outputs: Any, seat: int) -> Any:
        def entry(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if value.ndim < 1 or value.shape[0] != self.seats:
                raise FleetError(
                    f"{self._where}: returns a tensor {list(value.shape)} for a batch of {self.seats}, which "
                    "cannot be told apart by camera; convert it with one stream"
                )
            return value[seat : seat + 1]

        return pytree.tree_map(entry, outputs)

    # -- heat ------------------------------------------------------------------------------------------

    def _observe(self, stream: StreamingModule, wanted: bool) -> None:
        if wanted == (self._observation is not None):
            return
        self._observation = Observation() if wanted else None
        for name, engine in stream.engines.items():
            engine.observe(None if self._observation is None else self._observation.observer(name))

    def _heat(self, camera: Camera, seat: int, picture: Picture) -> Heat | None:
        seen = self._observation
        if seen is None or not camera.wants_heat:
            return None
        return shown_heat(
            lambda h, w: seen.heat(h, w)[seat].numpy(), self._feed.preprocess, picture.size, HEAT_SCALE
        )

    def drifted(self, drift: Drift) -> None:
        """An audit found that the fidelity left its bound."""
        for camera in self.cameras:
            if camera is not None:
                camera.drifted(drift)

    # -- looking ---------------------------------------------------------------------------------------

    def figures(self) -> Figures:
        """What the stream says of itself, at most half a second old."""
        if time.monotonic() < self._figures_until:
            return self._figures
        with self.lock:
            if self._stream is None:
                return self._figures
            report = self._stream.report()
            macs, audit = report.macs_handed_out, report.audit
            self._figures = Figures(
                macs["needed"] / macs["dense"] if report.frames and macs["dense"] else None,
                None if audit is None else audit.running_mean,
                report.state_bytes,
            )
            self._figures_until = time.monotonic() + FIGURES_KEPT
            if audit is not None and not audit.outside:
                for camera in self.cameras:
                    if camera is not None:
                        camera.drifted(None)
            return self._figures

    def report(self) -> Report | None:
        """The stream's report; None while the state lies on the disk."""
        with self.lock:
            return None if self._stream is None else self._stream.report()

    def audit(self) -> None:
        """Compare the picture that waits for it with the dense network."""
        with self.lock:
            if self._stream is not None:
                self._stream.audit_now()

    # -- state -----------------------------------------------------------------------------------------

    def _active(self) -> StreamingModule:
        if self._stream is None:
            self._stream = self._make()
            assert self._kept_at is not None
            self._observation = self._zoned_for = None
            self._place_zones(self._stream, None)
            try:
                self._stream.restore(load_state(self._kept_at, self.network))
            except VideoEffError as error:
                log.warning("%s begins afresh: %s", self.names, first_line(error))
        return self._stream

    def reset(self, seat: int) -> None:
        """Compute the next picture of a seat whole."""
        with self.lock:
            self._active().reset(seat if self.seats > 1 else None)

    def snapshot(self) -> StreamState:
        """A copy of the state.

        Raises:
            VideoEffError: it lies on the disk and cannot be read.
        """
        with self.lock:
            self.changed = False
            if self._stream is not None:
                return self._stream.snapshot()
            assert self._kept_at is not None
            return load_state(self._kept_at, self.network)

    def restore(self, path: Path) -> None:
        """Go on from a file.

        Raises:
            ArtifactError: the file is missing or damaged.
            StateError: the state is of another network, size or set of thresholds.
        """
        state = load_state(path, self.network)
        with self.lock:
            self._active().restore(state)

    def evict(self, path: Path) -> bool:
        """Write the state to a file and free its memory, if no picture comes meanwhile.

        Raises:
            ArtifactError: the file cannot be written; the state stays in memory.
        """
        save_state(self.snapshot(), self.network, path)
        with self.lock:
            if self.changed or self._stream is None:
                return False
            self._figures, self._figures_until = replace(self._figures, state_bytes=0), 0.0
            self._stream, self._inputs, self._kept_at, self._observation = None, None, path, None
            return True
