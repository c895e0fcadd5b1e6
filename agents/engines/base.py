"""What every engine does: token ids in, sampled token ids out, many requests at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from agents.core.types import Completion


BROKEN = "Expect an engine with whole weights, got one whose last load failed: load whole ones first."


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
        self,
        request_id: int,
        token_ids: Sequence[int],
        sampling: Sampling,
        scanner: Scanner | None = None,
        *,
        begun: Completion | None = None,
    ) -> None:
        """Ask for a completion of ``token_ids``.

        A request that was submitted before and not released keeps its key-value cache while there is room for it: only
        what follows the common prefix is computed.

        Args:
            request_id: The same number over all turns of an episode.
            token_ids: What stands before the completion.
            sampling: How tokens are drawn; ``max_tokens`` and the seed are for those that are drawn from now on.
            scanner: Ends the completion at a place in its text; a new one for every call.
            begun: The completion's first part, which ended by ``length``: the new one holds it, too, and goes on.

        Raises:
            EngineError: The context is empty or leaves no room for a token, or the request is still running.
        """
        ...

    @property
    def busy(self) -> bool:
        """Whether :meth:`poll` has something to do."""
        ...

    def poll(self) -> list[Completion]:
        """Do one step of work for all requests and return those that have ended; empty if nothing runs."""
        ...

    def release(self, request_id: int) -> None:
        """Forget a request and its cache, whether it is running or not."""
        ...

    def load_weights(self, version: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over a model's state dict; every token that is sampled from here on is of ``version``.

        Requests that run go on with the new weights.

        Raises:
            EngineError: The weights are not this model's. The engine must not be used before others are loaded.
        """
        ...

    def sleep(self) -> None:
        """Give memory back until :meth:`load_weights`, for an update on the same device; nothing may run."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...
