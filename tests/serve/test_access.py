"""Who may ask: the token, the cookie of the page, the service's names, and pages of other origins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.serving import Running, running, settings_of
from videoeff.errors import FleetError
from videoeff.serve.access import VARIABLE, is_loopback, token_of

TOKEN = "a-token-of-32-characters-or-so"
GUARDED = ("/", "/cameras", "/metrics", "/openapi.json", "/cameras/front/events", "/nothing")


@pytest.fixture(scope="module")
def guarded() -> Iterator[Running]:
    """A service with a token."""
    with running(token=TOKEN, cameras={"front": {"source": "rtsp://host/x"}}) as one:
        yield one


@pytest.fixture(scope="module")
def open_one() -> Iterator[Running]:
    """A service of this machine alone, without a token."""
    with running(cameras={"front": {"source": "rtsp://host/x"}}, names=["cameras.example.org"]) as one:
        yield one


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("given", [None, "x", TOKEN[:-1], TOKEN + "x", "ü" * 30])
def test_nothing_without_the_token(guarded: Running, path: str, given: str | None) -> None:
    headers = {} if given is None else {"authorization": f"Bearer {given}".encode()}
    error = guarded.refused("GET", path, 401, headers=headers)
    assert error["what"] == "the token is missing or wrong"
    assert guarded.ask("GET", path).headers["www-authenticate"] == "Bearer"


def test_with_the_token(guarded: Running) -> None:
    assert len(guarded.json("GET", "/cameras", headers=bearer(TOKEN))["cameras"]) == 1
    assert guarded.ask("GET", "/cameras", headers={"authorization": f"bearer  {TOKEN}"}).status_code == 200


def test_whether_it_lives_is_told_to_everybody(guarded: Running) -> None:
    assert guarded.json("GET", "/healthz") == {"alive": True}
    assert guarded.json("GET", "/readyz") == {"ready": True}


def test_the_page_turns_the_token_into_a_cookie(guarded: Running) -> None:
    reply = guarded.ask("GET", f"/?token={TOKEN}")
    assert reply.status_code == 200
    cookie = reply.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    assert TOKEN not in reply.text
    assert reply.headers["referrer-policy"] == "no-referrer"
    pair = cookie.partition(";")[0]
    guarded.client.cookies.clear()
    assert guarded.ask("GET", "/cameras", headers={"cookie": pair}).status_code == 200
    assert guarded.ask("GET", "/cameras", headers={"cookie": f"other=1; {pair}"}).status_code == 200
    assert guarded.ask("GET", "/cameras", headers={"cookie": pair[:-1]}).status_code == 401
    assert guarded.ask("GET", "/cameras", headers={"cookie": "\x7f;=;,"}).status_code == 401


def test_only_the_page_takes_the_token_from_its_address(guarded: Running) -> None:
    assert guarded.ask("GET", f"/cameras?token={TOKEN}").status_code == 401
    assert guarded.ask("GET", "/?token=wrong").status_code == 401


def test_a_socket_needs_the_token(guarded: Running) -> None:
    with pytest.raises(InvalidStatus) as caught, guarded.socket("/cameras/front/live"):
        pass
    assert caught.value.response.status_code == 401
    with guarded.socket("/cameras/front/live", additional_headers=bearer(TOKEN)):
        assert guarded.json("GET", "/cameras", headers=bearer(TOKEN))["clients"] == 1


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1"]
)
def test_another_name_is_refused(open_one: Running, host: str) -> None:
    """A page of another site whose name was made to point here (DNS rebinding)."""
    for path in ("/cameras", "/healthz", "/"):
        error = open_one.refused("GET", path, 421, headers={"host": host.format(port=open_one.port)})
        assert error["where"] == "Host"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:{port}", "[::1]:{port}", "127.0.0.1:1", "cameras.example.org"]
)
def test_its_own_names_are_served(open_one: Running, host: str) -> None:
    assert (
        open_one.ask("GET", "/healthz", headers={"host": host.format(port=open_one.port)}).status_code == 200
    )


@pytest.mark.parametrize("host", ["a b", "[", "evil.example/@localhost", "user@localhost", "localhost:port"])
def test_what_is_no_name_is_refused(open_one: Running, host: str) -> None:
    assert open_one.refused("GET", "/healthz", 400, headers={"host": host})["where"] == "Host"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "file://"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/cameras"),
        ("DELETE", "/cameras/front"),
        ("POST", "/cameras/front/reset"),
        ("GET", "/cameras"),
    ],
)
def test_pages_of_other_origins_may_do_nothing(
    open_one: Running, origin: str, method: str, path: str
) -> None:
    error = open_one.refused(method, path, 403, headers={"origin": origin})
    assert error["where"] == "Origin"
    assert len(open_one.json("GET", "/cameras")["cameras"]) == 1


def test_its_own_page_may(open_one: Running) -> None:
    assert open_one.ask("GET", "/cameras", headers={"origin": open_one.address}).status_code == 200


def test_a_socket_of_another_origin_is_refused(open_one: Running) -> None:
    with (
        pytest.raises(InvalidStatus) as caught,
        open_one.socket("/cameras/front/live", origin="http://evil.example"),
    ):
        pass
    assert caught.value.response.status_code == 403
    with open_one.socket("/cameras/front/live", origin=open_one.address):
        assert open_one.json("GET", "/cameras")["clients"] == 1


def test_a_form_of_another_site_cannot_post(open_one: Running) -> None:
    """Browsers send such a body without asking first; JSON they do not."""
    body = '{"name": "x", "source": "rtsp://host/x"}'
    error = open_one.refused("POST", "/cameras", 415, content=body, headers={"content-type": "text/plain"})
    assert error["where"] == "Content-Type"


def test_every_answer_carries_the_guards(open_one: Running) -> None:
    for path in ("/", "/cameras", "/nothing", "/metrics"):
        headers = open_one.ask("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "server" not in headers


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
        ("::", False), ("192.168.0.1", False), ("cameras.example.org", False), ("", False),
    ],
)  # fmt: skip
def test_which_hosts_are_of_this_machine_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_where_the_token_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert token_of(settings_of(), {}) is None
    assert token_of(settings_of(), {VARIABLE: TOKEN}) == TOKEN
    assert token_of(settings_of(token_file=str(path)), {VARIABLE: "x" * 20}) == TOKEN
    assert token_of(settings_of(host="0.0.0.0", token_file=str(path)), {}) == TOKEN


def test_other_machines_need_a_token() -> None:
    with pytest.raises(FleetError, match=r"host 0\.0\.0\.0.*there is no token.*--token-file.*VIDEOEFF_TOKEN"):
        token_of(settings_of(host="0.0.0.0"), {})


@pytest.mark.parametrize("token", ["", "short", "with a space in it, long", "ümlaut-ümlaut-ümlaut"])
def test_a_token_that_is_none(token: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token, encoding="utf-8")
    with pytest.raises(FleetError, match="a token has 16 characters"):
        token_of(settings_of(token_file=str(tmp_path / "token")), {})


def test_a_token_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="the token cannot be read"):
        token_of(settings_of(token_file=str(tmp_path / "absent")), {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(FleetError, match="holds no text"):
        token_of(settings_of(token_file=str(tmp_path / "binary")), {})
