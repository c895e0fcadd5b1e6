"""Transcripts become the tokens that a rollout has."""

import json
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agents_fakes import FakeEngine, episodes, played, scripted, tokenizer

from agents.config.sft import SFTConfig
from agents.config.shared import EnvArguments
from agents.core.chat import Chat
from agents.core.errors import ConfigError, RunError
from agents.core.files import write_json_lines
from agents.core.samples import Sample, transcript
from agents.core.types import Trajectory
from agents.engines.base import Sampling
from agents.rollout.collector import Collector
from agents.rollout.envs import open_split
from agents.sft.rows import read_rows
from agents.sft.transcripts import encode, hold_out, read_transcripts

WORDY = Chat(tokenizer(), "raw")
IN_TEMPLATE = Chat(tokenizer())
BLOCK = "```python\nprint(6 * 7)\n```\n"
OUTPUT = "```output\n42\n```\n"
TURNS = (f"First\n{BLOCK}", "```python\nprint(1 / 0)\n```\n", r"\boxed{42}")
ENV = EnvArguments(problems="products", prompt="cir")
WITH_FILES = EnvArguments(problems="multi_block", prompt="cir")


def play(chat: Chat, env: EnvArguments = ENV, turns: tuple[str, ...] = TURNS) -> Trajectory:
    """Collect an episode whose turns are written so."""
    engine = FakeEngine(chat, scripted(*turns), max_model_len=5000)
    with closing(open_split(env, 1, split="train")) as envs:
        return played(Collector(envs, engine, chat).collect(episodes(2), Sampling(max_tokens=2000)))[0]


def sample(**changes: Any) -> Sample:
    made = transcript(play(WORDY, turns=(r"\boxed{42}",)))
    return made | {"correct": True} | changes  # type: ignore[return-value]


def chat_row(*contents: str, question: str = "What is 6 * 7?") -> dict[str, Any]:
    answers = [{"role": "assistant", "content": content} for content in contents]
    return {"messages": [{"role": "user", "content": question}, *answers]}


def config_of(folder: Path, *rows: Any, **changes: Any) -> SFTConfig:
    write_json_lines(folder / "rows.jsonl", rows)
    return SFTConfig(transcripts=(str(folder / "rows.jsonl"),), **({"env": ENV} | changes))


@pytest.mark.parametrize("env", [ENV, WITH_FILES], ids=["plain", "files"])
@pytest.mark.parametrize("chat", [WORDY, IN_TEMPLATE], ids=["raw", "chat"])
def test_a_sample_has_the_tokens_and_the_mask_of_its_rollout(chat: Chat, env: EnvArguments, tmp_path: Path) -> None:
    trajectory = play(chat, env)
    assert len(trajectory.turns) == 3
    reading = read_transcripts(config_of(tmp_path, transcript(trajectory), env=env))
    (encoded,), _ = encode(reading, chat, 5000)
    assert tuple(encoded.token_ids) == trajectory.token_ids
    assert tuple(encoded.action_mask) == trajectory.action_mask


@pytest.mark.parametrize("env", [ENV, WITH_FILES], ids=["plain", "files"])
def test_a_chat_has_the_tokens_of_the_rollout_that_it_tells(env: EnvArguments, tmp_path: Path) -> None:
    trajectory = play(WORDY, env)
    row = chat_row(trajectory.text, question=trajectory.info["statement"]) | {"files": trajectory.info["files"]}
    reading = read_transcripts(config_of(tmp_path, row, chat_prompts="env", env=env))
    (encoded,), _ = encode(reading, WORDY, 5000)
    assert tuple(encoded.token_ids) == trajectory.token_ids
    assert tuple(encoded.action_mask) == trajectory.action_mask


def test_a_chat_keeps_its_own_prompt_unless_it_is_asked_for_another(tmp_path: Path) -> None:
    row = chat_row(BLOCK + OUTPUT + "So 42.")
    own = read_transcripts(config_of(tmp_path, row)).transcripts[0]
    assert (own.prompt, own.turns, own.feedback) == ("What is 6 * 7?", (BLOCK, "So 42."), (OUTPUT,))
    other = read_transcripts(config_of(tmp_path, row, chat_prompts="env")).transcripts[0]
    assert other.prompt.startswith("Please solve")
    assert other.prompt.endswith("What is 6 * 7?")


def test_a_sample_gets_the_prompt_of_the_run_whatever_it_was_sampled_with(tmp_path: Path) -> None:
    shown = play(WORDY, EnvArguments(problems="products", prompt="cir_one_shot"))
    read = read_transcripts(config_of(tmp_path, transcript(shown))).transcripts[0]
    assert "38735" not in read.prompt


def test_rows_that_cannot_be_used_are_counted_with_their_reasons(tmp_path: Path) -> None:
    rows = [
        sample(),
        sample(correct=False),
        sample(truncated=True),
        sample(reward_valid=False),
        sample(turns=[{**sample()["turns"][0], "text": BLOCK + OUTPUT + "So 42."}]),
        chat_row(),
        chat_row("```python\nprint(1)"),
        chat_row("```python\nprint(1)"),
        sample(files={"data.csv": "1,2"}),
    ]
    reading = read_transcripts(config_of(tmp_path, *rows))
    assert reading.in_words() == (
        "Transcripts: 2, of which 1 have a wrong answer (evaluate.py select chooses the right ones). Not used: 7 "
        "(2 with a code block that is never closed; 1 that did not end; 1 that an infrastructure error made invalid; "
        "1 with an output that nobody computed; 1 without an assistant's message; 1 with `files` that are no list of "
        "names)."
    )


def test_transcripts_that_are_too_long_are_counted(tmp_path: Path) -> None:
    reading = read_transcripts(config_of(tmp_path, chat_row("Yes"), chat_row("Yes" * 100)))
    encoded, reading = encode(reading, WORDY, 100)
    assert (len(encoded), dict(reading.unusable)) == (1, {"longer than 100 tokens": 1})
    with pytest.raises(RunError, match=r"^Expect at least one transcript to learn from\. Transcripts: 0\. Not used: 2"):
        encode(read_transcripts(config_of(tmp_path, chat_row("Yes" * 100), chat_row("Yes" * 200))), WORDY, 100)


def test_transcripts_of_one_problem_are_held_out_together(tmp_path: Path) -> None:
    rows = [chat_row(text, question=f"What is {n}?") for n in range(10) for text in ("a", "b")]
    encoded, _ = encode(read_transcripts(config_of(tmp_path, *rows)), WORDY, 100)
    train, held_out = hold_out(encoded, 0.3, seed=1)
    assert (len(train), len(held_out)) == (14, 6)
    assert not {each.problem for each in train} & {each.problem for each in held_out}
    assert hold_out(encoded, 0.3, seed=1) == (train, held_out) != hold_out(encoded, 0.3, seed=2)
    assert hold_out(encoded, 0.0, seed=1) == (encoded, [])


def test_a_list_in_a_json_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([chat_row("a"), chat_row("b")]))
    assert len(read_rows(str(path))) == 2


def test_a_set_of_the_hub_is_read_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {("owner/chats", "train"): [chat_row("a"), chat_row("b")]}
    library = SimpleNamespace(load_dataset=lambda name, *, split: sets[name, split])
    monkeypatch.setitem(sys.modules, "datasets", library)
    assert read_rows("hub:owner/chats") == [chat_row("a"), chat_row("b")]
    with pytest.raises(ConfigError, match=r"^Expect `transcripts` to name a set on the hub, got 'none': "):
        read_rows("hub:none")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"^Expect the library datasets for hub:owner/chats: pip install"):
        read_rows("hub:owner/chats")


@pytest.mark.parametrize(
    ("name", "text", "kind", "message"),
    [
        ("none.jsonl", None, ConfigError, "Expect `transcripts` to be files, got '{path}', which is none."),
        ("rows.txt", "", ConfigError, "Expect `transcripts` to be .jsonl or .json files or hub:NAME, got '{path}'."),
        ("empty.jsonl", "", RunError, "Expect at least one transcript in {path}, got none."),
        (
            "broken.jsonl",
            '{"messages": []}\n{"messages":\n{"messages": []}\n',
            RunError,
            "{path}, line 2: Expect a sample, or a chat with `messages` of a role each, got b'{{\"messages\":'.",
        ),
        (
            "other.json",
            '[{"messages": []}, {"text": "a"}]',
            RunError,
            "{path}, item 2: Expect a sample, or a chat with `messages` of a role each, got \"{{'text': 'a'}}\".",
        ),
        ("object.json", "{}", RunError, "Expect a list of transcripts in {path}, got dict."),
    ],
)
def test_what_is_no_file_of_transcripts_is_named(
    name: str, text: str | None, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(kind) as caught:
        read_rows(str(path))
    assert str(caught.value) == message.format(path=path)


def test_a_run_needs_transcripts_and_one_of_them_must_be_usable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^Expect `transcripts` to name at least one file, got \(\)\.$"):
        read_transcripts(SFTConfig())
    with pytest.raises(RunError, match=r"Transcripts: 0\. Not used: 1 \(1 without an assistant's message\)\.$"):
        read_transcripts(config_of(tmp_path, chat_row()))
