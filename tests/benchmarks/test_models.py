"""The table of families: docs/reference/models.md has a row for each, and says what is measured."""

import re

import pytest
from paths import ROOT

from benchmarks.models import FAMILIES, MARKS, TOLERANCE, Row, measure, page_table

PAGE = (ROOT / "docs/reference/models.md").read_text()
PRINTED = PAGE.partition(MARKS[0])[2].partition(MARKS[1])[0]


def stable(text: str) -> list[list[str]]:
    """Return the cells of each row but the last, which is rounding, with reasons in place of their numbers."""
    reasons = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    rows = [[cell.strip() for cell in line.split("|")[1:-2]] for line in text.splitlines() if line.startswith("| ")]
    return [[re.sub(r"^no \((\d+)\)$", lambda found: reasons[found[1]], cell) for cell in row] for row in rows[2:]]


def test_the_page_has_a_row_for_every_family_and_none_is_wrong() -> None:
    found = [(row[0], row[2]) for row in stable(PRINTED)]
    assert found == [(family.title, family.positions) for family in FAMILIES.values()]
    assert "wrong by" not in PRINTED


@pytest.mark.filterwarnings("ignore")  # peft's and transformers' own
@pytest.mark.parametrize("name", ["gemma3", "qwen3-moe", "phi3-beyond", "nemotron"])
@pytest.mark.slow
def test_the_page_says_what_is_measured(name: str) -> None:
    (found,) = stable(page_table([measure(FAMILIES[name])]))
    assert found in stable(PRINTED)


def test_a_difference_above_the_tolerance_is_shown() -> None:
    row = Row(family=FAMILIES["qwen2"], engine=2 * TOLERANCE, trainer=0.0, lora="Expect it.", packed=1.0, bfloat16=None)
    (found,) = stable(page_table([row]))
    assert found[5:] == ["**wrong by 0.0002**", "right", "Expect it.", "**wrong by 1**"]
