"""Addresses of cameras on a network: which are read, and how they are shown without their passwords."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from videoeff.errors import VideoError

#: Schemes of the addresses that are read.
SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "srt")

_BLANK = "***"
_SECRET = re.compile(
    r"(?i)((?:^|[?&;/,_#])[\w.%-]*?(?:pas|pwd|psw|pw|token|secret|key|auth|cred|sig)[\w.%-]*=)[^&;/#\s]+"
)


@dataclass(frozen=True)
class Address:
    """Where a source on a network is.

    Attributes:
        url: as FFmpeg takes it, with its password. It is part of no message.
        shown: the same for messages: passwords are blanked.
        scheme: one of :data:`SCHEMES`.
        host: name or number of the server.
        port: None for the scheme's own.
    """

    url: str = field(repr=False)
    shown: str
    scheme: str
    host: str
    port: int | None

    def scrub(self, text: str) -> str:
        """A text of somebody else, such as FFmpeg's, without the address's passwords."""
        text = text.replace(self.url, self.shown)
        password = urlsplit(self.url).password or ""
        for secret in {password, unquote(password)}:
            if len(secret) > 3:  # a shorter one would blank parts of words
                text = text.replace(secret, _BLANK)
        return blanked(text) if "://" in text else text


def is_address(source: str | Path | int) -> bool:
    """Whether a source is written as the address of something on a network, readable or not."""
    return isinstance(source, str) and (
        re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None
        or re.match(rf"(?:{'|'.join(SCHEMES)}):", source, re.IGNORECASE) is not None
    )


def read_address(text: str) -> Address:
    """Take an address apart.

    Raises:
        VideoError: it is malformed, or its scheme is none of :data:`SCHEMES`.
    """
    shown = blanked(text)
    scheme = text.partition(":")[0].lower()
    if scheme not in SCHEMES:
        raise VideoError(
            f"{shown}: {scheme}:// is not read; addresses begin with {', '.join(f'{s}://' for s in SCHEMES)}"
        )
    if re.search(r"[\s\x00-\x1f\x7f]", text):
        raise VideoError(f"{shown}: an address holds no spaces and no control characters; write them as %20")
    try:
        host, port = urlsplit(text).hostname, urlsplit(text).port
    except ValueError:
        # Not chained: what urllib says may quote the password.
        raise VideoError(f"{shown}: {_malformed(text, 'its port is no number up to 65535')}") from None
    if not text[len(scheme) :].startswith("://") or not host:
        raise VideoError(f"{shown}: {_malformed(text, 'no host is named')}")
    return Address(scheme + text[len(scheme) :], shown, scheme, host, port)


def blanked(text: str) -> str:
    """An address, or a text that holds one, with its passwords replaced by ``***``.

    Blanked are what follows the user's name before an ``@``, and the values of parameters that are called
    like passwords or keys.
    """
    return _SECRET.sub(rf"\1{_BLANK}", _without_login(text))


def _without_login(text: str) -> str:
    try:
        netloc = urlsplit(text).netloc
    except ValueError:
        netloc = ""
    login, at, _ = netloc.rpartition("@")
    if at:
        user, colon, _ = login.partition(":")
        return text.replace(f"{login}@", f"{user}{colon}{_BLANK if colon else ''}@", 1)
    # Malformed, or the password holds a character at which the host's name ends: up to the last @.
    return re.sub(r"(://[^:/@\s]*:)\S*@", rf"\1{_BLANK}@", text)


def _malformed(text: str, reason: str) -> str:
    if re.search(r"://[^@/?#]*:[^@]*[/?#][^@]*@", text):
        return "malformed: in a password, write / as %2F, ? as %3F, # as %23 and @ as %40"
    return f"malformed ({reason}); an address looks like rtsp://user:password@host:554/path"
