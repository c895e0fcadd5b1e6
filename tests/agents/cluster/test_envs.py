"""Environments in actors answer as those in this process do, also after one of their processes is lost."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest
from cluster_fakes import NoWeights, open_calls, open_failing, open_fickle, open_lost
from cluster_requests import ASKED, at_first, content, play, recipe
from processes import is_alive
from ray_processes import descendants, processes
from runs import beside, wait_for
from scripted import ByteChat, FakeEngine, scripted

from agents import presets
from agents.cluster.envs import ActorPool, EnvActorsSource
from agents.cluster.source import ClusterSource
from agents.config.cluster import ClusterConfig
from agents.core.errors import EngineFault
from agents.engines.base import Sampling, Weights
from agents.rollout.envs import EnvPool, open_split
from agents.rollout.source import LocalSource, Player

CHAT: Any = ByteChat()
SLEEP = "```python\nimport time\ntime.sleep(0.3)\nprint(7)\n```\n"


@contextmanager
def player(open_envs: Callable[[int], EnvPool], engine: FakeEngine | None = None, **cluster: Any) -> Iterator[Player]:
    """Plays with an engine in this process and four copies in actors."""
    engine = engine or FakeEngine(CHAT, poll_s=0.004)
    made = EnvActorsSource(engine, CHAT, count=4, cluster=ClusterConfig(**({"env_actors": 2} | cluster)))
    with closing(made) as source, closing(open_envs(1)) as envs:
        source.load_weights(3, Weights.of({}))
        yield source.player(envs)


def writer() -> FakeEngine:
    """Writes a block that takes a moment, and then the answer."""
    engine = FakeEngine(CHAT, scripted(SLEEP, "\\boxed{7}"), max_model_len=800)
    engine.load_weights(3, Weights.of({}))
    return engine


def is_gone(pid: int) -> bool:
    return not is_alive(pid)


def in_block(pid: int) -> bool:
    """Whether a sandbox runs a block: it is the child of the one that starts them."""
    return any(descendants(child) for child in descendants(pid))


@pytest.mark.slow
def test_a_process_of_environments_that_is_lost_or_hangs_is_replaced_and_its_episodes_go_on(
    nodes: Any, expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with player(open_calls) as plays:
        assert play(plays) == expected
        monkeypatch.setattr(plays._envs, "_patience_s", 2.0)
        for number in (signal.SIGKILL, signal.SIGSTOP):
            lost = processes("EnvActor")[0]
            assert play(plays, on_end=at_first(partial(os.kill, lost, number))) == expected
            wait_for(partial(is_gone, lost))


@pytest.mark.slow
def test_a_process_of_environments_killed_in_a_code_block_takes_the_block_with_it(nodes: Any) -> None:
    open_envs = open_split(presets["tiny"]().env, 1, split="train").open_others
    blocks: list[int] = []

    def kill() -> None:
        wait_for(lambda: any(in_block(each) for each in processes("EnvActor")))
        lost = next(each for each in processes("EnvActor") if in_block(each))
        blocks.extend(descendants(lost))
        os.kill(lost, signal.SIGKILL)

    def played(plays: Player) -> list[Any]:
        collected = plays.collect(ASKED[:4], Sampling(max_tokens=400))
        assert collected is not None
        assert {each.turns[0].feedback for each in collected.trajectories} == {"```output\n7\n```\n"}
        return content(collected.trajectories)

    with closing(open_envs(4)) as envs:
        expected = played(LocalSource(writer(), CHAT).player(envs))
    with player(open_envs, writer(), env_actors=1) as plays:
        assert beside(lambda: played(plays), kill) == expected
    wait_for(lambda: all(map(is_gone, blocks)))


@pytest.mark.slow
def test_engines_of_a_cluster_have_environments_elsewhere(nodes: Any, envs: EnvPool, expected: list[Any]) -> None:
    made = ClusterSource(recipe(engines=1, env_actors=2), channel=NoWeights(), log=print)
    with closing(made) as source:
        source.load_weights(3, Weights.of({}))
        plays = source.player(envs)
        kill = at_first(lambda: os.kill(processes("EnvActor")[0], signal.SIGKILL))
        assert play(plays, on_end=kill) == expected
    wait_for(lambda: not processes("EnvActor"))


@pytest.mark.slow
def test_an_episode_that_cannot_be_played_again_ends_without_a_valid_reward(nodes: Any) -> None:
    cluster = ClusterConfig(env_actors=1)
    with closing(open_fickle(1)) as envs, closing(ActorPool(envs, 2, cluster)) as pool:
        for env_id in range(2):
            pool.reset(env_id, seed=0, options={})
            pool.recv(wait=True)
        pool.send(0, "`\n")  # is not answered
        os.kill(processes("EnvActor")[0], signal.SIGKILL)
        results = pool.recv(wait=True)
        pool.send(1, "a")
        results += pool.recv(wait=True)
    assert [each.env_id for each in results] == [0, 1]
    assert all((each.truncated, each.reward, each.info["reward_valid"]) == (True, 0.0, False) for each in results)


@pytest.mark.slow
def test_an_environments_own_error_ends_the_request(nodes: Any) -> None:
    with player(open_failing, env_actors=1) as plays:
        for _ in range(2):
            with pytest.raises(OSError, match="the environment broke"):
                play(plays)


@pytest.mark.slow
def test_environments_that_never_last_end_the_run_with_one_line(nodes: Any) -> None:
    with (
        player(open_lost, env_actors=1, max_restarts=0) as plays,
        pytest.raises(EngineFault, match=r"^Expect environments that last, got 1 processes in a row that were lost"),
    ):
        play(plays)
