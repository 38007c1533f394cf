"""Zones for the commands that take them: from a file and from polygons on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from videoeff.calibration.feed import Feed
    from videoeff.runtime.streaming_module import StreamingModule
    from videoeff.video.zones import Zones

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--zones",
        "zones_file",
        type=click.Path(path_type=Path),
        metavar="FILE.json",
        help='Polygons of the frame: {"watch": [[[x, y], ...], ...], "ignore": [...]}, x and y in 0..1.',
    ),
    click.option(
        "--watch",
        multiple=True,
        metavar='"x,y x,y x,y"',
        help="Watch only this polygon, corners in fractions 0..1 of the frame; may be repeated.",
    ),
    click.option(
        "--ignore",
        multiple=True,
        metavar='"x,y x,y x,y"',
        help="Ignore this polygon: what changes there costs nothing; may be repeated.",
    ),
)


def zone_options(function: Function) -> Function:
    """``--zones``, ``--watch`` and ``--ignore``."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_zones(options: dict[str, Any]) -> Zones | None:
    """Take the options of :func:`zone_options` out of a command's; None where none was given.

    Raises:
        ArtifactError: the file cannot be read, or holds no zones.
        VideoError: a polygon cannot be read.
    """
    from videoeff.video.zones import Zones

    file, watch, ignore = (options.pop(name) for name in ("zones_file", "watch", "ignore"))
    if file is None and not watch and not ignore:
        return None
    found = Zones.parse(watch, ignore)
    return found if file is None else _of_file(file) | found


def _of_file(path: Path) -> Zones:
    from videoeff.errors import ArtifactError
    from videoeff.serialize.files import read_json_object
    from videoeff.video.zones import Zones

    try:
        return Zones.from_json(read_json_object(path))
    except ArtifactError as error:
        raise ArtifactError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def zones_told(stream: StreamingModule) -> str:
    """What its zones do to a stream, in a few words."""
    from videoeff.runtime.report import zones_text

    return zones_text(stream.report().ignored)


def place_zones(
    stream: StreamingModule, feed: Feed, frame_size: tuple[int, int], zones: Zones | None = None
) -> None:
    """Place polygons for the frames of a clip: those given, else the stream's own.

    Args:
        stream: the stream.
        feed: how it is fed.
        frame_size: (H, W) of the clip's frames.
        zones: other zones than the stream has.
    """
    from videoeff.video.zones import Zones

    wanted = stream.zones if zones is None else zones
    if isinstance(wanted, Zones):
        stream.set_zones(wanted, feed.preprocess, frame_size)
