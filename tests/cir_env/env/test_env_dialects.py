"""Episodes whose code is written in tool calls, and what each dialect says about the others."""

from typing import Any

import gymnasium
import pytest
from fakes import CODE, FakeSandbox, begun, fakes, make
from gymnasium.utils.env_checker import check_env

from cir_env.adapters.tools import OVER, ToolEpisode
from cir_env.dialects import DIALECTS, HERMES, LLAMA3, PYTHON_TOOL, ToolCalls
from cir_env.episode.prompts import EXHAUSTED, PROMPTS, render_prompt
from cir_env.errors import OptionError

TOOLS = pytest.mark.parametrize("dialect", [HERMES, LLAMA3], ids=lambda dialect: dialect.name)
BROKEN = '<tool_call>{"name": "bash", "arguments": {}}</tool_call>'


def started(dialect: ToolCalls = HERMES, **arguments: Any) -> Any:
    return begun(dialect=dialect.name, observation="feedback", **arguments)


@TOOLS
def test_a_call_is_executed_and_answered_by_its_result_alone(dialect: ToolCalls) -> None:
    env, call = started(dialect), dialect.write("print(2 * 3)")
    feedback, reward, terminated, truncated, info = env.step(call)
    assert (feedback, reward, terminated, truncated) == ("6", 0.0, False, False)
    assert (info["execution_status"], info["interactions_left"], info["n_code_blocks"]) == ("ok", 1, 1)
    assert info["calls"] == ((0, len(call), "print(2 * 3)"),)
    assert info["tools"] == (PYTHON_TOOL,)
    assert env.step(r"So \boxed{6}.")[1:3] == (1.0, True)


@TOOLS
def test_the_transcript_has_the_result_on_lines_of_its_own(dialect: ToolCalls) -> None:
    env, call = begun(dialect=dialect.name), dialect.write("print(2 * 3)")
    transcript, *_ = env.step(f"{call}\n and more")
    assert transcript.endswith(f"{call}\n 6\n") or transcript.endswith(f"{call}\n \n6\n")


def test_of_several_calls_the_first_is_executed_and_the_rest_is_discarded() -> None:
    sandbox = FakeSandbox()
    env = started(sandbox=sandbox)
    text = HERMES.write("print(1)") + "\n" + HERMES.write("print(2)")
    info = env.step(text)[-1]
    assert sandbox.executed == ["print(1)"]
    assert info["kept_chars"] == len(HERMES.write("print(1)")) + 1


def test_a_call_that_holds_no_code_counts_as_a_failed_block() -> None:
    sandbox = FakeSandbox()
    env = started(sandbox=sandbox)
    feedback, _, terminated, _, info = env.step(BROKEN)
    assert feedback.startswith("This was not run: expect a call such as {")
    assert feedback.endswith("got the tool 'bash'.")
    assert (terminated, info["execution_status"], info["interactions_left"]) == (False, "error", 1)
    assert info["calls"] == ((0, len(BROKEN), ""),)
    assert sandbox.executed == []


def test_output_is_shortened_and_may_be_empty() -> None:
    env = started(max_output_chars=4)
    assert env.step(HERMES.write("print('0123456789')"))[0] == "01...89"
    feedback, *_, info = env.step(HERMES.write("x = 1"))
    assert (feedback, info["execution_status"]) == ("", "ok")


def test_the_budget_is_shown_in_calls() -> None:
    env = make(dialect="hermes", observation="feedback", show_budget=True)
    prompt, _ = env.reset(options={"problem_index": 0})
    assert prompt.endswith("\n\nAt most 2 of your tool calls will be run.")
    assert env.step(HERMES.write("print(6)"))[0] == "6\n[tool calls left to run: 1]"


def test_a_call_beyond_the_budget_is_text_or_told() -> None:
    for on_exhausted, expected in (("silent", ("", True)), ("tell", (EXHAUSTED, False)), ("end", ("", True))):
        env = started(interaction_budget=1, on_exhausted=on_exhausted)
        env.step(HERMES.write("print(6)"))
        assert env.step(HERMES.write("print(6)"))[0:3:2] == expected


def test_with_a_budget_of_0_no_tool_is_offered_and_a_call_is_text() -> None:
    for on_exhausted in ("silent", "tell", "end"):
        env = started(interaction_budget=0, on_exhausted=on_exhausted)
        assert env.action_scanner() is None
        *_, terminated, _, info = env.step(HERMES.write(r"'\boxed{6}'") + " and more")
        assert (terminated, info["tools"], info["predicted"]) == (True, (), None)
        assert info["kept_chars"] > info["calls"][0][1]


def test_the_transcript_is_cut_at_its_limit() -> None:
    call = HERMES.write("print('0123456789')")
    longest = len(render_prompt("question", begun().problems[0])) + len(call)
    for room in range(14):
        env = begun(dialect="hermes", prompt="question", max_transcript_chars=longest + room)
        transcript, _, _, truncated, info = env.step(call)
        assert len(transcript) == min(longest + room, longest + 12)
        assert truncated == (room <= 12)
        assert info["feedback"] == "0123456789"[: max(0, room - 1)]


@TOOLS
def test_the_scanner_finds_where_the_environment_cuts(dialect: ToolCalls) -> None:
    env, call = started(dialect), dialect.write("print(6)")
    scanner = env.action_scanner()
    assert scanner is not None
    assert scanner.feed(call + " more") == len(call)
    assert env.step(call + " more")[-1]["kept_chars"] == len(call) + 1


def test_code_in_another_dialect_ends_the_episode_with_a_reason() -> None:
    for dialect, text, other in (
        ("hermes", CODE, "a code block"),
        ("fence", HERMES.write("print(6)"), "a hermes tool call"),
        ("llama3", HERMES.write("print(6)"), "a hermes tool call"),
    ):
        *_, terminated, _, info = begun(dialect=dialect).step(text)
        assert terminated
        assert info["reason"] == rf'no \boxed answer; {other} is not executed with dialect="{dialect}"'


def test_the_default_prompt_asks_for_calls_and_the_example_is_one() -> None:
    _, info = make(dialect="hermes").reset(seed=0)
    assert "`python`" in info["messages"][0]["content"]
    assert "code executor" not in info["messages"][0]["content"]
    messages = make(dialect="llama3", prompt="cir_one_shot").reset(seed=0)[1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert LLAMA3.find(messages[1]["content"]) is not None
    assert messages[2]["content"] == "38735"


@pytest.mark.parametrize("name", ["text", "text_one_shot", "question"])
def test_other_prompts_are_the_same_in_every_dialect(name: str) -> None:
    prompts = [make(dialect=dialect, prompt=name).reset(options={"problem_index": 0})[0] for dialect in DIALECTS]
    assert len(set(prompts)) == 1


def test_the_papers_example_is_a_fence() -> None:
    assert PROMPTS["cir_one_shot"].solution == (
        "```python\nprint(127 * 305)\n```\n```output\n38735\n```\nThe answer is \\boxed{38735}."
    )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_passes_gymnasiums_checks(dialect: str) -> None:
    env = gymnasium.make("CodeMath-v0", dialect=dialect, **fakes())
    check_env(env.unwrapped, skip_render_check=True)
    again = gymnasium.make(env.spec)
    assert again.unwrapped.write_code("1") == DIALECTS[dialect].write("1")


def test_a_vector_environment_serves_tool_calls() -> None:
    envs = gymnasium.make_vec("CodeMath-v0", num_envs=2, dialect="hermes", observation="feedback", **fakes())
    _, infos = envs.reset(seed=0)
    assert [tools[0]["function"]["name"] for tools in infos["tools"]] == ["python", "python"]
    observations, *_, infos = envs.step((HERMES.write("print(6)"), "no answer"))
    assert tuple(observations) == ("6", "")
    assert [len(calls) for calls in infos["calls"]] == [1, 0]
    envs.close()


def test_an_unknown_dialect_is_refused() -> None:
    with pytest.raises(OptionError, match=r"^Expect `dialect` to be 'fence', 'hermes' or 'llama3', got 'herms'"):
        make(dialect="herms")


def test_the_adapters_for_tools_work_in_any_dialect() -> None:
    async def play(**arguments: Any) -> list[Any]:
        episode = ToolEpisode(**fakes(), **arguments)
        episode.reset(0)
        told = [await episode.python(code) for code in ("print(6)", "x = 1")]
        return [*told, await episode.finish(r"\boxed{6}"), await episode.python("1")]

    import asyncio

    assert asyncio.run(play(dialect="hermes")) == ["6", "", 1.0, OVER]
    assert asyncio.run(play())[2:] == [1.0, OVER]
