"""Zones: polygons of a camera's frame as watched pixels of a model's input, and how they are drawn."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from videoeff.errors import ArtifactError, VideoError
from videoeff.video.fit import Place, place
from videoeff.video.overlay import legend, overlay_heat, overlay_ignored
from videoeff.video.zones import Polygon, Zones

LEFT = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
TOP = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.25), (0.0, 0.25))
ALL = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))


def watched(zones: Zones, *size: int, there: Place | None = None) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = zones.mask((size[0], size[1]), there).numpy()
    return found


# ---------------------------------------------------------------- polygons to pixels


def test_without_polygons_everything_is_watched() -> None:
    assert watched(Zones(), 4, 6).all()
    assert not Zones()
    assert watched(Zones(watch=(ALL,)), 4, 6).all()


def test_ignored_and_watched_halves() -> None:
    left = np.zeros((4, 6), bool)
    left[:, :3] = True
    assert np.array_equal(watched(Zones(ignore=(LEFT,)), 4, 6), ~left)
    assert np.array_equal(watched(Zones(watch=(LEFT,)), 4, 6), left)
    top = np.zeros((4, 6), bool)
    top[:1] = True
    assert np.array_equal(watched(Zones((LEFT,), (TOP,)), 4, 6), left & ~top), "ignored wins"
    assert np.array_equal(watched(Zones((LEFT, TOP)), 4, 6), left | top)


def test_the_padding_of_a_letterbox_is_watched() -> None:
    there = place((40, 80), (32, 32), "letterbox")
    assert there == Place(8, 0, 16, 32)
    found = watched(Zones(ignore=(LEFT,)), 32, 32, there=there)
    assert found[:8].all()
    assert found[24:].all()
    assert found[:, 16:].all()
    assert not found[8:24, :16].any()
    outside = watched(Zones(watch=(LEFT,)), 32, 32, there=there)
    assert outside[:8].all()
    assert outside[8:24, :16].all()
    assert not outside[8:24, 16:].any()


def inside(polygon: Polygon, height: int, width: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which pixels' centres lie inside by the even-odd rule; how far each is from the border, in pixels."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    found, near = np.zeros((height, width), bool), np.full((height, width), math.inf)
    corners = [(a * width, b * height) for a, b in polygon]
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = (bx - ax) ** 2 + (by - ay) ** 2
        if length:
            along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0, 1)
            near = np.minimum(near, np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)))
        if ay != by:
            found ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) / (by - ay) * (bx - ax))
    return found, near


FRACTION = st.floats(0, 1, allow_nan=False, width=32)


@given(
    polygon=st.lists(st.tuples(FRACTION, FRACTION), min_size=3, max_size=7).map(tuple),
    size=st.tuples(st.integers(2, 40), st.integers(2, 40)),
)
@settings(max_examples=60)
def test_a_pixel_is_ignored_where_its_centre_is_inside(polygon: Polygon, size: tuple[int, int]) -> None:
    try:
        found = watched(Zones(ignore=(polygon,)), *size)
    except VideoError:  # it has no area, or covers the frame
        reject()
    truth, near = inside(polygon, *size)
    assert np.array_equal(found[near > 0.25], ~truth[near > 0.25])


# ---------------------------------------------------------------- what is no zone


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ignore": [[(0, 0), (1, 1)]]}, "ignore polygon 1 has 2 corner"),
        ({"watch": [LEFT, []]}, "watch polygon 2 has 0 corner"),
        ({"watch": [[(0, 0), (0.5, 0.5), (1, 1)]]}, "encloses no area"),
        ({"watch": [[(0, 0)] * 3]}, "encloses no area"),
        ({"ignore": [[(0, 0), (1, 0), (640, 1)]]}, r"corner \(640, 1\); corners are fractions .* not pixels"),
        ({"ignore": [[(0, 0), (1, 0), (math.nan, 1)]]}, "fractions 0..1"),
        ({"ignore": [[(0, 0), (1, 0), (math.inf, 1)]]}, "fractions 0..1"),
        ({"ignore": [[(0, 0), (1, 0), (-0.1, 1)]]}, "fractions 0..1"),
        ({"ignore": [[(0, 0), (1, 0), ("a", 1)]]}, "give two numbers"),
        ({"ignore": [[(0, 0), (1, 0), (True, 1)]]}, "give two numbers"),
        ({"ignore": [[(0, 0), (1, 0), (1, 1, 1)]]}, "give two numbers"),
        ({"ignore": [[(0, 0), (1, 0), 1]]}, "give two numbers"),
        ({"ignore": [7]}, "ignore polygon 1 is a int"),
        ({"ignore": "0,0 1,1 0,1"}, "ignore is a str"),
    ],
)  # fmt: skip
def test_what_is_no_polygon_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(VideoError, match=said):
        Zones(**given)
    with pytest.raises(ArtifactError, match=said):
        Zones.from_json(given)


def test_nothing_left_to_watch_is_refused() -> None:
    with pytest.raises(VideoError, match="nothing is left to watch at 8x8 pixels: 0 watched and 1 ignored"):
        Zones(ignore=(ALL,)).mask((8, 8))
    with pytest.raises(VideoError, match="nothing is left"):
        Zones((LEFT,), (LEFT,)).mask((8, 8))
    with pytest.raises(VideoError, match="nothing is left"):  # the padding is no frame
        Zones(ignore=(ALL,)).mask((32, 32), place((40, 80), (32, 32), "letterbox"))
    with pytest.raises(VideoError, match="does not lie in an input of 8x8"):
        Zones().mask((8, 8), Place(4, 0, 8, 8))


# ---------------------------------------------------------------- JSON and text


def test_json_reads_back_equal() -> None:
    zones = Zones((LEFT,), (TOP, ((0.1, 0.2), (0.3, 0.2), (0.3, 0.9))))
    assert Zones.from_json(json.dumps(zones.to_json())) == zones
    assert Zones.from_json({"ignore": [TOP]}) == Zones(ignore=(TOP,))
    assert Zones.from_json({}) == Zones()
    assert Zones((LEFT,)) | Zones(ignore=[TOP]) == Zones((LEFT,), (TOP,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object .* found list"),
        ('{"watched": [], "ignore": []}', r"unknown key\(s\) watched; known: watch, ignore"),
        ('{"ignore": 5}', "ignore is a int"),
        ('{"ignore": {"a": 1}}', "ignore is a dict"),
    ],
)
def test_json_that_holds_no_zones(text: str, said: str) -> None:
    with pytest.raises(ArtifactError, match=f"zones: .*{said}|zones: {said}"):
        Zones.from_json(text)


def test_polygons_of_the_command_line() -> None:
    corners = ((0.1, 0.2), (0.5, 0.2), (0.5, 1.0))
    for text in ("0.1,0.2 0.5,.2 5e-1,1", " 0.1,0.2   0.5,0.2 0.5,1 ", "0.1,0.2,0.5,0.2,0.5,1.0"):
        assert Zones.parse(watch=[text]) == Zones(watch=(corners,))
    assert Zones.parse([], ["0,0 1,0 1,1", "0,0 0,1 1,1"]).ignore[1] == ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0))
    for text in (
        "",
        "0.1",
        "0.1,0.2 0.3",
        "0,0 1,0 1;1",
        "0,0 1,0 nan,1",
        "0,0,1,0,1",
        "a,b c,d e,f",
        "0,0 1,0 1,-",
    ):
        with pytest.raises(VideoError, match=f"zones: .*{re.escape(repr(text))}|zones: watch polygon"):
            Zones.parse(watch=[text])


# ---------------------------------------------------------------- drawing


def test_ignored_regions_are_dimmed_and_the_rest_stays() -> None:
    frame = np.random.default_rng(0).integers(100, 256, (120, 200, 3)).astype(np.uint8)
    mask = watched(Zones(ignore=(LEFT,)), 30, 40)
    drawn = overlay_ignored(frame, mask)
    assert np.array_equal(drawn[:, 100:], frame[:, 100:])
    assert drawn[:, :100].mean() < 0.7 * frame[:, :100].mean()
    assert len(np.unique(drawn[:, :100].reshape(-1, 3), axis=0)) > 100, "what lies there can still be seen"
    assert np.array_equal(overlay_ignored(frame, np.ones((3, 3), bool)), frame)
    heat = overlay_heat(drawn, np.zeros((4, 4), np.float32))
    assert np.array_equal(heat, drawn)
    for wrong in (mask.astype(np.uint8), mask[0]):
        with pytest.raises(VideoError, match=r"expected bool \(h, w\)"):
            overlay_ignored(frame, wrong)  # type: ignore[arg-type]


def test_the_legend_names_what_is_hatched() -> None:
    frame = np.full((120, 400, 3), 200, np.uint8)
    both, heat, only = (
        legend(frame, "heat", ignored="ignored"),
        legend(frame, "heat"),
        legend(frame, "", ignored="x"),
    )
    for drawn in (both, heat, only):
        assert np.array_equal(drawn[:90], frame[:90])
    assert not np.array_equal(both, heat)
    colourful = [bool((np.ptp(drawn[100:], axis=2) > 40).any()) for drawn in (both, heat, only)]
    assert colourful == [True, True, False], "without heat there is no bar of its colours"
