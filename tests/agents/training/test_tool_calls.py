"""Training with tool calls: the warm-up teaches calls, and a run with them steps, validates and leaves samples."""

import json
import random
from pathlib import Path

import pytest
from runs import rows, small, trainer

from agents import presets
from agents.config.training import EnvConfig, TrainConfig
from agents.core.chat import Chat
from agents.core.errors import ConfigError
from agents.learning.transcripts import encode_transcript
from agents.learning.warm_up import scripted_solution
from agents.models.tiny import byte_tokenizer
from cir_env.dialects import HERMES, LLAMA3, PYTHON_TOOL, ToolCalls

ENV = EnvConfig(problems="arithmetic", prompt="question", dialect="hermes")


@pytest.mark.parametrize("dialect", [HERMES, LLAMA3], ids=lambda dialect: dialect.name)
def test_a_script_of_the_warm_up_is_an_episode_with_a_call(dialect: ToolCalls) -> None:
    chat = Chat(byte_tokenizer(), dialect=dialect.name)
    script = scripted_solution(
        "2 + 3", "5", code="print(2 + 3)", rng=random.Random(0), tools=[PYTHON_TOOL], write_code=dialect.write
    )
    token_ids, mask = encode_transcript(script, chat)
    assert chat.tokenizer.decode(token_ids) == (
        "<|im_start|>system\nTools: python<|im_end|>\n<|im_start|>user\n2 + 3<|im_end|>\n<|im_start|>assistant\n"
        + dialect.write("print(2 + 3)")
        + "<|im_end|>\n<|im_start|>tool\n5<|im_end|>\n<|im_start|>assistant\n\\boxed{5}<|im_end|>"
    )
    sampled = [token_id for token_id, acts in zip(token_ids, mask, strict=True) if acts]
    assert chat.tokenizer.decode(sampled) == dialect.write("print(2 + 3)") + "\\boxed{5}<|im_end|>"


@pytest.mark.slow
@pytest.mark.thorough
def test_a_run_with_tool_calls_executes_them(tmp_path: Path) -> None:
    rollout = {"max_completion_length": 170, "num_generations": 4}
    with trainer(tmp_path, env=ENV, warm_up_steps=150, rollout=rollout, samples_per_step=8) as made:
        assert made.train()
    assert all(row["tools/call_frequency"] > 0 for row in rows(tmp_path))
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    called = [turn for sample in samples for turn in sample["turns"] if turn["status"] is not None]
    assert called
    for turn in called:
        start, end, code = turn["calls"][0]
        assert turn["text"][start:end].startswith("<tool_call>")
        assert code == "" or code in json.loads(turn["text"][start + 11 : end - 12])["arguments"]["code"]


def test_tool_calls_need_a_chat_template() -> None:
    with pytest.raises(ConfigError, match=r"^Expect `env.dialect` fence beside `--template raw`, which uses"):
        TrainConfig(template="raw", env=ENV)


def test_the_presets_use_fences(tmp_path: Path) -> None:
    assert {preset().env.dialect for preset in presets.values()} == {"fence"}
    assert small(tmp_path).env.dialect == "fence"
