"""Trainer to engine: new weights with a version, and a check that they arrived whole.

After each transfer the engine samples a few tokens, and the trainer says how likely it finds them. An engine that still
holds old weights, in one layer or in all, gives itself away by log-probabilities of its own; one that holds the
trainer's differs by rounding alone.
"""

from __future__ import annotations

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
_PROBE = "What is 12 * 34?"
_PROBES = 4
_PROBE_TOKENS = 8
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15}
"""Largest mean difference in nats that rounding explains, by the less precise of the two dtypes."""


class Weights(Mapping[str, torch.Tensor]):
    """The state dict of a model without adapters: each tensor is put together when it is asked for.

    Shards are gathered from all processes, which must ask for the same tensors in the same order; low-rank adapters
    are added to what they adapt.

    Args:
        model: It may be sharded and have adapters; its weights are read, not copied, as long as they have neither.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._adapted: dict[str, Any] = {n: m for n, m in model.named_modules() if hasattr(m, "lora_A")}
        state = model.state_dict()
        self._tensors = {name.replace(".base_layer.", "."): t for name, t in state.items() if ".lora_" not in name}

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return one tensor."""
        tensor = whole(self._tensors[name])
        layer = self._adapted.get(name.removesuffix(".weight"))
        if layer is None:
            return tensor
        down, up = (whole(part[_ADAPTER].weight.detach()) for part in (layer.lora_A, layer.lora_B))
        scaling: float = layer.scaling[_ADAPTER]
        return tensor + scaling * (up @ down)

    def __iter__(self) -> Iterator[str]:
        """Go through the names, in the order of the model's own state dict."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Return how many tensors there are."""
        return len(self._tensors)


class WeightSync:
    """Gives the engine of a run the policy's weights, and checks that it has them.

    Args:
        policy: The trainer's.
        engine: The run's.
        chat: Encodes the text that is probed.
        dtype: Of the engine's weights.
    """

    def __init__(self, policy: Policy, engine: Engine, chat: Chat, dtype: str) -> None:
        self._policy, self._engine = policy, engine
        self._prompt = chat.encode_prompt(_PROBE)
        exact = dtype == "float32" and policy.autocast is None
        self._tolerance = TOLERANCE["float32" if exact else "bfloat16"]

    def __call__(self, version: int) -> dict[str, float]:
        """Sync the weights of a version; see :func:`sync_weights`."""
        return sync_weights(self._policy, self._engine, version=version, prompt=self._prompt, tolerance=self._tolerance)


def sync_weights(
    policy: Policy, engine: Engine, *, version: int, prompt: Sequence[int], tolerance: float
) -> dict[str, float]:
    """Hand the policy's weights to the engine, and compare what both say of some tokens.

    Of several processes all must come here; each of them judges the engines of all.

    Args:
        policy: The trainer's.
        engine: Nothing may run in it.
        version: Of the weights.
        prompt: Token ids of any text.
        tolerance: Largest mean difference of log-probabilities, in nats; see `TOLERANCE`.

    Returns:
        ``sampling/probe_difference``: the mean difference, of several engines the largest.

    Raises:
        EngineFault: The engine samples from other weights than the policy's.
        EngineError: The engine's model is another one.
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
            f"differ by {difference:.3g} on average (at most {tolerance:g}): the weights did not arrive, or not whole."
        )
    return {"sampling/probe_difference": difference}


def _sample(engine: Engine, prompt: Sequence[int], *, temperature: float) -> list[Completion]:
    numbers = range(-_PROBES, 0)  # no episode's
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
