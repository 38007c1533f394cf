"""Writing a text file so that a reader never sees half of it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from videoeff.errors import ArtifactError


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes ``text`` as UTF-8 beside ``path``, then renames it onto ``path``.

    Raises:
        ArtifactError: the folder does not exist or cannot be written to.
    """
    target = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        reason = error.strerror or str(error)
        raise ArtifactError(
            f"{target}: cannot be written ({reason}); choose a path in an existing folder"
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
