"""The flags of ``evaluate.py`` for models behind an API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from agents.config.shared import EngineArguments
from agents.core.errors import ConfigError, expect

SERVED = "openai:"
"""Prefix of the names of models behind an API."""

Turns = Literal["prefix", "message"]
"""How an episode continues after a block: the server continues the assistant's message, or gets another message."""


@dataclass(frozen=True, kw_only=True)
class ServedArguments(EngineArguments):
    """How a model behind an API is asked."""

    base_url: str = "https://api.openai.com/v1"
    """With --model openai:NAME: an OpenAI-compatible API, such as http://HOST:8000/v1."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the API's key, if it needs one."""
    concurrency: int = 32
    """Episodes in flight at an API."""
    turns: Literal["auto", "prefix", "message"] = "auto"
    """After a block: prefix continues the assistant's message, as in training; message puts the output into the next
    user message; auto: prefix if the API can."""
    price: tuple[float, float] | None = None
    """Price of a million prompt tokens and of a million completion tokens, for the costs."""
    request_timeout_s: float = 600.0
    """Seconds for which an API may be silent before a request is repeated: before a reply begins, and within it."""
    retry_s: float = 600.0
    """Seconds for which a request is repeated while the API is busy, fails or is away."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_url(self.base_url)
        expect(self.concurrency >= 1, "concurrency", "of at least 1", self.concurrency)
        expect(0 < self.request_timeout_s < float("inf"), "request_timeout_s", "above 0", self.request_timeout_s)
        expect(0 <= self.retry_s < float("inf"), "retry_s", "of at least 0", self.retry_s)
        are_prices = self.price is None or all(0 <= price < float("inf") for price in self.price)
        expect(are_prices, "price", "of at least 0", self.price)


def expect_url(url: str) -> None:
    """Reject what is no URL of an API; one with a password or a query is rejected without being repeated.

    Raises:
        ConfigError: It is not such a URL.

    >>> expect_url("http://127.0.0.1:8000/v1")
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is none
        has_place = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        has_place = False
    if has_place and (parts.username or parts.password or parts.query or parts.fragment):
        raise ConfigError("Expect `base_url` without user, password or query: the key comes from `--api-key-env`.")
    has_space = any(char.isspace() or not char.isprintable() for char in url)
    expect(has_place and not has_space, "base_url", "like 'http://HOST:8000/v1'", url)


def served_name(model: str) -> str | None:
    """Return the name by which an API knows a model; None for any other model.

    >>> served_name("openai:Qwen/Qwen3-8B"), served_name("openai/gpt-oss-20b")
    ('Qwen/Qwen3-8B', None)
    """
    return model.removeprefix(SERVED) if model.startswith(SERVED) else None
