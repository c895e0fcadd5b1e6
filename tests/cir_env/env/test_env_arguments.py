"""Seeds, reset options and arguments of the environment, and the errors for bad ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import CODE, begun, make

from cir_env.env import CodeMathEnv
from cir_env.errors import ActionError, EpisodeError, OptionError, ProblemError


def test_the_same_seed_gives_the_same_episodes() -> None:
    runs = []
    for env in (make(problems="products"), make(problems="products")):
        runs.append([env.reset(seed=5)[1]["problem_id"], *(env.reset()[1]["problem_id"] for _ in range(5))])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 6
    assert make(problems="products").reset(seed=6)[1]["problem_id"] != runs[0][0]


def test_every_problem_is_drawn_eventually() -> None:
    env = make()
    env.reset(seed=1)
    assert {env.reset()[1]["problem_id"] for _ in range(100)} == {problem.id for problem in env.problems}


def test_reset_options_select_problem_and_budget_of_one_episode() -> None:
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
            "Expect only the reset options 'problem_index' and 'interaction_budget', got 'budget'.",
        ),
        (
            {"problem_idx": 3},
            OptionError,
            "Expect only the reset options 'problem_index' and 'interaction_budget', got 'problem_idx'. "
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
def test_a_bad_reset_option_is_reported(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make().reset(options=options)
    assert str(caught.value) == message


def test_a_rejected_reset_keeps_the_current_episode() -> None:
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
        ({"render_mode": "rgb"}, "Expect `render_mode` to be None, 'ansi', 'human' or 'rgb_array', got 'rgb'."),
        ({"time_limit_s": "5"}, "Expect `time_limit_s` to be a finite number, got '5'."),
        ({"memory_limit_mb": 0}, "Expect `memory_limit_mb` to be at least 1, got 0."),
        ({"sandbox": None}, "Expect `sandbox` to be a `Sandbox` or a name, got NoneType."),
        (
            {"sandbox": "docker"},
            "Expect `sandbox` to be 'local', 'unsafe', 'http://HOST:PORT' or 'fusion+http://HOST:PORT', got 'docker'.",
        ),
        ({"on_exhausted": "stop"}, "Expect `on_exhausted` to be 'silent', 'tell' or 'end', got 'stop'."),
        ({"show_budget": 1}, "Expect `show_budget` to be False or True, got 1."),
        ({"error_format": "short"}, "Expect `error_format` to be 'last_line', 'full' or 'neutral', got 'short'."),
        ({"reward": "math:pi"}, "Expect the reward 'math:pi' to be a function, got float."),
        ({"system_prompt": 3}, "Expect `system_prompt` to be a text or None, got int."),
        (
            {"packages": ["tqdm"]},
            "Expect `packages` only with a sandbox given by name, got a `Sandbox` object as well.",
        ),
        (
            {"packages": ["tqmd"], "sandbox": "local"},
            "Expect in `packages` the name of an installed package, as blocks import it, got 'tqmd'. "
            "Did you mean 'tqdm'?",
        ),
        (
            {"packages": "tqdm", "sandbox": "local"},
            "Expect `packages` to be a sequence of names, got 'tqdm'.",
        ),
        (
            {"packages": ["tqdm"], "sandbox": "http://localhost:1"},
            "Expect no `packages` beside a sandbox server, which decides what blocks may import, got ('tqdm',) "
            "for 'http://localhost:1'.",
        ),
        ({"grader": "strict"}, "Expect `grader` to be a `Grader` or None, got str."),
        (
            {"prompt": "txt"},
            "Expect `prompt` to be 'cir', 'text', 'cir_one_shot', 'text_one_shot', 'question', a .txt or .md file, "
            "'module:function' or a function, got 'txt'. Did you mean 'text'?",
        ),
    ],
)
def test_a_bad_argument_is_reported(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        make(**arguments)
    assert str(caught.value) == message


def test_a_time_limit_of_zero_is_rejected() -> None:
    with pytest.raises(OptionError, match=r"^Expect `time_limit_s` to be a number above 0 and at most 86,400, got 0.0"):
        make(time_limit_s=0)


@pytest.mark.parametrize(("problems", "split"), [("no such set", "train"), (3, "train"), ("products", "dev")])
def test_unknown_problems_and_splits_are_rejected_at_construction(problems: Any, split: str) -> None:
    with pytest.raises(ProblemError, match=r"^Expect `(problems|split)` to be "):
        make(problems=problems, split=split)


@pytest.mark.parametrize("action", [None, 3, b"x", ["x"]])
def test_an_action_that_is_not_a_string_is_rejected(action: Any) -> None:
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
def test_a_step_without_an_episode_is_rejected(prepare: Callable[[], CodeMathEnv], message: str) -> None:
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


def test_a_closed_environment_cannot_be_reset() -> None:
    with pytest.raises(EpisodeError) as caught:
        closed(begun()).reset()
    assert str(caught.value) == "Expect an open environment, got one that is closed. Make a new one."


def test_the_system_prompt_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "system.txt"
    path.write_text("Be brief.\n")
    prompt, info = make(prompt="question", system_prompt=str(path)).reset(options={"problem_index": 0})
    assert info["messages"][0] == {"role": "system", "content": "Be brief."}
    assert prompt == "Be brief.\n\nWhat is 2 * 3?"


def test_the_reward_may_be_a_function_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text("def count(episode):\n    return len(episode.statuses)\n")
    monkeypatch.syspath_prepend(tmp_path)
    env = begun(reward="my_rewards:count")
    env.step(CODE)
    assert env.step("\\boxed{6}")[1] == 1.0


@pytest.mark.slow
def test_blocks_may_import_the_packages_that_are_named() -> None:
    code = "```python\nimport tqdm\nprint(list(tqdm.trange(3, disable=True)))\n```\n"
    outcomes = []
    for packages in ((), ("tqdm",)):
        env = begun(sandbox="local", packages=packages, observation="feedback")
        outcomes.append(env.step(code)[0])
    without, named = outcomes
    assert without.startswith("```output\nModuleNotFoundError: No module named 'tqdm' (blocks can import ")
    assert named == "```output\n[0, 1, 2]\n```\n"
