"""What `benchmarks/rollouts.py` lets everybody play: prescribed episodes, blocks on a timer, a scripted engine."""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from agents.core.types import Completion
from agents.engines.transformers_engine import TransformersEngine
from cir_env.sandbox import ExecutionResult, Limits, Session, Status

Load = Literal["mixed", "single"]
FORCE = 1e6
"""Added to a logit, it leaves nothing but its token to draw."""
PROSE = "First I write down what is asked and what is known, then I look for a way to it. "


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """What the policy writes in one episode."""

    turns: tuple[str, ...]
    """Text of each turn; all but the last end with a block."""
    seconds: tuple[float, ...]
    """Run time of each block."""


def write_script(load: Load, answer: str, shortest_s: float, longest_s: float, draw: random.Random) -> Script:
    """Draw the script of an episode; half of the answers are right."""
    blocks = draw.randint(1, 4) if load == "mixed" else 0
    seconds = tuple(round(_log_uniform(draw, shortest_s, longest_s), 4) for _ in range(blocks))
    longest = 120 if load == "mixed" else 240
    prose = [_prose(int(_log_uniform(draw, 20, longest))) for _ in range(blocks + 1)]
    turns = [f"{text}\n{_block(wait, answer)}" for text, wait in zip(prose, seconds, strict=False)]
    final = answer if draw.random() < 0.5 else "0"
    return Script(turns=(*turns, rf"{prose[-1]}\boxed{{{final}}}"), seconds=seconds)


def _log_uniform(draw: random.Random, low: float, high: float) -> float:
    return float(low * (high / low) ** draw.random())


def _prose(length: int) -> str:
    return (PROSE * (length // len(PROSE) + 1))[:length]


def _block(seconds: float, printed: str) -> str:
    return f"```python\nimport time\ntime.sleep({seconds:.4f})\nprint({printed})\n```\n"


class TimedSandbox:
    """Gives each block's output after the time that the block would sleep; keeps the `Sandbox` protocol."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="timer", daemon=True)
        self._thread.start()

    def submit(self, code: str, limits: Limits | None = None) -> Future[ExecutionResult]:
        """Return what the block will print."""
        seconds, printed = re.findall(r"\((\d[\d.]*)\)", code)
        result = ExecutionResult(status=Status.OK, stdout=f"{printed}\n", error="", cpu_seconds=0.0)
        future: Future[ExecutionResult] = Future()
        self._loop.call_soon_threadsafe(self._loop.call_later, float(seconds), future.set_result, result)
        return future

    def run(self, code: str, limits: Limits | None = None) -> ExecutionResult:
        """Wait for the block."""
        return self.submit(code, limits).result()

    def open_session(self) -> Session:
        """Refuse: the scripts need none."""
        raise NotImplementedError("Expect episodes without sessions.")

    def close(self) -> None:
        """End the timer's thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> TimedSandbox:
        """Return the sandbox itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the sandbox."""
        self.close()


class ScriptedEngine(TransformersEngine):
    """The engine, whose every token is computed and drawn, from logits that leave only the script's next token."""

    def prescribe(self, scripts: Sequence[Script]) -> None:
        """Give request ``n`` the n-th script, turn by turn, and start counting."""
        end = [self._chat.tokenizer.eos_token_id]
        self._texts = [[[*self._chat.encode_feedback(turn), *end] for turn in script.turns] for script in scripts]
        self._turns = [-1] * len(scripts)
        self.busy_s, self.passes = 0.0, 0

    def submit(self, request_id: int, *args: Any, **kwargs: Any) -> None:
        """Ask for the request's next turn."""
        begin = time.perf_counter()
        self._turns[request_id] += 1
        super().submit(request_id, *args, **kwargs)
        self.busy_s += time.perf_counter() - begin

    def poll(self) -> list[Completion]:
        """Sample, and count the time."""
        begin = time.perf_counter()
        done = super().poll()
        self.busy_s += time.perf_counter() - begin
        return done

    def _forward(self) -> torch.Tensor:
        logits = super()._forward()
        self.passes += 1
        rows = [self._row(request) for request in self._running.values()]
        tokens = [self._texts[n][self._turns[n]][len(r.token_ids)] for n, r in self._running.items()]
        logits[rows, tokens] += FORCE
        return logits


def qwen_7b(device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Make a model of Qwen2.5-Math-7B's shape with fresh weights; its tokens are whatever a tokenizer calls them."""
    shape = Qwen2Config(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(shape, dtype=dtype)
    return model


def peak_mb(device: torch.device) -> float:
    """Return the most memory that this process has held, in MB: on a GPU of the GPU's, else of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024
