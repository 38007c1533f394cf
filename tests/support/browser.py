"""A small client of the DevTools protocol: starts headless Chromium and drives one page."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


def find_chromium() -> str | None:
    """The path of an installed Chromium or Chrome, None where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    return None


class Browser:
    """One headless browser with one page; a context manager."""

    def __init__(self, executable: str) -> None:
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        command = [executable, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._ids = itertools.count(1)
        self.requests: list[str] = []
        self.problems: list[str] = []
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> None:
        import websocket

        port_file = Path(self._profile, "DevToolsActivePort")
        deadline = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert self._process.poll() is None, "chromium ended before it was ready"
            assert time.monotonic() < deadline, "chromium did not open its DevTools port within 60 s"
            time.sleep(0.05)
        port = port_file.read_text().split("\n")[0]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=30) as reply:
            page = next(target for target in json.load(reply) if target["type"] == "page")
        self._socket = websocket.create_connection(
            page["webSocketDebuggerUrl"], timeout=60, suppress_origin=True, http_no_proxy=["127.0.0.1"]
        )
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command; returns its result."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])

    def open(
        self,
        page: Path | str,
        *,
        width: int = 1400,
        height: int = 900,
        dark: bool = False,
        asked: str | None = None,
    ) -> None:
        """Opens a page of videoeff, by its file or address, and waits until it is drawn.

        Args:
            page: where it is in the end.
            width: of the window in pixels.
            height: of the window.
            dark: prefer the dark colours.
            asked: the address to open, where the page changes it.
        """
        self.requests.clear()
        self.problems.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.theme(dark)
        url = page if isinstance(page, str) else page.resolve().as_uri()
        self.send("Page.navigate", url=asked or url)
        self.wait(f"location.href === {json.dumps(url)} && document.documentElement?.dataset.ready")

    def theme(self, dark: bool) -> None:
        """Sets the preferred colour scheme."""
        value = "dark" if dark else "light"
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def run(self, script: str) -> Any:
        """The JSON value of an expression; a promise is awaited."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Waits until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
            time.sleep(0.02)

    def idle(self) -> None:
        """Waits until no pane is laying out."""
        self.wait("!document.querySelector('[aria-busy=true]')")

    def place(self, selector: str) -> tuple[float, float]:
        """The centre of an element on the screen, in pixels."""
        box = self.run(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return box[0], box[1]

    def click(self, selector: str, *, times: int = 1) -> None:
        """A real mouse click on the middle of an element; two ``times`` make a double click."""
        x, y = self.place(selector)
        for i in range(1, times + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=i)
        self.settle()

    def drag(self, start: tuple[float, float], by: tuple[float, float]) -> None:
        """Presses the mouse at ``start``, moves it and lets go."""
        x, y = start
        self.send("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
        for i in (1, 2, 3):
            at = {"x": x + by[0] * i / 3, "y": y + by[1] * i / 3}
            self.send("Input.dispatchMouseEvent", type="mouseMoved", button="left", buttons=1, **at)
        self.send(
            "Input.dispatchMouseEvent",
            type="mouseReleased",
            x=x + by[0],
            y=y + by[1],
            button="left",
            clickCount=1,
        )
        self.settle()

    def wheel(self, x: float, y: float, delta: float) -> None:
        """Turns the wheel over a point."""
        self.send("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=delta)
        self.settle()

    def key(self, name: str, text: str = "") -> None:
        """One key press, by its ``KeyboardEvent.key``."""
        codes = {
            "Enter": 13,
            "Escape": 27,
            "ArrowDown": 40,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "Tab": 9,
            " ": 32,
        }
        typed = text or ("\r" if name == "Enter" else name if len(name) == 1 else "")
        extra = {"text": typed} if typed else {}
        code = codes.get(name, 0)
        self.send("Input.dispatchKeyEvent", type="keyDown", key=name, windowsVirtualKeyCode=code, **extra)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=name, windowsVirtualKeyCode=code)
        self.settle()

    def write(self, text: str) -> None:
        """Types text into the focused element."""
        self.send("Input.insertText", text=text)
        self.settle()

    def settle(self) -> None:
        """Lets the page handle its events, and any layout they began."""
        self.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))")
        self.idle()

    def screenshot(self, path: Path) -> None:
        """Writes what is on the screen as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """Ends the browser and removes its profile."""
        if hasattr(self, "_socket"):
            self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)
