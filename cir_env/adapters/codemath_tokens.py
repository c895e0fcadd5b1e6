r"""`CodeMathTokens-v0`: a small `CodeMath-v0` for algorithms that work with numbers and arrays.

The problems are the 25 sums of two digits from 0 to 4, the vocabulary has 28 words, and a transcript has at most 16
tokens, so that a two-layer network learns the task in a minute (by memorising it: it may run blocks, but need not).
Everything else is as in `CodeMath-v0`: blocks are parsed and executed, and answers are graded.

Example:
    >>> env = gymnasium.make("cir_env:CodeMathTokens-v0")  # doctest: +SKIP
    >>> observation, info = env.reset(seed=0)  # doctest: +SKIP
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import gymnasium

from cir_env.adapters.tokens import TokenActions
from cir_env.env import CodeMathEnv
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


def make_tokens_env(**arguments: Any) -> gymnasium.Env[Any, Any]:
    """Make the environment; `arguments` are those of `CodeMathEnv` except problems, prompt and observation."""
    env = CodeMathEnv(problems=sums(), prompt="question", observation="feedback", **arguments)
    return TokenActions(env, Words(), MAX_TOKENS)
