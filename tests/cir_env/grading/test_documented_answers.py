"""The answers that docs/environment.md names are judged as it says."""

import inspect
import re

import pytest

from cir_env.env import CodeMathEnv
from cir_env.grading.grader import shared_grader

PAGE = re.sub(r"\n +", " ", inspect.getdoc(CodeMathEnv) or "")
RULES = re.findall(r"^- (`[^`]+`)[^:`]*: also (.*?); not (.*?)\.(?= |$)", PAGE, re.MULTILINE)
EXAMPLES = [
    (gold.strip("`"), answer, right)
    for gold, also, wrong in RULES
    for right, examples in ((True, also), (False, wrong))
    for answer in re.findall("`([^`]+)`", examples)
]


def test_the_page_has_a_rule_for_each_kind_of_answer() -> None:
    assert len(RULES) == 12
    assert len(EXAMPLES) > 60


@pytest.mark.parametrize(("gold", "answer", "right"), EXAMPLES)
def test_an_example_is_judged_as_the_page_says(gold: str, answer: str, right: bool) -> None:
    verdict = shared_grader().grade(gold, answer)
    assert (verdict.correct, verdict.valid) == (right, True), verdict.reason
