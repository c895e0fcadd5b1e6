"""Flags from a file: ``--config FILE`` stands for the flags that a YAML or TOML file holds."""

from __future__ import annotations

import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from agents.core.errors import ConfigError, one_line

T = TypeVar("T")
FLAG = "--config"
_FRAME = re.compile(r"[│╭╰─╮╯]|-{9,}|\x1b\[[\d;]*m")
"""What tyro draws around an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Setting:
    """One key of a file."""

    file: str
    key: str
    args: tuple[str, ...]
    """The arguments it stands for, the flag first."""

    @property
    def flag(self) -> str:
        return self.args[0].partition("=")[0]


def first_paragraph(documented: object) -> str:
    """Return the first paragraph of a docstring, for a command's help.

    >>> first_paragraph(first_paragraph)
    "Return the first paragraph of a docstring, for a command's help."
    """
    return (inspect.getdoc(documented) or "").partition("\n\n")[0]


def with_values(args: Sequence[str]) -> Iterator[str]:
    """Write ``--resume`` and ``--no-resume``, which may stand alone, as the flag with a value that it is.

    >>> list(with_values(["tiny", "--resume", "--seed", "3"])), list(with_values(["--resume", "auto"]))
    (['tiny', '--resume=True', '--seed', '3'], ['--resume=auto'])
    """
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if arg == "--resume":
            arg = f"--resume={rest.pop(0) if rest[:1] and rest[0] in ('auto', 'True', 'False') else True}"
        yield "--resume=False" if arg == "--no-resume" else arg


def parse_one(config: type[T], default: Any, args: Sequence[str], *, prog: str, description: str) -> T:
    """Parse the flags of one command, and exit with code 2 where they cannot be read.

    Raises:
        ConfigError: A flag has another library's name.
    """
    import tyro

    known = [flag.replace("_", "-") for flag, _ in _flags(config)]
    for arg in args:
        flag = arg.partition("=")[0]
        meant = next((name for name in known if name.rpartition(".")[2] == _ELSEWHERE.get(flag.lstrip("-"))), None)
        if flag.startswith("--") and meant and flag.removeprefix("--") not in known:
            raise ConfigError(f"Expect a flag, got `{flag}`. Did you mean `--{meant}`?")
    parsed: T = tyro.cli(
        config,
        default=default,
        prog=prog,
        description=description,
        args=args,
        config=(tyro.conf.AvoidSubcommands,),
    )
    return parsed


_ELSEWHERE = {
    **dict.fromkeys(("lr", "ppo.lr", "actor-lr"), "learning-rate"),
    **dict.fromkeys(("max-tokens", "max-new-tokens", "max-gen-toks"), "max-completion-length"),
    **dict.fromkeys(("n", "num-repeats"), "num-samples"),
    "limit": "num-problems",
    "tasks": "names",
    "tp": "tensor-parallel-size",
    "group-size": "num-generations",
}
"""The flags of other programs, and the last part of ours."""


def parse_with_files(
    args: Sequence[str], parse: Callable[[list[str]], T], *, config: type, commands: Sequence[str], name: str
) -> T:
    """Parse arguments in which each ``--config FILE`` stands for the flags of a file; what comes later wins.

    Args:
        args: The arguments. If the first one is no command, the files' is meant, else the first of ``commands``.
        parse: Parses arguments, and exits with code 2 where it cannot.
        config: The dataclass whose fields, and those of its groups, are the flags.
        commands: What the first argument may be.
        name: The key of a file that names one of them, such as ``preset``.

    Raises:
        ConfigError: A file cannot be read, has an unknown key, or a value that ``parse`` does not take.
    """
    settings: list[_Setting] = []
    expanded: list[str] = []
    command: str | None = None
    given = iter(args)
    for arg in given:
        if arg != FLAG and not arg.startswith(f"{FLAG}="):
            expanded.append(arg)
            continue
        file = arg.partition("=")[2] or next(given, "")
        values = dict(_flat(_read(file)))
        if name in values:
            command = _one_of(file, name, str(values.pop(name)), commands)
        settings += [_setting(file, key, value, config) for key, value in values.items()]
        expanded += [part for setting in settings if setting.file == file for part in setting.args]
    if not expanded or (expanded[0].startswith("-") and expanded[0] not in ("-h", "--help")):
        expanded.insert(0, command or commands[0])
    if not settings:
        return parse(expanded)
    return _blame(settings, args, lambda: parse(expanded))


def _blame(settings: Sequence[_Setting], args: Sequence[str], parse: Callable[[], T]) -> T:
    """Parse; an error that a file's setting is to blame for becomes one line that names file and key."""
    shown = StringIO()
    try:
        with redirect_stderr(shown):
            return parse()
    except SystemExit:
        text = shown.getvalue()
        reason = " ".join(_FRAME.sub(" ", text).split())
        typed = {arg.partition("=")[0].replace("_", "-") for arg in args}
        for setting in settings:
            leaf = setting.key.rpartition(".")[2]
            named = re.search(rf"{re.escape(setting.flag)}(?![\w.-])|`([\w.]+\.)?{leaf}`", reason)
            if named and setting.flag not in typed:
                why = re.sub(r"^.*?Error parsing [^ ]+: |^Invalid choice ", "", reason)
                why = re.split(" Argument helptext| Perhaps you meant| For full helptext", why)[0]
                raise ConfigError(f"{setting.file}: `{setting.key}`: {why}") from None
        print(text, end="", file=sys.stderr)
        raise


def _read(file: str) -> Mapping[str, Any]:
    suffix = Path(file).suffix
    if suffix not in (".yaml", ".yml", ".toml"):
        raise ConfigError(f"Expect `config` to be a .yaml, .yml or .toml file, got {file!r}.")
    try:
        text = Path(file).read_text(encoding="utf-8")
        if suffix == ".toml":
            read: Any = tomllib.loads(text)
        else:
            import yaml  # type: ignore[import-untyped, unused-ignore]

            try:
                read = yaml.safe_load(text)
            except yaml.YAMLError as error:
                mark = getattr(error, "problem_mark", None)
                place = f"line {mark.line + 1}: " if mark else ""
                raise ValueError(f"{place}{getattr(error, 'problem', None) or error}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"Expect `config` to be a file that can be read, got {file!r}: {one_line(error)}.") from error
    if not isinstance(read, Mapping):
        raise ConfigError(f"{file}: Expect a mapping of flags to values, got {type(read).__name__}.")
    return read


def _flat(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys, written as fields are, and their values.

    >>> dict(_flat({"max-steps": 3, "env": {"prompt": "cir"}}))
    {'max_steps': 3, 'env.prompt': 'cir'}
    """
    for key, value in values.items():
        name = prefix + str(key).replace("-", "_")
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _setting(file: str, key: str, value: Any, config: type) -> _Setting:
    types = dict(_flags(config))
    _one_of(file, "key", key, tuple(types))
    takes = get_args(types[key]) or (types[key],)
    expected = [
        (value is None and type(None) not in takes, "a value"),
        (isinstance(value, bool) and bool not in takes, "a value that is not true or false"),
        (isinstance(value, list | Mapping) and not _takes_several(types[key]), "one value"),
        (isinstance(value, list) and not all(type(each) in (str, int, float) for each in value), "texts or numbers"),
    ]
    for wrong, what in expected:
        if wrong:
            raise ConfigError(f"{file}: `{key}`: Expect {what}, got {json.dumps(value, default=str)}.")
    group, _, leaf = key.replace("_", "-").rpartition(".")
    prefix = f"--{group}." if group else "--"
    if isinstance(value, bool):
        args = [f"{prefix}{'' if value else 'no-'}{leaf}"]
    elif isinstance(value, list):
        args = [prefix + leaf, *map(str, value)]
    else:
        args = [f"{prefix}{leaf}={value}"]
    return _Setting(file=file, key=key, args=tuple(args))


def _flags(config: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the flags of a dataclass and their types, with those of its groups as dotted keys."""
    types = get_type_hints(config)
    for field in fields(config):
        if is_dataclass(group := types[field.name]):
            yield from _flags(group, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            yield prefix + field.name, types[field.name]


def _takes_several(hint: Any) -> bool:
    return get_origin(hint) is tuple or any(map(_takes_several, get_args(hint)))


def _one_of(file: str, name: str, got: str, known: Sequence[str]) -> str:
    if got in known:
        return got
    close = get_close_matches(got, known, n=1)
    hint = f" Did you mean `{close[0]}`?" if close else ""
    expected = "a flag" if name == "key" else f"one of {', '.join(known)} as `{name}`"
    raise ConfigError(f"{file}: Expect {expected}, got `{got}`.{hint}")
