r"""Parse a policy's text: find the code block to execute, or the boxed answer.

Every function is pure and total (no input raises) and takes time linear in the length of the text.

**Fences** follow the rules of CommonMark (https://spec.commonmark.org/0.31.2/#fenced-code-blocks):

- A fence opens with at least three backticks or tildes. The info string after backticks contains no backtick.
- It closes with a line that contains at least as many of the same character and nothing else, indented by at most three
  columns more than the opening line. Backticks within a line of code close nothing.
- Its content is opaque: a python fence that is quoted inside another block does not count.
- A fence that is never closed extends to the end of the text.
- The indentation of the opening line, including list markers, is removed from the code.

They are more permissive than CommonMark where models deviate from it:

- The opening line may be indented by any width, and the closing line by less than the opening line.
- Code that is indented less than its fence loses only the indentation of its first line.
- Text may precede the opening fence on its line if a language follows the fence (``Here: ```python``) and the
  backticks do not end an inline code span of that line.

Block quotes (``> ```python``) are not parsed. Lines end at ``\n``; a ``\r`` before it counts as whitespace.

**Python blocks** are closed fences with a non-blank body whose info string starts with the word ``python``,
``python3`` or ``py``, in any case.

**The answer** is the content of the last box outside code:

- A box is ``\boxed`` or ``\fbox`` with balanced braces that are not empty. Without braces (``\boxed 42``), its content
  is what follows on the line up to whitespace, ``$`` or the punctuation at its end, if this is a number, a formula or a
  single letter. TeX would take one token, ``4``; models mean the number. A word does not count ("in \boxed as asked").
- Code is a closed fence with a language (also ``output``), unless the language is one of text: ``text``, ``txt``,
  ``plain``, ``plaintext``, ``none``, ``markdown``, ``md``, ``latex``, ``tex``, ``katex``, ``mathjax``, ``math``. So a
  fence that is never closed hides no box, and neither does one without a language, such as a stray closing fence.
"""

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_PYTHON_WORDS = frozenset({"python", "python3", "py"})
_TEXT_WORDS = frozenset(
    {"text", "txt", "plain", "plaintext", "none", "markdown", "md", "latex", "tex", "katex", "mathjax", "math"}
)
_BLANKS = " \t\r\n"
_TAB_WIDTH = 4
# Possessive quantifiers keep every pattern linear.
_LEAD = re.compile(r"[ \t]*+(?:(?:[-+*]|[0-9]{1,9}[.)])[ \t]++)*+")
_FENCE_AT = re.compile(r"`{3,}+|~{3,}+")
_CLOSING = re.compile(r"([ \t]*+)(`{3,}+|~{3,}+)[ \t\r]*+")
_LANGUAGE = re.compile(r"[A-Za-z][\w+#.-]*+[ \t\r]*+")
_BOX_TOKEN = re.compile(
    r"\\\\(?!boxed|fbox)|\\[{}]|[{}]|(?P<box>\\(?:boxed|fbox)(?:\s*+(?P<brace>\{)|(?![A-Za-z])[ \t]*+))"
)
_BLANK = re.compile(r"\s*+")
_BARE_START = re.compile(r"[(\[|]?[-+−]?(?:[0-9√π∞]|\.[0-9]|\\(?!boxed|fbox)[A-Za-z]|[A-Za-z](?![A-Za-z]))")
_BARE_PART = re.compile(r"\\(?!boxed|fbox|[()\[\]\\]).|[{(\[]|[])}]|[ \t]++|[^\\{}()\[\]$\s<]++|<(?!/)")
_BARE_PUNCTUATION = ".,;:!?*_`'\""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A complete python block and its position in the text.

    ``text[start:close]`` is the block with its fences; ``text[:end]`` is the part that the environment keeps.
    """

    code: str
    """The body, without its last newline and without the indentation of a list."""
    start: int
    """Index of the first character of the opening fence."""
    close: int
    """Index after the newline of the closing fence's line, or the end of the text."""
    end: int
    """`close`, advanced past the whitespace that follows."""


class ParsedKind(enum.StrEnum):
    """What a text contains."""

    CODE = "code"
    """A complete python block."""
    ANSWER = "answer"
    """A boxed answer and no complete python block."""
    VOID = "void"
    """Neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The result of `parse`."""

    kind: ParsedKind
    """What the text contains."""
    code: str | None
    """The code to run; None unless the kind is CODE."""
    answer: str | None
    """The content of the last box; None unless the kind is ANSWER."""
    kept_chars: int
    """How many characters of the text are kept: up to the end of the block, or all."""


@dataclass(frozen=True, slots=True)
class _Fence:
    """An opening fence."""

    char: str
    """A backtick or a tilde."""
    length: int
    """Number of those characters."""
    indent: int
    """Columns of whitespace and list markers at the start of the line."""
    python: bool
    """Whether the block is python."""
    code: bool
    """Whether its language is one of code, python or other."""
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
    """Index after the closing line; the end of the text if the block is not closed."""
    closed: bool


def find_block(text: str, start: int = 0) -> Block | None:
    r"""Find the first complete, non-blank python block at or after `start`.

    Args:
        text: Any text.
        start: Where to begin; the text before it is ignored.

    Returns:
        The block, with indices from the beginning of `text`, or None.

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
            code = _dedent(body.removesuffix("\n"), span.fence.indent)
            return Block(code=code, start=span.start, close=span.close, end=_skip_blanks(text, span.close))
    return None


def count_blocks(text: str) -> int:
    r"""Count the complete, non-blank python blocks.

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


def output_end(text: str, start: int) -> int | None:
    r"""Return the index after the output block that begins at `start`; None if none does, or it is never closed.

    Example:
        >>> output_end("```output\n42\n```\nSo", 0), output_end("```output\n42", 0), output_end("So", 0)
        (17, None, None)
    """
    span = next(_spans(text, start), None)
    if span is None or not span.closed or text[start : span.body_start].strip("`~ \t\r\n") != "output":
        return None
    return span.close


def has_open_block(text: str) -> bool:
    r"""Whether a python block is begun and never closed.

    Example:
        >>> has_open_block("```python\nprint(1)"), has_open_block("```python\nprint(1)\n```")
        (True, False)
    """
    return any(span.fence.python and not span.closed for span in _spans(text))


class BlockScanner:
    r"""Finds the end of the first python block in streamed text.

    The result equals ``find_block(text).close``, however the text is cut into pieces. Memory is linear in the length
    of the longest line, time in the length of the text.

    Example:
        >>> scanner = BlockScanner()
        >>> [scanner.feed(piece) for piece in ["```py\nprint(1)", "\n``", "`", "\n\nSo"]]
        [None, None, None, 19]
    """

    def __init__(self) -> None:
        self._line: list[str] = []  # pieces of the unfinished line
        self._read = 0  # characters fed so far
        self._fence: _Fence | None = None  # the open fence
        self._has_body = False
        self._close: int | None = None

    def feed(self, piece: str) -> int | None:
        """Process the next piece of the text.

        Args:
            piece: Any text; may be empty.

        Returns:
            The offset in the whole text after the newline of the first block's closing line, once that newline was fed,
            and in every later call; None before.
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
        """Return where the first block closed if the text ends here, which also ends the line of a closing fence."""
        if self._close is None and self._closes_python("".join(self._line)):
            return self._read
        return self._close

    def _end_of_line(self, line: str) -> bool:
        """Process one line; True if it closes a non-blank python block."""
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
    r"""Return the content of the last box, or None.

    Whitespace may precede the brace; ``\{`` and ``\}`` are text. Of nested boxes, the innermost is the last.

    Args:
        text: Any text.

    Example:
        >>> last_boxed(r"\boxed{3}, or rather \boxed{\frac{1}{2}}, not \boxed{5")
        '\\frac{1}{2}'
        >>> last_boxed(r"It is $\boxed 42$."), last_boxed(r"\fbox{7} is my answer, in \boxed{} as asked.")
        ('42', '7')
    """
    open_braces: list[int] = []  # start of the content of each open box; -1 for a plain brace
    begin = end = 0
    for token in _BOX_TOKEN.finditer(text):
        if token["brace"]:
            open_braces.append(token.end())
        elif token["box"]:
            if content := _bare_content(text, token.end()):
                begin, end = token.end(), token.end() + len(content)
        elif token.group() == "{":
            open_braces.append(-1)
        elif token.group() == "}" and open_braces:
            start = open_braces.pop()
            if start > begin and not _BLANK.fullmatch(text, start, token.start()):
                begin, end = start, token.start()
    return text[begin:end] or None


def _bare_content(text: str, start: int) -> str:
    """Return the content of a box without braces, which begins at `start`; '' if there is none."""
    if not _BARE_START.match(text, start):
        return ""
    end, depth = start, 0
    while (part := _BARE_PART.match(text, end)) is not None:
        if part.group() in ("{", "(", "["):
            depth += 1
        elif depth == 0 and (part.group() in ("}", ")", "]") or part.group().isspace()):
            break
        elif part.group() in ("}", ")", "]"):
            depth -= 1
        end = part.end()
    return "" if depth else text[start:end].rstrip(_BARE_PUNCTUATION)


def final_answer(segments: Sequence[str]) -> str | None:
    r"""Return the answer of a policy: its last box outside code.

    Args:
        segments: The policy's own text, turn by turn, without feedback. A box spans neither two segments nor a block of
            code.

    Returns:
        The content of the box, or None.

    Example:
        >>> final_answer([r"I guess \boxed{4}.", "```python\nprint(r'\\boxed{5}')\n```\n", "Yes."])
        '4'
    """
    for segment in reversed(segments):
        for piece in reversed(list(_outside_code(segment))):
            answer = last_boxed(piece)
            if answer is not None:
                return answer
    return None


def why_no_answer(segments: Sequence[str]) -> str:
    r"""Return why `final_answer` finds no answer, in a few words.

    Args:
        segments: As for `final_answer`.

    Example:
        >>> why_no_answer(["It is 5."]), why_no_answer(["```python\nprint(r'\\boxed{5}')\n```\n"])
        ('no \\boxed answer', 'no \\boxed answer outside code blocks')
    """
    in_code = any(last_boxed(segment) is not None for segment in segments)
    return r"no \boxed answer" + (" outside code blocks" if in_code else "")


def parse(text: str) -> Parsed:
    r"""Parse a policy's text: the code to run if there is any, else the answer if there is one.

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


def _spans(text: str, start: int = 0, end: int | None = None, *, code_only: bool = False) -> Iterator[_Span]:
    """Yield the fenced blocks in order, of all languages or of code only; only the last may be unclosed."""
    stop = len(text) if end is None else end
    fence: _Fence | None = None
    fence_start = body_start = 0
    begin = start
    while begin < stop:
        newline = text.find("\n", begin, stop)
        line_end, after = (stop, stop) if newline < 0 else (newline, newline + 1)
        line = text[begin:line_end]
        if fence is None:
            fence = _opening(line)
            if fence is not None and code_only and not fence.code:
                fence = None
            if fence is not None:
                fence_start, body_start = begin + fence.offset, after
        elif _closes(line, fence):
            yield _Span(fence, fence_start, body_start, begin, after, True)
            fence = None
        begin = after
    if fence is not None:
        yield _Span(fence, fence_start, body_start, stop, stop, False)


def _outside_code(text: str) -> Iterator[str]:
    """Yield the pieces of the text outside code."""
    begin = 0
    for span in _code_spans(text):
        yield text[begin : span.start]
        begin = span.close
    yield text[begin:]


def _code_spans(text: str) -> Iterator[_Span]:
    """Yield the closed fences of code, also those within a fence of text or one that is never closed."""
    for span in _spans(text):
        if span.closed and span.fence.code:
            yield span
        else:
            yield from (inner for inner in _spans(text, span.body_start, span.close, code_only=True) if inner.closed)


def _opening(line: str) -> _Fence | None:
    """Return the fence that a line outside all blocks opens, or None. The line has no newline."""
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
        code=bool(words) and _is_code(words[0]),
        offset=lead_end,
    )


def _is_code(word: str) -> bool:
    """Whether the first word of an info string names a language of code, as ``c`` and ``{.python}`` do."""
    language = word.strip("{}.").lower()
    return language[:1].isalpha() and language not in _TEXT_WORDS


def _opening_behind_text(line: str, lead_end: int) -> _Fence | None:
    """Return the fence that follows other text on its line, or None."""
    for char in "`~":
        after = line.rfind(char) + 1
        before = line[:after].rstrip(char)
        length = after - len(before)
        words = line[after:].split(maxsplit=1)
        if length < 3 or not words:
            continue
        python = words[0].lower() in _PYTHON_WORDS
        # Prose mentions "the ``` fence": other languages must be exactly one word directly after the fence.
        if not python and not _LANGUAGE.fullmatch(line, after):
            continue
        equal_runs = sum(len(run.group()) == length for run in re.finditer(f"{char}++", before))
        if equal_runs % 2 == 0:  # else these backticks end an inline code span
            code = python or _is_code(words[0])
            return _Fence(char, length, _columns(line[:lead_end]), python, code, len(before))
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


def _dedent(body: str, indent: int) -> str:
    """Remove up to `indent` columns of indentation from each line, but no more than the first line of code has."""
    if indent == 0:
        return body
    lines = body.split("\n")
    first = next((line for line in lines if line.strip()), "")
    width = min(indent, _columns(first[: len(first) - len(first.lstrip(" \t"))]))
    return "\n".join(_remove_columns(line, width) for line in lines)


def _remove_columns(line: str, width: int) -> str:
    """Remove up to `width` columns of indentation from a line; a tab that is cut leaves spaces."""
    column = index = 0
    while column < width and index < len(line) and line[index] in " \t":
        column += 1 if line[index] == " " else _TAB_WIDTH - column % _TAB_WIDTH
        index += 1
    return " " * (column - width) + line[index:]


def _columns(lead: str) -> int:
    """Return the width of a line's start in columns; tabs advance to multiples of four."""
    return len(lead.expandtabs(_TAB_WIDTH))


def _skip_blanks(text: str, index: int) -> int:
    """Return the index of the first character at or after `index` that is not whitespace."""
    while index < len(text) and text[index] in _BLANKS:
        index += 1
    return index
