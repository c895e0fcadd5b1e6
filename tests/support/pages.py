"""The pages of the documentation and the code in them. ``python tests/support/pages.py`` counts what there is."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("[CRS]*.md"), *ROOT.glob(".github/*.md"), *sorted(DOCS.rglob("*.md"))]
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
_BLOCK = re.compile(r"^```(\S*)(?: title=\"([^\"\n]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block."""

    language: str
    title: str
    """Name of the file that it stands for, or nothing."""
    code: str


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    return [Block(*map(str, match.groups(""))) for match in _BLOCK.finditer(page.read_text())]


def commands(page: Path) -> list[str]:
    """Return the commands of a page's bash blocks, each as one line, without comments."""
    code = "".join(block.code for block in blocks(page) if block.language == "bash")
    lines = code.replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := line.partition(" # ")[0].strip())]


def text(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text())


def links(page: Path) -> Iterator[str]:
    """Yield the links of a page that lead to a file or a heading of the repository."""
    yield from re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text(page))


if __name__ == "__main__":
    languages = Counter(block.language for page in PAGES for block in blocks(page))
    print(f"{len(PAGES)} pages, {sum(len(list(links(page))) for page in PAGES)} links between them and to other files.")
    print(f"{sum(languages.values())} blocks:", ", ".join(f"{n} {language}" for language, n in languages.most_common()))
    print(f"{sum(len(commands(page)) for page in PAGES)} commands in the bash blocks.")
