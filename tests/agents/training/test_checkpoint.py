"""Checkpoints are complete or absent."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from agents_fakes import byte_tokenizer, random_batch, tiny_qwen2
from processes import no_file_above
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.config.training import LoraConfig, PPOConfig
from agents.core.errors import CheckpointError
from agents.core.types import Advantages
from agents.learning.policy import Policy
from agents.learning.ppo import PPO
from agents.models.lora import add_adapters
from agents.training import checkpoint
from agents.training.checkpoint import ROLLOUTS, STATE, checkpoints, load_training_state, read_json, save

V = 40
TOKENIZER = byte_tokenizer()


def trained(*, value_head: bool = False, seed: int = 0, size: int = V, **settings: Any) -> PPO:
    """A policy that has taken a step."""
    model = tiny_qwen2(size, seed=seed)
    ppo = PPO(Policy(model, value_head=value_head), PPOConfig(learning_rate=0.01, **settings))
    batch = random_batch(V, seed=seed)
    ones = batch.action_mask.float()
    old = ppo.policy.evaluate(batch, 8)
    ppo.update(batch, old, Advantages(advantages=ones, returns=ones), ppo.minibatches(len(batch), torch.Generator()))
    return ppo


def write(folder: Path, ppo: PPO, step: int, *, keep: int = 9, **state: Any) -> Path:
    return save(
        folder,
        policy=ppo.policy,
        tokenizer=TOKENIZER,
        optimizer=ppo.optimizer,
        state={"step": step, **state},
        rollouts=[{"ahead": None}],
        keep=keep,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_loads_with_transformers(tmp_path: Path) -> None:
    ppo, ids = trained(), torch.arange(9)[None]
    path = write(tmp_path, ppo, 3)
    assert path == tmp_path / "checkpoint-3"
    model = AutoModelForCausalLM.from_pretrained(path)
    assert torch.equal(model(ids).logits, ppo.policy.model(ids).logits)
    assert AutoTokenizer.from_pretrained(path).encode("a∑") == TOKENIZER.encode("a∑")


def test_the_infos_of_rollouts_are_kept_as_json(tmp_path: Path) -> None:
    ppo = trained()
    info = {"metadata": MappingProxyType({"level": 3}), "length": np.int64(4), "at": Path("a")}
    settings: dict[str, Any] = {"policy": ppo.policy, "tokenizer": TOKENIZER, "optimizer": ppo.optimizer, "keep": 9}
    path = save(tmp_path, state={"step": 1}, rollouts=[info], **settings)
    assert read_json(path / ROLLOUTS) == [{"metadata": {"level": 3}, "length": 4, "at": "a"}]


@pytest.mark.parametrize("value_head", [False, True])
def test_training_resumes_exactly(tmp_path: Path, value_head: bool) -> None:
    check_resumes_exactly(trained(value_head=value_head), tmp_path)


@pytest.mark.slow
def test_training_with_8_bit_state_resumes_exactly(tmp_path: Path) -> None:
    subclass = pytest.importorskip("torchao.optim.subclass_8bit")
    with torch.compiler.set_stance("force_eager"):  # the optimizer compiles its step
        ppo = trained(value_head=True, size=512, optimizer="adamw-8bit")
        states = [ppo.optimizer.state[p]["exp_avg"] for p in ppo.policy.parameters()]
        assert any(isinstance(state, subclass.OptimState8bit) for state in states)  # those of large parameters
        check_resumes_exactly(ppo, tmp_path)


def check_resumes_exactly(ppo: PPO, folder: Path) -> None:
    path, has_values = write(folder, ppo, 1), ppo.policy.value_head is not None
    other = PPO(Policy(AutoModelForCausalLM.from_pretrained(path), value_head=has_values), ppo.config)
    load_training_state(path, policy=other.policy, optimizer=other.optimizer)
    batch = random_batch(V, seed=5)
    ones = batch.action_mask.float()
    for each in (ppo, other):
        old = each.policy.evaluate(batch, 8)
        parts = each.minibatches(len(batch), torch.Generator())
        each.update(batch, old, Advantages(advantages=ones, returns=ones), parts)
    for one, two in zip(ppo.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_checkpoint_with_adapters_is_a_plain_model_and_resumes_exactly(tmp_path: Path) -> None:
    batch, lora = random_batch(V), LoraConfig(rank=2)
    ones = batch.action_mask.float()

    def adapted() -> PPO:
        model = tiny_qwen2(V)
        add_adapters(model, lora)
        return PPO(
            Policy(model, value_head=True, critic=tiny_qwen2(V, seed=1)), PPOConfig(advantage="gae", critic="separate")
        )

    def update(each: PPO) -> None:
        old = each.policy.evaluate(batch, 99)
        parts = each.minibatches(len(batch), torch.Generator())
        each.update(batch, old, Advantages(advantages=ones, returns=ones), parts)

    one, two = adapted(), adapted()
    update(one)
    state = {"state": {"step": 1}, "rollouts": [], "keep": 1, "lora": lora}
    path = save(tmp_path, policy=one.policy, tokenizer=TOKENIZER, optimizer=one.optimizer, **state)
    load_training_state(path, policy=two.policy, optimizer=two.optimizer)
    for each in (one, two):
        update(each)
    for first, second in zip(one.policy.parameters(), two.policy.parameters(), strict=True):
        assert torch.equal(first, second)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(names(path / "adapter"))
    AutoModelForCausalLM.from_pretrained(path)


def test_the_state_round_trips(tmp_path: Path) -> None:
    path = write(tmp_path, trained(), 2, config={"seed": 7})
    assert read_json(path / STATE) == {"step": 2, "config": {"seed": 7}}


def test_only_checkpoints_are_listed_by_step(tmp_path: Path) -> None:
    for name in ("checkpoint-10", "checkpoint-9", ".checkpoint-11.partial", "checkpoint-best", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-12").mkdir()  # incomplete without its state
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


def test_a_missing_folder_has_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "none") == []


SHARD = "training_state/__0_0.distcp"  # what one process writes


def test_the_newest_are_kept(tmp_path: Path) -> None:
    ppo = trained()
    for step in (8, 9, 10, 11):
        write(tmp_path, ppo, step, keep=2)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-11"]


def test_a_step_is_saved_once_and_later_saves_write_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ppo = trained()
    path = write(tmp_path, ppo, 1, config="old")
    files = names(path)
    monkeypatch.setattr(checkpoint, "save_shards", full_disk)
    assert write(tmp_path, ppo, 1, config="new") == path
    assert read_json(path / STATE)["config"] == "new"
    assert (names(tmp_path), names(path)) == (["checkpoint-1"], files)


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    ppo = trained()
    for step in (8, 9, 10, 11):
        best = {"checkpoint": "checkpoint-8" if step < 11 else "checkpoint-11", "value": 0.5}
        write(tmp_path, ppo, step, keep=1, best=best)
        if step == 10:
            assert names(tmp_path) == ["checkpoint-10", "checkpoint-8"]
    assert names(tmp_path) == ["checkpoint-11"]  # the former best is one of many again


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_save_leaves_the_older_checkpoint_and_no_partial_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ppo = trained()
    before = write(tmp_path, ppo, 1)
    weights = (before / "model.safetensors").read_bytes()
    monkeypatch.setattr(checkpoint, "save_shards", full_disk)
    with pytest.raises(CheckpointError) as caught:
        write(tmp_path, ppo, 2)
    assert str(caught.value) == (
        f"Could not write {tmp_path}/checkpoint-2: [Errno 28] No space left on device."
        " Free disk space; older checkpoints are intact."
    )
    assert names(tmp_path) == ["checkpoint-1"]
    assert checkpoints(tmp_path) == [before]
    assert (before / "model.safetensors").read_bytes() == weights


def test_a_full_disk_is_named_where_torch_only_reports_an_unexpected_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    monkeypatch.setattr(checkpoint, "save_shards", unexpected)
    monkeypatch.setattr(checkpoint, "_FULL_DISK", 2**62)
    with pytest.raises(CheckpointError, match=r"checkpoint-2: \[Errno 28\] No space left on device\. Free disk space"):
        write(tmp_path, trained(), 2)


@pytest.mark.parametrize("file", ["model.safetensors", SHARD, "trainer_state.json"])
def test_the_older_checkpoint_survives_a_full_disk_at_any_file(tmp_path: Path, file: str) -> None:
    ppo = trained()
    before = write(tmp_path, ppo, 1)
    files, size = names(before), (before / file).stat().st_size
    with no_file_above(size - 1), pytest.raises(CheckpointError, match="older checkpoints are intact"):
        write(tmp_path, ppo, 2 if file != STATE else 1, note="x" * size)
    assert names(tmp_path) == ["checkpoint-1"]
    assert names(before) == files
    assert read_json(before / STATE) == {"step": 1}
    load_training_state(before, policy=ppo.policy, optimizer=ppo.optimizer)


def test_everything_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    path = write(tmp_path, trained(), 1)
    half = tmp_path / ".checkpoint-1.partial"
    assert {each.relative_to(path) for each in path.rglob("*")} <= {
        each.relative_to(half) for each in synced if half in each.parents
    }
    assert synced[-3:] == [half, path, tmp_path]


def test_only_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    path = write(tmp_path, trained(), 1)
    for name in (".checkpoint-2.partial", ".checkpoint-0.partial", ".other.partial"):
        (tmp_path / name).mkdir()
    checkpoint.remove_leftovers(tmp_path)
    assert names(tmp_path) == [".other.partial", path.name]


def test_other_exceptions_become_checkpoint_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("safetensors has a class of its own")

    ppo = trained()
    monkeypatch.setattr(checkpoint, "write_model", broken)
    with pytest.raises(CheckpointError, match="safetensors has a class of its own"):
        write(tmp_path, ppo, 1)
    assert names(tmp_path) == []


def test_the_step_succeeds_once_there_is_space_again(tmp_path: Path) -> None:
    ppo = trained()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_shards", full_disk)
        with pytest.raises(CheckpointError):
            write(tmp_path, ppo, 1)
    assert write(tmp_path, ppo, 1) == tmp_path / "checkpoint-1"


def test_a_partial_checkpoint_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-1.partial").mkdir()
    (tmp_path / ".checkpoint-1.partial" / "junk").write_text("junk")
    path = write(tmp_path, trained(), 1)
    assert names(tmp_path) == ["checkpoint-1"]
    assert "junk" not in names(path)


def test_a_malformed_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text("{'step': 1}")
    with pytest.raises(CheckpointError) as caught:
        read_json(tmp_path / STATE)
    assert str(caught.value).startswith(f"Expect JSON in {tmp_path}/trainer_state.json, got: Expecting property name")


def test_a_checkpoint_error_is_an_os_error() -> None:
    assert issubclass(checkpoint.CheckpointError, OSError)


def test_the_state_is_readable_json(tmp_path: Path) -> None:
    path = write(tmp_path, trained(), 4)
    assert json.loads((path / "trainer_state.json").read_text()) == {"step": 4}


@pytest.mark.parametrize("fault", [Path.unlink, lambda path: path.write_bytes(b"PK half")])
def test_a_training_state_that_is_missing_or_broken_is_named(tmp_path: Path, fault: Callable[[Path], object]) -> None:
    ppo = trained()
    path = write(tmp_path, ppo, 1)
    fault(path / SHARD)
    with pytest.raises(CheckpointError, match="/training_state, got"):
        load_training_state(path, policy=ppo.policy, optimizer=ppo.optimizer)
