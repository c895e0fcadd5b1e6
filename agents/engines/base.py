"""What every engine does: token ids in, sampled token ids out, many requests at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agents.errors import AgentsError

if TYPE_CHECKING:
    import torch

    from agents.types import Completion


class EngineError(AgentsError, ValueError):
    """A request that the engine can not serve."""


class Scanner(Protocol):
    """Watches the text of a completion for the place where sampling ends."""

    def feed(self, piece: str) -> int | None:
        """Take the next piece of text; return the offset at which sampling may end, once it is known."""
        ...


ScannerFactory = Callable[[], Scanner]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the tokens of one request are drawn."""

    temperature: float = 1.0
    """Logits are divided by it; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability may be drawn."""
    max_tokens: int = 1024
    """At most so many tokens are sampled."""
    seed: int = 0
    """The request's own random stream: what it draws depends on nothing else."""


class Engine(Protocol):
    """Samples completions for requests that may come back with more context, turn after turn."""

    max_model_len: int
    """Most tokens that a request may hold, prompt included."""
    version: int
    """Version of the weights in use."""

    def submit(
        self, request_id: int, token_ids: Sequence[int], sampling: Sampling, scanner: Scanner | None = None
    ) -> None:
        """Ask for a completion of ``token_ids``.

        A request that was submitted before and not released keeps its key-value cache: only what follows the common
        prefix is computed.

        Raises:
            EngineError: The context is empty or leaves no room for a token, or the request is still running.
        """
        ...

    @property
    def busy(self) -> bool:
        """Whether :meth:`poll` has something to do; False also while all rows wait for their next turn."""
        ...

    def poll(self) -> list[Completion]:
        """Do one step of work for all requests and return those that have ended; empty if nothing runs."""
        ...

    def release(self, request_id: int) -> None:
        """Forget a request and its cache, whether it is running or not."""
        ...

    def load_weights(self, version: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over a model's state dict; what is sampled from here on is of ``version``."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...
