r"""The texts that the environment writes: the prompt, and the feedback after each block.

The prompts ``cir`` and ``text`` are those of the paper (https://arxiv.org/abs/2505.24480), word for word, since
published checkpoints were trained on them. The one-shot variants add a worked example, as a separate exchange before
the problem, for models that are too small to follow the instruction alone; it looks exactly like an episode of the
environment. ``question`` is the problem statement alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cir_env.errors import OptionError, did_you_mean
from cir_env.problems.problem import Problem

Prompt = str | Callable[[Problem], str]
"""A key of `PROMPTS`, or a function from a problem to its prompt."""

_CIR: Final = (
    "Please solve the following problem step by step. During your reasoning process, if needed, you can "
    "choose to write python code to enhance your reasoning. The code executor will run your code and provide "
    "the execution results back to you to support your reasoning process. Please put the final answer within "
    "\\boxed{}."
)
_TEXT: Final = "Please solve the following problem step by step and put the final answer within \\boxed{}."

# The generators never multiply two three-digit numbers, so the example gives away no answer.
_EXAMPLE_STATEMENT: Final = "What is 127 * 305?"
_CIR_SOLUTION: Final = """\
```python
print(127 * 305)
```
```output
38735
```
The answer is \\boxed{38735}."""
_TEXT_SOLUTION: Final = "127 * 305 = 127 * 300 + 127 * 5 = 38100 + 635 = 38735. The answer is \\boxed{38735}."

QUESTION: Final = "{question}"
"""Placeholder for the problem statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A prompt template."""

    text: str
    """Contains `QUESTION` once, and no other placeholder."""
    solution: str | None = None
    """Solution of the worked example that precedes the problem; None for no example."""


PROMPTS: Final[Mapping[str, Template]] = MappingProxyType(
    {
        "cir": Template(text=f"{_CIR}\n{QUESTION}"),
        "text": Template(text=f"{_TEXT}\n{QUESTION}"),
        "cir_one_shot": Template(text=f"{_CIR}\n{QUESTION}", solution=_CIR_SOLUTION),
        "text_one_shot": Template(text=f"{_TEXT}\n{QUESTION}", solution=_TEXT_SOLUTION),
        "question": Template(text=QUESTION),
    }
)
"""Templates by name."""


def check_prompt(prompt: Prompt) -> None:
    """Check that `prompt` is a key of `PROMPTS` or a function.

    Raises:
        OptionError: It is neither.
    """
    if isinstance(prompt, str):
        if prompt not in PROMPTS:
            names, hint = ", ".join(map(repr, PROMPTS)), did_you_mean(prompt, PROMPTS)
            raise OptionError(f"Expect `prompt` to be {names} or a function, got {prompt!r}.{hint}")
    elif not callable(prompt):
        raise OptionError(f"Expect `prompt` to be a name or a function, got {type(prompt).__name__}.")


def render_messages(prompt: Prompt, problem: Problem) -> tuple[dict[str, str], ...]:
    r"""Render the prompt for a problem as a chat: the worked example, if the template has one, and the problem.

    Args:
        prompt: A key of `PROMPTS`, or a function from a problem to a string.
        problem: The problem; its statement is inserted verbatim, including any braces.

    Returns:
        Messages with "role" ("user" or "assistant") and "content"; the last one is the user's.

    Raises:
        OptionError: The name is unknown, or the function returned something other than a string.
    """
    check_prompt(prompt)
    if not isinstance(prompt, str):
        text = prompt(problem)
        if not isinstance(text, str):
            raise OptionError(f"Expect the function `prompt` to return a string, got {type(text).__name__}.")
        return ({"role": "user", "content": text},)
    template = PROMPTS[prompt]
    before, after = template.text.split(QUESTION)
    asked = {"role": "user", "content": before + problem.statement + after}
    if template.solution is None:
        return (asked,)
    example = {"role": "user", "content": before + _EXAMPLE_STATEMENT + after}
    return (example, {"role": "assistant", "content": template.solution}, asked)


def render_prompt(prompt: Prompt, problem: Problem) -> str:
    r"""Render the prompt for a problem as a single string.

    Example:
        >>> problem = Problem(id="p", statement="What is 6 * 7?", answer="42", source="s", subject="t")
        >>> render_prompt("text", problem).splitlines()[-1]
        'What is 6 * 7?'
    """
    return join_messages(render_messages(prompt, problem))


def join_messages(messages: Iterable[Mapping[str, str]]) -> str:
    """Join the contents of the messages with blank lines."""
    return "\n\n".join(message["content"] for message in messages)


def render_feedback(kept: str, result: str, max_output_chars: int) -> str:
    r"""Render the feedback that is appended after an executed block.

    Args:
        kept: The text before it; feedback starts on a new line.
        result: The output of the block and its error; see `render_result`.
        max_output_chars: A longer result loses its middle.

    Example:
        >>> render_feedback("```", "42", 400)
        '\n```output\n42\n```\n'
    """
    newline = "" if kept.endswith("\n") else "\n"
    return f"{newline}```output\n{shorten(result, max_output_chars)}\n```\n"


def render_result(stdout: str, error: str) -> str:
    r"""Join the output of a block and its error.

    Args:
        stdout: The output; trailing newlines are removed.
        error: The traceback or its last line; "" if the block ran to its end.

    Example:
        >>> render_result("1\n2\n", "ValueError: no")
        '1\n2\nValueError: no'
    """
    return "\n".join(part for part in (stdout.rstrip("\n"), error) if part)


def add_budget(messages: Sequence[Mapping[str, str]], budget: int) -> tuple[dict[str, str], ...]:
    r"""State the interaction budget at the end of a prompt.

    Example:
        >>> add_budget([{"role": "user", "content": "What is 6 * 7?"}], 2)[-1]["content"]
        'What is 6 * 7?\n\nAt most 2 of your code blocks will be run.'
    """
    *others, last = messages
    line = f"At most {budget} of your code blocks will be run."
    return (*map(dict, others), {**last, "content": f"{last['content']}\n\n{line}"})


def budget_left(left: int) -> str:
    r"""Return the line after the feedback that says how many interactions are left.

    Example:
        >>> budget_left(1)
        '[code blocks left to run: 1]\n'
    """
    return f"[code blocks left to run: {left}]\n"


EXHAUSTED = "This was not run: no code blocks are left to run. Give the final answer."
"""Replaces the result of a block once the budget is used up, with `on_exhausted="tell"`."""

NEUTRAL_ERROR = "The code did not run to its end."
"""Replaces the error of a failed block, with `error_format="neutral"`."""


def shorten(text: str, max_chars: int) -> str:
    """Replace the middle of a text that is too long by `...`.

    Args:
        text: Any text.
        max_chars: How many characters to keep, half of them (rounded up) from the start; the dots do not count.

    Example:
        >>> shorten("0123456789", 10), shorten("0123456789", 4)
        ('0123456789', '01...89')
    """
    if len(text) <= max_chars:
        return text
    tail = max_chars // 2
    return text[: max_chars - tail] + "..." + text[len(text) - tail :]
