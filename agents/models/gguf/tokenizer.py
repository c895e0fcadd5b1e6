"""The tokenizer of a model in GGUF, from the file's vocabulary.

GGUF only names how a byte-level tokenizer splits a text into words before it merges bytes. transformers knows part of
these names, and splits as GPT-2 does at any other; SmolLM would then be given digits in threes, for example. Here each
name stands for the parts that the original tokenizer has, and a name that is not known is rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from agents.core.errors import ModelError
from agents.models.gguf.config import token_id
from agents.models.gguf.header import GgufHeader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
"""Types of tokens."""
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """How a byte-level tokenizer splits a text, and what else follows from the name in `tokenizer.ggml.pre`."""

    pattern: str | None = None
    """What a word is; None: as in GPT-2."""
    splits_digits: bool = False
    """Whether each digit is a word, before the rest is split."""
    composes: bool = False
    """Whether letters and their accents are composed first (NFC)."""
    takes_whole_words: bool = False
    """Whether a word that is a token is taken without merging."""
    begins: bool = False
    """Whether a beginning-of-sequence token precedes a text if the file does not say."""

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        parts: list[pre_tokenizers.PreTokenizer] = []
        if self.splits_digits:
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        if self.pattern is not None:
            parts.append(pre_tokenizers.Split(Regex(self.pattern), behavior="isolated"))
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.pattern is None))
        return pre_tokenizers.Sequence(parts)


_LLAMA3_KIND = _Kind(pattern=_LLAMA3, takes_whole_words=True, begins=True)
_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "gpt-2": _Kind(),
        "smollm": _Kind(splits_digits=True),
        "starcoder": _Kind(splits_digits=True),
        "qwen2": _Kind(pattern=_QWEN2, composes=True),
        "deepseek-r1-qwen": _Kind(pattern=_QWEN2, composes=True),
        "llama-bpe": _LLAMA3_KIND,
        "llama3": _LLAMA3_KIND,
        "llama-v3": _LLAMA3_KIND,
        "tekken": _Kind(pattern=_TEKKEN, takes_whole_words=True, begins=True),
    }
)


def tokenizer_of(header: GgufHeader, max_length: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer that a file's metadata describe, with its chat template.

    Args:
        header: The file's.
        max_length: Tokens of the longest text that the model is made for.

    Raises:
        ModelError: Another kind of tokenizer, or a damaged vocabulary.
    """
    from transformers import PreTrainedTokenizerFast

    metadata = header.metadata
    kind = metadata.get("tokenizer.ggml.model")
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in builders:
        raise ModelError(f"Expect `tokenizer.ggml.model` to be gpt2 or llama, got {kind!r}.")
    tokens, types = _vocabulary(metadata)
    backend, begins = builders[kind](metadata, tokens, types)
    for wanted, is_special in ((_CONTROL, True), (_USER_DEFINED, False)):
        found = [token for token, each in zip(tokens, types, strict=True) if each == wanted]
        added = [AddedToken(token, special=is_special, normalized=False) for token in found]
        (backend.add_special_tokens if is_special else backend.add_tokens)(added)
    ids = {name: _listed(header, name, tokens) for name in ("bos", "eos", "pad", "unk")}
    names = {f"{name}_token": None if i is None else tokens[i] for name, i in ids.items()}
    bos = names["bos_token"]
    if bos is not None and metadata.get("tokenizer.ggml.add_bos_token", begins):
        backend.post_processor = TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", bos, "$B:1"], special_tokens=[(bos, tokens.index(bos))]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        **names,
    )
    made.chat_template = metadata.get("tokenizer.chat_template")
    return made


def _vocabulary(metadata: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[int]]:
    """Return the tokens and their types, without those at the end that pad the vocabulary."""
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    types = metadata.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise ModelError(
            f"Expect {len(tokens)} different tokens with a type each, got {len(set(tokens))}, {len(types)}."
        )
    end = len(tokens)
    while end and (types[end - 1] == _UNUSED or tokens[end - 1] == f"[PAD{end - 1}]"):
        end -= 1
    return tokens[:end], types[:end]


def _listed(header: GgufHeader, name: str, tokens: Sequence[str]) -> int | None:
    found = token_id(header, name)
    if found is not None and found >= len(tokens):
        raise ModelError(f"Expect the {name} token to be one that is used, got {found}.")
    return found


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> tuple[Tokenizer, bool]:
    """Return a byte-level BPE tokenizer, and whether a text begins with a special token by default."""
    name = metadata.get("tokenizer.ggml.pre")
    kind = _KINDS.get(str(name))
    if kind is None:
        raise ModelError(f"Expect `tokenizer.ggml.pre` to be one of {', '.join(_KINDS)}, got {name!r}.")
    merges = [tuple(merge.split(" ")) for merge in metadata.get("tokenizer.ggml.merges", [])]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=kind.takes_whole_words))
    if kind.composes:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = kind.pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    return backend, kind.begins


def _sentencepiece(metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> tuple[Tokenizer, bool]:
    """Return a BPE tokenizer with byte fallback, as transformers builds that of Llama 2.

    Llama 2 has a space before each text, and Mistral only before one that does not begin with a space. GGUF does not
    say which it is; transformers does as Mistral.
    """
    scores = metadata.get("tokenizer.ggml.scores", [])
    if len(scores) < len(tokens):
        raise ModelError(f"Expect `tokenizer.ggml.scores` to have a score for each of {len(tokens)} tokens.")
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    backend = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=list(_merges(tokens, types, scores)),
            unk_token=tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    has_prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    scheme = "first" if has_prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    strip = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend, True


def _merges(tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]) -> Iterator[tuple[str, str]]:
    """Yield the merges that SentencePiece makes: of two tokens to a third, the one of the highest score first."""
    plain = {token: i for i, token in enumerate(tokens) if types[i] in (_NORMAL, _USER_DEFINED)}
    for merged in sorted(plain, key=lambda token: -scores[plain[token]]):
        pairs = ((merged[:at], merged[at:]) for at in range(1, len(merged)))
        yield from sorted((pair for pair in pairs if set(pair) <= plain.keys()), key=lambda p: [plain[x] for x in p])
