"""Whole episodes with tool calls: their tokens are the chat template's and the sampled ones, exactly."""

import pytest
from agents_fakes import FakeEngine, scripted, tiny_qwen2, transformers_engine
from tool_calls import LENGTH, check_tokens, dialect_of, difference, play, telling_texts, tool_tokenizer

from agents.core.chat import Chat

DIALECTS = pytest.mark.parametrize("dialect", ["hermes", "llama3"])


def chat_for(dialect: str, *, family: str | None = None) -> Chat:
    return Chat(tool_tokenizer(dialect, telling_texts(dialect), family=family), dialect=dialect)


@DIALECTS
def test_a_scripted_episode_has_the_tokens_of_the_whole_conversation(dialect: str) -> None:
    chat, write = chat_for(dialect), dialect_of(dialect).write
    engine = FakeEngine(
        chat, scripted(write("print(2 * 3)"), write("print(45)") + " so", r"\boxed{6}"), max_model_len=LENGTH
    )
    (made, _) = play(engine, chat, dialect, count=2)
    assert [(turn.text, turn.feedback) for turn in made.turns][:2] == [
        (write("print(2 * 3)"), "6"),
        (write("print(45)") + " ", "45"),
    ]
    conversation = [
        *made.turns[0].info["messages"],
        {"role": "assistant", "content": made.turns[0].text},
        {"role": "tool", "content": "6"},
    ]
    tools = list(made.info["tools"])
    expected = chat.tokenizer.apply_chat_template(conversation, tools=tools, tokenize=False, add_generation_prompt=True)
    assert chat.tokenizer.decode(made.token_ids).startswith(expected + made.turns[1].text)
    assert made.boundary_cuts == 1
    assert made.reward == 1.0
    check_tokens(made, chat)


@DIALECTS
def test_over_whole_episodes_the_trainers_logprobs_equal_the_engines(dialect: str) -> None:
    chat = chat_for(dialect)
    model = tiny_qwen2(len(chat.tokenizer))
    engine = transformers_engine(model, chat, max_model_len=LENGTH)
    made = play(engine, chat, dialect)
    assert difference(made, model) < 1e-4
    for each in made:
        check_tokens(each, chat)
    assert max(len(each.turns) for each in made) >= 3
    assert {turn.info["execution_status"] for each in made for turn in each.turns} >= {"ok", "error", None}
    assert sum(each.boundary_cuts for each in made) > 0


def test_a_template_that_drops_earlier_thoughts_changes_no_token_of_an_episode() -> None:
    chat = chat_for("hermes", family="qwen3")
    write = dialect_of("hermes").write
    engine = FakeEngine(chat, scripted(write("print(6)"), write("print(7)"), r"\boxed{6}"), max_model_len=LENGTH)
    (made, _) = play(engine, chat, "hermes", count=2)
    text = chat.tokenizer.decode(made.token_ids)
    assert text.count("<|im_start|>assistant\n<think>\n\n</think>\n\n") == 3
    assert "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n6\n</tool_response><|im_end|>\n" in text


def test_without_a_budget_no_tool_is_presented() -> None:
    chat = chat_for("hermes")
    engine = FakeEngine(chat, scripted(r"\boxed{6}"), max_model_len=LENGTH)
    (made, _) = play(engine, chat, "hermes", count=2, interaction_budget=0)
    assert "python" not in chat.tokenizer.decode(made.token_ids)
