"""Prepares transcripts for the viewer as JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String

from agents.core.samples import Sample, SampleTurn
from agents.evaluation.metrics import blocks_of
from agents.report.formulas import Formulas
from agents.report.parts import clean

MAX_HIGHLIGHTED = 20_000
"""Code with more characters is not highlighted."""
MAX_OPTIONS = 30
"""Maximum number of values per filter; rarer values are merged into `OTHER`."""
OTHER = "other"
"""Name of the merged rare values."""
FACETS: Mapping[str, str] = {
    "kind": "Kind",
    "step": "Step",
    "evaluation": "Evaluation",
    "set": "Set",
    "verdict": "Verdict",
    "ending": "Ending",
    "subject": "Subject",
    "level": "Level",
    "code": "Code",
    "error": "Error",
}
"""The filters of the viewer with their labels."""

BLOCKS: Mapping[str, str] = {
    "none": "no code ran",
    "all_ran": "all ran",
    "some_failed": "some failed",
    "all_failed": "all failed",
}
"""Outcomes of a transcript's code blocks (:func:`agents.evaluation.metrics.blocks_of`) in words."""

_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*(\w*)[^\n`]*\n", re.M)
_RESULT = re.compile(r"\s*```output\n(.*?)\n?```\s*", re.S)
_EXCEPTION = re.compile(r"([A-Za-z_][\w.]{0,60})(?::|$)")
_CLASSES = (
    (Comment, "c"),
    (Keyword, "k"),
    (String, "s"),
    (Number, "m"),
    (Operator.Word, "k"),
    (Name.Builtin, "b"),
    (Name.Function, "f"),
    (Name.Class, "f"),
)


class Transcripts:
    """The content of the viewer, JSON-serializable.

    Args:
        samples: The samples of each evaluation or training run by name.

    Attributes:
        items: One per sample, in order. The values of an item's facets are lists: a transcript may have several errors.
        problems: What samples of a problem share; items refer to them by number.
    """

    def __init__(self, samples: Mapping[str, Sequence[Sample]]) -> None:
        self.items: list[dict[str, Any]] = []
        self.problems: list[dict[str, Any]] = []
        self._formulas = Formulas()
        self._numbers: dict[tuple[str, ...], int] = {}
        links: Counter[str] = Counter()
        several = len(samples) > 1
        pairs = [(name, row, self._problem(row)) for name, rows in samples.items() for row in rows]
        for name, row, problem in pairs:
            link = _link(row, [name] if several else [])
            links[link] += 1
            unique = link if links[link] == 1 else f"{link}/{links[link]}"
            facets = {"evaluation": [clean(name)]} if several else {}
            self.items.append({"link": unique, "problem": problem, **self._item(row, facets)})
        for facet in FACETS:
            _merge_rare(self.items, facet)

    def as_json(self) -> dict[str, Any]:
        """Return items, problems and formulas."""
        return {"items": self.items, "problems": self.problems, "formulas": self._formulas.found}

    def _problem(self, row: Sample) -> int:
        """Return the number of a sample's problem, and its prompt."""
        answer = None if row["answer"] is None else str(row["answer"])
        prompt = row.get("prompt", "")
        key = (row["set"], str(row["problem_index"]), row["problem"], str(answer), prompt)
        if key not in self._numbers:
            self._numbers[key] = len(self.problems)
            self.problems.append(
                {
                    "id": row["problem_id"],
                    "key": f"{row['set']} {row['problem_index']}",
                    "statement": self._formulas.split(row["problem"]),
                    "answer": answer,
                    "prompt": prompt,
                }
            )
        return self._numbers[key]

    def _item(self, sample: Sample, facets: dict[str, list[str]]) -> dict[str, Any]:
        ending = "cut off" if sample["truncated"] else "no answer" if sample["void"] else "answered"
        single = {
            "kind": sample.get("kind"),
            "step": sample.get("step"),
            "set": sample["set"],
            "verdict": verdict(sample),
            "ending": ending,
            "subject": sample["subject"],
            "level": sample["level"],
            "code": BLOCKS[blocks_of(sample)],
        }
        facets |= {key: [clean(str(value))] for key, value in single.items() if value not in (None, "")}
        facets["error"] = list(dict.fromkeys(clean(kind) for turn in sample["turns"] if (kind := error_kind(turn))))
        return {
            "sample": sample["sample"],
            "predicted": None if sample["predicted"] is None else str(sample["predicted"]),
            "reason": sample["reason"],
            "reward": f"{sample['reward']:g}",
            "tokens": sample["sampled_tokens"],
            "feedbackTokens": sample["feedback_tokens"],
            "facets": facets,
            "turns": [
                {"parts": self._parts(t), "result": result_of(t["feedback"]), "status": t["status"]}
                for t in sample["turns"]
            ],
        }

    def _parts(self, turn: SampleTurn) -> list[str | int | list[str]]:
        """Split a turn at its blocks and formulas."""
        parts: list[str | int | list[str]] = []
        for part in _pieces(turn):
            parts += self._formulas.split(part) if isinstance(part, str) else [part]
        return parts


def facet_counts(found: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[str, int]]]:
    """Return value and number of transcripts for each facet; facets with the same value everywhere are dropped."""
    counts: dict[str, Counter[str]] = {facet: Counter() for facet in FACETS}
    for item in found:
        for facet, values in item["facets"].items():
            counts[facet].update(values)
    offered = {facet: count for facet, count in counts.items() if set(count.values()) - {len(found)}}
    return {facet: sorted(count.items(), key=_natural) for facet, count in offered.items()}


def verdict(sample: Sample) -> str:
    """Return "right", "wrong", or "unjudged" after an infrastructure error."""
    return ("right" if sample["correct"] else "wrong") if sample["reward_valid"] else "unjudged"


def error_kind(turn: SampleTurn) -> str | None:
    r"""Return how a turn's block failed: the name of the exception if there is one, else the status; None if it ran.

    >>> feedback = "\n```output\nNameError: name 'x'\n```\n"
    >>> error_kind({"text": "", "feedback": feedback, "status": "error", "finish_reason": "boundary"})
    'NameError'
    """
    if turn["status"] in (None, "ok"):
        return None
    lines = result_of(turn["feedback"]).rstrip().split("\n")
    named = _EXCEPTION.match(lines[-1]) if turn["status"] == "error" else None
    return named[1] if named else turn["status"]


def result_of(feedback: str) -> str:
    r"""Return the content of feedback without its fences.

    >>> result_of("\n```output\n42\n```\n")
    '42'
    """
    wrapped = _RESULT.fullmatch(feedback)
    return wrapped[1] if wrapped else feedback


def segments(text: str) -> list[str | list[str]]:
    r"""Split text at its fenced blocks.

    Prose becomes a string, a block a flat list of alternating CSS classes and texts, in which fences have the class
    "fence". The concatenation of all texts is the input.

    >>> segments("So:\n```python\nx = 1\n```\n")
    ['So:\n', ['fence', '```python\n', '', 'x = ', 'm', '1', '', '\n', 'fence', '```\n']]
    """
    parts: list[str | list[str]] = []
    at = 0
    while opening := _FENCE.search(text, at):
        if opening.start() > at:
            parts.append(text[at : opening.start()])
        closing = re.compile(rf"^[ \t]*{opening[2][0]}{{{len(opening[2])},}}[ \t]*(?:\n|\Z)", re.M)
        end = closing.search(text, opening.end())
        body = text[opening.end() : end.start() if end else len(text)]
        pieces = _highlight(body) if opening[3].lower() in ("python", "py", "python3") else ("", body)
        parts.append(["fence", opening[0], *pieces, *(["fence", end[0]] if end else [])])
        at = end.end() if end else len(text)
    return [*parts, *([text[at:]] if at < len(text) else [])]


def _pieces(turn: SampleTurn) -> list[str | list[str]]:
    """Return the segments of a turn's text, in which each tool call is a block of its code."""
    parts: list[str | list[str]] = []
    begin = 0
    for start, end, code in turn.get("calls", ()):
        if code:
            parts += [*segments(turn["text"][begin:start]), ["fence", "python\n", *_highlight(code), "", "\n"]]
            begin = end
    return [*parts, *segments(turn["text"][begin:])]


@lru_cache(maxsize=4096)
def _highlight(code: str) -> tuple[str, ...]:
    if len(code) > MAX_HIGHLIGHTED:
        return ("", code)
    pieces: list[str] = []
    for _, kind, value in _LEXER.get_tokens_unprocessed(code):  # keeps every character
        name = _class_of(kind)
        if pieces and pieces[-2] == name:
            pieces[-1] += value
        else:
            pieces += [name, value]
    return tuple(pieces)


_LEXER = PythonLexer()


@lru_cache(maxsize=256)
def _class_of(kind: Any) -> str:
    return next((name for parent, name in _CLASSES if kind in parent), "")


def _link(sample: Sample, before: Sequence[str]) -> str:
    of_run = [str(sample.get("kind")), str(sample.get("step"))] if "step" in sample else []  # of training
    parts = [*before, *of_run, sample["set"], str(sample["problem_index"]), str(sample["sample"])]
    return "/".join(quote(clean(part), safe="") or "-" for part in parts)


def _merge_rare(found: Sequence[dict[str, Any]], facet: str) -> None:
    counts = Counter(value for item in found for value in item["facets"].get(facet, ()))
    if len(counts) <= MAX_OPTIONS or facet == "step":
        return
    kept = {value for value, _ in counts.most_common(MAX_OPTIONS - 1)}
    for item in found:
        values = item["facets"].get(facet, ())
        item["facets"][facet] = list(dict.fromkeys(value if value in kept else OTHER for value in values))


def _natural(pair: tuple[str, int]) -> list[tuple[int, str]]:
    """Sort key that orders "9" before "10"."""
    return [
        (int(part), "") if part.isdecimal() and len(part) < 20 else (-1, part) for part in re.split(r"(\d+)", pair[0])
    ]
