"""RTSP and RTMP servers of other programs, where they are installed."""

from __future__ import annotations

import functools
import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.support.cameras import DEADLINE

#: The Python of the system, for which distributions package GStreamer's bindings.
PYTHON = "/usr/bin/python3"

_SERVER = Path(__file__).with_name("rtsp_server.py")
_IMPORTS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


@functools.cache
def rtsp_missing() -> str:
    """Why there is no RTSP server to test with; "" where there is one."""
    if not Path(PYTHON).exists():
        return f"needs {PYTHON} with GStreamer's RTSP server (gir1.2-gst-rtsp-server-1.0, python3-gi)"
    found = subprocess.run([PYTHON, "-c", _IMPORTS], capture_output=True, timeout=DEADLINE, check=False)
    if found.returncode:
        return "needs GStreamer's RTSP server for Python (gir1.2-gst-rtsp-server-1.0, python3-gi)"
    with RtspServer() as server:
        return "" if server.port else "needs an encoder of GStreamer's: x264enc, openh264enc or jpegenc"


@functools.cache
def ffmpeg_missing() -> str:
    """Why there is no RTMP server to test with; "" where there is one."""
    return "" if shutil.which("ffmpeg") else "needs the ffmpeg program, which serves RTMP"


class RtspServer:
    """An RTSP server in a process of its own, with moving pictures at 50 a second.

    Args:
        size: (H, W) of its pictures.
        port: 0 for any free one.
        audio: it has a sound beside them.
        video: without it there is a sound alone.
        password: of the only user it lets in, called "user".
    """

    def __init__(
        self,
        size: tuple[int, int] = (48, 64),
        port: int = 0,
        *,
        audio: bool = False,
        video: bool = True,
        password: str | None = None,
    ) -> None:
        command = [PYTHON, str(_SERVER), f"--port={port}", f"--height={size[0]}", f"--width={size[1]}"]
        command += ["--audio"] if audio else []
        command += [] if video else ["--no-video"]
        command += [] if password is None else [f"--password={password}"]
        self._command = command
        self.port = 0

    def __enter__(self) -> Self:
        end = time.monotonic() + DEADLINE
        while True:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
            assert self._process.stdout is not None
            said = self._process.stdout.readline().strip()
            self.port = int(said) if said.lstrip("-").isdecimal() else 0
            if self.port >= 0 or time.monotonic() > end:
                return self
            self._stop()  # the port is not free yet

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def url(self, path: str = "/live") -> str:
        return f"rtsp://127.0.0.1:{self.port}{path}"


class RtmpServer:
    """ffmpeg, which serves one client over RTMP with pictures at 25 a second; then it ends.

    Args:
        port: at which it listens.
    """

    def __init__(self, port: int) -> None:
        self.url = f"rtmp://127.0.0.1:{port}/live/stream"

    def __enter__(self) -> Self:
        source = ["-re", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=25"]
        encoder = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "5"]
        self._process = subprocess.Popen(
            ["ffmpeg", "-v", "quiet", "-nostdin", *source, *encoder, "-f", "flv", "-listen", "1", self.url]
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
