"""Converted tokenizers against those that the GGUF file was written from."""

from __future__ import annotations

import json
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import pytest
from gguf_files import vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Tokenizer, LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.tokenization_utils_base import generate_merges

from agents.core.errors import ModelError
from agents.models.gguf.header import GgufHeader
from agents.models.gguf.tokenizer import tokenizer_of

SPECIAL = ("<|endoftext|>", "<|begin|>", "<|end|>", "<｜turn｜>")
TEXTS = (
    "```python\nfor i in range(10):\n    print(i ** 2, 1234 * 567)\n```\n\n```output\n2024\n```\nI'll say it's 3.14\n",
    "L'équation x² + 2x = 0 a deux solutions.  Ответ: 42. 答えは四十二です。 naïve café\t\tDON'T\r\n\r\n   end",
)


def header(metadata: dict) -> GgufHeader:
    return GgufHeader(path=Path("x.gguf"), metadata=metadata, shapes={}, rope_factors=None)


def llama3(vocab: dict[str, int], merges: list[tuple[str, str]]) -> PreTrainedTokenizerBase:
    pattern = signature(TikTokenConverter).parameters["pattern"].default
    words = [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return fast(models.BPE(vocab, merges, ignore_merges=True), words)


def smollm(vocab: dict[str, int], merges: list[tuple[str, str]]) -> PreTrainedTokenizerBase:
    words = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return fast(models.BPE(vocab, merges), words)


def fast(model: models.Model, words: list[pre_tokenizers.PreTokenizer]) -> PreTrainedTokenizerBase:
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(words)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


ORIGINALS: dict[str, Callable[..., PreTrainedTokenizerBase]] = {
    "qwen2": lambda vocab, merges: Qwen2Tokenizer(vocab=vocab, merges=merges),
    "gpt-2": lambda vocab, merges: GPT2Tokenizer(vocab=vocab, merges=merges),
    "llama-bpe": llama3,
    "smollm": smollm,
}


def pair(pre: str) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Return a trained tokenizer, and the one that is made of its vocabulary in GGUF."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained = ORIGINALS[pre]({char: i for i, char in enumerate(sorted(level.alphabet()))}, [])
    trained.backend_tokenizer.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=450, initial_alphabet=level.alphabet(), show_progress=False)
    )
    model = json.loads(trained.backend_tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    vocab = model["vocab"] | {"abcdef": len(model["vocab"])}  # a word that no merges make
    original = ORIGINALS[pre](vocab, merges)
    original.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokens = [*sorted(vocab, key=vocab.__getitem__), *SPECIAL]
    assert original.get_vocab() == {token: i for i, token in enumerate(tokens)}
    metadata = vocabulary(tokens, list(map(" ".join, merges)), special=len(SPECIAL), pre=pre)
    return original, tokenizer_of(header(metadata | {"tokenizer.ggml.add_bos_token": False}), 64)


PAIRS = {pre: pair(pre) for pre in ORIGINALS}
PIECES = st.sampled_from(
    [*SPECIAL, *TEXTS[0].split(" "), *TEXTS[1].split(" "), " ", "\n", "  ", "12", "abcdef", "e\u0301"]
)


@pytest.mark.parametrize("pre", PAIRS)
@given(st.lists(st.one_of(PIECES, st.text(max_size=8))).map("".join))
@settings(max_examples=80, deadline=None)
def test_a_text_has_the_tokens_of_the_original_tokenizer(pre, text):
    original, converted = PAIRS[pre]
    ids = original.encode(text, add_special_tokens=False)
    assert converted.encode(text, add_special_tokens=False) == ids
    assert converted.decode(ids) == original.decode(ids)


def test_only_some_tokenizers_take_a_word_that_no_merges_make():
    assert [pre for pre, (_, converted) in PAIRS.items() if len(converted.tokenize("abcdef")) == 1] == ["llama-bpe"]


SCORED = {"<unk>": 0.0, "<s>": 0.0, "</s>": 0.0}
SCORED |= {f"<0x{byte:02X}>": 0.0 for byte in range(256)}
SCORED |= {
    piece: -float(i) for i, piece in enumerate(("▁t", "he", "▁the", "``", "```", "▁▁", "rint", "print", "in", "rin"))
}
SCORED |= {char: -100.0 - i for i, char in enumerate("abcdefghijklmnopqrstuvwxyz`▁0123456789é<>/")}
SENTENCEPIECE = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": list(SCORED),
    "tokenizer.ggml.scores": list(SCORED.values()),
    "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(SCORED) - 259),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}
_IDS = {token: i for i, token in enumerate(SCORED)}
LLAMA2 = LlamaTokenizer(vocab=_IDS, merges=generate_merges(_IDS, SCORED), add_bos_token=True)
CONVERTED_LLAMA2 = tokenizer_of(header(SENTENCEPIECE), 64)


@given(st.one_of(st.text("the print``` 019é\n<s>/日", max_size=40), st.text(max_size=8)))
@settings(max_examples=80, deadline=None)
def test_a_sentencepiece_vocabulary_gives_the_tokens_of_llama_2(text):
    ids = LLAMA2.encode(text)
    assert CONVERTED_LLAMA2.encode(text) == ids
    assert CONVERTED_LLAMA2.decode(ids) == LLAMA2.decode(ids)


def test_a_beginning_of_sequence_token_is_added_as_the_file_says_or_as_its_kind_does():
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL]
    begins = {}
    for pre in ("qwen2", "llama-bpe"):
        metadata = vocabulary(tokens, [], special=len(SPECIAL), pre=pre)
        for said in ({}, {"tokenizer.ggml.add_bos_token": True}, {"tokenizer.ggml.add_bos_token": False}):
            made = tokenizer_of(header(metadata | said), 64)
            begins[pre, *said.values()] = made("a")["input_ids"][0] == len(tokens) - 3
    assert begins == {
        ("qwen2",): False,
        ("qwen2", True): True,
        ("qwen2", False): False,
        ("llama-bpe",): True,
        ("llama-bpe", True): True,
        ("llama-bpe", False): False,
    }


def test_tokens_that_pad_the_vocabulary_are_not_tokens():
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL]
    metadata = vocabulary(tokens, [], special=len(SPECIAL))
    metadata["tokenizer.ggml.tokens"] += ["[PAD260]", "[PAD261]"]
    metadata["tokenizer.ggml.token_type"] += [5, 4]  # older files have the other type
    assert len(tokenizer_of(header(metadata), 64)) == len(tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "Expect `tokenizer.ggml.model` to be gpt2 or llama, got 'bert'."),
        (
            {"tokenizer.ggml.pre": "default"},
            "Expect `tokenizer.ggml.pre` to be one of gpt-2, smollm, starcoder, qwen2, deepseek-r1-qwen, llama-bpe, "
            "llama3, llama-v3, tekken, got 'default'.",
        ),
        ({"tokenizer.ggml.eos_token_id": 400}, "Expect `tokenizer.ggml.eos_token_id` below 260, got 400."),
        ({"tokenizer.ggml.token_type": [1]}, "Expect 260 different tokens with a type each, got 260, 1."),
    ],
)
def test_another_or_a_damaged_vocabulary_is_rejected_in_one_line(changes, message):
    metadata = vocabulary([*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL], [], special=len(SPECIAL))
    with pytest.raises(ModelError) as caught:
        tokenizer_of(header(metadata | changes), 64)
    assert str(caught.value) == message
