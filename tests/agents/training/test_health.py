"""Broken optimizer steps are skipped, logged and kept for inspection, and too many of them stop the run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import rows, small, trainer

import train
from agents import Trainer
from agents.config.training import HealthConfig
from agents.core.errors import UnhealthyError
from agents.core.files import read_metrics
from agents.training.checkpoint import checkpoints
from agents.training.health import Health


def poison(made: Trainer, is_bad: Callable[[int], bool]) -> None:
    """Set one number of a gradient to NaN in the minibatches with these numbers, from 1."""
    accumulate, seen = made.ppo.accumulate, [0]

    def poisoned(*arguments: Any, **more: Any) -> Any:
        result = accumulate(*arguments, **more)
        seen[0] += 1
        if is_bad(seen[0]):
            next(p for p in made.policy.parameters() if p.grad is not None).grad.view(-1)[0] = float("nan")
        return result

    made.ppo.accumulate = poisoned  # type: ignore[method-assign]


def test_a_nan_gradient_skips_only_its_own_step(tmp_path: Path) -> None:
    lines: list[str] = []
    made = Trainer(small(tmp_path), log=lines.append)
    poison(made, lambda number: number == 2)
    assert made.train()
    made.close()
    assert all(bool(p.isfinite().all()) for p in made.policy.parameters())
    first, second = rows(tmp_path)
    assert (first["num_updates"], second["num_updates"]) == (1, 2)
    assert [row["health/skipped_steps"] for row in (first, second)] == [1, 0]
    assert [row["health/skipped_in_a_row"] for row in (first, second)] == [1, 0]
    assert "Step 1 skips its optimizer step 2: grad_norm nan. Weights and optimizer state are unchanged." in lines


def test_the_minibatch_of_a_skipped_step_can_be_inspected(tmp_path: Path) -> None:
    with trainer(tmp_path, max_steps=1) as made:
        poison(made, lambda number: number == 1)
        made.train()
    (path,) = (tmp_path / "inspect").iterdir()
    assert path.name == "step-1-minibatch-1.pt"
    kept = torch.load(path, weights_only=True)
    assert kept["fault"] == "grad_norm nan"
    assert kept["Batch"]["token_ids"].shape == kept["PolicyOutput"]["logprobs"].shape
    assert kept["Advantages"]["advantages"].shape == kept["Batch"]["action_mask"].shape


@pytest.mark.slow
def test_steps_are_skipped_once_the_kl_is_too_large(tmp_path: Path) -> None:
    bound = HealthConfig(max_approx_kl=1e-12)
    with trainer(tmp_path, health=bound, ppo={"advantage": "gae", "num_epochs": 2}) as made:  # these have a gradient
        made.train()
    for row in rows(tmp_path):
        assert row["num_updates"] + row["health/skipped_steps"] == 4
        assert row["num_updates"] >= 1  # the first one is where the policy is the old one
        assert row["health/skipped_steps"] >= 1


@pytest.mark.slow
def test_too_many_skipped_steps_stop_the_run_with_a_checkpoint_and_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tmp_path, max_steps=9, health=HealthConfig(max_skipped_steps=3))
    monkeypatch.setattr(train, "parse", lambda _: (config, False))
    whole = Trainer.train

    def poisoned(made: Trainer) -> bool:
        poison(made, lambda number: number > 1)
        return whole(made)

    monkeypatch.setattr(Trainer, "train", poisoned)
    assert train.main([]) == 3
    assert capsys.readouterr().err.splitlines()[-1] == (
        "train.py: Expect fewer than 3 skipped optimizer steps in a row, got 3, the last one for grad_norm nan: "
        f"look into {tmp_path}/inspect. The last completed step is saved; --resume retries."
    )
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2"]
    monkeypatch.setattr(Trainer, "train", whole)
    with trainer(tmp_path, max_steps=3, health=config.health, resume=True) as made:
        assert made.health.as_json()["skipped_in_a_row"] == 3
        assert made.train()
        assert made.health.as_json()["skipped_in_a_row"] == 0


def watched(folder: Path, **changes: Any) -> tuple[Health, list[str]]:
    lines: list[str] = []
    return Health(HealthConfig(**({"window": 3, "entropy_collapse": 0.1} | changes)), folder, lines.append), lines


def after(health: Health, name: str, values: list[float]) -> list[float]:
    """Return for each value, step by step, whether it is a collapse."""
    metric = {"entropy": "health/entropy_collapse", "tools/use_ratio": "health/code_use_collapse"}[name]
    return [health.end_step(step, {name: value}, [])[metric] for step, value in enumerate(values, 1)]


def test_a_collapse_is_measured_from_the_steps_before(tmp_path: Path) -> None:
    health, lines = watched(tmp_path)
    assert after(health, "tools/use_ratio", [0.9, 0.8, 0.7, 0.5, 0.1, 0.6]) == [0, 0, 0, 0, 1, 0]
    assert lines == ["Warning: tools/use_ratio is 0.1 in step 5, after 0.667 in the steps before."]
    assert json.loads((tmp_path / "step-5-tools-use_ratio.json").read_text()) == []
    assert after(watched(tmp_path)[0], "entropy", [0.5, 0.4, 0.3, 0.03, 0.3]) == [0, 0, 0, 1, 0]


def test_too_many_collapses_in_a_row_stop_the_run(tmp_path: Path) -> None:
    health, _ = watched(tmp_path, max_collapsed_steps=2)
    after(health, "entropy", [1.0, 1.0, 1.0, 0.01, 1.0, 1.0, 1.0, 0.01])
    health.check()
    resumed, _ = watched(tmp_path, max_collapsed_steps=2)
    resumed.restore(json.loads(json.dumps(health.as_json())))
    after(resumed, "entropy", [0.01])
    with pytest.raises(UnhealthyError, match=r"^Expect fewer than 2 collapsed steps in a row, got 2: "):
        resumed.check()
    unbounded, _ = watched(tmp_path)
    assert after(unbounded, "entropy", [1.0, 1.0, 1.0, 0.01, 0.01]) == [0, 0, 0, 1, 1]
    unbounded.check()


@pytest.mark.parametrize("values", [[0.0] * 9, [0.05, 0.05, 0.05, 0.0], [0.9, 0.9, 0.0], [0.9, 0.6, 0.4, 0.25, 0.15]])
def test_rare_new_or_slowly_falling_code_use_is_not_a_collapse(tmp_path: Path, values: list[float]) -> None:
    assert not any(after(watched(tmp_path)[0], "tools/use_ratio", values))


def test_a_threshold_of_zero_disables_the_warning(tmp_path: Path) -> None:
    health, lines = watched(tmp_path, entropy_collapse=0.0)
    after(health, "entropy", [1.0, 1.0, 1.0, 0.0])
    assert lines == []


def test_health_resumes(tmp_path: Path) -> None:
    one, two = watched(tmp_path)[0], watched(tmp_path)[0]
    after(one, "entropy", [0.5, 0.4, 0.6, 0.5])
    two.restore(json.loads(json.dumps(one.as_json())))
    assert after(two, "entropy", [0.01]) == after(one, "entropy", [0.01]) == [1]


def test_an_aborted_step_does_not_count(tmp_path: Path) -> None:
    health, _ = watched(tmp_path)
    before = health.as_json()
    assert not health.admits(1, {"approx_kl": 0.0, "grad_norm": float("inf")}, ())  # type: ignore[arg-type]
    assert health.as_json() == before


def test_few_files_are_kept_and_a_failed_write_is_logged(tmp_path: Path) -> None:
    health, lines = watched(tmp_path / "inspect", max_skipped_steps=99)
    for step in range(20):
        health.admits(step, {"approx_kl": 0.0, "grad_norm": float("inf")}, ())  # type: ignore[arg-type]
    assert len(list((tmp_path / "inspect").iterdir())) == 8
    (tmp_path / "file").touch()
    health, lines = watched(tmp_path / "file")
    assert not health.admits(1, {"approx_kl": 0.0, "grad_norm": float("inf")}, ())  # type: ignore[arg-type]
    assert lines[-1].startswith("Warning: could not save step-1-minibatch-1.pt for inspection: ")


def test_metrics_of_a_run_are_finite(tmp_path: Path) -> None:
    with trainer(tmp_path, health=HealthConfig(max_skipped_steps=2)) as made:
        poison(made, lambda _: True)
        with pytest.raises(UnhealthyError):
            made.train()
    (row,) = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "reward" in row]
    assert (row["num_updates"], row["health/skipped_steps"]) == (0, 2)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
