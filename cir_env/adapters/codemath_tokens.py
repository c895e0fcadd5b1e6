r"""`CodeMathTokens-v0`: a small `CodeMath-v0` for algorithms that work with numbers and arrays.

The problems are the 25 sums of two digits from 0 to 4, the vocabulary has 28 words, and a transcript has at most 16
tokens, so that a two-layer network learns the task in a minute (by memorising it: it may run blocks, but need not).
Everything else is as in `CodeMath-v0`: blocks are parsed and executed, and answers are graded.

Example:
    >>> import gymnasium
    >>> env = gymnasium.make("cir_env:CodeMathTokens-v0", flat=True)
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape, env.action_space
    ((448,), Discrete(28))
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from cir_env.adapters.tokens import Observation, TokenActions, numbers_in
from cir_env.env import CodeMathEnv
from cir_env.errors import check_choice
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet

MAX_TOKENS: Final = 16
END: Final = "<end>"
OTHER: Final = "<other>"
WORDS: Final = (
    END,
    OTHER,
    *"0123456789",
    " + ",
    " = ",
    "```python\nprint(",
    ")\n```\n",
    "```output\n",
    "\n```\n",
    *(rf"\boxed{{{digit}}}" for digit in range(10)),
)
"""The vocabulary, indexed by token id. `END` ends an answer; `OTHER` replaces text that no word matches."""

PATTERN: Final = "|".join(map(re.escape, sorted(WORDS, key=len, reverse=True)))
"""A regular expression for one word."""


class Words:
    r"""The tokenizer for `WORDS`; it always takes the longest word that matches.

    >>> Words().decode(Words().encode("3 + 4 = \\boxed{7}"))
    '3 + 4 = \\boxed{7}'
    >>> [WORDS[i] for i in Words().encode("7, or so")]
    ['7', '<other>']
    """

    eos_token_id = WORDS.index(END)
    _ids: Final = {word: i for i, word in enumerate(WORDS)}
    _pieces: Final = re.compile(PATTERN)

    def __len__(self) -> int:
        return len(WORDS)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        ids, end = [], 0
        for match in self._pieces.finditer(text):
            ids += [self._ids[OTHER]] * (match.start() > end) + [self._ids[match[0]]]
            end = match.end()
        return ids + [self._ids[OTHER]] * (len(text) > end)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return "".join(WORDS[i] for i in token_ids)


def sums() -> ProblemSet:
    """Return the sums of two digits from 0 to 4.

    >>> len(sums()), sums()[7].statement, sums()[7].answer
    (25, '1 + 2 = ', '3')
    """
    pairs = [(a, b) for a in range(5) for b in range(5)]
    return ProblemSet(
        [
            Problem(id=f"{a}+{b}", statement=f"{a} + {b} = ", answer=str(a + b), source="small", subject="sums")
            for a, b in pairs
        ],
        name="sums",
    )


class CodeMathTokensEnv(TokenActions):
    """`CodeMathTokens-v0`.

    Args:
        flat: Whether an observation is a float32 array of shape (16 * 28,) in place of a dict: each token as a one-hot
            vector, and zeros for padding. For networks without an embedding.
        arguments: Those of `CodeMathEnv` except problems, prompt and observation.

    The infos have the numbers of `CodeMathEnv`'s alone; see `cir_env.NumericInfo`.
    """

    metadata = CodeMathEnv.metadata

    def __init__(self, *, flat: bool = False, **arguments: Any) -> None:
        env = CodeMathEnv(problems=sums(), prompt="question", observation="feedback", **arguments)
        super().__init__(env, Words(), MAX_TOKENS)
        self._flat = check_choice("flat", flat, (False, True))
        if flat:
            self.observation_space = spaces.Box(0, 1, (MAX_TOKENS * len(WORDS),), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; see `TokenActions.reset`."""
        observation, info = super().reset(seed=seed, options=options)
        return self._shape(observation), numbers_in(info)

    def step(self, action: np.int64 | int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Append a token; see `TokenActions.step`."""
        observation, reward, terminated, truncated, info = super().step(action)
        return self._shape(observation), reward, terminated, truncated, numbers_in(info)

    def _shape(self, observation: Observation) -> Observation | NDArray[np.float32]:
        if not self._flat:
            return observation
        one_hot = np.eye(len(WORDS), dtype=np.float32)[observation["token_ids"]]
        return (one_hot * observation["attention_mask"][:, None]).ravel()
