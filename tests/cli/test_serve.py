"""``videoeff serve``: it answers, ends on a signal with its states saved, and says what it cannot use."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import refused
from videoeff.cli.commands import serve as command

PATIENCE = 60.0


@contextlib.contextmanager
def process(*arguments: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command and the address that it tells; killed if it does not end by itself."""
    line = [sys.executable, "-m", "videoeff", "serve", *map(str, arguments)]
    made = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    try:
        assert made.stdout is not None
        told = made.stdout.readline()
        address = re.search(r"http://\S+", told)
        if address is None:
            made.kill()
            raise AssertionError(f"it told no address: {told}{made.communicate()[1]}")
        yield made, address[0]
    finally:
        made.kill()
        made.communicate()


def test_it_serves_and_ends(artifact: Path, clip: Path, tmp_path: Path) -> None:
    """SIGTERM ends it though clients listen, and the states are saved."""
    config = tmp_path / "serve.toml"
    config.write_text(f'keep = "states"\n[cameras.clip]\nsource = "{clip}"\nloop = true\npace = true\n')
    with process(f"tiny={artifact}", "--config", config, "--port", 0, "--workers", 1) as (made, address):
        with httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False) as client:
            deadline = time.monotonic() + PATIENCE
            while not client.get("/cameras/clip").json()["status"]["frames"]:
                assert time.monotonic() < deadline, "no frame was computed"
                time.sleep(0.05)
            with (
                client.stream("GET", "/cameras/clip/events") as events,
                client.stream("GET", "/cameras/clip/preview.mjpeg") as preview,
            ):
                assert "output" in next(line for line in events.iter_lines() if line.startswith("event"))
                made.send_signal(signal.SIGTERM)
                assert made.wait(PATIENCE) == 0
                with contextlib.suppress(httpx.HTTPError):
                    assert preview.read()
        assert made.stderr is not None
        log = made.stderr.read()
        assert "Traceback" not in log
        assert len(log.splitlines()) < 10, log
    assert (tmp_path / "states/clip.state").stat().st_size > 0


def test_a_token_guards_it(artifact: Path, tmp_path: Path) -> None:
    """And Ctrl-C ends it."""
    token = "a-token-of-32-characters-or-so"
    with process(artifact, "--host", "0.0.0.0", "--port", 0, VIDEOEFF_TOKEN=token) as (made, address):
        address = address.replace("0.0.0.0", "127.0.0.1")
        with httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False) as client:
            assert client.get("/cameras").status_code == 401
            found = client.get("/cameras", headers={"authorization": f"Bearer {token}"}).json()
            assert found["cameras"] == []
            assert found["networks"] == ["tiny"]
        made.send_signal(signal.SIGINT)
        assert made.wait(PATIENCE) == 0


def test_a_port_that_is_taken(artifact: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        message = refused("serve", artifact, "--port", port)
    assert f"127.0.0.1, port {port}: cannot listen there (Address already in use)" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "there is no token; name a file with --token-file"),
        (["--host", "no such host"], "there is no token"),
        (["--token-file", "absent"], "the token cannot be read"),
        (["--camera", "rtsp://host/x"], "give the camera a name"),
        (["--camera", "a b=rtsp://host/x"], "is no name"),
        (["--camera", "front=absent.mp4", "--port", "0"], "absent.mp4"),
        (["--config", "absent.toml"], "cannot be read"),
        (["--port", "99999"], "99999"),
    ],
)  # fmt: skip
def test_what_cannot_be_served(
    artifact: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VIDEOEFF_TOKEN", raising=False)
    assert message in refused("serve", artifact, *arguments)


def test_an_artifact_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "net.veff").write_text("no artifact")
    assert "net.veff" in refused("serve", tmp_path / "net.veff", "--port", 0)
    assert "no network was named" in refused("serve", "--port", 0)


def test_without_the_extra(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "EXTRA", ("fastapi", "absent_one"))
    assert 'absent_one: not installed; pip install "videoeff[serve]"' in refused("serve", artifact)


def test_help_loads_neither_torch_nor_the_server() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "videoeff", "serve", "--help"],
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "videoeff.cli.commands.serve" in loaded
    assert not {"torch", "fastapi", "uvicorn", "pydantic", "numpy"} & loaded
