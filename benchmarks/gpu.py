"""Measure sampling, weight sync and update on one GPU: one command, less than 8 minutes, a table and JSON.

$ python benchmarks/gpu.py --output gpu.json
$ python benchmarks/gpu.py --parts update --minutes 3
$ python benchmarks/gpu.py --dry-run

Two models: SmolLM2-135M-Instruct (its shape with random initialisation where the weights cannot be had), and one of
Qwen2.5-Math-7B's shape with random initialisation. All products of matrices are in bfloat16,
in the dry run in float32 where that is faster. Parts:

- `limit`: operations a second of the product of two square matrices.
- `transformers`, `vllm`: an engine samples completions of one length for all prompts. The trainer's weights are then
  loaded (sync), sampled from again, and compared: the gap is the absolute difference of the log-probabilities of each
  sampled token, in nats. At last the engine sleeps and wakes; waking is a sync and the first token.
- `update`: old log-probabilities and two minibatches, as in `benchmarks/trainer.py`, with float32 weights and gradients
  as in a run. AdamW's state of the large model does not fit: weights, gradients and state take 16 bytes a weight, 122
  GB, and a step's temporaries and the activations come on top. For this model all but the optimizer steps is measured;
  a step only reads and writes memory once, 213 GB, 0.05 s at 4.8 TB/s.
- `TRL`: the update of ours and of TRL's GRPOTrainer, as in `benchmarks/trainer.py`, with the small model.

Peak memory is that of an update beyond the weights. Held and asleep is what of the GPU is not free, after sampling and
while the engine sleeps; the trainer's weights are in it, in float32.

Model FLOP utilisation is F / (seconds of an update * limit), where F is what forward and backward pass of the sequences
must compute, 6 operations for each weight and token, plus attention. For sequences of T tokens, A of them sampled:

    F = 3 * sum(2 * N * T + 2 * V * H * A + 2 * L * D * T^2)

with N weights in the matrices of the L layers, a vocabulary of V, hidden size H, and D as the width of all heads. The
causal half of the attention is counted. The pass for old log-probabilities takes time and does not count, nor does
recomputation in the backward pass of the large model. A prompt counts in each sequence of its group.

Each part is a process of its own. One that fails is a line with the reason; what is left when the minutes are over is
excluded. The JSON is written after every part. Needs no Gymnasium; where nothing can be installed, carry tyro,
docstring-parser and typeguard there (`pip install --target FOLDER tyro`, then `PYTHONPATH=FOLDER`).
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.core.chat import Chat
from agents.core.errors import ModelError, expect, one_line
from agents.core.files import write_json
from agents.core.tables import table
from agents.core.types import Completion
from agents.engines.base import Engine
from agents.engines.transformers_engine import TransformersEngine
from agents.engines.vllm_engine import VllmEngine, load_llm
from agents.learning.batching import collate
from agents.learning.policy import Policy
from agents.models.devices import pick_device, pick_dtype
from agents.models.find import resolve_model
from agents.models.load import load_model
from agents.models.tiny import byte_tokenizer
from agents.training.weight_sync import weights_of
from benchmarks import trainer
from benchmarks.trainer_load import (
    GENERATIONS,
    Load,
    Meter,
    held_mb,
    make_load,
    matmul_flops,
    needed_flops,
    qwen_7b,
    sample_all,
    trajectory,
)

Part = Literal["limit", "transformers", "vllm", "update", "TRL"]
VLLM_SHARE = 0.4
"""Of the GPU's memory, for vLLM's weights and cache; the trainer's weights are in the same process."""
TINY_7B = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2}
TINY_7B |= {"num_attention_heads": 4, "num_key_value_heads": 2}
LIBRARIES: Mapping[Part, str] = {"vllm": "vllm", "TRL": "trl"}
OVER = "the minutes are over"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Folder or hub name of the small model."""
    parts: tuple[Part, ...] = ("limit", "transformers", "vllm", "update", "TRL")
    """What is measured."""
    minutes: float = 8.0
    """Parts that have not ended by then are excluded."""
    dry_run: bool = False
    """Run the same code on a CPU, with tiny models."""
    output: Path | None = None
    """Where to write the metrics as JSON."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is sampled and trained on."""

    rows: int = 128
    """Sequences, sampled at once and trained on together."""
    new_tokens: int = 256
    """Tokens of each sampled completion."""
    shortest: int = 256
    """Tokens of the shortest completion that is trained on."""
    longest: int = 1024
    """Tokens of the longest."""
    micro_batch_tokens: int = 8192
    """Tokens of one forward and backward pass."""

    def load(self, vocab_size: int) -> Load:
        """Return sequences; their prompts are sampled from."""
        return make_load(
            vocab_size, groups=self.rows // GENERATIONS, shortest=self.shortest, longest=self.longest, seed=0
        )


DRY_RUN = Sizes(rows=8, new_tokens=4, shortest=8, longest=32, micro_batch_tokens=256)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that is measured."""

    name: str
    """What the table calls it."""
    weights: str
    """Where they come from."""
    dtype: Literal["float32", "bfloat16"]
    """Of all products of matrices."""
    folder: Path | None = None
    """Its folder; None: Qwen2.5-Math-7B's shape."""
    changes: Mapping[str, int] = field(default_factory=dict)
    """Sizes that differ from that shape."""
    is_large: bool = False
    """Recompute activations and exclude the optimizer steps."""

    def load(self, dtype: str, device: torch.device) -> PreTrainedModel:
        """Return the model."""
        if self.folder is None:
            return qwen_7b(device, getattr(torch, dtype), **self.changes)
        model = load_model(self.folder, dtype)
        torch.nn.Module.to(model, device)
        return model

    def policy(self, device: torch.device) -> Policy:
        """Return the trainer's policy, as in a run."""
        autocast = None if self.dtype == "float32" else torch.bfloat16
        return Policy(self.load("float32", device), autocast=autocast, gradient_checkpointing=self.is_large)


def subjects(config: Config, device: torch.device, folder: Path) -> tuple[Subject, Subject]:
    """Return the small and the large model; what must be made goes to the folder."""
    random, dtype = "random initialisation", pick_dtype("auto", device)
    if config.dry_run:
        qwen_7b(torch.device("cpu"), torch.float32, **TINY_7B).save_pretrained(folder / "small")
        byte_tokenizer().save_pretrained(folder / "small")
        return (
            Subject(name="tiny", weights=random, dtype=dtype, folder=folder / "small"),
            Subject(name="tiny 7B", weights=random, dtype=dtype, changes=TINY_7B, is_large=True),
        )
    try:
        small, weights = resolve_model(config.model, log=lambda _: None), config.model
    except ModelError as error:
        small, weights = folder / "small", f"{random}, for lack of {config.model}: {one_line(error)}"
        smollm2_135m().save_pretrained(small)
        byte_tokenizer().save_pretrained(small)
    return (
        Subject(name="SmolLM2-135M", weights=weights, dtype=dtype, folder=small),
        Subject(name="Qwen2.5-Math-7B's shape", weights=random, dtype=dtype, is_large=True),
    )


def smollm2_135m() -> PreTrainedModel:
    """Make a model of SmolLM2-135M's shape with fresh weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
            tie_word_embeddings=True,
        )
    )


def open_engine(name: Part, subject: Subject, sizes: Sizes, device: torch.device, folder: Path) -> Engine:
    """Load a model into an engine in which nothing ends a completion before its length."""
    chat, longest = Chat(byte_tokenizer()), 256 + sizes.new_tokens
    if name == "transformers":
        model = subject.load(subject.dtype, device)
        return TransformersEngine(model, chat, stop_token_ids=(), max_num_seqs=sizes.rows, max_model_len=longest)
    path = subject.folder
    if path is None:
        path = folder / "large"
        subject.load(subject.dtype, device).save_pretrained(path)
        torch.cuda.empty_cache()
    llm = load_llm(
        path,
        dtype=subject.dtype,
        max_num_seqs=sizes.rows,
        max_model_len=longest,
        gpu_memory_utilization=VLLM_SHARE,
    )
    return VllmEngine(llm, chat, stop_token_ids=(), max_model_len=longest, owns_llm=True)


def measure_engine(name: Part, subject: Subject, sizes: Sizes, device: torch.device, folder: Path) -> dict[str, Any]:
    """Sample, sync, compare with the trainer, sleep and wake."""
    with closing(open_engine(name, subject, sizes, device, folder)) as engine:
        # sample
        policy, dtype = subject.policy(device), getattr(torch, subject.dtype)
        load = sizes.load(policy.model.config.vocab_size)
        prompts = prompts_of(load)
        sample_all(engine, [[(prompts[0], 1)]])  # to warm up
        sampling = Meter(device)
        sampling.begin()
        sample_all(engine, [[(prompt, sizes.new_tokens)] for prompt in prompts])
        sampling.end()
        awake_mb = held_mb(device)

        # sync, and compare with the trainer
        sync = Meter(device)
        sync.begin()
        engine.load_weights(1, weights_of(policy.model, dtype))
        sync.end()
        again = sample_all(engine, [[(prompt, sizes.new_tokens)] for prompt in prompts])
        gaps = gaps_of(policy, prompts, [completion for (completion,) in again], sizes.micro_batch_tokens)

        # sleep and wake
        rest = Meter(device)
        rest.begin()
        engine.sleep()
        rest.end()
        asleep_mb = held_mb(device)
        rest.begin()
        engine.load_weights(2, weights_of(policy.model, dtype))
        sample_all(engine, [[(prompts[0], 1)]])
        rest.end()
    tokens, (seconds,) = sizes.rows * sizes.new_tokens, sampling.seconds
    sleep_s, wake_s = rest.seconds
    return {
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_s": tokens / seconds,
        "held_mb": awake_mb,
        "asleep_mb": asleep_mb,
        "sync_s": sync.seconds[0],
        "gap_mean": float(gaps.mean()),
        "gap_largest": float(gaps.max()),
        "sleep_s": sleep_s,
        "wake_s": wake_s,
    }


def prompts_of(load: Load) -> list[list[int]]:
    """Return the prompt of each sequence."""
    return [row[:length].tolist() for row, length in zip(load.batch.token_ids, load.prompt_lengths, strict=True)]


def gaps_of(
    policy: Policy, prompts: Sequence[Sequence[int]], completions: Sequence[Completion], max_tokens: int
) -> torch.Tensor:
    """Return how far the trainer's log-probability of each sampled token is from the engine's, in nats."""
    batch = collate(
        [
            trajectory(number, prompt, each.token_ids, [True] * len(each.token_ids), logprobs=each.logprobs)
            for number, (prompt, each) in enumerate(zip(prompts, completions, strict=True))
        ]
    )
    differences = policy.evaluate(batch, max_tokens).logprobs - batch.sampling_logprobs
    return differences[batch.action_mask].abs()


def measure_update(subject: Subject, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Update twice, and return the metrics of the second time."""
    policy, meter = subject.policy(device), Meter(device)
    load = sizes.load(policy.model.config.vocab_size)
    steps = trainer.update_policy(policy, load, meter, sizes.micro_batch_tokens, takes_steps=not subject.is_large)
    seconds, tokens = meter.seconds[-1], int(load.batch.attention_mask.sum())
    return {
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_s": tokens / seconds,
        "flops": 3 / 4 * needed_flops(policy.model, load.batch),  # without the pass for old log-probabilities
        "peak_mb": meter.peak_mb,
        "weights_mb": sum(p.nbytes for p in policy.parameters()) / 2**20,
        "takes_steps": not subject.is_large,
        "gradient_norms": [norm for _, norm in steps],
    }


def measure_trl(subject: Subject, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Return an update of ours beside TRL's."""
    config = trainer.Config(
        model=str(subject.folder),
        device=str(device),
        dtype=subject.dtype,
        groups=min(8, sizes.rows // GENERATIONS),
        shortest=sizes.shortest,
        longest=sizes.longest,
    )
    found = [trainer.measure(config, contender) for contender in ("ours", "TRL")]
    trainer.check_agreement(found, trainer.TOLERANCE[subject.dtype])
    ours, trl = trainer.with_ratios(found)
    names = ("seconds", "tokens", "tokens_per_s", "peak_mb", "speed_to_trl", "memory_to_trl")
    return {name: ours[name] for name in names} | {"trl_seconds": trl["seconds"], "trl_peak_mb": trl["peak_mb"]}


def measure(part: Part, subject: Subject, sizes: Sizes, device: torch.device, folder: Path) -> dict[str, Any]:
    """Return the metrics of a part; the machine's limit is of no model."""
    if part == "limit":
        return {"limit_flops_per_s": matmul_flops(getattr(torch, subject.dtype), device)}
    if part == "update":
        return measure_update(subject, sizes, device)
    if part == "TRL":
        return measure_trl(subject, sizes, device)
    return measure_engine(part, subject, sizes, device, folder)


def plan(config: Config, small: Subject, large: Subject) -> list[tuple[Part, Subject]]:
    """Return the parts in their order, what is quick first."""
    order: list[tuple[Part, Subject]] = [
        ("limit", small),
        *[(part, small) for part in ("transformers", "vllm", "update", "TRL")],
        *[(part, large) for part in ("update", "transformers", "vllm")],
    ]
    return [each for each in order if each[0] in config.parts]


def apart(work: Callable[..., dict[str, Any]], *arguments: Any, timeout_s: float) -> dict[str, Any]:
    """Call a function in a process of its own, which ends with it or when the time is over.

    Returns:
        What the function returns, or ``{"reason": ...}``, a line that says why it has not.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(there, work, arguments))
    process.start()
    there.close()
    try:
        if not here.poll(timeout_s):
            return {"reason": OVER}
        found: dict[str, Any] = here.recv()
        return found
    except EOFError:
        process.join()
        return {"reason": f"the process ended with exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _send(there: Connection, work: Callable[..., dict[str, Any]], arguments: Sequence[Any]) -> None:
    try:
        there.send(work(*arguments))
    except Exception as error:
        there.send({"reason": f"{type(error).__name__}: {one_line(error)}"})


def attempt(part: Part, *arguments: Any, left_s: float) -> dict[str, Any]:
    """Return the metrics of a part, or the reason why there are none."""
    library = LIBRARIES.get(part)
    if library is not None and importlib.util.find_spec(library) is None:
        return {"reason": f"{library} is not installed"}
    if left_s <= 0:
        return {"reason": OVER}
    return apart(measure, part, *arguments, timeout_s=left_s)


def main(config: Config) -> dict[str, Any]:
    """Measure part by part, print a table, and return what the JSON has."""
    expect(config.minutes > 0, "minutes", "above 0", config.minutes)
    end, device = time.monotonic() + 60 * config.minutes, pick_device("cpu" if config.dry_run else "cuda")
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    sizes = DRY_RUN if config.dry_run else Sizes()
    rows: list[dict[str, Any]] = []
    found = {"machine": machine, "torch": torch.__version__, "config": asdict(config), "sizes": asdict(sizes)}
    found["rows"] = rows
    with tempfile.TemporaryDirectory() as folder:
        for part, subject in plan(config, *subjects(config, device, Path(folder))):
            begin = time.monotonic()
            row = attempt(part, subject, sizes, device, Path(folder), left_s=end - begin)
            part_s = time.monotonic() - begin
            rows.append({"part": part, "model": subject.name, "weights": subject.weights, "part_s": part_s} | row)
            print(f"{subject.name}, {part}: {row.get('reason', 'done')} ({part_s:.0f} s)", flush=True)
            add_utilisation(rows)
            if config.output is not None:
                write_json(config.output, found)
    print("\n" + report(rows))
    return found


def add_utilisation(rows: Sequence[dict[str, Any]]) -> None:
    """Add the model FLOP utilisation to the rows of updates, once the limit is known."""
    limit = next((row["limit_flops_per_s"] for row in rows if "limit_flops_per_s" in row), None)
    for row in rows:
        if limit is not None and "flops" in row:
            row["utilisation"] = row["flops"] / row["seconds"] / limit


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Return what was measured as a table, and below it the machine's limit and what is missing."""
    columns: dict[str, tuple[str, Callable[[Any], str]]] = {
        "tokens/s": ("tokens_per_s", "{:.0f}".format),
        "utilisation, %": ("utilisation", lambda share: f"{100 * share:.1f}"),
        "to TRL": ("speed_to_trl", "{:.2f}".format),
        "update GB": ("peak_mb", _gb),
        "held GB": ("held_mb", _gb),
        "asleep GB": ("asleep_mb", _gb),
        "gap, mean": ("gap_mean", "{:.1e}".format),
        "largest": ("gap_largest", "{:.1e}".format),
        "sync s": ("sync_s", "{:.2f}".format),
        "sleep s": ("sleep_s", "{:.2f}".format),
        "wake s": ("wake_s", "{:.2f}".format),
    }
    measured = [row for row in rows if "tokens_per_s" in row]
    cells = [
        [
            f"{row['model']}, {row['part']}",
            *(show(row[name]) if name in row else "-" for name, show in columns.values()),
        ]
        for row in measured
    ]
    notes = [
        f"The machine's limit: {row['limit_flops_per_s'] / 1e12:.3g} TFLOP/s"
        for row in rows
        if "limit_flops_per_s" in row
    ]
    notes += [
        f"Weights of {name}: {weights}" for name, weights in {row["model"]: row["weights"] for row in measured}.items()
    ]
    notes += [f"{row['model']}, update: all but AdamW's step" for row in measured if row.get("takes_steps") is False]
    notes += [f"{row['model']}, {row['part']}: excluded, {row['reason']}" for row in rows if "reason" in row]
    return "\n".join([table(["model, part", *columns], cells), "", *notes])


def _gb(megabytes: float) -> str:
    return f"{megabytes * 2**20 / 1e9:.2f}"


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
