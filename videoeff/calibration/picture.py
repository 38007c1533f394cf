"""The trade-off curve of a calibration as a picture: SVG text, or a PNG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videoeff.errors import ArtifactError
from videoeff.serialize.files import write_atomic, write_text

#: Greek letters as words.
_SPELT = str.maketrans({"τ": "threshold", "π": "prediction", "σ": "sigma"})
#: Size of the picture, of a panel's margins, and of text, in pixels.
_WIDTH, _HEIGHT = 920, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 64, 56
_TEXT = 12
_INK, _GREY, _BLUE, _RED, _PALE = "#202020", "#707070", "#2462b0", "#c02020", "#d8d8d8"


@dataclass(frozen=True)
class Line:
    """A line through points."""

    points: tuple[tuple[float, float], ...]
    colour: str
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A point: a disc, or a square."""

    x: float
    y: float
    radius: float
    colour: str
    square: bool = False


@dataclass(frozen=True)
class Text:
    """A line of text; ``anchor`` is start, middle or end."""

    x: float
    y: float
    text: str
    colour: str = _INK
    anchor: str = "start"
    size: int = _TEXT


@dataclass
class Drawing:
    """Lines, marks and texts in pixels."""

    width: int = _WIDTH
    height: int = _HEIGHT
    parts: list[Line | Mark | Text] = field(default_factory=list)

    def svg(self) -> str:
        """As SVG, to be put into a page as it is."""
        body = "".join(_svg(part) for part in self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" font-family="sans-serif" role="img">'
            f'<rect width="{self.width}" height="{self.height}" fill="#ffffff"/>{body}</svg>'
        )

    def save(self, path: str | Path) -> None:
        """Write an .svg or a .png, whole or not at all.

        Raises:
            ArtifactError: another kind of file, or it cannot be written.
        """
        kind = Path(path).suffix.lower()
        if kind == ".svg":
            write_text(path, self.svg() + "\n")
        elif kind == ".png":
            write_atomic(path, lambda temporary: self._write_png(temporary))
        else:
            raise ArtifactError(f"{path}: unknown kind of picture; name it .png or .svg")

    def _write_png(self, path: Path, scale: int = 2) -> None:
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (scale * self.width, scale * self.height), "#ffffff")
        canvas = ImageDraw.Draw(image)
        for part in self.parts:
            _paint(canvas, part, scale)
        image.save(path, "PNG")


def _svg(part: Line | Mark | Text) -> str:
    if isinstance(part, Line):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in part.points)
        dash = ' stroke-dasharray="5 4"' if part.dashed else ""
        return (
            f'<polyline points="{points}" fill="none" stroke="{part.colour}" '
            f'stroke-width="{part.width}"{dash}/>'
        )
    if isinstance(part, Mark):
        if part.square:
            side = 2 * part.radius
            return (
                f'<rect x="{part.x - part.radius:.1f}" y="{part.y - part.radius:.1f}" width="{side}" '
                f'height="{side}" fill="{part.colour}"/>'
            )
        return f'<circle cx="{part.x:.1f}" cy="{part.y:.1f}" r="{part.radius}" fill="{part.colour}"/>'
    return (
        f'<text x="{part.x:.1f}" y="{part.y:.1f}" font-size="{part.size}" fill="{part.colour}" '
        f'text-anchor="{part.anchor}">{html.escape(part.text)}</text>'
    )


def _paint(canvas: Any, part: Line | Mark | Text, scale: int) -> None:
    from PIL import ImageFont

    if isinstance(part, Line):
        points = [(scale * x, scale * y) for x, y in part.points]
        width = max(1, round(scale * part.width))
        if part.dashed:
            for a, b in _dashes(points, 5 * scale, 4 * scale):
                canvas.line([a, b], fill=part.colour, width=width)
        else:
            canvas.line(points, fill=part.colour, width=width)
    elif isinstance(part, Mark):
        radius = part.radius
        box = [scale * v for v in (part.x - radius, part.y - radius, part.x + radius, part.y + radius)]
        (canvas.rectangle if part.square else canvas.ellipse)(box, fill=part.colour)
    else:
        font = ImageFont.load_default(size=scale * part.size)
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[part.anchor]
        text = part.text.translate(_SPELT)  # Pillow's own font has no Greek letters
        canvas.text((scale * part.x, scale * part.y), text, fill=part.colour, font=font, anchor=anchor)


Point = tuple[float, float]


def _dashes(points: Sequence[Point], dash: float, gap: float) -> list[tuple[Point, Point]]:
    """Pieces of a horizontal or slanted line of two points."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5 or 1.0
    pieces, at = [], 0.0
    while at < length:
        a, b = at / length, min(at + dash, length) / length
        start, end = (x0 + a * (x1 - x0), y0 + a * (y1 - y0)), (x0 + b * (x1 - x0), y0 + b * (y1 - y0))
        pieces.append((start, end))
        at += dash + gap
    return pieces


def curve_picture(record: Mapping[str, Any]) -> Drawing:
    """Fidelity over work and over milliseconds, with the chosen settings, the limit and the controls.

    Args:
        record: of a calibration; all of it is on the frames that were held back.
    """
    drawing = Drawing()
    name, clip = record["metric"]["name"], record["clip"]["name"]
    title = f"{name} against cost on {clip}, budget {record['budget']}"
    drawing.parts.append(Text(_LEFT, 22, title, size=14))
    drawing.parts.append(Text(_LEFT, 42, f"frames held back; chosen: {record['held']['label']}", _GREY))
    half = _WIDTH / 2
    _panel(drawing, record, "work", "share of the dense work", 0.0, half)
    _panel(drawing, record, "ms", "ms a frame on this machine (skipping: PyTorch)", half, _WIDTH)
    return drawing


def _panel(
    drawing: Drawing, record: Mapping[str, Any], key: str, label: str, left: float, right: float
) -> None:
    curve = [j for j in record["curve"] if j[key] is not None]
    controls = [j for j in record["controls"] if j[key] is not None]
    points = [*curve, *controls]
    if not points:
        return
    values = [j["figure"]["value"] for j in points]
    values += [] if record["of_cost"] else [record["held_limit"]]
    values = [v for v in values if abs(v) != float("inf")]
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.01
    low, high = low - pad, high + pad
    most = 1.05 * max(j[key] for j in points)
    x0, x1, y0, y1 = left + _LEFT, right - _RIGHT, float(_HEIGHT - _BOTTOM), float(_TOP)

    def at(judged: Mapping[str, Any]) -> Point:
        y = (min(max(judged["figure"]["value"], low), high) - low) / (high - low)
        return x0 + (x1 - x0) * judged[key] / most, y0 + (y1 - y0) * y

    parts = drawing.parts
    for i in range(5):
        value, x = low + (high - low) * i / 4, x0 + (x1 - x0) * i / 4
        y = y0 + (y1 - y0) * i / 4
        parts.append(Line(((x0, y), (x1, y)), _PALE))
        parts.append(Text(x0 - 6, y + 4, f"{value:.3f}", _GREY, "end"))
        parts.append(Text(x, y0 + 18, f"{most * i / 4:.3g}", _GREY, "middle"))
    parts.append(Line(((x0, y1), (x0, y0), (x1, y0)), _INK))
    parts.append(Text((x0 + x1) / 2, y0 + 40, label, anchor="middle"))
    if not record["of_cost"]:
        y = y0 + (y1 - y0) * (record["held_limit"] - low) / (high - low)
        parts.append(Line(((x0, y), (x1, y)), _RED, 1.0, True))
        parts.append(Text(x1, y - 5, f"budget {record['budget']}", _RED, "end"))
    elif record["budget"].startswith(f"{key}="):
        x = x0 + (x1 - x0) * min(1.0, record["limit"] / most)
        parts.append(Line(((x, y0), (x, y1)), _RED, 1.0, True))
    ordered = sorted(curve, key=lambda j: j[key])
    parts.append(Line(tuple(at(j) for j in ordered), _BLUE, 1.5))
    for judged in ordered:
        parts.append(Mark(*at(judged), 3, _BLUE))
    for judged in controls:
        x, y = at(judged)
        parts.append(Mark(x, y, 3.5, _GREY, square=True))
        parts.append(
            Text(
                x - 7 if x > (x0 + x1) / 2 else x + 7,
                y + 4,
                judged["label"],
                _GREY,
                "end" if x > (x0 + x1) / 2 else "start",
            )
        )
    if record["held"][key] is not None:
        x, y = at(record["held"])
        parts.append(Mark(x, y, 6, _RED))
        parts.append(Text(x + 9, y + 16, "chosen", _RED))
