"""Properties of collation: each token once, each row once."""

import torch
from agents_fakes import trajectory
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.learning.batching import collate, micro_batches
from agents.learning.packing import pack

FAST = settings(max_examples=100, deadline=None, derandomize=True, database=None)

marks = st.lists(st.sampled_from("sf"), max_size=12).map(lambda kinds: " ".join(["P", *kinds]))
batches = st.lists(marks, min_size=1, max_size=7)


@FAST
@given(batches, st.integers(0, 99))
def test_collation_keeps_each_token_once(rows: list[str], pad_token_id: int) -> None:
    trajectories = [trajectory(row) for row in rows]
    batch = collate(trajectories, pad_token_id=pad_token_id)
    for row, made in enumerate(trajectories):
        there = batch.attention_mask[row]
        assert tuple(batch.token_ids[row][there].tolist()) == made.token_ids
        assert tuple(batch.action_mask[row][there].tolist()) == made.action_mask
        assert tuple(batch.sampling_logprobs[row][there].tolist()) == made.logprobs
        assert (batch.token_ids[row][~there] == pad_token_id).all()


@FAST
@given(batches)
def test_padding_is_never_an_action_and_always_on_the_right(rows: list[str]) -> None:
    batch = collate([trajectory(row) for row in rows])
    assert not (batch.action_mask & ~batch.attention_mask).any()
    assert (batch.attention_mask.long().diff(dim=1) <= 0).all()
    assert batch.attention_mask.any(0).all()


@FAST
@given(batches, st.integers(1, 40))
def test_micro_batches_contain_every_row_once(rows: list[str], size: int) -> None:
    batch = collate([trajectory(row) for row in rows])
    parts = list(micro_batches(batch, size))
    assert sorted(torch.cat(parts).tolist()) == list(range(len(rows)))
    for part in parts:
        assert len(part) == 1 or len(pack(batch.rows(part).trimmed()).token_ids) <= size


@FAST
@given(batches, st.integers(1, 9))
def test_trimmed_micro_batches_contain_every_token_once(rows: list[str], size: int) -> None:
    batch = collate([trajectory(row) for row in rows])
    parts = [batch.rows(index).trimmed() for index in micro_batches(batch, size)]
    assert sum(int(part.attention_mask.sum()) for part in parts) == int(batch.attention_mask.sum())
    assert sum(int(part.action_mask.sum()) for part in parts) == int(batch.action_mask.sum())
