"""Which transcripts of a run are logged, and when."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agents_fakes import trajectory

from agents.config.training import TrainConfig
from agents.core.types import Trajectory
from agents.tracking.callbacks import SampleLog, choose_samples


def played(problem: int, *rewards: float) -> list[Trajectory]:
    return [trajectory(group_id=problem, reward=reward) for reward in rewards]


def outcomes(chosen: list[Trajectory]) -> list[tuple[int, float]]:
    return [(each.group_id, each.reward) for each in chosen]


def test_problems_with_both_outcomes_come_first_then_right_and_wrong_alternate() -> None:
    step = [*played(0, 1, 1), *played(1, -1, -1), *played(2, -1, 1), *played(3, 1, 1)]
    assert outcomes(choose_samples(step, 9)) == [(2, 1), (2, -1), (0, 1), (1, -1), (3, 1)]
    assert outcomes(choose_samples(step, 2)) == [(2, 1), (2, -1)]
    assert outcomes(choose_samples([*played(0, 1), *played(1, 1), *played(2, -1)], 2)) == [(0, 1), (2, -1)]
    assert choose_samples(step, 0) == []


def run_of(folder: Path, steps: range, **changes: Any) -> list[tuple[int, str]]:
    """(step, kind) of the rows written by these steps, with a validation after each."""
    log = SampleLog(TrainConfig(output_dir=folder, **changes))
    trainer: Any = SimpleNamespace(step=steps.start, decode=str)
    log.on_train_begin(trainer)
    for trainer.step in range(steps.start + 1, steps.stop + 1):
        log.on_step_end(trainer, {}, played(0, 1, -1, 1))
        log.on_validation(trainer, {}, {"validation/AIME24": played(0, 1)})
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return [(row["step"], row["kind"]) for row in rows]


def test_a_limited_number_is_written_at_intervals_and_at_every_validation(tmp_path: Path) -> None:
    assert run_of(tmp_path, range(0, 3), samples_every=2) == [
        (1, "validation/AIME24"),
        *[(2, "training")] * 2,
        (2, "validation/AIME24"),
        (3, "validation/AIME24"),
    ]


def test_a_resumed_run_has_each_step_once_and_a_new_run_starts_over(tmp_path: Path) -> None:
    whole = run_of(tmp_path, range(0, 3))
    assert run_of(tmp_path, range(1, 3)) == whole
    assert run_of(tmp_path, range(0, 3)) == whole
