"""`TokenActions` and `NumericInfo`: `CodeMathEnv` for algorithms that work with numbers and arrays."""

import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from cir_env.errors import ActionError, EpisodeError, OptionError, check_integer

Observation = dict[str, NDArray[np.int64] | NDArray[np.int8]]


class Tokenizer(Protocol):
    """Converts between text and token ids, like the tokenizers of transformers."""

    def encode(self, text: str) -> Sequence[int]:
        """Return the token ids of a text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""


class TokenActions(gymnasium.Env[Any, Any]):
    """One action is one token: for Stable-Baselines3 and similar libraries.

    The tokens of a turn are collected, with reward 0, until they complete a code block that the environment would
    execute, the end-of-sequence token is sampled, or the transcript is full. Their text is then one action of the
    text environment, and its feedback is appended to the observation as tokens. `render` shows complete turns alone.

    Args:
        env: A text environment with the `action_scanner` and the info of `CodeMathEnv`.
        tokenizer: Converts between text and token ids.
        max_tokens: Length of the observation. A transcript that fills it is graded as it stands, and truncated.
        vocab_size: Number of token ids; by default ``len(tokenizer)``.
        eos_token_id: The id that ends an answer; by default ``tokenizer.eos_token_id``.

    Attributes:
        action_space: ``Discrete(vocab_size)``.
        observation_space: A ``Dict`` of "token_ids", int64 (max_tokens,), the transcript padded with zeros, and
            "attention_mask", int8 (max_tokens,), 1 where there is a token.
        env: The text environment.

    Raises:
        OptionError: An argument is out of range, or is omitted and not known to the tokenizer.
    """

    def __init__(
        self,
        env: gymnasium.Env[str, str],
        tokenizer: Tokenizer,
        max_tokens: int,
        *,
        vocab_size: int | None = None,
        eos_token_id: int | None = None,
    ) -> None:
        self.env, self.metadata, self.render_mode = env, env.metadata, env.render_mode
        self._max_tokens = check_integer("max_tokens", max_tokens, 2)
        size = _given("vocab_size", vocab_size, lambda: len(tokenizer))  # type: ignore[arg-type]
        self._eos = _given("eos_token_id", eos_token_id, lambda: tokenizer.eos_token_id)  # type: ignore[attr-defined]
        if not 0 <= self._eos < size:
            raise OptionError(f"Expect `eos_token_id` to be from 0 to {size - 1}, got {self._eos}.")
        self._encode, self._decode = _encoder(tokenizer), tokenizer.decode
        self._vocab_size = size
        self.action_space = spaces.Discrete(size)
        self.observation_space = spaces.Dict(
            token_ids=spaces.Box(0, size - 1, (max_tokens,), np.int64), attention_mask=spaces.MultiBinary(max_tokens)
        )
        self._ids: list[int] = []
        self._turn: list[int] = []
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; see `CodeMathEnv.reset`.

        Raises:
            OptionError: The prompt fills the whole observation, or as in `CodeMathEnv.reset`.
        """
        super().reset(seed=seed)
        prompt, self._info = self.env.reset(seed=seed, options=options)
        self._ids = list(self._encode(prompt))
        if len(self._ids) >= self._max_tokens:
            raise OptionError(
                f"Expect `max_tokens` to be larger than the prompt, got {self._max_tokens} for "
                f"{len(self._ids)} tokens. Raise it, or drop the problem."
            )
        self._over = False
        self._begin_turn()
        return self._observe(), deepcopy(self._info)

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Append a token.

        Args:
            action: A token id.

        Raises:
            ActionError: The action is not a token id.
            EpisodeError: No episode is in progress.
        """
        if not self.action_space.contains(action):
            raise ActionError(f"Expect an action to be a token id from 0 to {self._vocab_size - 1}, got {action!r}.")
        if self._over:
            raise EpisodeError("Expect an episode in progress, got none. Call reset() first.")
        self._ids.append(int(action))
        if action == self._eos:
            return self._end_turn(self._decode(self._turn), full=False)
        self._turn.append(int(action))
        text = self._decode(self._turn)
        full = len(self._ids) >= self._max_tokens
        if full or self._completes_block(text):
            return self._end_turn(text, full=full)
        return self._observe(), 0.0, False, False, deepcopy(self._info)

    def render(self) -> Any:
        """Render the text environment."""
        return self.env.render()

    def close(self) -> None:
        """Close the text environment."""
        self.env.close()

    def _begin_turn(self) -> None:
        self._turn.clear()
        self._scanner = self.env.get_wrapper_attr("action_scanner")()
        self._scanned = 0

    def _completes_block(self, text: str) -> bool:
        if self._scanner is None or text.endswith("\N{REPLACEMENT CHARACTER}"):  # maybe an incomplete character
            return False
        piece, self._scanned = text[self._scanned :], len(text)
        return self._scanner.feed(piece) is not None

    def _end_turn(self, text: str, *, full: bool) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, self._info = self.env.step(text)
        if not (terminated or truncated):
            kept = self._info["kept_chars"]
            if kept < len(text):
                self._ids[-len(self._turn) :] = self._encode(text[:kept])
            self._ids += self._encode(self._info["feedback"])
            full = len(self._ids) >= self._max_tokens
            if full:
                del self._ids[self._max_tokens :]
                _, reward, *_, self._info = self.env.step("")  # graded as it stands
            else:
                self._begin_turn()
        self._over = terminated or truncated or full
        return self._observe(), float(reward), terminated and not full, truncated or full, deepcopy(self._info)

    def _observe(self) -> Observation:
        token_ids, attention_mask = np.zeros(self._max_tokens, np.int64), np.zeros(self._max_tokens, np.int8)
        token_ids[: len(self._ids)] = self._ids
        attention_mask[: len(self._ids)] = 1
        return {"token_ids": token_ids, "attention_mask": attention_mask}


class NumericInfo(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Keeps the numbers and bools of `info`, for libraries that store it in arrays, such as Tianshou and TorchRL.

    Example:
        >>> from cir_env import CodeMathEnv
        >>> env = NumericInfo(CodeMathEnv(problems="products"))
        >>> _, info = env.reset(seed=0)
        >>> info["interactions_left"], "messages" in info
        (2, False)
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode of the wrapped environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, numbers_in(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the wrapped environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, numbers_in(info)


def numbers_in(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries whose values are numbers or bools.

    >>> numbers_in({"correct": True, "kept_chars": 3, "answer": None, "source": "me"})
    {'correct': True, 'kept_chars': 3}
    """
    return {name: value for name, value in info.items() if isinstance(value, numbers.Real | np.bool_)}


def _given(name: str, value: int | None, ask: Callable[[], Any]) -> int:
    """Return the argument, or the default from the tokenizer."""
    if value is None:
        try:
            value = ask()
        except (AttributeError, TypeError):
            value = None
        if value is None:
            raise OptionError(f"Expect `{name}` to be given, since the tokenizer does not define it, got None.")
    return check_integer(name, value, 0)


def _encoder(tokenizer: Tokenizer) -> Callable[[str], Sequence[int]]:
    """Return a function that encodes a piece of a transcript, without special tokens around it."""
    if "add_special_tokens" in inspect.signature(tokenizer.encode).parameters:
        encode: Callable[..., Sequence[int]] = tokenizer.encode
        return partial(encode, add_special_tokens=False)
    return tokenizer.encode
