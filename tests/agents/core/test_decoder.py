"""Tokens become text one at a time, for every family of tokenizers and whatever bytes are sampled."""

import re
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_families import FAMILIES
from tokenizers import Tokenizer

from agents.core.chat import Chat
from agents.core.decoder import TokenBytes, TokenDecoder

FAST = settings(max_examples=150, deadline=None, derandomize=True, database=None)
CHATS = {name: Chat(make(), "raw") for name, make in FAMILIES.items()}
FALLBACK = [name for name in CHATS if "<0xC3>" in CHATS[name].tokenizer.get_vocab()]
BYTE_LEVEL = [name for name in CHATS if name not in FALLBACK]
BYTES = [0x0A, 0x24, 0x60, 0xC3, 0xA9, 0xE2, 0x80, 0x9C, 0xF0, 0x9F, 0xED, 0xBF, 0xFF]
"""Of whole, broken and overlong characters."""

every_family = pytest.mark.parametrize("family", list(CHATS))


def decoded(chat: Chat, token_ids: list[int]) -> str:
    decoder = chat.decoder()
    return "".join([decoder.step(token_id) for token_id in token_ids]) + decoder.finish()


def own(chat: Chat, token_ids: list[int]) -> str:
    """The tokenizer's own text."""
    text: str = chat.tokenizer.backend_tokenizer.decode(token_ids, skip_special_tokens=False)
    return text


def any_tokens(chat: Chat) -> st.SearchStrategy[list[int]]:
    """Token ids, some of them beyond the vocabulary and many of them bytes."""
    names = [f"<0x{byte:02X}>" for byte in BYTES] if "<0xC3>" in chat.tokenizer.get_vocab() else []
    byte_ids = [chat.tokenizer.convert_tokens_to_ids(name) for name in names]
    one = st.integers(0, len(chat.tokenizer) + 3)
    return st.lists(one | st.sampled_from(byte_ids) if byte_ids else one, max_size=25)


def spelled(chat: Chat, token_ids: list[int]) -> list[bytes]:
    """What byte-fallback tokens in a row, and the tokens between two rows, stand for."""
    names = [chat.tokenizer.backend_tokenizer.id_to_token(token_id) for token_id in token_ids]
    rows = groupby((name for name in names if name is not None), key=lambda name: re.fullmatch("<0x..>", name) is None)
    return [
        b"".join(name.replace("▁", " ").encode() if is_text else bytes.fromhex(name[3:5]) for name in row)
        for is_text, row in rows
    ]


@pytest.mark.parametrize("family", BYTE_LEVEL)
@FAST
@given(data=st.data())
def test_the_pieces_of_any_byte_level_tokens_are_the_tokenizers_own_text(family: str, data: st.DataObject) -> None:
    chat = CHATS[family]
    token_ids = data.draw(any_tokens(chat))
    assert decoded(chat, token_ids) == own(chat, token_ids)


@pytest.mark.parametrize("family", FALLBACK)
@FAST
@given(data=st.data())
def test_byte_fallback_differs_from_the_tokenizers_own_text_in_broken_rows_alone(
    family: str, data: st.DataObject
) -> None:
    chat = CHATS[family]
    token_ids = data.draw(any_tokens(chat))
    rows = spelled(chat, token_ids)
    text = b"".join(rows).decode(errors="replace")
    assert decoded(chat, token_ids) == (text if family == "gemma" else text.removeprefix(" "))
    if all("\ufffd" not in row.decode(errors="replace") for row in rows):
        assert decoded(chat, token_ids) == own(chat, token_ids)


@pytest.mark.parametrize("family", FALLBACK)
@FAST
@given(st.lists(st.sampled_from(BYTES), max_size=20))
def test_byte_fallback_tokens_decode_as_bytes_do(family: str, data: list[int]) -> None:
    chat = CHATS[family]
    token_ids = chat.tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in data])
    assert decoded(chat, token_ids) == bytes(data).decode(errors="replace")


@every_family
@FAST
@given(data=st.data())
def test_what_was_returned_is_never_taken_back(family: str, data: st.DataObject) -> None:
    chat = CHATS[family]
    token_ids = data.draw(any_tokens(chat))
    cut = data.draw(st.integers(0, len(token_ids)))
    decoder = chat.decoder()
    begun = "".join([decoder.step(token_id) for token_id in token_ids[:cut]])
    assert decoded(chat, token_ids).startswith(begun)
    assert decoder.is_inside_character == (decoder.finish() != "")


@every_family
@FAST
@given(text=st.text(alphabet="ab`\n =1é“😀", max_size=20))
def test_encoded_text_comes_back(family: str, text: str) -> None:
    chat = CHATS[family]
    after = chat.encode_feedback("a")
    assert decoded(chat, [*after, *chat.encode_feedback(text)]) == "a" + text


def test_a_broken_byte_in_gemmas_tokens_is_a_replacement_character() -> None:
    chat = CHATS["gemma"]
    names = ["o", "k", "▁", "<0xC3>", "<0xA9>", "<0xC3>", "s", "o"]
    assert decoded(chat, chat.tokenizer.convert_tokens_to_ids(names)) == "ok é\ufffdso"


@every_family
def test_tokens_beyond_the_vocabulary_have_no_text(family: str) -> None:
    chat = CHATS[family]
    padding = [len(chat.tokenizer), len(chat.tokenizer) + 100]
    written = chat.tokenizer.encode(" a b", add_special_tokens=False)
    assert decoded(chat, [*padding, *written, *padding]) == own(chat, written)


@every_family
def test_each_token_is_decoded_once_however_often_it_is_sampled(family: str) -> None:
    class Counting:
        def __init__(self, backend: Tokenizer) -> None:
            self.backend, self.ids = backend, 0

        def id_to_token(self, token_id: int) -> str | None:
            return self.backend.id_to_token(token_id)

        def decode(self, ids: list[int], **arguments: bool) -> str:
            self.ids += len(ids)
            return self.backend.decode(ids, **arguments)

    counting: Any = Counting(CHATS[family].tokenizer.backend_tokenizer)
    broken = "<0xC3>" if family in FALLBACK else "Ã"
    sampled = CHATS[family].tokenizer.convert_tokens_to_ids([broken, "a", broken, broken]) * 5000
    token_bytes = TokenBytes(counting)
    for _ in range(2):
        decoder = TokenDecoder(token_bytes)
        for token_id in sampled:
            decoder.step(token_id)
    assert counting.ids == 3 * len(set(sampled))
