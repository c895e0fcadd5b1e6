"""Tool calls: where they end however the text is cut, what they hold, and what malformed ones say."""

import copy
import json
import pickle
import re
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cir_env.dialects import DIALECTS, FENCE, HERMES, LLAMA3, PYTHON_TOOL, Call, Dialect, ToolCalls

FAST = settings(max_examples=200, deadline=None, derandomize=True, database=None)
TOOLS = pytest.mark.parametrize("dialect", [HERMES, LLAMA3], ids=lambda dialect: dialect.name)
PARTS = [
    *("<tool_call>", "</tool_call>", "<|python_tag|>", "<tool", "</tool_call", "<|python", "<", "\\", '"', "{", "}"),
    *(
        "\n",
        "\n",
        " ",
        "\t",
        ";",
        '{"name": "python", ',
        '"arguments": ',
        '"parameters": ',
        '{"code": "x = 1"}',
        "print",
    ),
    *("\\boxed{7}", "```python\nx\n```\n", "[", "]", "\\n", '\\"', "é"),
]
texts = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=2)), max_size=25).map("".join)
codes = st.lists(st.one_of(st.sampled_from([*PARTS, "\\boxed{8}"]), st.text(max_size=3)), max_size=12).map("".join)
codes = codes.filter(str.strip)


def likely(dialect: Dialect) -> st.SearchStrategy[str]:
    return st.one_of(texts, st.tuples(texts, codes.map(dialect.write), texts).map("".join))


def call(**arguments: object) -> str:
    return f"<tool_call>{json.dumps(arguments)}</tool_call>"


def only(dialect: ToolCalls, text: str) -> Call:
    found = dialect.find(text)
    assert found is not None
    return found


# ------------------------------------------------------------------------------------------------------- properties


@TOOLS
@FAST
@given(data=st.data())
def test_the_scanner_finds_the_same_end_however_the_text_is_cut(dialect: ToolCalls, data: st.DataObject) -> None:
    text = data.draw(likely(dialect))
    at = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    scanner = dialect.scanner()
    for begin, end in zip([0, *at], [*at, len(text)], strict=True):
        scanner.feed(text[begin:end])
    found = dialect.find(text)
    assert scanner.finish() == (found.close if found else None)


@TOOLS
@FAST
@given(data=st.data())
@pytest.mark.slow
def test_the_scanner_answers_at_the_first_character_that_decides(dialect: ToolCalls, data: st.DataObject) -> None:
    text = data.draw(likely(dialect))
    scanner = dialect.scanner()
    answers = [scanner.feed(char) for char in text]
    found = dialect.find(text)
    if found is None or (dialect is LLAMA3 and found.close == len(text) and answers[-1:] == [None]):
        assert answers == [None] * len(text)  # there is no call, or the end of the text ends it
    else:
        assert answers == [None] * (found.close - 1) + [found.close] * (len(text) - found.close + 1)


def hermes_end(text: str) -> int | None:
    """The rule word for word, one character after the other."""
    begin = text.find("<tool_call>")
    if begin < 0:
        return None
    at, in_string = begin + len("<tool_call>"), False
    while at < len(text):
        line = text[max(text.rfind("\n", begin + len("<tool_call>"), at), 0) :][: at - max(text.rfind("\n", 0, at), 0)]
        starts_a_line = line.startswith("\n") and not line.strip() and not escaped(text, begin, at, line)
        if text.startswith("</tool_call>", at) and (starts_a_line or not in_string):
            return at + len("</tool_call>")
        if text[at] == "\\" and at + 1 < len(text):
            at += 2
            continue
        in_string ^= text[at] == '"'
        at += 1
    return None


def escaped(text: str, begin: int, at: int, line: str) -> bool:
    """Whether a backslash stands before the line break that begins this line."""
    before = text[begin + len("<tool_call>") : at - len(line)]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


@FAST
@given(likely(HERMES))
def test_a_hermes_call_ends_where_its_rule_says(text: str) -> None:
    found = HERMES.find(text)
    assert (found.close if found else None) == hermes_end(text)


@FAST
@given(codes, st.sampled_from(["", " so", "\n\n"]))
def test_a_llama3_object_ends_where_a_json_decoder_ends_it(code: str, after: str) -> None:
    text = LLAMA3.write(code)
    assert only(LLAMA3, text + after).close == json.JSONDecoder().raw_decode(text + after)[1]


@TOOLS
@FAST
@given(code=codes, after=texts)
def test_parsing_is_inverse_to_writing(dialect: ToolCalls, code: str, after: str) -> None:
    text = dialect.write(code)
    found = only(dialect, text + after)
    assert (found.code, found.error, found.start, found.close) == (code, "", 0, len(text))
    assert (text + after)[found.close : found.end].strip() == ""
    assert not (text + after)[found.end :].startswith((" ", "\t", "\r", "\n"))


@TOOLS
@FAST
@given(data=st.data())
def test_nothing_raises_and_all_calls_agree(dialect: ToolCalls, data: st.DataObject) -> None:
    text = data.draw(likely(dialect))
    calls = dialect.calls(text)
    first = dialect.find(text)
    assert len(calls) == dialect.count(text)
    assert [each.close for each in calls[:1]] == ([] if first is None else [first.close])
    assert all(bool(each.error) != bool(each.code) for each in calls)
    assert all(one.close <= other.start for one, other in pairwise(calls))
    assert (dialect.final_answer([text]) or dialect.why_no_answer([text])) != ""
    if first is not None:
        assert dialect.find(text[: first.end]) == first  # what is kept holds the same call


@TOOLS
@FAST
@given(code=codes, after=texts)
@pytest.mark.slow
def test_no_box_within_a_call_is_an_answer(dialect: ToolCalls, code: str, after: str) -> None:
    text = dialect.write(f"{code}\n\\boxed{{executed}}")
    assert dialect.final_answer([text]) is None
    assert dialect.final_answer([text + after]) != "executed"


@TOOLS
@FAST
@given(segments=st.lists(texts, max_size=3), number=st.integers(0, 10**6))
def test_an_answer_in_a_separate_last_turn_is_found(dialect: ToolCalls, segments: list[str], number: int) -> None:
    assert dialect.final_answer([*segments, f"The answer is \\boxed{{{number}}}."]) == str(number)


# ------------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('<tool_call>\n{"name": "python", "arguments": {"code": "print(1)"}}\n</tool_call>', "print(1)"),
        ('<tool_call>{"arguments":{"code":"print(1)"},"name":"python"}</tool_call>', "print(1)"),
        ('Let me see.<tool_call> {"id": 3, "name": "python", "arguments": {"code": "1"}} </tool_call>So', "1"),
        ('<tool_call>{"name": "python", "arguments": {"code": "a\n\tb"}}</tool_call>', "a\n\tb"),
        ('<tool_call>{"name": "python", "arguments": {"code": "\'</tool_call>\'"}}</tool_call>', "'</tool_call>'"),
    ],
)
def test_hermes_calls_are_read(text: str, code: str) -> None:
    assert (only(HERMES, text).code, only(HERMES, text).error) == (code, "")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"name": "python", "parameters": {"code": "print(1)"}}', "print(1)"),
        ('\n { "name": "python", "parameters": {"code": "{"}} and more', "{"),
        ('<|python_tag|>{"name": "python", "parameters": {"code": "1"}}', "1"),
        ('I compute. <|python_tag|> {"type": "function", "name": "python", "parameters": {"code": "1"}}', "1"),
    ],
)
def test_llama3_calls_are_read(text: str, code: str) -> None:
    assert (only(LLAMA3, text).code, only(LLAMA3, text).error) == (code, "")


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        'Use <tool_call> and {"name": "python"}.',
        '<tool_call>\n{"name": "python", "arguments": {"code": "1"}}',
        "</tool_call>",
        "<tool_call",
    ],
)
def test_a_hermes_call_that_is_never_closed_is_none(text: str) -> None:
    assert HERMES.find(text) is None
    assert HERMES.final_answer([text + r" \boxed{7}"]) == "7"


@pytest.mark.parametrize(
    "text", ["{1, 2}", "{", "{ }", "The set {", r"\boxed{7}", 'See {"name": "python"}', "<|python"]
)
def test_braces_in_prose_are_no_llama3_call(text: str) -> None:
    assert LLAMA3.find(text) is None


@pytest.mark.parametrize(
    "text", ['{"name": "python", "parameters": {"code": "1"}', "<|python_tag|>print(1)", "<|python_tag|>", '{"']
)
def test_the_end_of_the_message_ends_a_llama3_call(text: str) -> None:
    found = only(LLAMA3, text)
    assert (found.close, found.code) == (len(text), "")
    assert "malformed JSON" in found.error


def test_a_closing_tag_at_the_start_of_a_line_ends_a_call_whose_quotes_do_not_match() -> None:
    text = '<tool_call>\n{"name": "python", "arguments": {"code": "print("a)"}}\n</tool_call>\nThen'
    assert only(HERMES, text).close == text.index("\nThen")


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("<tool_call>print(1)</tool_call>", "malformed JSON: Expecting value at character 0"),
        ("<tool_call></tool_call>", "malformed JSON: Expecting value at character 0"),
        ('<tool_call>{"name": "python"} {}</tool_call>', "malformed JSON: Extra data at character 19"),
        ("<tool_call>[1]</tool_call>", "a list"),
        ("<tool_call>null</tool_call>", "null"),
        (f"<tool_call>{'9' * 5000}</tool_call>", "JSON that is too large"),
        (f"<tool_call>{'[' * 200_000}</tool_call>", "JSON that is too large"),
        (call(arguments={"code": "1"}), "no `name`"),
        (call(name="bash", arguments={"code": "1"}), "the tool 'bash'"),
        (call(name=["python"], arguments={}), "the tool 'a list'"),
        (call(name="x" * 100), "the tool '" + "x" * 60 + "...'"),
        (call(name="python"), "no `arguments`"),
        (call(name="python", parameters={"code": "1"}), "no `arguments`"),
        (call(name="python", arguments="print(1)"), "a str as `arguments`"),
        (call(name="python", arguments={}), "the arguments ''"),
        (call(name="python", arguments={"code": "1", "timeout": 5}), "the arguments 'code, timeout'"),
    ],
)
def test_a_call_of_something_else_says_what_was_expected(text: str, got: str) -> None:
    example = '{"name": "python", "arguments": {"code": "print(6 * 7)"}}'
    assert only(HERMES, text).error == f"This was not run: expect a call such as {example}, got {got}."


@pytest.mark.parametrize(("code", "got"), [(7, "int"), (None, "NoneType"), (["print(1)"], "list"), (" \n", r"' \n'")])
def test_code_must_be_python(code: object, got: str) -> None:
    text = call(name="python", arguments={"code": code})
    assert only(HERMES, text).error == f"This was not run: expect `code` to be a string that holds Python, got {got}."


def test_of_several_calls_each_is_found() -> None:
    hermes = HERMES.write("1") + "\n" + HERMES.write("2")
    llama3 = LLAMA3.write("1") + "; " + LLAMA3.write("2") + "<|python_tag|>" + LLAMA3.write("3")
    assert [each.code for each in HERMES.calls(hermes)] == ["1", "2"]
    assert [each.code for each in LLAMA3.calls(llama3)] == ["1", "2", "3"]
    assert llama3[: only(LLAMA3, llama3).end] == LLAMA3.write("1")


@pytest.mark.parametrize(
    ("dialect", "segments", "reason"),
    [
        (HERMES, ["It is 5."], r"no \boxed answer"),
        (HERMES, [HERMES.write(r"\boxed{5}")], r"no \boxed answer outside tool calls and code"),
        (HERMES, ["<tool_call>{"], r"no \boxed answer; a tool call is never closed"),
        (HERMES, ["```python\n1\n```"], r'no \boxed answer; a code block is not executed with dialect="hermes"'),
        (HERMES, ["<tool_call>1</tool_call>", "So."], r"no \boxed answer"),
        (
            LLAMA3,
            [HERMES.write("1")],
            r'no \boxed answer; a hermes tool call is not executed with dialect="llama3"',
        ),
        (
            FENCE,
            [HERMES.write("1")],
            r'no \boxed answer; a hermes tool call is not executed with dialect="fence"',
        ),
        (
            FENCE,
            [LLAMA3.write("1")],
            r'no \boxed answer; a llama3 tool call is not executed with dialect="fence"',
        ),
        (
            FENCE,
            ["<|python_tag|>1"],
            r'no \boxed answer; a llama3 tool call is not executed with dialect="fence"',
        ),
        (FENCE, ['{"x": 1}'], r"no \boxed answer"),
        (FENCE, [], r"no \boxed answer"),
    ],
)
def test_the_reason_names_code_that_is_not_run(dialect: Dialect, segments: list[str], reason: str) -> None:
    assert dialect.why_no_answer(segments) == reason


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" * 20_000,
        HERMES.write("1") * 5_000,
        "<tool_call>" + '"\n  ' * 20_000,
        "<|python_tag|>" * 20_000,
        LLAMA3.write("1") * 5_000,
        " " * 100_000 + "{",
        "<" * 100_000,
        '{"' + "\\" * 100_000,
    ],
    ids=lambda text: text[:12],
)
@TOOLS
def test_long_texts_are_read_fast_in_whole_and_in_characters(dialect: ToolCalls, text: str) -> None:
    begin = time.process_time()
    dialect.calls(text)
    dialect.why_no_answer([text])
    scanner = dialect.scanner()
    for char in text[:20_000]:
        scanner.feed(char)
    assert time.process_time() - begin < 3


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_a_copy_is_the_same_dialect(dialect: Dialect) -> None:
    assert pickle.loads(pickle.dumps(dialect)) is copy.deepcopy(dialect) is dialect


def test_the_schema_cannot_be_changed_through_what_is_returned() -> None:
    HERMES.tools()[0]["function"]["name"] = "other"
    assert PYTHON_TOOL["function"]["name"] == "python"


def test_the_module_names_every_dialect() -> None:
    assert set(re.findall(r"``(fence|hermes|llama3)``", __import__("cir_env.dialects").dialects.__doc__)) == {*DIALECTS}
