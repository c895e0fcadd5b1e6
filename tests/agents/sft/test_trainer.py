"""Supervised runs: they learn, resume exactly, and leave a model."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

import train
from agents.config.sft import SFTConfig
from agents.config.shared import EnvArguments
from agents.config.training import LoraConfig, OptimizerConfig
from agents.core.errors import ConfigError
from agents.core.files import read_metrics, write_json_lines
from agents.sft.trainer import SupervisedTrainer, check
from agents.training.checkpoint import checkpoints


def chats(count: int = 12) -> Iterator[dict[str, Any]]:
    for n in range(count):
        text = f"```python\nprint({n} + 1)\n```\n```output\n{n + 1}\n```\n\\boxed{{{n + 1}}}"
        yield {"messages": [{"role": "user", "content": f"What is {n} + 1?"}, {"role": "assistant", "content": text}]}


def config_of(folder: Path, **changes: Any) -> SFTConfig:
    path = folder / "chats.jsonl"
    if not path.exists():
        write_json_lines(path, chats())
    settings: dict[str, Any] = {
        "model": "tiny",
        "transcripts": (str(path),),
        "output_dir": folder / "run",
        "report_to": (),
        "autocast": False,
        "batch_size": 4,
        "held_out_share": 0.2,
        "optimizer": OptimizerConfig(learning_rate=3e-3, lr_scheduler_type="linear", warmup_steps=1),
        "env": EnvArguments(problems="arithmetic", prompt="question"),
    }
    return SFTConfig(**(settings | changes))


def fine_tune(config: SFTConfig, *, stop_after: int | None = None) -> list[str]:
    """Run to the end, or until a step has been done; return what the run says."""
    lines: list[str] = []
    with closing(SupervisedTrainer(config, log=lines.append)) as made:
        update = made.learner.update

        def counted(*args: Any, step: int) -> dict[str, float]:
            if stop_after == step + 1:
                made.stop_request.ask()
            return update(*args, step=step)

        made.learner.update = counted  # type: ignore[method-assign]
        assert made.train() is (stop_after is None)
    return lines


def weights(folder: Path) -> bytes:
    """The weights in the last checkpoint."""
    return (checkpoints(folder)[-1] / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_learns_its_transcripts_and_says_what_to_do_next(tmp_path: Path) -> None:
    lines = fine_tune(config_of(tmp_path, num_epochs=5, eval_every=4))
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    held_out = {row["step"]: row["held_out/loss"] for row in rows if "held_out/loss" in row}
    assert len(losses) == 15
    assert losses[-1] < losses[0] / 2
    assert sorted(held_out) == [0, 4, 8, 12, 15]
    assert held_out[15] < held_out[0] / 2
    assert lines[-2].startswith("Measure it: python evaluate.py --model ")
    assert "--env.problems arithmetic --env.prompt question" in lines[-1]
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-15")
    card = ModelCard.load(tmp_path / "run" / "checkpoint-15" / "README.md")
    assert "sft" in card.data.tags
    assert f"| 15   |                        {held_out[15]:.4f} |\n" in card.text


@pytest.mark.slow
@pytest.mark.parametrize("lora", [LoraConfig(), LoraConfig(rank=2)], ids=["all weights", "adapters"])
def test_a_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(lora: LoraConfig, tmp_path: Path) -> None:
    whole, parts = (config_of(tmp_path, output_dir=tmp_path / name, lora=lora) for name in ("whole", "parts"))
    fine_tune(whole)
    fine_tune(parts, stop_after=2)
    assert [path.name for path in checkpoints(tmp_path / "parts")] == ["checkpoint-2"]
    resumed = config_of(tmp_path, output_dir=tmp_path / "parts", lora=lora, resume=True)
    assert "Resuming after step 2." in fine_tune(resumed)
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    metrics = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    for first, second in zip(*metrics, strict=True):
        assert first | {"step_time": 0} == second | {"step_time": 0}


def test_a_run_does_not_resume_with_other_transcripts_or_settings(tmp_path: Path) -> None:
    fine_tune(config_of(tmp_path))
    with pytest.raises(ConfigError, match=r"`batch_size` to be 4, got 5\. Other settings are another run\.$"):
        SupervisedTrainer(config_of(tmp_path, resume=True, batch_size=5))
    write_json_lines(tmp_path / "chats.jsonl", chats(13))
    with pytest.raises(ConfigError, match=r"^Expect the transcripts of the run in .*, got others\.$"):
        SupervisedTrainer(config_of(tmp_path, resume=True))


def test_every_epoch_has_all_transcripts_in_another_order(tmp_path: Path) -> None:
    with closing(SupervisedTrainer(config_of(tmp_path, held_out_share=0.0), log=lambda _: None)) as made:
        epochs = [[each.problem for step in range(3) for each in made._batch(3 * epoch + step)] for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(each.problem for each in made.train_set)
    assert epochs[0] != epochs[1]


def test_a_dry_run_says_what_the_transcripts_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(tmp_path)
    assert train.main(["sft", "--transcripts", *config.transcripts, "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["batch_size"] == 32
    assert printed.err == "Transcripts: 12.\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Expect `transcripts` to name at least one file, got ()."),
        (["--transcripts", "none.jsonl"], "Expect `transcripts` to be files, got 'none.jsonl', which is none."),
        (["--lr", "1"], "Expect a flag, got `--lr`. Did you mean `--optimizer.learning-rate`?"),
    ],
)
def test_bad_input_ends_with_code_2(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["sft", *flags, "--dry-run"]) == 2
    assert capsys.readouterr().err == f"train.py: {message}\n"


def test_flags_come_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('transcripts = ["a.jsonl"]\n[optimizer]\nlearning_rate = 0.5\n')
    config, _ = train.parse(["sft", "--config", str(path), "--resume"])
    assert isinstance(config, SFTConfig)
    assert (config.transcripts, config.optimizer.learning_rate, config.resume) == (("a.jsonl",), 0.5, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "Expect `batch_size` of at least 1, got 0."),
        ({"held_out_share": 1.0}, r"Expect `held_out_share` in \[0, 1\), got 1.0."),
        ({"env": EnvArguments(show_budget=True)}, "Expect `env.show_budget` False"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SFTConfig(**changes)


def test_a_dry_run_names_a_missing_library_of_the_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.learning.optimizer.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="Expect the library torchao"):
        check(config_of(tmp_path, optimizer=OptimizerConfig(optimizer="adamw-8bit")), log=print)
