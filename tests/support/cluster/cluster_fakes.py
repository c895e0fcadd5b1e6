"""What the actors of a test run in place of a model; like `scripted`, it needs neither torch nor transformers."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripted import ByteChat, FakeEngine, ScannedCallEnv

from agents.engines.base import Weights
from agents.rollout.envs import EnvPool, ThreadedPool
from agents.rollout.source import LocalSource

if TYPE_CHECKING:
    from agents.cluster.weights import SentWeights  # imports torch

_POLL_S = 0.004  # a step of the engine: an episode of 40 tokens takes a fraction of a second


def open_scripted(number: int) -> LocalSource:
    """An engine whose tokens depend on the seeds alone."""
    chat: Any = ByteChat()
    return LocalSource(FakeEngine(chat, poll_s=_POLL_S), chat)


def open_calls(count: int) -> EnvPool:
    """Copies of an environment that answers calls."""
    return _opened(ScannedCallEnv, count, open_calls)


class FickleEnv(ScannedCallEnv):
    """Asks what another process does not ask."""

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        prompt, info = super().reset(seed=seed, options=options)
        return f"{prompt}{os.getpid()}", info


class FailingEnv(ScannedCallEnv):
    """Fails at the first step of an episode."""

    def __init__(self) -> None:
        super().__init__(fail_at=1)


class LostEnv(ScannedCallEnv):
    """Ends its process, unless that is the test's."""

    def __init__(self) -> None:
        super().__init__()
        if Path(sys.argv[0]).name == "default_worker.py":
            os._exit(1)


def open_fickle(count: int) -> EnvPool:
    return _opened(FickleEnv, count, open_fickle)


def open_failing(count: int) -> EnvPool:
    return _opened(FailingEnv, count, open_failing)


def open_lost(count: int) -> EnvPool:
    return _opened(LostEnv, count, open_lost)


def _opened(make: Callable[[], ScannedCallEnv], count: int, open_others: Callable[[int], EnvPool]) -> EnvPool:
    opened = ThreadedPool(make, count)
    opened.open_others = open_others
    return opened


@dataclass(frozen=True)
class NoWeights:
    """Weights without tensors, and the channel that sends them."""

    version: int = 0

    def send(self, version: int, weights: Weights) -> NoWeights:
        return NoWeights(version)

    def receive(self) -> Weights:
        return Weights.of({})


@dataclass(frozen=True)
class Deadly:
    """Weights whose first reader dies."""

    sent: SentWeights
    mark: Path

    @property
    def version(self) -> int:
        return self.sent.version

    def receive(self) -> Weights:
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.sent.receive()


class Dies:
    """A trainer whose process ends."""

    def __init__(self, config: Any) -> None:
        pass

    def train(self) -> bool:
        os._exit(1)

    def stop(self) -> None: ...

    def close(self) -> None: ...


class Stops(Dies):
    """A trainer that ends as soon as it is asked to."""

    asked = False

    def train(self) -> bool:
        while not self.asked:
            time.sleep(0.05)
        return False

    def stop(self) -> None:
        self.asked = True


def length(record: Any) -> float:
    """A reward that differs between the episodes of an untrained model."""
    return float(record.n_chars % 5)
