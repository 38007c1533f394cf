"""Sources of pictures that come as time passes: cameras and networks, and files that are read like them."""

from __future__ import annotations

from videoeff.video.live.opening import open_source
from videoeff.video.live.picture import Picture
from videoeff.video.live.source import Source
from videoeff.video.live.state import STATES, Counters
from videoeff.video.live.transport import Transport

__all__ = ["STATES", "Counters", "Picture", "Source", "Transport", "open_source"]
