"""Transcripts as the token ids that a rollout would have, with a mask on what the policy writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents.core.chat import Message, Tools

if TYPE_CHECKING:
    from agents.core.chat import Chat


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """An episode as text."""

    prompt: str
    """The environment's prompt."""
    messages: Sequence[Message] | None = None
    """The same as messages of a chat; None: one of the user."""
    turns: tuple[str, ...]
    """The policy's turns."""
    feedback: tuple[str, ...]
    """The environment's feedback after each turn except the last."""
    tools: Tools = ()
    """The tools that the environment offers."""
    ended: bool = True
    """Whether the policy ended the last turn, which is then learned; else the environment did."""


def encode_transcript(transcript: Transcript, chat: Chat) -> tuple[list[int], list[bool]]:
    """Return the token ids of an episode, and a mask that is True on the policy's tokens.

    As in a rollout, prompt, turns and feedback are encoded each on its own.
    """
    tools = transcript.tools
    token_ids = chat.encode_prompt(transcript.prompt, transcript.messages, tools)
    mask = [False] * len(token_ids)
    for turn, feedback in zip(transcript.turns, (*transcript.feedback, None), strict=True):
        written = chat.encode_feedback(turn)
        if feedback is None and transcript.ended:
            written.append(chat.end_of_turn())
        inserted = [] if feedback is None else chat.encode_feedback(feedback, tools)
        token_ids += written + inserted
        mask += [True] * len(written) + [False] * len(inserted)
    return token_ids, mask
