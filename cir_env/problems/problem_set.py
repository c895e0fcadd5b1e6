"""`ProblemSet`, an immutable set of problems, and its constructors: files, data sets, generators."""

import hashlib
import logging
import operator
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, Self, overload

from cir_env.errors import OptionError, ProblemError, check_choice
from cir_env.grading.golds import check_gold
from cir_env.problems import generators
from cir_env.problems.files import PlacedRow, hub_rows, read_rows
from cir_env.problems.problem import Problem
from cir_env.problems.rows import (
    BadRowError,
    Fields,
    UnreadableAnswerError,
    check_unicode,
    metadata_of,
    read_row,
)

_LOG: Final = logging.getLogger("cir_env")

OnBadRow = Literal["raise", "skip"]
OnUnreadable = Literal["error", "exclude"]
DEFAULT_SIZES = {"train": 10_000, "test": 500}
"""How many problems to generate for each split when no size is given."""


class ProblemSet(Sequence[Problem]):
    """An immutable sequence of problems with distinct ids.

    Slices are problem sets too. Copies share the set. A generated set is pickled as its recipe (about a hundred bytes),
    any other as columns of text.

    Args:
        problems: At least one problem, with distinct ids.
        name: Name of the set in errors and in ``repr``.
        skipped: How many bad rows were dropped while reading.
        notes: How the set was processed, in words.

    Raises:
        ProblemError: The set is empty, contains something other than problems, or repeats an id.
    """

    __slots__ = ("_hash", "_name", "_notes", "_problems", "_recipe", "_skipped")

    def __init__(
        self, problems: Iterable[Problem], *, name: str = "problems", skipped: int = 0, notes: Iterable[str] = ()
    ) -> None:
        self._problems = tuple(problems)
        self._name = name
        self._skipped = skipped
        self._notes = tuple(notes)
        self._hash: int | None = None
        self._recipe: tuple[Callable[..., ProblemSet], tuple[Any, ...]] | None = None
        if not self._problems:
            bad = f" ({skipped} bad rows were skipped)" if skipped else ""
            raise ProblemError(f"Expect at least one problem in {name!r}, got none{bad}.")
        seen: set[str] = set()
        for problem in self._problems:
            if not isinstance(problem, Problem):
                hint = " Convert rows with `ProblemSet.from_rows`." * isinstance(problem, Mapping)
                raise ProblemError(f"Expect only `Problem` in {name!r}, got {type(problem).__name__}.{hint}")
            if problem.id in seen:
                raise ProblemError(f"Expect distinct ids in {name!r}, got {problem.id!r} twice.")
            seen.add(problem.id)

    @property
    def name(self) -> str:
        """Name of the set in errors and in ``repr``."""
        return self._name

    @property
    def skipped(self) -> int:
        """How many bad rows were dropped while reading."""
        return self._skipped

    @property
    def notes(self) -> tuple[str, ...]:
        """How the set was processed, in words: what was dropped and why, and what it is a mixture of."""
        return self._notes

    def summary(self) -> str:
        """Return one line that describes the set and its notes.

        >>> ProblemSet.generate("products", size=5).summary()
        "5 problems of 'products/train'"
        """
        return f"{len(self):,} problems of {self._name!r}" + "".join(f"; {note}" for note in self._notes)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> "ProblemSet": ...
    def __getitem__(self, index: int | slice) -> "Problem | ProblemSet":
        if isinstance(index, slice):
            return ProblemSet(self._problems[index], name=self._name)
        return self._problems[operator.index(index)]

    def __len__(self) -> int:
        return len(self._problems)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._problems)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProblemSet) and self._problems == other._problems

    def __hash__(self) -> int:
        if self._hash is None:  # computed once: every environment uses the set as a cache key
            self._hash = hash(self._problems)
        return self._hash

    def __repr__(self) -> str:
        return f"ProblemSet({self._name!r}, {len(self)} problems)"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._recipe is not None:
            return self._recipe
        columns = [tuple(getattr(p, f.name) for p in self._problems) for f in fields(Problem)]
        return _from_columns, (columns, self._name, self._skipped, self._notes)

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Any],
        *,
        fields: Fields | Mapping[str, Any] | None = None,
        on_bad_row: OnBadRow = "raise",
        answer_type: str | None = None,
        unreadable: OnUnreadable = "error",
        name: str = "problems",
    ) -> "ProblemSet":
        """Convert rows: dicts as in a file, such as those of a list or of a `datasets.Dataset`.

        Exact repetitions of an earlier problem are dropped; `notes` says how many.

        Args:
            rows: The rows.
            fields: Which fields hold the parts of a problem.
            on_bad_row: "raise" reports the first bad row by its number; "skip" drops bad rows and counts them in
                `skipped`.
            answer_type: The answer type of all problems; None: that of each row.
            unreadable: What to do about an answer that is not of its type: "error" makes it a bad row; "exclude" drops
                the row, and logs a warning with its place and the reason.
            name: Name of the set and source of its problems.

        Raises:
            ProblemError: A row is bad, or there is no problem.

        >>> ProblemSet.from_rows([{"question": "What is 1 + 1?", "gold": 2}], fields={"statement": "question", \
"answer": "gold"})[0].answer
        '2'
        """
        return make_set(
            ((f"{name}, row {n}", check_unicode(row)) for n, row in enumerate(rows, 1)),
            name=name,
            fields=fields,
            on_bad_row=on_bad_row,
            answer_type=answer_type,
            unreadable=unreadable,
        )

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        fields: Fields | Mapping[str, Any] | None = None,
        on_bad_row: OnBadRow = "raise",
        answer_type: str | None = None,
        unreadable: OnUnreadable = "error",
        name: str | None = None,
    ) -> "ProblemSet":
        """Read a file in the format of its suffix: .jsonl, .json (an array), .csv or .parquet (extra ``parquet``).

        Args:
            path: The file; text is UTF-8.
            fields: As in `from_rows`; a CSV file names its fields in the first line.
            on_bad_row: As in `from_rows`; a bad row is reported by file and line.
            answer_type: As in `from_rows`.
            unreadable: As in `from_rows`.
            name: Name of the set and source of its problems; by default the stem of the file.

        Raises:
            ProblemError: The file has another suffix, cannot be read, has a bad row, or has no problem.
        """
        path = Path(path)
        return make_set(
            read_rows(path),
            name=name or path.stem,
            fields=fields,
            on_bad_row=on_bad_row,
            answer_type=answer_type,
            unreadable=unreadable,
        )

    from_jsonl = from_parquet = from_file

    @classmethod
    def from_hub(
        cls,
        name: str,
        *,
        split: str = "train",
        config: str | None = None,
        revision: str | None = None,
        fields: Fields | Mapping[str, Any] | None = None,
        on_bad_row: OnBadRow = "raise",
        answer_type: str | None = None,
        unreadable: OnUnreadable = "error",
    ) -> "ProblemSet":
        """Load a data set from the Hugging Face hub (needs the extra ``hub``, and a network or a filled cache).

        Args:
            name: The data set, ``owner/name``.
            split: Name of the split in the data set.
            config: Configuration of the data set, if it has several.
            revision: Commit to pin, for reproducibility.
            fields: Which fields hold the parts of a problem.
            on_bad_row: As in `from_rows`.
            answer_type: As in `from_rows`.
            unreadable: As in `from_rows`.

        Raises:
            ProblemError: The library is missing, the data set cannot be loaded, or a row is bad.
        """
        rows = hub_rows(name, split=split, config=config, revision=revision)
        return make_set(
            rows, name=name, fields=fields, on_bad_row=on_bad_row, answer_type=answer_type, unreadable=unreadable
        )

    @classmethod
    def generate(cls, name: str, *, split: str = "train", seed: int = 0, size: int | None = None) -> "ProblemSet":
        """Generate problems; the same arguments give the same problems in every process.

        Args:
            name: "products", "arithmetic", "mixed", "multi_block", "multi_block:trails" (or another of its
                families), "reasoning_gym", "reasoning_gym:TASK", or several joined by "+", as in "mixed+reasoning_gym".
            split: "train" or "test". The splits never overlap, for any seeds and sizes.
            seed: Any integer.
            size: Number of problems; by default 10,000 for "train" and 500 for "test".

        Raises:
            ProblemError: An argument is not valid, or the generator has fewer problems.

        >>> ProblemSet.generate("products", split="test", seed=1, size=200)
        ProblemSet('products/test', 200 problems)
        """
        check_split(split)
        size = DEFAULT_SIZES[split] if size is None else size
        if not isinstance(size, int) or size < 1:
            raise ProblemError(f"Expect `size` to be a positive integer, got {size!r}.")
        if not isinstance(seed, int):
            raise ProblemError(f"Expect `seed` to be an integer, got {seed!r}.")
        return _generate(name, split, seed, size)


def check_split(split: str) -> None:
    """Check that `split` is "train" or "test".

    Raises:
        ProblemError: It is not.
    """
    if split not in generators.SPLITS:
        raise ProblemError(f"Expect `split` to be 'train' or 'test', got {split!r}.")


@lru_cache(maxsize=32)
def _generate(name: str, split: str, seed: int, size: int) -> ProblemSet:
    problems = [
        Problem(
            id=f"{name}-{hashlib.sha256(draft.key.encode()).hexdigest()[:16]}",
            statement=draft.statement,
            answer=draft.answer,
            source=name,
            subject=draft.subject,
            level=draft.level,
            files=draft.files,
        )
        for draft in generators.draw(name, split, seed, size)
    ]
    made = ProblemSet(problems, name=f"{name}/{split}")
    if "reasoning_gym" not in name:
        made._recipe = (_generate, (name, split, seed, size))
    return made


def _from_columns(columns: Sequence[Sequence[Any]], name: str, skipped: int, notes: tuple[str, ...]) -> ProblemSet:
    names = [f.name for f in fields(Problem)]
    problems = (Problem(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))
    return ProblemSet(problems, name=name, skipped=skipped, notes=notes)


def make_set(
    rows: Iterable[PlacedRow],
    *,
    name: str,
    fields: Fields | Mapping[str, Any] | None = None,
    on_bad_row: OnBadRow = "raise",
    answer_type: str | None = None,
    unreadable: OnUnreadable = "error",
    check_golds: bool = True,
) -> ProblemSet:
    """Convert rows with their places; arguments and errors as for `ProblemSet.from_rows`.

    Args:
        rows: The rows.
        name: Name of the set.
        fields: Which fields hold the parts of a problem.
        on_bad_row: What to do about a bad row.
        answer_type: The answer type of all problems.
        unreadable: What to do about an answer that is not of its type.
        check_golds: Whether to check that answers are of their type; False if that is known.
    """
    if on_bad_row not in ("raise", "skip"):
        raise ProblemError(f"Expect `on_bad_row` to be 'raise' or 'skip', got {on_bad_row!r}.")
    check_choice("unreadable", unreadable, ("error", "exclude"))
    names = Fields.of(fields)
    problems: dict[tuple[object, ...], Problem] = {}
    ids: set[str] = set()
    skipped = repeated = 0
    excluded: list[str] = []
    dropped: Counter[str] = Counter()
    for number, (place, row) in enumerate(rows, 1):
        try:
            default_id = f"{name}-{number}"
            parts = read_row(
                row, names, source=name, default_id=default_id, answer_type=answer_type, check_answer=check_golds
            )
            content = parts["statement"], parts["answer"], parts["answer_type"], parts["files"]
            if content in problems:
                repeated += 1
                continue
            if parts["id"] in ids:
                raise BadRowError(f"Expect distinct ids, got {parts['id']!r} again.")
        except BadRowError as error:
            is_unreadable = isinstance(error, UnreadableAnswerError)
            if is_unreadable and unreadable == "exclude":
                excluded.append(f"{place}: {error}")
            elif on_bad_row == "raise":
                hint = " Correct it, or drop such rows: set `unreadable` to 'exclude'." if is_unreadable else ""
                raise ProblemError(f"{place}: {error}{hint}") from None
            else:
                skipped += 1
        else:
            problems[content] = Problem(**parts, metadata=metadata_of(row, names, dropped))
            ids.add(parts["id"])
    warn_excluded(excluded, name)
    counts = {
        "exact repetitions dropped": repeated,
        "bad rows dropped": skipped,
        UNREADABLE: len(excluded),
        "questions repeated with another answer": len(problems)
        - len({(problem.statement, problem.files) for problem in problems.values()}),
    }
    counts |= {f"values of {name!r} missing in the metadata": count for name, count in sorted(dropped.items())}
    notes = [f"{what}: {count:,}" for what, count in counts.items() if count]
    return ProblemSet(problems.values(), name=name, skipped=skipped + len(excluded), notes=notes)


UNREADABLE: Final = "unreadable answers excluded"
_MAX_NAMED: Final = 20


def exclude_unreadable(problems: ProblemSet) -> ProblemSet:
    """Drop problems whose answers are not of their type, with a warning that names them.

    Raises:
        ProblemError: No problem is left.
    """
    kept: list[Problem] = []
    excluded: list[str] = []
    for problem in problems:
        try:
            check_gold(problem.answer_type, problem.answer)
        except OptionError as error:
            excluded.append(f"Problem {problem.id!r}: {error}")
        else:
            kept.append(problem)
    warn_excluded(excluded, problems.name)
    notes = (*problems.notes, *[f"{UNREADABLE}: {len(excluded):,}"] * bool(excluded))
    return ProblemSet(kept, name=problems.name, skipped=problems.skipped + len(excluded), notes=notes)


def warn_excluded(excluded: Sequence[str], name: str) -> None:
    """Log a warning about problems whose answers cannot be read, if there are any.

    Args:
        excluded: For each problem its place and the reason.
        name: Name of the problem set.
    """
    if excluded:
        more = [f"... and {len(excluded) - _MAX_NAMED:,} more"] * (len(excluded) > _MAX_NAMED)
        listed = "\n  ".join([*excluded[:_MAX_NAMED], *more])
        _LOG.warning("Excluding %d problems of %r, whose answers cannot be read:\n  %s", len(excluded), name, listed)
