"""A collector over several collections: what continues, what is cancelled, and independence of timing."""

import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from agents_fakes import (
    CallEnv,
    FakeEngine,
    ScannedCallEnv,
    episodes,
    played,
    pool,
    scripted,
    tiny_qwen2,
    tokenizer,
    transformers_engine,
    write_at_random,
)
from engine_contract import CHAT

from agents.core.chat import Chat
from agents.core.types import EpisodeSpec, Trajectory
from agents.engines.base import Sampling, Weights
from agents.learning.batching import collate
from agents.learning.policy import Policy
from agents.rollout.collector import Collector
from agents.rollout.envs import EnvPool

WORDY = Chat(tokenizer(), "raw")
SAMPLING = Sampling(max_tokens=60)


def fast_and_slow(**arguments: Any) -> ScannedCallEnv:
    return ScannedCallEnv(delay_s=0.004, **arguments)


def group_ids(made: Sequence[Trajectory]) -> list[int]:
    return [each.group_id for each in made]


def content(made: Sequence[Trajectory]) -> list[Any]:
    return [(each.group_id, each.token_ids, each.logprobs, each.policy_versions, each.reward) for each in made]


def play_on(collector: Collector, engine: FakeEngine, allowance: int) -> list[list[Trajectory]]:
    """Collect until no episode is paused, with new weights each time."""
    calls = []
    while collector.as_json()["groups"]:
        engine.load_weights(engine.version + 1, Weights.of({}))
        calls.append(played(collector.collect([], SAMPLING, max_new_tokens=allowance)))
    return calls


# ------------------------------------------------------------------------------------------------- the next collection


def test_an_episode_that_has_sampled_its_allowance_continues_in_the_next_collection() -> None:
    engine = FakeEngine(WORDY, scripted("a`\n", "zzzzzzzz"))
    with pool() as envs:
        collector = Collector(envs, engine, WORDY)
        assert played(collector.collect(episodes(2), SAMPLING, max_new_tokens=5)) == []
        engine.load_weights(1, Weights.of({}))
        made = played(collector.collect([], SAMPLING, max_new_tokens=50))
    assert [each.text for each in made] == ["a`\n[1]\nzzzzzzzz"] * 2
    assert [len(each.turns) for each in made] == [2, 2]
    sampled = [v for v in made[0].policy_versions if v >= 0]
    assert sampled == [0] * 5 + [1] * (len(sampled) - 5)
    assert engine.held == set()


@pytest.mark.parametrize("allowance", [1, 3, 7])
def test_no_episode_samples_more_than_its_allowance_in_one_collection(allowance: int) -> None:
    engine = FakeEngine(WORDY)
    with pool(num_envs=24) as envs:
        collector = Collector(envs, engine, WORDY)
        calls = [played(collector.collect(episodes(24), SAMPLING, max_new_tokens=allowance))]
        calls += play_on(collector, engine, allowance)
    made = [each for call in calls for each in call]
    assert sorted(group_ids(made)) == sorted(group_ids(made)) == [n // 2 for n in range(24)]
    for each in made:
        shares = [each.policy_versions.count(version) for version in range(len(calls))]
        assert max(shares) <= allowance
        last = max(version for version, share in enumerate(shares) if share)
        assert all(shares[version] for version in range(last))


def test_a_group_is_returned_whole_though_one_episode_is_longer() -> None:
    engine = FakeEngine(WORDY, lambda request_id, turn, seed: "z" * (30 if request_id == 1 else 2))
    with pool(num_envs=6) as envs:
        collector = Collector(envs, engine, WORDY)
        first = played(collector.collect(episodes(6), SAMPLING, max_new_tokens=20))
        assert group_ids(first) == [1, 1, 2, 2]
        second = played(collector.collect([], SAMPLING, max_new_tokens=20))
    assert group_ids(second) == [0, 0]
    assert [len(each.text) for each in second] == [2, 30]


def test_characters_and_calls_that_are_cut_by_the_end_of_a_collection_are_whole_in_the_trajectory() -> None:
    engine = FakeEngine(Chat(tokenizer(words=()), "raw"), scripted("∑a`\n", "é∑z"))
    with pool(num_envs=1) as envs:
        collector = Collector(envs, engine, Chat(tokenizer(words=()), "raw"))
        calls = [played(collector.collect(episodes(1), SAMPLING, max_new_tokens=1)), *play_on(collector, engine, 1)]
    (made,) = calls[-1]
    assert made.text == "∑a`\n[1]\né∑z"
    assert len(calls) == sum(made.action_mask)


def test_what_is_paused_and_how_it_continues_does_not_depend_on_timing() -> None:
    outcomes = []
    for make_env, rows in ((ScannedCallEnv, 24), (fast_and_slow, 3), (fast_and_slow, 7)):
        engine = FakeEngine(WORDY, write_at_random, max_num_seqs=rows)
        with pool(make_env, 24) as envs:
            collector = Collector(envs, engine, WORDY)
            calls = [
                played(collector.collect(episodes(24), SAMPLING, max_new_tokens=4)),
                *play_on(collector, engine, 4),
            ]
        outcomes.append([content(call) for call in calls])
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert len(outcomes[0]) > 3


def test_a_paused_episode_has_its_own_random_stream_and_holds_nothing_in_the_engine() -> None:
    engine = FakeEngine(WORDY, scripted("zzzzzz"))
    with pool() as envs:
        collector = Collector(envs, engine, WORDY)
        collector.collect(episodes(2), SAMPLING, max_new_tokens=2)
        assert engine.held == set()
        play_on(collector, engine, 2)
    assert len({sampling.seed for sampling in engine.samplings}) == len(engine.samplings) == 8


def test_episodes_resume_in_the_order_of_their_numbers_whichever_was_faster() -> None:
    engine = FakeEngine(WORDY, scripted("zzzzzz"))
    with pool(fast_and_slow, 12) as envs:
        collector = Collector(envs, engine, WORDY)
        collector.collect(episodes(12), SAMPLING, max_new_tokens=2)
        engine.contexts.clear()
        collector.collect([], SAMPLING, max_new_tokens=2)
    assert list(engine.contexts) == list(range(12))


def test_an_episode_whose_replay_gives_a_different_result_is_restarted(caplog: pytest.LogCaptureFixture) -> None:
    class Other(ScannedCallEnv):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            observation, *rest = super().step(action)
            return (observation.replace("[", "<"), *rest)

    with pool() as envs, pool(Other) as others:
        collector = Collector(envs, FakeEngine(WORDY, scripted("a`\n", "zzzzzz")), WORDY)
        collector.collect(episodes(2), SAMPLING, max_new_tokens=6)
        again = Collector(others, FakeEngine(WORDY, scripted("a`\n", "zzzzzz")), WORDY)
        again.restore(json.loads(json.dumps(collector.as_json())))
        made = played(again.collect([], SAMPLING))
    assert [each.text for each in made] == ["a`\n<1]\nzzzzzz"] * 2
    assert caplog.messages == ["Restarting an episode of problem 0: replaying its code gave a different result"] * 2


def test_the_trainers_logprobs_equal_the_engines_over_resumed_episodes() -> None:
    model = tiny_qwen2(len(CHAT.tokenizer))
    engine = transformers_engine(model, CHAT, max_num_seqs=5)
    made: list[Trajectory] = []
    with pool(lambda: ScannedCallEnv(calls=3), 14) as envs:
        collector = Collector(envs, engine, CHAT)
        made += played(collector.collect(episodes(14), Sampling(max_tokens=70), max_new_tokens=9))
        while collector.as_json()["groups"]:
            engine.load_weights(engine.version + 1, Weights.of(model.state_dict()))
            made += played(collector.collect([], Sampling(max_tokens=70), max_new_tokens=9))
    batch = collate(made)
    output = Policy(model).evaluate(batch, 5)
    assert (output.logprobs - batch.sampling_logprobs)[batch.action_mask].abs().max() < 1e-4
    assert max(len(each.turns) for each in made) >= 3
    assert engine.version > 3


@pytest.mark.parametrize("allowance", [2, 9])
def test_another_collector_resumes_exactly_from_the_saved_state(allowance: int) -> None:
    def begin(envs: EnvPool) -> tuple[Collector, FakeEngine, list[Trajectory]]:
        engine = FakeEngine(WORDY)
        collector = Collector(envs, engine, WORDY)
        return collector, engine, played(collector.collect(episodes(20), SAMPLING, max_new_tokens=allowance))

    with pool(num_envs=12) as envs, pool(num_envs=12) as others:  # eight of them wait for an environment
        collector, engine, _ = begin(envs)
        expected = play_on(collector, engine, allowance)
        collector, _, _ = begin(envs)
        written = json.loads(json.dumps(collector.as_json()))
        engine = FakeEngine(WORDY)
        collector = Collector(others, engine, WORDY)
        collector.restore(written)
        assert list(map(content, play_on(collector, engine, allowance))) == list(map(content, expected))


# ---------------------------------------------------------------------------------------------- enough is enough


def test_the_groups_after_those_that_are_enough_are_cancelled() -> None:
    engine = FakeEngine(WORDY, lambda request_id, turn, seed: "z" * (1 if request_id < 4 else 50))
    seen: list[list[int]] = []

    def two(groups: Sequence[Sequence[Trajectory]]) -> bool:
        seen.append([group[0].group_id for group in groups])
        return len(groups) == 2

    with pool(num_envs=10) as envs:
        collector = Collector(envs, engine, WORDY)
        made = played(collector.collect(episodes(10), SAMPLING, enough=two))
        assert group_ids(made) == [0, 0, 1, 1]
        assert engine.held == set()
        assert not engine.busy
        again = played(collector.collect(episodes(10), SAMPLING))
    assert seen[-1] == [0, 1]
    assert group_ids(again) == [n // 2 for n in range(10)]


def test_a_faster_group_does_not_count_before_earlier_groups() -> None:
    engine = FakeEngine(WORDY, lambda request_id, turn, seed: "z" * (50 if request_id < 2 else 1))
    with pool(num_envs=10) as envs:
        made = played(
            Collector(envs, engine, WORDY).collect(episodes(10), SAMPLING, enough=lambda groups: len(groups) >= 1)
        )
    assert group_ids(made)[:2] == [0, 0]
    assert len(made[0].text) == 50


def test_a_running_step_of_a_cancelled_episode_blocks_no_other() -> None:
    go_on, reached = threading.Event(), threading.Barrier(3)

    class Stuck(ScannedCallEnv):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            if self._problem == 2 and not go_on.is_set():
                reached.wait(60)
                go_on.wait(60)
            return super().step(action)

    def two(groups: Sequence[Sequence[Trajectory]]) -> bool:
        if len(groups) == 2:
            reached.wait(60)  # both of the third group are running
        return len(groups) == 2

    engine = FakeEngine(WORDY, scripted("z"), max_num_seqs=6)
    with pool(Stuck, 6) as envs:
        collector = Collector(envs, engine, WORDY)
        made = played(collector.collect(episodes(6), SAMPLING, enough=two))
        assert group_ids(made) == [0, 0, 1, 1]
        assert group_ids(played(collector.collect(episodes(4), SAMPLING))) == [0, 0, 1, 1]  # in the four that are free
        go_on.set()
        assert group_ids(played(collector.collect(episodes(6), SAMPLING))) == [0, 0, 1, 1, 2, 2]


def test_episodes_beyond_the_environments_wait_for_those_of_cancelled_ones() -> None:
    engine = FakeEngine(WORDY, scripted("z"))
    with pool(fast_and_slow, 2) as envs:
        collector = Collector(envs, engine, WORDY)
        collector.collect(episodes(8), SAMPLING, enough=lambda groups: len(groups) == 1)
        assert group_ids(played(collector.collect(episodes(8), SAMPLING))) == [n // 2 for n in range(8)]


# --------------------------------------------------------------------------------------------------------- metrics


def test_the_metrics_report_how_the_time_was_spent() -> None:
    with pool(lambda: CallEnv(delay_s=0.02)) as envs:
        collector = Collector(envs, FakeEngine(WORDY, scripted("a`\n", "z")), WORDY)
        collected = collector.collect(episodes(8), SAMPLING)
    assert collected is not None
    assert collected.metrics["tools/execution_s"] > 0
    assert collected.metrics["episodes/grading_s"] > 0
    assert 0 < collected.metrics["engine/utilisation"] < 1
    assert collected.metrics["engine/waiting_s"] > 0


def test_a_stopped_collection_abandons_its_episodes_and_the_next_one_is_complete() -> None:
    answers = iter([False, False, True])
    engine = FakeEngine(WORDY, scripted("a`\n", "z"))
    with pool(CallEnv, 4) as envs:
        collector = Collector(envs, engine, WORDY)
        assert collector.collect(episodes(8), SAMPLING, should_stop=lambda: next(answers)) is None
        assert engine.held == set()
        assert group_ids(played(collector.collect(episodes(8), SAMPLING))) == [n // 2 for n in range(8)]


# ------------------------------------------------------------------------------------------------------------ streaming


def stream(collector: Collector, parts: Sequence[Sequence[EpisodeSpec]]) -> list[Trajectory]:
    """Play groups that are added one part after the other, while earlier ones are played; sorted by group."""
    made: list[Trajectory] = []
    waiting = list(parts)
    collector.begin(SAMPLING)
    while waiting or collector.is_playing:
        if waiting:
            collector.add(waiting.pop(0))
        made += [each for group in collector.poll() for each in group]
    return sorted(made, key=lambda each: each.group_id)


def test_groups_that_are_added_while_others_are_played_give_the_same_trajectories() -> None:
    model, asked = tiny_qwen2(len(CHAT.tokenizer), seed=3), episodes(12)
    made = []
    for parts in ([asked], [asked[:4], asked[4:6], asked[6:]], [asked[n : n + 2] for n in range(0, 12, 2)]):
        with pool(fast_and_slow, 4) as envs:
            made.append(content(stream(Collector(envs, transformers_engine(model, CHAT), CHAT), parts)))
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 12


def test_a_group_is_given_out_once_and_whole() -> None:
    with pool(fast_and_slow) as envs:
        collector = Collector(envs, FakeEngine(WORDY), WORDY)
        collector.begin(SAMPLING)
        collector.add(episodes(9, group_size=3))
        given = []
        while collector.is_playing:
            assert collector.unfinished >= 1
            given += [group_ids(group) for group in collector.poll()]
    assert sorted(given) == [[0] * 3, [1] * 3, [2] * 3]
    assert collector.unfinished == 0


def test_cancelled_episodes_hold_nothing_and_others_can_be_added() -> None:
    with pool(fast_and_slow) as envs:
        engine = FakeEngine(WORDY)
        collector = Collector(envs, engine, WORDY)
        collector.begin(SAMPLING)
        collector.add(episodes(8))
        collector.poll()
        collector.cancel()
        assert (engine.held, collector.unfinished) == (set(), 0)
        assert group_ids(stream(collector, [episodes(4)])) == [0, 0, 1, 1]
