"""What MkDocs makes besides the pages in this folder, and where their links lead on the site.

The pages are written for GitHub, with links relative to the repository. On the site, README.md is the start page, a
link to another file of the repository leads to a page that shows it, and pages on the code are made from the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from os.path import normpath, relpath
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

from agents import cli
from agents.config.evaluation import EvalConfig, protocols
from agents.config.files import first_paragraph
from agents.config.presets import presets
from agents.config.sft import SFTConfig
from agents.config.training import TrainConfig
from agents.tracking import metrics

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MOVED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages outside of this folder, and their places on the site."""
INSTEAD = {
    "docs/decisions": "decisions/index.md",
    "agents/__init__.py": "reference/agents.md",
    "agents/config/evaluation.py": "reference/evaluate.md",
    "agents/config/training.py": "reference/train.md",
    "agents/tracking/metrics.py": "reference/metrics.md",
    "cir_env/__init__.py": "reference/cir_env.md",
}
"""Files and folders for which the site has a page that is made from them."""
_FENCE_OR_LINK = re.compile(
    r"^(?P<fence>```+).*?^(?P=fence)$|\]\((?!\w+:)(?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)", re.M | re.S
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the anchors of headings as GitHub does."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages from outside of this folder, those on the code, and one for each file that a page links to."""
    texts = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    texts |= {path: (ROOT / path).read_text() for path in MOVED}
    made = {
        **{place: texts[path] for path, place in MOVED.items()},
        "decisions/index.md": decisions(),
        "reference/agents.md": api(
            "agents",
            "The fields of a configuration are the flags of [train.py](train.md) and [evaluate.py](evaluate.md).",
        ),
        "reference/cir_env.md": api(
            "cir_env", "[CodeMath-v0](../environment.md) describes the environment and its arguments."
        ),
        "reference/evaluate.md": evaluation_flags(),
        "reference/metrics.md": metrics_table(),
        "reference/train.md": training_flags(),
    }
    for path in {target for page, text in texts.items() for target in targets(text, page)}:
        if (place := site_path(path)).startswith("source/") and (ROOT / path).is_file():
            made[place] = source(path)
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page that is written for GitHub lead to places on the site."""
    place = page.file.src_uri
    path = {moved: path for path, moved in MOVED.items()}.get(place, f"docs/{place}")
    if not (ROOT / path).is_file():
        return markdown

    def moved(match: re.Match[str]) -> str:
        if match["fence"]:
            return match[0]
        target = relpath(site_path(_resolve(match["path"], path)), Path(place).parent)
        return f"]({target}{match['anchor'] or ''})"

    return _FENCE_OR_LINK.sub(moved, markdown)


def targets(text: str, path: str) -> Iterator[str]:
    """Yield the files that a page links to, both by their paths in the repository."""
    for match in _FENCE_OR_LINK.finditer(text):
        if match["path"]:
            yield _resolve(match["path"], path)


def site_path(path: str) -> str:
    """Return the place on the site for a file of the repository."""
    if place := (MOVED | INSTEAD).get(path):
        return place
    return path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}.md"


def _resolve(link: str, path: str) -> str:
    return normpath(Path(path).parent / link)


def source(path: str) -> str:
    """Return a page that shows a file."""
    text = (ROOT / path).read_text()
    language = Path(path).suffix.removeprefix(".")
    return f"---\nsearch: {{exclude: true}}\nhide: [toc]\n---\n\n# {path}\n\n````````{language}\n{text}````````\n"


def decisions() -> str:
    """Return the list of decisions."""
    pages = sorted((DOCS / "decisions").glob("*.md"))
    titles = {page.name: page.read_text().partition("\n")[0].removeprefix("# ") for page in pages}
    return "# Decisions\n\n" + "".join(f"- [{title}]({name})\n" for name, title in titles.items())


def api(package: str, introduction: str) -> str:
    """Return the page on a package's public names, exceptions last."""
    module = load(package)
    names = sorted(map(str, module.exports or ()), key=str.lower)
    names.sort(key=lambda name: ".errors." in module[name].target_path)
    entries = "".join(f"\n::: {package}.{name}\n{_options(name)}" for name in names)
    return f"# {package}\n\n{introduction}\n\n::: {package}\n{_ALONE}\n## Names\n{entries}"


_ALONE = "    options: {members: false, show_root_heading: false, show_root_toc_entry: false}\n"
"""For mkdocstrings: the docstring of a module without its members."""


def _options(name: str) -> str:
    """Return what mkdocstrings is told about a name whose description, or whose fields, are on another page."""
    if name == "CodeMathEnv":
        return "    options: {show_docstring_description: false}\n"
    return "    options: {members: false}\n" if name.endswith("Config") else ""


@cache
def load(package: str) -> griffe.Module:
    """Return a package as griffe reads it, without importing it."""
    return griffe.load(package, search_paths=[ROOT])


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """One flag of a program."""

    name: str
    """Such as ``--env.problems``; of a positional argument its name."""
    hint: Any
    default: Any
    """MISSING where it has to be given."""
    meaning: str

    @property
    def negated(self) -> str:
        """The flag that turns it off."""
        group, dot, leaf = self.name.removeprefix("--").rpartition(".")
        return f"--{group}{dot}no-{leaf}"

    @property
    def as_typed(self) -> str:
        """The flag with its value, as on a command line."""
        if isinstance(self.default, bool):
            return self.name if self.default else self.negated
        return f"{self.name} {_shown(self.default)}"

    @property
    def row(self) -> str:
        """The flag as a row of a table."""
        name = f"`{self.name}`" + (f", `{self.negated}`" if self.hint is bool else "")
        default = "required" if self.default is MISSING else f"`{_shown(self.default)}`"
        meaning = self.meaning.replace("|", "\\|").replace("*", "\\*")
        return f"| {name} | {_values(self.hint)} | {default} | {' '.join(meaning.split())} |\n"


def flags_of(config: Any, prefix: str = "--") -> Iterator[Flag]:
    """Yield the flags of a dataclass, or of an instance, whose values are the defaults."""
    kind = config if isinstance(config, type) else type(config)
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        default = getattr(config, field.name, field.default)
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        if is_dataclass(default):
            yield from flags_of(default, f"{prefix}{field.name.replace('_', '-')}.")
            continue
        name, hint = f"{prefix}{field.name.replace('_', '-')}", hints[field.name]
        if get_origin(hint) is Annotated:
            name, hint = field.name.upper(), get_args(hint)[0]
        yield Flag(name=name, hint=hint, default=default, meaning=_documented(kind, field.name))


def _documented(kind: type, name: str) -> str:
    """Return the docstring of a field, of the nearest class that has one."""
    for each in kind.__mro__:
        if each.__module__.startswith("agents.") and each.__module__:
            member = load("agents")[f"{each.__module__}.{each.__name__}".removeprefix("agents.")].members.get(name)
            if member is not None and member.docstring:
                return member.docstring.value
    return ""


def _values(hint: Any) -> str:
    """Say what values a type has."""
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if get_origin(hint) is tuple:
        return f"{_values(parts[0])} ..." if parts[-1] is ... else " ".join(map(_values, parts))
    if parts:
        return " or ".join(_values(part) for part in parts if part is not NoneType)
    return "" if hint is bool else str(hint.__name__).lower()


def _shown(value: Any) -> str:
    """Write a default as on a command line."""
    if isinstance(value, tuple):
        return " ".join(map(_shown, value)) or "()"
    return str(value) if value != "" else '""'


def table(flags: Iterable[Flag]) -> str:
    """Return a table of flags."""
    return "| flag | values | default | meaning |\n|---|---|---|---|\n" + "".join(flag.row for flag in flags) + "\n"


def by_group(config: Any) -> str:
    """Return a table for each group of a configuration's flags."""
    groups: dict[str, list[Flag]] = {}
    for flag in flags_of(config):
        groups.setdefault(flag.name.removeprefix("--").rpartition(".")[0], []).append(flag)
    return "".join(f"### {group or 'general'}\n\n{table(flags)}" for group, flags in groups.items())


def differing(config: Any, default: Any) -> str:
    """Return the flags that turn one configuration into another, as a command line has them."""
    pairs = zip(flags_of(config), flags_of(default), strict=True)
    changed = [one.as_typed for one, other in pairs if one.default != other.default]
    return "```text\n" + "\n".join(changed) + "\n```\n\n"


def training_flags() -> str:
    """Return the page on the flags of ``train.py``."""
    default = TrainConfig()
    parts = [f"### {name}\n\n{first_paragraph(make)}\n\n{differing(make(), default)}" for name, make in presets.items()]
    return (
        "# Flags of train.py\n\n"
        "`python train.py PRESET` and these flags; `--help` prints them with the values of the preset. "
        "[Training](../training.md) explains them.\n\n## Presets\n\nWhat each preset sets:\n\n"
        f"{''.join(parts)}## Training\n\n{by_group(default)}"
        f"## Supervised fine-tuning\n\n`python train.py sft`: {first_paragraph(SFTConfig)}\n\n{by_group(SFTConfig())}"
    )


def evaluation_flags() -> str:
    """Return the page on the commands and flags of ``evaluate.py``."""
    default = EvalConfig(model=("M",))
    parts = [
        f"### {name}\n\n{first_paragraph(make)}\n\n{differing(make(('M',)), default)}"
        for name, make in protocols.items()
    ]
    commands = [kind for kind in _commands(cli.Command) if kind is not EvalConfig]
    rest = [
        f"## {kind.__name__.lower()}\n\n{first_paragraph(kind)}\n\n{table(flags_of(kind)) if fields(kind) else ''}"
        for kind in commands
    ]
    return (
        "# Flags of evaluate.py\n\n"
        "`python evaluate.py PROTOCOL --model M` and these flags, or one of the commands below. "
        "[Evaluation](../evaluation.md) explains them.\n\n## Protocols\n\nWhat each protocol sets:\n\n"
        f"{''.join(parts)}## Evaluation\n\n{by_group(default)}{''.join(rest)}"
    )


def _commands(union: Any) -> list[Any]:
    return [kind for part in get_args(union) for kind in (_commands(part) if get_args(part) else [part])]


def metrics_table() -> str:
    """Return the page on metrics."""
    text = (metrics.__doc__ or "").partition("\n\n")[2]
    rows = ""
    for each in metrics.METRICS:
        rows += f"| {', '.join(f'`{name}`' for name in each.names)} | {each.unit} | {each.meaning} |\n"
    return (
        f"# Metrics\n\n## Of training\n\n{text}\n| metric | unit | meaning |\n|---|---|---|\n{rows}\n"
        f"## Of an evaluation\n\n::: agents.evaluation.metrics\n{_ALONE}"
    )


class Markdown(griffe.Extension):
    """Write as Markdown what docstrings have of reStructuredText: roles, ``::`` before code, and examples."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Change the docstring of a package."""
        self.on_object(obj=pkg)

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of anything in a package."""
        if obj.docstring and "```" not in obj.docstring.value:
            text = re.sub(r":\w+:(?=`)", "", obj.docstring.value)
            text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
            obj.docstring.value = _EXAMPLE.sub(r"\1```pycon\n\1\2\n\1```", text)


_EXAMPLE = re.compile(r"^([ ]*)(>>> .+?)(?=\n\n|\n*\Z)", re.DOTALL | re.MULTILINE)
