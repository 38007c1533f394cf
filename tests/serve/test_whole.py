"""The service over a real fleet: a small network, clips, and sources that fail in earnest."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.support import tiny_models
from tests.support.serving import Running, events_of, running, until
from videoeff.conversion import convert
from videoeff.demo.synth import write_clip
from videoeff.fleet.fleet import Fleet
from videoeff.runtime.streaming_module import StreamingModule

CLIP = {"name": "clip", "source": "clip.mp4", "loop": True, "pace": True}


@pytest.fixture(scope="module")
def network() -> StreamingModule:
    """(1, 3, 32, 48) to logits (1, 5, 16, 24)."""
    return convert(tiny_models.build(), torch.zeros(1, 3, *tiny_models.SIZE))


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of a second, and a file that is none."""
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "clip.mp4", 30, (64, 96))
    (folder / "text.mp4").write_text("this is no video")
    return folder


@contextlib.contextmanager
def serving(network: StreamingModule, media: Path, keep: Path, **values: Any) -> Iterator[Running]:
    networks = {"tiny": {"path": "tiny.veff", "decoder": "segmentation"}}
    fleet = Fleet(workers=1, keep=keep)
    with running(
        fleet, models={"tiny": network}, networks=networks, media=[str(media)], keep=str(keep), **values
    ) as one:
        yield one


@pytest.fixture
def one(network: StreamingModule, media: Path, tmp_path: Path) -> Iterator[Running]:
    """A service without a camera."""
    with serving(network, media, tmp_path) as made:
        yield made


def test_a_clip_is_streamed(one: Running) -> None:
    assert one.json("POST", "/cameras", 201, json=CLIP)["settings"]["network"] == "tiny"
    with one.client.stream("GET", "/cameras/clip/events") as reply:
        found = events_of(reply.iter_lines())
        outputs = [next(found)[1] for _ in range(3)]
    numbers = [output["number"] for output in outputs]
    assert numbers == sorted(set(numbers))
    assert outputs[0]["frame"] == {"height": 64, "width": 96}
    assert outputs[0]["kind"] == "segmentation"
    assert sum(row["share"] for row in outputs[0]["classes"]) == pytest.approx(1, abs=1e-4)
    until(lambda: one.json("GET", "/cameras/clip")["status"]["work_share"])
    status = one.json("GET", "/cameras/clip")["status"]
    assert status["state"] == "live"
    assert 0 < status["work_share"] <= 1
    assert status["ms"]["p50"] > 0
    assert status["address"] == "clip.mp4"
    assert 'videoeff_camera_frames_total{camera="clip"}' in one.ask("GET", "/metrics").text


def test_pictures_and_heat(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=CLIP)
    until(lambda: one.ask("GET", "/cameras/clip/frame.jpg").status_code == 200)
    plain = Image.open(io.BytesIO(one.ask("GET", "/cameras/clip/frame.jpg").content))
    assert plain.size == (96, 64)
    until(lambda: one.ask("GET", "/cameras/clip/frame.jpg?heat=1") and one.fleet["clip"].heat() is not None)
    mask = Image.open(io.BytesIO(one.ask("GET", "/cameras/clip/mask.png").content))
    assert mask.size == (96, 64)
    with one.client.stream("GET", "/cameras/clip/preview.mjpeg") as reply:
        chunks = reply.iter_bytes()
        data = b""
        while data.count(b"\xff\xd8\xff") < 2:
            data += next(chunks)


def test_settings_are_changed_while_it_runs(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=CLIP)
    until(lambda: one.json("GET", "/cameras/clip")["status"]["frames"])
    with one.client.stream("GET", "/cameras/clip/events") as reply:
        found = events_of(reply.iter_lines())
        next(found)
        one.json("PATCH", "/cameras/clip", json={"threshold": 0.5, "every": 2, "audit": 0.5})
        next(found)
    until(lambda: one.json("GET", "/cameras/clip")["status"]["frames"] > 2)
    assert one.fleet["clip"].report().every == 2
    one.json("POST", "/cameras/clip/reset")


def test_states_are_saved_and_come_back(
    network: StreamingModule, media: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(network, media, tmp_path) as one:
        one.json("POST", "/cameras", 201, json=CLIP)
        until(lambda: one.json("GET", "/cameras/clip")["status"]["frames"])
        one.json("POST", "/cameras/clip/save")
        one.json("POST", "/cameras/clip/restore")
        (tmp_path / "clip.saved").write_bytes(b"damaged")
        assert one.refused("POST", "/cameras/clip/restore", 500)["where"] == "camera clip"
    assert (tmp_path / "clip.state").stat().st_size > 0
    with serving(network, media, tmp_path, cameras={"clip": {"source": str(media / "clip.mp4")}}) as one:
        until(lambda: one.json("GET", "/cameras/clip")["status"]["state"] == "ended")
        assert one.json("GET", "/cameras/clip")["status"]["frames"] == 30
    assert "begins afresh" not in caplog.text


def test_what_is_no_video(one: Running) -> None:
    reply = one.ask("POST", "/cameras", json={"name": "text", "source": "text.mp4"})
    if reply.status_code == 201:  # it is found out when it is read
        until(lambda: one.json("GET", "/cameras/text")["status"]["why"])
        told = one.json("GET", "/cameras/text")["status"]["why"]
    else:
        assert reply.status_code == 400
        told = reply.json()["error"]["what"]
    assert told.startswith("text.mp4")
    assert one.json("GET", "/healthz") == {"alive": True}


def test_a_server_that_is_not_there(one: Running) -> None:
    one.json("POST", "/cameras", 201, json={"name": "gone", "source": "rtsp://user:secret@127.0.0.1:9/x"})
    until(lambda: one.json("GET", "/cameras/gone")["status"]["why"])
    shown = one.json("GET", "/cameras/gone")
    assert "secret" not in json.dumps(shown)
    assert one.json("DELETE", "/cameras/gone")["status"]["frames"] == 0


class _Files(http.server.BaseHTTPRequestHandler):
    """A playlist that names a file of this machine, and an address that leads to another one."""

    named: Path
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "/clip")
            self.end_headers()
            return
        body = f"ffconcat version 1.0\nfile file://{self.named}\n".encode()
        if self.path == "/clip":
            body = self.named.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # who asked may have seen enough
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def files(named: Path) -> Iterator[tuple[str, list[str]]]:
    """A server of files: its address, and what it was asked."""
    asked: list[str] = []
    handler = type("Files", (_Files,), {"named": named, "asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_an_address_leads_to_no_file_and_no_other_address(
    network: StreamingModule, media: Path, tmp_path: Path
) -> None:
    with (
        files(media / "clip.mp4") as (address, asked),
        serving(network, media, tmp_path, allow_hosts=["127.0.0.1"]) as one,
    ):
        one.json("POST", "/cameras", 201, json={"name": "good", "source": f"{address}/clip"})
        until(lambda: one.json("GET", "/cameras/good")["status"]["frames"])
        one.json("DELETE", "/cameras/good")
        asked.clear()
        for name in ("list", "away"):
            one.json("POST", "/cameras", 201, json={"name": name, "source": f"{address}/{name}"})
        for name in ("list", "away"):
            until(lambda name=name: one.json("GET", f"/cameras/{name}")["status"]["why"])  # type: ignore[misc]
            assert one.json("GET", f"/cameras/{name}")["status"]["counters"]["decoded"] == 0
        assert set(asked) == {"/list", "/away"}  # and not where these lead
