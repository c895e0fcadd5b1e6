"""The paper's ablations: which runs are made, that none is made twice, and what is written about them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents import Callback, Trainer, presets
from agents.config.training import RolloutConfig, TrainConfig, ValidationConfig
from agents.core.errors import ConfigError
from agents.core.files import read_metrics
from experiments import recipe
from experiments.ablations import FeedbackRules, StopStringRules
from experiments.recipe import ARMS, QUESTIONS, Config, configure, parse

BASE = replace(
    presets["tiny"](),
    env=replace(presets["tiny"]().env, interaction_budget="0:2,1:3"),
    warm_up_steps=0,
    max_steps=2,
    rollout=RolloutConfig(
        num_problems=2, num_generations=2, max_num_seqs=4, max_completion_length=24, max_model_len=256, dtype="float32"
    ),
    validation=ValidationConfig(every=1, num_problems=2),
)


def rows(folder: Path) -> list[dict[str, float]]:
    return [row for row in read_metrics(folder / "metrics.jsonl") if "step_time" in row]


class StopAfterOne(Callback):
    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, float], trajectories: Any) -> None:
        trainer.stop()


@pytest.mark.slow
def test_runs_are_made_once_and_go_on_where_they_were_stopped_and_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(arms=("recipe", "text"), seeds=1, output=tmp_path)
    stopped = configure(BASE, "recipe", 0, tmp_path)
    trainer = Trainer(stopped, log=lambda _: None, callbacks=[StopAfterOne()])
    assert not trainer.train()
    trainer.close()
    (first,) = rows(stopped.output_dir)

    assert recipe.main(config, BASE)
    again, second = rows(stopped.output_dir)
    assert (again, second["step"]) == (first, 2)
    assert [row["interaction_budget"] for row in (first, second)] == [2, 3]
    assert [row["interaction_budget"] for row in rows(tmp_path / "text-seed0")] == [0, 0]
    assert not list(tmp_path.rglob("*.safetensors"))
    table = (tmp_path / "recipe.md").read_text()
    assert table.strip() in capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:4]] == ["recipe", "text"]
    assert (tmp_path / "recipe.png").stat().st_size > 10_000
    metrics = json.loads((tmp_path / "recipe.json").read_text())["runs"]
    assert metrics["text"]["text-seed0"].keys() == recipe.COLUMNS.keys()

    monkeypatch.delattr("agents.training.trainer.Trainer")
    (tmp_path / "recipe.md").unlink()
    assert recipe.main(config, BASE)
    assert (tmp_path / "recipe.md").read_text() == table
    with pytest.raises(ValueError, match="choose another --output"):
        recipe.main(config, replace(BASE, max_steps=3))


def test_without_a_finished_run_there_is_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe.main(Config(report_only=True, output=tmp_path), BASE)
    assert capsys.readouterr().out == f"No run in {tmp_path} is done.\n"
    assert list(tmp_path.iterdir()) == []


def settings(config: TrainConfig) -> dict[str, Any]:
    """All settings by their path, such as `ppo.epsilon`."""
    flat = {}
    for name, value in recipe._settings(config).items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


@pytest.mark.parametrize(
    ("arm", "changed"),
    [
        ("budget-1", {"env.interaction_budget": "1"}),
        ("budget-2", {"env.interaction_budget": "2"}),
        ("budget-4", {"env.interaction_budget": "4"}),
        ("competence", {"env.interaction_budget": "competence"}),
        ("feedback", {}),
        ("stop-string", {}),
        ("kl", {"ppo.kl_coefficient": 0.01}),
        ("entropy", {"ppo.entropy_coefficient": 0.01}),
        ("clip-equal", {"ppo.epsilon_high": 0.2}),
        ("text", {"env.interaction_budget": "0", "env.prompt": "text_one_shot"}),
    ],
)
def test_an_arm_differs_from_the_recipe_in_what_it_is_about(
    arm: recipe.Arm, changed: dict[str, Any], tmp_path: Path
) -> None:
    reference, other = (settings(configure(parse([])[1], name, 1, tmp_path)) for name in ("recipe", arm))
    assert {key: other[key] for key in other if other[key] != reference[key]} == changed
    assert reference["env.interaction_budget"] == "0:2,3:3,6:4"


def test_two_arms_break_a_rule_of_turns() -> None:
    assert {"feedback": FeedbackRules, "stop-string": StopStringRules} == recipe.RULES
    assert recipe.RULES.keys() <= recipe.ARMS.keys()


def test_every_arm_is_compared_with_the_recipe_in_one_panel() -> None:
    assert [arms[0] for arms in QUESTIONS.values()] == ["recipe"] * len(QUESTIONS)
    assert ["recipe", *(arm for arms in QUESTIONS.values() for arm in arms[1:])] == list(ARMS)


def test_other_flags_are_those_of_the_training_program() -> None:
    config, base = parse(["--preset", "tiny", "--seeds", "1", "--max-steps", "6", "--env.problems", "multi_block"])
    assert (config.preset, config.seeds) == ("tiny", 1)
    assert (base.max_steps, base.env.problems, base.model) == (6, "multi_block", "tiny")
    assert configure(base, "recipe", 0, Path()).env.interaction_budget == "0:2,2:3,4:4"


@pytest.mark.parametrize("budget", ["4", presets["tiny"]().env.interaction_budget])
def test_a_given_budget_is_that_of_all_arms_that_are_not_about_it(budget: str) -> None:
    _, base = parse(["--preset", "tiny", "--env.interaction-budget", budget])
    budgets = [configure(base, arm, 0, Path()).env.interaction_budget for arm in ("recipe", "kl", "budget-1")]
    assert budgets == [budget, budget, "1"]


def test_the_runs_of_an_arm_have_the_seeds_that_follow_the_given_one(tmp_path: Path) -> None:
    given = ["--preset", "tiny", "--seeds", "2", "--seed", "3", "--arms", "recipe", "text", "--output", str(tmp_path)]
    runs = [run for _, run in recipe.plan(*parse(given))]
    assert [run.seed for run in runs] == [3, 3, 4, 4]
    assert [run.output_dir.name for run in runs] == ["recipe-seed3", "text-seed3", "recipe-seed4", "text-seed4"]


def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--max-stepps", "6"])
    assert "--max-steps" in capsys.readouterr().err


@pytest.mark.parametrize(("changes", "message"), [({"seeds": 0}, "of at least 1"), ({"preset": "big"}, "one of quick")])
def test_a_bad_setting_is_refused(changes: dict[str, Any], message: str) -> None:
    (name,) = changes
    with pytest.raises(ConfigError, match=f"Expect `{name}` {message}.*, got"):
        Config(**changes)
