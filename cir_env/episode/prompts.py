r"""The texts that the environment writes: the prompt before the policy's text, and the feedback inside it.

The prompts ``cir`` and ``text`` are the paper's to the letter, since published checkpoints were trained on
them. The one-shot variants put one worked example before the problem, as an exchange of its own, for models that
are too small to follow the instruction alone; it looks exactly as an episode of the environment does.
``question`` is the problem's statement alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cir_env.errors import OptionError, did_you_mean
from cir_env.problems.problem import Problem

Prompt = str | Callable[[Problem], str]
"""A key of `PROMPTS`, or a function that writes the prompt for a problem."""

_CIR: Final = (
    "Please solve the following problem step by step. During your reasoning process, if needed, you can "
    "choose to write python code to enhance your reasoning. The code executor will run your code and provide "
    "the execution results back to you to support your reasoning process. Please put the final answer within "
    "\\boxed{}."
)
_TEXT: Final = "Please solve the following problem step by step and put the final answer within \\boxed{}."

# Our generators never multiply two numbers of three digits, so the example gives no problem's answer away.
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
"""Where a template takes the problem's statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How a problem is put to a policy."""

    text: str
    """Holds `QUESTION` once and nothing else to fill in."""
    solution: str | None = None
    """A worked example of one product, as an exchange of its own before the problem; None: no example."""


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
    """Refuse what is neither the name of a prompt nor a function.

    Raises:
        OptionError: The name is unknown, or `prompt` is something else.
    """
    if isinstance(prompt, str):
        if prompt not in PROMPTS:
            names, hint = ", ".join(map(repr, PROMPTS)), did_you_mean(prompt, PROMPTS)
            raise OptionError(f"Expect `prompt` to be {names} or a function, got {prompt!r}.{hint}")
    elif not callable(prompt):
        raise OptionError(f"Expect `prompt` to be a name or a function, got {type(prompt).__name__}.")


def render_messages(prompt: Prompt, problem: Problem) -> tuple[dict[str, str], ...]:
    r"""Write the prompt for a problem as a chat: the example's question and solution, if there is one, and the problem.

    Args:
        prompt: A key of `PROMPTS`, or a function from a problem to a text.
        problem: The problem; its statement goes in as it is, whatever braces it has.

    Returns:
        Messages with "role" ("user" or "assistant") and "content"; the last one is the user's.

    Raises:
        OptionError: The name is unknown, or the function gave no string.
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
    r"""Write the prompt for a problem as one text.

    Example:
        >>> problem = Problem(id="p", statement="What is 6 * 7?", answer="42", source="s", subject="t")
        >>> render_prompt("text", problem).splitlines()[-1]
        'What is 6 * 7?'
    """
    return join_messages(render_messages(prompt, problem))


def join_messages(messages: Iterable[Mapping[str, str]]) -> str:
    """Make a chat one text: the contents of its messages with a blank line between them."""
    return "\n\n".join(message["content"] for message in messages)


def render_feedback(kept: str, result: str, max_output_chars: int) -> str:
    r"""Write what the environment appends behind a block that was executed.

    Args:
        kept: The text in front; feedback starts on a line of its own.
        result: What the block printed, and the last line of its traceback; see `render_result`.
        max_output_chars: A longer result loses its middle.

    Example:
        >>> render_feedback("```", "42", 400)
        '\n```output\n42\n```\n'
    """
    newline = "" if kept.endswith("\n") else "\n"
    return f"{newline}```output\n{shorten(result, max_output_chars)}\n```\n"


def render_result(stdout: str, error: str) -> str:
    r"""Put together what a block printed and how it failed.

    Args:
        stdout: What was printed; newlines at its end go. Nothing printed makes an empty result.
        error: The traceback or its last line, or "" if the block ran to its end.

    Example:
        >>> render_result("1\n2\n", "ValueError: no")
        '1\n2\nValueError: no'
    """
    return "\n".join(part for part in (stdout.rstrip("\n"), error) if part)


def say_budget(messages: Sequence[Mapping[str, str]], budget: int) -> tuple[dict[str, str], ...]:
    r"""Say at the end of a prompt how many blocks will be executed.

    Example:
        >>> say_budget([{"role": "user", "content": "What is 6 * 7?"}], 2)[-1]["content"]
        'What is 6 * 7?\n\nAt most 2 of your code blocks will be run.'
    """
    *others, last = messages
    line = f"At most {budget} of your code blocks will be run."
    return (*map(dict, others), {**last, "content": f"{last['content']}\n\n{line}"})


def say_left(left: int) -> str:
    r"""Return the line behind a block's result that says how many more will be executed.

    Example:
        >>> say_left(1)
        '[code blocks left to run: 1]\n'
    """
    return f"[code blocks left to run: {left}]\n"


EXHAUSTED = "This was not run: no code blocks are left to run. Give the final answer."
"""What stands in place of a result when the budget is used up, if the policy is to be told."""

NEUTRAL_ERROR = "The code did not run to its end."
"""What stands in place of a failed block's error, if the policy is not to learn what went wrong."""


def shorten(text: str, max_chars: int) -> str:
    """Cut the middle out of a text that is too long; three dots stand for it and are not counted.

    Args:
        text: Any text.
        max_chars: How many characters may stay, half of them (rounded up) from the start.

    Example:
        >>> shorten("0123456789", 10), shorten("0123456789", 4)
        ('0123456789', '01...89')
    """
    if len(text) <= max_chars:
        return text
    tail = max_chars // 2
    return text[: max_chars - tail] + "..." + text[len(text) - tail :]
