"""An engine and an environment that follow a script; neither needs torch or transformers, so a process starts fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np

from agents.core.decoder import TokenDecoder
from agents.core.errors import EngineError
from agents.core.types import Completion, EpisodeSpec
from agents.engines.base import Sampling, Scanner, Weights
from agents.engines.request import Request
from agents.rollout.envs import EnvPool, ThreadedPool


class ByteChat:
    """A chat in which each byte is a token, and a prompt is taken as it is."""

    tokenizer = SimpleNamespace(eos_token_id=256)

    def encode_prompt(self, prompt: str, messages: object = None, tools: object = ()) -> list[int]:
        return list(prompt.encode())

    def encode_feedback(self, feedback: str, tools: object = ()) -> list[int]:
        return list(feedback.encode())

    def decoder(self) -> TokenDecoder:
        return TokenDecoder(_Bytes())


class _Bytes:
    """The vocabulary of a `ByteChat`."""

    def exists(self, token_id: int) -> bool:
        return token_id < 256

    def of(self, token_id: int, *, first: bool = False) -> bytes:
        return bytes([token_id])


Write = Callable[[int, int, int], str]
"""(request, turn, seed) -> what is written in that turn."""


def write_at_random(request_id: int, turn: int, seed: int) -> str:
    """Letters that depend on the seed alone."""
    return "".join(np.random.default_rng(seed).choice(list("ab `\n∑"), 12))


def scripted(*turns: str) -> Write:
    """The same turns in every episode; the last one never ends."""
    return lambda request_id, turn, seed: turns[min(turn, len(turns) - 1)]


class FakeEngine:
    """Says what it is told to, one token for each request and poll, and ends it with the end of sequence."""

    cache_tokens: int | None = None

    def __init__(
        self,
        chat: Any,
        write: Write = write_at_random,
        *,
        max_num_seqs: int = 4,
        max_model_len: int = 96,
        poll_s: float = 0.0,
    ) -> None:
        self.max_model_len = max_model_len
        self.version = 0
        self.has_weights = True
        self.asleep = False
        self.held: set[int] = set()  # the requests that were not released
        self.contexts: dict[int, list[list[int]]] = {}  # all that was submitted, by request
        self.samplings: list[Sampling] = []
        self._chat, self._write, self._max_num_seqs, self._poll_s = chat, write, max_num_seqs, poll_s
        self._eos = int(chat.tokenizer.eos_token_id)
        self._requests: dict[int, tuple[Request, list[int]]] = {}  # and the tokens to come
        self._turns: dict[int, int] = {}

    def submit(
        self,
        request_id: int,
        token_ids: Sequence[int],
        sampling: Sampling,
        scanner: Scanner | None = None,
        *,
        begun: Completion | None = None,
    ) -> None:
        request = Request.begin(
            request_id, token_ids, sampling, scanner, begun, chat=self._chat, max_model_len=self.max_model_len
        )
        if request_id in self._requests:
            raise EngineError(f"Expect a request that is not running, got {request_id} again.")
        turn = self._turns[request_id] = self._turns.get(request_id, -1) + (begun is None)
        text = self._write(request_id, turn, sampling.seed)
        self.held.add(request_id)
        self.contexts.setdefault(request_id, []).append(list(request.context))
        self.samplings.append(sampling)
        to_come = [*self._chat.encode_feedback(text), self._eos][request.begun :]
        self._requests[request_id] = request, to_come or [self._eos]

    @property
    def busy(self) -> bool:
        return bool(self._requests)

    def poll(self) -> list[Completion]:
        time.sleep(self._poll_s)
        ended = []
        for request_id in list(self._requests)[: self._max_num_seqs]:
            request, to_come = self._requests[request_id]
            token_id = to_come.pop(0)
            reason = request.append(token_id, logprob_of(token_id), self.version, {self._eos})
            if reason is not None:
                del self._requests[request_id]
                ended.append(request.completion(reason))
        return ended

    def release(self, request_id: int) -> None:
        self._requests.pop(request_id, None)
        self.held.discard(request_id)

    def load_weights(self, version: int, weights: Weights) -> None:
        self.version, self.asleep = version, False

    def sleep(self) -> None:
        self.asleep = True

    def close(self) -> None:
        self._requests.clear()


def logprob_of(token_id: int) -> float:
    """What the fake engine reports for a token."""
    return -(token_id + 1) / 8


class CallScanner:
    """Finds the first backtick at the end of a line."""

    def __init__(self) -> None:
        self.text = ""

    def feed(self, piece: str) -> int | None:
        self.text += piece
        at = self.text.find("`\n")
        return None if at < 0 else at + 2


class CallEnv(gymnasium.Env[str, str]):
    """An environment for text that is not CodeMath: a line that ends in a backtick is a call.

    A call keeps the action up to the end of that line and the newlines behind it, and is answered by its number in
    brackets. Everything else is the answer, worth +1 if the last letter written is one of a to m, else -1.

    Args:
        calls: How many calls an episode may make.
        delay_s: Every step takes up to so long.
        fail_at: The step of the episode, from 1, that raises; only for the problem `fail_on`.
        fail_on: See `fail_at`; None: every problem.
    """

    problems = tuple(f"Q{n}: " for n in range(8))

    def __init__(
        self, *, calls: int = 2, delay_s: float = 0.0, fail_at: int | None = None, fail_on: int | None = None
    ) -> None:
        self.action_space = self.observation_space = gymnasium.spaces.Text(10_000)
        self.calls, self.delay_s, self.fail_at, self.fail_on = calls, delay_s, fail_at, fail_on
        self.actions: list[str] = []
        self.closed = False
        self._made = self._budget = self._problem = self._steps = 0
        self._transcript = ""

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        self._problem = int(options.get("problem_index", self.np_random.integers(len(self.problems))))
        self._budget = int(options.get("interaction_budget", self.calls))
        self._made = self._steps = 0
        self._transcript = ""
        return self.problems[self._problem], {"problem_id": str(self._problem)}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        self.actions.append(action)
        time.sleep(self.delay_s * self.np_random.random())
        if self._steps == self.fail_at and self.fail_on in (None, self._problem):
            raise OSError("the environment broke")
        at = action.find("`\n") if self._made < self._budget else -1
        if at >= 0:
            kept = at + 2 + len(action[at + 2 :]) - len(action[at + 2 :].lstrip("\n"))
            self._made += 1
            self._transcript += action[:kept]
            return f"[{self._made}]\n", 0.0, False, False, self._info(kept)
        self._transcript += action
        letters = [letter for letter in self._transcript if letter.isalpha()]
        reward = 1.0 if letters and letters[-1] <= "m" else -1.0
        return "", reward, True, False, self._info(len(action)) | {"answer": "".join(letters[-1:])}

    def close(self) -> None:
        self.closed = True

    def _info(self, kept_chars: int) -> dict[str, Any]:
        return {"problem_id": str(self._problem), "kept_chars": kept_chars, "n_code_blocks": self._made}


class ScannedCallEnv(CallEnv):
    """The same, and it tells the engine where an action ends."""

    def action_scanner(self) -> CallScanner | None:
        return CallScanner() if self._made < self._budget else None


@contextmanager
def pool(make_env: Callable[[], gymnasium.Env[str, str]] = ScannedCallEnv, num_envs: int = 4) -> Iterator[EnvPool]:
    """A pool of environments that is closed at the end."""
    envs = ThreadedPool(make_env, num_envs)
    try:
        yield envs
    finally:
        envs.close()


def episodes(count: int, *, group_size: int = 2, **options: Any) -> list[EpisodeSpec]:
    """Episodes in groups, with sampling streams of their own."""
    return [
        EpisodeSpec(
            group_id=number // group_size,
            env_seed=number // group_size,
            sampling_seed=1000 + number,
            options={"problem_index": (number // group_size) % len(CallEnv.problems)} | options,
        )
        for number in range(count)
    ]
