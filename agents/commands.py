"""The commands of ``evaluate.py`` and their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro

from agents.protocols import EvalConfig, protocols
from agents.results import Compare, Report
from agents.transcripts import Export, Import, Regrade

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
