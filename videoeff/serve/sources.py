"""What a camera that is added over the network may read.

An operator's own cameras may read anything. One that comes over the network may read an address of an allowed
host, a file below a folder that was configured for it, or a device that was configured.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from videoeff.errors import VideoError
from videoeff.serve.problems import Problem, problem_of
from videoeff.serve.settings import ServeSettings
from videoeff.video.address import SCHEMES, read_address

#: What FFmpeg may use while it reads such an address, also where a playlist there names others: no files.
PROTOCOLS = "crypto,http,https,httpproxy,rtmp,rtmps,rtmpt,rtp,rtsp,srt,srtp,tcp,tls,udp"

#: Whatever FFmpeg might take for one of its protocols, "file:" and "concat:" among them.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def allowed(source: str | int, settings: ServeSettings) -> str | int:
    """A source that may be read, files as whole paths.

    Raises:
        Problem: of status 403; it may not be read. Of status 400; it is no address, or no such file is there.
    """
    if isinstance(source, int) or source.isdecimal():
        return _device(int(source), settings.devices)
    if _ADDRESS.match(source):
        return _address(source, settings.allow_hosts)
    return str(_file(source, settings.media))


def options_of(source: str | int, settings: ServeSettings) -> dict[str, str]:
    """Options of FFmpeg for an allowed source: what an address leads to may not be a file or another host."""
    if isinstance(source, int) or not _ADDRESS.match(source):
        return {}
    options = {"protocol_whitelist": PROTOCOLS}
    if source.lower().startswith("http") and "*" not in settings.allow_hosts:
        options["max_redirects"] = "0"
    return options


def _device(number: int, devices: Sequence[int]) -> int:
    if number not in devices:
        known = f"those are {', '.join(map(str, devices))}" if devices else "there are none"
        raise Problem(
            403,
            f"device {number} was not configured",
            "source",
            f"choose a configured device ({known}), or add it to `devices` of the service",
        )
    return number


def _address(source: str, patterns: Sequence[str]) -> str:
    scheme = source.partition(":")[0].lower()
    if scheme not in SCHEMES:
        raise Problem(
            403,
            f"addresses of the scheme {scheme!r} are not read",
            "source",
            f"use one of {', '.join(SCHEMES)}, or the name of a file in a media folder",
        )
    try:
        host = read_address(source).host
    except VideoError as error:
        raise problem_of(error, "source") from error
    if not any(_fits(host, pattern.lower()) for pattern in patterns):
        raise Problem(
            403,
            f"the host {host} is not allowed",
            "source",
            "choose another, or add it to `allow_hosts` of the service",
        )
    return source


def _fits(host: str, pattern: str) -> bool:
    """Whether a host is of a pattern with * and ?, or an address of a network such as 192.168.1.0/24."""
    if fnmatchcase(host, pattern):
        return True
    try:
        return "/" in pattern and ipaddress.ip_address(host) in ipaddress.ip_network(pattern)
    except ValueError:
        return False


def _file(source: str, folders: Sequence[Path]) -> Path:
    path = Path(source)
    if path.is_absolute() or ".." in path.parts:
        raise Problem(
            403,
            "only files below a media folder are read, named from that folder on",
            "source",
            "leave out the leading / and every ..",
        )
    if not folders:
        raise Problem(
            403, "no folder of files was configured", "source", "use an address, or configure `media`"
        )
    outside = False
    for folder in (f.resolve() for f in folders):
        try:
            found = (folder / path).resolve()
            if found != folder and not found.is_relative_to(folder):
                outside = True
            elif found != folder and found.exists():
                return found
        except (OSError, RuntimeError) as error:  # a loop of links, a name that is too long, no permission
            why = getattr(error, "strerror", None) or error
            raise Problem(400, f"cannot be read ({why})", "source", "choose another file") from error
    if outside:
        raise Problem(403, f"{source} leads out of the media folder", "source", "put the file itself there")
    raise Problem(
        400, f"there is no {source} in a media folder", "source", "check its name, or put the file there"
    )
