"""``videoeff serve``: cameras as resources over HTTP and WebSocket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from videoeff.cli.shared.output import DONE, Command

#: What the extra brings: the modules that have to be there.
EXTRA = ("fastapi", "uvicorn", "websockets", "prometheus_client")


@click.command(cls=Command, short_help="Serve cameras over HTTP.")
@click.argument("networks", nargs=-1, metavar="[NAME=]NET.veff ...")
@click.option(
    "--camera",
    "cameras",
    multiple=True,
    metavar="NAME=SOURCE",
    help="A camera: an rtsp, rtmp, http or srt address, a clip, a folder of images, or a device's number. "
    "Can be given several times.",
)
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE.toml", help="Networks, cameras and limits."
)
@click.option(
    "--host", help="Listen at this address; others than this machine's own need a token.  [127.0.0.1]"
)
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Listen at this port; 0 takes a free one.  [8756]"
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Holds the token that requests must carry; else VIDEOEFF_TOKEN does.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Keep the cameras' states here over a restart.",
)
@click.option("--workers", type=click.IntRange(1), help="Threads that compute; all cores if left out.")
def serve(
    networks: tuple[str, ...],
    cameras: tuple[str, ...],
    config: Path | None,
    host: str | None,
    port: int | None,
    token_file: Path | None,
    keep: Path | None,
    workers: int | None,
) -> None:
    r"""Serve cameras: their outputs, pictures and figures, and a page that shows them.

    \b
    videoeff serve people.veff --camera front=rtsp://host/path --camera yard=0
    videoeff serve --config serve.toml

    Listens to this machine alone unless told otherwise. Ctrl-C or SIGTERM ends it. Needs pip install
    "videoeff[serve]".
    """
    _check_extra()
    import logging

    from videoeff.serve.settings import ServeSettings, checked, read_settings

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("videoeff").setLevel(logging.INFO)
    values: dict[str, Any] = {} if config is None else read_settings(config)
    given = {"host": host, "port": port, "token_file": token_file, "keep": keep, "workers": workers}
    values |= {key: value for key, value in given.items() if value is not None}
    named = {_name(text, "the network"): {"path": _value(text)} for text in networks}
    values["networks"] = named | {k: v for k, v in values.get("networks", {}).items() if k not in named}
    added = {_name(text, "--camera"): {"source": _value(text)} for text in cameras}
    values["cameras"] = values.get("cameras", {}) | added
    settings = checked(ServeSettings, values, "videoeff serve" if config is None else str(config))

    from videoeff.serve.server import serve as run

    run(
        settings,
        lambda address: click.echo(f"videoeff serve: {address} ({_counts(settings)}); Ctrl-C ends it"),
    )
    click.get_current_context().exit(DONE)


def _check_extra() -> None:
    from importlib.util import find_spec

    from videoeff.errors import FleetError

    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise FleetError(f'{", ".join(missing)}: not installed; pip install "videoeff[serve]"')


def _name(text: str, what: str) -> str:
    name, equals, _ = text.partition("=")
    if equals:
        return name
    if what == "--camera":
        raise click.UsageError(f"--camera {text}: give the camera a name: NAME={text}")
    return Path(text).stem


def _value(text: str) -> str:
    name, equals, value = text.partition("=")
    return value if equals else name


def _counts(settings: Any) -> str:
    cameras, networks = len(settings.cameras), len(settings.networks)
    return f"{cameras} camera{'s' * (cameras != 1)}, {networks} network{'s' * (networks != 1)}"
