"""A completion in the making: the tokens so far, their text, and where it ends. All engines count and cut alike."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agents.core.errors import EngineError, EngineFault
from agents.core.types import Completion, FinishReason
from agents.engines.base import Sampling, Scanner

if TYPE_CHECKING:
    from agents.core.chat import Chat, TokenDecoder


def check_room(token_ids: Sequence[int], begun: Completion | None, max_model_len: int) -> int:
    """Return how many tokens an engine has room for behind a context.

    Raises:
        EngineError: There is no room, or no context.
    """
    length = len(token_ids) + (0 if begun is None else len(begun.token_ids))
    if not token_ids or length >= max_model_len:
        raise EngineError(f"Expect a context of 1 to {max_model_len - 1} tokens, got {length}: raise max_model_len.")
    return max_model_len - length


@dataclass(kw_only=True, slots=True)
class Request:
    """A request that an engine serves; :meth:`begin` makes one."""

    request_id: int
    context: list[int]
    """Prompt and everything sampled so far."""
    sampling: Sampling
    max_tokens: int
    """At most so many tokens are sampled from now on: ``sampling.max_tokens``, or less if the engine holds less."""
    scanner: Scanner | None
    decoder: TokenDecoder
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    policy_versions: list[int] = field(default_factory=list)
    text: str = ""
    text_ends: list[int] = field(default_factory=list)
    begun: int = 0
    """How many of the tokens were sampled before this request."""

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
        """Check a request and prepare it; see :meth:`agents.engines.base.Engine.submit`."""
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
        """Add a sampled token; say why the completion ends, if it does.

        Raises:
            EngineFault: Its log-probability is no finite number.
        """
        if not math.isfinite(logprob):
            raise EngineFault(
                f"Expect finite log-probabilities, got {logprob}: the weights of version {policy_version} are broken. "
                "Go on from an earlier checkpoint, with a lower learning rate."
            )
        if token_id in stop_token_ids:
            self._flush()
            self._keep(token_id, logprob, policy_version, has_text=False)
            return "stop"
        piece = self._keep(token_id, logprob, policy_version)
        if piece and self.scanner is not None and self.scanner.feed(piece) is not None:
            return "boundary"
        if len(self.token_ids) - self.begun >= self.max_tokens:
            self._flush()
            return "length"
        return None

    def completion(self, reason: FinishReason) -> Completion:
        """Return what was sampled."""
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
        """Add a token; return the text that it completes."""
        piece = self.decoder.step(token_id) if has_text else ""
        self.context.append(token_id)
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        self.policy_versions.append(policy_version)
        self.text += piece
        self.text_ends.append(len(self.text))
        return piece

    def _flush(self) -> None:
        """Count bytes that became no character as text of the last token."""
        self.text += self.decoder.finish()
        if self.text_ends:
            self.text_ends[-1] = len(self.text)
