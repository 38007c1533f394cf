"""Why a connection failed, in words that say what to do, and without passwords."""

from __future__ import annotations

import errno
import socket

from videoeff.errors import VideoError
from videoeff.video.address import Address
from videoeff.video.live.transport import Transport

#: Where an FFmpeg that has more protocols comes from.
_MORE = (
    "install PyAV on top of a system FFmpeg that has it (pip install --no-binary av av), or relay the stream "
    "to RTSP, e.g. with mediamtx or ffmpeg"
)

#: What carries a scheme, where that is a protocol of FFmpeg's.
_CARRIERS = {"rtsp": "tcp", "rtsps": "tls", "rtmps": "rtmps", "https": "https"}


def check_served(address: Address) -> None:
    """Make sure that this FFmpeg can read such an address; nothing is connected to.

    Raises:
        VideoError: it lacks the protocol.
    """
    import av

    carrier = _CARRIERS.get(address.scheme, address.scheme)
    try:
        # No protocol is allowed, so that what is known is refused before it begins.
        av.open(f"{carrier}://127.0.0.1:1/", container_options={"protocol_whitelist": "none"}).close()
    except av.error.ProtocolNotFoundError:
        raise VideoError(
            f"{address.shown}: the FFmpeg of PyAV {av.__version__} has no {carrier.upper()} (that of PyPI's "
            f"wheels has no SRT); {_MORE}"
        ) from None
    except (av.FFmpegError, OSError):
        return  # known, and refused


def why_not_opened(
    error: Exception, address: Address | None, transport: Transport, took: float
) -> tuple[str, bool]:
    """Why a connection could not be made, and whether only a change at the other end would help.

    Args:
        error: what FFmpeg or the system said.
        address: of the server; None for a camera of this machine.
        transport: how it was tried.
        took: seconds that it took.
    """
    import av

    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        code = 401 if isinstance(error, av.error.HTTPUnauthorizedError) else 403
        return f"the server refuses the login ({code}); check the user's name and the password", True
    if isinstance(error, av.error.HTTPNotFoundError):
        return "the server has no such stream (404); check the path of the address", False
    # RTSP calls it bad data when it was interrupted.
    if isinstance(error, av.error.ExitError | TimeoutError) or took >= transport.timeout:
        return f"no answer within {transport.timeout:g} s", False
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused: nothing listens at that port", False
    if isinstance(error, av.error.InvalidDataError):
        return "what answers there is no video that FFmpeg can read; check scheme, port and path", False
    if isinstance(error, EOFError):
        return "the server closed the connection before any video came", False
    if getattr(error, "errno", None) == errno.EPROTONOSUPPORT:
        return (
            f"the server does not send by {transport.protocol}; choose another protocol of the transport",
            False,
        )
    if address is not None and getattr(error, "errno", None) == errno.EIO:
        unknown = _unknown_name(address)
        return unknown or "the connection was cut before any video came", False
    return _said(error, address), False


def why_cut(error: Exception, address: Address | None, transport: Transport) -> str:
    """Why a connection that was made is over."""
    import av

    if isinstance(error, av.error.ExitError | TimeoutError):
        return f"nothing came for {transport.stall:g} s"
    if getattr(error, "errno", None) in (errno.EIO, errno.ECONNRESET, errno.EPIPE):
        return (
            "the connection was cut" if address is not None else f"the camera failed ({_said(error, None)})"
        )
    return f"reading failed: {_said(error, address)}"


def _unknown_name(address: Address) -> str:
    """What the system says of a name that it cannot resolve; FFmpeg only says that something failed."""
    try:
        socket.getaddrinfo(address.host, address.port or 0, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"the name {address.host} cannot be resolved ({error.strerror})"
    return ""


def _said(error: Exception, address: Address | None) -> str:
    """FFmpeg's own words, without the address that it quotes."""
    text = str(getattr(error, "strerror", None) or error)
    return text if address is None else address.scrub(text)
