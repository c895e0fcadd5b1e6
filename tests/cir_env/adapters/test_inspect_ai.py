"""A task of Inspect, with its mock model; `test_conformance` plays whole episodes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clients import WARNINGS_OF_INSPECT
from fakes import FakeGrader, FakeSandbox, products

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

pytest.importorskip("inspect_ai")
pytestmark = [
    pytest.mark.slow,  # to import the library takes seconds
    pytest.mark.filterwarnings(*WARNINGS_OF_INSPECT),
]


def play(folder: Path, turns: Sequence[str], limit: int | None = None, **arguments: Any) -> "EvalLog":
    """Evaluate a model that runs or says each of `turns`, which answer 2 * 3; code begins with ``print``."""
    from inspect_ai import eval as evaluate
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    from cir_env.adapters.inspect_ai import codemath

    outputs = [
        ModelOutput.for_tool_call("mockllm", "python", {"code": turn}, content=r"Perhaps \boxed{6}.")
        if turn.startswith("print")
        else ModelOutput.from_content("mockllm", turn)
        for turn in turns
    ]
    for output in outputs:
        output.usage = ModelUsage()  # else it downloads a tokenizer to count
    model = get_model("mockllm/model", custom_outputs=outputs)
    task = codemath(**{"problems": products(1), "sandbox": FakeSandbox()} | arguments)
    (log,) = evaluate(task, model=model, log_dir=str(folder), display="none", message_limit=limit)
    return log


def test_accuracy_is_that_of_the_grader(tmp_path: Path) -> None:
    log = play(tmp_path, ["print(2 * 3)", r"It is \boxed{6}."])
    assert log.results.scores[0].metrics["accuracy"].value == 1
    (sample,) = log.samples
    score = sample.scores["grade"]
    assert (score.value, score.answer, score.metadata) == ("C", "6", {"reward": 1.0})
    assert score.explanation


def test_neither_prompt_nor_sample_holds_the_right_answer(tmp_path: Path) -> None:
    (sample,) = play(tmp_path, ["No idea."], problems=[{"problem": "Guess.", "answer": "8191"}]).samples
    assert "8191" not in sample.model_dump_json()


@pytest.mark.parametrize("broken", [{"sandbox": FakeSandbox(broken=True)}, {"grader": FakeGrader(valid=False)}])
def test_an_infrastructure_error_is_not_scored(tmp_path: Path, broken: dict[str, Any]) -> None:
    log = play(tmp_path, ["print(2 * 3)", r"\boxed{6}"], **broken)
    (result,) = log.results.scores
    assert (log.status, result.scored_samples, result.unscored_samples) == ("success", 0, 1)


def test_a_limit_of_inspect_ends_the_episode_with_the_last_message(tmp_path: Path) -> None:
    log = play(tmp_path, ["print(2 * 3)", "print(2 * 3)"], limit=3)
    (sample,) = log.samples
    assert (sample.limit.type, sample.scores["grade"].value) == ("message", "C")


def test_a_log_is_read_and_scored_again(tmp_path: Path) -> None:
    from inspect_ai import score
    from inspect_ai.log import read_eval_log

    from cir_env.adapters.inspect_ai import codemath

    play(tmp_path, [r"It is \boxed{6}."])
    (path,) = tmp_path.glob("*.eval")
    (scorer,) = codemath(problems=products(1)).scorer
    (sample,) = score(read_eval_log(str(path)), scorer, action="overwrite", display="none").samples
    assert sample.scores["grade"].value == "C"


def test_a_failed_sample_closes_its_namespace(tmp_path: Path) -> None:
    sandbox = FakeSandbox()
    log = play(tmp_path, ["print(2 * 3)"], stateful=True, sandbox=sandbox)  # the model has no more to say
    assert (log.status, [session.closed for session in sandbox.sessions]) == ("error", [True])


def test_inspect_finds_the_task_by_its_name() -> None:
    from importlib.metadata import EntryPoint
    from tomllib import loads

    from inspect_ai._util.registry import registry_info
    from paths import ROOT

    (value,) = loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["inspect_ai"].values()
    module = EntryPoint("cir_env", value, "inspect_ai").load()
    name = registry_info(module.codemath).name  # without the package if this folder's egg-info is found first
    assert name.removeprefix("cir_env/") == "codemath"
