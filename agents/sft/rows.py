"""Reads rows of transcripts: samples, and chats, from files or the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.core.errors import ConfigError, RunError, one_line
from agents.core.files import read_json_lines
from agents.core.samples import is_sample

HUB = "hub:"
EXPECTED = "a sample, or a chat with `messages` of a role each"
"""What a row is."""


def read_rows(source: str) -> list[Mapping[str, Any]]:
    """Return the rows of one source of transcripts, at least one.

    Args:
        source: A .jsonl file, a .json file with a list, or hub:NAME, of which the train split is read.

    Raises:
        ConfigError: There is no such file or set, or it has another ending.
        RunError: It has no rows, or a row is neither a sample nor a chat; of a file the message has its number.
    """
    if source.startswith(HUB):
        rows = _of_hub(source.removeprefix(HUB))
        place = "row"
    elif source.endswith(".json"):
        rows = _of_json(Path(source))
        place = "item"
    elif source.endswith(".jsonl"):
        if not Path(source).is_file():
            raise ConfigError(f"Expect `transcripts` to be files, got {source!r}, which is none.")
        rows = read_json_lines(Path(source), expected=EXPECTED, is_row=is_transcript, complete=True)[0]
        place = "line"
    else:
        raise ConfigError(f"Expect `transcripts` to be .jsonl or .json files or {HUB}NAME, got {source!r}.")
    for number, row in enumerate(rows, 1):
        if not is_transcript(row):
            raise RunError(f"{source}, {place} {number}: Expect {EXPECTED}, got {str(row)[:40]!r}.")
    if not rows:
        raise RunError(f"Expect at least one transcript in {source}, got none.")
    return list(rows)


def is_transcript(row: Any) -> bool:
    """Whether a row is a sample or a chat."""
    return is_sample(row) or is_chat(row)


def is_chat(row: Any) -> bool:
    """Whether a row has messages.

    >>> is_chat({"messages": [{"role": "user", "content": "Hello"}]}), is_chat({"messages": "Hello"})
    (True, False)
    """
    messages = row.get("messages") if isinstance(row, Mapping) else None
    return isinstance(messages, list) and all(
        isinstance(message, Mapping) and isinstance(message.get("role"), str) for message in messages
    )


def _of_json(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"Expect `transcripts` to be files of JSON, got {str(path)!r}: {one_line(error)}.") from error
    if not isinstance(rows, list):
        raise RunError(f"Expect a list of transcripts in {path}, got {type(rows).__name__}.")
    return rows


def _of_hub(name: str) -> list[Any]:
    try:
        import datasets  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise ConfigError(f'Expect the library datasets for {HUB}{name}: pip install -e ".[hub]".') from None
    try:
        return list(datasets.load_dataset(name, split="train"))
    except Exception as error:  # the library raises many classes
        raise ConfigError(f"Expect `transcripts` to name a set on the hub, got {name!r}: {one_line(error)}.") from error
