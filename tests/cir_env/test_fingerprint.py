"""The hashes and versions that results depend on."""

from pathlib import Path

from fakes import products

from cir_env import fingerprint as module
from cir_env.fingerprint import fingerprint
from cir_env.problems.problem import Problem


def test_other_problems_and_other_prompts_have_other_hashes() -> None:
    one, other = fingerprint({"a": products(2)}, "cir"), fingerprint({"a": products(3)}, "text")
    assert one["problems"] != other["problems"]
    assert one["prompt"] != other["prompt"]
    assert (one["grader"], one["environment"]) == (other["grader"], other["environment"])


def test_the_hash_of_a_prompt_is_that_of_what_it_writes(tmp_path: Path) -> None:
    path, sets = tmp_path / "mine.txt", {"a": products(2)}
    hashes = []
    for text in ("{problem}", "Q: {problem}", "{problem}"):
        path.write_text(text)
        hashes.append(fingerprint(sets, str(path))["prompt"])
    assert hashes[0] == hashes[2] != hashes[1]
    assert fingerprint(sets, "cir", "Be brief.")["prompt"] != fingerprint(sets, "cir")["prompt"]


def test_a_function_that_writes_something_else_for_one_problem_has_another_hash() -> None:
    def one(problem: Problem) -> str:
        return problem.statement

    def other(problem: Problem) -> str:
        return "?" if problem.answer == "12" else problem.statement

    sets = {"a": products(2)}
    assert fingerprint(sets, one)["prompt"] != fingerprint(sets, other)["prompt"]


def test_environment_and_grader_are_identified_by_sources_and_versions() -> None:
    made = fingerprint({}, "cir")
    assert made["grader"]["sha256"] != made["environment"]["sha256"]
    assert made["grader"]["math-verify"]
    assert made["grader"]["sympy"]


def test_the_graders_hash_covers_parsing_and_every_module_of_grading() -> None:
    folder = Path(module.__file__).parent
    expected = {"parsing.py", "dialects.py"} | {f"grading/{path.name}" for path in (folder / "grading").glob("*.py")}
    found = {str(path.relative_to(folder)) for pattern in module._GRADER for path in folder.glob(pattern)}
    assert found == expected
    assert {"grading/grader.py", "grading/judge.py", "grading/worker.py"} < found
