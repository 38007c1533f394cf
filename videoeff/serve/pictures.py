"""Frames, heat maps and label maps of cameras as JPEG and PNG."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from videoeff.video.overlay import colour_table, overlay_heat

if TYPE_CHECKING:
    from videoeff.fleet.camera import Camera
    from videoeff.fleet.output import Output

#: Quality of JPEG pictures.
_QUALITY = 80
#: Pictures that are kept for further clients: of a few frames, sizes, with and without heat.
_KEPT = 8


class Pictures:
    """Makes the pictures of one camera, each once for all who ask for it. Safe to use from several threads.

    Args:
        camera: of the fleet.
    """

    def __init__(self, camera: Camera) -> None:
        self._camera = camera
        self._kept: OrderedDict[tuple[int, bool, int | None], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def jpeg(self, output: Output, heat: bool, width: int | None) -> bytes:
        """The frame of an output as JPEG.

        Args:
            output: of the camera.
            heat: draw the share of layers that computed at each place.
            width: of the picture in pixels; None, or more than the frame has, for the frame's own.
        """
        key = (output.number, heat, width)
        with self._lock:
            if key in self._kept:
                return self._kept[key]
        made = _jpeg(output, self._camera.heat() if heat else None, width)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made


def _jpeg(output: Output, heat: NDArray[np.float32] | None, width: int | None) -> bytes:
    from PIL import Image

    frame = output.picture.frame
    if width is not None and width < frame.shape[1]:
        height = max(1, round(frame.shape[0] * width / frame.shape[1]))
        frame = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
    if heat is not None and heat.size:
        frame = overlay_heat(frame, heat)
    return _encoded(Image.fromarray(frame), "JPEG", quality=_QUALITY)


def mask_png(mask: NDArray[np.int64]) -> bytes:
    """A label map as PNG: the value of a pixel is its class, of 8 bits with colours, or of 16 bits without.

    Args:
        mask: (H, W); classes below 0 and above 65535 become 65535.
    """
    from PIL import Image

    if mask.min(initial=0) < 0 or mask.max(initial=0) > 255:
        whole = np.where((mask < 0) | (mask > 65535), 65535, mask).astype(np.uint16)
        return _encoded(Image.fromarray(whole), "PNG")
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette(_palette())
    return _encoded(picture, "PNG")


def _palette() -> bytes:
    """256 colours that differ for classes near one another; class 0 is black."""
    order = (np.arange(256) * 97) % 256
    colours = colour_table()[order]
    colours[0] = 0
    return colours.tobytes()


def _encoded(picture: Any, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
