"""`UnicodeText`, a space of arbitrary text.

`gymnasium.spaces.Text` checks every character against a character set. Its default set rejects code; a set of all
characters takes a second and tens of megabytes to build, and is part of every pickle. `UnicodeText` has no character
set. It also works with the shared memory of `gymnasium.vector.AsyncVectorEnv`, where observations of a plain `Text`
space stay empty.
"""

import sys
from collections.abc import Iterator, Sequence, Set
from multiprocessing.sharedctypes import SynchronizedArray
from types import ModuleType
from typing import Any, Final, overload

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Text
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory

from cir_env.errors import OptionError, check_integer

_MAX_SAMPLE_CHARS = 64
_SAMPLED: Final = [chr(code) for code in range(0x20, 0x7F)] + ["\n", "é", "π", "≤", "数", "🙂"]


class UnicodeText(Text):
    """The space of all strings up to a maximum length, including the empty string and lone surrogates.

    Two spaces are equal if their maximum lengths are. Samples are short and printable.

    Args:
        max_length: Maximum number of characters; unlimited by default.
        seed: Seed for sampling.

    Raises:
        OptionError: `max_length` is not an integer of at least 0.

    Example:
        >>> space = UnicodeText(max_length=20)
        >>> "def f(x): return '√'" in space, "x" * 21 in space, b"x" in space
        (True, False, False)
        >>> space == UnicodeText(max_length=20)
        True
    """

    def __init__(self, max_length: int = sys.maxsize, *, seed: int | np.random.Generator | None = None) -> None:
        self.min_length = 0
        self.max_length = check_integer("max_length", max_length, 0)
        Space.__init__(self, dtype=str, seed=seed)  # Text.__init__ would require a character set

    def sample(self, mask: None = None, probability: None = None) -> str:  # type: ignore[override]
        """Draw a short string. Masks and probabilities are not supported and raise `OptionError`."""
        if mask is not None or probability is not None:
            raise OptionError("Expect no `mask` and no `probability`: this space has no character set.")
        length = self.np_random.integers(0, min(self.max_length, _MAX_SAMPLE_CHARS), endpoint=True)
        return "".join(_SAMPLED[index] for index in self.np_random.integers(0, len(_SAMPLED), size=length))

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string of at most `max_length` characters."""
        return isinstance(x, str) and len(x) <= self.max_length

    @property
    def is_np_flattenable(self) -> bool:
        """Whether `gymnasium.spaces.flatten` works (it gives code points): only with a maximum length."""
        return self.max_length < sys.maxsize

    @property
    def character_set(self) -> "_EveryCharacter":  # type: ignore[override]
        """The set of all characters, generated on demand."""
        return _EVERY_CHARACTER

    @property
    def character_list(self) -> "_EveryCharacterInOrder":  # type: ignore[override]
        """All characters by code point, generated on demand."""
        return _EVERY_CHARACTER_IN_ORDER

    def character_index(self, char: str) -> np.int32:
        """Return the code point of a character."""
        return np.int32(ord(char))

    @property
    def characters(self) -> str:
        """The characters that samples consist of."""
        return "".join(_SAMPLED)

    def __repr__(self) -> str:
        limit = "" if self.max_length == sys.maxsize else f"max_length={self.max_length}"
        return f"UnicodeText({limit})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    __hash__ = None  # type: ignore[assignment]  # like all Gymnasium spaces, since their random state is mutable


class _EveryCharacter(Set[str]):
    """The set of all characters, generated on demand."""

    def __contains__(self, char: object) -> bool:
        return isinstance(char, str) and len(char) == 1

    def __len__(self) -> int:
        return sys.maxunicode + 1

    def __iter__(self) -> Iterator[str]:
        return map(chr, range(len(self)))


class _EveryCharacterInOrder(Sequence[str]):
    """The sequence of all characters, generated on demand."""

    def __len__(self) -> int:
        return sys.maxunicode + 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        codes = range(len(self))[index]
        return chr(codes) if isinstance(codes, int) else [chr(code) for code in codes]


_EVERY_CHARACTER: Final = _EveryCharacter()
_EVERY_CHARACTER_IN_ORDER: Final = _EveryCharacterInOrder()


# --- shared memory: one row per environment, the length followed by the code points -------------------------


class _SharedTexts(Sequence[str]):
    """A live view of the shared memory. Its deep copy, which `AsyncVectorEnv` returns, is a tuple of strings."""

    def __init__(self, memory: "SynchronizedArray[Any]", num_envs: int) -> None:
        self._rows = _rows(memory, num_envs)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        row = self._rows[index]
        codes: bytes = row[1 : 1 + row[0]].tobytes()
        return codes.decode(_UTF_32, "surrogatepass")

    def __deepcopy__(self, memo: object) -> tuple[str, ...]:
        return tuple(self)


_UTF_32: Final = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"


def _rows(memory: "SynchronizedArray[Any]", num_envs: int) -> Any:
    """View the memory as an int32 array of shape (num_envs, 1 + max_length)."""
    buffer: Any = memory.get_obj()
    return np.frombuffer(buffer, dtype=np.int32).reshape(num_envs, -1)


@create_shared_memory.register(UnicodeText)
def _create(space: UnicodeText, n: int, ctx: ModuleType) -> "SynchronizedArray[Any]":
    if space.max_length == sys.maxsize:
        raise OptionError(
            "Expect a `max_length` for text in shared memory, got none. "
            "Set one, or create the vector environment with shared_memory=False."
        )
    memory: SynchronizedArray[Any] = ctx.Array("i", n * (1 + space.max_length))
    return memory


@read_from_shared_memory.register(UnicodeText)
def _read(space: UnicodeText, shared_memory: "SynchronizedArray[Any]", n: int) -> _SharedTexts:
    return _SharedTexts(shared_memory, n)


@write_to_shared_memory.register(UnicodeText)
def _write(space: UnicodeText, index: int, values: str, shared_memory: "SynchronizedArray[Any]") -> None:
    size = 1 + space.max_length
    buffer: Any = shared_memory.get_obj()
    row = np.frombuffer(buffer, dtype=np.int32)[index * size : (index + 1) * size]
    codes = np.frombuffer(values.encode(_UTF_32, "surrogatepass"), dtype=np.int32)
    row[0] = len(codes)
    row[1 : 1 + len(codes)] = codes
