"""Tokenizers and episodes for tool calls, with the chat templates of real models, which TRL ships."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fakes
from agents_fakes import episodes, pool, tokenizer
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from agents.core.chat import Chat
from agents.core.types import Trajectory
from agents.engines.base import Engine, Sampling
from agents.learning.batching import collate
from agents.learning.policy import Policy
from agents.rollout.collector import collect
from cir_env.dialects import DIALECTS, ToolCalls

TEMPLATES = {"hermes": "qwen2_5", "llama3": "llama3_1"}
_MARKS = {
    "hermes": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
LENGTH = 3_000
"""Room for a prompt of bytes with a tool's schema, and an episode."""


def template(name: str) -> str:
    """Return the chat template of a model family."""
    spec = find_spec("trl")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return (Path(spec.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text()


def dialect_of(name: str) -> ToolCalls:
    dialect = DIALECTS[name]
    assert isinstance(dialect, ToolCalls)
    return dialect


def tool_tokenizer(dialect: str, texts: Sequence[str] = (), *, family: str | None = None) -> PreTrainedTokenizerFast:
    """Make a tokenizer of bytes with the marks of a family's chat template and one token for each of the texts."""
    made = tokenizer(words=(), template=template(family or TEMPLATES[dialect]))
    marks = [*_MARKS[dialect], *(["<|python_tag|>", "<|eom_id|>"] if dialect == "llama3" else [])]
    made.add_special_tokens({"additional_special_tokens": marks})
    made.add_special_tokens(
        {"eos_token": "<|eot_id|>" if dialect == "llama3" else "<|im_end|>", "bos_token": "<|end|>"}
    )
    made.add_tokens([AddedToken(text, normalized=False) for text in texts])
    return made


def telling_texts(dialect: str) -> list[str]:
    """Return texts that end at a call, go on behind one, hold a malformed one, or an answer; a third of the tokens."""
    write = DIALECTS[dialect].write
    before = "\n" if dialect == "hermes" else "<|python_tag|>"  # where a message of Llama may have a call, too
    calls = [before + write(f"print({n})") for n in range(40)]
    more = [f"{write(f'print({n})')} so" for n in range(40, 60)]
    others = [before + write("print(6)").replace("python", f"tool{n}", 1) for n in range(30)]
    answers = [rf"\boxed{{{n}}}" for n in range(5)]
    return [*calls, *more, *others, *answers, write("1 / 0"), write("x = 1"), write("print('<|im_end|>')")]


def play(engine: Engine, chat: Chat, dialect: str, *, count: int = 12, **arguments: Any) -> list[Trajectory]:
    """Collect episodes of CodeMath-v0 in this dialect."""
    arguments = {
        "dialect": dialect,
        "prompt": "question",
        "interaction_budget": 3,
        "observation": "feedback",
    } | arguments
    asked = episodes(count, interaction_budget=arguments["interaction_budget"])
    with pool(lambda: fakes.make(problems=fakes.products(8), **arguments), 5) as envs:
        return collect(envs, engine, chat, asked, Sampling(max_tokens=500))


def difference(made: Sequence[Trajectory], model: Any) -> float:
    """The largest difference between the engine's and the trainer's log-probability of a sampled token."""
    batch = collate(made)
    output = Policy(model).evaluate(batch, 4)
    return float((output.logprobs - batch.sampling_logprobs)[batch.action_mask].abs().max())


def check_tokens(made: Trajectory, chat: Chat) -> None:
    """Check that an episode's tokens are those of the chat template, but for what the policy sampled."""
    info, at = made.turns[0].info, made.prompt_length
    tools = list(info["tools"])
    prompt = chat.tokenizer.apply_chat_template(list(info["messages"]), tools=tools, add_generation_prompt=True)
    assert list(made.token_ids[:at]) == prompt["input_ids"]
    assert not any(made.action_mask[:at])
    *answered, last = made.turns
    if (last.text, last.finish_reason) == ("", "length"):  # the last feedback did not fit
        *answered, last = answered
    for turn in answered:
        messages = [{"role": role, "content": text} for role, text in (("user", "?"), ("assistant", "XYZ"))]
        messages.append({"role": "tool", "content": turn.feedback})
        rendered = chat.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
        inserted = chat.tokenizer(rendered.rpartition("XYZ")[2], add_special_tokens=False)["input_ids"]
        if "<|" in turn.feedback:  # a name of a special token, which is text
            assert chat.encode_feedback(turn.feedback, tools) != inserted
            inserted = chat.encode_feedback(turn.feedback, tools)
        begin = next(i for i in range(at, len(made.token_ids)) if list(made.token_ids[i:])[: len(inserted)] == inserted)
        assert decoded(chat, made.token_ids[at:begin]) == turn.text
        at = begin + len(inserted)
        assert not any(made.action_mask[begin:at])
    assert decoded(chat, made.token_ids[at:]).startswith(last.text)
    assert all(made.action_mask[at:]) or last is not made.turns[-1]
    assert all(acts or logprob == 0 for acts, logprob in zip(made.action_mask, made.logprobs, strict=True))


def decoded(chat: Chat, token_ids: Sequence[int]) -> str:
    decoder = chat.decoder()
    return "".join(map(decoder.step, token_ids)) + decoder.finish()
