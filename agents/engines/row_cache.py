"""A KV cache with one row per sequence, rows of different lengths, and the attention that reads it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from agents.engines.threads import all_threads

GROUPED_ATTENTION = "cir_grouped"
"""Name of the attention function, for ``set_attn_implementation``."""


@all_threads
def _grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Grouped-query attention that, for one query per row, does not copy keys and values for each head of a group."""
    window = kwargs.pop("sliding_window", None)
    if window is not None and key.shape[2] > window:
        attention_mask = _within(window, attention_mask)
    batch, heads, length, _ = query.shape
    if length > 1:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return result
    grouped = query.view(batch, key.shape[1], heads // key.shape[1], -1)
    scale = kwargs.get("scaling") or grouped.shape[-1] ** -0.5
    if query.device.type == "cpu" and query.dtype == torch.float32:
        # the fused kernel's bits depend on the thread that computes them; PyTorch's other one copies keys to scale them
        scores = (grouped * scale) @ key.transpose(-1, -2)
        out = scores.masked_fill_(~attention_mask, -torch.inf).softmax(-1) @ value
    else:
        out = torch.nn.functional.scaled_dot_product_attention(
            grouped, key, value, attn_mask=attention_mask, scale=scale
        )
    return out.reshape(batch, 1, heads, -1), None


def _within(window: int, mask: torch.Tensor) -> torch.Tensor:
    """Limit a causal mask ``[..., keys]`` to the last ``window`` keys that each query sees."""
    seen = mask.sum(-1, keepdim=True)
    return mask & (torch.arange(mask.shape[-1], device=mask.device) >= seen - window)


AttentionInterface.register(GROUPED_ATTENTION, _grouped_attention)


class RowCache(Cache):
    """KV cache of ``rows`` sequences, each written at its own positions.

    Args:
        rows: Number of sequences.
        capacity: Positions per row.

    Attributes:
        size: As many as ``rows``.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        self.layers = []
        self.size, self._capacity = rows, capacity
        self._store: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._rows: slice | torch.Tensor = slice(0, rows)
        self._indices = torch.arange(rows)[:, None]
        self._slots = torch.zeros(rows, 1, dtype=torch.long)
        self._length = 0

    def lift(self, row: int, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return a copy of the first ``length`` positions of a row, layer by layer."""
        return [(keys[row, :, :length].clone(), values[row, :, :length].clone()) for keys, values in self._store]

    def put(self, row: int, layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Write the result of :meth:`lift` to the first positions of a row."""
        for stored, lifted in zip(self._store, layers, strict=True):
            for target, source in zip(stored, lifted, strict=True):
                target[row, :, : source.shape[1]] = source

    def free(self) -> None:
        """Free the memory; the next pass allocates it again."""
        self._store = []

    def fill(self, length: int) -> None:
        """Fill the first ``length`` positions with noise, the same in all rows. The first pass allocates the cache."""
        noise = torch.Generator().manual_seed(0)
        for layer in self._store:
            for stored in layer:
                stored[:, :, :length] = torch.randn(stored[0, :, :length].shape, generator=noise).to(stored)

    def aim(self, rows: slice | list[int], slots: torch.Tensor, length: int) -> None:
        """Make the next pass write its tokens to ``slots [rows, n]`` and read the first ``length`` positions."""
        self._indices = torch.arange(self.size, device=slots.device)[rows, None]
        self._rows = rows if isinstance(rows, slice) else self._indices[:, 0]
        self._slots, self._length = slots, length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values ``[rows, H, n, D]``; return all keys and values that the pass may attend to."""
        if layer_idx == len(self._store):
            self._store.append((self._allocate(key_states), self._allocate(value_states)))
        keys, values = self._store[layer_idx]
        keys[self._indices, :, self._slots] = key_states.transpose(1, 2)
        values[self._indices, :, self._slots] = value_states.transpose(1, 2)
        return keys[self._rows, :, : self._length], values[self._rows, :, : self._length]

    def _allocate(self, states: torch.Tensor) -> torch.Tensor:
        _, heads, _, width = states.shape
        return states.new_zeros(self.size, heads, self._capacity, width)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of positions that the pass reads."""
        return self._length

    def swap(self, one: int, other: int, length: int) -> None:
        """Swap the first ``length`` positions of two rows."""
        lifted = self.lift(one, length)
        self.copy(other, one, length)
        self.put(other, lifted)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of row ``source`` to row ``target``."""
        for layer in self._store:
            for stored in layer:
                stored[target, :, :length] = stored[source, :, :length]


def with_cache(decoder: torch.nn.Module, cache: Cache) -> dict[str, Any]:
    """Return the arguments that let a decoder use a cache; transformers 5.24 has renamed ``past_key_values``."""
    names = inspect.signature(decoder.forward).parameters
    return {"cache" if "cache" in names else "past_key_values": cache, "use_cache": True}
