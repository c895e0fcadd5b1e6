"""Copies of an environment, stepped concurrently."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from typing import Any

import gymnasium
import pytest
from agents_fakes import CallEnv, CallScanner, ScannedCallEnv, pool
from fakes import CODE, FEEDBACK, FakeSandbox, fakes

from agents.config.training import EnvConfig, TrainConfig
from agents.core.errors import ConfigError
from agents.rollout.envs import (
    EnvPool,
    EnvResult,
    ThreadedPool,
    VectorPool,
    open_pool,
    open_split,
    without_presets_arguments,
)
from cir_env.sandbox import ExecutionResult, Limits


def received(envs: EnvPool, count: int) -> dict[int, EnvResult]:
    """The next results, by copy."""
    results: dict[int, EnvResult] = {}
    while len(results) < count:
        results |= {result.env_id: result for result in envs.recv(wait=True)}
    return results


def begun(envs: EnvPool, **options: Any) -> EnvPool:
    """The pool with an episode in progress in every copy."""
    for env_id in range(len(envs)):
        envs.reset(env_id, seed=env_id, options=options)
    received(envs, len(envs))
    return envs


def test_a_reset_returns_the_prompt() -> None:
    with pool(CallEnv, 2) as envs:
        envs.reset(1, seed=0, options={"problem_index": 3})
        (result,) = envs.recv(wait=True)
    assert (result.env_id, result.observation, result.info["problem_id"]) == (1, "Q3: ", "3")
    assert (result.reward, result.terminated, result.truncated) == (0.0, False, False)


def test_a_step_returns_what_the_environment_returns() -> None:
    with pool(CallEnv, 1) as envs:
        begun(envs).send(0, "call `\n\nmore")
        (call,) = envs.recv(wait=True)
        envs.send(0, "a")
        (answer,) = envs.recv(wait=True)
    assert (call.observation, call.info["kept_chars"], call.terminated) == ("[1]\n", 8, False)
    assert (answer.observation, answer.reward, answer.terminated, answer.truncated) == ("", 1.0, True, False)


def test_the_seed_reaches_the_copy_and_no_options_are_none() -> None:
    class Spy(CallEnv):
        def reset(self, **arguments: Any) -> tuple[str, dict[str, Any]]:
            return str(arguments), {}

    with pool(Spy, 1) as envs:
        envs.reset(0, seed=5, options={})
        (result,) = envs.recv(wait=True)
    assert result.observation == "{'seed': 5, 'options': None}"


def test_copies_are_separate() -> None:
    with pool(CallEnv, 3) as envs:
        begun(envs, problem_index=1)
        envs.send(0, "call `\n")
        envs.send(2, "z")
        results = received(envs, 2)
    assert (results[0].terminated, results[2].terminated) == (False, True)
    assert [env.actions for env in envs.envs if isinstance(env, CallEnv)] == [["call `\n"], [], ["z"]]
    assert len(envs) == 3


def test_sending_returns_at_once_and_steps_overlap() -> None:
    barrier = threading.Barrier(3, timeout=20)

    class Meeting(CallEnv):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            barrier.wait()  # passes only when all three copies are in a step at the same time
            return super().step(action)

    with pool(Meeting, 3) as envs:
        begun(envs)
        for env_id in range(3):
            envs.send(env_id, "a")
        assert received(envs, 3).keys() == {0, 1, 2}


def test_results_come_in_the_order_in_which_copies_finish() -> None:
    turn = threading.Event()

    class Slow(CallEnv):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            if action == "slow":
                turn.wait(20)
            return super().step(action)

    with pool(Slow, 2) as envs:
        begun(envs)
        envs.send(0, "slow")
        envs.send(1, "fast")
        assert [result.env_id for result in envs.recv(wait=True)] == [1]
        assert envs.recv(wait=False) == []
        turn.set()
        assert [result.env_id for result in envs.recv(wait=True)] == [0]


def test_all_finished_results_are_received_together() -> None:
    barrier = threading.Barrier(4, timeout=20)

    class Meeting(CallEnv):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            barrier.wait()
            return super().step(action)

    with pool(Meeting, 3) as envs:
        begun(envs)
        for env_id in range(3):
            envs.send(env_id, "a")
        barrier.wait()
        envs.close()  # waits for all three
        assert len(envs.recv(wait=False)) == 3


def test_waiting_for_nothing_is_an_error() -> None:
    message = r"^Expect a reset or an action in flight before recv\(wait=True\), got none\.$"
    with pool(CallEnv, 1) as envs, pytest.raises(RuntimeError, match=message):
        envs.recv(wait=True)


def test_receiving_without_waiting_may_return_nothing() -> None:
    with pool(CallEnv, 1) as envs:
        assert envs.recv(wait=False) == []


def test_an_error_of_an_environment_is_raised_by_recv() -> None:
    with pool(lambda: CallEnv(fail_at=1), 1) as envs:
        begun(envs).send(0, "a")
        with pytest.raises(OSError, match="the environment broke"):
            envs.recv(wait=True)


def test_a_drained_pool_can_be_used_again() -> None:
    with pool(lambda: CallEnv(fail_at=1, fail_on=2, delay_s=0.01), 3) as envs:
        for env_id, problem in enumerate((1, 2, 3)):
            envs.reset(env_id, seed=0, options={"problem_index": problem})
        received(envs, 3)
        for env_id in range(3):
            envs.send(env_id, "a")
        envs.drain()
        assert envs.recv(wait=False) == []
        begun(envs, problem_index=1).send(1, "a")
        assert received(envs, 1)[1].reward == 1.0


def test_the_scanner_of_the_next_action_comes_with_the_result() -> None:
    with pool(lambda: ScannedCallEnv(calls=1), 1) as envs:
        envs.reset(0, seed=0, options={})
        (fresh,) = envs.recv(wait=True)
        envs.send(0, "`\n")
        (spent,) = envs.recv(wait=True)
        envs.send(0, "a")
        (over,) = envs.recv(wait=True)
    assert isinstance(fresh.scanner, CallScanner)
    assert spent.scanner is None
    assert over.scanner is None


def test_after_the_end_no_scanner_is_asked_for() -> None:
    class Eager(CallEnv):
        def action_scanner(self) -> CallScanner:
            return CallScanner()

    with pool(Eager, 1) as envs:
        begun(envs).send(0, "a")
        (over,) = envs.recv(wait=True)
    assert over.terminated
    assert over.scanner is None


def test_each_action_has_its_own_scanner() -> None:
    with pool(ScannedCallEnv, 2) as envs:
        for env_id in range(2):
            envs.reset(env_id, seed=0, options={})
        results = received(envs, 2)
    assert results[0].scanner is not results[1].scanner


def test_an_environment_needs_no_scanner() -> None:
    with pool(CallEnv, 1) as envs:
        envs.reset(0, seed=0, options={})
        assert envs.recv(wait=True)[0].scanner is None


def test_wrappers_hide_neither_the_scanner_nor_the_problems() -> None:
    with pool(lambda: gymnasium.wrappers.OrderEnforcing(ScannedCallEnv()), 1) as envs:
        assert envs.num_problems == 8
        envs.reset(0, seed=0, options={})
        assert isinstance(envs.recv(wait=True)[0].scanner, CallScanner)


def test_an_environment_needs_no_problem_set() -> None:
    class Endless(gymnasium.Env[str, str]):
        action_space = observation_space = gymnasium.spaces.Text(10)

    with pool(Endless, 1) as envs:
        assert envs.num_problems is None


def test_closing_waits_for_the_steps_and_closes_every_copy() -> None:
    envs = ThreadedPool(lambda: CallEnv(delay_s=0.05), 2)
    begun(envs).send(0, "a")
    envs.close()
    assert [env.closed for env in envs.envs if isinstance(env, CallEnv)] == [True, True]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("env")]


def test_if_a_copy_cannot_be_created_the_earlier_ones_are_closed() -> None:
    made: list[CallEnv] = []

    def make_env() -> CallEnv:
        if len(made) == 2:
            raise ValueError("no third")
        made.append(CallEnv())
        return made[-1]

    with pytest.raises(ValueError, match="no third"):
        ThreadedPool(make_env, 3)
    assert [env.closed for env in made] == [True, True]


# -------------------------------------------------------------------------------------------------- vector environments


@pytest.fixture
def vector_pool() -> Iterator[EnvPool]:
    with closing(open_pool("cir_env:CodeMath-v0", 3, observation="feedback", **fakes())) as envs:
        yield envs


def test_an_environment_with_an_asynchronous_vector_needs_no_threads(vector_pool: EnvPool) -> None:
    assert isinstance(vector_pool, VectorPool)
    assert (len(vector_pool), vector_pool.num_problems) == (3, 5)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("env")]


def test_any_other_environment_is_stepped_by_threads() -> None:
    gymnasium.register(id="Calls-v0", entry_point=CallEnv, disable_env_checker=True)
    with closing(open_pool("Calls-v0", 2, delay_s=0.0)) as envs:
        assert isinstance(envs, ThreadedPool)
    del gymnasium.registry["Calls-v0"]


def test_a_vector_pool_returns_what_its_copies_return(vector_pool: EnvPool) -> None:
    begun(vector_pool, problem_index=0).send(1, CODE)
    vector_pool.send(2, "\\boxed{6}")
    results = received(vector_pool, 2)
    assert (results[1].observation, results[1].info["kept_chars"]) == (FEEDBACK, len(CODE))
    assert (results[2].reward, results[2].terminated, results[2].info["correct"]) == (1.0, True, True)
    assert (results[1].scanner is None, results[2].scanner is None) == (False, True)
    assert vector_pool.recv(wait=False) == []


def test_a_vector_pool_begins_episodes_with_their_own_seeds_and_options(vector_pool: EnvPool) -> None:
    for env_id in range(3):
        vector_pool.reset(env_id, seed=env_id, options={"problem_index": env_id, "interaction_budget": env_id})
    results = received(vector_pool, 3)
    assert [results[i].info["interaction_budget"] for i in range(3)] == [0, 1, 2]
    assert len({results[i].info["problem_id"] for i in range(3)}) == 3
    assert results[0].scanner is None


def test_a_vector_pool_closes_without_waiting_for_its_blocks() -> None:
    class Stuck(FakeSandbox):
        def submit(self, code: str, limits: Limits | None = None) -> "Future[ExecutionResult]":
            return Future()

    with closing(open_pool("cir_env:CodeMath-v0", 1, **(fakes() | {"sandbox": Stuck()}))) as envs:
        begun(envs).send(0, CODE)
        assert envs.recv(wait=False) == []


def test_a_vector_pool_discards_what_is_drained(vector_pool: EnvPool) -> None:
    begun(vector_pool).send(0, CODE)
    vector_pool.drain()
    assert vector_pool.recv(wait=False) == []
    with pytest.raises(RuntimeError, match="Expect an action in flight, got none"):
        vector_pool.recv(wait=True)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Nope-v0", "Expect `env.id` of an environment that Gymnasium knows, .*, got 'Nope-v0': .*"),
        ("no_such_module:Nope-v0", ".*No module named 'no_such_module'."),
        ("CartPole-v1", "Expect `env.id` of an environment whose actions are text, got 'CartPole-v1'."),
    ],
)
def test_an_environment_without_text_actions_is_rejected(env_id: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        open_split(EnvConfig(id=env_id), 1, split="train")


class Plain(gymnasium.Env[str, str]):
    """A text environment with one argument."""

    action_space = observation_space = gymnasium.spaces.Text(10)

    def __init__(self, *, problems: str = "mine") -> None:
        self.chosen = problems


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> str:
    """Its id."""
    monkeypatch.setitem(gymnasium.registry, "Plain-v0", gymnasium.envs.registration.EnvSpec("Plain-v0", Plain))
    return "Plain-v0"


def test_another_environment_gets_only_the_arguments_that_it_accepts(plain: str) -> None:
    with closing(open_split(EnvConfig(id=plain, problems="ours"), 1, split="train", prompt="text")) as envs:
        assert envs.envs[0].get_wrapper_attr("chosen") == "ours"


@pytest.mark.parametrize(
    ("changes", "names"),
    [({"stateful": True}, "`env.stateful`"), ({"prompt": "text", "packages": ("x",)}, "`env.prompt`, `env.packages`")],
)
def test_a_set_argument_that_the_environment_does_not_accept_is_rejected(
    plain: str, changes: dict[str, Any], names: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        open_split(EnvConfig(id=plain, **changes), 1, split="train")
    assert str(caught.value) == (f"Expect only arguments that the environment 'Plain-v0' accepts, got {names}.")


def test_arguments_of_a_preset_are_not_passed_to_another_environment(plain: str) -> None:
    preset = TrainConfig(env=EnvConfig(problems="arithmetic", prompt="question"))
    config = without_presets_arguments(replace(preset, env=replace(preset.env, id=plain)), preset)
    assert config.env == EnvConfig(id=plain, problems="arithmetic")
    chosen = replace(preset, env=EnvConfig(id=plain, problems="arithmetic", prompt="text"))
    assert without_presets_arguments(chosen, preset) == chosen
