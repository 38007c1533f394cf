"""Who may ask: the token, the service's names, pages of other origins, and how large a request may be."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from videoeff.errors import FleetError
from videoeff.serve.problems import Problem
from videoeff.serve.settings import ServeSettings

#: Where the token is looked for when no file is named.
VARIABLE = "VIDEOEFF_TOKEN"

#: Answered without a token: whether the process lives says nothing of the cameras.
_OPEN = ("/healthz", "/readyz")

#: Bytes of all headers and the query.
_MOST_HEADERS = 16 << 10

_SHORTEST = 16
_MAKE = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'",
}


def is_loopback(host: str) -> bool:
    """Whether a host's address can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token_of(settings: ServeSettings, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token that requests must carry; None where the service listens to this machine alone and has none.

    Raises:
        FleetError: the file cannot be read, the token is too short or holds other characters than a header
            can, or there is none although other machines reach the service.
    """
    where, token = VARIABLE, environment.get(VARIABLE)
    if settings.token_file is not None:
        where, token = str(settings.token_file), _read(settings.token_file)
    if token is None:
        if is_loopback(settings.host):
            return None
        raise FleetError(
            f"host {settings.host}: other machines reach it, and there is no token; name a file with "
            f"--token-file or set {VARIABLE}. {_MAKE} makes a token"
        )
    token = token.strip()
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise FleetError(
            f"{where}: a token has {_SHORTEST} characters or more, of ASCII and without spaces; make one "
            f"with {_MAKE}"
        )
    return token


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FleetError(f"{path}: the token cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise FleetError(f"{path}: holds no text; it must hold the token alone") from error


class Access:
    """Lets through what may be asked, and answers the rest itself.

    Args:
        app: what is asked.
        settings: of the service.
        token: that requests must carry, None for none.
        port: that the service listens at.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, token: str | None, port: int) -> None:
        self._app, self._token, self._most = app, token, settings.max_body
        self._cookie = f"videoeff-{port}"
        self._session = "" if token is None else _session(token)
        self._names = {name.lower() for name in settings.names}
        self._any_name = not is_loopback(settings.host) and not self._names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers, extra = Headers(scope=scope), {}
        try:
            self._check_host(headers.get("host", ""))
            self._check_origin(headers)
            self._check_size(headers, scope)
            if self._token is not None and scope["path"] not in _OPEN and not self._is_known(headers):
                self._check_query(scope)
                extra["set-cookie"] = f"{self._cookie}={self._session}; Path=/; HttpOnly; SameSite=Strict"
        except Problem as problem:
            asking = {"www-authenticate": "Bearer"} if problem.status == 401 else {}
            answer = JSONResponse(problem.to_json(), problem.status, headers=_HEADERS | asking)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, _adding(send, extra))

    def _check_host(self, host: str) -> None:
        """A page of another site can have its name point here; the browser still sends that name."""
        name = urlsplit(f"//{host}").hostname if _is_host(host) else None
        if name is None:
            raise Problem(400, "the header Host is no name of a host", "Host", "send the address you call")
        if self._any_name or is_loopback(name) or name in self._names:
            return
        raise Problem(
            421, f"this service is not called {name}", "Host", "call it 127.0.0.1, or add the name to `names`"
        )

    def _check_origin(self, headers: Headers) -> None:
        """Pages of other sites may ask nothing. Browsers name the page's origin, other programs none."""
        origin = headers.get("origin")
        if origin is None:
            return
        if origin.partition("://")[2].lower() != headers.get("host", "").lower():
            raise Problem(
                403,
                f"pages of {origin[:100]} may not use this service",
                "Origin",
                "use the service's own page",
            )

    def _check_size(self, headers: Headers, scope: Scope) -> None:
        if sum(len(k) + len(v) for k, v in headers.raw) + len(scope["query_string"]) > _MOST_HEADERS:
            what = f"they have more than {_MOST_HEADERS} bytes"
            raise Problem(431, what, "the headers", "send less")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._most:
            raise too_large(self._most)

    def _is_known(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip(), str(self._token)):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value, self._session)

    def _check_query(self, scope: Scope) -> None:
        """The page alone may be opened with the token in its address; it gets a cookie and forgets it."""
        if scope["type"] == "http" and scope["path"] == "/":
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
            if any(_same(one, str(self._token)) for one in given):
                return
        raise Problem(
            401,
            "the token is missing or wrong",
            "Authorization",
            "send the header Authorization: Bearer TOKEN; a browser opens the page as /?token=TOKEN",
        )


def too_large(most: int) -> Problem:
    """The answer to a request that is larger than ``most`` bytes."""
    return Problem(413, f"the request has more than {most} bytes", "the body", "send less")


def _is_host(host: str) -> bool:
    try:
        return bool(host) and not set(host) & set("/?#@\\ ") and urlsplit(f"//{host}").port != -1
    except ValueError:
        return False


def _session(token: str) -> str:
    """What the cookie holds: it is not the token, and only who has the token can make it."""
    return hmac.new(token.encode(), b"videoeff serve: the page's cookie", hashlib.sha256).hexdigest()


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(), right.encode())


def _adding(send: Send, extra: Mapping[str, str]) -> Send:
    """Adds headers to the answer; its own stay."""

    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in (_HEADERS | dict(extra)).items():
                headers.setdefault(name, value)
        await send(message)

    return adding
