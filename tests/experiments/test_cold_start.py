"""The three stages of a cold start, as one command."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import train
from agents.core.files import write_json_lines
from agents.training.checkpoint import STATE, checkpoints
from experiments.cold_start import main

ANSWER = "```python\nprint(4)\n```\n```output\n4\n```\n\\boxed{4}"


class Programs:
    """Stands for train.py and evaluate.py: records how they are called, and leaves a checkpoint."""

    def __init__(self, output: Path, *, fails: str = "nothing") -> None:
        self.calls: list[list[str]] = []
        self._output, self._fails = output, fails

    def __call__(self, command: Sequence[str]) -> int:
        args = [Path(command[1]).name, *command[2:]]
        self.calls.append(args)
        folder = self._output / "sft" / "checkpoint-3"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STATE).write_text("{}")
        return int(self._fails in args)

    @property
    def names(self) -> list[str]:
        return [" ".join(call[:2]) for call in self.calls]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    made = Programs(tmp_path)
    monkeypatch.setattr("agents.core.programs.run", made)
    return made


def test_flags_reach_their_stage_and_those_of_the_environment_all_of_them(programs: Programs, tmp_path: Path) -> None:
    own = ["--sample.env.prompt", "cir_one_shot", "--select.repaired-only", "--train.max-steps", "3"]
    shared = ["--model", "M", "--output", str(tmp_path), "--env.problems", "mixed", "--preset", "mixed"]
    assert main([*shared, *own]) == 0
    sample, select, sft, train = (" ".join(call) for call in programs.calls)
    assert sample.startswith("evaluate.py quick --model M")
    assert sample.endswith("--env.problems mixed --env.prompt cir_one_shot")
    assert select.endswith(f"--output {tmp_path}/chosen.jsonl --repaired-only")
    assert sft.endswith("--resume auto --env.problems mixed")
    assert train.startswith(f"train.py mixed --model {tmp_path}/sft/checkpoint-3 ")
    assert train.endswith("--resume auto --env.problems mixed --max-steps 3")


def test_stages_that_are_done_are_skipped_and_the_one_that_failed_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--model", "M", "--output", str(tmp_path)]
    monkeypatch.setattr("agents.core.programs.run", failing := Programs(tmp_path, fails="sft"))
    assert main(command) == 1
    assert failing.names == ["evaluate.py quick", "evaluate.py select", "train.py sft"]
    monkeypatch.setattr("agents.core.programs.run", working := Programs(tmp_path))
    assert main(command) == 0
    assert working.names == ["train.py sft", "train.py quickstart"]
    assert main(command) == 0
    assert len(working.calls) == 2


def test_a_stage_that_is_done_does_not_take_other_flags(
    programs: Programs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", "M", "--output", str(tmp_path)]) == 0
    assert main(["--model", "M", "--output", str(tmp_path), "--select.min-calls", "2"]) == 2
    assert "Expect the command that select was done with, " in capsys.readouterr().err
    assert main(["--model", "M", "--output", str(tmp_path), "--max-steps", "2"]) == 2
    assert capsys.readouterr().err == (
        "cold_start.py: Expect --STAGE.FLAG with a STAGE of env, sample, select, sft, train, got --max-steps.\n"
    )


@pytest.mark.slow
@pytest.mark.thorough
def test_the_three_stages_end_with_a_trained_model(tmp_path: Path) -> None:
    problems, chats = tmp_path / "problems.jsonl", tmp_path / "chats.jsonl"
    statements = [f"What is 2 + 2, for the {n}. time?" for n in range(8)]
    write_json_lines(problems, [{"problem": each, "answer": "4"} for each in statements])
    messages = [[{"role": "user", "content": each}, {"role": "assistant", "content": ANSWER}] for each in statements]
    write_json_lines(chats, [{"messages": each} for each in messages])
    env = ["--env.problems", str(problems), "--env.prompt", "question", "--env.test-share", "0.25"]
    taught, quiet = tmp_path / "taught", ["--report-to", "--no-autocast"]
    learned = ["--transcripts", str(chats), "--batch-size", "4", "--num-epochs", "20", "--held-out-share", "0"]
    rate = ["--optimizer.learning-rate", "5e-3"]
    assert train.main(["sft", "--model", "tiny", "--output-dir", str(taught), *learned, *rate, *quiet, *env]) == 0

    output, model = tmp_path / "cold", str(checkpoints(taught)[-1])
    flags = [
        *("--sample.num-problems", "4", "--sample.num-samples", "2", "--sample.dtype", "float32"),
        *("--sample.max-completion-length", "64", "--sample.max-model-len", "256"),
        *("--select.max-per-problem", "1", "--sft.batch-size", "2", "--sft.report-to"),
        *("--train.rollout.num-problems", "2", "--train.rollout.num-generations", "2", "--train.max-steps", "1"),
        *("--train.validation.num-problems", "2", "--train.warm-up-steps", "0", "--train.report-to"),
    ]
    assert main(["--model", model, "--preset", "tiny", "--output", str(output), *env, *flags]) == 0
    assert list(json.loads((output / "stages.json").read_text())) == ["sample", "select", "sft", "train"]
    assert [path.name for path in checkpoints(output / "rl")] == ["checkpoint-1"]
