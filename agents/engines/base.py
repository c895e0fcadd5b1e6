"""The engine interface: token ids in, sampled token ids out, many concurrent requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from agents.core.types import Completion


BROKEN = "Expect an engine with complete weights, got one whose last load failed: load complete weights first."
"""Error message of an engine that is used after a failed :meth:`Engine.load_weights`."""


class Scanner(Protocol):
    """Watches the text of a completion for the point at which sampling ends, such as the end of a code block."""

    def feed(self, piece: str) -> int | None:
        """Consume the next piece of text; return the character offset at which to stop, or None to continue."""
        ...


ScannerFactory = Callable[[], Scanner]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Sampling parameters of one request.

    The filters apply after the temperature, in the order ``min_p``, ``top_k``, ``top_p``, and log-probabilities are
    those of the filtered distribution. They are for evaluations: a trainer needs the probabilities of all tokens.
    """

    temperature: float = 1.0
    """Divides the logits, at least 0; 0 decodes greedily."""
    top_p: float = 1.0
    """Nucleus sampling: draw from the smallest set of likeliest tokens with at least this probability, in (0, 1]."""
    top_k: int = 0
    """Draw from this many likeliest tokens, and those as likely as the last of them; 0: from all."""
    min_p: float = 0.0
    """Draw from tokens with at least this share of the probability of the likeliest one, in [0, 1]."""
    max_tokens: int = 1024
    """Maximum number of sampled tokens."""
    seed: int = 0
    """Seed of the request's random stream, which does not depend on any other request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """The weights of a model, on their way to an engine."""

    shapes: Mapping[str, tuple[int, ...]]
    """Of every tensor, by its name in the state dict: known before a tensor is read."""
    tensors: Iterable[tuple[str, torch.Tensor]]
    """Every tensor with its name, to be read once: where the model is sharded, reading is a collective call. Tied
    weights come under each of their names, one after the other, as the same tensor."""

    @classmethod
    def of(cls, state_dict: Mapping[str, torch.Tensor]) -> Weights:
        """Return tensors that are all at hand."""
        shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
        return cls(shapes=shapes, tensors=state_dict.items())


class Engine(Protocol):
    """Samples completions for multi-turn requests: each turn resubmits a request with a longer context."""

    max_model_len: int
    """Maximum tokens per request, prompt included."""
    version: int
    """Version of the current weights."""
    has_weights: bool
    """Whether it can sample: not after a failed :meth:`load_weights`, nor after a :meth:`sleep` that freed weights."""
    cache_tokens: int | None
    """Tokens that its cache holds, over all requests; None: ``max_model_len`` of each request that it runs at once."""

    def submit(
        self,
        request_id: int,
        token_ids: Sequence[int],
        sampling: Sampling,
        scanner: Scanner | None = None,
        *,
        begun: Completion | None = None,
    ) -> None:
        """Request a completion of ``token_ids``.

        A request keeps its KV cache between turns while memory allows, until it is released: only the tokens after the
        common prefix are computed.

        Args:
            request_id: Identifies the episode; the same number in all of its turns.
            token_ids: The context, at least one token.
            sampling: Sampling parameters; ``max_tokens`` and ``seed`` apply to newly sampled tokens.
            scanner: Ends the completion early; a fresh one for every call.
            begun: First part of the completion, which ended by ``length``: the new completion contains it and
                continues it.

        Raises:
            EngineError: The context is empty or leaves no room for a token, or the request is still running.
        """
        ...

    @property
    def busy(self) -> bool:
        """Whether :meth:`poll` has work to do."""
        ...

    def poll(self) -> list[Completion]:
        """Run one step for all requests and return the completions that have ended."""
        ...

    def release(self, request_id: int) -> None:
        """Discard a request and its KV cache; a running request is aborted."""
        ...

    def load_weights(self, version: int, weights: Weights) -> None:
        """Replace the weights; tokens sampled after the call belong to ``version``.

        Running requests continue with the new weights.

        Args:
            version: Version of the weights.
            weights: All weights of the model.

        Raises:
            EngineError: The weights belong to another model. The engine is unusable until correct ones are loaded.
        """
        ...

    def sleep(self) -> None:
        """Free device memory until :meth:`load_weights` is called; no request may be running."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...
