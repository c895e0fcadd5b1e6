r"""The texts that the environment writes: the prompt before the policy's text, and the feedback inside it.

The prompts ``cir`` and ``text`` are the paper's to the letter, since published checkpoints were trained on
them. The one-shot variants put one worked example before the problem, as an exchange of its own, for models that
are too small to follow the instruction alone; it looks exactly as an episode of the environment does.
``question`` is the problem's statement alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from cir_env.errors import OptionError, did_you_mean, import_function
from cir_env.problems.problem import Problem

Write = Callable[[Problem], str | Sequence[Mapping[str, str]]]
"""A function that writes the prompt for a problem, as a text or as messages."""
Prompt = str | Write
"""A key of `PROMPTS`, a path to a template, "module:function", or a function."""

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


PROBLEM: Final = "{problem}"
"""Where a template in a file takes the problem's statement."""


def find_prompt(prompt: Prompt) -> Template | Write:
    """Return what writes the prompt: the template of a name, or a function (of a file, of a module, or as given).

    Raises:
        OptionError: There is no such name, file or function, or `prompt` is something else.
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
    """Return the system message: the text itself, or that of a .txt or .md file.

    Raises:
        OptionError: There is no such file, or `system_prompt` is no text.
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
    """Return what stands in a file, without the newline at its end.

    Raises:
        OptionError: It cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, ValueError) as error:
        raise OptionError(f"Expect `{name}` to be a text file that can be read, got {path!r}: {error}.") from None


def _fill(before: str, after: str, problem: Problem) -> str:
    return before + problem.statement + after


def render_messages(
    prompt: Prompt | Template, problem: Problem, system_prompt: str | None = None
) -> tuple[dict[str, str], ...]:
    r"""Write the prompt for a problem as a chat: the example's question and solution, if there is one, and the problem.

    Args:
        prompt: As for `find_prompt`, or what it returned.
        problem: The problem; its statement goes in as it is, whatever braces it has.
        system_prompt: The system message, which takes the place of one that the prompt has; None: the prompt's, if any.

    Returns:
        Messages with "role" ("system", "user" or "assistant") and "content"; the last one is the user's.

    Raises:
        OptionError: There is no such prompt, or the function returned something else than a text or messages.
    """
    found = prompt if isinstance(prompt, Template) else find_prompt(prompt)
    messages = _of_template(found, problem) if isinstance(found, Template) else _check_messages(found(problem))
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


def _of_template(template: Template, problem: Problem) -> tuple[dict[str, str], ...]:
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
