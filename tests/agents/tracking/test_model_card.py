"""The model card: text and metadata contain only what the run has measured."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from agents.config.training import EnvConfig, PPOConfig, TrainConfig, ValidationConfig
from agents.tracking.model_card import ModelCardWriter, draw_curve, model_card

CONFIG = TrainConfig(
    model="Qwen/Qwen2.5-Math-7B",
    output_dir=Path("runs/mine"),
    env=EnvConfig(problems="still3+mixed"),
    ppo=PPOConfig(learning_rate=3e-6),
    validation=ValidationConfig(problems=("mixed", "hub:HuggingFaceH4/MATH-500"), greedy=True),
)
DATA = "99 problems of 'still3+mixed'; 90 of 'RUC-AIBOX/STILL-3-RL-90K'; 1 repetition dropped; 9 of 'mixed/train'"
ROWS: Sequence[Mapping[str, float]] = (
    {"step": 0, "validation/accuracy": 0.25, "validation/MATH-500/accuracy": 0.5, "validation_greedy/accuracy": 0.375},
    {"step": 1, "accuracy": 0.2},
    {"step": 2, "accuracy": 0.8},
    {"step": 2, "validation/accuracy": 0.875, "validation/accuracy/gcd": 1.0, "validation/MATH-500/accuracy": 0.625},
)


def card(rows: Sequence[Mapping[str, float]] = ROWS, *, step: int = 2, drawn: bool = False) -> ModelCard:
    return model_card(CONFIG, rows, step=step, command="python train.py --seed 3", drawn=drawn, data=DATA)


def test_the_metadata_is_readable_by_the_hub() -> None:
    data = card().data
    assert (data.base_model, data.datasets, data.model_name) == (CONFIG.model, ["RUC-AIBOX/STILL-3-RL-90K"], "mine")
    results = {(each.dataset_name, each.dataset_type): each.metric_value for each in data.eval_results}
    assert results == {("mixed", "mixed"): 0.875, ("MATH-500", "hub:HuggingFaceH4/MATH-500"): 0.625}


def test_the_text_has_accuracy_before_and_after_command_and_configuration() -> None:
    text = card().text
    assert "| mixed         |   25.0 |         87.5 |\n" in text
    assert "| MATH-500      |   50.0 |         62.5 |\n" in text
    assert "| mixed, greedy |   37.5 |            - |\n" in text
    assert "```bash\npython train.py --seed 3\n```" in text
    assert json.loads(text.partition("```json\n")[2].partition("```")[0])["ppo"]["learning_rate"] == 3e-6
    assert "https://arxiv.org/abs/2505.24480" in text
    assert f"on the problems `still3+mixed` ({DATA})." in text


def test_the_card_reports_only_results_measured_at_its_step() -> None:
    between = card(ROWS[:2], step=1)
    assert not between.data.eval_results
    assert "|   25.0 |            - |" in between.text
    assert "Not measured at this step." in card(ROWS[1:2], step=1).text


@pytest.mark.parametrize("model", ["tiny", ".", "parts/*.bin", "moved/model.gguf"])
def test_a_local_model_is_not_a_base_model(model: str) -> None:
    local = TrainConfig(model=model)
    assert model_card(local, ROWS, step=2, command="", drawn=False).data.base_model is None


def test_the_learning_curve_is_an_image_or_otherwise_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*ROWS, {"step": 3, "validation/accuracy": 1.0}]
    picture = tmp_path / "learning_curve.png"
    assert not draw_curve(ROWS, picture)  # two points are in the accuracy table
    assert draw_curve(rows, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "(learning_curve.png)" in card(rows, step=3, drawn=True).text
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not draw_curve(rows, picture)
    assert "| 2    |                 87.5 |\n" in card(rows, step=3).text


def test_an_unwritable_card_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "README.md").mkdir()
    lines: list[str] = []
    run: Any = SimpleNamespace(config=TrainConfig(output_dir=tmp_path), step=2, log=lines.append, data_summary=None)
    ModelCardWriter().on_save(run, tmp_path)
    assert [line.startswith(f"Warning: could not write the model card in {tmp_path}: ") for line in lines] == [True]
