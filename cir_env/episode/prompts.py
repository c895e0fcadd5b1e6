r"""The texts that the environment writes: the prompt, and the feedback after each block.

The prompts ``cir`` and ``text`` are those of the paper (https://arxiv.org/abs/2505.24480), word for word, since
published checkpoints were trained on them. The one-shot variants add a worked example, as a separate exchange before
the problem, for models that are too small to follow the instruction alone; it looks exactly like an episode of the
environment. ``question`` is the problem statement alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from cir_env.dialects import FENCE, PYTHON_TOOL, Dialect
from cir_env.errors import OptionError, did_you_mean, import_function
from cir_env.problems.problem import Problem

Write = Callable[[Problem], str | Sequence[Mapping[str, str]]]
"""A function from a problem to its prompt, as text or as messages."""
Prompt = str | Write
"""A key of `PROMPTS`, a path to a template, "module:function", or a function."""

_CIR: Final = (
    "Please solve the following problem step by step. During your reasoning process, if needed, you can "
    "choose to write python code to enhance your reasoning. The code executor will run your code and provide "
    "the execution results back to you to support your reasoning process. Please put the final answer within "
    "\\boxed{}."
)
_TOOL: Final = (
    "Please solve the following problem step by step. During your reasoning process, if needed, you can call the tool "
    f"`{PYTHON_TOOL['function']['name']}`, which runs a Python program and returns what it printed. Please put the "
    "final answer within \\boxed{}."
)
_TEXT: Final = "Please solve the following problem step by step and put the final answer within \\boxed{}."

# The generators never multiply two three-digit numbers, so the example gives away no answer.
_EXAMPLE_STATEMENT: Final = "What is 127 * 305?"
_EXAMPLE_CODE: Final = "print(127 * 305)"
_EXAMPLE_OUTPUT: Final = "38735"
_EXAMPLE_ANSWER: Final = "The answer is \\boxed{38735}."
_CIR_SOLUTION: Final = f"{FENCE.write(_EXAMPLE_CODE)}```output\n{_EXAMPLE_OUTPUT}\n```\n{_EXAMPLE_ANSWER}"
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
    tool_text: str | None = None
    """Replaces `text` in the dialects of tool calls, where the example is a call; None: all is as with fences."""


PROMPTS: Final[Mapping[str, Template]] = MappingProxyType(
    {
        "cir": Template(text=f"{_CIR}\n{QUESTION}", tool_text=f"{_TOOL}\n{QUESTION}"),
        "text": Template(text=f"{_TEXT}\n{QUESTION}"),
        "cir_one_shot": Template(text=f"{_CIR}\n{QUESTION}", solution=_CIR_SOLUTION, tool_text=f"{_TOOL}\n{QUESTION}"),
        "text_one_shot": Template(text=f"{_TEXT}\n{QUESTION}", solution=_TEXT_SOLUTION),
        "question": Template(text=QUESTION),
    }
)
"""Templates by name."""


PROBLEM: Final = "{problem}"
"""The place of the problem's statement in a template file."""


def find_prompt(prompt: Prompt) -> Template | Write:
    """Return what writes the prompt: the template with that name, or a function.

    Raises:
        OptionError: There is no such name, file or function, or `prompt` has another type.
    """
    if callable(prompt):
        return prompt
    if not isinstance(prompt, str):
        raise OptionError(f"Expect `prompt` to be a name or a function, got {type(prompt).__name__}.")
    if prompt in PROMPTS:
        return PROMPTS[prompt]
    if is_text_file(prompt):
        parts = read_text_file("prompt", prompt).split(PROBLEM)
        if len(parts) != 2:
            raise OptionError(f"Expect {PROBLEM} once in the file of `prompt`, got {prompt!r} with {len(parts) - 1}.")
        before, after = parts
        return partial(_fill, before, after)
    if ":" in prompt:
        return import_function("prompt", prompt)
    names, hint = ", ".join(map(repr, PROMPTS)), did_you_mean(prompt, PROMPTS)
    raise OptionError(
        f"Expect `prompt` to be {names}, a .txt or .md file, 'module:function' or a function, got {prompt!r}.{hint}"
    )


def find_system_prompt(system_prompt: str | None) -> str | None:
    """Return the system message: the text itself, or the content of a .txt or .md file.

    Raises:
        OptionError: There is no such file, or `system_prompt` is not a string.
    """
    if not isinstance(system_prompt, str | None):
        raise OptionError(f"Expect `system_prompt` to be a text or None, got {type(system_prompt).__name__}.")
    if system_prompt is not None and is_text_file(system_prompt):
        return read_text_file("system_prompt", system_prompt)
    return system_prompt


def is_text_file(text: str) -> bool:
    """Whether a text is the path of a text file: one line that ends in .txt or .md."""
    return text.endswith((".txt", ".md")) and "\n" not in text


def read_text_file(name: str, path: str) -> str:
    """Return the content of a file, without the newline at its end.

    Raises:
        OptionError: It cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, ValueError) as error:
        raise OptionError(f"Expect `{name}` to be a text file that can be read, got {path!r}: {error}.") from None


def _fill(before: str, after: str, problem: Problem) -> str:
    return before + _question(problem) + after


def _question(problem: Problem) -> str:
    r"""Return the statement, and a line with the names of the files that blocks find.

    >>> _question(Problem(id="1", statement="What is the sum of x?", answer="3", files={"data.csv": "x\n1\n2\n"}))
    'What is the sum of x?\n\nFiles in the working directory: data.csv'
    """
    names = ", ".join(problem.files)
    return f"{problem.statement}\n\nFiles in the working directory: {names}" if names else problem.statement


def render_messages(
    prompt: Prompt | Template, problem: Problem, system_prompt: str | None = None, dialect: Dialect = FENCE
) -> tuple[dict[str, str], ...]:
    r"""Render the prompt for a problem as a chat: the worked example, if there is one, and the problem.

    Args:
        prompt: As for `find_prompt`, or its result.
        problem: The problem; its statement is inserted verbatim, including any braces. If it has files, a line with
            their names follows, unless the prompt is a function.
        system_prompt: The system message, which replaces the prompt's own; None: the prompt's own, if any.
        dialect: How code is written.

    Returns:
        Messages with "role" ("system", "user" or "assistant", and "tool" in an example with a call) and "content"; the
        last one is the user's.

    Raises:
        OptionError: There is no such prompt, or the function returned something other than a string or messages.
    """
    found = prompt if isinstance(prompt, Template) else find_prompt(prompt)
    messages = _of_template(found, problem, dialect) if isinstance(found, Template) else _check_messages(found(problem))
    if system_prompt is None:
        return messages
    others = messages[1:] if messages[0]["role"] == "system" else messages
    return ({"role": "system", "content": system_prompt}, *others)


def _check_messages(written: Any) -> tuple[dict[str, str], ...]:
    if isinstance(written, str):
        return ({"role": "user", "content": written},)
    if not isinstance(written, Sequence):
        raise OptionError(f"Expect the function `prompt` to return a string or messages, got {type(written).__name__}.")
    for message in written:
        match message:
            case {"role": "system" | "user" | "assistant", "content": str()} if len(message) == 2:
                continue
        raise OptionError(f"Expect messages of the function `prompt` with role and content alone, got {message!r}.")
    if not written or written[-1]["role"] != "user":
        raise OptionError("Expect the last message of the function `prompt` to be the user's, got another or none.")
    return tuple(map(dict, written))


def _of_template(template: Template, problem: Problem, dialect: Dialect) -> tuple[dict[str, str], ...]:
    calls = dialect is not FENCE and template.tool_text is not None
    text = template.tool_text if calls and template.tool_text else template.text
    before, after = text.split(QUESTION)
    asked = {"role": "user", "content": before + _question(problem) + after}
    if template.solution is None:
        return (asked,)
    example = {"role": "user", "content": before + _EXAMPLE_STATEMENT + after}
    if not calls:
        return (example, {"role": "assistant", "content": template.solution}, asked)
    return (
        example,
        {"role": "assistant", "content": dialect.write(_EXAMPLE_CODE)},
        {"role": "tool", "content": _EXAMPLE_OUTPUT},
        {"role": "assistant", "content": _EXAMPLE_ANSWER},
        asked,
    )


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


def add_budget(
    messages: Sequence[Mapping[str, str]], budget: int, blocks: str = "code blocks"
) -> tuple[dict[str, str], ...]:
    r"""State the interaction budget at the end of a prompt.

    Example:
        >>> add_budget([{"role": "user", "content": "What is 6 * 7?"}], 2)[-1]["content"]
        'What is 6 * 7?\n\nAt most 2 of your code blocks will be run.'
    """
    *others, last = messages
    line = f"At most {budget} of your {blocks} will be run."
    return (*map(dict, others), {**last, "content": f"{last['content']}\n\n{line}"})


def budget_left(left: int, blocks: str = "code blocks") -> str:
    r"""Return the line after the feedback that says how many interactions are left.

    Example:
        >>> budget_left(1)
        '[code blocks left to run: 1]\n'
    """
    return f"[{blocks} left to run: {left}]\n"


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
