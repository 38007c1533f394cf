"""Addresses are taken apart, and shown without their passwords."""

from __future__ import annotations

from pathlib import Path

import pytest

from videoeff.errors import VideoError
from videoeff.video.address import blanked, is_address, read_address
from videoeff.video.source import open_clip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://cam/1", "rtsp://cam/1"),
        ("rtsp://admin@cam/1", "rtsp://admin@cam/1"),
        ("rtsp://admin:geheim@cam:554/1", "rtsp://admin:***@cam:554/1"),
        ("rtsp://admin:ge@heim@cam:554/1", "rtsp://admin:***@cam:554/1"),
        ("rtsp://admin:12/34@cam/x", "rtsp://admin:***@cam/x"),
        ("http://cam/video?user=a&pwd=geheim&size=1", "http://cam/video?user=a&pwd=***&size=1"),
        ("rtsp://cam/user=a&password=geheim&channel=1", "rtsp://cam/user=a&password=***&channel=1"),
        ("rtsp://cam/user=a_password=geheim_channel=1", "rtsp://cam/user=a_password=***"),
        ("srt://cam:9000?passphrase=geheimgeheim&mode=caller", "srt://cam:9000?passphrase=***&mode=caller"),
        ("https://cam/live.m3u8?access_token=geheim#x", "https://cam/live.m3u8?access_token=***#x"),
        ("rtsp://[2001:db8::1]:8554/1", "rtsp://[2001:db8::1]:8554/1"),
    ],
)
def test_passwords_are_blanked(text: str, shown: str) -> None:
    address = read_address(text)
    assert (address.shown, address.url) == (shown, text)
    assert "geheim" not in f"{address!r}{address}"
    assert is_address(text)


def test_what_an_address_holds() -> None:
    address = read_address("RTSP://me:a%2Fb@[::1]:8554/x?y=1")
    assert (address.scheme, address.host, address.port) == ("rtsp", "::1", 8554)
    assert address.url == "rtsp://me:a%2Fb@[::1]:8554/x?y=1"
    assert read_address("http://cam/x").port is None


def test_texts_of_others_are_scrubbed() -> None:
    address = read_address("rtsp://me:ge%2Fheim@cam/x")
    for text in (f"cannot open '{address.url}'", "wrong: ge/heim", "rtsp://me:other@elsewhere/y"):
        assert "heim" not in address.scrub(text)
        assert "other" not in address.scrub(text)
        assert "***" in address.scrub(text)
    assert address.scrub("nothing of it") == "nothing of it"
    assert read_address("rtsp://me:a@cam/x").scrub("a word") == "a word"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ftp://cam/x", "ftp:// is not read; addresses begin with rtsp://, rtsps://, rtmp://"),
        ("rtsp:///x", "no host is named"),
        ("rtsp:cam", "no host is named"),
        ("rtsp:/cam/x", "no host is named"),
        ("rtsp://cam:99999/x", "its port is no number up to 65535"),
        ("rtsp://cam:port/x", "its port is no number up to 65535"),
        ("rtsp://cam/a b", "no spaces"),
        ("rtsp://cam/a\nb", "no spaces"),
        ("rtsp://admin:ge/heim@cam:554/x", "in a password, write / as %2F"),
        ("rtsp://admin:ge?heim@cam:554/x", "in a password, write / as %2F"),
        ("rtsp://[::1", "malformed"),
        ("udp://geheim:geheim@cam", "udp:// is not read"),
    ],
)
def test_malformed_addresses_are_refused(text: str, words: str) -> None:
    assert is_address(text)
    with pytest.raises(VideoError) as found:
        read_address(text)
    assert words in str(found.value)
    assert ":ge" not in str(found.value)
    assert "heim@" not in str(found.value)
    assert found.value.__cause__ is None
    assert found.value.__suppress_context__ or found.value.__context__ is None


def test_paths_and_cameras_are_no_addresses() -> None:
    for source in ("clip.mp4", "./rtsp:/x", "C:/clip.mp4", "0", 0, Path("rtsp://cam/x"), "a:b"):
        assert not is_address(source)


def test_texts_without_a_password_stay() -> None:
    for text in ("clip.mp4", "rtsp://cam/1", "http://cam:8080/live.m3u8?size=1"):
        assert blanked(text) == text


def test_a_clip_is_no_address() -> None:
    with pytest.raises(VideoError) as found:
        open_clip("rtsp://me:geheim@cam/1")
    assert "rtsp://me:***@cam/1: an address on a network" in str(found.value)
