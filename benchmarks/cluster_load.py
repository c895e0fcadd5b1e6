"""What `benchmarks/cluster.py` lets the processes of a cluster do: engines that sleep, weights that travel or kill."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from agents.cluster.weights import SentWeights
from agents.core.chat import Chat
from agents.core.types import Completion
from agents.engines.base import Sampling, Scanner, Weights
from agents.engines.request import Request
from agents.models.find import resolve_model
from agents.models.load import load_tokenizer
from agents.rollout.envs import EnvPool, ThreadedPool
from agents.rollout.source import LocalSource

_MAX_MODEL_LEN = 512
_TEXT = "An answer."
STEPS = 100
"""Steps of a sleeping engine for an episode."""


class SleepingEngine:
    """Takes the same time for every completion, and none of the processor's; it samples only while it is asked to.

    Args:
        chat: Encodes the completion.
        step_s: Seconds of a step.
    """

    cache_tokens: int | None = None
    has_weights = True
    max_model_len = _MAX_MODEL_LEN

    def __init__(self, chat: Chat, step_s: float) -> None:
        self.version = 0
        self._chat, self._step_s = chat, step_s
        self._tokens = chat.encode_feedback(_TEXT)
        self._running: dict[int, tuple[Request, int]] = {}  # with the steps that are left
        self._late_s = 0.0

    def submit(
        self,
        request_id: int,
        token_ids: Sequence[int],
        sampling: Sampling,
        scanner: Scanner | None = None,
        *,
        begun: Completion | None = None,
    ) -> None:
        """Request a completion."""
        request = Request.begin(
            request_id, token_ids, sampling, scanner, begun, chat=self._chat, max_model_len=self.max_model_len
        )
        self._running[request_id] = request, STEPS

    @property
    def busy(self) -> bool:
        """Whether a request is running."""
        return bool(self._running)

    def poll(self) -> list[Completion]:
        """Sleep for a step; the next one makes up for a sleep that was too long."""
        begin = time.perf_counter()
        time.sleep(max(0.0, self._step_s - self._late_s))
        self._late_s += time.perf_counter() - begin - self._step_s
        ended = []
        for request_id, (request, steps) in list(self._running.items()):
            self._running[request_id] = request, steps - 1
            if steps == 1:
                del self._running[request_id]
                for token in self._tokens:
                    request.append(token, -1.0, self.version, ())
                ended.append(request.completion("stop"))
        return ended

    def release(self, request_id: int) -> None:
        """Discard a request."""
        self._running.pop(request_id, None)

    def load_weights(self, version: int, weights: Weights) -> None:
        """Copy the weights, as an engine does."""
        for _, tensor in weights.tensors:
            tensor.clone()
        self.version = version

    def sleep(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def open_sleeping(step_s: float, factors: Mapping[int, float], number: int) -> LocalSource:
    """Open an engine whose steps take ``step_s``, times the factor of its number."""
    chat = Chat(load_tokenizer(resolve_model("tiny", log=lambda _: None)))
    return LocalSource(SleepingEngine(chat, step_s * factors.get(number, 1.0)), chat)


def open_noting(folder: Path, open_source: Callable[[int], LocalSource], number: int) -> LocalSource:
    """Note the process that has the engine of this number, and open the engine."""
    (folder / str(number)).write_text(str(os.getpid()))
    return open_source(number)


class Quiet(gymnasium.Env[str, str]):
    """One step, in which nothing happens."""

    def __init__(self) -> None:
        self.action_space = self.observation_space = gymnasium.spaces.Text(1000)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        return "A question.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """End it."""
        return "", 1.0, True, False, {}


def open_quiet(num_envs: int) -> EnvPool:
    """Open copies of the environment."""
    envs = ThreadedPool(Quiet, num_envs)
    envs.open_others = open_quiet
    return envs


@dataclass(frozen=True, kw_only=True)
class CopyForEach:
    """Weights that are sent to each engine on its own; implements `SentWeights`."""

    version: int
    """Version of the weights."""
    arrays: Mapping[str, np.ndarray[Any, Any]]
    """By name."""

    def receive(self) -> Weights:
        """Return the weights."""
        return Weights.of({name: torch.tensor(array) for name, array in self.arrays.items()})


@dataclass(frozen=True, kw_only=True)
class Deadly:
    """Weights whose first reader dies; implements `SentWeights`."""

    sent: SentWeights
    """The weights of all others."""
    mark: Path
    """A file that does not exist yet."""

    @property
    def version(self) -> int:
        """Version of the weights."""
        return self.sent.version

    def receive(self) -> Weights:
        """Leave the mark and die, or return the weights."""
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.sent.receive()
