"""What a run leaves behind: metrics under the names that are documented, samples, and a model card."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from agents import Trainer, presets
from agents.config.training import PPOConfig, RolloutConfig, TrainConfig, ValidationConfig
from agents.core.errors import ConfigError
from agents.core.files import read_metrics
from agents.tracking.history import load_training_run
from agents.tracking.metrics import METRICS

PLACES = {"<validation>": "validation(_greedy|_text|/[^/]+)?", "<subject>": ".+", "<level>": ".+"}


def small(folder: Path, **changes: Any) -> TrainConfig:
    """The tiny preset with few and short episodes and a validation after each step."""
    arguments: dict[str, Any] = {"validation": ValidationConfig(every=1, num_problems=1)}
    return TrainConfig(
        model="tiny",
        output_dir=folder,
        autocast=False,
        env=presets["tiny"]().env,
        rollout=RolloutConfig(
            num_problems=2,
            num_generations=2,
            max_completion_length=8,
            max_model_len=256,
            max_num_seqs=4,
            dtype="float32",
        ),
        **(arguments | changes),
    )


def train(config: TrainConfig, **arguments: Any) -> None:
    trainer = Trainer(config, log=lambda _: None, **arguments)
    try:
        trainer.train()
    finally:
        trainer.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step with every kind of metric."""
    folder = tmp_path_factory.mktemp("runs") / "everything"
    validation = ValidationConfig(
        problems=("mixed", "arithmetic"), num_problems=(3, 1), greedy=True, text_prompt="text"
    )
    ppo = PPOConfig(advantage="gae", kl_coefficient=0.1)
    train(small(folder, max_steps=1, ppo=ppo, validation=validation))
    return folder


def documented() -> dict[str, str]:
    """Each metric of the list, with the pattern of the names it stands for."""
    names = [name for metric in METRICS for name in metric.names]
    patterns = {}
    for name in names:
        patterns[name] = re.escape(name)
        for place, pattern in PLACES.items():
            patterns[name] = patterns[name].replace(re.escape(place), pattern)
    return patterns


def test_the_list_has_exactly_the_metrics_of_a_run(folder: Path) -> None:
    written = {name for row in read_metrics(folder / "metrics.jsonl") for name in row} - {"step"}
    listed = documented()
    assert [name for name in written if not any(re.fullmatch(each, name) for each in listed.values())] == []
    missing = {name for name, each in listed.items() if not any(re.fullmatch(each, known) for known in written)}
    of_some = re.compile(r"mean_length_(right|wrong)|recovery|<level>")  # missing without such an episode or problem
    assert [name for name in missing if not of_some.search(name)] == []


def test_each_validation_set_has_its_own_name_and_size(folder: Path) -> None:
    first = read_metrics(folder / "metrics.jsonl")[0]
    accuracies = {name.removesuffix("/accuracy") for name in first if name.endswith("/accuracy")}
    assert accuracies == {"validation", "validation/arithmetic", "validation_greedy", "validation_text"}
    subjects = [name for name in first if name.startswith("validation/accuracy/")]
    assert len(subjects) == 3  # one of each, of three problems


def test_transcripts_of_the_step_and_of_every_set_and_arm_are_kept(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    kinds = {(row["step"], row["kind"]) for row in rows}
    arms = {"validation", "validation/arithmetic", "validation_greedy", "validation_text"}
    assert kinds == {(1, "training")} | {(step, arm) for step in (0, 1) for arm in arms}
    assert len(rows) <= 2 * len(kinds)


def test_the_checkpoint_has_a_card_with_what_was_measured(folder: Path) -> None:
    card = ModelCard.load(folder / "checkpoint-1" / "README.md")
    last = read_metrics(folder / "metrics.jsonl")[-1]
    results = [(each.dataset_name, each.metric_name, each.metric_value) for each in card.data.eval_results]
    assert sorted(results) == [
        ("arithmetic", "accuracy", last["validation/arithmetic/accuracy"]),
        ("mixed", "accuracy", last["validation/accuracy"]),
        ("mixed", "accuracy, greedy", last["validation_greedy/accuracy"]),
        ("mixed", "accuracy, without code", last["validation_text/accuracy"]),
    ]


def test_the_plots_read_what_the_run_wrote(folder: Path) -> None:
    run = load_training_run(folder)
    assert (run.steps, len(run.subjects)) == (1, 3)
    assert run.minutes > 0


def test_a_tracker_without_its_library_is_rejected_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.tracking.trackers.find_spec", lambda name: None if name == "trackio" else name)
    lines: list[str] = []
    with pytest.raises(ConfigError, match="pip install trackio"):
        Trainer(TrainConfig(output_dir=tmp_path, report_to=("tensorboard", "trackio")), log=lines.append)
    assert lines == []
