"""What scripted readers do becomes chats that fine-tuning reads as episodes of the environment."""

import json
from pathlib import Path

import pytest

from agents.config.sft import SFTConfig
from agents.config.shared import EnvArguments
from agents.core.errors import ConfigError
from agents.sft.transcripts import read_transcripts
from cir_env import CodeMathEnv, ProblemSet
from experiments.demonstrations import Arguments, main


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "chats.jsonl"
    main(Arguments(size=8, seed=3, time_limit_s=0.5, output=path))
    return path


def test_each_chat_is_a_whole_episode_with_the_prompt_of_the_environment(chats: Path) -> None:
    env = EnvArguments(problems="multi_block", prompt="cir")
    reading = read_transcripts(SFTConfig(transcripts=(str(chats),), chat_prompts="env", env=env))
    assert (len(reading.transcripts), reading.unusable) == (8, {})
    with CodeMathEnv(
        problems=ProblemSet.generate("multi_block", split="train", seed=3, size=8), prompt="cir"
    ) as played:
        prompts = [played.reset(options={"problem_index": index})[0] for index in range(8)]
    assert [transcript.prompt for transcript in reading.transcripts] == prompts


def test_a_chat_looks_before_it_answers(chats: Path) -> None:
    texts = [json.loads(line)["messages"][1]["content"] for line in chats.read_text().splitlines()]
    assert all(text.count("```python") == text.count("```output") >= 2 for text in texts)
    assert all(text.endswith("}.") for text in texts)


def test_no_demonstration_is_refused() -> None:
    with pytest.raises(ConfigError, match="Expect `size` of at least 1, got 0"):
        Arguments(size=0)
