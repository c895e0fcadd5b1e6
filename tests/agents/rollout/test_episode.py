"""Which tokens of a completion stay when an environment keeps a part of its text."""

import pytest
from agents_fakes import byte_tokenizer, completion, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_families import FAMILIES

from agents.core.chat import Chat
from agents.core.types import FinishReason
from agents.rollout.episode import keep_tokens

FAST = settings(max_examples=200, deadline=None, derandomize=True, database=None)
WORDY = Chat(tokenizer(), "raw")
BYTES = Chat(byte_tokenizer(), "raw")
END = WORDY.tokenizer.eos_token_id


tokens = st.lists(st.integers(0, len(WORDY.tokenizer) - 2), min_size=1, max_size=20)
plain_tokens = st.text(alphabet="ab`\n [4]yesSo", min_size=1, max_size=20).map(WORDY.encode_feedback)
reasons: st.SearchStrategy[FinishReason] = st.sampled_from(["boundary", "stop", "length"])


def check_kept(token_ids: list[int], share: float, reason: FinishReason) -> None:
    done = completion(WORDY, token_ids, reason)
    kept_chars = round(share * len(done.text))
    kept = keep_tokens(done, kept_chars, WORDY.encode_feedback)
    whole = sum(kept.action_mask)
    assert WORDY.tokenizer.decode(list(kept.token_ids)) == done.text[:kept_chars]
    assert kept.token_ids[:whole] == done.token_ids[:whole]
    assert kept.logprobs == (*done.logprobs[:whole], *[0.0] * (len(kept.token_ids) - whole))
    assert kept.action_mask == tuple(n < whole for n in range(len(kept.token_ids)))
    assert kept.cuts == (whole < len(kept.token_ids))
    assert END not in kept.token_ids


@FAST
@given(plain_tokens, st.floats(0, 1), reasons)
def test_the_kept_tokens_decode_to_the_kept_text(token_ids: list[int], share: float, reason: FinishReason) -> None:
    check_kept(token_ids, share, reason)


@FAST
@given(tokens, st.floats(0, 1), reasons)
def test_the_kept_tokens_decode_to_the_kept_text_whatever_bytes_they_hold(
    token_ids: list[int], share: float, reason: FinishReason
) -> None:
    check_kept(token_ids, share, reason)


@FAST
@given(tokens, reasons)
def test_keeping_all_text_keeps_every_token_as_it_was_sampled(token_ids: list[int], reason: FinishReason) -> None:
    done = completion(WORDY, token_ids, reason)
    kept = keep_tokens(done, len(done.text), WORDY.encode_feedback)
    assert (list(kept.token_ids), kept.cuts) == (token_ids, 0)
    assert all(kept.action_mask)


def test_a_token_that_holds_the_boundary_and_more_is_replaced_and_masked() -> None:
    done = completion(WORDY, WORDY.encode_feedback("a```\nSo"))
    assert [WORDY.tokenizer.decode(i) for i in done.token_ids] == ["a", "```\nSo"]
    kept = keep_tokens(done, 5, WORDY.encode_feedback)
    assert list(kept.token_ids) == WORDY.encode_feedback("a") + WORDY.encode_feedback("```\n")
    assert kept.action_mask == (True, *[False] * len(WORDY.encode_feedback("```\n")))
    assert kept.cuts == 1


def test_the_bytes_of_a_character_after_the_boundary_are_dropped() -> None:
    done = completion(BYTES, BYTES.encode_feedback("`\n∑"))
    kept = keep_tokens(done, 2, BYTES.encode_feedback)
    assert list(kept.token_ids) == BYTES.encode_feedback("`\n")
    assert kept.cuts == 0


FAMILY_CHATS = {name: Chat(make(), "raw") for name, make in FAMILIES.items()}


@pytest.mark.parametrize("family", list(FAMILY_CHATS))
@FAST
@given(data=st.data(), share=st.floats(0, 1))
def test_the_kept_tokens_of_every_family_decode_to_the_kept_text(
    family: str, data: st.DataObject, share: float
) -> None:
    chat = FAMILY_CHATS[family]
    token_ids = data.draw(st.lists(st.integers(0, len(chat.tokenizer) + 2), min_size=1, max_size=20))
    done = completion(chat, token_ids)
    kept_chars = round(share * len(done.text))
    kept = keep_tokens(done, kept_chars, chat.encode_feedback)
    whole = sum(kept.action_mask)
    assert kept.token_ids[:whole] == done.token_ids[:whole]
    assert kept.action_mask == tuple(n < whole for n in range(len(kept.token_ids)))
    after = chat.encode_feedback("```output\n1\n```\n")  # the rest of a character would change it
    decoder = chat.decoder()
    assert "".join(decoder.step(i) for i in (*kept.token_ids, *after)) == done.text[:kept_chars] + "```output\n1\n```\n"
