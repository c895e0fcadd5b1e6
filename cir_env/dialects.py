r"""The ways in which a policy may write the code to run: the paper's fences, or tool calls.

``fence`` is `cir_env.parsing`. The others are calls of the tool `PYTHON_TOOL`, as JSON:

- ``hermes``, of Qwen 2.5, Qwen 3 and Hermes: ``<tool_call>``, an object such as
  ``{"name": "python", "arguments": {"code": "print(6 * 7)"}}``, and ``</tool_call>``, anywhere in the text. The closing
  tag within a JSON string closes nothing, except at the start of a line, where no JSON string has text. A call that is
  never closed is none.
- ``llama3``, of Llama 3.1 and later: such an object with ``parameters`` in place of ``arguments``, at the beginning of
  the message or behind ``<|python_tag|>``. Without the tag, a string must follow its brace. It ends with the object, or
  with the message if the object never ends or something else follows the tag.

A call is read as JSON in which strings may contain line breaks and tabs; keys besides these two are ignored. Anything
else than one string of Python is a call, too, with an error in place of code. As in `cir_env.parsing`, no input raises,
and all takes time linear in the length of the text. Boxes within calls and within code are no answers.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

from cir_env.parsing import Block, BlockScanner, count_blocks, final_answer, find_block, last_boxed, why_no_answer

DialectName = Literal["fence", "hermes", "llama3"]

PYTHON_TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "python",
        "description": "Run a Python program and return what it printed.",
        "parameters": {
            "type": "object",
            "properties": {
                "code": {"type": "string", "description": "The program. Only what it prints is returned."},
            },
            "required": ["code"],
        },
    },
}
"""The tool's JSON schema, as chat templates and chat servers take it."""

NO_CODE: Final = "This was not run: expect `code` to be a string that holds Python, got {}."
"""The response to a call whose code is not code."""
_OTHER_CALL: Final = "This was not run: expect a call such as {}, got {}."
_MAX_QUOTED: Final = 60


class Scanner(Protocol):
    """Finds the end of the first block or call in streamed text."""

    def feed(self, piece: str) -> int | None:
        """Process the next piece; return where the block ends once that is known, and None before."""
        ...

    def finish(self) -> int | None:
        """Return where the block ends if the text ends here."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Block):
    """A tool call and its position in the text, as `Block`; its code is empty if there is an error."""

    error: str = ""
    """Why there is nothing to run, in a line for the policy; '' if there is code."""


class Fence:
    """Code in fenced blocks, as in the paper."""

    name: Final = "fence"

    def __reduce__(self) -> tuple[Any, ...]:
        return find_dialect, (self.name,)

    def scanner(self) -> Scanner:
        """Return a scanner that finds the end of the first block."""
        return BlockScanner()

    def find(self, text: str) -> Block | None:
        """Return the first block that can be run."""
        return find_block(text)

    def count(self, text: str) -> int:
        """Return the number of blocks that can be run."""
        return count_blocks(text)

    def calls(self, text: str) -> tuple[Call, ...]:
        """Return the tool calls: none."""
        return ()

    def tools(self) -> tuple[dict[str, Any], ...]:
        """Return the schemas of the tools that a chat template must present: none."""
        return ()

    def write(self, code: str) -> str:
        r"""Return a block with exactly this code; its fence is longer than any run of backticks in the code.

        >>> FENCE.write("print('''\n```\n''')").splitlines()[0]
        '````python'
        """
        longest = max(map(len, re.findall("`+", code)), default=0)
        fence = "`" * max(3, longest + 1)
        return f"{fence}python\n{code}\n{fence}\n"

    def final_answer(self, segments: Sequence[str]) -> str | None:
        """Return the last box outside code."""
        return final_answer(segments)

    def why_no_answer(self, segments: Sequence[str]) -> str:
        """Return why there is none, in a few words."""
        return why_no_answer(segments) + _not_run(self, segments)


class _CallScanner:
    """Finds tool calls in streamed text; the result does not depend on how the text is cut.

    A state is a method that reads the text from an index and returns the index up to which it has read it, the same if
    it needs to see more; what is held back meanwhile is shorter than a tag.
    """

    def __init__(self, *, first_only: bool = True) -> None:
        self.spans: list[tuple[int, int]] = []
        self._first_only = first_only
        self._held = ""  # text that no state has read
        self._read = 0  # characters before it
        self._start = 0
        self._in_string = False
        self._state: Callable[[str, int], int] = self._outside

    def feed(self, piece: str) -> int | None:
        """Process the next piece of the text; return where the first call ends once that is known."""
        if self._done:
            return self.spans[0][1]
        text, at = self._held + piece, 0
        while at < len(text) and not self._done:
            state = self._state
            after = state(text, at)
            if after == at and state == self._state:
                break
            at = after
        self._held = text[at:]
        self._read += at
        return self.spans[0][1] if self.spans else None

    def finish(self) -> int | None:
        """Return where the first call ends if the text ends here."""
        if not self._done and self._ends_with_text:
            self.spans.append((self._start, self._read + len(self._held)))
            self._state, self._held = self._outside, ""
        return self.spans[0][1] if self.spans else None

    @property
    def _done(self) -> bool:
        return self._first_only and bool(self.spans)

    @property
    def _ends_with_text(self) -> bool:
        return False

    def _outside(self, text: str, at: int) -> int:
        raise NotImplementedError

    def _close(self, after: int) -> int:
        self.spans.append((self._start, self._read + after))
        self._state = self._outside
        return after


def _seek(tag: str, text: str, at: int) -> tuple[bool, int]:
    """Return whether a tag follows, and where it begins or where it may begin."""
    found = text.find(tag, at)
    if found >= 0:
        return True, found
    begin = text.find("<", max(at, len(text) - len(tag) + 1))
    while begin >= 0 and not tag.startswith(text[begin:]):
        begin = text.find("<", begin + 1)
    return False, begin if begin >= 0 else len(text)


class _HermesScanner(_CallScanner):
    _OPEN, _CLOSE = "<tool_call>", "</tool_call>"
    _TOKEN = re.compile(r'</tool_call>|\\.|"|\n|[^\S\n]++|[^\s"\\<]++|.', re.S)

    def _outside(self, text: str, at: int) -> int:
        is_open, begin = _seek(self._OPEN, text, at)
        if not is_open:
            return begin
        self._start, self._in_string, self._is_blank = self._read + begin, False, False
        self._state = self._inside
        return begin + len(self._OPEN)

    def _inside(self, text: str, at: int) -> int:
        for token in self._TOKEN.finditer(text, at):
            part = token.group()
            if part in ("<", "\\") and (part + self._CLOSE[1:]).startswith(text[token.start() :]):
                return token.start()
            if part == self._CLOSE and (self._is_blank or not self._in_string):
                return self._close(token.end())
            if part == '"':
                self._in_string = not self._in_string
            self._is_blank = part == "\n" or (self._is_blank and part.isspace())
        return len(text)


class _Llama3Scanner(_CallScanner):
    _TAG = "<|python_tag|>"
    _SEPARATORS = re.compile(r"[\s;,]*+")
    _BLANKS = re.compile(r"\s*+")
    _TOKEN = re.compile(r'\\.|["{}]|[^"\\{}]++|\\', re.S)

    @property
    def _ends_with_text(self) -> bool:
        return self._state in (self._tagged, self._inside, self._to_the_end)

    def _outside(self, text: str, at: int) -> int:
        """Read what separates a call from the beginning of the message or from another call."""
        at = _end(self._SEPARATORS, text, at)
        if text[at : at + 1] == "{":
            self._start, self._depth, self._in_string = self._read + at, 0, False
            self._state = self._brace
            return at + 1
        self._state = self._outside if at == len(text) else self._prose
        return at

    def _brace(self, text: str, at: int) -> int:
        at = _end(self._BLANKS, text, at)
        if at < len(text):
            is_call = text[at] == '"'
            self._state, self._depth = (self._inside if is_call else self._prose), 1
        return at

    def _prose(self, text: str, at: int) -> int:
        is_tag, begin = _seek(self._TAG, text, at)
        if not is_tag:
            return begin
        self._start, self._depth, self._in_string = self._read + begin, 0, False
        self._state = self._tagged
        return begin + len(self._TAG)

    def _tagged(self, text: str, at: int) -> int:
        at = _end(self._BLANKS, text, at)
        if at < len(text):
            self._state = self._inside if text[at] == "{" else self._to_the_end
        return at

    def _inside(self, text: str, at: int) -> int:
        for token in self._TOKEN.finditer(text, at):
            part = token.group()
            if part == "\\":
                return token.start()
            if part == '"':
                self._in_string = not self._in_string
            elif not self._in_string and part in ("{", "}"):
                self._depth += 1 if part == "{" else -1
                if self._depth == 0:
                    return self._close(token.end())
        return len(text)

    def _to_the_end(self, text: str, at: int) -> int:
        return len(text)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


class ToolCalls:
    """Code in calls of `PYTHON_TOOL`.

    Args:
        name: The dialect's name.
        scanner: Finds its calls.
        key: What it calls a call's arguments.
        tags: What stands around the object.
        optional: Whether the tags may be missing.
    """

    def __init__(
        self, name: DialectName, scanner: type[_CallScanner], *, key: str, tags: tuple[str, str], optional: bool
    ) -> None:
        self.name, self._key, self._optional = name, key, optional
        self._scanner, (self._open, self._close) = scanner, tags

    def __reduce__(self) -> tuple[Any, ...]:
        return find_dialect, (self.name,)

    def scanner(self) -> Scanner:
        """Return a scanner that finds the end of the first call."""
        return self._scanner()

    def find(self, text: str) -> Call | None:
        r"""Return the first call.

        >>> call = HERMES.find('So <tool_call>{"name": "python", "arguments": {"code": "print(6)"}}</tool_call>\n\n6')
        >>> call.code, call.start, call.close, call.end
        ('print(6)', 3, 79, 81)
        """
        return next(iter(self._calls(text, first_only=True)), None)

    def count(self, text: str) -> int:
        """Return the number of calls."""
        return len(self.calls(text))

    def calls(self, text: str) -> tuple[Call, ...]:
        """Return all calls."""
        return tuple(self._calls(text, first_only=False))

    def tools(self) -> tuple[dict[str, Any], ...]:
        """Return the schemas of the tools that a chat template must present."""
        return (deepcopy(PYTHON_TOOL),)

    def write(self, code: str) -> str:
        """Return a call with exactly this code.

        >>> LLAMA3.write("print(6 * 7)")
        '{"name": "python", "parameters": {"code": "print(6 * 7)"}}'
        """
        call = json.dumps({"name": PYTHON_TOOL["function"]["name"], self._key: {"code": code}}, ensure_ascii=False)
        return call if self._optional else f"{self._open}\n{call}\n{self._close}"

    def final_answer(self, segments: Sequence[str]) -> str | None:
        """Return the last box outside calls and outside code."""
        return final_answer([piece for segment in segments for piece in self._outside(segment)])

    def why_no_answer(self, segments: Sequence[str]) -> str:
        """Return why there is none, in a few words."""
        in_call = any(last_boxed(segment) is not None for segment in segments)
        last = segments[-1] if segments else ""
        is_open = self._close and last.rfind(self._open) >= max((call.close for call in self.calls(last)), default=0)
        return (
            r"no \boxed answer"
            + (" outside tool calls and code" if in_call else "")
            + ("; a tool call is never closed" if is_open else "")
            + _not_run(self, segments)
        )

    def _calls(self, text: str, *, first_only: bool) -> Iterator[Call]:
        scanner = self._scanner(first_only=first_only)
        scanner.feed(text)
        scanner.finish()
        for start, close in scanner.spans:
            code, error = self._read(text[start:close].removeprefix(self._open).removesuffix(self._close))
            end = close + len(text[close:]) - len(text[close:].lstrip(" \t\r\n")) if first_only else close
            yield Call(code=code, error=error, start=start, close=close, end=end)

    def _outside(self, text: str) -> Iterator[str]:
        begin = 0
        for call in self.calls(text):
            yield text[begin : call.start]
            begin = call.close
        yield text[begin:]

    def _read(self, body: str) -> tuple[str, str]:
        """Return the code of a call and '', or '' and why there is none."""
        try:
            call = json.loads(body, strict=False)
        except json.JSONDecodeError as error:
            return "", self._error(f"malformed JSON: {error.msg} at character {error.pos}")
        except (ValueError, RecursionError):
            return "", self._error("JSON that is too large")
        fault = self._fault(call)
        return ("", self._error(fault)) if fault else check_code(call[self._key]["code"])

    def _fault(self, call: Any) -> str:
        """Return what a call has in place of the tool and its argument; '' if it has them."""
        if not isinstance(call, dict):
            return _type_name(call)
        if call.get("name") != PYTHON_TOOL["function"]["name"]:
            return f"the tool {_quoted(call['name'])}" if "name" in call else "no `name`"
        arguments = call.get(self._key)
        if not isinstance(arguments, dict):
            return f"{_type_name(arguments)} as `{self._key}`" if self._key in call else f"no `{self._key}`"
        return "" if arguments.keys() == {"code"} else f"the {self._key} {_quoted(', '.join(arguments))}"

    def _error(self, got: str) -> str:
        return _OTHER_CALL.format(json.dumps({"name": "python", self._key: {"code": "print(6 * 7)"}}), got)


Dialect = Fence | ToolCalls

FENCE: Final = Fence()
HERMES: Final = ToolCalls(
    "hermes", _HermesScanner, key="arguments", tags=("<tool_call>", "</tool_call>"), optional=False
)
LLAMA3: Final = ToolCalls("llama3", _Llama3Scanner, key="parameters", tags=("<|python_tag|>", ""), optional=True)
DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType({each.name: each for each in (FENCE, HERMES, LLAMA3)})
"""Dialects by name."""


def find_dialect(name: str) -> Dialect:
    """Return the dialect with this name."""
    return DIALECTS[name]


def check_code(code: object) -> tuple[str, str]:
    """Return the code of a call and '', or '' and why it is no code.

    >>> check_code("print(1)"), check_code(7)[1]
    (('print(1)', ''), 'This was not run: expect `code` to be a string that holds Python, got int.')
    """
    if isinstance(code, str) and code.strip():
        return code, ""
    return "", NO_CODE.format(repr(code) if isinstance(code, str) else type(code).__name__)


def _not_run(dialect: Dialect, segments: Sequence[str]) -> str:
    """Return that the last segment has code in another dialect, if it has."""
    text = segments[-1] if segments else ""
    for other in _others(dialect):
        block = other.find(text)
        # Without a tag around it, an object that cannot be read is no call.
        if block is not None and not (isinstance(block, Call) and block.error and text[block.start] != "<"):
            what = "a code block" if isinstance(other, Fence) else f"a {other.name} tool call"
            return f'; {what} is not executed with dialect="{dialect.name}"'
    return ""


def _others(dialect: Dialect) -> Iterable[Dialect]:
    return (other for other in DIALECTS.values() if other is not dialect)


def _type_name(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else _type_name(value)
    return repr(text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "...")
