"""Pages with results in them: what lies between a page's marks, and plots as files."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videoeff.serialize.files import write_atomic


def fill(page: str, mark: str, parts: Mapping[str, str]) -> str:
    """The page with each ``<!-- MARK:NAME -->`` to ``<!-- /MARK:NAME -->`` filled.

    Raises:
        ValueError: the page marks a name that is unknown.
    """

    def put(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in parts:
            raise ValueError(f"the page marks {name!r}; there are {', '.join(parts)}")
        return f"<!-- {mark}:{name} -->\n\n{parts[name].strip()}\n\n<!-- /{mark}:{name} -->"

    return re.sub(rf"<!-- {mark}:(\w+) -->.*?<!-- /{mark}:\1 -->", put, page, flags=re.DOTALL)


def finish_axes(axes: Any) -> None:
    """A line at 1, a grid, and numbers written out on both axes of a plot of ratios."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.grid(alpha=0.3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def png(figure: Any) -> bytes:
    """A figure of matplotlib as a PNG of few colours, which is small; the same bytes for the same figure."""
    from PIL import Image

    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE).save(
        buffer, format="png", optimize=True
    )
    return buffer.getvalue()


def write_picture(path: Path, picture: bytes) -> None:
    """Write a picture in one step."""

    def write(partial: Path) -> None:
        partial.write_bytes(picture)

    write_atomic(path, write)
