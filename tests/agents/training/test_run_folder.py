"""Which settings a run may resume with, also from checkpoints of earlier versions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import small

from agents import Trainer, presets
from agents.config.training import EnvConfig, TrainConfig
from agents.core.errors import ConfigError, ModelError
from agents.tracking.run_log import RunLog
from agents.training import checkpoint
from agents.training.run_folder import changes, check_same, claim, settings


@pytest.fixture
def before() -> dict[str, Any]:
    """The settings of the preset tiny in a checkpoint of November 2026, before env and engine had shared flags."""
    path = Path(__file__).with_name("tiny_settings_0_1_0.json")
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def test_a_checkpoint_of_an_earlier_version_resumes_with_the_same_settings(before: dict[str, Any]) -> None:
    assert before["rollout"]["boundary"] == "exact"
    assert "stateful" not in before["env"]
    assert changes(before, presets["tiny"]()) == {}


def test_a_new_setting_had_its_default_before(before: dict[str, Any]) -> None:
    config = presets["tiny"]()
    thinking = '{"enable_thinking": true}'
    other = replace(
        config,
        seed=3,
        chat_template_kwargs=thinking,
        env=replace(config.env, stateful=True, prompt="cir", packages=("tqdm",)),
    )
    assert changes(before, other) == {
        "chat_template_kwargs": ('{"enable_thinking": false}', thinking),
        "env.packages": ([], ["tqdm"]),
        "env.prompt": ("question", "cir"),
        "env.stateful": (False, True),
        "seed": (0, 3),
    }


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [("rollout", "boundary", "stop_string"), ("ppo", "train_on_feedback", True), ("ppo", "no_more", 1)],
)
def test_a_setting_that_is_gone_must_have_had_its_default(
    before: dict[str, Any], group: str, name: str, value: Any
) -> None:
    before[group][name] = value
    assert list(changes(before, presets["tiny"]())) == [f"{group}.{name}"]


def test_arguments_that_the_environment_lacks_make_no_difference() -> None:
    config = TrainConfig(env=EnvConfig(id="CartPole-v1"))
    before = settings(replace(config, env=replace(config.env, problems="arithmetic")))
    assert changes(before, config) == {}
    assert list(changes(before, TrainConfig())) == ["env.id", "env.problems"]


def test_another_setting_than_the_checkpoints_is_named(tmp_path: Path, before: dict[str, Any]) -> None:
    path = checkpoint.path_of(tmp_path, 3)
    path.mkdir()
    (path / checkpoint.STATE).write_text(json.dumps({"step": 3, "config": before}))
    config = replace(presets["tiny"](), output_dir=tmp_path, resume=True)
    assert claim(config) == path
    before["rollout"]["boundary"] = "stop_string"
    (path / checkpoint.STATE).write_text(json.dumps({"step": 3, "config": before}))
    with pytest.raises(ConfigError) as caught:
        claim(config)
    assert str(caught.value) == (
        f"Expect the settings of the run in {tmp_path}: `rollout.boundary` to be 'stop_string', got 'exact'. "
        "Other settings are another run."
    )
    assert changes(settings(small(tmp_path)), small(tmp_path)) == {}


def test_a_refused_resume_names_each_field_with_its_old_and_new_value(tmp_path: Path) -> None:
    config = replace(small(tmp_path), resume=True)
    path = checkpoint.path_of(tmp_path, 3)
    path.mkdir()
    (path / checkpoint.STATE).write_text(json.dumps({"step": 3, "config": settings(config)}))
    with pytest.raises(ConfigError) as caught:
        claim(replace(config, seed=5, ppo=replace(config.ppo, learning_rate=2e-6)))
    assert str(caught.value) == (
        f"Expect the settings of the run in {tmp_path}: `ppo.learning_rate` to be 0.001, got 2e-06; `seed` to be 0, "
        "got 5. Other settings are another run."
    )


def test_flags_for_checkpoints_may_change(tmp_path: Path, before: dict[str, Any]) -> None:
    config = presets["tiny"]()
    assert before["best_metric"] == "validation/accuracy"
    other = replace(config, best_metric=None, save_every=3, save_total_limit=9, output_dir=tmp_path)
    assert changes(before, other) == changes(settings(config), other) == {}


def test_auto_resumes_where_there_is_a_checkpoint_and_begins_otherwise(tmp_path: Path) -> None:
    config = replace(small(tmp_path), resume="auto")
    (tmp_path / ".checkpoint-1.partial").mkdir()
    assert claim(config) is None
    assert list(tmp_path.iterdir()) == []
    path = checkpoint.path_of(tmp_path, 3)
    path.mkdir()
    (path / checkpoint.STATE).write_text(json.dumps({"step": 3, "config": settings(config)}))
    assert claim(config) == path
    with pytest.raises(ConfigError, match="`seed` to be 0, got 5"):
        claim(replace(config, seed=5))


def test_processes_that_see_different_checkpoints_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_same(None, tmp_path)
    monkeypatch.setattr("agents.core.distributed.gather", lambda mine, **_: [*mine, "checkpoint-3"])
    check_same(tmp_path / "checkpoint-3", tmp_path)
    with pytest.raises(
        ConfigError, match=r"`output_dir` on a disk that all processes share, got '.* checkpoint-3, none'"
    ):
        check_same(None, tmp_path)


def test_a_run_records_its_configuration_and_each_start_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ModelError("no model today")

    config = small(tmp_path / "run", resume="auto")
    with monkeypatch.context() as patch:
        patch.setattr("agents.training.trainer.resolve_model", broken)
        with pytest.raises(ModelError):
            Trainer(config, log=lambda _: None)
    assert (tmp_path / "run" / "log.txt").read_text().endswith(" ModelError: no model today\n")
    lines: list[str] = []
    for resumed in (None, "checkpoint-0"):
        made = Trainer(replace(config, max_steps=0), log=lines.append)
        made.train()
        made.close()
        found = json.loads((tmp_path / "run" / "run.json").read_text())
        assert found["starts"][-1]["resumed_from"] == resumed
    assert found["config"]["max_steps"] == 0
    assert len(found["starts"]) == 3
    assert {"command", "time", "processes", "system"} <= found["starts"][0].keys()
    assert {"Python", "torch", "transformers"} <= found["starts"][0]["versions"].keys()
    kept = [line.partition(" ")[2] for line in (tmp_path / "run" / "log.txt").read_text().splitlines()]
    assert kept[1:] == lines


def test_lines_before_the_folder_is_known_are_kept_too(tmp_path: Path) -> None:
    lines: list[str] = []
    log = RunLog(lines.append)
    log("early")
    log.open(tmp_path)
    log("late")
    assert lines == ["early", "late"]
    assert [line.split()[1] for line in (tmp_path / "log.txt").read_text().splitlines()] == lines
    (tmp_path / "log.txt").unlink()
    (tmp_path / "log.txt").symlink_to("/dev/full")
    log("the disk is full")
    assert lines[-1] == "the disk is full"
