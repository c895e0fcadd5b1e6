"""Measure one update of ours, of TRL's GRPOTrainer and of a plain padded loop: time, memory, and the same gradient.

$ python benchmarks/trainer.py --output trainer.json
$ python benchmarks/trainer.py --model HuggingFaceTB/SmolLM2-135M-Instruct --dtype bfloat16 --repeats 1
$ python benchmarks/trainer.py --device cuda --model Qwen/Qwen2.5-1.5B-Instruct --dtype bfloat16 --groups 32

An update is what follows the sampling in the paper's setting: old log-probabilities of all sequences, then two
optimizer steps on a half each. All have the same weights, token ids, masks, advantages, sequences in a forward pass,
clipping and AdamW. Completions have 16 to 1,024 tokens (log-uniform) with a stretch of feedback that does not count; a
group shares its prompt, and all prompts begin with the same instruction, as in training.

Contenders, each in a process of its own, interleaved; after one update to warm up, the second is timed:

- `ours`: `Policy.evaluate` and `PPO.update`.
- `TRL`: `GRPOTrainer.train()`, given the sampled tokens by its `rollout_func`. It pads a step's sequences to the
  longest, and neither sorts nor packs. Its fused output layer is in use; that scores the completions' tokens on a GPU,
  and every position on a CPU. Gradient checkpointing, on by default, is off, as it is for all. Liger's and the hub's
  kernels, for GPUs alone, are not in use.
- `padded`: all sequences padded to the longest, logits of all positions, log-softmax.

Losses and gradient norms of both optimizer steps must agree, or the comparison is void and ends with an error. Memory
is the most that an update holds beyond the loaded model; on a CPU that includes what malloc keeps, which
`MALLOC_MMAP_THRESHOLD_=1048576` before the command leaves out for everybody. The machine's limit is a product of two
square matrices in the same dtype; its share counts what everybody must compute, without padding and repetitions.
"""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal
from unittest.mock import patch

import torch
import tyro
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.config.training import PPOConfig
from agents.core.errors import expect
from agents.core.files import write_json
from agents.core.tables import table
from agents.core.types import Batch
from agents.learning.policy import Policy
from agents.learning.ppo import PPO, Part
from agents.models.devices import pick_device
from agents.models.find import resolve_model
from agents.models.load import load_model
from agents.models.tiny import byte_tokenizer
from benchmarks.trainer_load import GENERATIONS, Load, Meter, make_load, matmul_flops, needed_flops, random_model

Contender = Literal["ours", "TRL", "padded"]
UPDATES = 2
STEPS = 2
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
PPO_CONFIG = PPOConfig(learning_rate=1e-4, weight_decay=0.0, num_minibatches=1)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    model: str = "random"
    """Folder or hub name, or random: a Qwen2 with fresh weights, of the sizes below."""
    hidden_size: int = 256
    """Of the random model."""
    num_layers: int = 6
    """Of the random model."""
    vocab_size: int = 49_152
    """Of the random model."""
    groups: int = 4
    """Problems, each with 4 sequences; an even number."""
    shortest: int = 16
    """Tokens of the shortest completion."""
    longest: int = 1024
    """Tokens of the longest completion."""
    micro_batch_size: int = 4
    """Sequences of one forward and backward pass; ours takes as many tokens as so many sequences have on average."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products; parameters are float32."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    contenders: tuple[Contender, ...] = ("ours", "TRL", "padded")
    """Who is measured."""
    repeats: int = 3
    """Measurements of each contender; the table has the medians."""
    threads: int = 2
    """Torch's threads."""
    seed: int = 0
    """Fixes weights and sequences."""
    output: Path | None = None
    """Where to write the metrics as JSON."""

    def __post_init__(self) -> None:
        half = self.groups // 2 * GENERATIONS
        expect(self.groups >= 2 and self.groups % 2 == 0, "groups", "even", self.groups)
        expect(half % self.micro_batch_size == 0, "micro_batch_size", f"a divisor of {half}", self.micro_batch_size)
        expect(1 <= self.shortest <= self.longest, "shortest", f"from 1 to longest ({self.longest})", self.shortest)
        expect(self.repeats >= 1, "repeats", "of at least 1", self.repeats)

    @property
    def autocast(self) -> torch.dtype | None:
        """What autocast computes in, if it is on."""
        return None if self.dtype == "float32" else torch.bfloat16


def halves(batch: Batch) -> tuple[torch.Tensor, ...]:
    """Return the row numbers of each optimizer step."""
    return torch.arange(len(batch)).chunk(STEPS)


def update_ours(config: Config, model: PreTrainedModel, load: Load, meter: Meter) -> list[tuple[float, float]]:
    """Update with `agents`; return loss and gradient norm of each optimizer step."""
    policy = Policy(model, autocast=config.autocast)
    max_tokens = int(load.batch.attention_mask.sum()) * config.micro_batch_size // len(load.batch)
    return update_policy(policy, load, meter, max_tokens)


def update_policy(
    policy: Policy, load: Load, meter: Meter, max_tokens: int, *, takes_steps: bool = True
) -> list[tuple[float, float]]:
    """Update a policy with `agents`, all but the optimizer steps if these are not taken; see :func:`update_ours`."""
    batch, targets = load.batch, load.targets
    ppo = PPO(policy, replace(PPO_CONFIG, micro_batch_tokens=max_tokens))
    generator, steps = torch.Generator(), []

    def guard(metrics: Mapping[str, float], _: Part) -> bool:
        steps.append((metrics["policy_loss"], metrics["grad_norm"]))
        return takes_steps

    for _ in range(UPDATES):
        meter.begin()
        old = policy.evaluate(batch, max_tokens)
        for index in halves(batch):
            part = batch.rows(index), old.rows(index), targets.rows(index)
            ppo.update(*part, ppo.minibatches(len(index), generator), guard=guard)
        meter.end()
    return steps


def update_padded(config: Config, model: PreTrainedModel, load: Load, meter: Meter) -> list[tuple[float, float]]:
    """Update with a plain loop; return loss and gradient norm of each optimizer step."""
    batch, targets = load.batch, load.targets
    optimizer = torch.optim.AdamW(model.parameters(), lr=PPO_CONFIG.learning_rate, weight_decay=0.0)
    steps = []

    def logprobs(rows: Batch) -> torch.Tensor:
        with torch.autocast(model.device.type, dtype=config.autocast, enabled=config.autocast is not None):
            outputs = model(input_ids=rows.token_ids, attention_mask=rows.attention_mask, use_cache=False)
        return outputs.logits[:, :-1].float().log_softmax(-1).gather(2, rows.token_ids[:, 1:, None]).squeeze(2)

    for _ in range(UPDATES):
        meter.begin()
        parts = torch.arange(len(batch)).split(config.micro_batch_size)
        with torch.no_grad():
            old = torch.cat([logprobs(batch.rows(part).to(model.device)) for part in parts])
        for half in halves(batch):
            total = 0.0
            for part in half.split(config.micro_batch_size):
                rows, advantages = batch.rows(part).to(model.device), targets.advantages[part, 1:].to(model.device)
                ratio = (logprobs(rows) - old[part.to(old.device)]).exp()
                clipped = ratio.clamp(1 - PPO_CONFIG.epsilon, 1 + PPO_CONFIG.epsilon_high)
                losses = -torch.minimum(ratio.clamp(max=PPO_CONFIG.dual_clip) * advantages, clipped * advantages)
                loss = losses[rows.action_mask[:, 1:]].sum() / batch.action_mask[half].sum()
                loss.backward()
                total += float(loss.detach())
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), PPO_CONFIG.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            steps.append((total, float(norm)))
        meter.end()
    return steps


def update_trl(config: Config, model: PreTrainedModel, load: Load, meter: Meter) -> list[tuple[float, float]]:
    """Update with TRL's GRPOTrainer; return loss and gradient norm of each optimizer step."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # the rollout_func warns of itself
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer import grpo_trainer

    batch, prompts = load.batch, load.prompt_lengths
    accumulation = len(batch) // STEPS // config.micro_batch_size

    def rollout(*_: Any) -> dict[str, list[list[int]] | None]:
        """Give the sequences as if they had been sampled; from here on TRL is timed."""
        rows = [ids[mask].tolist() for ids, mask in zip(batch.token_ids, batch.attention_mask, strict=True)]
        acts = [acts[mask].tolist() for acts, mask in zip(batch.action_mask.long(), batch.attention_mask, strict=True)]
        sampled = {
            "prompt_ids": [row[:n] for row, n in zip(rows, prompts, strict=True)],
            "completion_ids": [row[n:] for row, n in zip(rows, prompts, strict=True)],
            "env_mask": [row[n:] for row, n in zip(acts, prompts, strict=True)],
            "logprobs": None,
        }
        meter.begin()
        return sampled

    class StopWatch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % STEPS == 0:
                meter.end()

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            processing_class=byte_tokenizer(),
            reward_funcs=lambda completions, **_: batch.rewards.tolist(),
            train_dataset=Dataset.from_list([{"prompt": "-"}] * config.groups),
            rollout_func=rollout,
            callbacks=[StopWatch()],
            args=GRPOConfig(
                output_dir=folder,
                max_steps=UPDATES * STEPS,
                per_device_train_batch_size=config.micro_batch_size,
                gradient_accumulation_steps=accumulation,
                steps_per_generation=STEPS * accumulation,
                num_generations=GENERATIONS,
                max_completion_length=config.longest,
                beta=0.0,
                loss_type="dapo",
                scale_rewards="none",
                epsilon=PPO_CONFIG.epsilon,
                epsilon_high=PPO_CONFIG.epsilon_high,
                delta=PPO_CONFIG.dual_clip,
                learning_rate=PPO_CONFIG.learning_rate,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_grad_norm=PPO_CONFIG.max_grad_norm,
                gradient_checkpointing=False,
                bf16=config.dtype == "bfloat16",
                use_cpu=model.device.type == "cpu",
                dataloader_pin_memory=False,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
        )
        trainer.remove_callback(PrinterCallback)
        with patch.object(grpo_trainer, "shuffle_sequence_dict", lambda rows: rows):  # the same halves for everybody
            trainer.train()
    logged = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    return [(float(entry["loss"]), float(entry["grad_norm"])) for entry in logged]


UPDATE: dict[Contender, Callable[[Config, PreTrainedModel, Load, Meter], list[tuple[float, float]]]] = {
    "ours": update_ours,
    "TRL": update_trl,
    "padded": update_padded,
}


def make_model(config: Config) -> PreTrainedModel:
    """Load the model, or make the random one."""
    if config.model != "random":
        return load_model(resolve_model(config.model, log=lambda _: None), "float32")
    sizes = {name: getattr(config, name) for name in ("vocab_size", "hidden_size", "num_layers", "seed")}
    return random_model(**sizes)


def measure(config: Config, contender: Contender) -> dict[str, Any]:
    """Let one contender update, and return its metrics."""
    torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    model = torch.nn.Module.to(make_model(config), device)
    sizes = {name: getattr(config, name) for name in ("groups", "shortest", "longest", "seed")}
    load, meter = make_load(model.config.vocab_size, **sizes), Meter(device)
    needed, tokens = needed_flops(model, load.batch), int(load.batch.attention_mask.sum())
    limit = matmul_flops(config.autocast or torch.float32, device)
    steps = UPDATE[contender](config, model, load, meter)
    seconds = meter.seconds[-1]
    return {
        "contender": contender,
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_s": tokens / seconds,
        "peak_mb": meter.peak_mb,
        "state_mb": 12 * sum(p.numel() for p in model.parameters()) / 2**20,
        "limit_flops_per_s": limit,
        "of_limit": needed / seconds / limit,
        "losses": [loss for loss, _ in steps],
        "gradient_norms": [norm for _, norm in steps],
    }


def check_agreement(rows: Sequence[dict[str, Any]], tolerance: float) -> None:
    """Compare losses and gradient norms of all optimizer steps of the first update.

    Raises:
        RuntimeError: Two contenders have computed different things.
    """
    for name in ("losses", "gradient_norms"):
        for step in range(STEPS):
            found = {row["contender"]: row[name][step] for row in rows}
            first = next(iter(found.values()))
            if not all(math.isclose(value, first, rel_tol=tolerance, abs_tol=tolerance) for value in found.values()):
                raise RuntimeError(f"Expect the same {name} of everybody in optimizer step {step}, got {found}.")


def medians(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the metrics of one contender over all repeats."""
    names = ("seconds", "tokens_per_s", "peak_mb", "limit_flops_per_s", "of_limit")
    return rows[0] | {name: median(row[name] for row in rows) for name in names}


def with_ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row its speed and its memory as multiples of TRL's; None without TRL."""
    trl = next((row for row in rows if row["contender"] == "TRL"), None)
    return [
        row
        | {
            "speed_to_trl": None if trl is None else row["tokens_per_s"] / trl["tokens_per_s"],
            "memory_to_trl": None if trl is None else row["peak_mb"] / trl["peak_mb"],
        }
        for row in rows
    ]


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "contender": lambda r: str(r["contender"]),
        "seconds": lambda r: f"{r['seconds']:.2f}",
        "tokens/s": lambda r: f"{r['tokens_per_s']:.0f}",
        "speed to TRL": lambda r: _ratio(r["speed_to_trl"]),
        "peak MB": lambda r: f"{r['peak_mb']:.0f}",
        "to TRL": lambda r: _ratio(r["memory_to_trl"]),
        "gradients, optimizer state MB": lambda r: f"{r['state_mb']:.0f}",
        "of the limit, %": lambda r: f"{100 * r['of_limit']:.1f}",
        "loss": lambda r: f"{fmean(r['losses'][:STEPS]):.5f}",
        "gradient norm": lambda r: f"{fmean(r['gradient_norms'][:STEPS]):.5f}",
    }
    return table(list(columns), [[show(row) for show in columns.values()] for row in rows])


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main(config: Config) -> list[dict[str, Any]]:
    """Measure, print a table, write the metrics and return them."""
    contenders = list(config.contenders)
    if "TRL" in contenders and importlib.util.find_spec("trl") is None:
        print('TRL: excluded, not installed. Get it by `pip install -e ".[trl]"`.')
        contenders.remove("TRL")
    found: dict[Contender, list[dict[str, Any]]] = {contender: [] for contender in contenders}
    for _ in range(config.repeats):
        for contender in contenders:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                row = process.submit(measure, config, contender).result()
            found[contender].append(row)
            print(f"{contender}: {row['seconds']:.2f} s, {row['peak_mb']:.0f} MB", flush=True)
    if not contenders:
        return []
    rows = with_ratios([medians(each) for each in found.values()])
    check_agreement(rows, TOLERANCE[config.dtype])
    print("\n" + report(rows))
    limit = median(row["limit_flops_per_s"] for row in rows)
    print(f"\n{rows[0]['tokens']} tokens; the machine's limit in {config.dtype}: {limit / 1e9:.0f} GFLOP/s")
    if config.output is not None:
        write_json(config.output, {"config": config.__dict__, "results": rows})
    return rows


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
