"""Collation of trajectories into tensors."""

from dataclasses import replace

import pytest
import torch
from agents_fakes import random_batch, trajectory

from agents.core.types import PolicyOutput
from agents.learning.batching import collate, micro_batches


def test_rows_are_padded_on_the_right() -> None:
    batch = collate([trajectory("P s f s"), trajectory("P s")], pad_token_id=9)
    assert batch.token_ids.tolist() == [[1, 2, 3, 4], [1, 2, 9, 9]]
    assert batch.attention_mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.action_mask.tolist() == [[False, True, False, True], [False, True, False, False]]
    assert batch.sampling_logprobs.tolist() == [[0, -2, 0, -4], [0, -2, 0, 0]]


def test_the_padding_is_token_zero_by_default() -> None:
    assert collate([trajectory("P s s"), trajectory("P")]).token_ids[1].tolist() == [1, 0, 0]


def test_rewards_and_groups_stay_with_their_rows() -> None:
    batch = collate([trajectory(reward=-1.0, group_id=7), trajectory(reward=0.5, group_id=3)])
    assert batch.rewards.tolist() == [-1.0, 0.5]
    assert batch.group_ids.tolist() == [7, 3]
    assert len(batch) == 2


def test_the_tensors_have_the_documented_types() -> None:
    batch = collate([trajectory()])
    assert batch.token_ids.dtype == batch.group_ids.dtype == torch.int64
    assert batch.attention_mask.dtype == batch.action_mask.dtype == torch.bool
    assert batch.sampling_logprobs.dtype == batch.rewards.dtype == torch.float32


def test_an_empty_batch_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"^Expect at least one trajectory, got none\.$"):
        collate([])


def test_rows_can_be_selected_from_every_tensor() -> None:
    batch = collate([trajectory("P s", reward=1.0), trajectory("P s s", reward=2.0), trajectory("P", reward=3.0)])
    chosen = batch.rows(torch.tensor([2, 0]))
    assert chosen.rewards.tolist() == [3.0, 1.0]
    assert chosen.token_ids.tolist() == [[1, 0, 0], [1, 2, 0]]


def test_columns_that_are_padding_everywhere_can_be_trimmed() -> None:
    batch = collate([trajectory("P s"), trajectory("P s s s")]).rows(torch.tensor([0])).trimmed()
    assert batch.token_ids.tolist() == [[1, 2]]
    assert batch.action_mask.shape == batch.sampling_logprobs.shape == (1, 2)
    assert batch.rewards.shape == (1,)


def test_a_policys_output_can_be_sliced_with_or_without_values() -> None:
    zeros = torch.zeros(2, 4)
    bare = PolicyOutput(logprobs=zeros, entropy=zeros).rows(torch.tensor([1])).columns(3)
    assert bare.logprobs.shape == (1, 3)
    assert bare.values is None
    valued = PolicyOutput(logprobs=zeros, entropy=zeros, values=zeros).columns(2)
    assert valued.values is not None
    assert valued.values.shape == (2, 2)


def test_a_batch_moves_to_a_device() -> None:
    moved = collate([trajectory()]).to(torch.device("meta"))
    assert {getattr(moved, name).device.type for name in ("token_ids", "action_mask", "rewards")} == {"meta"}


def test_micro_batches_count_shared_tokens_once() -> None:
    prompt = torch.arange(20).repeat(4, 1)
    prompt[2:] += 100
    ids = torch.cat([prompt, 200 + torch.arange(40).view(4, 10)], 1)[[0, 2, 1, 3]]
    batch = replace(random_batch(rows=4), token_ids=ids, attention_mask=torch.ones_like(ids, dtype=torch.bool))
    assert [sorted(index.tolist()) for index in micro_batches(batch, 40)] == [[0, 2], [1, 3]]
    assert [len(index) for index in micro_batches(batch, 39)] == [1, 1, 1, 1]
    assert [len(index) for index in micro_batches(batch, 80)] == [4]
