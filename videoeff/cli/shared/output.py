"""What every command shares: errors, exit statuses, ``--json``, progress, and outputs checked beforehand."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

DONE, FAILED, UNUSABLE = 0, 1, 2

Function = TypeVar("Function", bound=Callable[..., Any])


def _with_marks(text: str | None) -> str | None:
    """A raw docstring's mark for lines that are to stay as they are (backslash, b), as click reads it."""
    return None if text is None else text.replace("\\b\n", "\b\n")


class Group(click.Group):
    """A group whose docstring may hold examples that stay line by line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"help": _with_marks(kwargs.get("help"))})


#: Options that take as many numbers as follow them, one for each channel of a model.
ROWS = ("--mean", "--std")


def number_row(context: click.Context, option: click.Parameter, value: Any) -> tuple[float, ...] | None:
    """``0.1,0.2``, as :func:`join_rows` writes it, to a tuple: the callback of such an option."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in str(value).split(","))
    except ValueError:
        message = f"{value!r} is no row of numbers such as 0.485 0.456 0.406"
        raise click.BadParameter(message, context, option) from None


def join_rows(args: Sequence[str], names: Sequence[str], most: int = 4) -> list[str]:
    """Join the numbers behind options of a row to one word: ``--mean 0.1 0.2`` becomes ``--mean 0.1,0.2``."""
    joined: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        joined.append(word)
        if word == "--":
            return joined + rest
        if word in names:
            row: list[str] = []
            while rest and len(row) < most and _is_number(rest[0]):
                row.append(rest.pop(0))
            joined += [",".join(row)] if row else []
    return joined


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class Command(click.Command):
    """A command whose deliberate errors end in one message and status 2; others keep their traceback."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"help": _with_marks(kwargs.get("help"))})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, rows of numbers as one."""
        rows = [name for p in self.params for name in p.opts if name in ROWS]
        return super().parse_args(ctx, join_rows(args, rows))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        from videoeff.errors import VideoEffError

        try:
            return super().invoke(ctx)
        except VideoEffError as error:
            if ctx.params.get("as_json"):
                emit({"error": {"kind": type(error).__name__, "message": str(error)}})
            click.echo(f"videoeff {self.name}: {error}", err=True)
            ctx.exit(UNUSABLE)
        except KeyboardInterrupt:
            click.echo(f"videoeff {self.name}: interrupted; no file was written", err=True)
            ctx.exit(FAILED)


def json_option(function: Function) -> Function:
    """``--json``, passed as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Write one JSON document to stdout.")(
        function
    )


def threads_option(function: Function) -> Function:
    """``--threads``: of PyTorch."""
    return click.option(
        "--threads", type=click.IntRange(1), help="Threads PyTorch may use; all cores if left out."
    )(function)


def loading_options(function: Function) -> Function:
    """``--model`` and ``--backend`` of the commands that load an artifact."""
    function = click.option("--backend", help="Another backend than the one it was converted for.")(function)
    return click.option(
        "--model",
        "reference",
        metavar="REF",
        help="What builds the model, for an artifact in parts (see convert --help). Runs its code.",
    )(function)


def network_options(function: Function) -> Function:
    """``--seconds``, ``--transport``, ``--policy`` and ``--stall`` of what reads addresses on a network."""
    for option in (
        click.option(
            "--stall",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            help="Of an address: without a picture for so long its connection counts as lost; 5 if left out.",
        ),
        click.option(
            "--policy",
            type=click.Choice(["latest", "every"]),
            help="Of an address: take the newest frame and drop what is late, or take all. Default: latest.",
        ),
        click.option(
            "--transport",
            type=click.Choice(["tcp", "udp", "auto"]),
            help="Of an rtsp:// address: what carries the pictures. Default: tcp.",
        ),
        click.option(
            "--seconds",
            type=click.FloatRange(min=0, min_open=True),
            help="Of an address: stop so many seconds after the first frame.",
        ),
    ):
        function = option(function)
    return function


def emit(document: Any) -> None:
    """Write one JSON document to stdout; numbers JSON does not have become null."""
    click.echo(json.dumps(_plain(document), indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def json_text(document: Any) -> str:
    """The text :func:`emit` writes, for a file."""
    return json.dumps(_plain(document), indent=1, allow_nan=False) + "\n"


def console() -> Console:
    """Where people read: as wide as the terminal, or as ``COLUMNS`` says; 140 characters in a pipe."""
    import os

    from rich.console import Console

    wide = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 140
    return Console(width=wide, highlight=False)


def show(*parts: RenderableType) -> None:
    """Print for people; text is printed as it is, without markup."""
    from rich.text import Text

    target = console()
    for part in parts:
        target.print(Text(part) if isinstance(part, str) else part)


@contextlib.contextmanager
def stage(text: str) -> Iterator[None]:
    """A moving line on stderr while something of unknown length is done."""
    from rich.console import Console

    target = Console(stderr=True)
    if not target.is_terminal:
        yield
        return
    with target.status(text):
        yield


Item = TypeVar("Item")


def track(items: Iterable[Item], text: str, total: int | None) -> Iterator[Item]:
    """Iterate with a progress bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    target = Console(stderr=True)
    if not target.is_terminal:
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=target, transient=True) as progress:
        yield from progress.track(items, total=total, description=text)


def writable(path: str | Path | None, what: str, suffixes: tuple[str, ...] = ()) -> Path | None:
    """Check before the work begins that an output can be written.

    Raises:
        ArtifactError: it cannot; the option is named.
    """
    if path is None:
        return None
    from videoeff.errors import ArtifactError, VideoEffError
    from videoeff.video.writer import check_writable

    try:
        found = check_writable(path, ArtifactError)
    except VideoEffError as error:
        raise ArtifactError(f"{what}: {error}") from error
    if suffixes and found.suffix.lower() not in suffixes:
        raise ArtifactError(f"{what}: {found}: unknown kind of file; name it {', '.join(suffixes)}")
    return found


def set_threads(threads: int | None) -> int:
    """Set PyTorch's threads if a number is given; how many there are."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def megabytes(count: float) -> str:
    """A number of bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1024:.1f} KiB"


def count(value: float) -> str:
    """A number with a decimal prefix."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f}"


def percent(share: float | None) -> str:
    """A share for people; "–" for None."""
    return "–" if share is None else f"{100 * share:.1f} %"
