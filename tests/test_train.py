import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from paths import ROOT
from runs import SMALL, run
from transformers import AutoModelForCausalLM, AutoTokenizer

import train
from agents import presets
from agents.core.files import read_metrics
from agents.tracking.trackers import MetricsLog


def main(*args: str | Path) -> int:
    """Train in this process: another one would spend most of its time on its imports."""
    return train.main([*map(str, args)])


def test_without_arguments_the_quickstart_is_trained() -> None:
    assert train.parse([]) == (presets["quickstart"](), False)


@pytest.mark.parametrize("name", presets)
def test_a_preset_can_be_changed_by_flags(name: str) -> None:
    config, _ = train.parse([name, "--max-steps", "7", "--ppo.learning-rate", "1e-3"])
    assert (config.max_steps, config.ppo.learning_rate) == (7, 1e-3)
    assert config.model == presets[name]().model


@pytest.mark.parametrize("name", presets)
def test_every_preset_says_what_it_is_for(name: str) -> None:
    assert presets[name].__doc__


def test_the_papers_run_has_the_papers_values() -> None:
    config = presets["qwen2.5-math-7b"]()
    env, rollout, ppo, validation = config.env, config.rollout, config.ppo, config.validation
    assert (rollout.num_problems, rollout.num_generations, rollout.max_completion_length) == (128, 16, 4096)
    assert (rollout.max_model_len - rollout.max_completion_length, rollout.temperature) == (1024, 1.0)
    assert (ppo.learning_rate, ppo.num_minibatches, ppo.num_epochs) == (1e-6, 2, 1)
    assert (ppo.adam_beta1, ppo.adam_beta2, ppo.weight_decay, ppo.max_grad_norm) == (0.9, 0.999, 0.01, 1.0)
    assert (ppo.epsilon, ppo.epsilon_high, ppo.dual_clip) == (0.2, 0.28, 3.0)
    assert (ppo.advantage, ppo.aggregation, ppo.ratio) == ("reinforce_plus_plus_baseline", "token", "token")
    assert (ppo.kl_coefficient, ppo.entropy_coefficient) == (0.0, 0.0)
    assert (env.problems, env.prompt, env.interaction_budget) == ("still3", "cir", "0:2,100:3,200:4")
    assert (env.time_limit_s, env.max_output_chars, env.error_format) == (5.0, 400, "last_line")
    assert (config.max_steps, config.template) == (300, "raw")
    assert (validation.every, validation.interaction_budget, validation.top_p) == (10, 5, 0.95)
    second = presets["qwen3-8b"]()
    assert replace(config, model=second.model, template="chat", output_dir=second.output_dir) == second


@pytest.mark.slow
def test_a_dry_run_prints_the_resolved_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--dry-run", "--seed", "3") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["seed"], printed["env"]["problems"]) == (3, "products")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rollout.engine", "vllm"], "Expect vLLM to be installed for the engine vllm."),
        (["--rollout.engine", "no_such:engine"], "Expect `engine` to be importable, got 'no_such:engine'"),
        (["--ppo.advantage", "no_such:estimate"], "Expect `ppo.advantage` to be importable, got 'no_such:estimate'"),
        (["--ppo.aggregation", "no_such:weigh"], "Expect `ppo.aggregation` to be importable, got 'no_such:weigh'"),
        (["--env.problems", "no_such"], "Expect `problems` to be one of 'products'"),
        (["--env.prompt", "no_such"], "Expect `prompt` to be 'cir'"),
        (["--env.answer-type", "no_such:verifier"], "Expect a verifier 'no_such:verifier' that can be imported"),
        (["--validation.problems", "no_such"], "Expect `problems` to be one of 'products'"),
        (["--validation.text-prompt", "no_such"], "Expect `prompt` to be 'cir'"),
    ],
)
def test_what_cannot_work_is_said_by_a_dry_run_and_before_the_warm_up(
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def too_late(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("agents.training.trainer.build_policy", too_late)
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if it were not installed
    args = [*SMALL, "--report-to", "--output-dir", str(tmp_path / "run"), *flags]
    assert main(*args, "--dry-run") == 2
    assert capsys.readouterr().err.startswith(f"train.py: {message}")
    assert not (tmp_path / "run").exists()
    assert main(*args) == 2
    assert capsys.readouterr().err.startswith(f"train.py: {message}")


def test_a_hint_is_given_once_and_knows_other_programs_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main("tiny", "--max-step", "3")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("--max-steps INT") == 1
    for flag in ("--ppo.lr", "--lr"):
        assert main("quickstart", flag, "1e-5") == 2
        assert capsys.readouterr().err == (
            f"train.py: Expect a flag, got `{flag}`. Did you mean `--ppo.learning-rate`?\n"
        )


def test_help_imports_no_heavy_library() -> None:
    code = "import sys, train\nwith __import__('contextlib').suppress(SystemExit): train.parse(['--help'])\n"
    code += "print(sorted({'torch', 'transformers', 'cir_env', 'sympy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "$ python train.py tiny --max-steps 5  any field of the configuration is a flag" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--ppo.gamma", "2"], "Expect `gamma` in (0, 1], got 2.0."),
        (
            ["--env.interaction-budget", "5:2"],
            "Expect `interaction_budget` like '2', '0:2,100:3,200:4' or 'competence', got '5:2'.",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected_and_ends_with_code_2(args: list[str], message: str) -> None:
    done = run("tiny", *args)
    assert done.returncode == 2
    assert message in " ".join(re.sub("[│╭╰─╮╯]", " ", done.stderr).split())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--device", "cuda:9"], "Expect a CUDA device for --device cuda:9, got none: use --device cpu."),
        (["--resume"], "Expect a checkpoint in {folder} to resume from, got none: drop --resume."),
    ],
)
def test_so_is_what_only_the_trainer_finds_wrong(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main("tiny", "--output-dir", tmp_path, *args) == 2
    assert message.format(folder=tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("args", [["--no-such-flag"], ["no-such-preset"], ["--max-steps", "many"]])
@pytest.mark.slow
def test_what_is_no_flag_is_named_and_ends_with_code_2(args: list[str]) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert args[-1] in done.stderr


@pytest.mark.slow
def test_a_run_resumes_where_it_was_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert main(*SMALL, "--max-steps", "3", "--output-dir", whole) == 0
    assert main(*SMALL, "--max-steps", "1", "--output-dir", parted) == 0
    assert main(*SMALL, "--max-steps", "3", "--output-dir", parted, "--resume") == 0
    weights = "checkpoint-3/model.safetensors"
    assert (parted / weights).read_bytes() == (whole / weights).read_bytes()
    rewards = [
        [row["reward"] for row in read_metrics(path / "metrics.jsonl") if "reward" in row] for path in (whole, parted)
    ]
    assert len(rewards[0]) == 3
    assert rewards[0] == rewards[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "older",
    [
        pytest.param(["--rollout.max-staleness", "1"], marks=pytest.mark.thorough),
        ["--rollout.max-completion-length", "64", "--rollout.max-new-tokens", "30", "--rollout.max-staleness", "2"],
    ],
    ids=["a step ahead", "paused episodes"],
)
def test_so_it_does_where_older_weights_sample(older: list[str], tmp_path: Path) -> None:
    args = [*SMALL, *older, "--ppo.importance-sampling", "token", "--max-steps", "4", "--save-every", "2"]
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert main(*args, "--output-dir", whole) == 0
    shutil.copytree(whole / "checkpoint-2", parted / "checkpoint-2")
    assert main(*args, "--output-dir", parted, "--resume") == 0
    weights = "checkpoint-4/model.safetensors"
    assert (parted / weights).read_bytes() == (whole / weights).read_bytes()
    rows = [row for row in read_metrics(whole / "metrics.jsonl") if "reward" in row]
    assert {row["sampling/staleness_max"] for row in rows} == {0, 1}


@pytest.mark.slow
def test_a_checkpoint_loads_with_from_pretrained_and_goes_on_training_with_a_value_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*SMALL, "--ppo.advantage", "gae", "--env.interaction-budget", "0:1,1:2"]
    assert main(*args, "--max-steps", "1", "--output-dir", tmp_path) == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-1").config.model_type == "qwen2"
    assert AutoTokenizer.from_pretrained(tmp_path / "checkpoint-1").decode([0])
    capsys.readouterr()
    assert main(*args, "--max-steps", "2", "--output-dir", tmp_path, "--resume") == 0
    assert "Interaction budget in step 2: 2, after 1." in capsys.readouterr().out
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "reward" in row]
    assert [row["interaction_budget"] for row in rows] == [1, 2]
    assert all(row["value_loss"] > 0 for row in rows)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_run_is_not_written_over_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(*SMALL, "--max-steps", "0", "--output-dir", tmp_path) == 0
    assert main(*SMALL, "--max-steps", "0", "--output-dir", tmp_path) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path} holds a run already: add --resume to continue it, or choose another --output-dir." in error
    assert main(*SMALL, "--max-steps", "0", "--output-dir", tmp_path, "--resume", "--seed", "5") == 2
    assert f"Expect the settings of the run in {tmp_path}: `seed` to be 0, got 5." in capsys.readouterr().err


def test_one_command_begins_a_run_and_resumes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for resumed in (False, True):
        assert main(*SMALL, "--max-steps", "0", "--output-dir", tmp_path, "--resume", "auto") == 0
        assert ("Resuming after step 0." in capsys.readouterr().out) is resumed


@pytest.mark.parametrize(
    ("flags", "resume"),
    [([], False), (["--resume"], True), (["--no-resume"], False), (["--resume", "auto"], "auto")],
)
def test_resume_needs_no_value(flags: list[str], resume: bool | str, tmp_path: Path) -> None:
    assert train.parse(["tiny", *flags, "--seed", "3"])[0].resume == resume
    file = tmp_path / "run.yaml"
    file.write_text(f"preset: tiny\nresume: {json.dumps(resume)}\n")
    assert train.parse(["--config", str(file)])[0].resume == resume


def test_an_output_folder_that_is_none_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(*SMALL, "--output-dir", tmp_path / "file") == 2
    assert f"train.py: Expect `output_dir` to be a folder, got {tmp_path / 'file'}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "flags"), [(signal.SIGINT, []), (signal.SIGTERM, []), (signal.SIGTERM, ["--resume", "auto"])]
)
@pytest.mark.slow
def test_a_stopped_run_leaves_a_checkpoint_and_says_how_to_go_on(
    number: signal.Signals,
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = MetricsLog.write

    def write_and_stop(log: MetricsLog, step: int, *arguments: Any) -> None:
        write(log, step, *arguments)
        if step == 1:
            signal.raise_signal(number)

    monkeypatch.setattr(MetricsLog, "write", write_and_stop)
    again = "" if flags else " --resume"
    args = [*SMALL, "--max-steps", "3", "--output-dir", str(tmp_path), *flags]
    assert main(*args) == 128 + number
    assert capsys.readouterr().out.splitlines()[-1] == f"Resume with: python train.py {' '.join(args)}{again}"
    assert (tmp_path / "checkpoint-1" / "trainer_state.json").exists()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl") if "reward" in row] == [1]


def test_ctrl_c_while_libraries_load_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "agents.sft.programs", Interrupted("agents.sft.programs"))
    assert train.main(["tiny"]) == 130
    assert capsys.readouterr().err == "train.py: stopped at once; the last checkpoint is unchanged.\n"


@pytest.mark.slow
def test_the_tiny_preset_learns_to_use_code(tmp_path: Path) -> None:
    less = ["--warm-up-steps", "500", "--max-steps", "6", "--rollout.num-generations", "8"]  # at most half of its own
    assert main("tiny", *less, "--validation.num-problems", "32", "--output-dir", tmp_path) == 0
    held_out = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "validation/accuracy" in row]
    assert held_out[0]["validation/accuracy"] < 0.5
    assert held_out[-1]["validation/accuracy"] > 0.7
    assert held_out[-1]["validation/tools/use_ratio"] > held_out[0]["validation/tools/use_ratio"]
