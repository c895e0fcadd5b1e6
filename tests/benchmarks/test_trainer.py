"""The benchmark of the update: everybody computes the same losses and gradients, and the metrics are reported."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from agents_fakes import tiny_llama

from agents.core.errors import ConfigError
from benchmarks import trainer
from benchmarks.trainer import Config
from benchmarks.trainer_load import INSTRUCTION, make_load, needed_flops

SMALL = Config(vocab_size=300, hidden_size=32, num_layers=1, groups=2, longest=40, device="cpu", repeats=1, threads=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TRL's and transformers' own
def test_all_contenders_have_the_same_losses_and_gradient_norms() -> None:
    rows = [trainer.measure(SMALL, contender) for contender in SMALL.contenders]
    assert [row["contender"] for row in rows] == ["ours", "TRL", "padded"]
    assert all(len(row["losses"]) == len(row["gradient_norms"]) == 4 for row in rows)
    trainer.check_agreement(rows, 1e-4)


def test_a_contender_that_computes_something_else_makes_the_comparison_void() -> None:
    same = {"losses": [0.5, 0.25], "gradient_norms": [1.0, 2.0]}
    other = same | {"gradient_norms": [1.0, 2.01]}
    trainer.check_agreement([{"contender": "a"} | same, {"contender": "b"} | same], 1e-3)
    with pytest.raises(RuntimeError, match="same gradient_norms of everybody in optimizer step 1"):
        trainer.check_agreement([{"contender": "a"} | same, {"contender": "b"} | other], 1e-3)


@pytest.mark.slow
def test_a_row_tells_rates_memory_and_the_share_of_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    output = tmp_path / "figures.json"
    config = replace(SMALL, vocab_size=50_000, contenders=("ours", "TRL"), output=output)  # too large for freed memory
    (row,) = rows = trainer.main(config)
    assert math.isclose(row["tokens_per_s"] * row["seconds"], row["tokens"])
    assert 0 < row["of_limit"] < 1
    assert row["peak_mb"] > row["state_mb"] / 2
    assert json.loads(output.read_text())["results"] == rows
    printed = capsys.readouterr().out
    assert "| ours " in printed
    assert "TRL: excluded" in printed


def test_ratios_are_to_trl() -> None:
    rows = [{"contender": n, "tokens_per_s": t, "peak_mb": m} for n, t, m in (("ours", 30.0, 5.0), ("TRL", 10.0, 8.0))]
    found = trainer.with_ratios(rows)
    assert [(row["speed_to_trl"], row["memory_to_trl"]) for row in found] == [(3.0, 0.625), (1.0, 1.0)]
    assert trainer.with_ratios(rows[:1])[0]["speed_to_trl"] is None


def test_the_sequences_are_of_mixed_lengths_and_both_halves_have_the_same() -> None:
    load = make_load(1000, groups=4, shortest=16, longest=1024, seed=0)
    batch, prompts = load.batch, load.prompt_lengths
    lengths = batch.attention_mask.sum(1)
    completions = (lengths - lengths.new_tensor(prompts)).tolist()
    assert (min(completions), max(completions)) == (16, 1024)
    assert sorted(completions[:8]) == sorted(completions[8:])
    assert all(40 < prompt <= 200 for prompt in prompts)
    acting = batch.action_mask.sum(1)
    assert acting[:8].sum() == acting[8:].sum()
    assert bool((acting < lengths.new_tensor(completions)).any())
    assert bool((batch.token_ids[:, :INSTRUCTION] == batch.token_ids[:1, :INSTRUCTION]).all())


def test_what_is_needed_grows_with_the_tokens_but_not_with_the_padding() -> None:
    batch = make_load(50, groups=2, shortest=16, longest=40, seed=0).batch
    model = tiny_llama(50)
    rows = [needed_flops(model, batch.rows(index)) for index in trainer.halves(batch)]
    assert math.isclose(sum(rows), needed_flops(model, batch))


@pytest.mark.parametrize(
    "changes", [{"groups": 3}, {"micro_batch_size": 5}, {"shortest": 9, "longest": 8}, {"repeats": 0}]
)
def test_sizes_that_can_not_be_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"^Expect .*, got"):
        Config(**changes)
