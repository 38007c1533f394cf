"""What a camera that is added over the network may read, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.serving import settings_of
from videoeff.serve.problems import Problem
from videoeff.serve.settings import ServeSettings
from videoeff.serve.sources import allowed, options_of


@pytest.fixture
def settings(tmp_path: Path) -> ServeSettings:
    """Two media folders, and a secret beside them that links in the first one lead to."""
    for name in ("a", "b/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (tmp_path / "a/one.mp4").write_bytes(b"one")
    (tmp_path / "b/deep/two.mp4").write_bytes(b"two")
    (tmp_path / "a/out.mp4").symlink_to(tmp_path / "secret.mp4")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/round").symlink_to(tmp_path / "a/round")
    (tmp_path / "a/inside.mp4").symlink_to("one.mp4")
    return settings_of(media=[str(tmp_path / "a"), str(tmp_path / "b")], devices=[2])


def test_files_of_the_media_folders(settings: ServeSettings, tmp_path: Path) -> None:
    assert allowed("one.mp4", settings) == str(tmp_path / "a/one.mp4")
    assert allowed("deep/two.mp4", settings) == str(tmp_path / "b/deep/two.mp4")
    assert allowed("./deep", settings) == str(tmp_path / "b/deep")
    assert allowed("inside.mp4", settings) == str(tmp_path / "a/one.mp4")


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("../secret.mp4", 403),
        ("deep/../../secret.mp4", 403),
        ("/etc/passwd", 403),
        ("out.mp4", 403),
        ("up/secret.mp4", 403),
        ("round", 400),
        ("absent.mp4", 400),
        ("n" * 400, 400),
        (".", 400),
        ("file:///etc/passwd", 403),
        ("file:/etc/passwd", 403),
        ("FILE:one.mp4", 403),
        ("concat:one.mp4|two.mp4", 403),
        ("subfile,,start,0,end,9,,:one.mp4", 400),  # a name like any other: FFmpeg is given a whole path
        ("pipe:0", 403),
        ("data:video/mp4;base64,AAAA", 403),
        ("udp://239.0.0.1:1234", 403),
        ("ftp://host/one.mp4", 403),
        ("rtsp:/host", 400),
        ("rtsp:///path", 400),
        ("rtsp://host:port/path", 400),
        ("rtsp://host:99999/path", 400),
        ("http://[::1/path", 400),
        ("http://host/a b", 400),
    ],
)
def test_what_may_not_be_read(settings: ServeSettings, source: str, status: int) -> None:
    with pytest.raises(Problem) as caught:
        allowed(source, settings)
    assert caught.value.status == status, caught.value
    assert "secret" not in caught.value.what or "secret" in source


def test_devices(settings: ServeSettings) -> None:
    assert allowed(2, settings) == 2
    assert allowed("2", settings) == 2
    with pytest.raises(Problem, match=r"device 0 was not configured.*those are 2"):
        allowed(0, settings)
    with pytest.raises(Problem, match="there are none"):
        allowed("0", settings_of())


def test_without_media_folders_no_file_is_read() -> None:
    with pytest.raises(Problem, match="no folder of files was configured"):
        allowed("one.mp4", settings_of())


@pytest.mark.parametrize(
    ("address", "fits"),
    [
        ("rtsp://192.168.1.77/x", True),
        ("rtsp://user:pw@192.168.1.77:8554/x", True),
        ("http://cam-3.example.org/x", True),
        ("HTTP://CAM-3.EXAMPLE.ORG/x", True),
        ("rtsp://192.168.2.1/x", False),
        ("http://169.254.169.254/latest", False),
        ("http://127.0.0.1/x", False),
        ("http://3232235853/x", False),  # 192.168.1.77 as one number: only what is allowed as written
        ("http://cam-3.example.org@evil.example/x", False),
        ("http://evil.example/cam-3.example.org", False),
        ("http://evil.example#@cam-3.example.org/", False),
    ],
)
def test_hosts(address: str, fits: bool) -> None:
    settings = settings_of(allow_hosts=["192.168.1.0/24", "cam-*.example.org", "not/a/network"])
    if fits:
        assert allowed(address, settings) == address
    else:
        with pytest.raises(Problem, match="is not allowed"):
            allowed(address, settings)


def test_an_address_may_lead_to_no_file_and_no_other_host(settings: ServeSettings) -> None:
    protocols = options_of("http://host/list.m3u8", settings)["protocol_whitelist"].split(",")
    assert not {"file", "pipe", "concat", "subfile", "data", "unix"} & set(protocols)
    assert "max_redirects" not in options_of("http://host/x", settings)
    assert options_of("http://cam/x", settings_of(allow_hosts=["cam"]))["max_redirects"] == "0"
    assert options_of("one.mp4", settings) == {}
    assert options_of(0, settings) == {}
