"""Converts text to token ids and back; the only file that uses a chat template.

A prompt is encoded once, as a user turn or as the environment's messages. One assistant turn follows, written by the
policy and the environment together. Feedback is encoded on its own and appended, so that sampled tokens are never
re-encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateError
from tokenizers.decoders import DecodeStream

from agents.core.errors import ModelError, one_line

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase


class Chat:
    """Encodes prompts and feedback, and decodes sampled tokens piece by piece.

    Args:
        tokenizer: A fast tokenizer with an end-of-sequence token.
        template: ``chat`` wraps the prompt in a user turn of the tokenizer's chat template and opens the assistant's
            turn (with ``enable_thinking=False``, which templates may ignore); ``raw`` uses the prompt unchanged, as the
            paper's evaluation of Qwen2.5-Math does.

    Raises:
        ModelError: The tokenizer is slow, has no end-of-sequence token, or lacks the requested chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Literal["chat", "raw"] = "chat") -> None:
        if template == "chat" and not tokenizer.chat_template:
            raise ModelError("Expect a tokenizer with a chat template, got one without: use `--template raw`.")
        if tokenizer.eos_token_id is None:
            raise ModelError("Expect a tokenizer with an end-of-sequence token, got one without.")
        if not tokenizer.is_fast:
            raise ModelError(f"Expect a fast tokenizer, got the slow {type(tokenizer).__name__}.")
        self.tokenizer = tokenizer
        self.template = template

    def stop_token_ids(self, generation_config: GenerationConfig | None) -> frozenset[int]:
        """Return the tokens that end a completion: the tokenizer's eos token and those of the generation config."""
        named = getattr(generation_config, "eos_token_id", None)
        more = named if isinstance(named, list) else [] if named is None else [named]
        return frozenset([int(self.tokenizer.eos_token_id), *more])

    def encode_prompt(self, prompt: str, messages: Sequence[Mapping[str, str]] | None = None) -> list[int]:
        """Return the token ids before the policy's first token.

        Args:
            prompt: The prompt as a single text.
            messages: The prompt as chat messages, used with the chat template; None: one user turn with ``prompt``.

        Raises:
            ModelError: The chat template rejects the messages, such as a system message that it has no place for.
        """
        if self.template == "raw":
            return self._encode(prompt)
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages or [{"role": "user", "content": prompt}]],
                add_generation_prompt=True,
                tokenize=False,
                enable_thinking=False,
            )
        except TemplateError as error:
            roles = [message["role"] for message in messages or ()]
            raise ModelError(
                f"Expect a chat template that takes messages of the roles {roles}, got: {one_line(error)}. "
                "Use `--template raw`, or a prompt without a system message."
            ) from error
        return self._encode(str(text))

    def encode_feedback(self, feedback: str) -> list[int]:
        """Return the token ids of text that the environment inserts into the assistant's turn.

        Names of special tokens are encoded as plain text, so that program output cannot end a turn.
        """
        ids: list[int] = self.tokenizer.encode(feedback, add_special_tokens=False, split_special_tokens=True)
        return ids

    def decoder(self) -> TokenDecoder:
        """Return a decoder for the tokens of one completion."""
        return TokenDecoder(self.tokenizer)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


class TokenDecoder:
    """Decodes a stream of sampled tokens; bytes of an incomplete character are held back."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._backend: Any = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=False)
        self._pending: list[int] = []

    def step(self, token_id: int) -> str:
        """Return the text completed by ``token_id``, possibly empty."""
        piece = self._stream.step(self._backend, token_id)
        if piece is None:
            self._pending.append(token_id)
            return ""
        self._pending.clear()
        return str(piece)

    def finish(self) -> str:
        """Return the text held back, with replacement characters for invalid bytes."""
        text = self._backend.decode(self._pending, skip_special_tokens=False) if self._pending else ""
        self._pending.clear()
        return str(text)
