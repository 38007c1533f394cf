"""ZonedModule: which pixels of its frames a stream watches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from videoeff.runtime.pacing import PacedModule
from videoeff.runtime.zoning import GivenZones, Zoned, apply, check_zones
from videoeff.video.zones import Zones

if TYPE_CHECKING:
    from videoeff.video.preprocess import Preprocess


class ZonedModule(PacedModule):
    """The part of a stream that knows its zones.

    Attributes:
        extra: what is recorded beside the stream, its preprocessing among it.
    """

    extra: Mapping[str, Any]

    def __init__(self, zoned: Zoned | None = None) -> None:
        super().__init__()
        self._zoned = zoned

    @property
    def zones(self) -> GivenZones | None:
        """The zones as they were given: polygons, or a mask of watched pixels; None for none."""
        return None if self._zoned is None else self._zoned.given

    def set_zones(
        self,
        zones: GivenZones | None,
        preprocess: Preprocess | None = None,
        frame_size: tuple[int, int] | None = None,
    ) -> None:
        """Watch only some pixels of the frames from the next one on. State is kept.

        A pixel that is ignored never counts as changed and costs nothing: for the network it keeps the value
        that it had in the stream's first frame (or the first after ``reset``), or when it was last watched;
        in a model captured in parts that had no zones before, the value of the next frame. A pixel that is
        watched again counts as changed in the next frame if it differs from that. A frame with NaN in ignored
        pixels is refused like any other, unless ``nan_policy`` is "recompute".

        The dense network that audits, ``run --compare``, ``verify`` and calibration compare with is given the
        same frames: watched pixels of now, ignored ones as the stream keeps them.

        Args:
            zones: polygons of the camera's frame; or the watched pixels of the input, bool (H, W), or
                (B, H, W) with a mask for each stream of the batch; None to watch everything. Polygons hold
                for every input that is read as pictures, a mask for those of its size.
            preprocess: how the camera's frames become the input, to place polygons in it. None: the one that
                is recorded in ``extra["preprocess"]``, else the frame fills the input.
            frame_size: (H, W) of the camera's frames in pixels; needed for polygons where the preprocessing
                pads frames (a letterbox).

        Raises:
            StateError: they are no zones, fit no input, or leave nothing to watch; nothing was changed.
            VideoError: polygons leave nothing of the frame to watch.
        """
        check_zones(self.name, zones)
        given = zones.detach().clone() if isinstance(zones, Tensor) else zones
        zoned = None if given is None else Zoned(given, self._placing(given, preprocess), frame_size)
        with self._alone():
            apply(self.body, {} if zoned is None else zoned.masks(self.name, self.body))
            self._zoned = zoned

    def _placing(self, zones: GivenZones, preprocess: Preprocess | None) -> Preprocess | None:
        """What places polygons; a mask of the input's own pixels needs nothing."""
        if not isinstance(zones, Zones) or preprocess is not None or "preprocess" not in self.extra:
            return preprocess
        from videoeff.video.preprocess import Preprocess

        return Preprocess.from_json(self.extra["preprocess"])
