"""Transfers weights from the trainer to an engine, and verifies that they arrived.

After each transfer the engine samples a few tokens, whose log-probabilities the trainer recomputes. With equal weights
they differ only by rounding; an engine that still has old weights, even in a single layer, differs by more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from agents.core.distributed import any_of, gather, sharded_like, whole_together
from agents.core.errors import EngineFault
from agents.core.types import Batch, Completion
from agents.engines.base import Weights
from agents.models.lora import ADAPTER, adapted_layers, plain_name
from agents.rollout.source import PROBE_TOKENS, PROBES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from agents.core.chat import Chat
    from agents.learning.policy import Policy
    from agents.rollout.source import Source

BUCKET_BYTES = 2**29
"""Bytes of weights that are gathered by one collective call."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15}
"""Largest mean difference in nats explained by rounding, by the less precise of the two dtypes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A tensor of a model."""

    names: list[str]
    """More than one if it is tied."""
    tensor: torch.Tensor
    """May be sharded."""
    layer: Any
    """The layer whose adapter is added to it, or None."""


def weights_of(model: PreTrainedModel, dtype: torch.dtype | None = None) -> Weights:
    """Return a model's weights, with low-rank adapters added to what they adapt.

    Adapters are added in the model's dtype, each process to its shard, and the sum is converted before it is gathered.
    Tensors are gathered in buckets of at most `BUCKET_BYTES`, or alone if they are larger; no more than two buckets are
    in memory at a time. Reading a sharded model's tensors is a collective call.

    Args:
        model: May be sharded and have adapters.
        dtype: Of the tensors that are read; None: the model's.
    """
    parts = _parts(model)
    shapes = {name: tuple(part.tensor.shape) for part in parts for name in part.names}
    return Weights(shapes=shapes, tensors=_read(parts, dtype))


def _parts(model: PreTrainedModel) -> list[_Part]:
    adapted = adapted_layers(model)
    parts: dict[object, _Part] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if ".lora_" in name:
            continue
        layer = adapted.get(plain := plain_name(name))
        key = id(tensor) if layer is None else plain
        parts.setdefault(key, _Part(names=[], tensor=tensor.detach(), layer=layer)).names.append(plain)
    return list(parts.values())


def _read(parts: Sequence[_Part], dtype: torch.dtype | None) -> Iterator[tuple[str, torch.Tensor]]:
    for bucket in _buckets(parts, dtype):
        merged = [tensor.to(_target(tensor, dtype)) for tensor in _merged(bucket)]
        for part, tensor in zip(bucket, whole_together(merged), strict=True):
            for name in part.names:
                yield name, tensor


def _buckets(parts: Sequence[_Part], dtype: torch.dtype | None) -> Iterator[list[_Part]]:
    bucket: list[_Part] = []
    room = BUCKET_BYTES
    for part in parts:
        needed = part.tensor.numel() * _target(part.tensor, dtype).itemsize
        if bucket and needed > room:
            yield bucket
            bucket, room = [], BUCKET_BYTES
        bucket.append(part)
        room -= needed
    if bucket:
        yield bucket


def _target(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype


def _merged(bucket: Sequence[_Part]) -> Iterator[torch.Tensor]:
    """Yield the bucket's tensors, sharded as they are, with their adapters added."""
    pairs = [(part.layer.lora_A, part.layer.lora_B) for part in bucket if part.layer is not None]
    factors = whole_together([half[ADAPTER].weight.detach() for pair in pairs for half in pair])
    for part in bucket:
        if part.layer is None:
            yield part.tensor
            continue
        down, up = next(factors), next(factors)
        experts = len(part.tensor) if part.tensor.ndim > 2 else None
        added = part.layer.scaling[ADAPTER] * _product(part.layer, up, down, experts=experts)
        yield part.tensor + sharded_like(added, part.tensor)


def _product(layer: Any, up: torch.Tensor, down: torch.Tensor, experts: int | None) -> torch.Tensor:
    """Multiply the two matrices of an adapter; peft stacks those of fused experts."""
    if experts is None:
        product = up @ down
        return product.T if getattr(layer, "fan_in_fan_out", False) else product
    ups, downs = up.reshape(len(up), -1, experts), down.reshape(experts, -1, down.shape[-1])
    is_transposed = not getattr(layer, "_did_swap_in_out_features", False)
    return torch.einsum("ore,eri->eio" if is_transposed else "ore,eri->eoi", ups, downs)


class WeightSync:
    """Gives the engines of a run the policy's weights, and checks that they have them.

    Args:
        policy: The trainer's.
        source: The run's engines.
        chat: Encodes the text that is probed.
        dtype: Of the engines' weights.
        prompt_length: Tokens of this text. As many as the run's prompts may have, so that windows and positions
            count; the completions share them, and they are computed once.
    """

    def __init__(self, policy: Policy, source: Source, chat: Chat, dtype: str, *, prompt_length: int) -> None:
        self._policy, self._source, self._dtype = policy, source, getattr(torch, dtype)
        self._prompt = probe_prompt(chat, min(prompt_length, source.max_model_len - PROBE_TOKENS))
        exact = dtype == "float32" and policy.autocast is None
        self._tolerance = TOLERANCE["float32" if exact else "bfloat16"]
        self._synced: int | None = None
        self._metrics: dict[str, float] = {}

    def __call__(self, version: int) -> dict[str, float]:
        """Sync the weights of a version, see :func:`sync_weights`, unless all engines have them already."""
        if any_of(self._synced != version or not self._source.has_weights):
            self._metrics = sync_weights(
                self._policy,
                self._source,
                dtype=self._dtype,
                version=version,
                prompt=self._prompt,
                tolerance=self._tolerance,
            )
            self._synced = version
        return self._metrics

    def send(self, version: int) -> Callable[[], None]:
        """Send the weights of a version to engines that may be playing, unprobed; see :meth:`Source.send_weights`."""
        if not any_of(self._synced != version or not self._source.has_weights):
            return lambda: None
        self._synced = version
        return self._source.send_weights(version, weights_of(self._policy.model, self._dtype))


def probe_prompt(chat: Chat, length: int) -> list[int]:
    """Return a prompt of as many tokens, at least one."""
    questions = " ".join(f"What is {number} * {number + 22}?" for number in range(12, 13 + length // 4))
    return chat.encode_prompt(questions)[: max(1, length)]


def sync_weights(
    policy: Policy, source: Source, *, dtype: torch.dtype, version: int, prompt: Sequence[int], tolerance: float
) -> dict[str, float]:
    """Load the policy's weights into the engines, and compare log-probabilities of some sampled tokens.

    A collective call: each process checks the engines of all processes.

    Args:
        policy: The trainer's policy.
        source: The engines; no request may be running.
        dtype: Of the engines' weights.
        version: New version of the weights.
        prompt: Token ids of any text.
        tolerance: Largest accepted mean difference of log-probabilities, in nats; see `TOLERANCE`.

    Returns:
        ``sampling/probe_difference``: the mean difference in nats, the largest over all engines.

    Raises:
        EngineFault: The engine samples from other weights than the policy's.
        EngineError: The engine has another model.
    """
    source.load_weights(version, weights_of(policy.model, dtype))
    completions = gather(source.probe(prompt, temperature=policy.temperature))
    versions = {v for each in completions for v in each.policy_versions}
    if versions != {version}:
        raise EngineFault(f"Expect the engine to sample from weights {version}, got tokens of {sorted(versions)}.")
    batch = _batch(prompt, completions)
    output = policy.evaluate(batch, batch.token_ids.numel())
    differences = (output.logprobs - batch.sampling_logprobs).abs() * batch.action_mask
    by_engine = [part.sum() for part in differences.split(PROBES)]
    tokens = [part.sum() for part in batch.action_mask.split(PROBES)]
    difference = float((torch.stack(by_engine) / torch.stack(tokens)).max())
    if not difference <= tolerance:
        raise EngineFault(
            f"Expect the engine to sample from the trainer's weights (version {version}), but their log-probabilities "
            f"differ by {difference:.3g} on average (at most {tolerance:g}): the transfer failed or was incomplete."
        )
    return {"sampling/probe_difference": difference}


def _batch(prompt: Sequence[int], completions: Sequence[Completion]) -> Batch:
    start, length = len(prompt), len(prompt) + PROBE_TOKENS
    batch = Batch(
        token_ids=torch.zeros(len(completions), length, dtype=torch.long),
        attention_mask=torch.zeros(len(completions), length, dtype=torch.bool),
        action_mask=torch.zeros(len(completions), length, dtype=torch.bool),
        sampling_logprobs=torch.zeros(len(completions), length),
        rewards=torch.zeros(len(completions)),
        group_ids=torch.zeros(len(completions), dtype=torch.long),
    )
    for row, each in enumerate(completions):
        end = start + len(each.token_ids)
        batch.token_ids[row, :end] = torch.tensor([*prompt, *each.token_ids])
        batch.attention_mask[row, :end] = True
        batch.action_mask[row, start:end] = True
        batch.sampling_logprobs[row, start:end] = torch.tensor(each.logprobs)
    return batch
