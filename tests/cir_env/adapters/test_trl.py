"""Real steps of TRL's GRPOTrainer, with its own generation, tool loop and loss."""

import asyncio
import math
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from fakes import FakeGrader, FakeSandbox, fakes, products
from transformers.utils.chat_template_utils import get_json_schema
from trl_fakes import WARNINGS_OF_TRL, call, tool_model, tool_tokenizer

from cir_env.adapters.trl import CodeMathTools, codemath_reward, make_dataset
from cir_env.dialects import PYTHON_TOOL
from cir_env.episode.prompts import EXHAUSTED
from cir_env.errors import OptionError
from cir_env.grading.grader import Verdict

if TYPE_CHECKING:
    from trl import GRPOTrainer

pytestmark = pytest.mark.filterwarnings(*WARNINGS_OF_TRL)

Messages = Sequence[dict[str, Any]]
TICKS = "`" * 3
RIGHT, WRONG = r"The answer is \boxed{6}.", r"The answer is \boxed{7}."
CODE = "print(2 * 3)"
FENCED = f"print('''\n{TICKS}\n''')"
FEEDBACK = "6"


def step(folder: Path, messages: Sequence[str], **arguments: Any) -> "tuple[GRPOTrainer, list[Messages]]":
    """Run one step on 8 rollouts of the problem 2 * 3, in which every turn is one of `messages`."""
    from trl import GRPOConfig, GRPOTrainer  # heavy

    tokenizer = tool_tokenizer(messages)
    seen: list[Messages] = []

    async def reward(completions: Sequence[Messages], **columns: Any) -> list[float | None]:
        seen.extend(completions)
        return await codemath_reward(completions, **columns)

    arguments = {"problems": products(1), "prompt": "question"} | arguments
    trainer = GRPOTrainer(
        model=tool_model(tokenizer, messages),
        processing_class=tokenizer,
        args=GRPOConfig(
            output_dir=str(folder),
            max_steps=1,
            per_device_train_batch_size=8,
            num_generations=8,
            max_completion_length=600,
            max_tool_calling_iterations=3,
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=make_dataset(**arguments),
        environment_factory=partial(CodeMathTools, **arguments),
        reward_funcs=reward,
    )
    trainer.train()
    return trainer, seen


def results(completion: Messages) -> list[tuple[Any, str]]:
    """Return the tool calls of a rollout with their responses."""
    arguments = [call["function"]["arguments"] for message in completion for call in message.get("tool_calls", [])]
    contents = [message["content"] for message in completion if message["role"] == "tool"]
    return list(zip(arguments, contents, strict=False))  # the last call may have no answer: the rollout was cut


def right(completion: Messages) -> bool:
    return completion[-1]["content"] == RIGHT


@pytest.mark.slow
def test_a_step_runs_code_and_learns_from_the_environments_rewards(tmp_path: Path) -> None:
    trainer, completions = step(tmp_path, [call({"code": CODE}), RIGHT, WRONG])
    metrics = trainer.state.log_history[0]
    called = [results(completion) for completion in completions]
    assert {content for result in called for _, content in result} <= {FEEDBACK, EXHAUSTED}
    assert metrics["tools/call_frequency"] > 0
    assert any(content == FEEDBACK for result in called for _, content in result)
    expected = [1.0 if right(completion) else -1.0 for completion in completions]
    assert set(expected) == {1.0, -1.0}
    assert list(trainer._logs["rewards"]["reward"]) == expected
    assert metrics["reward"] == pytest.approx(sum(expected) / 8)
    assert metrics["grad_norm"] > 0


@pytest.mark.slow
def test_a_sandbox_error_drops_the_rollout(tmp_path: Path) -> None:
    arguments = fakes() | {"problems": products(1), "sandbox": FakeSandbox(broken=True)}
    trainer, completions = step(tmp_path, [call({"code": CODE}), RIGHT, WRONG], **arguments)
    failed = [bool(results(completion)) for completion in completions]
    assert 0 < sum(failed) < 8
    rewards = list(trainer._logs["rewards"]["reward"])
    assert [math.isnan(reward) for reward in rewards] == failed
    valid = [1.0 if right(completion) else -1.0 for completion in completions if not results(completion)]
    assert trainer.state.log_history[0]["reward"] == pytest.approx(sum(valid) / len(valid))
    advantages = torch.tensor(list(trainer._logs["advantages"]))
    assert (advantages[torch.tensor(failed)] == 0).all()
    assert advantages.sum() == pytest.approx(0, abs=1e-5)  # the baseline is that of the others


@pytest.mark.slow
def test_a_call_is_answered_whatever_its_code(tmp_path: Path) -> None:
    answers = {FENCED: TICKS, "": "expect `code`", "print(": "SyntaxError"}
    messages = [*(call({"code": code}) for code in answers), RIGHT]
    _, completions = step(tmp_path, messages, interaction_budget=3)
    pairs = [pair for completion in completions for pair in results(completion)]
    assert {arguments["code"] for arguments, _ in pairs} == set(answers)
    assert [content for arguments, content in pairs if answers[arguments["code"]] not in content] == []


@pytest.mark.slow
def test_a_malformed_call_is_answered(tmp_path: Path) -> None:
    broken = [{"code": 5}, {"cod": CODE}, "print(1)"]
    _, completions = step(tmp_path, [*map(call, broken), call({"code": CODE}, name="ruby"), RIGHT])
    pairs = [pair for completion in completions for pair in results(completion)]
    assert {str(arguments) for arguments, _ in pairs} == {*map(str, broken), str({"code": CODE})}
    assert [content for _, content in pairs if "expect `code`" not in content and "error" not in content] == []
    assert [content for _, content in pairs if "CodeMathTools" in content] == []


def test_the_model_sees_one_tool_with_its_argument() -> None:
    schema = get_json_schema(CodeMathTools(problems=products()).python)["function"]
    assert schema | PYTHON_TOOL["function"] == schema  # and TRL adds what it returns
    public = [name for name in vars(CodeMathTools) if not name.startswith("_")]
    assert public == ["reset", "python"]  # TRL makes a tool of every other public method


def test_an_unknown_argument_is_answered_in_the_models_words() -> None:
    with pytest.raises(TypeError, match=r"^python\(\) got an unexpected keyword argument 'source'$"):
        CodeMathTools(problems=products()).python(source=CODE)  # type: ignore[call-arg]


def test_no_right_answer_is_in_the_data_set() -> None:
    dataset = make_dataset(problems=products(2))
    assert dataset.column_names == ["prompt", "split", "problem_index", "problem_id"]
    assert dataset[0]["prompt"][-1]["content"].endswith(products()[0].statement)


def test_one_environment_serves_both_splits() -> None:
    tools = CodeMathTools(problems="products")
    for split in ("train", "test", "train"):
        row = make_dataset(problems="products", split=split)[0]
        tools.reset(**row)
        assert tools._episode.info["problem_id"] == row["problem_id"]


def test_a_data_set_of_other_problems_is_rejected() -> None:
    row = make_dataset(problems="products")[0]
    with pytest.raises(OptionError, match="same arguments"):
        CodeMathTools(problems=products()).reset(**row)


def test_importing_the_adapter_does_not_import_trl() -> None:
    code = "import sys, cir_env.adapters.trl; print({'trl', 'datasets', 'torch', 'verifiers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class PatientGrader(FakeGrader):
    """Returns no verdict before `number` were requested."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.waiting: list[Future[Verdict]] = []

    def submit(self, gold: str, answer: str, answer_type: str, **_: object) -> "Future[Verdict]":
        self.waiting.append(Future())
        if len(self.waiting) == self.number:
            for future in self.waiting:
                future.set_result(self.grade(gold, answer))
        return self.waiting[-1]


def test_gradings_of_a_batch_overlap() -> None:
    arguments = {"problems": products(1), "grader": PatientGrader(3)}
    row = make_dataset(**arguments)[0]
    environments = [CodeMathTools(**arguments) for _ in range(3)]
    for environment in environments:
        environment.reset(**row)
    completions = [[{"role": "assistant", "content": RIGHT}]] * 3
    assert asyncio.run(codemath_reward(completions, environments)) == [1.0] * 3


def test_a_missing_library_is_reported_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[trl\]"'):
        make_dataset(problems="products")
