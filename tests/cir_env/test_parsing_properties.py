"""Properties of parsing: independent of how the text is cut, inverse to rendering, and total."""

from hypothesis import given, settings
from hypothesis import strategies as st

from cir_env.parsing import BlockScanner, ParsedKind, final_answer, find_block, last_boxed, parse, why_no_answer

FAST = settings(max_examples=200, deadline=None, derandomize=True, database=None)

# Texts built from the parts of fences and boxes find more errors than arbitrary texts.
PARTS = [
    "```",
    "````",
    "~~~",
    "`",
    "python",
    "py",
    "text",
    "\n",
    "\n",
    "\r\n",
    " ",
    "   ",
    "\t",
    "- ",
    "1. ",
    "x = 1",
]
BOXES = ["\\boxed{", "\\fbox{", "\\boxed ", "{", "}", "(", ")", "\\{", "\\", "7", "-", "$"]
fence_texts = st.lists(st.sampled_from(PARTS), max_size=30).map("".join)
mixed_texts = st.lists(st.one_of(st.sampled_from(PARTS + BOXES), st.text(max_size=3)), max_size=30).map("".join)
likely_blocks = st.tuples(fence_texts, st.sampled_from(["```python\nx\n```", "~~~ py\ny\n~~~\n"]), fence_texts).map(
    "\n".join
)


def cuttings(text: str) -> st.SearchStrategy[list[str]]:
    cuts = st.lists(st.integers(0, len(text)), max_size=8).map(sorted)
    return cuts.map(lambda at: [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)])


@FAST
@given(st.one_of(fence_texts, mixed_texts, likely_blocks), st.data())
def test_the_scanner_finds_the_same_end_however_the_text_is_cut(text: str, data: st.DataObject) -> None:
    scanner = BlockScanner()
    for piece in data.draw(cuttings(text)):
        scanner.feed(piece)
    block = find_block(text)
    assert scanner.finish() == (block.close if block else None)


@FAST
@given(st.one_of(fence_texts, likely_blocks))
def test_the_scanner_answers_at_the_first_character_that_decides(text: str) -> None:
    scanner = BlockScanner()
    answers = [scanner.feed(char) for char in text]
    block = find_block(text)
    if block is not None and text[block.close - 1] == "\n":
        assert answers == [None] * (block.close - 1) + [block.close] * (len(text) - block.close + 1)
    else:
        assert answers == [None] * len(text)


bodies = mixed_texts.filter(str.strip)


def longest_run(text: str, char: str) -> int:
    length = 0
    while char * (length + 1) in text:
        length += 1
    return length


@FAST
@given(bodies, st.sampled_from("`~"), st.text(alphabet="abc .\n", max_size=10))
def test_parsing_returns_the_fenced_code(body: str, char: str, after: str) -> None:
    fence = char * max(3, longest_run(body, char) + 1)
    parsed = parse(f"{fence}python\n{body}\n{fence}\n{after}")
    assert parsed.kind is ParsedKind.CODE
    assert parsed.code == body


@FAST
@given(bodies.filter(lambda body: not body.startswith((" ", "\t", "\n", "\r"))), st.integers(1, 9))
def test_parsing_returns_code_fenced_in_a_list(body: str, indent: int) -> None:
    fence = "`" * max(3, longest_run(body, "`") + 1)
    lines = "".join(" " * indent + line + "\n" for line in body.split("\n"))
    assert parse(f"{' ' * indent}{fence}py\n{lines}{' ' * indent}{fence}\n").code == body


@FAST
@given(st.one_of(mixed_texts, st.text()))
def test_parsing_never_raises_and_its_fields_agree(text: str) -> None:
    parsed = parse(text)
    assert (parsed.code is not None) == (parsed.kind is ParsedKind.CODE)
    assert (parsed.answer is not None) == (parsed.kind is ParsedKind.ANSWER)
    assert 0 <= parsed.kept_chars <= len(text)
    assert parse(text[: parsed.kept_chars]) == parsed


@FAST
@given(mixed_texts)
def test_a_box_is_balanced_and_part_of_the_text(text: str) -> None:
    content = last_boxed(text)
    if content is not None:
        assert content.strip()
        assert "{" + content + "}" in text or "boxed " + content in text.replace("boxed  ", "boxed ")
        assert last_boxed("\\boxed{" + content + "}") is not None


@FAST
@given(mixed_texts, st.integers(0, 10**6))
def test_an_answer_in_a_separate_last_turn_is_found(text: str, number: int) -> None:
    assert final_answer([text, f"The answer is \\boxed{{{number}}}."]) == str(number)


@FAST
@given(mixed_texts, mixed_texts)
def test_an_executed_block_contains_no_answer(before: str, after: str) -> None:
    text = before + "\n```python\nprint(r'\\boxed{executed}')\n```\n"
    block = find_block(text)
    if block is not None and block.close == len(text) and "executed" in block.code:
        assert final_answer([text]) == final_answer([text[: block.start]])
        assert final_answer([text + after]) != "executed"


@FAST
@given(st.lists(mixed_texts, max_size=3))
def test_there_is_an_answer_or_a_reason(segments: list[str]) -> None:
    assert (final_answer(segments) or why_no_answer(segments)) != ""
