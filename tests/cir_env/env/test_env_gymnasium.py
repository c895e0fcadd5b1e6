"""The environment under Gymnasium's API, and with the real sandbox and grader."""

import copy
import inspect
import pickle
import re
import threading
import time
import warnings
from typing import Any

import gymnasium
import pytest
from fakes import CODE, FEEDBACK, PROMPT, FakeGrader, FakeSandbox, fakes, make, products
from gymnasium.utils.env_checker import check_env

import cir_env  # noqa: F401  (registers CodeMath-v0)
from cir_env.env import CodeMathEnv
from cir_env.grading.grader import Grader
from cir_env.sandbox import LocalSandbox
from cir_env.spaces import UnicodeText


@pytest.mark.parametrize("name", ["CodeMath-v0", "cir_env:CodeMath-v0"])
@pytest.mark.parametrize("observation", ["transcript", "feedback"])
def test_the_gymnasium_checker_passes(name: str, observation: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(name, observation=observation, grader=FakeGrader(), sandbox=FakeSandbox())
        check_env(env.unwrapped)
        env.close()


def test_an_environment_needs_no_arguments_and_starts_no_process() -> None:
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


def test_the_docstring_has_the_fixed_headings_and_every_key_and_argument() -> None:
    article = CodeMathEnv.__doc__ or ""
    assert re.findall(r"^ *## (.*)$", article, re.MULTILINE) == [
        "Description",
        "Action Space",
        "Observation Space",
        "Rewards",
        "Starting State",
        "Episode End",
        "Information",
        "Arguments",
        "Vectorized environment",
        "References",
        "Version History",
    ]
    arguments = inspect.signature(CodeMathEnv).parameters
    assert [name for name in [*make().reset()[1], *arguments] if f"`{name}`" not in article] == []


def test_an_unknown_argument_is_reported() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'budget'"):
        gymnasium.make("CodeMath-v0", budget=3)


def test_episode_statistics_can_be_recorded() -> None:
    env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("CodeMath-v0", **fakes()))
    env.reset(seed=0, options={"problem_index": 0})
    env.step(CODE)
    *_, info = env.step("\\boxed{6}")
    assert (info["episode"]["r"], info["episode"]["l"]) == (1.0, 2)


def test_common_wrappers_work() -> None:
    env = gymnasium.make("CodeMath-v0", max_episode_steps=2, interaction_budget=5, **fakes())
    env = gymnasium.wrappers.Autoreset(gymnasium.wrappers.TransformReward(env, lambda reward: 10 * reward))
    prompt, _ = env.reset(seed=0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        gymnasium.make("CodeMath-v0", **fakes()).step("")
    assert env.step("no answer")[1:4] == (-10.0, True, False)
    assert env.step("ignored")[1:4] == (0.0, False, False)
    env.step(CODE)
    assert env.step(CODE)[1:4] == (0.0, False, True)
    assert env.step("ignored")[0] != prompt


def test_the_passive_checker_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("CodeMath-v0", **fakes())
        assert isinstance(env.env, gymnasium.wrappers.PassiveEnvChecker)  # type: ignore[attr-defined]
        env.reset(seed=0)
        env.step(CODE)


def test_an_environment_can_be_copied_and_pickled_before_its_first_reset() -> None:
    env = CodeMathEnv(interaction_budget=4, error_format="full")
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert other.reset(seed=3)[0] == env.reset(seed=3)[0]
        assert (other.interaction_budget, other.error_format) == (4, "full")


def test_the_spec_goes_through_json() -> None:
    spec = gymnasium.make("CodeMath-v0", interaction_budget=4, prompt="question").spec
    assert spec is not None
    again = gymnasium.envs.registration.EnvSpec.from_json(spec.to_json())
    assert again.kwargs == {"interaction_budget": 4, "prompt": "question"}
    assert again.make().reset(seed=0)[1]["interaction_budget"] == 4


def test_the_environment_is_registered() -> None:
    assert "CodeMath-v0" in str(gymnasium.pprint_registry(disable_print=True))


def test_two_seeded_rollouts_are_the_same() -> None:
    def rollout() -> list[Any]:
        env = make(stateful=True)
        seen: list[Any] = [env.reset(seed=11)]
        for action in [CODE, "text", CODE, CODE, "\\boxed{6}"]:
            seen.append(env.step(action))
            if seen[-1][2] or seen[-1][3]:
                seen.append(env.reset())
        return seen

    assert rollout() == rollout()


def test_environments_run_concurrently_in_threads() -> None:
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


# --- with the real sandbox and the real grader ---


def test_a_failed_block_shows_its_last_line_or_its_whole_traceback() -> None:
    shown = {}
    for error_format in ("last_line", "full"):
        env = make(sandbox="local", error_format=error_format)
        env.reset(seed=0)
        shown[error_format] = env.step("```python\n1 / 0\n```\n")[4]["feedback"].splitlines()
    assert shown["last_line"] == ["```output", "ZeroDivisionError: division by zero", "```"]
    assert shown["full"][1:3] == ["Traceback (most recent call last):", '  File "<block>", line 1, in <module>']


def test_a_real_episode_in_an_asynchronous_vector() -> None:
    vector = {"context": "forkserver"}
    envs = gymnasium.make_vec(
        "CodeMath-v0", num_envs=2, vectorization_mode="async", vector_kwargs=vector, problems=products()
    )
    try:
        first, _ = envs.reset(options={"problem_index": 0})
        second = envs.step((CODE, "```python\n1 / 0\n```\n"))[0]  # type: ignore[arg-type]
        rewards = envs.step(("\\boxed{6}", "\\boxed{6.0}"))[1]  # type: ignore[arg-type]
    finally:
        envs.close()
    assert first == (PROMPT, PROMPT)
    assert second[0] == PROMPT + CODE + FEEDBACK
    assert second[1].endswith("```output\nZeroDivisionError: division by zero\n```\n")
    assert rewards.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("code", ["print('\\ud800')", "x = '\ud800'", "import os; os.abort()", "(", "\0"])
def test_malformed_code_does_not_raise(code: str) -> None:
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


def test_custom_sandboxes_and_graders_pass_through_make() -> None:
    with LocalSandbox(preload=("math",)) as sandbox, Grader() as grader:
        env = gymnasium.make("CodeMath-v0", sandbox=sandbox, grader=grader)
        check_env(env.unwrapped, skip_render_check=True)
        assert env.unwrapped.spec is not None
        assert env.unwrapped.spec.kwargs["sandbox"] is sandbox


@pytest.mark.parametrize(("on_exhausted", "steps"), [("silent", 3), ("end", 3), ("tell", 4)])
def test_the_budget_limits_the_steps_and_grades_the_last(on_exhausted: str, steps: int) -> None:
    env = make(interaction_budget=2, on_exhausted=on_exhausted)
    env.reset(seed=0)
    results = [env.step(CODE) for _ in range(steps)]
    assert [result[1:4] for result in results] == [(0.0, False, False)] * (steps - 1) + [(-1.0, True, False)]


def test_a_time_limit_ends_an_episode_ungraded() -> None:
    env = gymnasium.make("CodeMath-v0", max_episode_steps=1, **fakes())
    env.reset(seed=0)
    *_, reward, terminated, truncated, info = env.step("\\boxed{1}" + CODE)
    assert (reward, terminated, truncated, info["answer"]) == (0.0, False, True, None)
