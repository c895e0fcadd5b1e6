"""The state of a running request, shared by all engines so that they count and stop alike."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agents.core.errors import EngineError, EngineFault
from agents.core.types import Completion, FinishReason
from agents.engines.base import Sampling, Scanner

if TYPE_CHECKING:
    from agents.core.chat import Chat
    from agents.core.decoder import TokenDecoder


def check_room(token_ids: Sequence[int], begun: Completion | None, max_model_len: int) -> int:
    """Return how many tokens fit after a context.

    Args:
        token_ids: The context.
        begun: First part of the completion, if there is one.
        max_model_len: Maximum tokens per request.

    Raises:
        EngineError: The context is empty or leaves no room for a token.
    """
    length = len(token_ids) + (0 if begun is None else len(begun.token_ids))
    if not token_ids or length >= max_model_len:
        raise EngineError(f"Expect a context of 1 to {max_model_len - 1} tokens, got {length}: raise max_model_len.")
    return max_model_len - length


@dataclass(kw_only=True, slots=True)
class Request:
    """A running request; create it with :meth:`begin`."""

    request_id: int
    context: list[int]
    """Prompt and all tokens sampled so far."""
    sampling: Sampling
    max_tokens: int
    """Maximum number of new tokens: ``sampling.max_tokens``, or less if the engine has less room."""
    scanner: Scanner | None
    decoder: TokenDecoder
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    policy_versions: list[int] = field(default_factory=list)
    text: str = ""
    text_ends: list[int] = field(default_factory=list)
    begun: int = 0
    """Number of tokens that were sampled before this request."""

    @classmethod
    def begin(
        cls,
        request_id: int,
        token_ids: Sequence[int],
        sampling: Sampling,
        scanner: Scanner | None,
        begun: Completion | None,
        *,
        chat: Chat,
        max_model_len: int,
    ) -> Request:
        """Validate the arguments of :meth:`agents.engines.base.Engine.submit` and build the request."""
        room = check_room(token_ids, begun, max_model_len)
        request = cls(
            request_id=request_id,
            context=list(token_ids),
            sampling=sampling,
            max_tokens=min(sampling.max_tokens, room),
            scanner=scanner,
            decoder=chat.decoder(),
        )
        if begun is not None:
            for token in zip(begun.token_ids, begun.logprobs, begun.policy_versions, strict=True):
                piece = request._keep(*token)
                if piece and scanner is not None:
                    scanner.feed(piece)
            request.begun = len(begun.token_ids)
        return request

    def append(
        self, token_id: int, logprob: float, policy_version: int, stop_token_ids: Collection[int]
    ) -> FinishReason | None:
        """Add a sampled token.

        Args:
            token_id: The token.
            logprob: Its log-probability, in nats.
            policy_version: Version of the weights that sampled it.
            stop_token_ids: Tokens that end a completion.

        Returns:
            Why the completion ends, or None if it continues.

        Raises:
            EngineFault: The log-probability is not finite.
        """
        if not math.isfinite(logprob):
            raise EngineFault(
                f"Expect finite log-probabilities, got {logprob}: the weights of version {policy_version} are broken. "
                "Resume from an earlier checkpoint with a lower learning rate."
            )
        if token_id in stop_token_ids:
            self._flush()
            self._keep(token_id, logprob, policy_version, has_text=False)
            return "stop"
        piece = self._keep(token_id, logprob, policy_version)
        if piece and self.scanner is not None and self.scanner.feed(piece) is not None:
            self._flush()
            return "boundary"
        if self.room <= 0:
            self._flush()
            return "length"
        return None

    @property
    def room(self) -> int:
        """How many tokens may still be sampled."""
        return self.max_tokens - (len(self.token_ids) - self.begun)

    def completion(self, reason: FinishReason) -> Completion:
        """Return the tokens sampled so far as a completion."""
        return Completion(
            request_id=self.request_id,
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            text=self.text,
            text_ends=tuple(self.text_ends),
            finish_reason=reason,
            policy_versions=tuple(self.policy_versions),
        )

    def _keep(self, token_id: int, logprob: float, policy_version: int, *, has_text: bool = True) -> str:
        """Add a token; return the text it completes."""
        piece = self.decoder.step(token_id) if has_text else ""
        self.context.append(token_id)
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        self.policy_versions.append(policy_version)
        self.text += piece
        before = self.text_ends[-1] if self.text_ends else 0
        self.text_ends.append(before if self.decoder.is_inside_character else len(self.text))
        return piece

    def _flush(self) -> None:
        """Attribute an incomplete trailing character to the last token."""
        self.text += self.decoder.finish()
        if self.text_ends:
            self.text_ends[-1] = len(self.text)
