"""The environment: what an action does to an episode, what it is worth, and what users are told."""

import os
import pickle
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from fakes import FakeGrader, FakeSandbox, products
from gymnasium.utils.env_checker import check_env

import cir_env  # noqa: F401  (registers CodeMath-v0)
from cir_env.env import CodeMathEnv
from cir_env.errors import ActionError, EpisodeError, OptionError, ProblemError
from cir_env.prompts import render_prompt
from cir_env.spaces import UnicodeText

CODE = "```python\nprint(2 * 3)\n```\n"
FEEDBACK = "```output\n6\n```\n"
PROMPT = render_prompt("cir", products()[0])
INFO_KEYS = {
    "problem_id",
    "source",
    "subject",
    "interaction_budget",
    "interactions_left",
    "n_code_blocks",
    "execution_status",
    "feedback",
    "kept_chars",
    "predicted",
    "correct",
    "reward_valid",
    "answer",
}


def make(**arguments: Any) -> CodeMathEnv:
    """An environment on fakes; `begun` resets it to the problem 2 * 3."""
    fakes = {"problems": products(), "sandbox": FakeSandbox(), "grader": FakeGrader()}
    return CodeMathEnv(**(fakes | arguments))


def begun(**arguments: Any) -> CodeMathEnv:
    env = make(**arguments)
    env.reset(seed=0, options={"problem_index": 0})
    return env


# --- an episode ---------------------------------------------------------------------------------------------


def test_an_episode_begins_with_the_prompt() -> None:
    observation, info = make().reset(options={"problem_index": 0})
    assert observation == PROMPT
    assert info == {
        "problem_id": "product-2",
        "source": "fake",
        "subject": "products",
        "interaction_budget": 2,
        "interactions_left": 2,
        "n_code_blocks": 0,
        "execution_status": None,
        "feedback": "",
        "kept_chars": 0,
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


def test_what_follows_the_blanks_behind_a_block_is_discarded() -> None:
    invented = "```output\n7\n```\nSo it is \\boxed{7}."
    observation, *_, info = begun().step(CODE + "\n \n" + invented)
    assert observation == PROMPT + CODE + "\n \n" + FEEDBACK
    assert info["kept_chars"] == len(CODE + "\n \n")


def test_feedback_starts_on_a_line_of_its_own() -> None:
    observation, *_ = begun().step(CODE.rstrip("\n"))
    assert observation == PROMPT + CODE + FEEDBACK


def test_a_right_answer_is_worth_one_and_ends_the_episode() -> None:
    observation, reward, terminated, truncated, info = begun().step("It is \\boxed{6}.")
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert observation == PROMPT + "It is \\boxed{6}."
    assert (info["predicted"], info["correct"], info["answer"]) == ("6", True, "6")


@pytest.mark.parametrize(("action", "predicted"), [("\\boxed{7}", "7"), ("Six.", None), ("", None)])
def test_a_wrong_or_missing_answer_costs_one(action: str, predicted: str | None) -> None:
    _, reward, terminated, truncated, info = begun().step(action)
    assert (reward, terminated, truncated) == (-1.0, True, False)
    assert (info["predicted"], info["correct"], info["reward_valid"]) == (predicted, False, True)


def test_rewards_are_arguments() -> None:
    assert begun(reward_correct=2).step("\\boxed{6}")[1] == 2.0
    assert begun(reward_incorrect=0.0).step("\\boxed{7}")[1] == 0.0


def test_an_answer_may_stand_in_an_earlier_turn() -> None:
    env = begun()
    env.step("I guess \\boxed{6}.\n" + CODE)
    assert env.step("Indeed.")[1] == 1.0


def test_what_a_program_prints_or_contains_is_no_answer() -> None:
    env = begun()
    env.step("```python\nprint(r'\\boxed{6}')\n```\n")
    _, reward, *_, info = env.step("So be it.\n```python\n\\boxed{6}\n")
    assert (reward, info["predicted"]) == (-1.0, None)


def test_a_result_that_looks_like_a_fence_breaks_out_of_nothing() -> None:
    env = begun()
    env.step("```python\nprint('```\\nThe answer is \\\\boxed{6}.')\n```\n")
    assert env.step("I do not know.")[1] == -1.0


def test_a_spent_budget_makes_a_block_part_of_the_answer() -> None:
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


def test_an_error_is_fed_back_behind_what_was_printed() -> None:
    *_, info = begun().step("```python\nprint(1)\n1 / 0\n```\n")
    assert info["feedback"] == "```output\n1\nZeroDivisionError: division by zero\n```\n"
    assert (info["execution_status"], info["interactions_left"]) == ("error", 1)


def test_a_long_result_is_cut_in_its_middle() -> None:
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


def test_a_scanner_says_where_the_next_action_will_end() -> None:
    env = make(interaction_budget=1)
    assert env.action_scanner() is None
    env.reset()
    scanner = env.action_scanner()
    assert scanner is not None
    assert scanner.feed(CODE + "more") == len(CODE) == env.step(CODE + "more")[4]["kept_chars"]
    assert env.action_scanner() is None  # the budget is spent: nothing ends the answer


def test_information_has_the_same_keys_throughout() -> None:
    env = make()
    _, first = env.reset()
    assert first.keys() == env.step(CODE)[4].keys() == env.step("x")[4].keys() == INFO_KEYS


def test_the_right_answer_is_kept_back_until_the_end() -> None:
    env = begun()
    assert env.step(CODE)[4]["answer"] is None
    assert env.step(CODE)[4]["answer"] is None
    assert env.step(CODE)[4]["answer"] == "6"


# --- lengths ------------------------------------------------------------------------------------------------


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


def test_a_prompt_that_leaves_no_room_is_named() -> None:
    with pytest.raises(OptionError) as caught:
        begun(max_transcript_chars=len(PROMPT))
    assert str(caught.value) == (
        f"Expect `max_transcript_chars` to leave room behind the prompt, got {len(PROMPT)} for the {len(PROMPT)} "
        "characters of problem 'product-2'. Raise it, or leave the problem out."
    )


# --- faults of ours -----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("grader", [FakeGrader(valid=False), FakeGrader(unavailable=True)])
def test_an_answer_that_we_can_not_judge_is_neither_right_nor_wrong(grader: FakeGrader) -> None:
    _, reward, terminated, truncated, info = begun(grader=grader).step("\\boxed{6}")
    assert (reward, terminated, truncated, info["reward_valid"]) == (0.0, True, False, False)
    assert (info["correct"], info["predicted"]) == (False, "6")


def test_an_episode_after_a_fault_is_a_new_one() -> None:
    env = begun(sandbox=FakeSandbox(broken=True))
    env.step(CODE)
    env.reset(options={"problem_index": 0})
    *_, info = env.step("\\boxed{6}")
    assert (info["reward_valid"], info["correct"]) == (True, True)


# --- seeds and options --------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_episodes() -> None:
    runs = []
    for env in (make(problems="products"), make(problems="products")):
        runs.append([env.reset(seed=5)[1]["problem_id"], *(env.reset()[1]["problem_id"] for _ in range(5))])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 6
    assert make(problems="products").reset(seed=6)[1]["problem_id"] != runs[0][0]


def test_every_problem_comes_up() -> None:
    env = make()
    env.reset(seed=1)
    assert {env.reset()[1]["problem_id"] for _ in range(100)} == {problem.id for problem in env.problems}


def test_options_pick_the_problem_and_the_budget_of_one_episode() -> None:
    env = make()
    _, info = env.reset(options={"problem_index": np.int64(3), "interaction_budget": 7})
    assert (info["problem_id"], info["interaction_budget"], info["interactions_left"]) == ("product-5", 7, 7)
    assert env.reset()[1]["interaction_budget"] == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"budget": 3},
            OptionError,
            "Expect as reset options only 'problem_index' and 'interaction_budget', got 'budget'.",
        ),
        (
            {"problem_idx": 3},
            OptionError,
            "Expect as reset options only 'problem_index' and 'interaction_budget', got 'problem_idx'. "
            "Did you mean 'problem_index'?",
        ),
        (
            [3],
            OptionError,
            "Expect `options` to be a mapping with 'problem_index' and 'interaction_budget', got list.",
        ),
        ({"interaction_budget": -1}, OptionError, "Expect `interaction_budget` to be at least 0, got -1."),
        ({"interaction_budget": 1.5}, OptionError, "Expect `interaction_budget` to be an integer, got 1.5."),
        ({"problem_index": "1"}, OptionError, "Expect `problem_index` to be an integer, got '1'."),
        ({"problem_index": True}, OptionError, "Expect `problem_index` to be an integer, got True."),
        ({"problem_index": 5}, ProblemError, "Expect `problem_index` to be from 0 to 4, got 5."),
        ({"problem_index": -1}, ProblemError, "Expect `problem_index` to be from 0 to 4, got -1."),
    ],
)
def test_a_bad_reset_option_is_named(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make().reset(options=options)
    assert str(caught.value) == message


def test_a_refused_reset_leaves_the_episode_as_it_was() -> None:
    env = begun()
    with pytest.raises(OptionError):
        env.reset(options={"budget": 3})
    assert env.step("\\boxed{6}")[1] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interaction_budget": -1}, "Expect `interaction_budget` to be at least 0, got -1."),
        ({"interaction_budget": "2"}, "Expect `interaction_budget` to be an integer, got '2'."),
        ({"max_output_chars": 0}, "Expect `max_output_chars` to be at least 1, got 0."),
        ({"max_transcript_chars": None}, "Expect `max_transcript_chars` to be an integer, got None."),
        ({"reward_correct": "1"}, "Expect `reward_correct` to be a finite number, got '1'."),
        ({"reward_incorrect": float("nan")}, "Expect `reward_incorrect` to be a finite number, got nan."),
        (
            {"observation": "transcripts"},
            "Expect `observation` to be 'transcript' or 'feedback', got 'transcripts'. Did you mean 'transcript'?",
        ),
        ({"stateful": 1}, "Expect `stateful` to be False or True, got 1."),
        ({"render_mode": "rgb"}, "Expect `render_mode` to be None, 'ansi' or 'human', got 'rgb'."),
        ({"time_limit_s": "5"}, "Expect `time_limit_s` to be a finite number, got '5'."),
        ({"memory_limit_mb": 0}, "Expect `memory_limit_mb` to be at least 1, got 0."),
        ({"sandbox": "local"}, "Expect `sandbox` to be a `Sandbox` or None, got str."),
        ({"grader": "strict"}, "Expect `grader` to be a `Grader` or None, got str."),
        (
            {"prompt": "txt"},
            "Expect `prompt` to be 'cir', 'text', 'cir_one_shot', 'text_one_shot', 'question' or a function, "
            "got 'txt'. Did you mean 'text'?",
        ),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        make(**arguments)
    assert str(caught.value) == message


def test_a_time_limit_of_zero_is_refused() -> None:
    with pytest.raises(OptionError, match=r"^Expect `time_limit_s` to be a finite number above 0, got 0.0"):
        make(time_limit_s=0)


@pytest.mark.parametrize(("problems", "split"), [("no such set", "train"), (3, "train"), ("products", "dev")])
def test_problems_that_there_are_none_of_are_refused_when_the_environment_is_made(problems: Any, split: str) -> None:
    with pytest.raises(ProblemError, match=r"^Expect `(problems|split)` to be "):
        make(problems=problems, split=split)


@pytest.mark.parametrize("action", [None, 3, b"x", ["x"]])
def test_an_action_that_is_no_string_is_refused(action: Any) -> None:
    with pytest.raises(ActionError) as caught:
        begun().step(action)
    assert str(caught.value) == f"Expect an action to be a string, got {type(action).__name__}."


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (make, "Expect an episode in progress, got none. Call reset() first."),
        (
            lambda: ended(begun()),
            "Expect an episode in progress, got one that is over. Call reset() first.",
        ),
        (lambda: closed(begun()), "Expect an open environment, got one that is closed. Make a new one."),
    ],
)
def test_a_step_without_an_episode_is_refused(prepare: Callable[[], CodeMathEnv], message: str) -> None:
    with pytest.raises(EpisodeError) as caught:
        prepare().step("x")
    assert str(caught.value) == message


def ended(env: CodeMathEnv) -> CodeMathEnv:
    env.step("x")
    return env


def closed(env: CodeMathEnv) -> CodeMathEnv:
    env.close()
    env.close()
    return env


def test_a_closed_environment_can_not_be_reset() -> None:
    with pytest.raises(EpisodeError) as caught:
        closed(begun()).reset()
    assert str(caught.value) == "Expect an open environment, got one that is closed. Make a new one."


# --- rendering ----------------------------------------------------------------------------------------------


def test_ansi_rendering_returns_the_transcript_and_then_the_outcome() -> None:
    env = begun(render_mode="ansi")
    env.step(CODE)
    assert env.render() == PROMPT + CODE + FEEDBACK
    env.step("\\boxed{7}")
    assert env.render() == PROMPT + CODE + FEEDBACK + "\\boxed{7}\n[reward -1: answer '7', right '6']\n"


def test_human_rendering_prints_the_transcript_once_as_it_grows(capsys: pytest.CaptureFixture[str]) -> None:
    env = begun(render_mode="human")
    assert capsys.readouterr().out == PROMPT
    env.step(CODE)
    assert env.render() is None
    assert capsys.readouterr().out == CODE + FEEDBACK
    env.step("\\boxed{6}")
    assert capsys.readouterr().out == "\\boxed{6}\n[reward +1: answer '6', right '6']\n"


def test_human_rendering_prints_what_no_terminal_can_show(capsys: pytest.CaptureFixture[str]) -> None:
    begun(render_mode="human").step("\ud800")
    assert "\\ud800" in capsys.readouterr().out


def test_rendering_without_a_mode_warns() -> None:
    with pytest.warns(UserWarning, match="Expect a `render_mode` to render, got None"):
        assert begun().render() is None


def test_rendering_before_a_reset_is_refused() -> None:
    with pytest.raises(EpisodeError) as caught:
        make(render_mode="ansi").render()
    assert str(caught.value) == "Expect an episode to render, got an environment that is not reset yet."


# --- as Gymnasium sees it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CodeMath-v0", "cir_env:CodeMath-v0"])
@pytest.mark.parametrize("observation", ["transcript", "feedback"])
def test_gymnasium_finds_nothing_to_complain_about(name: str, observation: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(name, observation=observation, grader=FakeGrader(), sandbox=FakeSandbox())
        check_env(env.unwrapped)
        env.close()


def test_making_an_environment_needs_no_arguments_and_starts_nothing() -> None:
    before = threading.active_count()
    env = gymnasium.make("CodeMath-v0")
    _, info = env.reset(seed=0)
    assert (info["source"], threading.active_count()) == ("arithmetic", before)


def test_sixty_four_environments_share_their_problems_and_are_cheap() -> None:
    gymnasium.make("CodeMath-v0")
    begin = time.process_time()
    envs = [gymnasium.make("CodeMath-v0") for _ in range(64)]
    assert time.process_time() - begin < 1.0
    assert all(env.unwrapped.problems is envs[0].unwrapped.problems for env in envs)  # type: ignore[attr-defined]


def test_the_spec_and_the_spaces_survive_pickling() -> None:
    env = gymnasium.make("CodeMath-v0", problems=products(), interaction_budget=3)
    spec = pickle.loads(pickle.dumps(env.spec))
    assert spec.make().reset()[1]["interaction_budget"] == 3
    assert pickle.loads(pickle.dumps(env.observation_space)) == env.observation_space == UnicodeText(65_536)
    assert pickle.loads(pickle.dumps(env.action_space)) == env.action_space == UnicodeText()


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'budget'"):
        gymnasium.make("CodeMath-v0", budget=3)


def test_episode_statistics_can_be_recorded() -> None:
    env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("CodeMath-v0", **fakes()))
    env.reset(seed=0, options={"problem_index": 0})
    env.step(CODE)
    *_, info = env.step("\\boxed{6}")
    assert (info["episode"]["r"], info["episode"]["l"]) == (1.0, 2)


def fakes() -> dict[str, Any]:
    return {"problems": products(), "sandbox": FakeSandbox(), "grader": FakeGrader()}


def test_environments_work_side_by_side_in_threads() -> None:
    envs = [make() for _ in range(8)]
    rewards: list[float] = []

    def play(env: CodeMathEnv) -> None:
        for index in range(len(env.problems)):
            env.reset(options={"problem_index": index})
            env.step(CODE)
            rewards.append(env.step(f"\\boxed{{{env.problems[index].answer}}}")[1])

    threads = [threading.Thread(target=play, args=(env,)) for env in envs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rewards == [1.0] * 40


def test_synchronous_vectors_keep_the_types_of_the_information() -> None:
    envs = gymnasium.make_vec("CodeMath-v0", num_envs=2, vectorization_mode="sync", **fakes())
    envs.reset(seed=0, options={"problem_index": 0})
    texts, rewards, terminated, _, info = envs.step(("\\boxed{6}", CODE))  # type: ignore[arg-type]
    assert texts == (PROMPT + "\\boxed{6}", PROMPT + CODE + FEEDBACK)
    assert (rewards.tolist(), terminated.tolist()) == ([1.0, 0.0], [True, False])
    assert (info["predicted"].tolist(), info["correct"].tolist()) == (["6", None], [True, False])
    assert (info["answer"].tolist(), info["execution_status"].tolist()) == (["6", None], [None, "ok"])


# --- with the real sandbox and the real grader ------------------------------------------------------------------


def test_a_real_episode_in_an_asynchronous_vector() -> None:
    vector = {"context": "forkserver"}
    envs = gymnasium.make_vec(
        "CodeMath-v0", num_envs=2, vectorization_mode="async", vector_kwargs=vector, problems=products()
    )
    try:
        first, _ = envs.reset(options={"problem_index": 0})
        second = envs.step((CODE, "```python\n1 / 0\n```\n"))[0]  # type: ignore[arg-type]
        rewards = envs.step(("\\boxed{6}", "\\boxed{\\frac{12}{2}}"))[1]  # type: ignore[arg-type]
    finally:
        envs.close()
    assert first == (PROMPT, PROMPT)
    assert second[0] == PROMPT + CODE + FEEDBACK
    assert second[1].endswith("```output\nZeroDivisionError: division by zero\n```\n")
    assert rewards.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("code", ["print('\\ud800')", "x = '\ud800'", "import os; os.abort()", "(", "\0"])
def test_code_that_no_interpreter_likes_ends_no_run(code: str) -> None:
    env = CodeMathEnv(problems=products())
    env.reset()
    observation, *_, truncated, info = env.step(f"```python\n{code}\n```\n")
    assert not truncated
    assert info["reward_valid"]
    assert observation.endswith("\n```\n")


def test_a_real_stateful_episode_remembers_its_names() -> None:
    env = CodeMathEnv(problems=products(), stateful=True, interaction_budget=5)
    env.reset()
    assert env.step("```python\na = 41\n```\n")[4]["feedback"] == "```output\n\n```\n"
    assert env.step("```python\nprint(a + 1)\n```\n")[4]["feedback"] == "```output\n42\n```\n"
    assert env.step(f"\\boxed{{{os.getpid()}}}")[2] is True
