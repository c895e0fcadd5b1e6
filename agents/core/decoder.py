"""Decodes sampled tokens to text, one at a time and in linear time.

Each token stands for bytes, and the text is their UTF-8. Bytes that are not UTF-8 become replacement characters, as
with ``bytes.decode(errors="replace")``; that never changes the characters before and after them.
"""

from __future__ import annotations

import codecs
import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_REPLACEMENT = "\ufffd"


class TokenBytes:
    """The bytes that the tokens of a vocabulary stand for; each token is decoded once.

    A byte-level token names its bytes, a byte-fallback token (``<0xC3>``) its one byte, and any other token stands for
    the text that the tokenizer decodes it to.

    Args:
        backend: The tokenizer.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._known: dict[int, tuple[bytes, bytes]] = {}

    def exists(self, token_id: int) -> bool:
        """Whether the tokenizer has the token; a model's vocabulary may be padded beyond it."""
        return self._backend.id_to_token(token_id) is not None

    def of(self, token_id: int, *, first: bool = False) -> bytes:
        """Return the bytes of a token.

        Args:
            token_id: The token; one that does not exist has no bytes.
            first: Whether it is the first token. Some tokenizers drop the space that a text begins with.
        """
        found = self._known.get(token_id)
        if found is None:
            found = self._known[token_id] = self._look_up(token_id)
        return found[not first]

    def _look_up(self, token_id: int) -> tuple[bytes, bytes]:
        alone = self._backend.decode([token_id], skip_special_tokens=False)
        twice = self._backend.decode([token_id, token_id], skip_special_tokens=False)
        named = _named_bytes(self._backend.id_to_token(token_id) or "") if _REPLACEMENT in alone else None
        if named is not None:
            return named, named
        return alone.encode(), twice[len(alone) :].encode()


class TokenDecoder:
    """Decodes the tokens of one completion; bytes of an incomplete character are held back.

    The pieces join to the tokenizer's own ``decode`` of all tokens, with one exception: where byte-fallback tokens in a
    row are not UTF-8 as a whole, the tokenizer replaces every byte of the row, and this decoder only those that belong
    to no character. It cannot take back a character that it has returned, which may have ended a code block.

    Args:
        token_bytes: The vocabulary.
    """

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._has_begun = False

    @property
    def is_inside_character(self) -> bool:
        """Whether bytes are held back."""
        return bool(self._utf8.getstate()[0])

    def step(self, token_id: int) -> str:
        """Return the text completed by ``token_id``, possibly empty."""
        piece = self._bytes.of(token_id, first=not self._has_begun)
        self._has_begun = self._has_begun or self._bytes.exists(token_id)
        return self._utf8.decode(piece)

    def finish(self) -> str:
        """Return a replacement character for bytes that are held back, else nothing."""
        return self._utf8.decode(b"", final=True)


def _named_bytes(name: str) -> bytes | None:
    r"""Return the bytes that a token's name stands for; None if it is text.

    >>> _named_bytes("<0xC3>"), _named_bytes("Ġâī"), _named_bytes("\u2581a")
    (b'\xc3', b' \xe2\x89', None)
    """
    if re.fullmatch(r"<0x[\da-fA-F]{2}>", name):
        return bytes.fromhex(name[3:5])
    values = _byte_level()
    return bytes(values[char] for char in name) if all(char in values for char in name) else None


@cache
def _byte_level() -> dict[str, int]:
    """Return the bytes that byte-level BPE writes as characters: printable ones as themselves, others from U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
