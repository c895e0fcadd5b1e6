"""What the benchmarks train on, and their instruments: sequences, models, clock and memory. Needs no environment."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from agents.core.types import Advantages, Batch, Completion, Trajectory
from agents.engines.base import Engine, Sampling
from agents.learning.batching import collate

GENERATIONS = 4
"""Sequences of a group, which share their prompt."""
INSTRUCTION = 40
"""Tokens that all prompts begin with."""


class Meter:
    """Times updates, and keeps the most memory that was held since the first began."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: list[float] = []
        self._device = device
        self._base: float | None = None

    def begin(self) -> None:
        """Begin an update."""
        if self._base is None:
            self._base = self._forget_peak()
        self._synchronize()
        self._begin = time.perf_counter()

    def end(self) -> None:
        """End it."""
        self._synchronize()
        self.seconds.append(time.perf_counter() - self._begin)

    @property
    def peak_mb(self) -> float:
        """Most MB held since the first update began, beyond what was held then."""
        return peak_mb(self._device) - (self._base or 0.0)

    def _forget_peak(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated() / 2**20
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is held now
        return peak_mb(self._device)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def peak_mb(device: torch.device) -> float:
    """Return the most memory that this process has held, in MB: on a GPU of the GPU's, else of the machine's."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else _status_mb("VmHWM")


def held_mb(device: torch.device) -> float:
    """Return the memory in MB that is held: on a GPU all of the GPU's that is not free, else this process's."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return (total - free) / 2**20
    return _status_mb("VmRSS")


def _status_mb(name: str) -> float:
    return int(re.findall(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is trained on."""

    trajectories: Sequence[Trajectory]
    """Sequences; a group's stand together."""
    batch: Batch
    """The same as tensors."""
    targets: Advantages
    """Each reward less its group's mean."""
    prompt_lengths: Sequence[int]
    """Tokens of each sequence's prompt."""


def make_load(vocab_size: int, *, groups: int, shortest: int, longest: int, seed: int) -> Load:
    """Draw sequences, whose first and second half have completions of the same lengths, log-uniform."""
    draw = random.Random(seed)
    half = groups // 2 * GENERATIONS
    ratio = (longest / shortest) ** (1 / (half - 1))
    lengths = [round(shortest * ratio**i) for i in range(half)]
    lengths = draw.sample(lengths, half) + draw.sample(lengths, half)

    def ids(count: int) -> list[int]:
        return [draw.randrange(vocab_size) for _ in range(count)]

    instruction, rows = ids(INSTRUCTION), []
    for group in range(groups):
        prompt = instruction + ids(draw.randint(1, 160))
        for number, length in enumerate(lengths[group * GENERATIONS : (group + 1) * GENERATIONS]):
            feedback = length // 8 if length >= 2 * shortest else 0
            begin = (length - feedback) // 2
            acts = [not begin <= t < begin + feedback for t in range(length)]
            right = number == 0 or (number < GENERATIONS - 1 and draw.random() < 0.5)
            rows.append(trajectory(group, prompt, ids(length), acts, reward=1.0 if right else -1.0))
    batch = collate(rows)
    baseline = batch.rewards.view(-1, GENERATIONS).mean(1).repeat_interleave(GENERATIONS)
    advantages = (batch.rewards - baseline)[:, None] * batch.action_mask
    targets = Advantages(advantages=advantages, returns=advantages)
    prompt_lengths = [row.prompt_length for row in rows]
    return Load(trajectories=rows, batch=batch, targets=targets, prompt_lengths=prompt_lengths)


def trajectory(
    group: int,
    prompt: Sequence[int],
    completion: Sequence[int],
    acts: Sequence[bool],
    *,
    reward: float = 0.0,
    logprobs: Sequence[float] | None = None,
) -> Trajectory:
    """Return an episode of which ``acts`` says which tokens of the completion were sampled."""
    length = len(prompt) + len(completion)
    return Trajectory(
        problem_id=str(group),
        group_id=group,
        token_ids=(*prompt, *completion),
        action_mask=(*[False] * len(prompt), *acts),
        logprobs=(*[0.0] * len(prompt), *(logprobs or [0.0] * len(completion))),
        prompt_length=len(prompt),
        reward=reward,
        reward_valid=True,
        terminated=True,
        truncated=False,
        turns=(),
        boundary_cuts=0,
        policy_versions=(0,) * length,
    )


Turn = tuple[Sequence[int], int]
"""A context, and how many tokens are sampled after it."""


def sample_all(engine: Engine, requests: Sequence[Sequence[Turn]]) -> list[list[Completion]]:
    """Sample the turns of all requests, a request's next one as soon as the one before it has ended."""
    done: list[list[Completion]] = [[] for _ in requests]

    def submit(number: int) -> None:
        context, length = requests[number][len(done[number])]
        engine.submit(number, context, Sampling(max_tokens=length, seed=number))

    for number in range(len(requests)):
        submit(number)
    while engine.busy:
        for completion in engine.poll():
            number = completion.request_id
            done[number].append(completion)
            if len(done[number]) < len(requests[number]):
                submit(number)
            else:
                engine.release(number)
    return done


def random_model(*, vocab_size: int, hidden_size: int, num_layers: int, seed: int) -> PreTrainedModel:
    """Make a Qwen2 with fresh weights."""
    torch.manual_seed(seed)
    heads = max(2, hidden_size // 64)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def qwen_7b(device: torch.device, dtype: torch.dtype, **changes: int) -> PreTrainedModel:
    """Make a model of Qwen2.5-Math-7B's shape with fresh weights; its tokens are whatever a tokenizer calls them.

    Args:
        device: Where the weights are drawn.
        dtype: Of the weights.
        **changes: Sizes of a smaller one, as `Qwen2Config` calls them.
    """
    shape = {
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
    }
    config = Qwen2Config(**(shape | changes), tie_word_embeddings=False, bos_token_id=None, eos_token_id=None)
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model


def needed_flops(model: PreTrainedModel, batch: Batch) -> float:
    """Count what an update must compute: a pass for old log-probabilities, and a forward and a backward pass.

    A forward pass has 2 operations for each weight of the layers and token, 2 for each weight of the output layer and
    sampled token, and attention's to the tokens before; a backward pass has twice as many.
    """
    shape = model.config
    layers = sum(p.numel() for p in model.base_model.layers.parameters() if p.ndim == 2)
    lengths = batch.attention_mask.sum(1).double()
    head_dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    attention = 2 * shape.num_hidden_layers * shape.num_attention_heads * head_dim * float(lengths.square().sum())
    head = shape.vocab_size * shape.hidden_size * int(batch.action_mask.sum())
    return 4 * (2 * layers * float(lengths.sum()) + 2 * head + attention)


def matmul_flops(dtype: torch.dtype, device: torch.device) -> float:
    """Return the most operations a second of a product of two square matrices."""
    size = 2048 if device.type == "cpu" else 8192
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    watch = Meter(device)
    while len(watch.seconds) < 3 or sum(watch.seconds) < 1:
        watch.begin()
        torch.matmul(matrix, matrix)
        watch.end()
    return 2 * size**3 / min(watch.seconds)
