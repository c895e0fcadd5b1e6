"""The pages say what the code says, and the files around them name what exists."""

import pkgutil
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from pages import DOCS, PAGES, ROOT, blocks, links, name

from agents.tracking.model_card import _CITATION
from cir_env.__main__ import article

MAKEFILE = (ROOT / "Makefile").read_text()


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def recipe(target: str) -> list[str]:
    """Return the commands of a target of the Makefile."""
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    return [line.strip() for line in lines.splitlines()]


def test_the_page_on_the_environment_is_its_docstring() -> None:
    assert (DOCS / "environment.md").read_text() == article(), "write it again: make docs"


def test_every_code_block_of_the_page_on_the_environment_is_a_doctest() -> None:
    code = [block.code for block in blocks(DOCS / "environment.md") if block.language == "python"]
    assert len(code) >= 8
    assert [each for each in code if not each.startswith(">>> ")] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name)
@pytest.mark.slow
def test_every_name_with_dots_can_be_imported(page: Path) -> None:
    groups = {f"agents.{group}" for group in ("advantages", "aggregations", "engines", "trackers")}  # of entry points
    if page.name == "CHANGELOG.md":
        pytest.skip("names what there was")
    for dotted in re.findall(r"`((?:agents|cir_env)(?:\.\w+)+)`", page.read_text()):
        is_module = (ROOT / f"{dotted.replace('.', '/')}.py").exists()  # whose library may be missing
        assert dotted in groups or is_module or pkgutil.resolve_name(dotted)


def test_hooks_and_makefile_run_the_same_static_checks() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["entry"].replace(" --force-exclude", "") for repo in config["repos"] for hook in repo["hooks"]}
    assert hooks == {command.removesuffix(" .").replace(" --check", "") for command in recipe("check")}


def test_the_makefile_names_targets_and_files_that_exist() -> None:
    phony = MAKEFILE.partition("\n")[0].split()[1:]
    assert phony == re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE)
    files = [word for target in phony for command in recipe(target) for word in command.split() if "/" in word]
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("form", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/[!c]*.yml")), ids=lambda form: form.stem)
def test_a_form_for_reports_has_what_github_asks_for(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert content.keys() == {"name", "description", "labels", "body"}
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert (
        len({field["id"] for field in fields})
        == len({field["attributes"]["label"] for field in fields})
        == len(fields)
        > 0
    )
    assert {field["type"] for field in fields} <= {"input", "textarea", "dropdown", "checkboxes"}


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (paper,) = citation["references"]
    assert [citation[name] for name in ("title", "version", "license")] == [
        project[name] for name in ("name", "version", "license")
    ]
    assert paper["url"] == project["urls"]["Paper"]
    assert citation["authors"] == project["authors"]
    assert (ROOT / "CHANGELOG.md").read_text().count(f"\n## {project['version']} ") == 1
    for person in paper["authors"]:
        assert f"{person['given-names']} {person['family-names']}" in _CITATION.replace("\n", " ")
