"""Reads the parts of problems from rows of files and data sets."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from cir_env.errors import OptionError, ProblemError
from cir_env.grading.answer_types import find_answer_type
from cir_env.grading.golds import check_gold
from cir_env.parsing import last_boxed
from cir_env.problems.problem import NO_FILES, Files, Metadata, block_limits

MAX_METADATA_CHARS: Final = 10_000
"""Maximum size of a field in the metadata of a problem, in characters of JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Which fields of a row hold the parts of a problem.

    A nested field is named by its path: ``prompt.0.content`` is the content of the first message of the prompt.
    """

    statement: str = "problem"
    """The question: non-blank text."""
    answer: str = "answer"
    """The gold answer: non-blank text, or a number."""
    id: str = "id"
    """Optional in a row; the default is the row number."""
    subject: str = "subject"
    """Optional in a row."""
    level: str = "level"
    """Optional in a row."""
    answer_type: str = "answer_type"
    """Optional in a row. If a data set uses this name for something else, name a field that no row has."""
    files: str = "files"
    """Optional in a row: an object of file names and texts, or its JSON. Not part of the metadata."""
    time_limit_s: str = "time_limit_s"
    """Optional in a row: a number."""
    memory_limit_mb: str = "memory_limit_mb"
    """Optional in a row: a whole number."""
    boxed: bool = False
    r"""Whether the answer is the last ``\boxed{}`` in its field, as in a worked solution."""
    answer_after: str = ""
    """The answer starts after the last occurrence of this text in its field, such as GSM8K's ``####``."""
    after: str = ""
    """The question starts after the first occurrence of this text in its field, such as an instruction."""
    before: str = ""
    """The question ends before the last occurrence of this text."""
    metadata: str = "*"
    """Which other fields are kept as the metadata of a problem: names separated by commas, or ``*`` for all."""

    @classmethod
    def of(cls, value: "Fields | Mapping[str, Any] | None") -> "Fields":
        """Convert what users pass: None, a mapping such as ``{"statement": "question"}``, or `Fields`.

        Raises:
            ProblemError: The mapping has an unknown key, or `boxed` is not a boolean.
        """
        if value is None or isinstance(value, Fields):
            return value or cls()
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(value) - set(known)):
            raise ProblemError(f"Expect the keys of `fields` to be among {known}, got {unknown}.")
        boxed = value.get("boxed", False)
        if boxed not in (True, False, "true", "false"):
            raise ProblemError(f"Expect `boxed` to be true or false, got {boxed!r}.")
        return cls(**{**value, "boxed": boxed in (True, "true")})


class TextRow(dict[str, str]):
    """A row whose values are all text, such as one of CSV."""


class BadRowError(Exception):
    """A row is not a valid problem."""


class UnreadableAnswerError(BadRowError):
    """The gold answer of a row is not of its answer type."""


def read_row(
    row: Any,
    names: Fields,
    *,
    source: str,
    default_id: str,
    answer_type: str | None = None,
    check_answer: bool = True,
) -> dict[str, Any]:
    """Return the arguments of a `Problem` that a row holds, without its metadata.

    Args:
        row: The row, or the error from `decode_row`, which is raised here.
        names: The names of its fields.
        source: The source of the problem.
        default_id: The id if the row has none.
        answer_type: The answer type; None: that of the row.
        check_answer: Whether to check that the answer fits its answer type.

    Raises:
        UnreadableAnswerError: The answer does not fit its answer type.
        BadRowError: The row is not an object, lacks a field, has a field of the wrong type, an unknown answer type, or
            files or limits that are not valid.
    """
    if isinstance(row, BadRowError):
        raise row
    if not isinstance(row, Mapping):
        raise BadRowError(f"Expect a JSON object, got {type(row).__name__}.")
    answer = _text(row, names.answer, role="answer")
    if names.boxed:
        boxed = last_boxed(answer)
        if boxed is None or not boxed.strip():
            raise BadRowError(f"Expect an answer in \\boxed{{}} in field {names.answer!r}, got none.")
        answer = boxed.strip()
    if names.answer_after:
        answer = _answer_after(answer, names)
    own_type = "" if answer_type is not None else _text(row, names.answer_type, role="answer_type", default="")
    if ":" in own_type:  # a data set must not choose which function is called on this machine
        raise BadRowError(
            f"Expect the name of a type or a verifier in field {names.answer_type!r}, got {own_type!r}. Pass "
            "'module:function' as `answer_type` to the environment."
        )
    answer_type = answer_type or own_type or "math"
    origin = f" The type comes from field {names.answer_type!r}." if own_type else ""
    try:
        find_answer_type(answer_type)
    except OptionError as error:
        raise BadRowError(f"{error}{origin}") from None
    try:
        if check_answer:
            check_gold(answer_type, answer)
    except OptionError as error:
        raise UnreadableAnswerError(f"{error}{origin}") from None
    return {
        "id": _text(row, names.id, role="id", default=default_id),
        "statement": _unwrap(_text(row, names.statement, role="statement"), names),
        "answer": answer,
        "source": source,
        "subject": _text(row, names.subject, role="subject", default=""),
        "level": _text(row, names.level, role="level", default=""),
        "answer_type": answer_type,
        "files": _files(row, names.files),
        **_limits(row, names),
    }


def metadata_of(row: Mapping[str, Any], names: Fields, dropped: Counter[str]) -> Metadata:
    """Return the metadata of a problem: the fields of its row but those with the statement, the answer and the files.

    Args:
        row: A valid row.
        names: The names of its fields.
        dropped: Counts by name the values that are left out: those that are not JSON, and those with more than
            `MAX_METADATA_CHARS` characters of it.
    """
    used = {name if name in row else name.partition(".")[0] for name in (names.statement, names.answer, names.files)}
    fields = {name: value for name, value in row.items() if name not in used}
    if names.metadata != "*":
        fields = {name: fields[name] for name in fields.keys() & names.metadata.split(",")}
    metadata = _as_small(fields)
    if metadata is None:
        small = {name: value for name, value in fields.items() if _as_small({name: value}) is not None}
        dropped.update(fields.keys() - small)
        metadata = Metadata(small)
    return metadata


def _as_small(fields: Mapping[str, Any]) -> Metadata | None:
    """Return fields as metadata; None if they are too large or not JSON, such as an image in Parquet."""
    try:
        metadata = Metadata(fields)
    except (TypeError, ValueError):
        return None
    return metadata if metadata.n_chars <= MAX_METADATA_CHARS else None


def _answer_after(text: str, names: Fields) -> str:
    """Return what follows a marker in a worked solution."""
    _, found, answer = text.rpartition(names.answer_after)
    if not found or not answer.strip():
        raise BadRowError(f"Expect an answer after {names.answer_after!r} in field {names.answer!r}, got none.")
    return answer.strip()


def _unwrap(text: str, names: Fields) -> str:
    """Strip the text around a question."""
    begin = text.find(names.after)
    end = text.rfind(names.before) if names.before else len(text)
    for marker, place in ((names.after, begin), (names.before, end)):
        if place < 0:
            raise BadRowError(f"Expect {marker!r} in field {names.statement!r}, got {text[:60]!r}.")
    question = text[begin + len(names.after) : end].strip()
    if not question:
        raise BadRowError(f"Expect a question between {names.after!r} and {names.before!r}, got none in {text[:60]!r}.")
    return question


def find_field(row: Any, path: str) -> Any:
    """Return the field of a row that a path names, or None; a field whose name is the whole path takes precedence.

    >>> find_field({"prompt": [{"content": "1 + 1?"}]}, "prompt.0.content"), find_field({"a.b": 1}, "a.b")
    ('1 + 1?', 1)
    >>> find_field([], "0")
    """
    if isinstance(row, Mapping) and path in row:
        return row[path]
    name, dot, rest = path.partition(".")
    if isinstance(row, Mapping):
        value = row.get(name)
    elif isinstance(row, list) and name.isdecimal() and int(name) < len(row):
        value = row[int(name)]
    else:
        return None
    return find_field(value, rest) if dot else value


def _files(row: Mapping[str, Any], name: str) -> Files:
    value = find_field(row, name)
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRowError(
                f"Expect JSON in field {name!r}, got {first_line(error)}.{_other_field('files')}"
            ) from None
    if isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        value = dict(value)  # a map of Arrow
    if isinstance(
        value, Mapping
    ):  # a struct of Arrow has the names of all rows, with null where a row has no such file
        value = {file: text for file, text in value.items() if text is not None}
    try:
        return Files(value) if value else NO_FILES
    except OptionError as error:
        raise BadRowError(f"{error} They come from field {name!r}.{_other_field('files')}") from None


def _limits(row: Mapping[str, Any], names: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for role in ("time_limit_s", "memory_limit_mb"):
        name = getattr(names, role)
        value = find_field(row, name)
        if isinstance(row, TextRow) and isinstance(value, str):
            value = _number(value)
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise BadRowError(f"Expect field {name!r} to be a number, got {type(value).__name__}.{_other_field(role)}")
        if role == "memory_limit_mb" and isinstance(value, float) and value.is_integer():
            value = int(value)  # a column of a table that has no integers beside null
        found[role] = value
    try:
        block_limits(**found)
    except OptionError as error:
        raise BadRowError(str(error)) from None
    return found


def _number(text: str) -> float | str | None:
    """Return the number that a text is; None if it is blank, and the text if it is something else.

    >>> _number("2.5"), _number(" "), _number("1e3"), _number("two")
    (2.5, None, 1000.0, 'two')
    """
    try:
        return float(text) if text.strip() else None
    except ValueError:
        return text


def _other_field(role: str) -> str:
    return f" If it is meant for something else, set `?{role}=` to a field that no row has."


def _text(row: Mapping[str, Any], name: str, *, role: str, default: str | None = None) -> str:
    value = find_field(row, name)
    if value is None:
        if default is not None:
            return default
        got = "null" if name in row else f"a row with {sorted(row)}"
        hint = f"name the right field with `?{role}=FIELD` after the file name or with fields={{{role!r}: ...}}"
        raise BadRowError(f"Expect the {role} in field {name!r}, got {got}; {hint}.")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRowError(f"Expect field {name!r} to be text or a number, got {type(value).__name__}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRowError(f"Expect field {name!r} to be a finite number, got {value}.")
    text = str(value).strip()
    if not text and default is None:
        raise BadRowError(f"Expect field {name!r} to be non-blank.")
    return text or (default or "")


def decode_row(line: bytes) -> Any:
    """Decode one line of JSON; a malformed line gives an error for `read_row` to raise."""
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return BadRowError(f"Expect UTF-8, got {error.reason}.")
    except (ValueError, RecursionError) as error:
        return BadRowError(f"Expect a JSON object, got {first_line(error)}.")
    return check_unicode(row) if b"\\u" in line else row  # only an escape can be half of a pair


def check_unicode(row: Any) -> Any:
    """Return a row; one that holds a lone surrogate gives an error for `read_row` to raise."""
    if isinstance(row, Mapping):
        for field in row.items():
            try:
                json.dumps(field, ensure_ascii=False, default=str).encode()
            except UnicodeEncodeError as error:
                lone = error.object[error.start]
                return BadRowError(f"Expect field {field[0]!r} to be Unicode text, got the lone surrogate {lone!r}.")
    return row


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
