"""A language model as a policy: log-probabilities and values of the tokens of a batch.

The shift by one token lives here alone: what the model computes at position ``t - 1`` is stored at index ``t``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache

from agents.batching import micro_batches
from agents.models import with_cache
from agents.types import Batch, PolicyOutput

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CHUNK_TOKENS = 128  # the logits of so many tokens exist at once; the backward pass computes them again
_SHARED_TOKENS = 16  # a shorter common prefix is not worth a pass of its own


class _SharedPrefix(Cache):
    """Keys and values of one prefix, with their gradients: first recorded, then put before every row of a batch."""

    def __init__(self) -> None:
        self.layers = []
        self._prefix: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Record the first call of each layer; prepend it to all later ones."""
        if layer_idx not in self._prefix:
            self._prefix[layer_idx] = (key_states, value_states)
            return key_states, value_states
        keys, values = self._prefix[layer_idx]
        rows = len(key_states)
        return (
            torch.cat([keys.expand(rows, -1, -1, -1), key_states], dim=2),
            torch.cat([values.expand(rows, -1, -1, -1), value_states], dim=2),
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the length of the prefix."""
        return self._prefix[layer_idx][0].shape[2] if layer_idx in self._prefix else 0


class Policy(nn.Module):
    """A causal language model, and a value head if one is asked for.

    Tokens that all sequences of a batch share at their beginning (the instruction, a group's problem) are computed
    once, with the same gradient as if each row had them.

    Args:
        model: The language model, in the dtype to train in.
        temperature: The sampling temperature: log-probabilities are those of ``logits / temperature``.
        value_head: Add a linear value head on the last hidden state, initialised to 0.
        autocast: dtype of the matrix products, such as ``torch.bfloat16``; None: the parameters' own.
        gradient_checkpointing: Recompute activations in the backward pass; shared prefixes are then computed per row.
        entropy_gradient: Let the entropy carry a gradient, for a bonus.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        temperature: float = 1.0,
        value_head: bool = False,
        autocast: torch.dtype | None = None,
        gradient_checkpointing: bool = False,
        entropy_gradient: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        model.set_attn_implementation("sdpa")  # the one that takes the shared prefix's mask of booleans for what it is
        self.temperature = temperature
        self.value_head = nn.Linear(model.config.hidden_size, 1) if value_head else None
        if self.value_head is not None:
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
            self.value_head.to(model.device)
        self._autocast = autocast
        self._entropy_gradient = entropy_gradient
        self._share_prefix = not gradient_checkpointing
        if gradient_checkpointing:
            # transformers 5.2x has renamed it and warns of the old name
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.model.device

    def forward(self, batch: Batch) -> PolicyOutput:
        """Return log-probabilities, entropies and values of the sampled tokens, with gradients if they are enabled."""
        device_type = self.device.type
        with torch.autocast(device_type, dtype=self._autocast, enabled=self._autocast is not None):
            hidden, acts = self._hidden_of_actions(batch)
            chunks = zip(hidden.split(_CHUNK_TOKENS), batch.token_ids[acts].split(_CHUNK_TOKENS), strict=True)
            scores = [checkpoint(self._score, *chunk, use_reentrant=False) for chunk in chunks]
            logprobs, entropy = (torch.cat(parts) for parts in zip(*scores, strict=True))
            values = None if self.value_head is None else self.value_head(hidden).squeeze(-1)
        return PolicyOutput(
            logprobs=_scatter(logprobs, acts),
            entropy=_scatter(entropy, acts),
            values=None if values is None else _scatter(values.float(), acts),
        )

    @torch.no_grad()
    def evaluate(self, batch: Batch, micro_batch_size: int) -> PolicyOutput:
        """Return the output for a whole batch without gradients, ``micro_batch_size`` sequences at a time."""
        zeros = torch.zeros_like(batch.sampling_logprobs)
        total = {"logprobs": zeros, "entropy": zeros.clone()}
        if self.value_head is not None:
            total["values"] = zeros.clone()
        for index in micro_batches(batch, micro_batch_size):
            rows = batch.rows(index).trimmed().to(self.device)
            output = self(rows)
            for name, tensor in total.items():
                tensor[index, : rows.token_ids.shape[1]] = getattr(output, name).to(tensor.device)
        return PolicyOutput(**total)

    def _score(self, hidden: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probability ``[n]`` of the chosen tokens ``[n]`` and entropy ``[n]``, from states ``[n, H]``."""
        logits = self.model.get_output_embeddings()(hidden).float() / self.temperature
        everything = torch.log_softmax(logits, dim=-1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._entropy_gradient):
            entropy = -(everything.exp() * everything).sum(-1)
        return everything.gather(1, chosen[:, None]).squeeze(1), entropy

    def _hidden_of_actions(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hidden states ``[N, H]`` that predict the N sampled tokens, and the mask of these tokens."""
        if bool(batch.action_mask[:, 0].any()):
            raise ValueError(
                "Expect a prompt of at least one token in every row, got a row that starts with an action."
            )
        ids = batch.token_ids
        shared = _shared_length(batch) if self._share_prefix else 0
        decoder = self.model.base_model
        if shared < _SHARED_TOKENS:
            shared = 0
            hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
        else:
            cache = _SharedPrefix()
            decoder(input_ids=ids[:1, :shared], **with_cache(decoder, cache))
            rest = ids.shape[1] - shared
            mask = torch.ones(rest, ids.shape[1], dtype=torch.bool, device=ids.device).tril(shared)
            hidden = decoder(
                input_ids=ids[:, shared:],
                attention_mask=mask[None, None],
                position_ids=torch.arange(shared, ids.shape[1], device=ids.device)[None],
                **with_cache(decoder, cache),
            ).last_hidden_state
        # Padding stands on the right, where a causal model's earlier positions do not see it: no mask is needed.
        return hidden[:, :-1][batch.action_mask[:, shared + 1 :]], batch.action_mask


def _shared_length(batch: Batch) -> int:
    """Return how many leading tokens all rows share, the last one before the first action left out."""
    same = (batch.token_ids == batch.token_ids[:1]).all(0) & ~batch.action_mask.any(0)
    return max(0, int(same.long().cumprod(0).sum()) - 1)


def _scatter(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return a tensor like ``mask`` with ``values`` where it is True and 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)
