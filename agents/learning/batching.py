"""Collates trajectories into right-padded tensors, and splits batches into micro-batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from agents.core.distributed import rank, size
from agents.core.types import Batch, Numbers, PolicyOutput, Trajectory
from agents.learning.packing import SHARED_TOKENS, common_length, rows_of


def collate(
    trajectories: Sequence[Trajectory], *, pad_token_id: int = 0, in_loss: Sequence[bool] | None = None
) -> Batch:
    """Collate trajectories into one batch of shape ``[B, T]``, ``T`` being the longest trajectory.

    Args:
        trajectories: At least one, each with at least one token.
        pad_token_id: Fills the rows on the right.
        in_loss: False for trajectories whose tokens are excluded from the loss while their rewards count; None: all
            are included.

    Raises:
        ValueError: There are no trajectories.
    """
    if not trajectories:
        raise ValueError("Expect at least one trajectory, got none.")
    length = max(len(t.token_ids) for t in trajectories)
    acts = [t.action_mask for t in trajectories]
    if in_loss is not None:
        acts = [mask if kept else (False,) * len(mask) for mask, kept in zip(acts, in_loss, strict=True)]

    return Batch(
        token_ids=_pad([t.token_ids for t in trajectories], length, pad_token_id, torch.long),
        attention_mask=_pad([[True] * len(t.token_ids) for t in trajectories], length, False, torch.bool),
        action_mask=_pad(acts, length, False, torch.bool),
        sampling_logprobs=_pad([t.logprobs for t in trajectories], length, 0.0, torch.float32),
        rewards=torch.tensor([t.reward for t in trajectories], dtype=torch.float32),
        group_ids=torch.tensor([t.group_id for t in trajectories], dtype=torch.long),
    )


def collate_tokens(rows: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> Batch:
    """Collate transcripts, which nobody sampled and which have no reward.

    Args:
        rows: At least one: token ids, and a mask that is True on the tokens to learn.
    """
    length = max(len(token_ids) for token_ids, _ in rows)
    return Batch(
        token_ids=_pad([token_ids for token_ids, _ in rows], length, 0, torch.long),
        attention_mask=_pad([[True] * len(token_ids) for token_ids, _ in rows], length, False, torch.bool),
        action_mask=_pad([mask for _, mask in rows], length, False, torch.bool),
        sampling_logprobs=torch.zeros(len(rows), length),
        rewards=torch.zeros(len(rows)),
        group_ids=torch.zeros(len(rows), dtype=torch.long),
    )


def _pad(rows: Sequence[Sequence[float]], length: int, value: float, dtype: torch.dtype) -> torch.Tensor:
    padded = torch.full((len(rows), length), value, dtype=dtype)
    for place, row in zip(padded.numpy(), rows, strict=True):  # torch reads no array that is not writable
        place[: len(row)] = row.array if isinstance(row, Numbers) else row
    return padded


def micro_batches(batch: Batch, max_tokens: int) -> Iterator[torch.Tensor]:
    """Yield row indices of micro-batches whose packed sequences have about ``max_tokens`` tokens.

    Rows with common prefixes are put together, and shared tokens count once. A row with more than ``max_tokens``
    tokens forms its own micro-batch.

    Args:
        batch: ``B`` sequences.
        max_tokens: Token limit, at least 1.
    """
    rows = rows_of(batch)
    order = sorted(range(len(rows)), key=lambda row: rows[row].astype(">i8").tobytes())
    members: list[int] = []
    tokens = 0
    for row in order:
        shared = common_length(rows[members[-1]], rows[row]) if members else 0
        new = len(rows[row]) - (shared if shared >= SHARED_TOKENS else 0)
        if members and tokens + new > max_tokens:
            yield torch.tensor(members)
            members, tokens, new = [], 0, len(rows[row])
        members.append(row)
        tokens += new
    if members:
        yield torch.tensor(members)


def deal(parts: Iterable[torch.Tensor]) -> Iterator[tuple[torch.Tensor, bool]]:
    """Yield this process's share of the micro-batches, each with whether it counts.

    All processes get the same number, because gathering sharded parameters is collective. A process with fewer
    micro-batches gets the first one again, which does not count.
    """
    parts = list(parts)
    for start in range(0, len(parts), size()):
        place = start + rank()
        yield (parts[place], True) if place < len(parts) else (parts[0], False)


def describe_mismatch(
    batch: Batch, old: PolicyOutput, weights: torch.Tensor, unbounded: torch.Tensor
) -> dict[str, float]:
    """Return metrics of the mismatch between the engine's and the trainer's log-probabilities before the update.

    Args:
        batch: ``B`` sequences.
        old: The policy's output before the update.
        weights: ``[B, T]`` importance weights from :func:`agents.learning.advantages.correction`.
        unbounded: ``[B, T]``, the same before they are bounded.

    Returns:
        Absolute differences in nats, statistics of the importance weights, named as in TRL, and the share of the
        tokens whose weight was capped or masked.
    """
    difference = (old.logprobs - batch.sampling_logprobs)[batch.action_mask]
    ratio = weights[batch.action_mask]
    return {
        "sampling/sampling_logp_difference/mean": float(difference.abs().mean()),
        "sampling/sampling_logp_difference/max": float(difference.abs().max()),
        "sampling/importance_sampling_ratio/min": float(ratio.min()),
        "sampling/importance_sampling_ratio/mean": float(ratio.mean()),
        "sampling/importance_sampling_ratio/max": float(ratio.max()),
        "sampling/importance_sampling_ratio/capped": float((ratio != unbounded[batch.action_mask]).float().mean()),
    }
