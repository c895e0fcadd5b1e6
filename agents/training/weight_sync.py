"""Transfers weights from the trainer to an engine, and verifies that they arrived.

After each transfer the engine samples a few tokens, whose log-probabilities the trainer recomputes. With equal weights
they differ only by rounding; an engine that still has old weights, even in a single layer, differs by more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from agents.core.distributed import gather, whole
from agents.core.errors import EngineFault
from agents.core.types import Batch, Completion
from agents.engines.base import Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from agents.core.chat import Chat
    from agents.engines.base import Engine
    from agents.learning.policy import Policy

_ADAPTER = "default"  # peft's name for a model's first
_PROBES = 4
_PROBE_TOKENS = 8
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15}
"""Largest mean difference in nats explained by rounding, by the less precise of the two dtypes."""


class Weights(Mapping[str, torch.Tensor]):
    """A lazy state dict with adapters merged: each tensor is assembled when it is accessed.

    Shards are gathered from all processes, which must access the same tensors in the same order. Low-rank adapters are
    added to the weights they adapt.

    Args:
        model: May be sharded and have adapters. Tensors without either are not copied.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._adapted: dict[str, Any] = {
            _plain(f"{name}.{getattr(layer, 'parameter_name', 'weight')}"): layer
            for name, layer in model.named_modules()
            if hasattr(layer, "lora_A")
        }
        self._tensors = {_plain(name): t for name, t in model.state_dict().items() if ".lora_" not in name}

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return the full tensor of a name."""
        tensor = whole(self._tensors[name])
        layer = self._adapted.get(name)
        if layer is None:
            return tensor
        down, up = (whole(part[_ADAPTER].weight.detach()) for part in (layer.lora_A, layer.lora_B))
        scaling: float = layer.scaling[_ADAPTER]
        return tensor + scaling * _product(layer, up, down, experts=len(tensor) if tensor.ndim > 2 else None)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the order of the model's state dict."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._tensors)


def _plain(name: str) -> str:
    """Return the name that a tensor has without adapters, which wrap each adapted layer.

    >>> _plain("mlp.experts.base_layer.base_layer.down_proj")
    'mlp.experts.down_proj'
    """
    return re.sub(r"(\.base_layer)+\.", ".", name)


def _product(layer: Any, up: torch.Tensor, down: torch.Tensor, experts: int | None) -> torch.Tensor:
    """Multiply the two matrices of an adapter; peft stacks those of fused experts."""
    if experts is None:
        product = up @ down
        return product.T if getattr(layer, "fan_in_fan_out", False) else product
    ups, downs = up.reshape(len(up), -1, experts), down.reshape(experts, -1, down.shape[-1])
    is_transposed = not getattr(layer, "_did_swap_in_out_features", False)
    return torch.einsum("ore,eri->eio" if is_transposed else "ore,eri->eoi", ups, downs)


class WeightSync:
    """Gives the engine of a run the policy's weights, and checks that it has them.

    Args:
        policy: The trainer's.
        engine: The run's.
        chat: Encodes the text that is probed.
        dtype: Of the engine's weights.
        prompt_length: Tokens of this text. As many as the run's prompts may have, so that windows and positions
            count; the completions share them, and they are computed once.
    """

    def __init__(self, policy: Policy, engine: Engine, chat: Chat, dtype: str, *, prompt_length: int) -> None:
        self._policy, self._engine = policy, engine
        self._prompt = probe_prompt(chat, min(prompt_length, engine.max_model_len - _PROBE_TOKENS))
        exact = dtype == "float32" and policy.autocast is None
        self._tolerance = TOLERANCE["float32" if exact else "bfloat16"]

    def __call__(self, version: int) -> dict[str, float]:
        """Sync the weights of a version; see :func:`sync_weights`."""
        return sync_weights(self._policy, self._engine, version=version, prompt=self._prompt, tolerance=self._tolerance)


def probe_prompt(chat: Chat, length: int) -> list[int]:
    """Return a prompt of as many tokens, at least one."""
    questions = " ".join(f"What is {number} * {number + 22}?" for number in range(12, 13 + length // 4))
    return chat.encode_prompt(questions)[: max(1, length)]


def sync_weights(
    policy: Policy, engine: Engine, *, version: int, prompt: Sequence[int], tolerance: float
) -> dict[str, float]:
    """Load the policy's weights into the engine, and compare log-probabilities of some sampled tokens.

    A collective call: each process checks the engines of all processes.

    Args:
        policy: The trainer's policy.
        engine: The engine of this process; no request may be running.
        version: New version of the weights.
        prompt: Token ids of any text.
        tolerance: Largest accepted mean difference of log-probabilities, in nats; see `TOLERANCE`.

    Returns:
        ``sampling/probe_difference``: the mean difference in nats, the largest over all engines.

    Raises:
        EngineFault: The engine samples from other weights than the policy's.
        EngineError: The engine has another model.
    """
    engine.load_weights(version, Weights(policy.model))
    completions = gather(_sample(engine, prompt, temperature=policy.temperature))
    versions = {v for each in completions for v in each.policy_versions}
    if versions != {version}:
        raise EngineFault(f"Expect the engine to sample from weights {version}, got tokens of {sorted(versions)}.")
    batch = _batch(prompt, completions)
    output = policy.evaluate(batch, batch.token_ids.numel())
    differences = (output.logprobs - batch.sampling_logprobs).abs() * batch.action_mask
    by_engine = [part.sum() for part in differences.split(_PROBES)]
    tokens = [part.sum() for part in batch.action_mask.split(_PROBES)]
    difference = float((torch.stack(by_engine) / torch.stack(tokens)).max())
    if not difference <= tolerance:
        raise EngineFault(
            f"Expect the engine to sample from the trainer's weights (version {version}), but their log-probabilities "
            f"differ by {difference:.3g} on average (at most {tolerance:g}): the transfer failed or was incomplete."
        )
    return {"sampling/probe_difference": difference}


def _sample(engine: Engine, prompt: Sequence[int], *, temperature: float) -> list[Completion]:
    numbers = range(-_PROBES, 0)  # ids that no episode uses
    for number in numbers:
        sampling = Sampling(temperature=temperature, max_tokens=_PROBE_TOKENS, seed=-number)
        engine.submit(number, prompt, sampling)
    completions: list[Completion] = []
    while len(completions) < _PROBES:
        completions += engine.poll()
    for number in numbers:
        engine.release(number)
    return completions


def _batch(prompt: Sequence[int], completions: Sequence[Completion]) -> Batch:
    start, length = len(prompt), len(prompt) + _PROBE_TOKENS
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
