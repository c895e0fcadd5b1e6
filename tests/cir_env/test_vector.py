"""The vector environment equals single environments, and no episode waits for another."""

import gc
import os
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from fakes import CODE, FEEDBACK, PROMPT, FakeGrader, FakeSandbox, fakes, make, products
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st

import cir_env  # noqa: F401
from cir_env.env import CodeMathEnv
from cir_env.errors import ActionError, EpisodeError, OptionError, ProblemError
from cir_env.grading.grader import Grader
from cir_env.sandbox import ExecutionResult, Limits, LocalSandbox
from cir_env.vector import CodeMathVectorEnv

MODES = list(AutoresetMode)


def vector(num_envs: int = 3, **arguments: Any) -> CodeMathVectorEnv:
    envs = gymnasium.make_vec("CodeMath-v0", num_envs=num_envs, **(fakes() | arguments))
    assert isinstance(envs, CodeMathVectorEnv)
    return envs


def begun(num_envs: int = 3, **arguments: Any) -> CodeMathVectorEnv:
    envs = vector(num_envs, **arguments)
    envs.reset(seed=0, options={"problem_index": 0})
    return envs


class SlowSandbox(FakeSandbox):
    """Holds back the results of blocks that contain "slow" until told to release them."""

    def __init__(self) -> None:
        super().__init__()
        self.slow: list[tuple[Future[ExecutionResult], str]] = []

    def submit(self, code: str, limits: Limits | None = None) -> "Future[ExecutionResult]":
        if "slow" not in code:
            return super().submit(code, limits)
        self.slow.append((Future(), code))
        return self.slow[-1][0]

    def release(self) -> None:
        for future, code in self.slow:
            future.set_result(self.run(code))
        self.slow.clear()


SLOW = "```python\nslow = print(2 * 3)\n```\n"


def plain(value: Any) -> Any:
    """Convert arrays to comparable values: lists with their types."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return (str(value.dtype), value.tolist()) if isinstance(value, np.ndarray) else value


ACTIONS = st.sampled_from([CODE, CODE + "more", "\\boxed{6}", "\\boxed{7}", "no answer", "", "x" * 3000, SLOW])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MODES), st.lists(st.tuples(ACTIONS, ACTIONS, ACTIONS), max_size=8), st.booleans())
def test_it_equals_gymnasiums_sync_vector_env(
    mode: AutoresetMode, rounds: list[tuple[str, ...]], stateful: bool
) -> None:
    arguments = fakes() | {"max_transcript_chars": 3000, "stateful": stateful}
    ours = CodeMathVectorEnv(3, autoreset_mode=mode, **arguments)
    single = SyncVectorEnv([lambda: CodeMathEnv(**arguments)] * 3, autoreset_mode=mode)
    assert plain(ours.reset(seed=5)[1]) == plain(single.reset(seed=5)[1])
    for actions in rounds:
        got, expected = ours.step(actions), single.step(actions)  # type: ignore[arg-type]
        assert plain(got) == plain(expected)
        over = got[2] | got[3]
        if mode is AutoresetMode.DISABLED and over.any():
            again = [envs.reset(options={"reset_mask": over.copy()}) for envs in (ours, single)]
            assert plain(again[0]) == plain(again[1])


@pytest.mark.parametrize("mode", MODES)
def test_sent_and_received_episodes_equal_stepped_ones(mode: AutoresetMode) -> None:
    sent, stepped = (CodeMathVectorEnv(2, autoreset_mode=mode, **fakes()) for _ in range(2))
    sent.reset(seed=1)
    stepped.reset(seed=1)
    rounds = [(CODE, "\\boxed{6}"), (CODE, CODE), ("\\boxed{6}", "")]
    for actions in rounds[: 1 if mode is AutoresetMode.DISABLED else 3]:
        sent.send(actions, [0, 1])
        *columns, infos = sent.recv()
        *expected, expected_infos = stepped.step(actions)
        assert plain(tuple(columns)) == plain(tuple(expected))
        assert infos["problem_id"].tolist() == expected_infos["problem_id"].tolist()
        assert infos["env_id"].tolist() == [0, 1]


def test_make_vec_creates_it_with_its_spaces() -> None:
    envs = vector(num_envs=4, autoreset_mode="SameStep")
    assert envs.num_envs == 4
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.action_space == batch_space(envs.single_action_space, 4)
    assert envs.spec is not None


def test_executions_of_a_batch_overlap() -> None:
    sandbox = SlowSandbox()
    envs = begun(3, sandbox=sandbox)
    thread = threading.Timer(0.2, sandbox.release)
    thread.start()
    observations, *_ = envs.step([SLOW] * 3)
    assert [text.endswith(FEEDBACK) for text in observations] == [True] * 3


def test_a_slow_block_delays_no_other_episode() -> None:
    sandbox = SlowSandbox()
    envs = begun(3, sandbox=sandbox, observation="feedback")
    envs.send([SLOW, CODE, CODE], range(3))
    observations, *_, infos = envs.recv()
    assert (infos["env_id"].tolist(), observations) == ([1, 2], (FEEDBACK, FEEDBACK))
    envs.send(["\\boxed{6}"], [2])
    _, rewards, terminations, _, infos = envs.recv()
    assert (infos["env_id"].tolist(), rewards.tolist(), terminations.tolist()) == ([2], [1.0], [True])
    assert envs.recv(wait=False)[0] == ()
    sandbox.release()
    assert envs.recv()[4]["env_id"].tolist() == [0]
    assert envs.in_flight == 0


def test_episodes_can_begin_one_by_one() -> None:
    envs = vector(3, autoreset_mode="Disabled")
    envs.send_reset([2, 0], seeds=[7, None], options=[None, {"problem_index": 1, "interaction_budget": 0}])
    observations, rewards, *_, infos = envs.recv()
    assert infos["env_id"].tolist() == [0, 2]
    assert (infos["problem_id"][0], infos["interaction_budget"].tolist()) == ("product-3", [0, 2])
    assert observations[1] == make().reset(seed=7)[0]
    assert rewards.tolist() == [0.0, 0.0]


def test_the_loop_of_envpools_documentation_runs() -> None:
    envs = vector(4, batch_size=2)
    envs.async_reset()
    seen: list[int] = []
    for _ in range(6):
        *_, infos = envs.recv()
        seen += infos["env_id"].tolist()
        assert len(infos["env_id"]) == 2
        envs.send([CODE, CODE], infos["env_id"])
    assert {seen.count(index) for index in range(4)} == {3}  # first come, first served
    assert envs.in_flight == 4


def test_a_batch_waits_for_no_more_than_is_in_flight() -> None:
    envs = vector(3, batch_size=3)
    envs.send_reset([2])
    assert envs.recv()[4]["env_id"].tolist() == [2]


def test_a_step_of_some_environments_sends_and_receives() -> None:
    envs = begun(3, batch_size=2)
    _, rewards, *_, infos = envs.step(["\\boxed{6}", "\\boxed{7}"], np.array([2, 0]))
    assert (infos["env_id"].tolist(), rewards.tolist()) == ([0, 2], [-1.0, 1.0])
    assert envs.in_flight == 0


def test_received_infos_are_arrays() -> None:
    envs = begun(2, autoreset_mode="SameStep")
    envs.send(["\\boxed{6}", CODE], [0, 1])
    infos = envs.recv()[4]
    assert {value.shape for value in infos.values()} == {(2,)}
    assert {name for name, value in infos.items() if value.dtype == bool} == {"correct", "reward_valid"}
    assert infos["interactions_left"].dtype == np.int64
    assert infos["final_obs"].tolist()[1] is None
    assert infos["messages"][0][0]["role"] == "user"


def test_the_next_action_resets_a_finished_episode() -> None:
    envs = begun(2)
    envs.send(["\\boxed{6}", CODE], [0, 1])
    envs.recv()
    envs.send(["ignored"], [0])
    observations, rewards, terminations, *_ = envs.recv()
    assert (observations[0][:10], rewards.tolist(), terminations.tolist()) == (PROMPT[:10], [0.0], [False])


def test_attributes_can_be_set_for_each_environment() -> None:
    envs = vector(2)
    envs.set_attr("interaction_budget", [1, 3])
    assert envs.get_attr("interaction_budget") == (1, 3)
    assert envs.reset(seed=0)[1]["interaction_budget"].tolist() == [1, 3]


def test_episode_statistics_can_be_recorded() -> None:
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(begun(2))
    envs.reset(seed=0, options={"problem_index": 0})
    envs.step(("\\boxed{6}", CODE))  # type: ignore[arg-type]
    *_, infos = envs.step(("", "\\boxed{7}"))  # type: ignore[arg-type]
    assert infos["episode"]["r"].tolist() == [0.0, -1.0]
    assert infos["episode"]["l"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: e.step(["x"] * 2), OptionError, "one action for each of 3 environments, got 2"),
        (lambda e: e.step("xyz"), OptionError, "one action for each of 3 environments, got str"),
        (lambda e: e.step(None), OptionError, "one action for each of 3 environments, got NoneType"),
        (lambda e: e.send(["x"], 0), OptionError, "Expect `env_ids` to be a sequence of integers, got 0"),
        (lambda e: e.step(["x", 1, "x"]), ActionError, "Expect an action to be a string, got int"),
        (lambda e: e.send(["x"], [3]), OptionError, "Expect `env_ids` to be from 0 to 2, got 3"),
        (lambda e: e.send(["x"], [-1]), OptionError, "Expect `env_ids` to be from 0 to 2, got -1"),
        (lambda e: e.send(["x", "x"], [1, 1]), OptionError, "Expect `env_ids` to be distinct, got 1, 1"),
        (lambda e: e.send(["x"], ["1"]), OptionError, "Expect `env_ids` to be an integer, got '1'"),
        (lambda e: e.recv(), EpisodeError, "Expect an action in flight, got none"),
        (
            lambda e: (e.send(["x"], [0]), e.send(["x"], [0])),
            EpisodeError,
            "without a step in flight, got 0. Call recv",
        ),
        (lambda e: (e.send(["x"], [0]), e.reset()), EpisodeError, "Expect no step in flight, got 1"),
        (lambda e: e.send_reset([0], seeds=[1, 2]), OptionError, "as many `seeds` as environments, 1, got 2"),
        (lambda e: e.send_reset([0], options=[{"problem_index": 99}]), ProblemError, "from 0 to 4, got 99"),
        (lambda e: (e.close(), e.step(["x"] * 3)), EpisodeError, "Expect an open environment, got one that is closed"),
        (lambda e: (e.close(), e.recv()), EpisodeError, "Expect an open environment, got one that is closed"),
    ],
)
def test_a_wrong_call_is_reported(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(begun(3))


def test_a_rejected_batch_begins_no_step() -> None:
    envs = begun(2)
    with pytest.raises(ActionError):
        envs.step([CODE, None])  # type: ignore[list-item]
    assert envs.step([CODE, CODE])[4]["n_code_blocks"].tolist() == [1, 1]


def test_stepping_before_a_reset_or_after_the_end_is_an_error() -> None:
    envs = vector(2, autoreset_mode="Disabled")
    with pytest.raises(EpisodeError, match="Expect an episode in progress in every environment, got none in 0, 1"):
        envs.step(["x", "x"])
    envs.reset(seed=0)
    envs.step(["\\boxed{6}", CODE])
    with pytest.raises(EpisodeError, match=r"got none in 0. Call reset\(\), with options={'reset_mask': ...}"):
        envs.step(["x", "x"])


def test_a_number_that_is_out_of_range_is_rejected() -> None:
    with pytest.raises(OptionError, match="Expect `num_envs` to be at least 1, got 0"):
        CodeMathVectorEnv(0)
    for size in (0, 3):
        with pytest.raises(OptionError, match=f"Expect `batch_size` to be from 1 to 2, got {size}"):
            CodeMathVectorEnv(2, batch_size=size)


def test_infrastructure_errors_are_marked_and_affect_no_other_episode() -> None:
    envs = begun(2, sandbox=FakeSandbox(broken=True))
    _, rewards, _, truncations, infos = envs.step([CODE, "\\boxed{6}"])
    assert (rewards.tolist(), truncations.tolist()) == ([0.0, 1.0], [True, False])
    assert infos["reward_valid"].tolist() == [False, True]


def held() -> dict[str, int]:
    """Count the resources of this process."""
    gc.collect()
    children = " ".join(file.read_text() for file in Path("/proc/self/task").glob("*/children"))
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "processes": len(children.split()),
        "temporary files": len(os.listdir(tempfile.gettempdir())),
    }


def test_closing_with_steps_in_flight_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = held()
    with LocalSandbox(slots=2, preload=()) as sandbox, Grader() as grader:
        envs = CodeMathVectorEnv(4, problems=products(), sandbox=sandbox, grader=grader, stateful=True)
        envs.reset(seed=0)
        envs.step([r"\boxed{\frac{12}{2}}", CODE, CODE, CODE])
        envs.send(["```python\nimport time\ntime.sleep(0.2)\n```\n"] * 4, range(4))
        assert held()["processes"] > before["processes"]
        envs.close()
        envs.close()
    assert held() == before


def test_real_blocks_run_concurrently() -> None:
    with LocalSandbox(slots=8, preload=()) as sandbox:
        envs = CodeMathVectorEnv(
            8, problems=products(), sandbox=sandbox, grader=FakeGrader(), observation="feedback", stateful=True
        )
        envs.reset(seed=0)
        envs.step([f"```python\nx = {i}\n```\n" for i in range(8)])
        observations, *_ = envs.step(["```python\nprint(x)\n```\n"] * 8)
        assert observations == tuple(f"```output\n{i}\n```\n" for i in range(8))
        envs.close()
