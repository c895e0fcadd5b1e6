"""The task for lm-evaluation-harness; `test_conformance` plays whole episodes."""

import logging
from pathlib import Path
from typing import Any

import pytest
from clients import OUTSIDE
from fakes import FakeGrader, FakeSandbox, products
from paths import ROOT

lm_eval: Any = pytest.importorskip("lm_eval", reason=OUTSIDE["lm-eval"])
pytestmark = pytest.mark.slow  # to import the library takes seconds
BLOCK = "```python\nprint(2 * 3)\n```\n"
BOX = r"\boxed{6}"


def evaluate(*turns: str, episodes: bool = False, **arguments: Any) -> dict[str, Any]:
    """Let a model write one of `turns` for each problem, which are 2 * 3, 3 * 4 and so on; return the metrics."""
    from lm_eval.api.model import LM

    from cir_env.adapters.lm_eval import CodeMath, EpisodeModel

    class Model(LM):
        def generate_until(self, requests: Any) -> list[str]:
            return [turns[request.doc["problem_index"]] for request in requests]

        loglikelihood = loglikelihood_rolling = generate_until

    task = CodeMath({"arguments": {"problems": products(len(turns))} | arguments})
    model = EpisodeModel(Model(), task) if episodes else Model()
    return lm_eval.evaluate(model, {"tasks": {"codemath": task}}, bootstrap_iters=0)["results"]["codemath"]


def test_the_last_line_that_a_block_prints_is_the_answer() -> None:
    turns = ["```python\nprint('It is')\nprint(2 * 3)\n```\n", "```python\nprint(3 + 4)\n```\n", r"It is \boxed{20}."]
    assert evaluate(*turns, show_budget=True)["acc,none"] == pytest.approx(2 / 3)


def test_a_block_that_prints_nothing_or_fails_is_no_answer() -> None:
    assert evaluate("```python\nx = 6\n```\n", "```python\n12 / 0\n```\n")["acc,none"] == 0


@pytest.mark.parametrize("episodes", [False, True])
@pytest.mark.parametrize(
    ("turn", "broken"), [(BLOCK, {"sandbox": FakeSandbox(broken=True)}), (BOX, {"grader": FakeGrader(valid=False)})]
)
def test_a_sample_with_an_infrastructure_error_has_no_accuracy(turn: str, broken: Any, episodes: bool) -> None:
    metrics = evaluate(turn, episodes=episodes, **broken)
    assert metrics["infrastructure_error,none"] == 1
    assert "acc,none" not in metrics


def test_the_harness_says_that_a_sample_was_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        evaluate(BLOCK, r"\boxed{12}", sandbox=FakeSandbox(broken=True))
    assert "acc,none=1, infrastructure_error,none=2" in caplog.text


def test_a_tiny_model_plays_the_task_of_the_example(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    from agents.models.tiny import build_tiny

    build_tiny(tmp_path)
    results = lm_eval.simple_evaluate(
        "hf",
        {"pretrained": str(tmp_path), "dtype": "float32"},
        tasks=["codemath"],
        device="cpu",
        limit=2,
        gen_kwargs={"max_gen_toks": 8},
        task_manager=TaskManager(include_path=str(ROOT / "examples/lm_eval"), include_defaults=False),
    )
    (sample, _) = results["samples"]["codemath"]
    assert sample["arguments"][0][0].startswith("Write a Python program")
    assert results["results"]["codemath"]["infrastructure_error,none"] == 0
