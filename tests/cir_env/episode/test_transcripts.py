import pytest

from cir_env.dialects import DIALECTS, FENCE
from cir_env.episode.transcripts import read_turns
from cir_env.errors import OptionError

BLOCK = "```python\nprint(6 * 7)\n```\n"
OUTPUT = "```output\n42\n```\n"


def said(*contents: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content} for content in contents]


def test_an_assistants_message_is_cut_behind_blocks_and_behind_their_outputs() -> None:
    text = f"First:\n{BLOCK}\n{OUTPUT}Again:\n{BLOCK}{OUTPUT}It is 42."
    assert read_turns(said(text)) == (
        (f"First:\n{BLOCK}\n", OUTPUT),
        (f"Again:\n{BLOCK}", OUTPUT),
        ("It is 42.", ""),
    )


def test_a_message_without_code_is_one_turn() -> None:
    assert read_turns(said("It is 42.")) == (("It is 42.", ""),)


def test_an_output_may_come_as_a_tools_message() -> None:
    messages = [*said(BLOCK), {"role": "tool", "content": "42\n"}, *said("It is 42.")]
    assert read_turns(messages) == ((BLOCK, OUTPUT), ("It is 42.", ""))


@pytest.mark.parametrize("arguments", ['{"code": "print(6 * 7)"}', {"code": "print(6 * 7)"}])
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_tool_calls_are_written_as_the_dialect_does(dialect, arguments) -> None:
    call = {"type": "function", "function": {"name": "python", "arguments": arguments}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "42"}]
    (code, feedback), last = read_turns([*messages, *said("It is 42.")], dialect)
    assert (code, last) == (dialect.write("print(6 * 7)"), ("It is 42.", ""))
    assert feedback == (OUTPUT if dialect is FENCE else "42")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (said(f"{BLOCK}So 42."), "a code block without its output"),
        (said(BLOCK), "a code block without its output"),
        (said("```python\nprint(1)"), "a code block that is never closed"),
        (said(f"{BLOCK}{OUTPUT}"), "an output at the end and no text after it"),
        (said(f"{BLOCK}```output\n42"), "a code block without its output"),
        ([{"role": "tool", "content": "42"}], "a tool's message without a call before it"),
        ([*said("Hello"), {"role": "user", "content": "?"}], "a message of the role 'user' behind an assistant's"),
        ([{"role": "assistant", "content": [{"type": "text"}]}], "a message that is not text"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "search", "arguments": "{}"}}]}],
            "a tool call without Python in the argument `code`",
        ),
    ],
)
def test_what_no_episode_has_is_rejected_with_a_reason(messages, reason) -> None:
    with pytest.raises(OptionError) as caught:
        read_turns(messages)
    assert str(caught.value) == reason
