"""A report in a notebook: a table that stands on its own, bars for the active share, escaped names."""

from __future__ import annotations

import re

from videoeff.runtime.report import LayerReport, Report


def layer(name: str, share: float | None) -> LayerReport:
    return LayerReport(name, "map", share, 10.0, 20.0, 100, 4096, "reference", "why <not>", 0.1)


def report(*layers: LayerReport) -> Report:
    return Report("net & co", 3, layers, 8192, 1, 1.0, (("head", "it <branches>"),))


def test_a_bar_is_as_long_as_the_active_share() -> None:
    text = report(layer("a", 0.125), layer("b", None), layer("c", 0.0))._repr_html_()
    bars = re.findall(r"linear-gradient\(90deg, rgba\([^)]*\) ([\d.]+)%", text)
    assert bars == ["12.5", "0.0"]
    assert "12.5 %" in text
    assert text.count("<tr>") == 4
    assert text.count("<td") == 3 * text.count("<th ")


def test_names_are_escaped_and_nothing_is_loaded() -> None:
    text = report(layer("<script>alert(1)</script>", 0.5))._repr_html_()
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert "net &amp; co" in text
    assert "it &lt;branches&gt;" in text
    assert "why &lt;not&gt;" in text
    assert not re.search(r"https?:|url\(|<style|<link", text)


def test_colours_do_not_fix_text_or_page() -> None:
    text = report(layer("a", 0.5))._repr_html_()
    assert set(re.findall(r"color: ([^;\"]*)", text)) == {"inherit"}
    alphas = re.findall(r"rgba\(\d+, \d+, \d+, ([\d.]+)\)", text)
    assert alphas
    assert max(map(float, alphas)) < 0.6
