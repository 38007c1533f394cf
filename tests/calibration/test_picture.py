"""The trade-off curve as a picture."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from videoeff.calibration.picture import curve_picture
from videoeff.errors import ArtifactError


def judged(label: str, figure: float, work: float, ms: float | None) -> dict[str, Any]:
    """A contender of a record."""
    value = {"value": figure, "low": None, "high": None, "frames": 9}
    return {"label": label, "settings": {}, "figure": value, "work": work, "ms": ms}


RECORD: dict[str, Any] = {
    "budget": "f1=0.98",
    "metric": {"name": "agreement", "better": "higher"},
    "limit": 0.98,
    "held_limit": 0.98,
    "of_cost": False,
    "clip": {"name": "a<b.mp4"},
    "held": judged("reach 8", 0.985, 0.3, 2.0),
    "curve": [judged("exact", 1.0, 0.8, 4.0), judged("reach 8", 0.985, 0.3, 2.0)],
    "controls": [judged("every 2nd frame", 0.95, 0.5, 3.0), judged("int8", 0.97, 1.0, None)],
}


def test_svg() -> None:
    """One element for each contender that has the figure, and names are escaped."""
    text = curve_picture(RECORD).svg()
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    words = [e.text for e in root.iter(f"{space}text")]
    assert words.count("every 2nd frame") == 2
    assert words.count("int8") == 1
    assert words.count("chosen") == 2
    assert any("a<b.mp4" in (w or "") for w in words)


def test_a_point_lies_where_its_figures_say() -> None:
    """The exact stream lies right of and above the chosen settings."""
    root = ElementTree.fromstring(curve_picture(RECORD).svg())
    discs = [e for e in root.iter("{http://www.w3.org/2000/svg}circle") if e.get("r") == "3"]
    places = [(float(e.get("cx", "0")), float(e.get("cy", "0"))) for e in discs[:2]]
    assert places[0][0] < places[1][0]
    assert places[0][1] > places[1][1]


def test_files(tmp_path: Path) -> None:
    """PNG and SVG; another kind is refused and nothing is left."""
    drawing = curve_picture(RECORD)
    drawing.save(tmp_path / "a.png")
    drawing.save(tmp_path / "a.svg")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (2 * drawing.width, 2 * drawing.height)
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 5
    with pytest.raises(ArtifactError, match=r"\.png or \.svg"):
        drawing.save(tmp_path / "a.gif")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.svg"]
