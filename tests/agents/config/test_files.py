"""Flags from a file, as both programs take them."""

import json
from pathlib import Path
from typing import Any

import pytest

import evaluate
import train
from agents import presets
from agents.cli import parse
from agents.config.evaluation import EvalConfig
from agents.core.errors import ConfigError
from agents.training import preflight


def written(folder: Path, text: str, name: str = "run.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def evaluation(*args: str) -> EvalConfig:
    command = parse(args, "")
    assert isinstance(command, EvalConfig)
    return command


def test_a_yaml_file_holds_flags_nested_or_dotted_with_dashes_or_underscores(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "preset: tiny\nmax-steps: 7\nrollout.max_num_seqs: 3\nbest_metric: null\nreport_to: []\nautocast: true\n"
        "env:\n  prompt: cir\n  packages: [tqdm, yaml]\n  show-budget: true\n",
    )
    config, dry_run = train.parse(["--config", file, "--dry-run"])
    assert dry_run
    assert (config.model, config.max_steps, config.rollout.max_num_seqs, config.autocast) == ("tiny", 7, 3, True)
    assert (config.best_metric, config.report_to) == (None, ())
    assert (config.env.prompt, config.env.packages, config.env.show_budget) == ("cir", ("tqdm", "yaml"), True)
    assert config.env.problems == presets["tiny"]().env.problems


@pytest.mark.parametrize("text", ["tqdm,yaml", "tqdm yaml", "[tqdm, yaml]", "'tqdm, yaml'"])
def test_packages_are_a_list_or_a_text_with_commas(text: str, tmp_path: Path) -> None:
    config, _ = train.parse(["--config", written(tmp_path, f"preset: tiny\nenv:\n  packages: {text}\n")])
    assert config.env.packages == ("tqdm", "yaml")


@pytest.mark.parametrize("words", [["tqdm,yaml"], ["tqdm", "yaml"], ["tqdm,", "yaml"]])
def test_packages_are_separated_by_commas_or_spaces(words: list[str]) -> None:
    assert train.parse(["tiny", "--env.packages", *words])[0].env.packages == ("tqdm", "yaml")
    assert evaluation("--model", "M", "--env.packages", *words).env.packages == ("tqdm", "yaml")


def test_a_toml_file_does_as_well(tmp_path: Path) -> None:
    file = written(tmp_path, 'protocol = "paper"\nmodel = ["a", "b"]\nseed = 3\n[env]\nstateful = true\n', "run.toml")
    config = evaluation(f"--config={file}")
    assert (config.model, config.seed, config.env.stateful) == (("a", "b"), 3, True)
    assert config.max_completion_length == 16_384


def test_flags_behind_the_file_win_and_so_does_the_command_line_s_preset(tmp_path: Path) -> None:
    file = written(tmp_path, "preset: mixed\nmax_steps: 7\nenv: {stateful: true}\n")
    config, _ = train.parse(["tiny", "--config", file, "--max-steps", "9", "--env.no-stateful"])
    assert (config.model, config.max_steps, config.env.stateful) == ("tiny", 9, False)


@pytest.mark.parametrize("name", presets)
def test_the_output_of_a_dry_run_is_a_file_that_gives_the_same_configuration(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "check", lambda config, *, log: None)  # it would load each preset's problems
    changes = ["--env.packages", "tqdm", "--resume", "--validation.problems", "mixed", "sums", "--lora.rank", "8"]
    args = [name, "--max-steps", "3", *changes, "--warm-up-steps", "0"]
    assert train.main([*args, "--dry-run"]) == 0
    file = written(tmp_path, capsys.readouterr().out)
    assert train.parse(["--config", file]) == train.parse(args)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_stepz: 3", "{file}: Expect a flag, got `max_stepz`. Did you mean `max_steps`?"),
        ("env: {promt: cir}", "{file}: Expect a flag, got `env.promt`. Did you mean `env.prompt`?"),
        ("env: 3", "{file}: Expect a flag, got `env`."),
        ("max_steps: many", "{file}: `max_steps`: invalid literal for int() with base 10: 'many'"),
        ("max_steps: true", "{file}: `max_steps`: Expect a value that is not true or false, got true."),
        ("model: null", "{file}: `model`: Expect a value, got null."),
        ("env: {prompt: [a, b]}", '{file}: `env.prompt`: Expect one value, got ["a", "b"].'),
        ("report_to: [null]", "{file}: `report_to`: Expect texts or numbers, got [null]."),
        ("ppo: {gamma: 2.0}", "{file}: `ppo.gamma`: Expect `gamma` in (0, 1], got 2.0."),
        (
            "rollout: {dtype: int4}",
            "{file}: `rollout.dtype`: invalid choice 'int4' for argument '--rollout.dtype'. Expected one of ('auto', "
            "'float32', 'bfloat16').",
        ),
        ("preset: tinny", "{file}: Expect one of "),
        ("- max_steps", "{file}: Expect a mapping of flags to values, got list."),
        ("[1,", "Expect `config` to be a file that can be read, got '{file}': line 1: expected the node content, but"),
    ],
)
def test_what_a_file_has_wrong_is_told_in_one_line_with_its_name_and_the_key(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, text)
    assert train.main(["--config", file, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("train.py: " + message.format(file=file))
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("nowhere.yaml", "Expect `config` to be a file that can be read, got 'nowhere.yaml': [Errno 2] "),
        ("run.json", "Expect `config` to be a .yaml, .yml or .toml file, got 'run.json'."),
        ("", "Expect `config` to be a .yaml, .yml or .toml file, got ''."),
    ],
)
def test_a_file_that_can_not_be_read_is_named(file: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        train.parse(["--config", file])
    assert str(caught.value).startswith(message)
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(["--config", file])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"evaluate.py: {message}")


def test_a_wrong_flag_behind_a_file_is_not_the_file_s_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, "max_steps: 3\n")
    with pytest.raises(SystemExit):
        train.parse(["--config", file, "--max-steps", "many"])
    shown = capsys.readouterr().err
    assert "Error parsing --max-steps" in shown
    assert file not in shown


def test_what_was_trained_is_evaluated_with_the_same_flags(tmp_path: Path) -> None:
    args = ["--env.problems", "sums", "--env.prompt", "question", "--env.stateful", "--env.packages", "tqdm"]
    args += ["--env.reward", "mine:reward", "--env.on-exhausted", "tell", "--env.sandbox", "unsafe"]
    trained, _ = train.parse(args)
    expected: dict[str, Any] = trained.env.kwargs(split="test")
    del expected["decontaminate"]
    found = evaluation("--model", "M", *args).env.kwargs(split="test")
    assert json.dumps(found) == json.dumps(expected)
