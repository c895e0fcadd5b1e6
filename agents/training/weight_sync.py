"""Transfers weights from the trainer to an engine, and verifies that they arrived.

After each transfer the engine samples a few tokens, whose log-probabilities the trainer recomputes. With equal weights
they differ only by rounding; an engine that still has old weights, even in a single layer, differs by more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from agents.core.distributed import gather
from agents.core.errors import EngineFault
from agents.core.types import Batch, Completion
from agents.engines.base import Sampling
from agents.models.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agents.engines.base import Engine
    from agents.learning.policy import Policy

_PROBES = 4
_PROBE_TOKENS = 8
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15}
"""Largest mean difference in nats explained by rounding, by the less precise of the two dtypes."""


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
