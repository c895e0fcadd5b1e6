"""The hashes and versions that results depend on."""

from pathlib import Path

from fakes import products

from cir_env import fingerprint as module
from cir_env.fingerprint import fingerprint


def test_other_problems_and_other_prompts_have_other_hashes() -> None:
    one, other = fingerprint({"a": products(2)}, "cir"), fingerprint({"a": products(3)}, "text")
    assert one["problems"] != other["problems"]
    assert one["prompt"] != other["prompt"]
    assert (one["grader"], one["environment"]) == (other["grader"], other["environment"])


def test_environment_and_grader_are_identified_by_sources_and_versions() -> None:
    made = fingerprint({}, "cir")
    assert made["grader"]["sha256"] != made["environment"]["sha256"]
    assert made["grader"]["math-verify"]
    assert made["grader"]["sympy"]


def test_the_graders_hash_covers_parsing_and_every_module_of_grading() -> None:
    folder = Path(module.__file__).parent
    expected = {"parsing.py"} | {f"grading/{path.name}" for path in (folder / "grading").glob("*.py")}
    found = {str(path.relative_to(folder)) for pattern in module._GRADER for path in folder.glob(pattern)}
    assert found == expected
    assert {"grading/grader.py", "grading/judge.py", "grading/worker.py"} < found
