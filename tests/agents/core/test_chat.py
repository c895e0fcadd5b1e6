"""Conversion of text to tokens and back."""

from typing import Any, Literal

import pytest
from agents_fakes import CHAT_TEMPLATE, EOS, LETTERS, byte_tokenizer, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_families import FAMILIES
from tokenizers.normalizers import Replace
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, PreTrainedTokenizerFast

from agents.core.chat import Chat
from agents.core.errors import ModelError

FAST = settings(max_examples=200, deadline=None, derandomize=True, database=None)
WORDY = tokenizer()
BYTES = byte_tokenizer()
every_family = pytest.mark.parametrize("family", list(FAMILIES))


def with_bos(made: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokenizer, with a token added before every encoded text, as Llama's does."""
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{EOS} $A", special_tokens=[(EOS, made.eos_token_id)]
    )
    return made


def test_a_prompt_becomes_a_user_turn_and_opens_the_assistants() -> None:
    chat = Chat(WORDY)
    assert WORDY.decode(chat.encode_prompt("What is 2+2?")) == "<user>What is 2+2?\n<assistant>"


def test_an_environment_may_provide_the_prompt_as_chat_messages() -> None:
    messages = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1"}]
    token_ids = Chat(WORDY).encode_prompt("One? 1", messages)
    assert WORDY.decode(token_ids) == "<user>One?\n<assistant>1\n<assistant>"
    assert WORDY.decode(Chat(WORDY, "raw").encode_prompt("One? 1", messages)) == "One? 1"


def test_a_raw_prompt_stays_as_it_is() -> None:
    assert WORDY.decode(Chat(WORDY, "raw").encode_prompt("What is 2+2?")) == "What is 2+2?"


def test_thinking_is_disabled_if_the_template_supports_it() -> None:
    made = tokenizer(template=CHAT_TEMPLATE + "{% if enable_thinking is false %}<think></think>{% endif %}")
    assert made.decode(Chat(made).encode_prompt("Hi")) == "<user>Hi\n<assistant><think></think>"


def test_feedback_is_encoded_on_its_own() -> None:
    chat = Chat(WORDY)
    assert WORDY.decode(chat.encode_feedback("\n4\n")) == "\n4\n"
    assert chat.encode_feedback("") == []


def test_a_chat_template_writes_all_special_tokens_of_a_prompt() -> None:
    made = with_bos(tokenizer())
    assert made.encode("x")[0] == made.eos_token_id
    assert made.eos_token_id not in [*Chat(made).encode_prompt("Hi"), *Chat(made).encode_feedback("Hi")]


@every_family
def test_a_raw_prompt_begins_as_the_tokenizers_own_encoding(family: str) -> None:
    made = FAMILIES[family]()
    assert Chat(made, "raw").encode_prompt("a print\n1") == made("a print\n1")["input_ids"]


def test_a_raw_prompt_is_left_open_by_a_tokenizer_that_ends_texts() -> None:
    made = tokenizer()
    made.add_special_tokens({"bos_token": "<s>"})
    ends = {"single": f"<s> $A {EOS}", "special_tokens": [("<s>", made.bos_token_id), (EOS, made.eos_token_id)]}
    made.backend_tokenizer.post_processor = TemplateProcessing(**ends)
    assert Chat(made, "raw").encode_prompt("Hi") == made("Hi")["input_ids"][:-1]


def test_the_end_of_sequence_ends_a_completion() -> None:
    assert Chat(WORDY).stop_token_ids(None) == {WORDY.eos_token_id}


@pytest.mark.parametrize(("named", "more"), [(None, set()), (5, {5}), ([5, 6], {5, 6})])
def test_the_tokens_of_the_generation_config_end_a_completion(named: int | list[int] | None, more: set[int]) -> None:
    assert Chat(WORDY).stop_token_ids(GenerationConfig(eos_token_id=named)) == {WORDY.eos_token_id, *more}


def test_a_tokenizer_without_a_template_can_only_be_raw() -> None:
    with pytest.raises(
        ModelError,
        match=r"^Expect a tokenizer with a chat template, got one without: use `--template raw`\.$",
    ):
        Chat(tokenizer(template=None))
    Chat(tokenizer(template=None), "raw")


def test_a_tokenizer_needs_an_end_of_sequence() -> None:
    made = tokenizer()
    made.eos_token = None
    with pytest.raises(ModelError, match=r"^Expect a tokenizer with an end-of-sequence token, got one without\.$"):
        Chat(made)


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow(PreTrainedTokenizerFast):
        is_fast = False

    made: Any = Slow
    with pytest.raises(ModelError, match=r"^Expect a fast tokenizer, got the slow Slow\.$"):
        Chat(made(tokenizer_object=tokenizer().backend_tokenizer, eos_token=EOS), "raw")


def test_a_character_appears_with_its_last_byte() -> None:
    decoder = Chat(BYTES).decoder()
    assert [decoder.step(token_id) for token_id in BYTES.encode("a∑b")] == ["a", "", "", "∑", "b"]
    assert decoder.finish() == ""


def test_incomplete_characters_are_decoded_at_the_end() -> None:
    decoder = Chat(BYTES).decoder()
    assert [decoder.step(token_id) for token_id in BYTES.encode("∑")[:2]] == ["", ""]
    assert decoder.finish() == "\ufffd"
    assert decoder.finish() == ""


def test_two_decoders_are_independent() -> None:
    one, other = Chat(BYTES).decoder(), Chat(BYTES).decoder()
    first, second, third = BYTES.encode("∑")
    assert (one.step(first), other.step(first), one.step(second), one.step(third)) == ("", "", "", "∑")
    assert other.finish() == "\ufffd"


def test_other_special_tokens_are_text() -> None:
    made = tokenizer()
    made.add_special_tokens({"pad_token": "<|pad|>"})
    decoder = Chat(made).decoder()
    assert "".join(decoder.step(t) for t in made.encode("a<|pad|>b")) + decoder.finish() == "a<|pad|>b"


@FAST
@given(st.text(alphabet=LETTERS, max_size=20))
@pytest.mark.slow
def test_encoded_text_comes_back_in_pieces(text: str) -> None:
    decoder = Chat(WORDY).decoder()
    assert "".join(decoder.step(t) for t in Chat(WORDY).encode_feedback(text)) + decoder.finish() == text


@FAST
@given(st.lists(st.integers(0, len(WORDY) - 2), max_size=30))
def test_the_pieces_of_any_tokens_are_their_text(token_ids: list[int]) -> None:
    decoder = Chat(WORDY).decoder()
    pieces = [decoder.step(token_id) for token_id in token_ids]
    assert "".join(pieces) + decoder.finish() == WORDY.decode(token_ids)


@FAST
@given(st.lists(st.sampled_from([0x24, 0x60, 0x0A, 0xC3, 0xA9, 0xE2, 0x88, 0x91, 0xF0, 0x9F, 0x80, 0xFF]), max_size=30))
@pytest.mark.slow
def test_the_pieces_of_any_bytes_are_their_text(data: list[int]) -> None:
    vocabulary = BYTES.get_vocab()
    token_ids = [vocabulary[_letter(byte)] for byte in data]
    decoder = Chat(BYTES).decoder()
    pieces = [decoder.step(token_id) for token_id in token_ids]
    assert "".join(pieces) + decoder.finish() == bytes(data).decode(errors="replace")


def _letter(byte: int) -> str:
    """The token of a byte in a byte-level vocabulary: printable bytes represent themselves, others are shifted."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(0x100) if b not in plain]
    return chr(byte if byte in plain else 0x100 + others.index(byte))


def test_special_tokens_in_program_output_are_text() -> None:
    printed = f"```output\n{EOS}\n```\n"
    token_ids = Chat(BYTES).encode_feedback(printed)
    assert BYTES.eos_token_id not in token_ids
    assert BYTES.decode(token_ids) == printed


@every_family
def test_feedback_has_no_space_that_nobody_wrote(family: str) -> None:
    made = FAMILIES[family]()
    chat = Chat(made, "raw")
    feedback = chat.encode_feedback("```output\n1")
    assert not made.convert_ids_to_tokens(feedback)[0].startswith("▁")
    assert made.decode([*chat.encode_feedback("a"), *feedback]) == "a```output\n1"


@every_family
@pytest.mark.parametrize("template", ["chat", "raw"])
def test_names_of_special_tokens_are_text_in_prompts_and_feedback(
    family: str, template: Literal["chat", "raw"]
) -> None:
    made = FAMILIES[family]()
    chat = Chat(made, template)
    names = "".join(token.content for token in made.added_tokens_decoder.values() if token.content != "<unk>")
    plain, named = (chat.encode_prompt(f"Is {text} a\nb?{text}") for text in ("it", names))
    special = set(made.added_tokens_decoder)
    assert [i for i in named if i in special] == [i for i in plain if i in special]
    assert made.decode(named) == made.decode(plain).replace("it", names)
    assert special.isdisjoint(chat.encode_feedback(names))


@every_family
def test_a_prompt_without_such_names_is_encoded_as_the_tokenizer_does(family: str) -> None:
    made = FAMILIES[family]()
    messages = [{"role": "user", "content": " é print\n"}]
    own = made.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert Chat(made).encode_prompt(" é print\n") == own


@pytest.mark.parametrize(("family", "end"), [("qwen", "<|im_end|>"), ("gemma", "<end_of_turn>"), ("llama2", "</s>")])
def test_the_token_behind_an_assistants_message_ends_a_completion(family: str, end: str) -> None:
    made = FAMILIES[family]()
    expected = {made.eos_token_id, made.convert_tokens_to_ids(end)}
    assert Chat(made).stop_token_ids(None) == expected
    assert Chat(made, "raw").stop_token_ids(None) == expected


def test_the_token_of_the_next_turn_ends_a_completion_where_no_other_stands_between() -> None:
    made = tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    made.chat_template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    assert Chat(made).stop_token_ids(None) == {made.eos_token_id, made.convert_tokens_to_ids("<|user|>")}


def test_a_tokenizer_that_loses_newlines_is_refused() -> None:
    made = tokenizer()
    made.backend_tokenizer.normalizer = Replace("\n", " ")
    with pytest.raises(ModelError, match=r"^Expect a tokenizer that keeps text as it is, got '```output   1"):
        Chat(made)


@pytest.mark.parametrize("family", ["llama2", "gemma", "qwen"])
def test_a_system_message_is_in_every_prompt(family: str) -> None:
    made = FAMILIES[family]()
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]
    text = made.decode(Chat(made).encode_prompt("be\n\nhi", messages))
    assert text.count("be") == 1
    assert text.index("be") < text.index("hi")
    assert made.decode(Chat(made, "raw").encode_prompt("be\n\nhi", messages)).endswith("be\n\nhi")


def test_a_system_message_that_the_template_drops_joins_the_users() -> None:
    made = tokenizer(template="{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]
    assert made.decode(Chat(made).encode_prompt("", messages)) == "<user>be\n\nhi"


def test_a_template_that_rejects_the_messages_says_so_in_one_line() -> None:
    made = tokenizer(template="{{ raise_exception('not today') }}")
    message = (
        r"^Expect a chat template that takes messages of the roles \['user'\] .*, got: not today\. Use `--template"
    )
    with pytest.raises(ModelError, match=message):
        Chat(made).encode_prompt("?", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "?"}])


def test_variables_of_the_template_are_passed_on() -> None:
    made = tokenizer(template=CHAT_TEMPLATE + "{{ thinking }}{{ enable_thinking }}")
    chat = Chat(made, template_kwargs={"thinking": True})
    assert made.decode(chat.encode_prompt("Hi")) == "<user>Hi\n<assistant>True"


@pytest.mark.parametrize("name", ["tokenize", "messages", "chat_template"])
def test_a_variable_that_is_not_the_templates_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=f"^Expect `chat_template_kwargs` to be variables of .*, got `{name}`"):
        Chat(WORDY, template_kwargs={name: True})
