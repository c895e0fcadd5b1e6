"""Imports samples of other programs for regrading: lm-evaluation-harness's sample files and plain JSON lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.core.errors import RunError
from agents.core.files import read_json_lines
from agents.core.samples import Sample, SampleTurn
from agents.evaluation.regrade import NOT_JUDGED, ReadAnswer

Find = Callable[[Any, str], Any]
"""Returns the field of a row that a dotted path names, or None."""
_GSM8K = re.compile(r"####\s*(.+?)\s*$")
_STATEMENTS = ("problem", "question", "Problem", "Question")


def read_lm_eval(path: Path, read_answer: ReadAnswer) -> list[Sample]:
    """Read a ``samples_*.jsonl`` file of lm-evaluation-harness.

    The first metric of a row with a single response becomes its verdict. If several filters were applied to a problem,
    the first row is used.

    Args:
        path: The file.
        read_answer: Extracts the right answer from a target that is a full solution.

    Raises:
        RunError: The file is malformed, or its responses are not texts.
    """
    rows: list[Sample] = []
    seen: set[int] = set()
    name = re.sub(r"^samples_|_\d{4}-\d\d-\d\dT.*$", "", path.stem)
    for number, row in enumerate(_read(path), 1):
        lacking = [field for field in ("doc_id", "doc", "target", "resps") if field not in row]
        if lacking:
            raise RunError(f"{path}, line {number}: Expect a sample of lm_eval --log_samples, got no {lacking[0]!r}.")
        if not isinstance(row["doc_id"], int):
            raise RunError(f"{path}, line {number}: Expect 'doc_id' to be a number, got {row['doc_id']!r}.")
        if row["doc_id"] in seen:
            continue
        seen.add(row["doc_id"])
        texts = row["resps"][0] if isinstance(row["resps"], list) and row["resps"] else None
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise RunError(
                f"{path}, line {number}: Expect texts in 'resps', got {str(texts)[:40]}: is it multiple choice?"
            )
        metrics = row.get("metrics")
        metric = str(metrics[0]) if isinstance(metrics, list) and metrics else ""
        verdict = row.get(metric) if len(texts) == 1 else None
        doc = row["doc"] if isinstance(row["doc"], dict) else {}
        rows += [
            _row(
                set_name=name,
                index=row["doc_id"],
                sample=sample,
                problem_id=str(doc.get("problem_id") or doc.get("id") or f"{name}-{row['doc_id']}"),
                subject=doc.get("subject"),
                level=doc.get("level"),
                problem=_statement(row, doc),
                answer=_gold(str(row["target"]), read_answer),
                text=text,
                verdict=None if verdict is None else verdict == 1,
            )
            for sample, text in enumerate(texts)
        ]
    return rows


def read_plain(path: Path, *, problem: str, answer: str, completion: str, find: Find) -> list[Sample]:
    """Read JSON lines with named fields; rows with the same problem and answer are samples of one problem.

    Args:
        path: The file.
        problem: Path of the field with the statement: a text, or a list of messages, whose last user message it is.
        answer: Path of the field with the right answer.
        completion: Path of the field with a model's output: a text, a list of texts, or a list of messages, in which
            what stands between two of the assistant's is feedback. A message may be in a field ``message``.
        find: Returns the field of a row that a path names, or None.

    Raises:
        RunError: A row lacks a field, or its completion is something else.
    """
    rows: list[Sample] = []
    places: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(_read(path), 1):
        found = {name: find(row, name) for name in (problem, answer, completion)}
        lacking = next((name for name, value in found.items() if value is None), None)
        if lacking is not None:
            raise RunError(
                f"{path}, line {number}: Expect the field {lacking!r}, got {', '.join(sorted(row)) or 'none'}."
            )
        statement, gold = _question(found[problem]), str(found[answer])
        samples = _transcripts(found[completion])
        if samples is None or statement is None:
            name, what = (problem, "a text") if statement is None else (completion, "a text or a list of texts")
            raise RunError(f"{path}, line {number}: Expect {what} or a list of messages in {name!r}.")
        place = places.setdefault((statement, gold), [len(places), 0])
        for turns in samples:
            made = _row(
                set_name=path.stem,
                index=place[0],
                sample=place[1],
                problem_id=str(row.get("id") or f"{path.stem}-{place[0]}"),
                subject=row.get("subject"),
                level=row.get("level"),
                problem=statement,
                answer=gold,
                text="",
                verdict=None,
            )
            rows.append({**made, "turns": turns, "interactions": len(turns) - 1})
            place[1] += 1
    return rows


def _question(value: Any) -> str | None:
    """Return a statement, or the last user message."""
    messages = _messages(value)
    if messages is None:
        return None if isinstance(value, list | dict) else str(value)
    return next((text for role, text in reversed(messages) if role == "user"), None)


def _transcripts(value: Any) -> list[list[SampleTurn]] | None:
    """Return the turns of each sample in a field, or None if it holds something else."""
    messages = _messages(value)
    if messages is not None:
        return [turns] if (turns := _turns(messages)) else None
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return None
    return [_turns([("assistant", text)]) for text in texts]


def _messages(value: Any) -> list[tuple[str, str]] | None:
    """Return role and text of each message, or None if a value is no list of messages."""
    if not isinstance(value, list) or not value:
        return None
    messages = [each.get("message", each) if isinstance(each, dict) else None for each in value]
    if not all(isinstance(message, dict) and "role" in message for message in messages):
        return None
    return [(str(message["role"]), _text(message)) for message in messages]  # type: ignore[index, arg-type]


def _text(message: Mapping[str, Any]) -> str:
    """Return the text of a message, with its tool calls behind it."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    calls = [call.get("function", call) for call in message.get("tool_calls") or [] if isinstance(call, dict)]
    called = [f"{call.get('name')}({call.get('arguments')})" for call in calls if isinstance(call, dict)]
    return "\n".join([str(content), *called]) if called else str(content)


def _turns(messages: Sequence[tuple[str, str]]) -> list[SampleTurn]:
    """Return the turns of a conversation; what comes before the first answer is no part of them.

    >>> [(t["text"], t["feedback"]) for t in _turns([("user", "?"), ("assistant", "a"), ("tool", "b")])]
    [('a', 'b')]
    """
    turns: list[SampleTurn] = []
    for role, text in messages:
        if role == "assistant":
            turns.append({"text": text, "feedback": "", "status": None, "finish_reason": "stop"})
        elif turns:
            turns[-1]["feedback"] += text
    return turns


def _read(path: Path) -> list[dict[str, Any]]:
    rows, _ = read_json_lines(path, complete=True)
    if not rows:
        raise RunError(f"Expect at least one line in {path}, got none.")
    return rows


def _statement(row: Mapping[str, Any], doc: Mapping[str, Any]) -> str:
    found = next((doc[name] for name in _STATEMENTS if doc.get(name)), None)
    if found is None:  # fall back to the prompt; lm-eval 0.4.2 changed its layout
        arguments = row.get("arguments")
        try:
            found = arguments["gen_args_0"]["arg_0"] if isinstance(arguments, dict) else arguments[0][0]  # type: ignore[index]
        except (IndexError, KeyError, TypeError):
            found = ""
    return str(found)


def _gold(target: str, read_answer: ReadAnswer) -> str:
    r"""Return the right answer of a target, which may be a full solution.

    >>> _gold("Two and two. #### 4", lambda texts: None), _gold(" 4 ", lambda texts: None)
    ('4', '4')
    """
    boxed = read_answer([target])
    if boxed is not None:
        return boxed.strip()
    found = _GSM8K.search(target)
    return found[1] if found else target.strip()


def _row(
    *,
    set_name: str,
    index: int,
    sample: int,
    problem_id: str,
    subject: Any,
    level: Any,
    problem: str,
    answer: str,
    text: str,
    verdict: bool | None,
) -> Sample:
    """Return the row of a bare text; all its counts are 0."""
    return {
        "set": set_name,
        "problem_index": index,
        "sample": sample,
        "problem_id": problem_id,
        "subject": None if subject is None else str(subject),
        "level": None if level is None else str(level),
        "problem": problem,
        "turns": [{"text": text, "feedback": "", "status": None, "finish_reason": "stop"}],
        "predicted": None,
        "answer": answer,
        "reason": NOT_JUDGED if verdict is None else "judged elsewhere",
        "reward": 1.0 if verdict else -1.0,
        "reward_valid": True,
        "correct": bool(verdict),
        "terminated": True,
        "truncated": False,
        "void": False,
        "interactions": 0,
        "sampled_tokens": 0,
        "feedback_tokens": 0,
        "boundary_cuts": 0,
    }
