"""The pages in docs/ say what the code says."""

import re
from pathlib import Path

import pytest
from paths import ROOT

from cir_env.__main__ import article

DOCS = ROOT / "docs"


def test_the_page_on_the_environment_is_its_docstring() -> None:
    assert (DOCS / "environment.md").read_text() == article(), "write it again: python -m cir_env > docs/environment.md"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link).exists()] == []
