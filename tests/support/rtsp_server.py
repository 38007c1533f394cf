"""An RTSP server, by GStreamer: run with a Python that has its bindings; those of the tests need none.

Prints its port, then serves rtsp://127.0.0.1:PORT/live until it is ended.
"""

from __future__ import annotations

import argparse
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")

from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 - versions are chosen before

#: What encodes, and what packs it: the first that is installed.
ENCODERS = (
    (
        "x264enc",
        "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay config-interval=1",
    ),
    ("openh264enc", "openh264enc gop-size=10 ! rtph264pay config-interval=1"),
    ("jpegenc", "jpegenc ! rtpjpegpay"),
)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default="0")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--height", type=int, default=48)
    parser.add_argument("--audio", action="store_true")
    parser.add_argument("--no-video", action="store_true")
    parser.add_argument("--password")
    given = parser.parse_args()
    Gst.init(None)
    encoder = next((text for name, text in ENCODERS if Gst.ElementFactory.find(name)), None)
    if encoder is None:
        print("no encoder", flush=True)
        return
    launch = (
        f"videotestsrc is-live=true pattern=ball ! video/x-raw,width={given.width},height={given.height},"
        f"framerate=50/1 ! {encoder} name=pay0 pt=96"
    )
    if given.audio:
        launch += " audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay1 pt=8"
    if given.no_video:
        launch = "audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay0 pt=8"
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {launch} )")
    factory.set_shared(True)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(given.port)
    if given.password:
        _guard(server, factory, given.password)
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


def _guard(server: Any, factory: Any, password: str) -> None:
    """Let in the user called "user" alone."""
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic("user", password), token)
    server.set_auth(auth)
    role = "user, media.factory.access=(boolean)true, media.factory.construct=(boolean)true"
    factory.add_role_from_structure(Gst.Structure.new_from_string(role))


if __name__ == "__main__":
    main()
