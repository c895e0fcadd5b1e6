"""Rows -> transcripts -> token ids, with what cannot be used counted by its reason."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agents.core.errors import ConfigError, RunError, expect
from agents.core.samples import is_sample
from agents.core.types import Purpose, seed_of
from agents.learning.transcripts import Transcript, encode_transcript
from agents.rollout.envs import lacking, open_split
from agents.sft.rows import read_rows

if TYPE_CHECKING:
    import gymnasium

    from agents.config.sft import SFTConfig
    from agents.core.chat import Chat

_NO_LIMIT = 2**31 - 1
_Turns = Sequence[tuple[str, str]]
"""Texts of the policy, each with the feedback after it."""
_Problem = tuple[str, tuple[str, ...]]
"""A statement and the names of its files, which the prompt lists."""
_PLACEHOLDER: _Problem = ("?", ())


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What was read."""

    transcripts: Sequence[Transcript]
    """The usable ones, in order."""
    unusable: Mapping[str, int]
    """How many others there were, by reason."""
    wrong: int
    """How many of the usable ones are samples whose answer is wrong."""

    def in_words(self) -> str:
        """Return the counts as a line."""
        reasons = sorted(self.unusable.items(), key=lambda item: -item[1])
        text = f"Transcripts: {len(self.transcripts)}"
        if self.wrong:
            text += f", of which {self.wrong} have a wrong answer (evaluate.py select chooses the right ones)"
        if reasons:
            listed = "; ".join(f"{count} {reason}" for reason, count in reasons)
            text += f". Not used: {sum(self.unusable.values())} ({listed})"
        return text + "."


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A transcript as tokens."""

    problem: str
    """The prompt; transcripts with the same one are held out together."""
    token_ids: Sequence[int]
    """Prompt, turns and feedback."""
    action_mask: Sequence[bool]
    """True on what the policy writes."""


class _Unusable(Exception):
    """A row is no transcript that can be learned from; the message says why in a few words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A row, before its prompt is written."""

    problem: _Problem | None
    """The problem, if the environment writes the prompt."""
    messages: Sequence[Mapping[str, Any]]
    """The prompt, if it is the row's own."""
    turns: _Turns
    ended: bool
    is_wrong: bool


def read_transcripts(config: SFTConfig) -> Reading:
    """Read the transcripts that a configuration names; the environment writes prompts and cuts chats into turns.

    Raises:
        ConfigError: No transcripts are named, a file is missing, or the environment takes no problems.
        RunError: A row is none, or no transcript can be used.
    """
    expect(config.transcripts != (), "transcripts", "to name at least one file", config.transcripts)
    read = [row for source in config.transcripts for row in read_rows(source)]
    if lacking(config.env.id, ["problems"]):
        raise ConfigError(f"Expect `env.id` of an environment with the argument `problems`, got {config.env.id!r}.")
    unusable: Counter[str] = Counter()
    rows: list[_Row] = []
    with closing(_open(config, [_PLACEHOLDER])) as env:
        for row in read:
            try:
                rows.append(_of_sample(row, env) if is_sample(row) else _of_chat(row, env, config.chat_prompts))
            except _Unusable as reason:
                unusable[str(reason)] += 1
    problems = list(dict.fromkeys(row.problem for row in rows if row.problem is not None)) or [_PLACEHOLDER]
    with closing(_open(config, problems)) as env:
        places = {problem: index for index, problem in enumerate(problems)}
        transcripts = [_with_prompt(row, env, places) for row in rows]
    reading = Reading(transcripts=transcripts, unusable=unusable, wrong=sum(row.is_wrong for row in rows))
    if not transcripts:
        raise RunError(f"Expect at least one transcript to learn from. {reading.in_words()}")
    return reading


def encode(reading: Reading, chat: Chat, max_length: int) -> tuple[list[Encoded], Reading]:
    """Return the transcripts as tokens, and the reading without those that are longer than ``max_length`` tokens.

    Raises:
        RunError: All of them are longer.
        ModelError: The chat template rejects a prompt's messages.
    """
    encoded = []
    for transcript in reading.transcripts:
        token_ids, mask = encode_transcript(transcript, chat)
        encoded.append(Encoded(problem=transcript.prompt, token_ids=token_ids, action_mask=mask))
    fits = [len(each.token_ids) <= max_length for each in encoded]
    too_long = {f"longer than {max_length} tokens": fits.count(False)} if not all(fits) else {}
    kept = [each for each, fit in zip(reading.transcripts, fits, strict=True) if fit]
    reading = replace(reading, transcripts=kept, unusable={**reading.unusable, **too_long})
    if not kept:
        raise RunError(f"Expect at least one transcript to learn from. {reading.in_words()}")
    return [each for each, fit in zip(encoded, fits, strict=True) if fit], reading


def hold_out(encoded: Sequence[Encoded], share: float, *, seed: int) -> tuple[list[Encoded], list[Encoded]]:
    """Return the transcripts to train on, and those of a share of the problems, drawn by the seed.

    At least one problem is held out if the share is above 0 and there are two.
    """
    problems = sorted({each.problem for each in encoded})
    random.Random(seed_of(seed, Purpose.HOLD_OUT)).shuffle(problems)
    count = min(max(1, round(share * len(problems))), len(problems) - 1) if share else 0
    chosen = set(problems[:count])
    return (
        [each for each in encoded if each.problem not in chosen],
        [each for each in encoded if each.problem in chosen],
    )


def _open(config: SFTConfig, problems: Iterable[_Problem]) -> gymnasium.Env[str, str]:
    rows = [{"problem": text, "answer": "0", "files": dict.fromkeys(names, "")} for text, names in problems]
    more = {"answer_type": None, "max_transcript_chars": _NO_LIMIT}
    return open_split(config.env, 1, split="train", problems=rows, **more).envs[0]


def _of_sample(row: Mapping[str, Any], env: gymnasium.Env[str, str]) -> _Row:
    reasons = {
        "that an infrastructure error made invalid": not row["reward_valid"],
        "that did not end": row["truncated"],
        "without a problem": not row["problem"].strip(),
        "without turns": not row["turns"],
    }
    for reason, applies in reasons.items():
        if applies:
            raise _Unusable(reason)
    turns = [(turn["text"], turn["feedback"]) for turn in row["turns"]]
    ended = row["turns"][-1].get("finish_reason", "stop") == "stop"
    if ended and len(_read_turns([{"role": "assistant", "content": turns[-1][0]}], env)) > 1:
        raise _Unusable("with an output that nobody computed")
    problem = row["problem"], _files(row)
    return _Row(problem=problem, messages=(), turns=turns, ended=ended, is_wrong=not row["correct"])


def _of_chat(row: Mapping[str, Any], env: gymnasium.Env[str, str], prompts: str) -> _Row:
    messages = row["messages"]
    begin = next((n for n, message in enumerate(messages) if message["role"] == "assistant"), None)
    if begin is None:
        raise _Unusable("without an assistant's message")
    prompt = messages[:begin]
    users = [message.get("content") for message in prompt if message["role"] == "user"]
    if not users or not all(isinstance(message.get("content"), str) for message in prompt):
        raise _Unusable("without a user's message as text before the assistant's")
    problem = (users[-1], _files(row)) if prompts == "env" else None
    if problem is not None and not problem[0].strip():
        raise _Unusable("without a problem")
    turns = _read_turns(messages[begin:], env)
    plain = [{"role": message["role"], "content": message["content"]} for message in prompt]
    return _Row(problem=problem, messages=plain, turns=turns, ended=True, is_wrong=False)


def _files(row: Mapping[str, Any]) -> tuple[str, ...]:
    names = row.get("files") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _Unusable("with `files` that are no list of names")
    return tuple(names)


def _read_turns(messages: Sequence[Mapping[str, Any]], env: gymnasium.Env[str, str]) -> _Turns:
    """Cut messages into turns, as the environment does; one without `read_turns` has one turn alone."""
    if not env.has_wrapper_attr("read_turns"):
        if len(messages) > 1 or not isinstance(messages[0].get("content"), str):
            raise _Unusable("with several messages of the assistant")
        return [(messages[0]["content"], "")]
    read: Callable[..., _Turns] = env.get_wrapper_attr("read_turns")
    try:
        return read(messages)
    except ValueError as error:
        raise _Unusable(f"with {error}") from error


def _with_prompt(row: _Row, env: gymnasium.Env[str, str], places: Mapping[_Problem, int]) -> Transcript:
    index = 0 if row.problem is None else places[row.problem]
    prompt, info = env.reset(seed=0, options={"problem_index": index})
    messages = info.get("messages")
    if row.problem is None:
        prompt, messages = "\n\n".join(message["content"] for message in row.messages), row.messages
    return Transcript(
        prompt=prompt,
        messages=messages,
        turns=tuple(text for text, _ in row.turns),
        feedback=tuple(feedback for _, feedback in row.turns[:-1]),
        tools=info.get("tools") or (),
        ended=row.ended,
    )
