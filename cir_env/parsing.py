r"""What a policy's text asks for: run this code, take this answer, or neither.

Everything here is pure and total (no input raises) and takes time linear in the length of the text.

**Fences** follow CommonMark's rules for fenced code blocks:

- a fence opens with at least three backticks or tildes; behind backticks the info string holds no backtick;
- it closes with a line of at least as many of the same character, indented by at most three columns more than
  the opening line, and nothing else but blanks: backticks inside a line of code close nothing;
- what is between is skipped whole, so a python fence that is quoted inside another block does not count;
- a fence that is never closed runs to the end of the text;
- the indentation of the opening line, list markers included, is removed from the code.

They are wider than CommonMark where models write otherwise:

- the opening line may be indented by any width, and the closing line by less than the opening one;
- code that is indented less than its fence loses only the indentation of its first line;
- text may stand before the opening fence on its line, if a language follows the fence (``Here: ```python``)
  and the backticks do not end an inline code span of that line.

Block quotes (``> ```python``) are not taken apart. Lines end at ``\n``; a ``\r`` before it counts as a blank.

**Python blocks** are the fences whose info string's first word is ``python``, ``python3`` or ``py`` in any
case, that are closed, and whose body is not blank. **Answers** are the contents of ``\boxed{}`` outside every
fence.
"""

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_PYTHON_WORDS = frozenset({"python", "python3", "py"})
_BLANKS = " \t\r\n"
_TAB_WIDTH = 4
# Possessive quantifiers keep every pattern linear.
_LEAD = re.compile(r"[ \t]*+(?:(?:[-+*]|[0-9]{1,9}[.)])[ \t]++)*+")
_FENCE_AT = re.compile(r"`{3,}+|~{3,}+")
_CLOSING = re.compile(r"([ \t]*+)(`{3,}+|~{3,}+)[ \t\r]*+")
_LANGUAGE = re.compile(r"[A-Za-z][\w+#.-]*+[ \t\r]*+")
_BOX_TOKEN = re.compile(r"\\\\(?!boxed)|\\boxed\s*+\{|\\[{}]|[{}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A complete python block, by its place in the text.

    ``text[start:close]`` is the block with its fences; ``text[:end]`` is what an environment keeps.
    """

    code: str
    """The body, without its last newline and without the indentation of a list."""
    start: int
    """Index of the opening fence's first character."""
    close: int
    """Index just behind the newline of the closing fence's line, or the end of the text."""
    end: int
    """`close`, moved on over the blanks and newlines that follow."""


class ParsedKind(enum.StrEnum):
    """What a text asks for."""

    CODE = "code"
    """It holds a complete python block: run it."""
    ANSWER = "answer"
    """It holds no such block, but a boxed answer."""
    VOID = "void"
    """It holds neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A text, taken apart."""

    kind: ParsedKind
    """Which of the other fields to look at."""
    code: str | None
    """The code to run; None unless the kind is CODE."""
    answer: str | None
    """The content of the last box; None unless the kind is ANSWER."""
    kept_chars: int
    """How many characters of the text stay: up to the end of the block, or all."""


@dataclass(frozen=True, slots=True)
class _Fence:
    """An opening fence."""

    char: str
    """A backtick or a tilde."""
    length: int
    """How many of them."""
    indent: int
    """Columns of blanks and list markers at the start of the line."""
    python: bool
    """Whether the block is python."""
    offset: int
    """Index of the fence within its line."""


@dataclass(frozen=True, slots=True)
class _Span:
    """A fenced block of any language within a text."""

    fence: _Fence
    start: int
    """Index of the opening fence."""
    body_start: int
    body_end: int
    close: int
    """Index just behind the closing line; the end of the text if nothing closes the block."""
    closed: bool


def find_block(text: str, start: int = 0) -> Block | None:
    r"""Find the first complete python block with a body at or after `start`.

    Args:
        text: Any text.
        start: Where to begin; the text before it is as if it were not there.

    Returns:
        The block, its indices counted from the beginning of `text`, or None.

    Example:
        >>> block = find_block("So: ```python\nprint(6 * 7)\n```\nThis prints 42.")
        >>> block.code, block.start, block.close
        ('print(6 * 7)', 4, 31)
    """
    for span in _spans(text, start):
        if not (span.closed and span.fence.python):
            continue
        body = text[span.body_start : span.body_end]
        if body.strip():
            code = _without_indent(body.removesuffix("\n"), span.fence.indent)
            return Block(code=code, start=span.start, close=span.close, end=_skip_blanks(text, span.close))
    return None


def count_blocks(text: str) -> int:
    r"""Count the complete python blocks with a body.

    Example:
        >>> count_blocks("```python\n1\n```\n```python\n```\n~~~py\n2\n~~~")
        2
    """
    count = 0
    block = find_block(text)
    while block is not None:
        count += 1
        block = find_block(text, block.close)
    return count


class BlockScanner:
    r"""Finds the end of the first python block in a text that comes in pieces.

    However the text is cut, the answer is that of ``find_block(text).close``. Memory is linear in the longest
    line, time in the length of the text.

    Example:
        >>> scanner = BlockScanner()
        >>> [scanner.feed(piece) for piece in ["```py\nprint(1)", "\n``", "`", "\n\nSo"]]
        [None, None, None, 19]
    """

    def __init__(self) -> None:
        self._line: list[str] = []  # the pieces of the line that has no newline yet
        self._read = 0  # characters of all that was fed
        self._fence: _Fence | None = None  # the fence that is open
        self._has_body = False
        self._close: int | None = None

    def feed(self, piece: str) -> int | None:
        """Take the next piece of the text.

        Args:
            piece: Any text, also an empty one.

        Returns:
            The offset in all that was fed at which the first block closed, behind the newline of its closing
            line, as soon as that newline has come, and at every later call; None before.
        """
        begin = 0
        while self._close is None and (newline := piece.find("\n", begin)) >= 0:
            self._line.append(piece[begin:newline])
            line = "".join(self._line)
            self._line.clear()
            begin = newline + 1
            if self._end_of_line(line):
                self._close = self._read + begin
        if self._close is None:
            self._line.append(piece[begin:])
        self._read += len(piece)
        return self._close

    def finish(self) -> int | None:
        """Say where the first block closed if the text ends here, which also ends a closing fence's line."""
        if self._close is None and self._closes_python("".join(self._line)):
            return self._read
        return self._close

    def _end_of_line(self, line: str) -> bool:
        """Go over one line; True if it closes a python block with a body."""
        if self._fence is None:
            self._fence = _opening(line)
            self._has_body = False
        elif self._closes_python(line):
            return True
        elif _closes(line, self._fence):
            self._fence = None
        elif line.strip():
            self._has_body = True
        return False

    def _closes_python(self, line: str) -> bool:
        fence = self._fence
        return fence is not None and fence.python and self._has_body and _closes(line, fence)


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last balanced ``\boxed{}``, or None.

    Blanks may stand before the brace; ``\{`` and ``\}`` are text. Of nested boxes the innermost is the last.

    Args:
        text: Any text.

    Example:
        >>> last_boxed(r"\boxed{3}, or rather \boxed{\frac{1}{2}}, not \boxed{5")
        '\\frac{1}{2}'
    """
    open_braces: list[int] = []  # where the content of each open box starts; -1 for a plain brace
    best: tuple[int, int] | None = None
    for token in _BOX_TOKEN.finditer(text):
        mark = token.group()
        if mark == "{":
            open_braces.append(-1)
        elif mark.startswith("\\boxed"):
            open_braces.append(token.end())
        elif mark == "}" and open_braces:
            content = open_braces.pop()
            if content >= 0 and (best is None or content > best[0]):
                best = content, token.start()
    return None if best is None else text[best[0] : best[1]]


def final_answer(segments: Sequence[str]) -> str | None:
    r"""Return the answer of a policy: its last balanced box outside of every fenced block.

    Args:
        segments: What the policy itself wrote, turn by turn, without what an environment inserted. A box does
            not span two segments, nor a fenced block.

    Returns:
        The content of the box, or None.

    Example:
        >>> final_answer([r"I guess \boxed{4}.", "```python\nprint(r'\\boxed{5}')\n```\n", "Yes."])
        '4'
    """
    for segment in reversed(segments):
        for piece in reversed(list(_outside_fences(segment))):
            answer = last_boxed(piece)
            if answer is not None:
                return answer
    return None


def parse(text: str) -> Parsed:
    r"""Take a policy's text apart: the code that it asks to run, else its answer, else nothing.

    Args:
        text: Any text.

    Example:
        >>> parse(r"It is \boxed{8}.")
        Parsed(kind=<ParsedKind.ANSWER: 'answer'>, code=None, answer='8', kept_chars=16)
    """
    block = find_block(text)
    if block is not None:
        return Parsed(kind=ParsedKind.CODE, code=block.code, answer=None, kept_chars=block.end)
    answer = final_answer([text])
    kind = ParsedKind.VOID if answer is None else ParsedKind.ANSWER
    return Parsed(kind=kind, code=None, answer=answer, kept_chars=len(text))


def _spans(text: str, start: int = 0) -> Iterator[_Span]:
    """Yield the fenced blocks of all languages in order; only the last may be unclosed."""
    fence: _Fence | None = None
    fence_start = body_start = 0
    begin = start
    while begin < len(text):
        newline = text.find("\n", begin)
        end, after = (len(text), len(text)) if newline < 0 else (newline, newline + 1)
        line = text[begin:end]
        if fence is None:
            fence = _opening(line)
            if fence is not None:
                fence_start, body_start = begin + fence.offset, after
        elif _closes(line, fence):
            yield _Span(fence, fence_start, body_start, begin, after, True)
            fence = None
        begin = after
    if fence is not None:
        yield _Span(fence, fence_start, body_start, len(text), len(text), False)


def _outside_fences(text: str) -> Iterator[str]:
    """Yield the stretches of the text that are in no fenced block, closed or not."""
    begin = 0
    for span in _spans(text):
        yield text[begin : span.start]
        begin = span.close
    yield text[begin:]


def _opening(line: str) -> _Fence | None:
    """Return the fence that a line outside of every block opens, or None. The line has no newline."""
    lead = _LEAD.match(line)
    lead_end = lead.end() if lead else 0
    run = _FENCE_AT.match(line, lead_end)
    if run is None or (line[lead_end] == "`" and "`" in line[run.end() :]):
        return _opening_behind_text(line, lead_end)
    words = line[run.end() :].split(maxsplit=1)
    return _Fence(
        char=line[lead_end],
        length=run.end() - lead_end,
        indent=_columns(line[:lead_end]),
        python=bool(words) and words[0].lower() in _PYTHON_WORDS,
        offset=lead_end,
    )


def _opening_behind_text(line: str, lead_end: int) -> _Fence | None:
    """Return the fence that stands behind other text on its line, or None."""
    for char in "`~":
        after = line.rfind(char) + 1
        before = line[:after].rstrip(char)
        length = after - len(before)
        words = line[after:].split(maxsplit=1)
        if length < 3 or not words:
            continue
        python = words[0].lower() in _PYTHON_WORDS
        # Prose says "the ``` fence": for other languages exactly one word, directly behind the fence, counts.
        if not python and not _LANGUAGE.fullmatch(line, after):
            continue
        equal_runs = sum(len(run.group()) == length for run in re.finditer(f"{char}++", before))
        if equal_runs % 2 == 0:  # else these backticks end an inline code span
            return _Fence(char, length, _columns(line[:lead_end]), python, len(before))
    return None


def _closes(line: str, fence: _Fence) -> bool:
    """Whether a line inside a block, without its newline, closes it."""
    match = _CLOSING.fullmatch(line)
    return (
        match is not None
        and match[2][0] == fence.char
        and len(match[2]) >= fence.length
        and _columns(match[1]) <= fence.indent + 3
    )


def _without_indent(body: str, indent: int) -> str:
    """Remove up to `indent` columns of blanks from each line, but no more than the first line of code has."""
    if indent == 0:
        return body
    lines = body.split("\n")
    first = next((line for line in lines if line.strip()), "")
    width = min(indent, _columns(first[: len(first) - len(first.lstrip(" \t"))]))
    return "\n".join(_without_columns(line, width) for line in lines)


def _without_columns(line: str, width: int) -> str:
    """Remove blanks from the start of a line, up to `width` columns; a tab that is cut leaves spaces."""
    column = index = 0
    while column < width and index < len(line) and line[index] in " \t":
        column += 1 if line[index] == " " else _TAB_WIDTH - column % _TAB_WIDTH
        index += 1
    return " " * (column - width) + line[index:]


def _columns(lead: str) -> int:
    """How many columns a line's start takes, tabs going to multiples of four."""
    return len(lead.expandtabs(_TAB_WIDTH))


def _skip_blanks(text: str, index: int) -> int:
    """Return the index of the first character at or after `index` that is neither blank nor newline."""
    while index < len(text) and text[index] in _BLANKS:
        index += 1
    return index
