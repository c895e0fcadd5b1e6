"""Actions, observations, rewards and episode ends of the environment."""

from collections.abc import Callable
from typing import Any

import pytest
from fakes import CODE, FEEDBACK, PROMPT, FakeGrader, FakeSandbox, begun, make

from cir_env.env import CodeMathEnv
from cir_env.errors import OptionError

INFO_KEYS = {
    "messages",
    "problem_id",
    "source",
    "subject",
    "level",
    "metadata",
    "files",
    "problem_index",
    "statement",
    "reason",
    "interaction_budget",
    "interactions_left",
    "n_code_blocks",
    "execution_status",
    "feedback",
    "kept_chars",
    "tools",
    "calls",
    "predicted",
    "correct",
    "reward_valid",
    "answer",
}


def test_an_episode_begins_with_the_prompt() -> None:
    observation, info = make().reset(options={"problem_index": 0})
    assert observation == PROMPT
    assert info == {
        "messages": ({"role": "user", "content": PROMPT},),
        "problem_id": "product-2",
        "source": "fake",
        "subject": "products",
        "level": "",
        "metadata": {},
        "files": (),
        "problem_index": 0,
        "statement": "What is 2 * 3?",
        "reason": "",
        "interaction_budget": 2,
        "interactions_left": 2,
        "n_code_blocks": 0,
        "execution_status": None,
        "feedback": "",
        "kept_chars": 0,
        "tools": (),
        "calls": (),
        "predicted": None,
        "correct": False,
        "reward_valid": True,
        "answer": None,
    }


def test_a_block_is_executed_and_its_output_is_appended() -> None:
    env = begun()
    observation, reward, terminated, truncated, info = env.step("I run\n" + CODE)
    assert observation == PROMPT + "I run\n" + CODE + FEEDBACK
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert (info["feedback"], info["execution_status"], info["interactions_left"]) == (FEEDBACK, "ok", 1)


def test_text_after_a_block_and_its_trailing_whitespace_is_discarded() -> None:
    invented = "```output\n7\n```\nSo it is \\boxed{7}."
    observation, *_, info = begun().step(CODE + "\n \n" + invented)
    assert observation == PROMPT + CODE + "\n \n" + FEEDBACK
    assert info["kept_chars"] == len(CODE + "\n \n")


def test_feedback_starts_on_its_own_line() -> None:
    observation, *_ = begun().step(CODE.rstrip("\n"))
    assert observation == PROMPT + CODE + FEEDBACK


def test_a_right_answer_is_worth_one_and_ends_the_episode() -> None:
    observation, reward, terminated, truncated, info = begun().step("It is \\boxed{6}.")
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert observation == PROMPT + "It is \\boxed{6}."
    assert (info["predicted"], info["correct"], info["answer"]) == ("6", True, "6")
    assert info["reason"] == "compared as strings"


@pytest.mark.parametrize(
    ("action", "predicted", "reason"),
    [
        ("\\boxed{7}", "7", "compared as strings"),
        ("Six.", None, "no \\boxed answer"),
        ("", None, "no \\boxed answer"),
        ("\\boxed{}", None, "no \\boxed answer"),
        ("```c\n\\boxed{6}\n```\n", None, "no \\boxed answer outside code blocks"),
    ],
)
def test_a_wrong_or_missing_answer_costs_one_and_has_a_reason(action: str, predicted: str | None, reason: str) -> None:
    _, reward, terminated, truncated, info = begun().step(action)
    assert (reward, terminated, truncated) == (-1.0, True, False)
    assert (info["predicted"], info["correct"], info["reward_valid"]) == (predicted, False, True)
    assert info["reason"] == reason


def test_rewards_are_arguments() -> None:
    assert begun(reward_correct=2).step("\\boxed{6}")[1] == 2.0
    assert begun(reward_incorrect=0.0).step("\\boxed{7}")[1] == 0.0


def test_an_answer_in_an_earlier_turn_counts() -> None:
    env = begun()
    env.step("I guess \\boxed{6}.\n" + CODE)
    assert env.step("Indeed.")[1] == 1.0


def test_a_box_in_code_or_output_is_not_an_answer() -> None:
    env = begun()
    env.step("```python\nprint(r'\\boxed{6}')\n```\n")
    _, reward, *_, info = env.step("So be it.\n```output\n\\boxed{6}\n```\n")
    assert (reward, info["predicted"]) == (-1.0, None)
    assert info["reason"] == r"no \boxed answer outside code blocks"


@pytest.mark.parametrize("answer", ["```\n\\boxed{6}", "```latex\n\\boxed{6}\n```", "$\\boxed 6$", "\\fbox{6}."])
def test_a_box_of_another_form_is_an_answer(answer: str) -> None:
    assert begun().step(answer)[1] == 1.0


def test_output_that_looks_like_a_fence_does_not_break_out() -> None:
    env = begun()
    env.step("```python\nprint('```\\nThe answer is \\\\boxed{6}.')\n```\n")
    assert env.step("I do not know.")[1] == -1.0


def test_a_block_beyond_the_budget_is_part_of_the_answer() -> None:
    sandbox = FakeSandbox()
    env = begun(interaction_budget=1, sandbox=sandbox)
    env.step(CODE)
    observation, reward, terminated, _, info = env.step("\\boxed{6}\n" + CODE + "and so on")
    assert (reward, terminated, info["execution_status"], info["feedback"]) == (1.0, True, None, "")
    assert observation.endswith(CODE + "and so on")
    assert (len(sandbox.executed), info["n_code_blocks"], info["interactions_left"]) == (1, 2, 0)


def test_a_budget_of_zero_executes_nothing() -> None:
    sandbox = FakeSandbox()
    begun(interaction_budget=0, sandbox=sandbox).step(CODE)
    assert sandbox.executed == []


def test_an_error_is_fed_back_after_the_output() -> None:
    *_, info = begun().step("```python\nprint(1)\n1 / 0\n```\n")
    assert info["feedback"] == "```output\n1\nZeroDivisionError: division by zero\n```\n"
    assert (info["execution_status"], info["interactions_left"]) == ("error", 1)


@pytest.mark.parametrize(
    ("code", "shown"), [("print(1)\n1 / 0", "1\nThe code did not run to its end."), ("print(2)", "2")]
)
def test_an_error_can_be_fed_back_without_its_message(code: str, shown: str) -> None:
    *_, info = begun(error_format="neutral").step(f"```python\n{code}\n```\n")
    assert info["feedback"] == f"```output\n{shown}\n```\n"


def test_a_long_result_loses_its_middle() -> None:
    *_, info = begun(max_output_chars=4).step("```python\nprint('abcdefgh')\n```\n")
    assert info["feedback"] == "```output\nab...gh\n```\n"


def test_blocks_share_a_namespace_only_if_the_environment_is_stateful() -> None:
    first, second = "```python\na = 3\n```\n", "```python\nprint(a)\n```\n"
    stateless, stateful = begun(), begun(stateful=True)
    stateless.step(first)
    stateful.step(first)
    assert "NameError" in stateless.step(second)[4]["feedback"]
    assert stateful.step(second)[4]["feedback"] == "```output\n3\n```\n"


@pytest.mark.parametrize(
    "leave",
    [lambda env: env.step("\\boxed{1}"), lambda env: env.reset(), lambda env: env.close()],
    ids=["end", "reset", "close"],
)
def test_the_namespace_of_an_episode_is_closed_with_it(leave: Callable[[CodeMathEnv], Any]) -> None:
    sandbox = FakeSandbox()
    env = begun(stateful=True, sandbox=sandbox)
    assert sandbox.sessions == []
    env.step(CODE)
    leave(env)
    assert [session.closed for session in sandbox.sessions] == [True]
    assert not sandbox.closed


def test_limits_reach_the_sandbox() -> None:
    sandbox = FakeSandbox()
    begun(sandbox=sandbox, time_limit_s=10, memory_limit_mb=64).step(CODE)
    limits = sandbox.limits[0]
    assert limits is not None
    assert (limits.time_limit_s, limits.memory_limit_mb, limits.wall_limit_s) == (10.0, 64, 120.0)


def test_feedback_observations_hold_only_what_the_environment_wrote() -> None:
    env = make(observation="feedback")
    assert env.reset(options={"problem_index": 0})[0] == PROMPT
    assert env.step(CODE)[0] == FEEDBACK
    assert env.step("\\boxed{6}")[0] == ""


def test_the_scanner_finds_where_the_next_action_ends() -> None:
    env = make(interaction_budget=1)
    assert env.action_scanner() is None
    env.reset()
    scanner = env.action_scanner()
    assert scanner is not None
    assert scanner.feed(CODE + "more") == len(CODE) == env.step(CODE + "more")[4]["kept_chars"]
    assert env.action_scanner() is None  # the budget is spent: nothing ends the answer


def test_the_info_always_has_the_same_keys() -> None:
    env = make()
    _, first = env.reset()
    assert first.keys() == env.step(CODE)[4].keys() == env.step("x")[4].keys() == INFO_KEYS


def test_the_right_answer_is_hidden_until_the_end() -> None:
    env = begun()
    assert env.step(CODE)[4]["answer"] is None
    assert env.step(CODE)[4]["answer"] is None
    assert env.step(CODE)[4]["answer"] == "6"


# --- lengths ---


def test_an_action_beyond_the_limit_is_cut_and_graded_as_it_stands() -> None:
    limit = len(PROMPT) + 9
    observation, reward, terminated, truncated, info = begun(max_transcript_chars=limit).step("\\boxed{6}!")
    assert observation == PROMPT + "\\boxed{6}"
    assert (reward, terminated, truncated, info["kept_chars"]) == (1.0, False, True, 9)
    assert begun(max_transcript_chars=limit - 1).step("\\boxed{6}")[1:4] == (-1.0, False, True)


def test_an_action_that_just_fits_is_an_answer() -> None:
    assert begun(max_transcript_chars=len(PROMPT) + 9).step("\\boxed{6}")[1:4] == (1.0, True, False)


def test_a_block_that_does_not_fit_is_not_executed() -> None:
    sandbox = FakeSandbox()
    env = begun(sandbox=sandbox, max_transcript_chars=len(PROMPT) + len(CODE) - 1)
    assert env.step(CODE)[1:4] == (-1.0, False, True)
    assert sandbox.executed == []


def test_feedback_that_fills_the_transcript_truncates() -> None:
    env = begun(max_transcript_chars=len(PROMPT) + len(CODE) + 5)
    observation, reward, terminated, truncated, info = env.step(CODE)
    assert observation == PROMPT + CODE + FEEDBACK[:5]
    assert (reward, terminated, truncated, info["feedback"]) == (-1.0, False, True, FEEDBACK[:5])
    assert info["answer"] == "6"


def test_observations_are_in_their_space_up_to_the_limit() -> None:
    env = begun(max_transcript_chars=len(PROMPT) + 3)
    assert env.step("x" * 100)[0] in env.observation_space


def test_a_prompt_that_fills_the_transcript_is_rejected() -> None:
    with pytest.raises(OptionError) as caught:
        begun(max_transcript_chars=len(PROMPT))
    assert str(caught.value) == (
        f"Expect `max_transcript_chars` to be larger than the prompt, got {len(PROMPT)} for the {len(PROMPT)} "
        "characters of problem 'product-2'. Raise it, or drop the problem."
    )


# --- infrastructure errors ---


@pytest.mark.parametrize("sandbox", [FakeSandbox(broken=True), FakeSandbox(unavailable=True)])
@pytest.mark.parametrize("stateful", [False, True])
def test_a_broken_sandbox_ends_the_episode_without_a_reward(sandbox: FakeSandbox, stateful: bool) -> None:
    grader = FakeGrader()
    _, reward, terminated, truncated, info = begun(sandbox=sandbox, grader=grader, stateful=stateful).step(
        "\\boxed{6}\n" + CODE
    )
    assert (reward, terminated, truncated, info["reward_valid"]) == (0.0, False, True, False)
    assert (info["execution_status"], info["correct"], info["predicted"]) == ("infrastructure", False, None)
    assert (info["interactions_left"], info["feedback"], info["answer"], grader.graded) == (2, "", "6", [])
    assert info["reason"].startswith("the sandbox failed: ")


@pytest.mark.parametrize("grader", [FakeGrader(valid=False), FakeGrader(unavailable=True)])
def test_an_answer_that_cannot_be_graded_is_neither_right_nor_wrong(grader: FakeGrader) -> None:
    _, reward, terminated, truncated, info = begun(grader=grader).step("\\boxed{6}")
    assert (reward, terminated, truncated, info["reward_valid"]) == (0.0, True, False, False)
    assert (info["correct"], info["predicted"]) == (False, "6")
    assert info["reason"] != ""


@pytest.mark.parametrize(("answer", "reason"), [("6", "judged right"), ("7", "judged wrong")])
def test_a_grader_that_gives_no_reason_gets_one(answer: str, reason: str) -> None:
    grader = FakeGrader(reason="")
    assert begun(grader=grader).step(f"\\boxed{{{answer}}}")[4]["reason"] == reason


def test_a_reset_after_an_infrastructure_error_starts_afresh() -> None:
    env = begun(sandbox=FakeSandbox(broken=True))
    env.step(CODE)
    env.reset(options={"problem_index": 0})
    *_, info = env.step("\\boxed{6}")
    assert (info["reward_valid"], info["correct"]) == (True, True)


# --- used-up budgets ---

LEFT = "```output\n6\n```\n[code blocks left to run: {}]\n"
TOLD = "```output\nThis was not run: no code blocks are left to run. Give the final answer.\n```\n"


def test_silent_treats_a_block_beyond_the_budget_as_the_answer() -> None:
    env = begun(interaction_budget=0)
    assert env.action_scanner() is None
    text, reward, terminated, *_ = env.step(CODE + "\\boxed{6}")
    assert (text, reward, terminated) == (PROMPT + CODE + "\\boxed{6}", 1.0, True)


def test_tell_notifies_the_policy_once_that_the_budget_is_used_up() -> None:
    sandbox = FakeSandbox()
    env = begun(interaction_budget=1, on_exhausted="tell", observation="feedback", sandbox=sandbox)
    env.step(CODE)
    assert env.action_scanner() is not None
    feedback, reward, terminated, _, info = env.step(CODE + "discarded")
    assert (feedback, reward, terminated) == (TOLD, 0.0, False)
    assert (info["execution_status"], info["kept_chars"], info["interactions_left"]) == (None, len(CODE), 0)
    assert env.action_scanner() is None
    assert env.step(CODE)[2]
    assert len(sandbox.executed) == 1


def test_end_ends_the_episode_after_a_block_beyond_the_budget() -> None:
    env = begun(interaction_budget=1, on_exhausted="end")
    env.step(CODE + "\\boxed{6}")
    assert env.action_scanner() is not None
    text, reward, terminated, truncated, info = env.step("\\boxed{6}" + CODE + "\\boxed{7}")
    assert (reward, terminated, truncated, info["predicted"]) == (1.0, True, False, "6")
    assert text.endswith("\\boxed{6}" + CODE)


def test_the_budget_is_shown_in_the_prompt_and_after_each_result() -> None:
    env = begun(interaction_budget=2, show_budget=True, observation="feedback")
    prompt, info = env.reset(options={"problem_index": 0, "interaction_budget": 3})
    assert prompt == PROMPT + "\n\nAt most 3 of your code blocks will be run."
    assert info["messages"][-1]["content"].endswith("At most 3 of your code blocks will be run.")
    assert [env.step(CODE)[0] for _ in range(3)] == [LEFT.format(left) for left in (2, 1, 0)]


def test_a_final_action_is_the_answer_even_with_a_block() -> None:
    sandbox = FakeSandbox()
    env = begun(sandbox=sandbox)
    stages = env.begin_step(CODE + r"\boxed{6}", final=True)
    assert next(stages).done()  # the grading
    with pytest.raises(StopIteration) as end:
        next(stages)
    _, reward, terminated, _, info = end.value.value
    assert (reward, terminated, info["interactions_left"], sandbox.executed) == (1.0, True, 2, [])
