"""Resolves the `problems` argument of an environment: a spec names a generator, a data set, a file, or a mixture.

| spec | problems |
|---|---|
| `products`, `arithmetic`, `mixed`, `multi_block`, `reasoning_gym`, `reasoning_gym:TASK` | generated |
| `still3`, `dapo`, `gsm8k` | the named data sets `DATA_SETS`, from the Hugging Face hub |
| `hub:OWNER/NAME` | any other data set on the hub |
| `benchmark:AIME24?folder=PATH` | a benchmark; the default folder is the environment variable CIR_BENCHMARKS |
| `PATH.jsonl`, `PATH.json`, `PATH.csv`, `PATH.parquet` | a file |
| `PATH` | a folder with `train` and `test` files of these formats |
| `dapo+still3+mixed` | the union of several sets, without repetitions |
| `dapo*3+mixed` | a weighted mixture: of every four problems in a row, three of the first set and one of the second |

Generators, data sets and folders have splits of their own. A single file is divided by a hash of the statements
(`splits`), unless all of it is asked for. Benchmarks have no splits.

Options follow a data set or a path like a query string, as in `hub:OWNER/NAME?statement=question&answer=gold`: the
names of its `Fields`; `revision` and `config` of a data set; `fields=dapo` for a local copy of a named data set. Write
a space as `%20` and a plus sign as `%2B`.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from cir_env.errors import OptionError, ProblemError, check_choice, check_number, did_you_mean, parse_spec
from cir_env.grading.answer_types import find_answer_type
from cir_env.problems import generators
from cir_env.problems.benchmarks import load_benchmark
from cir_env.problems.benchmarks.known import GSM8K_FIELDS
from cir_env.problems.families import GENERATORS
from cir_env.problems.files import READERS, SUFFIXES
from cir_env.problems.mixtures import mix, unite
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import (
    DEFAULT_SIZES,
    UNREADABLE,
    OnUnreadable,
    ProblemSet,
    check_split,
    warn_excluded,
)
from cir_env.problems.splits import TEST_SHARE, divide

_PART = re.compile(r"(?P<name>.*?)(?:\*(?P<weight>\d+))?", re.DOTALL)
Options = tuple[tuple[str, str], ...]

DATA_SETS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "still3": (
        "RUC-AIBOX/STILL-3-RL-90K",
        {
            "statement": "prompt.0.content",
            "answer": "reward_model.ground_truth",
            "after": "User:",
            "before": "Assistant:",
        },
    ),
    "dapo": (
        "BytedTsinghua-SIA/DAPO-Math-17k",
        {
            "statement": "prompt.0.content",
            "answer": "reward_model.ground_truth",
            "after": "is the answer to the problem.",
            "before": "Remember to put your answer on its own line",
        },
    ),
    "gsm8k": ("openai/gsm8k", {"config": "main"} | GSM8K_FIELDS),
}
"""Named data sets: their name on the hub, and their options. The first two wrap an instruction around the problem."""


Problems = ProblemSet | str | os.PathLike[str] | Iterable[Any]
"""What the argument `problems` may be: a problem set, a spec, a path, problems, or rows as of a file."""


def load_problems(
    spec: Problems,
    split: str | None = None,
    *,
    test_share: float = TEST_SHARE,
    answer_type: str | None = None,
    unreadable: OnUnreadable = "error",
) -> ProblemSet:
    """Load the problems that a spec names; the same arguments give the same object within a process.

    Args:
        spec: A problem set (returned as it is), a path, a string as in the table above, or a list or
            `datasets.Dataset` of problems or of rows with the fields of a file.
        split: "train" or "test"; problem sets, lists and benchmarks have no splits, and give all problems. By default
            all problems of a file, and the train split of anything else.
        test_share: Share of a single file that is its test split, from 0 to 1.
        answer_type: How to compare answers, for all problems; None: each problem has its own type.
        unreadable: "error" if a gold answer that is not of its type is an error; "exclude" to drop the problem, with a
            warning.

    Raises:
        OptionError: `test_share` is out of range, or `answer_type` or `unreadable` is unknown.
        ProblemError: Nothing has that name, it cannot be read, it is too small to be divided, or a gold answer is not
            of its type.

    >>> load_problems("products*3+arithmetic", "test").summary()
    "500 problems of 'products*3+arithmetic'; 375 of 375 of 'products/test'; 125 of 125 of 'arithmetic/test'"
    """
    if split is not None:
        check_split(split)
    if not 0 <= check_number("test_share", test_share) <= 1:
        raise OptionError(f"Expect `test_share` to be from 0 to 1, got {test_share}.")
    check_choice("unreadable", unreadable, ("error", "exclude"))
    if answer_type is not None:
        find_answer_type(answer_type)
    wanted = _Wanted(
        split=split or "train",
        test_share=None if split is None else test_share,
        answer_type=answer_type,
        unreadable=unreadable,
    )
    problems = spec if isinstance(spec, ProblemSet) else _load(spec, wanted)
    return problems if answer_type is None else with_answer_type(problems, answer_type, unreadable)


def _load(spec: object, wanted: "_Wanted") -> ProblemSet:
    if isinstance(spec, os.PathLike):
        return _load_path(os.fspath(spec), (), wanted)
    if not isinstance(spec, str):
        return _load_rows(spec, wanted)
    parts = _parts(spec)
    if any(weight is not None for _, weight in parts):
        return _load_weighted([(name, int(weight or 1)) for name, weight in parts], wanted, spec)
    if len(parts) == 1 or generators.is_name(spec):
        return _load_one(spec, wanted)
    return unite(tuple(_load_one(name, wanted) for name, _ in parts), spec)


def load_sets(
    names: Iterable[str],
    folder: str | os.PathLike[str] | None,
    *,
    own: tuple[str, str] | None = None,
    **arguments: Any,
) -> dict[str, ProblemSet]:
    """Load problem sets for an evaluation.

    Args:
        names: Names of benchmarks, and paths that end in `.jsonl`, `.json`, `.csv` or `.parquet`: all problems
            of these files.
        folder: Folder of the benchmarks, as for `load_benchmark`.
        own: Without any names, a spec as for `load_problems`, and which split of it is loaded.
        arguments: `test_share`, `answer_type` and `unreadable`, as for `load_problems`.

    Returns:
        The problem sets by name.

    Raises:
        OptionError, ProblemError: As for `load_problems`.
    """
    are_files = {name: parse_spec(name)[0].endswith(tuple(READERS)) for name in names}
    if not are_files and own is not None:
        spec, split = own
        return {spec: load_problems(spec, split, **arguments)}
    return {
        name: load_problems(name if is_file else load_benchmark(name, folder), **arguments)
        for name, is_file in are_files.items()
    }


def is_procedural(spec: object) -> bool:
    """Whether all problems that a spec names are generated.

    >>> is_procedural("products*3+mixed"), is_procedural("products+dapo")
    (True, False)
    """
    return isinstance(spec, str) and all(generators.is_name(name) for name, _ in _parts(spec))


def with_answer_type(problems: ProblemSet, answer_type: str, unreadable: OnUnreadable = "error") -> ProblemSet:
    """Return the problems with another answer type; the same arguments give the same object within a process.

    Raises:
        OptionError: The answer type is unknown.
        ProblemError: A gold answer is not of that type, unless `unreadable` is "exclude", or none is.

    >>> with_answer_type(ProblemSet.generate("products", size=1), "number?rel_tol=0.01")[0].answer_type
    'number?rel_tol=0.01'
    """
    find_answer_type(answer_type)
    return _with_answer_type(problems, answer_type, unreadable)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """Which problems of each source are wanted."""

    split: str
    """The split of sources that have splits of their own."""
    test_share: float | None
    """Share of a single file in its test split; None: all problems of a file are wanted."""
    answer_type: str | None
    """The answer type of all problems; None: each has its own."""
    unreadable: OnUnreadable
    """What to do about answers that are not of their type."""


def _parts(spec: str) -> list[tuple[str, str | None]]:
    """Split a mixture into its parts, each with its weight or None."""
    if os.path.exists(parse_spec(spec)[0]):  # a file name may contain "+" and "*"
        return [(spec, None)]
    return [(part["name"], part["weight"]) for text in spec.split("+") if (part := _PART.fullmatch(text))]


def _load_weighted(parts: Sequence[tuple[str, int]], wanted: _Wanted, name: str) -> ProblemSet:
    """Load a weighted mixture; a generator gives as many problems as the other sets allow for."""
    weights = tuple(weight for _, weight in parts)
    if min(weights) < 1:
        raise ProblemError(f"Expect weights of at least 1 in `problems`, got {name!r}.")
    found = {place: _load_one(part, wanted) for place, (part, _) in enumerate(parts) if not generators.is_name(part)}
    rounds = min((len(there) // weights[place] for place, there in found.items()), default=0)
    rounds = rounds or max(1, DEFAULT_SIZES[wanted.split] // sum(weights))  # `mix` reports a set that is too small
    sets = (
        found[place] if place in found else ProblemSet.generate(part, split=wanted.split, size=rounds * weight)
        for place, (part, weight) in enumerate(parts)
    )
    return mix(tuple(sets), weights, name)


def _load_one(spec: str, wanted: _Wanted) -> ProblemSet:
    if generators.is_name(spec):
        return ProblemSet.generate(spec, split=wanted.split)
    name, options = parse_spec(spec)
    kind, _, rest = name.partition(":")
    if kind == "benchmark":
        return _load_benchmark(rest, options)
    if name in DATA_SETS:
        kind, (rest, fields) = "hub", DATA_SETS[name]
        options = (*fields.items(), *options)
    if kind == "hub":
        return _load_hub(rest, wanted.split, options, wanted.answer_type, wanted.unreadable)
    return _load_path(name, options, wanted)


def _load_benchmark(name: str, options: Options) -> ProblemSet:
    given = dict(options)
    folder = given.pop("folder", None)
    if given:
        raise ProblemError(f"Expect only the option 'folder', 'benchmark:{name}?folder=PATH', got {sorted(given)}.")
    return load_benchmark(name, folder)


def _load_rows(rows: Any, wanted: _Wanted) -> ProblemSet:
    """Return the problems of a list, or of a `datasets.Dataset`, which is known by its `column_names`."""
    if isinstance(rows, Mapping) and wanted.split in rows:  # a `datasets.DatasetDict`
        rows = rows[wanted.split]
    if not isinstance(rows, list | tuple) and not (hasattr(rows, "column_names") and not isinstance(rows, Mapping)):
        raise ProblemError(
            "Expect `problems` to be a ProblemSet, a name, a path, a list of rows or a datasets.Dataset, got "
            f"{type(rows).__name__}."
        )
    if isinstance(rows, list | tuple) and any(isinstance(row, Problem) for row in rows):
        return ProblemSet(rows)
    return ProblemSet.from_rows(rows, answer_type=wanted.answer_type, unreadable=wanted.unreadable)


def _load_path(name: str, options: Options, wanted: _Wanted) -> ProblemSet:
    has_splits = os.path.isdir(name)
    path = _file_of_split(Path(name), wanted.split) if has_splits else Path(name)
    if path.suffix not in READERS or not os.path.isfile(path):
        raise ProblemError(
            f"Expect `problems` to be {generators.NAMES_IN_WORDS}, {', '.join(map(repr, DATA_SETS))}, "
            f"'hub:OWNER/NAME', 'benchmark:NAME', or the path of an existing {SUFFIXES} file, got "
            f"{name!r}.{did_you_mean(name, [*GENERATORS, *DATA_SETS])}"
        )
    stat = path.stat()
    changed = stat.st_mtime_ns, stat.st_size
    problems = _load_file(path.resolve(), options, changed, wanted.answer_type, wanted.unreadable)
    return problems if has_splits or wanted.test_share is None else divide(problems, wanted.split, wanted.test_share)


def _file_of_split(folder: Path, split: str) -> Path:
    for suffix in READERS:
        if (path := folder / f"{split}{suffix}").is_file():
            return path
    raise ProblemError(f"Expect a file {split}{SUFFIXES} in the folder {str(folder)!r}, got none.")


@lru_cache(maxsize=32)
def _load_file(
    path: Path, options: Options, changed: tuple[int, int], answer_type: str | None, unreadable: OnUnreadable
) -> ProblemSet:
    """Read a file once per process; a file that changed is read again."""
    fields = dict(options)
    if (data_set := fields.pop("fields", None)) is not None:
        if data_set not in DATA_SETS:
            raise ProblemError(f"Expect `fields` to be one of {', '.join(map(repr, DATA_SETS))}, got {data_set!r}.")
        own = {name: value for name, value in DATA_SETS[data_set][1].items() if name != "config"}
        fields = {**own, **fields}
    return ProblemSet.from_file(path, fields=fields, answer_type=answer_type, unreadable=unreadable)


@lru_cache(maxsize=32)
def _load_hub(name: str, split: str, options: Options, answer_type: str | None, unreadable: OnUnreadable) -> ProblemSet:
    fields = dict(options)
    config, revision = fields.pop("config", None), fields.pop("revision", None)
    return ProblemSet.from_hub(
        name,
        split=split,
        config=config,
        revision=revision,
        fields=fields,
        answer_type=answer_type,
        unreadable=unreadable,
    )


@lru_cache(maxsize=32)
def _with_answer_type(problems: ProblemSet, answer_type: str, unreadable: OnUnreadable) -> ProblemSet:
    if all(problem.answer_type == answer_type for problem in problems):
        return problems
    kept: list[Problem] = []
    excluded: list[str] = []
    for problem in problems:
        try:
            kept.append(replace(problem, answer_type=answer_type))
        except ProblemError as error:
            if unreadable == "error":
                raise
            excluded.append(str(error))
    warn_excluded(excluded, problems.name)
    typed = ProblemSet(
        kept,
        name=problems.name,
        skipped=problems.skipped + len(excluded),
        notes=(*problems.notes, *[f"{UNREADABLE}: {len(excluded):,}"] * bool(excluded)),
    )
    typed._recipe = (with_answer_type, (problems, answer_type, unreadable))
    return typed
