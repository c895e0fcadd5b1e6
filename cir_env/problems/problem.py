"""`Problem`, one question and its answer, and its `Metadata` and `Files`."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from cir_env.errors import OptionError, ProblemError
from cir_env.grading.golds import check_gold
from cir_env.sandbox.contract import Limits, encode_files

_encode: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False, sort_keys=True).encode


class Metadata(Mapping[str, Any]):
    """An immutable JSON object; ``dict(metadata)`` is a copy of it.

    It is not a `dict`, since Gymnasium's vector environments would merge dicts of different problems into arrays of
    one type per field. Each access decodes a new value, so that no two users share one.

    Raises:
        TypeError, ValueError: A value is not JSON.

    >>> tests = Metadata({"tests": [1, 2]})
    >>> tests["tests"].append(3)
    >>> tests, tests == {"tests": [1, 2]}
    (Metadata({'tests': [1, 2]}), True)
    """

    __slots__ = ("_json",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._json = _encode(dict(values)) if values else "{}"

    @property
    def n_chars(self) -> int:
        """Number of characters of the JSON."""
        return len(self._json)

    def _decoded(self) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(self._json)
        return decoded

    def __getitem__(self, name: str) -> Any:
        return self._decoded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    def __len__(self) -> int:
        return len(self._decoded())

    def __bool__(self) -> bool:
        return self._json != "{}"

    def __eq__(self, other: object) -> bool:
        return self._json == other._json if isinstance(other, Metadata) else self._decoded() == other

    def __hash__(self) -> int:
        return hash(self._json)

    def __repr__(self) -> str:
        return f"Metadata({self._decoded()})"


_NO_METADATA: Final = Metadata({})


class Files(Mapping[str, str]):
    """The texts of files by name, immutable and sorted by name.

    Raises:
        OptionError: A name or a text is not valid; see `cir_env.sandbox.contract.encode_files`.

    >>> list(Files({"b.txt": "", "a.csv": "x,y"}))
    ['a.csv', 'b.txt']
    """

    __slots__ = ("_texts",)

    def __init__(self, texts: Mapping[str, str]) -> None:
        encode_files(texts)
        self._texts = dict(sorted(texts.items()))

    def __getitem__(self, name: str) -> str:
        return self._texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __hash__(self) -> int:
        return hash(tuple(self._texts.items()))

    def __repr__(self) -> str:
        return f"Files({self._texts})"


NO_FILES: Final = Files({})


_DEFAULT_LIMITS: Final = Limits()
_WALL_PER_CPU_SECOND: Final = 12.0


def block_limits(time_limit_s: float | None, memory_limit_mb: int | None, default: Limits = _DEFAULT_LIMITS) -> Limits:
    """Return the limits of a block, with the default for those that are None.

    Raises:
        OptionError: A limit is out of range.

    >>> block_limits(10.0, None).wall_limit_s
    120.0
    """
    given: dict[str, Any] = {}
    if time_limit_s is not None:
        wall_limit_s = max(_DEFAULT_LIMITS.wall_limit_s, _WALL_PER_CPU_SECOND * time_limit_s)
        given = {"time_limit_s": time_limit_s, "wall_limit_s": wall_limit_s}
    if memory_limit_mb is not None:
        given["memory_limit_mb"] = memory_limit_mb
    return replace(default, **given) if given else default


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question with one right answer.

    Raises:
        ProblemError: The answer type is unknown, the answer is not of that type, the metadata is not JSON, or the
            files or limits are not valid.
    """

    id: str
    """Unique within its set. Generated problems with the same operands have the same id."""
    statement: str
    """The question, as the policy reads it."""
    answer: str
    r"""The gold answer, LaTeX or plain text, without ``\boxed{}`` or dollar signs."""
    source: str = ""
    """Where it comes from: the stem of a file, or the name of a data set or a generator."""
    subject: str = ""
    """Its field, such as "algebra"; empty when unknown."""
    level: str = ""
    """Its difficulty, such as "3" or "Level 3", higher is harder; empty when unknown."""
    answer_type: str = "math"
    """How to compare answers with the gold answer, such as "number?rel_tol=0.01" (`cir_env.grading.answer_types`)."""

    metadata: Mapping[str, Any] = _NO_METADATA
    """Anything else about it, such as the other fields of its row: a JSON object, converted to `Metadata`."""
    files: Mapping[str, str] = NO_FILES
    """Texts by file name that its blocks find in their working directory; converted to `Files`."""
    time_limit_s: float | None = None
    """CPU time per block in seconds; None: that of the environment."""
    memory_limit_mb: int | None = None
    """Memory per block in MB; None: that of the environment."""

    def __post_init__(self) -> None:
        if not isinstance(self.metadata, Metadata):
            try:
                metadata = Metadata(self.metadata)
            except (TypeError, ValueError) as error:
                raise ProblemError(f"Problem {self.id!r}: Expect `metadata` as a JSON object, got: {error}.") from None
            object.__setattr__(self, "metadata", metadata)
        try:
            if not isinstance(self.files, Files):
                object.__setattr__(self, "files", Files(self.files))
            block_limits(self.time_limit_s, self.memory_limit_mb)
            if self.answer_type != "math":
                check_gold(self.answer_type, self.answer)
        except OptionError as error:
            raise ProblemError(f"Problem {self.id!r}: {error}") from None
