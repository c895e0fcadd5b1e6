"""What `benchmarks/rollouts.py` lets everybody play: prescribed episodes, blocks on a timer, a scripted engine, TRL."""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from agents.core.types import Completion
from agents.engines.transformers_engine import TransformersEngine
from agents.models.load import load_tokenizer
from benchmarks.trainer_load import peak_mb
from cir_env.sandbox import ExecutionResult, Limits, Session, Status

Load = Literal["mixed", "single"]
FORCE = 1e6
"""Added to a logit, it leaves nothing but its token to draw."""
CALL = '<tool_call>\n{{"name": "run", "arguments": {{"seconds": {seconds:.4f}}}}}\n</tool_call>'
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


TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{% for call in message.tool_calls or [] %}"
    "{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The tiny model's, with tool calls; the tools' schemas are excluded, which would be most of a prompt of bytes."""


def tool_turns(script: Script) -> list[str]:
    """Return the script's turns with tool calls for blocks, as many bytes as before, the end of sequence counted."""
    calls = [CALL.format(seconds=seconds) for seconds in script.seconds]
    turns = [text[: len(text) - len(call) - 1] + call for text, call in zip(script.turns, calls, strict=False)]
    return [*turns, script.turns[-1]]


def trl_generation(
    folder: Path, statements: Sequence[str], scripts: Sequence[Script], max_tokens: int
) -> dict[str, Any]:
    """Let TRL's GRPOTrainer generate the same episodes; what follows its generation is not counted."""
    from datasets import Dataset
    from transformers import LogitsProcessorList, Qwen2ForCausalLM
    from trl import GRPOConfig, GRPOTrainer
    from trl.chat_template_utils import qwen3_template

    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template, tokenizer.response_template = TEMPLATE, qwen3_template
    texts = dict(zip(statements, map(tool_turns, scripts), strict=True))
    seen: dict[str, Any] = {"busy_s": 0.0}

    class Model(Qwen2ForCausalLM):
        def generate(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
            force = partial(_force, _next_texts(tokenizer, texts, input_ids), input_ids.shape[1])
            begin = time.perf_counter()
            out = super().generate(input_ids, logits_processor=LogitsProcessorList([force]), **kwargs)
            seen["busy_s"] += time.perf_counter() - begin
            return out

    class Trainer(GRPOTrainer):
        def _generate(self, prompts: list[Any]) -> Any:
            begin = time.perf_counter()
            out = super()._generate(prompts)
            seen.update(seconds=time.perf_counter() - begin, peak_mb=peak_mb(torch.device("cpu")))
            seen["tokens"] = sum(sum(mask) for mask in out[2]) if out[2] else sum(map(len, out[1]))
            return out

    async def run(seconds: float) -> str:
        """Run a block.

        Args:
            seconds: How long it runs.
        """
        await asyncio.sleep(seconds)
        return "done"

    prompts = [{"prompt": [{"role": "user", "content": statement}]} for statement in statements]
    trainer = Trainer(
        model=Model.from_pretrained(folder),
        processing_class=tokenizer,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        tools=[run] if scripts[0].seconds else None,
        train_dataset=Dataset.from_list(prompts),
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            max_completion_length=max_tokens,
            per_device_train_batch_size=2,
            num_generations=2,
        ),
    )
    trainer.model.generate(torch.tensor([tokenizer.apply_chat_template(prompts[0]["prompt"], return_dict=False)]))
    seen["busy_s"] = 0.0
    trainer._generate_and_score_completions(prompts)
    return seen | {"rows_used": None, "rewards": []}


def _next_texts(tokenizer: Any, texts: dict[str, list[str]], input_ids: torch.Tensor) -> torch.Tensor:
    """Return the tokens that each row is to write next, ended and padded by the end of sequence."""
    end = tokenizer.eos_token_id
    written = []
    for context in tokenizer.batch_decode(input_ids):
        statement = context.split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
        turn = texts[statement][context.count("<|im_start|>tool")]
        written.append(torch.tensor([*tokenizer.encode(turn, add_special_tokens=False), end]))
    return torch.nn.utils.rnn.pad_sequence(written, batch_first=True, padding_value=end)


def _force(tokens: torch.Tensor, begin: int, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    step = input_ids.shape[1] - begin
    return scores.scatter(1, tokens[:, step : step + 1], FORCE)
