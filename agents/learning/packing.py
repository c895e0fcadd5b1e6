"""Packs the rows of a batch into one sequence without padding, with shared prefixes stored once.

Rows of a group begin with the same problem, and all rows with the same instruction. The packed sequence is a forest of
segments: a segment holds tokens shared by all rows of a branch, and its children start where these rows diverge::

    instruction ─┬─ problem 1 ─┬─ completion
                 │             └─ completion
                 └─ problem 2 ─── completion

A token attends to its own segment up to itself and to the ancestors of the segment. A causal model therefore computes
the same for it as in the unpacked row, gradients included, however many rows share it. (Padding-free packing:
transformers' ``DataCollatorWithFlattening``; shared prefixes in training: prefix grouper, arXiv 2506.05433.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from agents.core.types import Batch, upload
from agents.models.support import CHANGE_SCORES

Ids = np.ndarray[Any, np.dtype[np.int64]]

ATTENTION = "agents_packed"
"""Name of :func:`attend` in transformers' attention registry."""
SHARED_TOKENS = 16
"""Minimum number of common tokens for a shared segment."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The attention pattern of a packed sequence."""

    lengths: tuple[int, ...]
    """Number of tokens of each segment, in order."""
    ancestors: tuple[tuple[int, ...], ...]
    """Indices of each segment's ancestors, from the root down."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Device of the sequence."""
    _masks: dict[int | None, tuple[torch.Tensor | None, ...]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def key_lengths(self) -> tuple[int, ...]:
        """Number of tokens visible to each segment, its own included."""
        return tuple(
            length + sum(self.lengths[a] for a in above)
            for length, above in zip(self.lengths, self.ancestors, strict=True)
        )

    def masks(self, window: int | None = None) -> tuple[torch.Tensor | None, ...]:
        """Return the bool mask of each segment: ``[own tokens, visible tokens]``; None if it is plainly causal.

        Args:
            window: How many tokens up to itself a token sees; None: all.
        """
        if window not in self._masks:
            self._masks[window] = tuple(
                self._mask(n, k, window) for n, k in zip(self.lengths, self.key_lengths, strict=True)
            )
        return self._masks[window]

    def _mask(self, own: int, visible: int, window: int | None) -> torch.Tensor | None:
        before = visible - own
        if before == 0 and (window is None or own <= window):
            return None
        mask = torch.ones(own, visible, dtype=torch.bool, device=self.device).tril(before)
        return mask if window is None else mask.triu(before - window + 1)

    @cached_property
    def key_index(self) -> torch.Tensor:
        """``[sum(key_lengths)]``: positions of the tokens visible to each segment, segment by segment."""
        starts = [0, *accumulate(self.lengths)]
        parts = [
            torch.arange(starts[s], starts[s + 1])
            for number, above in enumerate(self.ancestors)
            for s in (*above, number)
        ]
        return upload(torch.cat(parts), self.device)

    def ends(self, lengths: Sequence[int]) -> torch.Tensor:
        """Return ``[segments + 1]`` int32: cumulative lengths, from 0."""
        return upload(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), self.device)

    @cached_property
    def query_ends(self) -> torch.Tensor:
        """Cumulative lengths of the segments in the sequence."""
        return self.ends(self.lengths)

    @cached_property
    def key_ends(self) -> torch.Tensor:
        """Cumulative lengths of the segments in ``key_index``."""
        return self.ends(self.key_lengths)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A batch as one sequence of ``N`` tokens."""

    token_ids: torch.Tensor
    """``[N]`` int64."""
    position_ids: torch.Tensor
    """``[N]`` int64: position of each token in its row."""
    places: torch.Tensor
    """``[B, T]`` int64, on the host: index of each token of a row in the sequence; 0 on padding."""
    layout: Layout
    """The attention pattern."""


def pack(batch: Batch, device: torch.device | None = None) -> Packed:
    """Pack a batch, which is on the host, into one sequence on ``device``; None: on the host.

    >>> ids = torch.tensor([[7] * 16 + [1], [7] * 16 + [2]])
    >>> mask = torch.ones_like(ids, dtype=torch.bool)
    >>> zeros = torch.zeros(2, 17)
    >>> packed = pack(Batch(token_ids=ids, attention_mask=mask, action_mask=mask, sampling_logprobs=zeros,
    ...                     rewards=zeros[:, 0], group_ids=ids[:, 0]))
    >>> packed.layout.lengths, packed.layout.ancestors, len(packed.token_ids)
    ((16, 1, 1), ((), (0,), (0,)), 18)
    """
    rows = rows_of(batch)
    places = np.zeros(batch.token_ids.shape, dtype=np.int64)
    tokens: list[Ids] = []
    starts: list[int] = []
    ancestors: list[tuple[int, ...]] = []
    size = 0
    branches: list[tuple[Sequence[int], int, tuple[int, ...]]] = [(range(len(rows)), 0, ())]
    while branches:
        members, start, above = branches.pop()
        for group in _by_next_tokens(rows, members, start):
            first = rows[group[0]]
            end = min((common_length(first, rows[row]) for row in group[1:]), default=len(first))
            places[group, start:end] = np.arange(size, size + end - start)
            branches.append(([row for row in group if len(rows[row]) > end], end, (*above, len(tokens))))
            tokens.append(first[start:end])
            starts.append(start)
            ancestors.append(above)
            size += end - start
    device = device or batch.token_ids.device
    positions = [np.arange(start, start + len(part)) for start, part in zip(starts, tokens, strict=True)]
    return Packed(
        token_ids=upload(torch.from_numpy(np.concatenate(tokens)), device),
        position_ids=upload(torch.from_numpy(np.concatenate(positions)), device),
        places=torch.from_numpy(places),
        layout=Layout(lengths=tuple(map(len, tokens)), ancestors=tuple(ancestors), device=device),
    )


def rows_of(batch: Batch) -> list[Ids]:
    """Return the token ids of each row, without padding."""
    ids, lengths = batch.token_ids.numpy(), batch.attention_mask.sum(1).tolist()
    return [ids[row, :length] for row, length in enumerate(lengths)]


def common_length(one: Ids, other: Ids) -> int:
    """Return the length of the common prefix of two rows.

    >>> common_length(np.array([5, 6, 7]), np.array([5, 6, 8, 9]))
    2
    """
    size = min(len(one), len(other))
    different = one[:size] != other[:size]
    return int(different.argmax()) if different.any() else size


def _by_next_tokens(rows: Sequence[Ids], members: Sequence[int], start: int) -> list[list[int]]:
    """Group rows by their next `SHARED_TOKENS` tokens; rows with fewer tokens left are alone."""
    groups: dict[object, list[int]] = {}
    for row in members:
        ahead = rows[row][start : start + SHARED_TOKENS]
        groups.setdefault(ahead.tobytes() if len(ahead) == SHARED_TOKENS else row, []).append(row)
    return list(groups.values())


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    layout: Layout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function for transformers over a packed sequence; without a layout, transformers' SDPA attention.

    Args:
        module: The attention layer.
        query: ``[1, heads, N, D]``.
        key: ``[1, key heads, N, D]``.
        value: ``[1, key heads, N, D]``.
        attention_mask: None with a layout.
        layout: The attention pattern.
        scaling: Factor of the scores; None: ``1 / sqrt(D)``.
        sliding_window: How many tokens up to itself a token sees in this layer; None: all.
        more: Further arguments of transformers.

    Returns:
        The output ``[1, N, heads, D]``, and None for the attention weights.

    Raises:
        ValueError: The model modifies attention scores.
    """
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    odd = next((name for name in CHANGE_SCORES if more.get(name) is not None), None)
    if odd is not None:
        raise ValueError(f"Expect attention with unmodified scores, got `{odd}`.")
    if sliding_window is not None and max(layout.key_lengths) <= sliding_window:
        sliding_window = None
    if torch.is_autocast_enabled(query.device.type):  # rotary embeddings have made queries and keys float32
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = (part.to(dtype) for part in (query, key, value))
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        output = _varlen(query, key, value, layout, scaling=scaling, window=sliding_window)
    else:
        output = _by_segment(query, key, value, layout, scaling=scaling, window=sliding_window)
    return output.transpose(1, 2), None


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    *,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Run flash attention once for all segments; its causal mask aligns the last query with the last key."""
    from torch.nn.attention.varlen import varlen_attn

    narrower = query.shape[-1] - value.shape[-1]  # in latent attention; the kernel takes one width
    value = pad(value, (0, narrower)) if narrower else value
    keys, values = (part[0].transpose(0, 1).index_select(0, layout.key_index) for part in (key, value))
    output: Any = varlen_attn(
        query[0].transpose(0, 1).contiguous(),
        keys,
        values,
        layout.query_ends,
        layout.key_ends,
        max(layout.lengths),
        max(layout.key_lengths),
        window_size=(-1 if window is None else window - 1, 0),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(0, 1)[None, ..., : value.shape[-1] - narrower]  # type: ignore[no-any-return]


def _by_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    *,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    lengths = list(layout.lengths)
    queries, keys, values = (part.split(lengths, dim=2) for part in (query, key, value))
    outputs = []
    for number, (above, mask) in enumerate(zip(layout.ancestors, layout.masks(window), strict=True)):
        seen = (*above, number)
        output = scaled_dot_product_attention(
            queries[number],
            torch.cat([keys[s] for s in seen], dim=2),
            torch.cat([values[s] for s in seen], dim=2),
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(output)
    return torch.cat(outputs, dim=2)


AttentionInterface.register(ATTENTION, attend)
