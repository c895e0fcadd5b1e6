"""What is a python block and what is an answer, case by case."""

import time

import pytest

from cir_env.parsing import (
    BlockScanner,
    ParsedKind,
    count_blocks,
    final_answer,
    find_block,
    last_boxed,
    parse,
    why_no_answer,
)


def code_of(text: str) -> str | None:
    block = find_block(text)
    return block.code if block else None


@pytest.mark.parametrize(
    "info",
    ["python", "py", "python3", "Python", "PYTHON", " python", "python ", "python title=x", "python\r"],
)
def test_info_strings_whose_first_word_is_python_open_a_block(info: str) -> None:
    assert code_of(f"```{info}\nprint(1)\n```\n") == "print(1)"


@pytest.mark.parametrize("info", ["", "pythonic", "python2", "text", "output", "{python}", "ipython", "py`x`"])
def test_other_info_strings_open_no_python_block(info: str) -> None:
    assert code_of(f"```{info}\nprint(1)\n```\n") is None


@pytest.mark.parametrize("fence", ["```", "`````", "~~~", "~~~~"])
def test_any_fence_of_three_or_more_backticks_or_tildes_makes_a_block(fence: str) -> None:
    assert code_of(f"{fence}python\nprint(1)\n{fence}\n") == "print(1)"


@pytest.mark.parametrize(
    ("opening", "closing", "closes"),
    [
        ("```", "````", True),
        ("````", "```", False),
        ("```", "~~~", False),
        ("```", "``` \t", True),
        ("```", "   ```", True),
        ("```", "    ```", False),
        ("  ```", "     ```", True),
        ("   ```", "```", True),
        ("```", "``` end", False),
        ("```", "print('```')", False),
        ("```", "x = 1 ```", False),
        ("```", "```python", False),
    ],
)
def test_only_a_line_of_enough_of_the_same_character_closes(opening: str, closing: str, closes: bool) -> None:
    assert (find_block(f"{opening}python\nprint(1)\n{closing}\nmore") is not None) is closes


@pytest.mark.parametrize(
    "text", ["", "```python", "```python\nprint(1)", "```python\nprint(1)\n``", "``python\nprint(1)\n``\n"]
)
def test_an_unclosed_fence_is_not_a_block(text: str) -> None:
    assert find_block(text) is None


def test_a_block_may_close_at_the_end_of_the_text() -> None:
    block = find_block("```python\nprint(1)\n```")
    assert block is not None
    assert (block.start, block.close, block.end) == (0, 22, 22)


def test_a_block_has_its_start_its_close_and_the_end_of_trailing_whitespace() -> None:
    text = "First: ```python\nprint(1)\n```  \n\n \tNow this."
    block = find_block(text)
    assert block is not None
    assert text[block.start : block.close] == "```python\nprint(1)\n```  \n"
    assert text[block.end :] == "Now this."


def test_a_block_with_a_blank_body_does_not_hide_a_later_one() -> None:
    assert code_of("```python\n```\n\n```python\n \n\t\n```\nSo:\n```python\nprint(3)\n```\n") == "print(3)"


def test_the_first_of_two_blocks_counts() -> None:
    text = "```python\na\n```\n```python\nb\n```\n"
    first = find_block(text)
    assert first is not None
    second = find_block(text, first.close)
    assert second is not None
    assert (first.code, second.code) == ("a", "b")
    assert text[second.start : second.close] == "```python\nb\n```\n"


def test_complete_and_non_blank_blocks_are_counted() -> None:
    block = "```python\na\n```\n"
    assert count_blocks("") == 0
    assert count_blocks(block * 3 + "```python\n```\n" + block + "```python\nb") == 4


@pytest.mark.parametrize("language", ["markdown", "text", "output", ""])
def test_a_python_fence_quoted_in_another_block_does_not_count(language: str) -> None:
    quoted = f"````{language}\n```python\nquoted\n```\n````\n"
    assert code_of(quoted) is None
    assert code_of(quoted + "```python\nreal\n```\n") == "real"


def test_an_info_less_fence_opens_a_block_as_in_commonmark() -> None:
    assert code_of("```\n```python\nprint(1)\n```\n") is None
    assert code_of("```\nplain\n```\n```python\nprint(1)\n```\n") == "print(1)"


@pytest.mark.parametrize("line", ["Here: ", "Let me compute this.", "Use `x` as in ", "As ```x``` says: ", "1."])
def test_text_may_precede_the_opening_fence(line: str) -> None:
    block = find_block(f"{line}```python\nprint(1)\n```\n")
    assert block is not None
    assert (block.code, block.start) == ("print(1)", len(line))


@pytest.mark.parametrize(
    "line",
    [
        "We write the ``` fence like this",
        "Inline ```x = 1``` python",
        "Here it is: ```",
        "It is ``python",
        "It is ```python `x`",
        "Three ticks ``` and more",
    ],
)
def test_backticks_in_prose_open_nothing(line: str) -> None:
    assert code_of(f"{line}\n```python\nprint(1)\n```\n") == "print(1)"


def test_a_fence_of_another_language_may_follow_text_too() -> None:
    assert code_of("This gave: ```output\n42\n```\nNow\n```python\nprint(1)\n```\n") == "print(1)"


@pytest.mark.parametrize(
    ("lead", "inner"),
    [
        ("1. ", "   "),
        ("- ", "  "),
        ("   ", "   "),
        ("10) ", "    "),
        ("- 1. ", "     "),
        ("\t", "\t"),
        ("      ", "      "),
    ],
)
def test_the_indentation_of_a_list_is_removed_from_the_code(lead: str, inner: str) -> None:
    text = f"{lead}```python\n{inner}for i in range(2):\n{inner}    print(i)\n\n{inner}```\n"
    assert code_of(text) == "for i in range(2):\n    print(i)\n"


def test_code_in_a_list_item_that_starts_with_text_loses_the_indentation_of_the_item() -> None:
    assert code_of("1. Run ```python\n   if x:\n       y\n   ```\n") == "if x:\n    y"


def test_code_that_is_not_indented_with_its_list_is_unchanged() -> None:
    assert code_of("1. ```python\nfor i in x:\n  print(i)\n```\n") == "for i in x:\n  print(i)"


def test_indentation_is_removed_as_in_commonmark_and_a_cut_tab_leaves_spaces() -> None:
    assert code_of("   ```python\n   a\n    b\n  c\n   ```\n") == "a\n b\nc"
    assert code_of("  ```python\n  a\n\tb\n  ```\n") == "a\n  b"


def test_code_at_the_margin_keeps_its_own_indentation() -> None:
    assert code_of("```python\n    a\n  b\n```\n") == "    a\n  b"


def test_a_fence_inside_a_string_does_not_cut_the_code() -> None:
    code = 's = """\n    ```\n"""\nprint("```", s)  # ```'
    assert code_of(f"```python\n{code}\n```\n") == code


@pytest.mark.parametrize(
    "pieces", [["```python\nx\n```\n"], list("```python\nx\n```\n"), ["```py", "thon\nx\n``", "`\n"]]
)
def test_the_scanner_reports_the_end_at_the_newline_after_the_fence(pieces: list[str]) -> None:
    scanner = BlockScanner()
    answers = [scanner.feed(piece) for piece in pieces]
    assert answers == [None] * (len(pieces) - 1) + [16]
    assert scanner.feed("more\n") == scanner.finish() == 16


def test_the_end_of_the_text_ends_the_scanners_last_line() -> None:
    scanner = BlockScanner()
    assert scanner.feed("```python\nx\n```") is None
    assert scanner.finish() == scanner.finish() == 15


def test_the_scanner_returns_none_without_a_block() -> None:
    scanner = BlockScanner()
    assert scanner.feed("```python\nx\n``") is None
    assert scanner.finish() is None


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed {7} and \boxed{3}", "3"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{5}. I have put it in \boxed{} as asked.", "5"),
        (r"\boxed{5} in a \boxed{ }", "5"),
        (r"\fbox{42}", "42"),
        (r"\boxed{3}, that is \fbox {4}", "4"),
        (r"\fbox{\boxed{5}}", "5"),
        (r"x \\\fbox{5}", "5"),
        (r"\boxed{3} then \boxed{4", "3"),
        (r"\boxed{ \boxed{4}", "4"),
        (r"\boxed{a \boxed{b}}", "b"),
        (r"{ \boxed{5}", "5"),
        (r"} \boxed{5}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"x \\\boxed{5}", "5"),
        (r"\\boxed{5}", "5"),
        (r"\boxed{a \\{b}}", r"a \\{b}"),
        ("\\boxed{1,\n2}", "1,\n2"),
    ],
)
def test_the_last_balanced_box_is_found(text: str, content: str) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        r"\boxed",
        r"\boxed{",
        r"\boxed{{7}",
        r"boxed{7}",
        r"\boxed}7{",
        r"\boxed{}",
        "\\boxed{ \n}",
        r"\boxedx{7}",
    ],
)
def test_an_unbalanced_or_empty_box_has_no_content(text: str) -> None:
    assert last_boxed(text) is None


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed 42", "42"),
        (r"\boxed42", "42"),
        (r"\fbox 42", "42"),
        (r"It is $\boxed 42$.", "42"),
        (r"It is \(\boxed 42\).", "42"),
        (r"It is **\boxed 42**.", "42"),
        (r"(so \boxed 42)", "42"),
        (r"<answer>\boxed 42</answer>", "42"),
        (r"\boxed 42. So 43", "42"),
        (r"\boxed -4.5, I think", "-4.5"),
        (r"\boxed .5", ".5"),
        (r"\boxed 1,234!", "1,234"),
        (r"\boxed \frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed\frac{x + 1}{2}$ and", r"\frac{x + 1}{2}"),
        (r"\boxed 2\sqrt{3}\pi", r"2\sqrt{3}\pi"),
        (r"\boxed \text{six feet}", r"\text{six feet}"),
        (r"\boxed (1, 2]", "(1, 2]"),
        (r"\boxed \left(1,2\right)", r"\left(1,2\right)"),
        (r"\boxed B", "B"),
        (r"\boxed x=5", "x=5"),
        (r"\boxed 4 and \boxed 5", "5"),
        (r"\boxed{4}, no: \boxed 5", "5"),
        (r"\boxed 4, no: \boxed{5}", "5"),
        (r"\boxed 4\boxed 5", "5"),
        (r"{\boxed 4}", "4"),
        (r"\boxed{\boxed 4}", "4"),
        (r"\boxed{42}, in \boxed as asked", "42"),
        (r"\boxed{42} (see `\boxed`)", "42"),
        (r"\boxed{42} with \boxed.", "42"),
        ("\\boxed{42} in a \\boxed\n\n2. Then", "42"),
    ],
)
def test_a_box_without_braces_contains_the_next_number_formula_or_letter(text: str, content: str) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed answer",
        r"\boxed $5$",
        r"\boxed ...",
        r"\boxed - 5",
        r"\boxed (1, 2",
        r"\boxed{5 \boxed \\ 5",
        r"\boxed \{1",
    ],
)
def test_prose_and_pieces_are_no_content_of_a_box_without_braces(text: str) -> None:
    assert last_boxed(text) is None


CODE = "```python\nprint(r'\\boxed{1}')\n```\n"


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        "~~~~c\n\\boxed{1}\n~~~~\n",
        "So: ```js\n\\boxed{1}\n```\n",
        "```{.python}\n\\boxed{1}\n```\n",
        "```output\n\\boxed{1}\n```\n",
        "```\nstray\n" + CODE,
        "````markdown\n" + CODE + "````\n",
        "~~~\nnever closed\n" + CODE,
        "```\n~~~c\n```\n" + CODE,
    ],
)
def test_a_box_in_a_closed_fence_of_code_is_not_an_answer(text: str) -> None:
    assert final_answer([text]) is None
    assert final_answer([r"\boxed{0}", text]) == "0"
    assert final_answer(["\\boxed{0}\n" + text]) == "0"
    assert final_answer([text + r"\boxed{0}"]) == "0"
    assert why_no_answer([text]) == r"no \boxed answer outside code blocks"


@pytest.mark.parametrize(
    "text",
    [
        "```\nSo the answer is \\boxed{42}",
        CODE + "```\nSo the answer is \\boxed{42}\n" + CODE,
        CODE + "```\n\nSo the answer is \\boxed{42}\n```\n",
        "```\n\\boxed{42}\n```\n",
        "```python\nprint(42)\nSo the answer is \\boxed{42}",
        "```python\n\\boxed{42}",
        "~~~\n\\boxed{42}\n```\n",
        "``` \\boxed{42}\n```\n",
        "~~~text\n```python\n~~~\n\\boxed{42}\n" + CODE,
        *(
            f"```{word}\n\\boxed{{42}}\n```\n"
            for word in ("latex", "tex", "Markdown", "md", "text", "txt", "math", "none")
        ),
        "Answer: ```latex\n\\boxed{42}\n```\n",
        "```latex title=answer\n\\boxed{42}\n```\n",
    ],
)
def test_a_stray_an_unclosed_and_a_text_fence_hide_no_box(text: str) -> None:
    assert final_answer([text]) == "42"
    assert final_answer([r"\boxed{0}", text]) == "42"


def test_a_text_without_a_box_says_so() -> None:
    assert why_no_answer(["Hm."]) == why_no_answer([]) == why_no_answer([r"\boxed{}"]) == r"no \boxed answer"


def test_a_box_spans_neither_two_segments_nor_a_block() -> None:
    assert final_answer([r"\boxed{1", "2}"]) is None
    assert final_answer(["\\boxed{1\n```python\nx\n```\n2}"]) is None


def test_a_box_beside_a_block_is_an_answer() -> None:
    assert final_answer(["\\boxed{1} ```python\n\\boxed{2}\n```\n"]) == "1"
    assert final_answer(["```python\n\\boxed{2}\n```\n\\boxed{3}"]) == "3"


def test_no_segments_give_no_answer() -> None:
    assert final_answer([]) is None


def test_a_text_with_a_block_is_code_even_with_a_box() -> None:
    text = "\\boxed{1}\n```python\nprint(2)\n```\n\n```output\n3\n```\n"
    parsed = parse(text)
    assert (parsed.kind, parsed.code, parsed.answer) == (ParsedKind.CODE, "print(2)", None)
    assert text[parsed.kept_chars :] == "```output\n3\n```\n"


def test_a_text_with_neither_code_nor_answer_is_void() -> None:
    parsed = parse("Hm, ```python\nprint(1)")
    assert (parsed.kind, parsed.code, parsed.answer, parsed.kept_chars) == (ParsedKind.VOID, None, None, 22)


HUGE = 100_000


@pytest.mark.parametrize(
    "text",
    [
        "`" * HUGE,
        "`\n" * HUGE,
        "``` " * HUGE,
        "a```py x" * HUGE,
        "```python\n" * HUGE,
        "```python\n\n```\n" * (HUGE // 10),
        "- " * HUGE + "```python\nx\n```",
        "\t" * HUGE + "```python\nx\n```",
        "\\boxed{" * HUGE,
        "\\boxed" + " " * HUGE,
        "\\boxed 1" * HUGE,
        "\\boxed{ " * HUGE + "}" * HUGE,
        "\\boxed 1" + "(" * HUGE,
        "\\boxed 1" + "," * HUGE,
        "\\boxed 1{ " * HUGE,
        "```\n```python\n" * (HUGE // 10),
        "~~~text\n```c\nx\n" * (HUGE // 10),
        "\\" * HUGE,
        "{" * HUGE + "}" * HUGE,
    ],
    ids=range(19),
)
@pytest.mark.slow
def test_hostile_texts_take_linear_time(text: str) -> None:
    begin = time.process_time()
    parse(text)
    count_blocks(text)
    scanner = BlockScanner()
    for start in range(0, len(text), 7):
        scanner.feed(text[start : start + 7])
    scanner.finish()
    assert time.process_time() - begin < 2.0  # quadratic time would take minutes
