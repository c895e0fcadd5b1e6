"""Small tokenizers of every family that language models use, built as theirs are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system role') }}"
    "{% elif message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{{ '<start_of_turn>' + message['role'].replace('assistant', 'model') }}"
    "{{ '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
WORDS = ("print", "the", "```", "``", "python", " a", "  ", " ```", "é", "=1", "`a")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789`=() "


def qwen() -> PreTrainedTokenizerFast:
    """Byte-level BPE, whose base model ends texts by another token than the turns of its chat template."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = (*WORDS, "\n\n", " “", "```\nSo", "a é")  # “ in three bytes: some tokens end inside of it

    def in_bytes(text: str) -> str:
        return "".join(piece for piece, _ in level.pre_tokenize_str(text))

    backend = Tokenizer(_bpe(sorted(level.alphabet()), map(in_bytes, words)))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = level
    backend.decoder = decoders.ByteLevel()
    return _made(backend, CHATML, eos="<|endoftext|>", more=("<|im_start|>", "<|im_end|>"))


def llama3() -> PreTrainedTokenizerFast:
    """The same, with a beginning-of-sequence token before each text."""
    made = qwen()
    made.add_special_tokens({"bos_token": "<|begin_of_text|>"})
    made.backend_tokenizer.post_processor = _begin(made)
    return made


def llama2() -> PreTrainedTokenizerFast:
    """SentencePiece BPE with byte fallback, whose normalizer puts a space before each text."""
    prefix = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _sentencepiece(_fallback_bpe(), LLAMA2, normalizer=prefix, decoder=_fallback_decoder(strips=True))


def mistral() -> PreTrainedTokenizerFast:
    """The same, where a pre-tokenizer puts the space there."""
    first = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return _sentencepiece(_fallback_bpe(), LLAMA2, pre_tokenizer=first, decoder=_fallback_decoder(strips=True))


def gemma() -> PreTrainedTokenizerFast:
    """SentencePiece BPE with byte fallback, which puts no space before a text."""
    made = _sentencepiece(
        _fallback_bpe(),
        GEMMA,
        normalizer=normalizers.Replace(" ", "▁"),
        pre_tokenizer=pre_tokenizers.Split(Regex(" "), "merged_with_previous"),
        decoder=_fallback_decoder(strips=False),
    )
    made.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    return made


def unigram() -> PreTrainedTokenizerFast:
    """Unigram with byte fallback, which puts a space before each text."""
    pieces = [(piece, -10.0) for piece in ("<unk>", "<s>", "</s>", *BYTES, *_pieces(_LETTERS))]
    pieces += [(piece, -2.0) for piece in _pieces(WORDS) if len(piece) > 1]
    model = models.Unigram(pieces, unk_id=0, byte_fallback=True)
    always = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    return _sentencepiece(model, LLAMA2, pre_tokenizer=always, decoder=_fallback_decoder(strips=True))


FAMILIES: Mapping[str, Callable[[], PreTrainedTokenizerFast]] = {
    made.__name__: made for made in (qwen, llama3, llama2, mistral, gemma, unigram)
}


def _pieces(texts: Sequence[str]) -> list[str]:
    return [text.replace(" ", "▁") for text in texts]


def _fallback_bpe() -> models.BPE:
    return _bpe(
        ["<unk>", "<s>", "</s>", *BYTES, *_pieces(_LETTERS), "é"], _pieces(WORDS), byte_fallback=True, unk_token="<unk>"
    )


def _bpe(letters: Iterable[str], words: Iterable[str], **options: Any) -> models.BPE:
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for end in range(1, len(word)):
            merges.setdefault((word[:end], word[end]))
            vocabulary.setdefault(word[: end + 1], len(vocabulary))
    return models.BPE(vocab=vocabulary, merges=list(merges), fuse_unk=True, **options)


def _fallback_decoder(*, strips: bool) -> Any:
    strip = [decoders.Strip(" ", 1, 0)] if strips else []
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])


def _sentencepiece(model: models.Model, template: str, **parts: Any) -> PreTrainedTokenizerFast:
    backend = Tokenizer(model)
    for name, part in parts.items():
        setattr(backend, name, part)
    made = _made(backend, template, eos="</s>", bos_token="<s>", unk_token="<unk>")
    made.backend_tokenizer.post_processor = _begin(made)
    return made


def _made(
    backend: Tokenizer, template: str, *, eos: str, more: Sequence[str] = (), **names: str
) -> PreTrainedTokenizerFast:
    special = [AddedToken(name, special=True, normalized=False) for name in (*names.values(), eos, *more)]
    backend.add_special_tokens(special)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, **names)
    made.chat_template = template
    return made


def _begin(made: PreTrainedTokenizerFast) -> TemplateProcessing:
    return TemplateProcessing(single=f"{made.bos_token} $A", special_tokens=[(made.bos_token, made.bos_token_id)])
