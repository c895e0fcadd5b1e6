"""Rows are packed into one sequence: shared tokens are stored once, and no row attends to another."""

from typing import Any

import pytest
import torch
from agents_fakes import random_batch
from dispatch import Shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.core.types import Batch
from agents.learning import packing
from agents.learning.packing import SHARED_TOKENS, Layout, attend, common_length, pack


def batch_of(rows: list[list[int]]) -> Batch:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    there = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    zeros = torch.zeros(ids.shape)
    return Batch(
        token_ids=ids,
        attention_mask=there,
        action_mask=there & (torch.arange(width) > 0),
        sampling_logprobs=zeros,
        rewards=zeros[:, 0],
        group_ids=ids[:, 0],
    )


def seen_by(layout: Layout) -> list[set[int]]:
    """For each position of the sequence the positions it attends to, from the layout's tensors."""
    seen: list[set[int]] = []
    keys = layout.key_index.split(list(layout.key_lengths))
    for length, key in zip(layout.lengths, keys, strict=True):
        for token in range(length):
            seen.append(set(key[: len(key) - length + token + 1].tolist()))
    return seen


SHARED = list(range(100, 100 + SHARED_TOKENS))
trees = st.lists(
    st.builds(
        lambda roots, tail: [t for root in roots for t in (t + root for t in SHARED)] + tail,
        st.lists(st.integers(0, 1), max_size=3),
        st.lists(st.integers(0, 3), min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(trees)
def test_each_token_attends_exactly_to_the_tokens_before_it_in_its_row(rows: list[list[int]]) -> None:
    packed = pack(batch_of(rows))
    seen = seen_by(packed.layout)
    for row, places in zip(rows, packed.places.tolist(), strict=True):
        assert packed.token_ids[places[: len(row)]].tolist() == row
        assert packed.position_ids[places[: len(row)]].tolist() == list(range(len(row)))
        for end in range(len(row)):
            assert seen[places[end]] == set(places[: end + 1])


@settings(max_examples=60, deadline=None)
@given(trees)
def test_every_long_common_prefix_is_stored_once(rows: list[list[int]]) -> None:
    packed = pack(batch_of(rows))
    distinct = {tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)}
    short = sum(SHARED_TOKENS - 1 + 5 for _ in rows)  # a row's last tokens may be some other row's, too
    assert len(distinct) <= len(packed.token_ids) <= len(distinct) + short


def test_the_instruction_is_above_the_problems_and_a_problem_above_its_completions() -> None:
    one, other = ([100 * (1 + i) + t for t in range(SHARED_TOKENS)] for i in (1, 2))
    packed = pack(batch_of([SHARED + one + [1], SHARED + other + [2, 3], SHARED + one + [4]]))
    named = {
        tuple(ids.tolist()): above
        for ids, above in zip(packed.token_ids.split(list(packed.layout.lengths)), packed.layout.ancestors, strict=True)
    }
    assert named[tuple(SHARED)] == ()
    assert len(named[tuple(one)]) == 1
    assert len(named[(1,)]) == len(named[(4,)]) == 2
    assert named[(1,)] == named[(4,)]
    assert named[(*other, 2, 3)] == named[tuple(one)]


def test_one_row_is_one_segment() -> None:
    layout = pack(random_batch(rows=1, padding=False)).layout
    assert layout.ancestors == ((),)
    assert layout.masks() == (None,)


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("window", [None, 1, 4, 8])
def test_attention_over_the_forest_is_attention_over_each_path(heads: int, window: int | None) -> None:
    layout = Layout(lengths=(5, 3, 4), ancestors=((), (0,), (0,)))
    query = torch.randn(1, 4, 12, 8, dtype=torch.float64)
    key, value = torch.randn(2, 1, heads, 12, 8, dtype=torch.float64)
    output, _ = attend(torch.nn.Identity(), query, key, value, None, layout=layout, sliding_window=window)
    for path in (range(8), [*range(5), *range(8, 12)]):
        repeats = 4 // heads
        parts = query, key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        q, k, v = (part[:, :, list(path)] for part in parts)
        distances = torch.arange(len(path))[:, None] - torch.arange(len(path))
        is_seen = (distances >= 0) & (distances < (window or len(path)))
        scores = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(~is_seen, -1e9)
        expected = (scores.softmax(-1) @ v).transpose(1, 2)
        assert torch.allclose(output[:, list(path)], expected)


@pytest.mark.parametrize(("kernel", "device"), [("_varlen", "meta"), ("_by_segment", "cpu")])
def test_keys_are_not_copied_for_each_query_head_that_shares_them(kernel: str, device: str) -> None:
    layout = Layout(lengths=(5, 3, 4), ancestors=((), (0,), (0,)), device=torch.device(device))
    query = torch.zeros(1, 14, 12, 64, dtype=torch.bfloat16, device=device)
    key, value = torch.zeros(2, 1, 2, 12, 64, dtype=torch.bfloat16, device=device)
    with Shapes() as shapes:
        output = getattr(packing, kernel)(query, key, value, layout, scaling=None, window=None)
    assert output.shape == query.shape
    assert {(22, 2, 64), (1, 2, 8, 64), (1, 2, 9, 64)} & set(shapes.seen)
    assert not {(22, 14, 64), (1, 14, 8, 64), (1, 14, 9, 64)} & set(shapes.seen)


def test_under_autocast_the_kernel_gets_one_dtype_though_positions_have_made_queries_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dtypes: list[torch.dtype] = []
    by_segment = packing._by_segment

    def seen(*parts: Any, **more: Any) -> torch.Tensor:
        dtypes.extend(part.dtype for part in parts[:3])
        return by_segment(*parts, **more)

    monkeypatch.setattr(packing, "_by_segment", seen)
    query, key, value = torch.randn(3, 1, 2, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attend(torch.nn.Identity(), query, key, value.bfloat16(), None, layout=Layout(lengths=(5,), ancestors=((),)))
    assert dtypes == [torch.bfloat16] * 3


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias"])
def test_attention_with_modified_scores_is_rejected(name: str) -> None:
    parts, layout = torch.randn(3, 1, 2, 5, 8), Layout(lengths=(5,), ancestors=((),))
    with pytest.raises(ValueError, match=rf"^Expect attention with unmodified scores, got `{name}`\.$"):
        attend(torch.nn.Identity(), *parts, None, layout=layout, **{name: 30.0})


def test_equal_rows_and_a_row_that_begins_another() -> None:
    packed = pack(batch_of([[*SHARED, 1, 2], [*SHARED, 1, 2], SHARED]))
    assert len(packed.token_ids) <= len(SHARED) + 4
    assert packed.places[0, :SHARED_TOKENS].tolist() == packed.places[2, :SHARED_TOKENS].tolist()


def test_a_common_prefix_ends_with_the_shorter_row() -> None:
    row = torch.arange(5).numpy()
    assert common_length(row, row[:3]) == 3
