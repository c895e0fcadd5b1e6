"""The exact texts that the environment writes."""

from pathlib import Path
from typing import Any

import pytest

from cir_env.episode.prompts import PROMPTS, render_feedback, render_messages, render_prompt, render_result, shorten
from cir_env.errors import OptionError
from cir_env.parsing import final_answer, find_block
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet

QUESTION = "What is {x} in \\boxed{x}? {question}"
PROBLEM = Problem(id="p", statement=QUESTION, answer="1", source="s", subject="t")


def test_the_papers_prompts_are_exact() -> None:
    assert render_prompt("cir", PROBLEM) == (
        "Please solve the following problem step by step. During your reasoning process, if needed, you can"
        " choose to write python code to enhance your reasoning. The code executor will run your code and"
        " provide the execution results back to you to support your reasoning process."
        " Please put the final answer within \\boxed{}.\n" + QUESTION
    )
    assert render_prompt("text", PROBLEM) == (
        "Please solve the following problem step by step and put the final answer within \\boxed{}.\n" + QUESTION
    )


def test_a_prompt_may_be_the_question_alone() -> None:
    assert render_prompt("question", PROBLEM) == QUESTION


@pytest.mark.parametrize("arm", ["cir", "text"])
def test_a_one_shot_prompt_is_an_example_and_then_the_papers_prompt(arm: str) -> None:
    example, solution, asked = render_messages(f"{arm}_one_shot", PROBLEM)
    assert [example["role"], solution["role"], asked["role"]] == ["user", "assistant", "user"]
    assert asked["content"] == render_prompt(arm, PROBLEM)
    assert example["content"].partition("\n")[0] == asked["content"].partition("\n")[0]


def test_a_prompt_as_text_joins_its_messages_with_blank_lines() -> None:
    messages = render_messages("cir_one_shot", PROBLEM)
    assert render_prompt("cir_one_shot", PROBLEM).split("\n\n") == [message["content"] for message in messages]


def test_the_example_looks_like_an_episode() -> None:
    solution = PROMPTS["cir_one_shot"].solution
    assert solution is not None
    block = find_block(solution)
    assert block is not None
    assert eval(block.code.removeprefix("print")) == 38735
    feedback = render_feedback(solution[: block.end], render_result("38735\n", ""), 400)
    assert solution[block.end :] == feedback + "The answer is \\boxed{38735}."


def test_the_example_without_code_has_no_block_and_the_same_answer() -> None:
    solution = PROMPTS["text_one_shot"].solution
    assert solution is not None
    assert "```" not in solution
    assert final_answer([solution]) == "38735"


@pytest.mark.parametrize("generator", ["products", "arithmetic"])
def test_no_generator_produces_the_example(generator: str) -> None:
    for split in ("train", "test"):
        for problem in ProblemSet.generate(generator, split=split):
            assert not {"127", "305"} <= set(problem.statement.replace("$", " ").replace(".", " ").split())


def test_a_function_may_write_the_prompt() -> None:
    assert render_prompt(lambda problem: f"Q: {problem.statement}", PROBLEM) == "Q: " + QUESTION


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (
            "cir_oneshot",
            "Expect `prompt` to be 'cir', 'text', 'cir_one_shot', 'text_one_shot', 'question', a .txt or .md file, "
            "'module:function' or a function, got 'cir_oneshot'. Did you mean 'cir_one_shot'?",
        ),
        (
            "",
            "Expect `prompt` to be 'cir', 'text', 'cir_one_shot', 'text_one_shot', 'question', a .txt or .md file, "
            "'module:function' or a function, got ''.",
        ),
        (3, "Expect `prompt` to be a name or a function, got int."),
        (
            "no/such.md",
            "Expect `prompt` to be a text file that can be read, got 'no/such.md': [Errno 2] No such file or "
            "directory: 'no/such.md'.",
        ),
        ("math:nothing", "Expect a prompt 'math:nothing' that can be imported, got AttributeError: module 'math' has"),
        ("math:pi", "Expect the prompt 'math:pi' to be a function, got float."),
        ("no module:f", "Expect a prompt as 'module:function', got 'no module:f'."),
        (
            lambda problem: [{"role": "user", "text": "x"}],
            "Expect messages of the function `prompt` with role and content alone, got {'role': 'user', 'text': 'x'}.",
        ),
        (
            lambda problem: [{"role": "system", "content": "x"}],
            "Expect the last message of the function `prompt` to be the user's, got another or none.",
        ),
        (lambda problem: None, "Expect the function `prompt` to return a string or messages, got NoneType."),
    ],
)
def test_an_invalid_prompt_is_rejected(prompt: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        render_prompt(prompt, PROBLEM)
    assert str(caught.value).startswith(message)


def test_a_file_may_hold_the_template(tmp_path: Path) -> None:
    path = tmp_path / "mine.md"
    path.write_text("Solve {this}:\n{problem}\nThink.\n")
    assert render_prompt(str(path), PROBLEM) == f"Solve {{this}}:\n{QUESTION}\nThink."


@pytest.mark.parametrize(("text", "count"), [("no place", 0), ("{problem} and {problem}", 2)])
def test_a_template_in_a_file_takes_the_problem_once(tmp_path: Path, text: str, count: int) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(OptionError) as caught:
        render_prompt(str(path), PROBLEM)
    assert str(caught.value) == f"Expect {{problem}} once in the file of `prompt`, got {str(path)!r} with {count}."


def test_a_function_of_a_module_may_write_the_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_prompts.py").write_text("def shout(problem):\n    return problem.statement.upper()\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert render_prompt("my_prompts:shout", PROBLEM) == QUESTION.upper()


def test_a_system_prompt_stands_first_and_replaces_another() -> None:
    system, asked = render_messages("text", PROBLEM, "Be brief.")
    assert (system, asked["role"]) == ({"role": "system", "content": "Be brief."}, "user")
    own = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "?"}]
    assert render_messages(lambda problem: own, PROBLEM) == tuple(own)
    assert render_messages(lambda problem: own, PROBLEM, "Be brief.") == (system, own[1])


@pytest.mark.parametrize(
    ("kept", "feedback"),
    [
        ("```python\nx\n```", "\n```output\n42\n```\n"),
        ("```python\nx\n```\n", "```output\n42\n```\n"),
        ("```python\nx\n```\n\n", "```output\n42\n```\n"),
        ("```python\nx\n``` ", "\n```output\n42\n```\n"),
    ],
)
def test_feedback_starts_on_its_own_line(kept: str, feedback: str) -> None:
    assert render_feedback(kept, "42", 400) == feedback


@pytest.mark.parametrize(
    ("stdout", "error", "result"),
    [
        ("42\n", "", "42"),
        ("a\nb\n\n", "", "a\nb"),
        ("  a \n", "", "  a "),
        ("", "", ""),
        ("", "ValueError: no", "ValueError: no"),
        ("1\n", "ValueError: no", "1\nValueError: no"),
    ],
)
def test_a_result_is_what_was_printed_and_then_the_error(stdout: str, error: str, result: str) -> None:
    assert render_result(stdout, error) == result


def test_nothing_printed_makes_an_empty_line() -> None:
    assert render_feedback("", render_result("", ""), 400) == "\n```output\n\n```\n"


def test_a_long_result_keeps_its_two_ends() -> None:
    text = "a" * 200 + "b" + "c" * 200
    assert shorten(text, 400) == "a" * 200 + "..." + "c" * 200
    assert shorten(text, 401) == text
    assert [shorten("abcdef", n) for n in (1, 2, 3)] == ["a...", "a...f", "ab...f"]
