"""Errors as answers: a status, and what happened, where, and what to do."""

from __future__ import annotations

import errno
from typing import Any

from videoeff.errors import ArtifactError, FleetError, VideoEffError, VideoError, first_line

#: What to do where an error does not say it itself.
_SEE = "see the service's log, and GET /openapi.json for what it takes"

_ROOM = "free some space, or name another folder with --keep"

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_TEXT = f"(os error {errno.ENOSPC})"  # as safetensors tells it


class Problem(FleetError):
    """A request cannot be served.

    Attributes:
        status: of HTTP.
        what: happened.
        where: a key of the body, a path, or a camera.
        fix: what to do.
    """

    def __init__(self, status: int, what: str, where: str, fix: str) -> None:
        super().__init__(f"{where}: {what}; {fix}")
        self.status, self.what, self.where, self.fix = status, what, where, fix

    def to_json(self) -> dict[str, Any]:
        """The body of the answer."""
        return {"error": {"what": self.what, "where": self.where, "fix": self.fix}}


def problem_of(error: VideoEffError, where: str) -> Problem:
    """An error of the package as an answer.

    Args:
        error: its message ends in what to do, behind the last semicolon.
        where: what the request was about.

    Returns:
        A problem of status 400 for a source that cannot be read, 409 for what the fleet refuses, 507 for a
        disk that is full, and 500 for a file of the service that cannot be read or written.
    """
    if isinstance(error, Problem):
        return error
    status = _status(error)
    what, semicolon, fix = first_line(error).rpartition("; ")
    if not semicolon:
        what, fix = fix, _ROOM if status == 507 else _SEE
    return Problem(status, what, where, fix)


def _status(error: VideoEffError) -> int:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and (cause.errno in _FULL or _FULL_TEXT in str(cause)):
            return 507
        cause = cause.__cause__
    if isinstance(error, VideoError):
        return 400
    return 500 if isinstance(error, ArtifactError) else 409
