"""A model behind an OpenAI-compatible chat API: messages in, text out, and the tokens that the server counted.

Text is all that such a server gives: there are no token ids and no log-probabilities, so this is no
:class:`agents.engines.base.Engine`. :mod:`agents.rollout.chat_episodes` plays episodes with it.

Replies are streamed, and a scanner ends them where the environment would. A request that fails for a reason that may
pass (429, 5xx, no connection, a timeout, a stream that is cut or no JSON) is repeated with growing pauses, or after as
long as the server asks for.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from agents.config.served import Turns
from agents.core.errors import ConfigError, EngineError, EngineFault, one_line
from agents.engines.base import Sampling

if TYPE_CHECKING:
    from openai import APIStatusError

    from agents.config.served import ServedArguments
    from agents.core.types import FinishReason
    from agents.engines.base import Scanner

_LOG = logging.getLogger("agents")
T = TypeVar("T")
Message = Mapping[str, str]

MISSING = "Expect the package openai for models behind an API, got none: pip install -e '.[openai]'."
_LONGEST_PAUSE_S = 30.0
_WARN_EVERY_S = 60.0
_TRANSIENT = (408, 409, 425, 429)
_KEYS: dict[str, str] = {}


def take_key(variable: str) -> str | None:
    """Return the key in an environment variable, and remove it from there: no process that starts later can see it.

    Raises:
        ConfigError: The value cannot be a key.
    """
    value = os.environ.get(variable, "").strip()
    if value:
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise ConfigError(f"Expect a key of printable ASCII characters in the variable {variable}, got others.")
        _KEYS[variable] = value
        libc = ctypes.CDLL(None)  # /proc/PID/environ keeps what the process was started with, until it is overwritten
        libc.getenv.restype = ctypes.c_void_p
        if place := libc.getenv(os.fsencode(variable)):
            ctypes.memset(place, ord("x"), len(os.fsencode(os.environ[variable])))
        del os.environ[variable]
    return _KEYS.get(variable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """What a server can do, as far as samples depend on it."""

    turns: Turns
    """Whether it continues an assistant's message."""
    extra_parameters: bool
    """Whether it takes parameters that OpenAI's API lacks: those of vLLM, SGLang and llama.cpp."""
    seed: bool
    """Whether it takes a seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a model wrote."""

    text: str
    """The text, up to where the scanner ended it."""
    finish_reason: FinishReason
    """``stop``: the model ended; ``boundary``: the scanner did; ``length``: no tokens were left."""
    prompt_tokens: int
    """Tokens of the messages."""
    completion_tokens: int
    """Tokens that were written."""
    is_estimated: bool
    """Whether the server has not counted these tokens: it does so at the end of a stream, which was not awaited."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    """Why a request may be repeated."""

    reason: str
    retry_after_s: float | None = None
    is_api: bool = True
    """Whether an API answered at all."""


class ChatServer:
    """An API and one of its models.

    Args:
        config: The API.
        name: The model, as the API knows it.
        template_kwargs: Variables of the chat template.

    Attributes:
        traits: What the server can do; set by :meth:`connect`.
        num_replies: Number of replies since then.
        last_failure: Why the last request that was given up failed.

    Raises:
        ConfigError: The key cannot be one.
        EngineError: The package openai is missing.
    """

    def __init__(self, config: ServedArguments, name: str, *, template_kwargs: Mapping[str, Any]) -> None:
        try:
            import openai
        except ImportError as error:
            raise EngineError(MISSING) from error
        self._openai = openai
        self._config, self._name, self._template_kwargs = config, name, template_kwargs
        self._key = take_key(config.api_key_env)
        self._limit = "max_tokens"
        self._counts = {"include_usage": True}
        self._succeeded_at = float("-inf")
        self._is_connected = False
        self._read_chars = self._read_tokens = 0
        self._warned_at = float("-inf")
        self.traits = Traits(turns="message", extra_parameters=True, seed=True)
        self.last_failure = ""
        self.num_replies = 0

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run what uses :meth:`complete`, and close all connections.

        Raises:
            EngineError: The URL is none, or as for :meth:`complete`.
            EngineFault: As for :meth:`complete`.
        """
        return asyncio.run(self._run(work))

    async def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        import httpx

        timeout = self._openai.Timeout(None, connect=15.0)  # `_request` limits how long a server is silent
        key, url = self._key or "none", self._config.base_url
        try:
            self._client = self._openai.AsyncOpenAI(api_key=key, base_url=url, max_retries=0, timeout=timeout)
        except httpx.InvalidURL as error:
            raise EngineError(f"Expect the URL of an API, got {url}: {one_line(error)}.") from error
        async with self._client:
            return await work()

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return what tokens cost by the configured price, if there is one."""
        if self._config.price is None:
            return None
        return (prompt_tokens * self._config.price[0] + completion_tokens * self._config.price[1]) / 1e6

    # ------------------------------------------------------------------------------------------------ connecting

    def connect(self, begun: Traits | None = None) -> Traits:
        """Find out what the server can do, with a few short requests.

        Args:
            begun: What it could do when a run began that is to be resumed.

        Raises:
            EngineError: There is no such API, it refuses the key or does not know the model, or it cannot do what the
                configuration or the run needs.
            EngineFault: The server fails.
        """
        if not self._is_connected:
            self.traits = self.run(self._probe)
            self._is_connected, self.num_replies = True, 0
        if begun is not None:
            able = replace(self.traits, turns=begun.turns) if begun.turns == "message" else self.traits
            if able != begun:
                raise EngineError(
                    f"Expect an API that can do what it could when the run began ({begun}), got {able}. "
                    "Choose another --output."
                )
            self.traits = begun
        return self.traits

    async def _probe(self) -> Traits:
        question = [{"role": "user", "content": "Count to nine."}]
        counting = [*question, {"role": "assistant", "content": "1, 2, 3,"}]
        # Drop one after the other what the server rejects.
        while isinstance(reply := await self._try(question, prefix=False), EngineError):
            if not (is_rejection(reply) and self._adapt(str(reply))):
                raise await self._explained(reply)
        wanted = self._config.turns
        if wanted == "message":
            return replace(self.traits, turns="message")
        # A server that ignores the request to continue closes the message: it counts more tokens, or as many as always.
        continued = await self._try(counting, prefix=True) if self.traits.extra_parameters else None
        if isinstance(continued, Reply):
            closed = await self._try(counting, prefix=False)
            if not isinstance(closed, Reply) or continued.prompt_tokens < closed.prompt_tokens:
                return replace(self.traits, turns="prefix")
        if wanted == "prefix":
            raise EngineError(
                f"Expect an API that continues the assistant's message, got one that does not at "
                f"{self._config.base_url}: use --turns message."
            )
        return replace(self.traits, turns="message")

    async def _try(self, messages: Sequence[Message], *, prefix: bool) -> Reply | EngineError:
        """Return a short reply, or why the server does not take the request."""
        try:
            reply = await self.complete(messages, Sampling(max_tokens=16), prefix=prefix)
        except EngineError as error:
            return error
        if reply is None:
            raise EngineFault(self.last_failure)
        return reply

    def _adapt(self, rejection: str) -> bool:
        """Drop a parameter that the server has rejected; return whether there was one to drop."""
        if self._limit == "max_tokens" and "max_completion_tokens" in rejection:
            self._limit = "max_completion_tokens"
        elif self.traits.extra_parameters:
            self.traits = replace(self.traits, extra_parameters=False)
        elif self.traits.seed and "seed" in rejection:
            self.traits = replace(self.traits, seed=False)
        elif self._counts and "stream_options" in rejection:
            self._counts = {}
        else:
            return False
        return True

    async def _explained(self, error: EngineError) -> EngineError:
        """Return the error, or a better one if the server lacks the model."""
        try:
            async with asyncio.timeout(10):
                models = [model.id async for model in self._client.models.list()]
        except Exception:
            return error
        if not models or self._name in models:
            return error
        listed = ", ".join(models[:10]) + (f" and {len(models) - 10} more" if len(models) > 10 else "")
        return EngineError(f"Expect a model that {self._config.base_url} has ({listed}), got {self._name!r}.")

    # -------------------------------------------------------------------------------------------------- requests

    async def complete(
        self, messages: Sequence[Message], sampling: Sampling, scanner: Scanner | None = None, *, prefix: bool = False
    ) -> Reply | None:
        """Return the model's next message, or with ``prefix`` the continuation of the last one.

        Args:
            messages: The messages so far.
            sampling: Sampling parameters.
            scanner: Ends the reply early; it is not modified.
            prefix: Whether the last message is the beginning of the reply.

        Returns:
            The reply; None if the request has failed for ``retry_s`` seconds, in which others succeeded.

        Raises:
            EngineError: The server rejects the request.
            EngineFault: The server has failed for ``retry_s`` seconds.
        """
        failed_at, pause = None, 0.5
        parameters = self._parameters(messages, sampling, prefix=prefix)
        while True:
            outcome = await self._request(parameters, deepcopy(scanner))
            now = time.monotonic()
            if isinstance(outcome, Reply):
                self._succeeded_at = now
                self.num_replies += 1
                return outcome
            if not outcome.is_api and self._succeeded_at < 0:
                raise EngineError(
                    f"Expect an OpenAI-compatible API at {self._config.base_url}, such as http://HOST:8000/v1, got: "
                    f"{outcome.reason}."
                )
            failed_at = now if failed_at is None else failed_at
            if now > self._warned_at + _WARN_EVERY_S:
                self._warned_at = now
                _LOG.warning("A request is repeated: %s", outcome.reason)
            wait = outcome.retry_after_s
            wait = pause * random.uniform(0.5, 1.0) if wait is None else wait
            if now + wait > failed_at + self._config.retry_s:
                asked = f" (wait {wait:.0f} s)" if outcome.retry_after_s else ""
                self.last_failure = f"{outcome.reason}{asked}"
                if self._succeeded_at > failed_at:
                    return None
                raise EngineFault(
                    f"Expect {self._config.base_url} to answer within --retry-s {self._config.retry_s:g}, got: "
                    f"{self.last_failure}. What was sampled is kept; the same command resumes."
                )
            await asyncio.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _parameters(self, messages: Sequence[Message], sampling: Sampling, *, prefix: bool) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "model": self._name,
            "messages": messages,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            self._limit: sampling.max_tokens,
            "stream": True,
        }
        counts = dict(self._counts)
        if self.traits.seed:
            parameters["seed"] = sampling.seed
        if self.traits.extra_parameters:
            # servers have other defaults, often the model's
            filters = {"top_k": sampling.top_k or -1, "min_p": sampling.min_p, "repetition_penalty": 1.0}
            extra = {**filters, "chat_template_kwargs": dict(self._template_kwargs)}
            more = {"add_generation_prompt": False, "continue_final_message": True} if prefix else {}
            parameters["extra_body"] = extra | more
            counts |= {"continuous_usage_stats": True} if counts else {}
        return parameters | ({"stream_options": counts} if counts else {})

    async def _request(self, parameters: dict[str, Any], scanner: Scanner | None) -> Reply | _Failure:
        """Send a request once."""
        import httpx

        openai = self._openai
        limit, clock = self._config.request_timeout_s, asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(limit) as silence:
                stream = await self._client.chat.completions.create(**parameters)
                kind = stream.response.headers.get("content-type", "nothing")
                async with stream:
                    if "text/event-stream" in kind:
                        prompt_chars = sum(len(m["content"]) for m in parameters["messages"])
                        return await self._read(
                            stream, scanner, prompt_chars, on_chunk=lambda: silence.reschedule(clock() + limit)
                        )
                    failure = _Failure(reason=f"{kind.split(';')[0]} in place of a stream", is_api=False)
        except TimeoutError:
            failure = _Failure(reason=f"silence for --request-timeout-s {limit:g}")
        except openai.APIStatusError as error:
            failure = self._of_status(error)
        except openai.APIConnectionError as error:
            failure = _Failure(reason=one_line(error.__cause__ or error), is_api=False)
        except openai.APIError as error:  # an error within a stream
            failure = _Failure(reason=self._without_key(one_line(error)))
        except httpx.HTTPError as error:
            failure = _Failure(reason=f"a stream that was cut: {one_line(error)}")
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            failure = _Failure(reason=f"a malformed reply: {one_line(error)}")
        return failure

    async def _read(
        self, stream: Any, scanner: Scanner | None, prompt_chars: int, *, on_chunk: Callable[[], None]
    ) -> Reply | _Failure:
        """Read a stream up to its end, or to where the scanner ends it."""
        pieces: list[str] = []
        usage: Any = None
        reason, end = None, None
        async for chunk in stream:
            on_chunk()
            usage = chunk.usage or usage
            for choice in chunk.choices or ():
                reason = choice.finish_reason or reason
                piece = choice.delta.content or ""
                if piece and end is None:
                    pieces.append(piece)
                    end = scanner.feed(piece) if scanner is not None else None
            if end is not None:
                break
        if end is None and reason is None:
            return _Failure(reason="a stream that was cut")
        if usage is not None:
            prompt_tokens, completion_tokens = int(usage.prompt_tokens), int(usage.completion_tokens)
            self._read_chars, self._read_tokens = self._read_chars + prompt_chars, self._read_tokens + prompt_tokens
        else:
            ratio = self._read_tokens / self._read_chars if self._read_chars else 0.25
            prompt_tokens, completion_tokens = round(ratio * prompt_chars), len(pieces)
        text = "".join(pieces)[:end].encode(errors="replace").decode()  # half a surrogate pair is not sent back
        return Reply(
            text=text,
            finish_reason="boundary" if end is not None else "length" if reason == "length" else "stop",
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            is_estimated=usage is None,
        )

    def _of_status(self, error: APIStatusError) -> _Failure:
        """Return why to repeat a request that was answered by an error.

        Raises:
            EngineError: It would fail again.
        """
        status, url, headers = error.status_code, self._config.base_url, error.response.headers
        reason = f"{status} {self._without_key(_message_of(error))}"
        if status in (401, 403):
            got = reason if self._key else f"no key ({reason})"
            raise EngineError(f"Expect a key for {url} in the variable {self._config.api_key_env}, got {got}.")
        if (status in _TRANSIENT or status >= 500) and error.code != "insufficient_quota":
            return _Failure(reason=reason, retry_after_s=_retry_after(headers))
        if status in (404, 405):
            raise EngineError(f"Expect an OpenAI-compatible API at {url} that has {self._name!r}, got {reason}.")
        raise EngineError(f"{_REJECTED} at {url}, got {reason}.")

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


_REJECTED = "Expect requests to be accepted"


def is_rejection(error: EngineError) -> bool:
    """Whether a server rejects what is in a request, rather than the key or the model."""
    return str(error).startswith(_REJECTED)


def is_about_length(error: EngineError) -> bool:
    """Whether a server rejects a request because messages and reply do not fit into its context."""
    text = str(error).lower()
    return is_rejection(error) and "context" in text and ("length" in text or "size" in text)


def _message_of(error: APIStatusError) -> str:
    """Return what a server says of an error, without the page that some send."""
    body = error.body
    message = body.get("message") or body.get("detail") if isinstance(body, dict) else None
    return one_line(ValueError(message or error.response.reason_phrase))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait for.

    >>> _retry_after({"retry-after": "7"}), _retry_after({"retry-after-ms": "250"}), _retry_after({})
    (7.0, 0.25, None)
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            return max(0.0, float(value) * unit)
        except ValueError:
            pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
