r"""Supervised warm-up of a randomly initialized model, so that it starts where a pretrained one would.

`warm_up` trains it by imitation on the caller's problems. There are two ways to answer::

    ```python                            \boxed{300}
    print(123 + 45)
    ```
    ```output
    168
    ```
    \boxed{168}

On the left it writes code, which the environment runs, and copies the result; the output block comes from the
environment and is excluded from the loss. If the environment offers a tool, the code is a call of it. On the right it
guesses, mostly wrong. `CODE_FRACTION` of the examples use code, so the warmed-up model is right in about a third of the
episodes. Reinforcement learning does the rest.

A randomly initialized transformer is slow to learn to copy a number digit by digit. Two things speed that up: guesses,
whose digits are noise, appear only in the last third of the steps; and the vocabulary is small.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

from agents.core.chat import Tools
from agents.core.errors import ModelError
from agents.learning.transcripts import Transcript, encode_transcript

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from agents.core.chat import Chat


CODE_FRACTION = 0.35
"""Share of episodes in which the warmed-up model writes code; PPO needs both ways to compare them."""


# Statement patterns and the Python that solves them; the first match wins.
_N = r"(-?\d+)"


_STATEMENTS = tuple(
    (re.compile(pattern), code)
    for pattern, code in (
        (rf"{_N} ([-+*]) {_N}", r"\1 \2 \3"),
        (rf"{_N} (?:\\times|times|×) {_N}", r"\1 * \2"),
        (rf"[Ss]um of {_N} and {_N}", r"\1 + \2"),
        (rf"[Pp]roduct of {_N} and {_N}", r"\1 * \2"),
        (rf"[Ss]ubtract {_N} from {_N}", r"\2 - \1"),
    )
)


def arithmetic_code(text: str) -> str | None:
    r"""Return Python code for the arithmetic problem at the end of a prompt; None if there is no such problem.

    >>> arithmetic_code("What is 123 + 45?"), arithmetic_code("Subtract 7 from 30.")
    ('print(123 + 45)', 'print(30 - 7)')
    """
    for pattern, code in _STATEMENTS:
        matches = list(pattern.finditer(text))
        if matches:
            return f"print({matches[-1].expand(code)})"
    return None


def in_fence(code: str) -> str:
    """Return a fenced block of code."""
    return f"```python\n{code}\n```\n"


def scripted_solution(
    prompt: str,
    answer: str,
    *,
    code: str | None,
    rng: random.Random,
    tools: Tools = (),
    write_code: Callable[[str], str] = in_fence,
) -> Transcript:
    r"""Script one of the two ways to answer: run `code`, which must print `answer`, or guess if `code` is None.

    >>> script = scripted_solution("What is 2 + 3?", "5", code="print(2 + 3)", rng=random.Random(0))
    >>> script.turns
    ('```python\nprint(2 + 3)\n```\n', '\\boxed{5}')
    >>> script.feedback
    ('```output\n5\n```\n',)
    """
    if code is None:
        guess = f"{rng.randint(1, 9)}{'0' * (len(answer) - 1)}"  # only the first digit is noise
        return Transcript(prompt=prompt, turns=(rf"\boxed{{{guess}}}",), feedback=(), tools=tools)
    feedback = answer if tools else f"```output\n{answer}\n```\n"
    turns = (write_code(code), rf"\boxed{{{answer}}}")
    return Transcript(prompt=prompt, turns=turns, feedback=(feedback,), tools=tools)


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmUpReport:
    """Statistics of a warm-up."""

    steps: int
    """Number of optimizer steps."""
    num_tokens: int
    """Number of training tokens, padding excluded."""
    seconds: float
    """Wall time, in seconds."""
    loss: float
    """Mean cross-entropy of the policy's tokens over the last tenth of the steps, in nats."""


def warm_up(
    model: PreTrainedModel,
    chat: Chat,
    problems: Iterable[tuple[str, str]],
    *,
    seed: int = 0,
    steps: int = 1000,
    batch_size: int = 16,
    code_fraction: float = CODE_FRACTION,
    tools: Tools = (),
    write_code: Callable[[str], str] = in_fence,
    log: Callable[[str], Any] = print,
) -> WarmUpReport:
    """Train a randomly initialized model, in place, to solve arithmetic problems by code or by guessing.

    Args:
        model: A float32 causal language model, such as that of `agents.models.tiny.build_tiny`.
        chat: Encodes prompts and feedback as in training.
        problems: (prompt, answer) pairs: prompts exactly as the environment states them, integer answers.
        seed: Determines the order of problems, the guesses and which problems use code.
        steps: Number of optimizer steps, at least 1; the first 65% only show code.
        batch_size: Scripts per step, at least 1.
        code_fraction: Share of scripts with code in the other 35% of the steps, in [0, 1].
        tools: The tools that the environment offers.
        write_code: Writes code as the environment's policies do.
        log: Receives progress lines.

    Raises:
        ModelError: There are no problems, a problem is not arithmetic, or the model is not float32.
    """
    pairs = _checked(problems)
    if model.dtype != torch.float32:
        raise ModelError(f"Expect a float32 model to warm up, got {model.dtype}.")
    if steps < 1 or batch_size < 1 or not 0 <= code_fraction <= 1:
        raise ModelError(
            "Expect `steps` and `batch_size` of at least 1 and `code_fraction` in [0, 1], "
            f"got {steps}, {batch_size} and {code_fraction}."
        )
    started, rng, num_tokens, losses = time.perf_counter(), random.Random(seed), 0, []
    log(f"warm-up: {steps} steps of {batch_size} scripted solutions ...")
    model.train()
    script = partial(scripted_solution, tools=tools, write_code=write_code)
    optimizer = _optimizer(model)
    for step in range(steps):
        with_code = 1.0 if step < 0.65 * steps else code_fraction
        batch = [encode_transcript(each, chat) for each in _draw(pairs, with_code, batch_size, rng, script)]
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * _schedule(step, steps)
        loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        num_tokens += sum(len(token_ids) for token_ids, _ in batch)
        if step % 100 == 99:
            log(f"warm-up: step {step + 1} of {steps}, loss {losses[-1]:.3f}")
    model.eval()
    tail = losses[-max(1, steps // 10) :]
    return WarmUpReport(
        steps=steps,
        num_tokens=num_tokens,
        seconds=time.perf_counter() - started,
        loss=sum(tail) / len(tail),
    )


def _checked(problems: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Validate the problems and add the code that solves each: (prompt, answer, code)."""
    triples = []
    for prompt, answer in problems:
        code = arithmetic_code(prompt)
        if code is None or not re.fullmatch(r"-?\d+", answer):
            raise ModelError(
                "Expect arithmetic problems with integer answers for the warm-up, such as 'What is 12 + 7?', "
                f"got {prompt[-80:]!r} with answer {answer[:40]!r}."
            )
        triples.append((prompt, answer, code))
    if not triples:
        raise ModelError("Expect at least one problem for the warm-up, got none.")
    return triples


def _draw(
    problems: Sequence[tuple[str, str, str]],
    code_fraction: float,
    size: int,
    rng: random.Random,
    script: Callable[..., Transcript],
) -> Iterator[Transcript]:
    for prompt, answer, code in rng.choices(problems, k=size):
        yield script(prompt, answer, code=code if rng.random() < code_fraction else None, rng=rng)


def _schedule(step: int, steps: int) -> float:
    """Learning rate factor: linear warm-up over the first twentieth, times a cosine from 1 to 0.05."""
    rise = min(1.0, (step + 1) / max(20.0, 0.05 * steps))
    return rise * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))


def _loss(model: PreTrainedModel, batch: Sequence[tuple[list[int], list[bool]]]) -> torch.Tensor:
    """Mean cross-entropy of the policy's tokens."""
    token_ids = pad_sequence([torch.tensor(row) for row, _ in batch], batch_first=True).to(model.device)  # (B, T)
    mask = pad_sequence([torch.tensor(row) for _, row in batch], batch_first=True).to(model.device)  # (B, T)
    hidden = model.base_model(input_ids=token_ids[:, :-1]).last_hidden_state  # rows end in padding: no mask
    logits = model.get_output_embeddings()(hidden[mask[:, 1:]])
    loss: torch.Tensor = torch.nn.functional.cross_entropy(logits, token_ids[:, 1:][mask[:, 1:]])
    return loss


def _optimizer(model: PreTrainedModel) -> torch.optim.Optimizer:
    """Adam, with a smaller learning rate for the matrices inside the transformer than for everything else."""
    embeddings = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    inside = [p for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings]
    others = [p for p in model.parameters() if p.ndim != 2 or id(p) in embeddings]
    groups = [{"params": inside, "peak_lr": 3e-3}, {"params": others, "peak_lr": 0.02}]
    return torch.optim.Adam(groups, betas=(0.9, 0.98))
