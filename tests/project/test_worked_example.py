"""The worked example in the documentation shows what the script prints, number by number."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "examples" / "worked_example.py"))


@pytest.fixture(scope="module")
def printed(example: dict[str, Any]) -> list[str]:
    texts: list[str] = example["sections"]()
    return texts


def test_the_document_shows_what_the_script_prints(example: dict[str, Any], printed: list[str]) -> None:
    document = (ROOT / "docs" / "worked_example.md").read_text(encoding="utf-8")
    assert example["BLOCK"].findall(document) == printed, (
        "run python examples/worked_example.py docs/worked_example.md, then read the prose again"
    )


def test_the_prose_states_these_numbers(printed: list[str]) -> None:
    whole = "\n".join(printed)
    totals = [line for line in whole.splitlines() if line.startswith("frame") and "MACs" in line]
    assert totals == [
        "frame 1: 342 of 342 MACs; largest difference from dense 0",
        "frame 2: 112 of 342 MACs; largest difference from dense 0",
        "frame 3: 0 of 342 MACs; largest difference from dense 0.3",
        "frame 4: 83 of 342 MACs; largest difference from dense 0",
    ]
    assert "edges: 12 of 36 pixels computed, 108 of 324 MACs; 2 passed on" in whole
    assert "edges: 9 of 36 pixels computed, 81 of 324 MACs; 1 passed on" in whole


def test_a_document_with_another_number_of_blocks_is_refused(example: dict[str, Any]) -> None:
    assert example["update"]("```text\nold\n```\n", ["new"]) == "```text\nnew\n```\n"
    with pytest.raises(ValueError, match="1 text blocks, the example prints 2"):
        example["update"]("```text\nold\n```\n", ["new", "more"])
