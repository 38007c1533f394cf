"""Decoding threads that are still there when the program ends. Native code that runs on then can crash it."""

from __future__ import annotations

import atexit
import threading
import time
import weakref

from videoeff.video.live.handover import Handover

#: Seconds for which whoever ends a thread waits for it.
CLOSING = 1.0

#: Seconds within which a thread that hangs in FFmpeg looks whether it is to stop, and longer.
_LOOK = 0.2

_running: weakref.WeakKeyDictionary[threading.Thread, Handover] = weakref.WeakKeyDictionary()


def stop_at_end(thread: threading.Thread, handover: Handover) -> None:
    """Have a decoding thread stopped before the program ends."""
    _running[thread] = handover


@atexit.register
def _stop_all() -> None:
    threads = list(_running.items())
    for _, handover in threads:
        handover.become("closed")
    end = time.monotonic() + CLOSING
    for thread, _ in threads:
        thread.join(max(0.0, end - time.monotonic()))
    _last.needed = any(thread.is_alive() for thread, _ in threads)


class _Last:
    """Dies while Python is being torn down: there, threads that come back from native code are ended safely.

    So it waits until those that hang did come back once.
    """

    def __init__(self) -> None:
        self.needed = False
        self._sleep = time.sleep  # by then the module's own names may be gone
        self._seconds = _LOOK

    def __del__(self) -> None:
        if self.needed:
            self._sleep(self._seconds)


_last = _Last()
