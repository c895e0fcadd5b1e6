"""The commands of ``evaluate.py`` and their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from agents.protocols import EvalConfig, protocols
from agents.transcripts import Export, Import, Regrade


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare two finished runs on the same problems."""

    runs: tyro.conf.Positional[tuple[Path, Path]]
    """Their folders: what the second gains over the first, and how long its samples are beside the first's."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Put shards together and show runs that are done; with --output, also as a page, as training runs are."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or folders that hold such; or output folders of training runs, with --output."""
    output: Path | None = None
    """Write an HTML page too: figures, charts and every transcript, in one file."""
    k: tuple[int, ...] = ()
    """Show pass@k for these k; none: for the number of samples."""


Command = EvalConfig | Compare | Report | Regrade | Export | Import
_WITHOUT_A_MODEL = {made.__name__.lower(): made for made in (Compare, Report, Regrade, Export, Import)}


def parse(args: Sequence[str], description: str) -> Command:
    """Return what the arguments of the program ask for; without a command the first protocol is meant."""
    first = args[0] if args else ""
    if first not in {*protocols, *_WITHOUT_A_MODEL, "-h", "--help"}:
        args = [next(iter(protocols)), *args]
    commands: list[Any] = [
        Annotated[EvalConfig, tyro.conf.subcommand(name, default=make(tyro.MISSING), description=make.__doc__)]
        for name, make in protocols.items()
    ]
    commands += [Annotated[made, tyro.conf.subcommand(name)] for name, made in _WITHOUT_A_MODEL.items()]
    union: Any = Union[tuple(commands)]  # noqa: UP007
    parsed: Command = tyro.cli(
        union,
        prog="evaluate.py",
        description=description,
        args=args,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    return parsed
