"""How a row of a file or data set becomes a problem."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from cir_env.errors import ProblemError
from cir_env.parsing import last_boxed
from cir_env.problems.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The names that a file or data set gives to the parts of a problem.

    What lies deeper in a row is named by its path: ``prompt.0.content`` is the content of the prompt's first message.
    """

    statement: str = "problem"
    """The question: text that is not blank."""
    answer: str = "answer"
    """The gold answer: text that is not blank, or a number."""
    id: str = "id"
    """Optional in a row; without it the row's number counts."""
    subject: str = "subject"
    """Optional in a row."""
    level: str = "level"
    """Optional in a row."""
    answer_type: str = "answer_type"
    """Optional in a row; where a data set means something else by it, name a field that no row has."""
    boxed: bool = False
    r"""Whether the answer is the last ``\boxed{}`` of its field, as in a worked solution."""
    after: str = ""
    """The question begins behind the first occurrence of this text in its field, as behind an instruction."""
    before: str = ""
    """The question ends before the last occurrence of this text."""

    @classmethod
    def of(cls, value: "Fields | Mapping[str, Any] | None") -> "Fields":
        """Accept what users write: nothing, a mapping such as ``{"statement": "question"}``, or `Fields`."""
        if value is None or isinstance(value, Fields):
            return value or cls()
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(value) - set(known)):
            raise ProblemError(f"Expect `fields` to map some of {known} to names, got {unknown}.")
        boxed = value.get("boxed", False)
        if boxed not in (True, False, "true", "false"):
            raise ProblemError(f"Expect `boxed` to be true or false, got {boxed!r}.")
        return cls(**{**value, "boxed": boxed in (True, "true")})


class BadRowError(Exception):
    """What was expected of a row and what came."""


def problem_from_row(row: Any, names: Fields, *, source: str, default_id: str) -> Problem:
    """Build a problem from a row.

    Args:
        row: The row; or the error that reading it gave, which is then raised here.
        names: The names of its fields.
        source: Goes into the problem.
        default_id: The id of a row that has none.

    Raises:
        BadRowError: The row is no object, lacks a part, has one of the wrong type, or an answer that is not of its
            answer type.
    """
    if isinstance(row, BadRowError):
        raise row
    if not isinstance(row, Mapping):
        raise BadRowError(f"Expect a JSON object, got {type(row).__name__}.")
    answer = _text(row, names.answer, role="answer")
    if names.boxed:
        boxed = last_boxed(answer)
        if boxed is None or not boxed.strip():
            raise BadRowError(f"Expect an answer within \\boxed{{}} in field {names.answer!r}, got none.")
        answer = boxed.strip()
    answer_type = _text(row, names.answer_type, role="answer_type", default="math")
    if ":" in answer_type:  # who writes a data set does not choose which function of this machine is called
        raise BadRowError(
            f"Expect a type's or a verifier's name in field {names.answer_type!r}, got {answer_type!r}. Pass "
            "'module:function' as `answer_type` to the environment."
        )
    try:
        return Problem(
            id=_text(row, names.id, role="id", default=default_id),
            statement=_unwrap(_text(row, names.statement, role="statement"), names),
            answer=answer,
            source=source,
            subject=_text(row, names.subject, role="subject", default=""),
            level=_text(row, names.level, role="level", default=""),
            answer_type=answer_type,
        )
    except ProblemError as error:
        raise BadRowError(f"{error} The type stands in field {names.answer_type!r}.") from None


def _unwrap(text: str, names: Fields) -> str:
    """Cut off what stands around a question."""
    begin = text.find(names.after)
    end = text.rfind(names.before) if names.before else len(text)
    for marker, place in ((names.after, begin), (names.before, end)):
        if place < 0:
            raise BadRowError(f"Expect {marker!r} in field {names.statement!r}, got {text[:60]!r}.")
    question = text[begin + len(names.after) : end].strip()
    if not question:
        raise BadRowError(f"Expect a question between {names.after!r} and {names.before!r}, got none in {text[:60]!r}.")
    return question


def _find(row: Any, path: str) -> Any:
    """Follow a path into a row; a field that is itself called by the whole path comes first.

    >>> _find({"prompt": [{"content": "1 + 1?"}]}, "prompt.0.content"), _find({"a.b": 1}, "a.b"), _find([], "0")
    ('1 + 1?', 1, None)
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
    return _find(value, rest) if dot else value


def _text(row: Mapping[str, Any], name: str, *, role: str, default: str | None = None) -> str:
    value = _find(row, name)
    if value is None:
        if default is not None:
            return default
        came = "null" if name in row else f"a row with {sorted(row)}"
        wish = f"name the right field by `?{role}=FIELD` behind the file or with fields={{{role!r}: ...}}"
        raise BadRowError(f"Expect the {role} in field {name!r}, got {came}; {wish}.")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRowError(f"Expect field {name!r} to be text or a number, got {type(value).__name__}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRowError(f"Expect field {name!r} to be a finite number, got {value}.")
    text = str(value).strip()
    if not text and default is None:
        raise BadRowError(f"Expect field {name!r} not to be blank.")
    return text or (default or "")


def decode_row(line: bytes) -> Any:
    """Decode one line of JSON; a line that is none becomes the error that `problem_from_row` raises."""
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        return BadRowError(f"Expect UTF-8, got {error.reason}.")
    except (ValueError, RecursionError) as error:
        return BadRowError(f"Expect a JSON object, got {first_line(error)}.")


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its type's name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
