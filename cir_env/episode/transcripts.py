"""Reads transcripts that others have written as turns of an episode."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from cir_env.dialects import FENCE, Dialect
from cir_env.episode.prompts import render_feedback
from cir_env.errors import OptionError
from cir_env.parsing import has_open_block, output_end

NO_OUTPUT = "a code block without its output"


def read_turns(messages: Iterable[Mapping[str, Any]], dialect: Dialect = FENCE) -> tuple[tuple[str, str], ...]:
    r"""Return the turns that messages hold: what the policy wrote, and what the environment inserted after it.

    The assistant's text is cut where the environment ends an action: behind the first block or call. Its output is
    taken from the output block that follows at once, or from a tool's message. Tool calls in the layout of OpenAI, with
    Python in the argument `code`, are written as the dialect does.

    Args:
        messages: Messages of the roles assistant and tool, the first one the assistant's.
        dialect: How code is written.

    Returns:
        Texts of the policy, each with the feedback after it; that of the last one is empty.

    Raises:
        OptionError: These are no turns of an episode; the message says why in a few words.

    Example:
        >>> read_turns([{"role": "assistant", "content": "```py\n1\n```\n```output\n\n```\nSo 1."}])
        (('```py\n1\n```\n', '```output\n\n```\n'), ('So 1.', ''))
    """
    turns: list[tuple[str, str]] = []
    text = ""  # what the policy has written since the last feedback
    for message in messages:
        role, content = message.get("role"), message.get("content") or ""
        if not isinstance(content, str):
            raise OptionError("a message that is not text")
        if role == "assistant":
            text += content + "".join(_written(call, dialect) for call in message.get("tool_calls") or ())
            while (block := dialect.find(text)) is not None and (end := output_end(text, block.end)) is not None:
                turns.append((text[: block.end], text[block.end : end]))
                text = text[end:]
        elif role == "tool":
            block = dialect.find(text)
            if block is None or block.end < len(text):
                raise OptionError("a tool's message without a call before it")
            printed = content.removesuffix("\n")
            turns.append((text, render_feedback(text, printed, len(printed)) if dialect is FENCE else content))
            text = ""
        else:
            raise OptionError(f"a message of the role {role!r} behind an assistant's")
    if dialect.find(text) is not None:
        raise OptionError(NO_OUTPUT)
    if has_open_block(text):
        raise OptionError("a code block that is never closed")
    if not text:
        raise OptionError("an output at the end and no text after it")
    return (*turns, (text, ""))


def _written(call: Any, dialect: Dialect) -> str:
    """Return a call in the layout of OpenAI as the dialect writes it."""
    match call:
        case {"function": {"arguments": str(text)}}:
            try:
                arguments = json.loads(text)
            except ValueError:
                arguments = None
        case {"function": {"arguments": arguments}}:
            pass
        case _:
            arguments = None
    code = arguments.get("code") if isinstance(arguments, dict) else None
    if not isinstance(code, str) or not code.strip():
        raise OptionError("a tool call without Python in the argument `code`")
    return dialect.write(code)
