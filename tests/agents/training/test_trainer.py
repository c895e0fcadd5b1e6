"""The loop around a step: recovery from errors, when the engine sleeps, and the reference of a KL penalty."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from agents_fakes import trajectory
from runs import rows, small, trainer

from agents import Callback, Trainer, presets
from agents.config.training import (
    CurriculumConfig,
    SelectionConfig,
)
from agents.core.types import Collected, Trajectory
from agents.tracking.progress import Progress
from agents.training import checkpoint
from agents.training.checkpoint import STATE, checkpoints, read_json


def test_an_error_while_sampling_leaves_a_checkpoint_of_the_last_whole_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trainer(tmp_path) as made:
        submit = made.source.engine.submit

        def fail(request_id: int, *arguments: Any, **more: Any) -> None:
            if made.step == 1 and request_id >= 0:
                raise OSError("the sandbox's machine is gone")
            submit(request_id, *arguments, **more)

        monkeypatch.setattr(made.source.engine, "submit", fail)
        with pytest.raises(OSError, match="machine is gone"):
            made.train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1"]
    with trainer(tmp_path, resume=True) as made:
        assert made.train()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_an_error_during_an_update_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trainer(tmp_path) as made:
        accumulate = made.ppo.accumulate
        calls = count(1)

        def fail(*arguments: Any, **more: Any) -> Any:
            if next(calls) == 4:  # the second minibatch of the second step
                raise MemoryError("the GPU's is full")
            return accumulate(*arguments, **more)

        monkeypatch.setattr(made.ppo, "accumulate", fail)
        with pytest.raises(MemoryError):
            made.train()
    assert checkpoints(tmp_path) == []


@pytest.mark.slow
def test_the_engine_sleeps_during_the_update_unless_it_samples_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, staleness, expected in (("alone", 0, [0, 1]), ("beside", 1, [1])):  # nothing is beside the last
        slept: list[int] = []
        rollout = {"max_staleness": staleness}
        with trainer(tmp_path / name, rollout=rollout, ppo={"importance_sampling": "token"}) as made:
            monkeypatch.setattr(made.source.engine, "sleep", lambda made=made, slept=slept: slept.append(made.step))
            made.train()
        assert slept == expected
        assert [row["sampling/staleness_max"] for row in rows(tmp_path / name)] == [0, float(staleness)]


def test_a_step_without_an_episode_in_the_loss_changes_nothing(tmp_path: Path) -> None:
    with trainer(tmp_path, selection=SelectionConfig(mask_void_turns=True), max_steps=1) as made:
        before = [parameter.clone() for parameter in made.policy.parameters()]
        made.train()
        assert all(map(torch.equal, before, made.policy.parameters()))
    (row,) = rows(tmp_path)
    assert (row["episodes/void_ratio"], row["num_updates"]) == (1, 0)


@pytest.mark.slow
def test_a_kl_penalty_is_measured_from_the_model_that_training_began_with_also_after_a_resume(tmp_path: Path) -> None:
    penalty = {"kl_coefficient": 0.1}
    with trainer(tmp_path, ppo=penalty, max_steps=1) as made:
        first = [parameter.clone() for parameter in made.policy.parameters()]
        made.train()
    with trainer(tmp_path, ppo=penalty, resume=True) as made:
        assert made._reference is not None
        assert all(map(torch.equal, first, made._reference.parameters()))
        made.train()
    assert [row["kl"] >= 0 for row in rows(tmp_path)] == [True, True]


def test_an_invalid_episode_is_in_neither_baseline_nor_whitening_nor_loss(tmp_path: Path) -> None:
    sound = [trajectory("P s f s", reward=reward) for reward in (1.0, -1.0, -1.0)]
    invalid = trajectory("P s s", reward=0.0, reward_valid=False)
    weights = []
    for name, played in (("without", sound), ("with", [invalid, *sound])):
        with trainer(tmp_path / name) as made:
            made._update(Collected(trajectories=tuple(played), metrics={}), Progress(1, 0, log=print))
            weights.append([parameter.clone() for parameter in made.policy.parameters()])
    assert all(map(torch.equal, *weights))


@pytest.mark.parametrize(("in_training", "expected"), [("0", [0, 0]), ("0:1,9:4", [3, 0]), ("competence", [3, 0])])
def test_a_validation_has_its_own_budget_and_none_if_training_has_none(
    in_training: str, expected: list[int], tmp_path: Path
) -> None:
    budgets = []

    class Look(Callback):
        def on_validation(
            self, trainer: Trainer, metrics: Mapping[str, float], trajectories: Mapping[str, Sequence[Trajectory]]
        ) -> None:
            budgets.extend(t.info["interaction_budget"] for each in trajectories.values() for t in each)

    env = replace(presets["tiny"]().env, interaction_budget=in_training)
    both = {"text_prompt": "question", "interaction_budget": 3}
    with trainer(tmp_path, callbacks=[Look()], max_steps=0, env=env, validation=both) as made:
        made.train()
    assert budgets == expected


class Notes(Callback):
    """Writes down what it is called with, and stops the run after its first step."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []

    def on_train_begin(self, trainer: Trainer) -> None:
        self.calls.append(("begin", trainer.step))

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, float], trajectories: Sequence[Trajectory]) -> None:
        self.calls.append(("step", (trainer.step, "reward" in metrics, len(trajectories))))
        trainer.stop()

    def on_validation(
        self, trainer: Trainer, metrics: Mapping[str, float], trajectories: Mapping[str, Sequence[Trajectory]]
    ) -> None:
        lengths = {name: len(each) for name, each in trajectories.items()}
        self.calls.append(("validation", (metrics["validation/accuracy"] >= 0, lengths)))

    def on_save(self, trainer: Trainer, path: Path) -> None:
        self.calls.append(("save", path.name))

    def on_train_end(self, trainer: Trainer) -> None:
        self.calls.append(("end", trainer.step))


def test_callbacks_see_steps_validations_and_checkpoints_in_order_and_may_stop_the_run(tmp_path: Path) -> None:
    notes = Notes()
    with trainer(tmp_path, callbacks=[notes]) as made:
        assert not made.train()
    assert notes.calls == [
        ("begin", 0),
        ("validation", (True, {"validation": 1})),
        ("step", (1, True, 4)),
        ("save", "checkpoint-1"),
        ("end", 1),
    ]


def test_the_data_and_its_order_are_those_of_the_configuration(tmp_path: Path) -> None:
    class Subjects(Callback):
        def on_step_end(
            self, trainer: Trainer, metrics: Mapping[str, float], trajectories: Sequence[Trajectory]
        ) -> None:
            seen.append({str(t.info["subject"]) for t in trajectories})

    seen: list[set[str]] = []
    lines: list[str] = []
    config = small(tmp_path, curriculum=CurriculumConfig(subjects="0:addition,1:subtraction"))
    made = Trainer(config, log=lines.append, callbacks=[Subjects()])
    made.train()
    made.close()
    assert seen == [{"addition"}, {"subtraction"}]
    assert "Training on 10,000 problems of 'arithmetic/train'." in lines
    assert read_json(tmp_path / "checkpoint-2" / STATE)["data"] == "10,000 problems of 'arithmetic/train'"


@pytest.mark.slow
def test_a_schedule_of_the_learning_rate_resumes_exactly(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 3, "save_every": 1, "save_total_limit": 9}
    settings["ppo"] = {"lr_scheduler_type": "cosine", "warmup_steps": 1, "advantage": "gae"}
    with trainer(tmp_path / "whole", **settings) as made:
        made.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-1", tmp_path / "parted" / "checkpoint-1")
    with trainer(tmp_path / "parted", resume=True, **settings) as made:
        made.train()
    whole, parted = (tmp_path / name / "checkpoint-3" / "model.safetensors" for name in ("whole", "parted"))
    assert parted.read_bytes() == whole.read_bytes() != (whole.parents[1] / "checkpoint-2" / whole.name).read_bytes()
    rates = [row["learning_rate"] for row in rows(tmp_path / "whole")]
    assert rates[1:] == [row["learning_rate"] for row in rows(tmp_path / "parted")]
    assert rates[0] < rates[1] > rates[2] > 0


@pytest.mark.slow
def test_the_best_checkpoint_outlives_newer_ones_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([0.9, 0.5, 0.2, 0.6, 0.6, 0.1, 0.0])  # before training there is nothing to keep
    monkeypatch.setattr("agents.training.validation.metrics_of", lambda _: {"validation/accuracy": next(accuracies)})
    every = {"validation": {"every": 1}, "save_total_limit": 1}
    with trainer(tmp_path, max_steps=4, **every) as made:
        made.train()
    with trainer(tmp_path, max_steps=5, resume=True, **every) as made:
        made.train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-5"]
    best = {"checkpoint": "checkpoint-3", "metric": "validation/accuracy", "value": 0.6}
    assert [read_json(path / STATE)["best"] for path in checkpoints(tmp_path)] == [best, best]
    with trainer(tmp_path, max_steps=6, resume=True, best_metric=None, **every) as made:
        made.train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-6"]
    assert list(accuracies) == []  # no last step was validated twice


def test_a_best_checkpoint_that_could_not_be_saved_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trainer(tmp_path, max_steps=1) as made:
        save = checkpoint.save_shards

        def full_once(*arguments: Any, **more: Any) -> None:
            monkeypatch.setattr(checkpoint, "save_shards", save)
            raise OSError("No space left on device")

        monkeypatch.setattr(checkpoint, "save_shards", full_once)
        made.train()
    assert [read_json(path / STATE)["best"] for path in checkpoints(tmp_path)] == [None]
