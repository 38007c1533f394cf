"""What an operator writes: every key and value is checked, and paths are taken from the file's folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from videoeff.errors import FleetError
from videoeff.serve.settings import CameraSettings, NewCamera, ServeSettings, checked, read_settings

WHOLE = """
host = "::1"
port = 9000
keep = "states"
token_file = "token.txt"
media = ["clips", "/srv/clips"]
devices = [0, 2]
allow_hosts = ["192.168.1.0/24"]
names = ["cameras.example.org"]

[networks.people]
path = "people.veff"
decoder = "ultralytics:2"
classes = ["person", "dog"]

[cameras.front]
source = "rtsp://10.0.0.7/stream"
threshold = 1
every = 2
transport = { protocol = "udp", stall = 3 }

[cameras.clip]
source = "clip.mp4"
loop = true

[cameras.yard]
source = 0

[cameras.door]
source = "1"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "serve.toml"
    path.write_text(text)
    return path


def refused(data: dict[str, Any], model: Any = ServeSettings) -> str:
    with pytest.raises(FleetError) as caught:
        checked(model, data, "serve.toml")
    return str(caught.value)


def test_a_whole_file(tmp_path: Path) -> None:
    found = checked(ServeSettings, read_settings(written(tmp_path, WHOLE)), "the test")
    assert found.keep == tmp_path / "states"
    assert found.token_file == tmp_path / "token.txt"
    assert found.media == (tmp_path / "clips", Path("/srv/clips"))
    assert found.networks["people"].path == tmp_path / "people.veff"
    assert found.networks["people"].classes == ("person", "dog")
    assert found.cameras["front"].source == "rtsp://10.0.0.7/stream"
    assert found.cameras["front"].threshold == 1.0
    assert found.cameras["front"].transport is not None
    assert found.cameras["front"].transport.protocol == "udp"
    assert found.cameras["clip"].source == str(tmp_path / "clip.mp4")
    assert found.cameras["yard"].source == 0
    assert found.cameras["door"].source == "1"


def test_defaults() -> None:
    found = checked(ServeSettings, {}, "the test")
    assert (found.host, found.port) == ("127.0.0.1", 8756)
    assert found.allow_hosts == ("*",)
    assert found.media == ()
    assert found.devices == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"prot": 1}, "serve.toml: prot: unknown key; did you mean port?"),
        ({"colour": 1}, "known keys: networks, cameras, host, port"),
        (
            {"cameras": {"front": {"source": "x", "treshold": 1}}},
            "cameras.front.treshold: unknown key; did you mean threshold?",
        ),
        ({"cameras": {"front": {"sorce": "x"}}}, "cameras.front.sorce: unknown key; did you mean source?"),
        ({"cameras": {"front": {}}}, "cameras.front.source: is missing"),
        ({"cameras": {"front": {"source": ""}}}, "expected an address, the number of a device, or a file"),
        ({"cameras": {"front": {"source": True}}}, "cameras.front.source: True cannot be used"),
        ({"cameras": {"fro nt": {"source": "x"}}}, "'fro nt' is no name"),
        ({"cameras": {"../x": {"source": "x"}}}, "'../x' is no name"),
        ({"cameras": {"a": {"source": "x", "transport": {"stal": 1}}}}, "did you mean stall?"),
        ({"networks": {"n": {"path": "x", "decodr": "y"}}}, "did you mean decoder?"),
        ({"port": "8756"}, "port: '8756' cannot be used; input should be a valid integer"),
        ({"port": 70000}, "port: 70000 cannot be used; input should be less than or equal to 65535"),
        ({"preview_fps": float("inf")}, "preview_fps: inf cannot be used"),
        ({"media": "clips"}, "media: 'clips' cannot be used"),
        ({"max_cameras": 0}, "max_cameras: 0 cannot be used"),
    ],
)
def test_what_is_wrong_is_named(data: dict[str, Any], message: str) -> None:
    assert message in refused(data)


@pytest.mark.parametrize(
    "values",
    [
        {"threshold": float("nan")},
        {"threshold": -0.1},
        {"threshold": "0.1"},
        {"threshold": True},
        {"every": 0},
        {"every": 1.5},
        {"audit": 1.5},
        {"fps": 0},
        {"policy": "newest"},
        {"queue": 1000},
        {"pace": 1},
        {"zones": [1]},
        {"transport": {"protocol": "http"}},
        {"transport": {"stall": 0}},
        {"source": "rtsp://host/\npath"},
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    (key,) = values
    assert f"serve.toml: {key}" in refused({"source": "rtsp://host/path"} | values, CameraSettings)


def test_a_new_camera_needs_a_name() -> None:
    assert "name: is missing" in refused({"source": "rtsp://host/path"}, NewCamera)


@pytest.mark.parametrize(
    ("text", "message"),
    [("port = ", "is no TOML"), ("pot = 1", "did you mean port?"), ("\xff", "is no TOML")],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "serve.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FleetError, match=r"serve\.toml") as caught:
        read_settings(path)
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="cannot be read"):
        read_settings(tmp_path / "absent.toml")


def test_the_example_of_the_documents_is_whole(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/cameras.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    found = checked(ServeSettings, read_settings(written(tmp_path, example)), "the test")
    assert set(ServeSettings.model_fields) == found.model_fields_set
    for key, value in {"max_cameras": 64, "max_clients": 32, "max_body": 65536, "client_queue": 16}.items():
        assert getattr(found, key) == value == ServeSettings.model_fields[key].default
    for key in CameraSettings.model_fields:
        assert f"`{key}`" in text, f"{key} is in no document"
