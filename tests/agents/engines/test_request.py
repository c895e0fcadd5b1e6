"""The state of a running request, with every family of tokenizers."""

import pytest
from agents_fakes import CallScanner
from tokenizer_families import FAMILIES

from agents.core.chat import Chat
from agents.engines.base import Sampling
from agents.engines.request import Request
from agents.rollout.episode import keep_tokens


def begun(chat: Chat) -> Request:
    return Request.begin(0, [1], Sampling(), CallScanner(), None, chat=chat, max_model_len=100)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_ends_with_the_token_that_ends_it(family: str) -> None:
    chat = Chat(FAMILIES[family](), "raw")
    request = begun(chat)
    reasons = [request.append(i, 0.0, 0, {-1}) for i in chat.encode_feedback("a =1`\n")]
    assert reasons == [None] * (len(reasons) - 1) + ["boundary"]
    assert request.text == "a =1`\n"


def test_a_block_ends_in_a_token_that_ends_inside_a_character() -> None:
    made = FAMILIES["qwen"]()
    made.add_tokens("Ċâ")  # a newline, and the first byte of three
    chat = Chat(made, "raw")
    request = begun(chat)
    assert [request.append(i, 0.0, 0, {-1}) for i in made.convert_tokens_to_ids(["`", "Ċâ"])] == [None, "boundary"]
    kept = keep_tokens(request.completion("boundary"), 2, chat.encode_feedback)
    assert list(kept.token_ids) == chat.encode_feedback("`\n")
    assert (kept.action_mask, kept.cuts) == ((True, False), 1)


def test_a_token_that_ends_inside_a_character_ends_where_the_one_before_does() -> None:
    made = FAMILIES["qwen"]()
    chat = Chat(made, "raw")
    request = begun(chat)
    for token_id in made.convert_tokens_to_ids(["a", "Ġâ", "Ģ", "ľ"]):
        request.append(token_id, 0.0, 0, {-1})
    assert (request.text, request.text_ends) == ("a “", [1, 1, 1, 3])
