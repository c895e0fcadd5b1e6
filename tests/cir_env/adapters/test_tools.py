"""Episodes with tool calls."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from fakes import FakeGrader, FakeSandbox, PatientSandbox, fakes, products
from hypothesis import given
from hypothesis import strategies as st

from cir_env.adapters.tools import OVER, ToolCall, ToolEpisode, rows
from cir_env.dialects import FENCE
from cir_env.episode.prompts import EXHAUSTED, render_messages
from cir_env.parsing import find_block

T = TypeVar("T")
TICKS = "`" * 3


def play(script: Callable[[ToolEpisode], Awaitable[T]], **arguments: Any) -> T:
    """Play the problem 2 * 3 with fakes."""

    async def begun() -> T:
        episode = ToolEpisode(**(fakes() | arguments))
        episode.reset(0)
        return await script(episode)

    return asyncio.run(begun())


def calls(*codes: object, answer: str = r"\boxed{6}", **arguments: Any) -> tuple[list[str], float | None]:
    async def script(episode: ToolEpisode) -> tuple[list[str], float | None]:
        return [await episode.python(code) for code in codes], await episode.finish(answer)

    return play(script, **arguments)


def test_a_call_runs_code_and_the_last_message_is_the_answer() -> None:
    assert calls("print(2 * 3)") == ([f"{TICKS}output\n6\n{TICKS}\n"], 1.0)
    assert calls("print(2 * 3)", answer=r"\boxed{7}")[1] == -1.0
    assert calls(answer="I do not know.")[1] == -1.0


def test_a_call_beyond_the_budget_is_answered_but_not_run() -> None:
    sandbox = FakeSandbox()
    answers, reward = calls("print(1)", "print(2)", "print(3)", interaction_budget=1, sandbox=sandbox)
    assert answers[1:] == [EXHAUSTED, EXHAUSTED]
    assert (sandbox.executed, reward) == (["print(1)"], 1.0)


@pytest.mark.parametrize("code", ["", " \n\t", 5, None, ["print(1)"], {"code": 1}])
def test_a_call_without_code_is_answered_and_costs_nothing(code: object) -> None:
    sandbox = FakeSandbox()
    answers, reward = calls(code, "print(1)", interaction_budget=1, sandbox=sandbox)
    assert "expect `code` to be a string that holds Python" in answers[0]
    assert (sandbox.executed, reward) == (["print(1)"], 1.0)


@pytest.mark.parametrize(
    "code",
    [
        f"print('''\n{TICKS}\nend of block\n''')",
        f"'''{TICKS}python\nprint(1)\n{TICKS}'''",
        "    print(1)\n",
        "print(1)\r\nprint(2)",
        "# \\boxed{7}",
        "`" * 40,
    ],
)
def test_the_code_of_a_call_runs_unchanged(code: str) -> None:
    sandbox = FakeSandbox()
    _, reward = calls(code, sandbox=sandbox)
    assert (sandbox.executed, reward) == ([code], 1.0)


@given(st.text(st.sampled_from("`~ \n\r\tx#'python"), max_size=40).filter(str.strip))
def test_writing_a_block_is_inverse_to_parsing(code: str) -> None:
    text = FENCE.write(code)
    block = find_block(text)
    assert block is not None
    assert (block.code, block.start, block.end) == (code, 0, len(text))


@pytest.mark.parametrize(
    ("name", "arguments"), [("ruby", {"code": "print(1)"}), ("python", "{"), ("python", "[1]"), ("python", {"cod": 1})]
)
def test_a_call_of_anything_else_is_answered(name: str, arguments: object) -> None:
    sandbox = FakeSandbox()
    answer = play(lambda episode: episode.call(name, arguments), sandbox=sandbox)
    assert answer.startswith(f'Expect a call of python with {{"code": "..."}}, got {name} with')
    assert sandbox.executed == []


def test_arguments_are_an_object_or_json() -> None:
    ((expected,), _) = calls("print(2 * 3)")
    for arguments in ({"code": "print(2 * 3)"}, '{"code": "print(2 * 3)"}'):
        assert play(lambda episode, given=arguments: episode.call("python", given)) == expected


def test_a_policy_that_never_stops_calling_is_stopped_after_its_budget() -> None:
    told: list[str] = []

    async def ask() -> list[ToolCall]:
        return [ToolCall("1", "python", {"code": "print(1)"})]

    play(lambda episode: episode.converse(ask, lambda call, answer: told.append(answer)), interaction_budget=1)
    assert told == [*calls("print(1)")[0], EXHAUSTED, EXHAUSTED]


def test_an_error_is_feedback() -> None:
    assert "SyntaxError" in calls("print(")[0][0]


@pytest.mark.parametrize("sandbox", [FakeSandbox(broken=True), FakeSandbox(unavailable=True)])
def test_a_sandbox_error_gives_no_reward(sandbox: FakeSandbox) -> None:
    assert calls("print(1)", "print(1)", sandbox=sandbox) == ([OVER, OVER], None)


def test_a_grader_error_gives_no_reward() -> None:
    assert calls(grader=FakeGrader(valid=False)) == ([], None)


def test_a_block_in_the_last_message_is_not_run() -> None:
    sandbox = FakeSandbox()
    assert calls(answer=f"{TICKS}python\nprint(1)\n{TICKS}\nIt is \\boxed{{6}}.", sandbox=sandbox) == ([], 1.0)
    assert sandbox.executed == []


def test_a_full_transcript_ends_the_episode_as_it_stands() -> None:
    answers, reward = calls("print(1)" + " " * 1000, max_transcript_chars=900)
    assert (answers, reward) == ([OVER], -1.0)


def test_the_outcome_of_a_finished_episode_does_not_change() -> None:
    async def script(episode: ToolEpisode) -> tuple[float | None, float | None]:
        return await episode.finish(r"\boxed{6}"), await episode.finish(r"\boxed{7}")

    assert play(script) == (1.0, 1.0)


def test_calls_of_one_message_take_turns() -> None:
    async def script(episode: ToolEpisode) -> list[str]:
        return await asyncio.gather(*(episode.python(f"print({number})") for number in range(3)))

    outputs = [f"{TICKS}output\n{number}\n{TICKS}\n" for number in range(2)]
    assert play(script, interaction_budget=2) == [*outputs, EXHAUSTED]


def test_executions_of_several_episodes_overlap() -> None:
    async def script() -> list[str]:
        arguments = fakes() | {"sandbox": PatientSandbox(3)}
        episodes = [ToolEpisode(**arguments) for _ in range(3)]
        for episode in episodes:
            episode.reset(0)
        return await asyncio.gather(*(episode.python("print(1)") for episode in episodes))

    assert asyncio.run(script()) == [f"{TICKS}output\n6\n{TICKS}\n"] * 3


def test_rows_contain_the_prompt_and_no_answer() -> None:
    made = list(rows(problems=products(3), prompt="cir_one_shot"))
    assert [row["problem_index"] for row in made] == [0, 1, 2]
    assert made[2]["prompt"] == list(render_messages("cir_one_shot", products()[2]))
    assert {key for row in made for key in row} == {"prompt", "split", "problem_index", "problem_id"}
