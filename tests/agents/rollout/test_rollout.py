"""Collecting trajectories: which tokens stay, order and concurrency, and recovery from errors."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import pytest
from agents_fakes import (
    EOS,
    CallEnv,
    FakeEngine,
    ScannedCallEnv,
    Write,
    episodes,
    logprob_of,
    pool,
    scripted,
    tokenizer,
    write_at_random,
)

from agents.core.chat import Chat
from agents.core.types import EpisodeSpec, Trajectory
from agents.engines.base import Sampling
from agents.rollout.collector import collect

WORDY = Chat(tokenizer(), "raw")
END = WORDY.tokenizer.eos_token_id


def play(
    write: Write,
    count: int = 1,
    *,
    make_env: Callable[[], gymnasium.Env[str, str]] = ScannedCallEnv,
    max_tokens: int = 60,
    num_envs: int = 4,
    chat: Chat = WORDY,
    **engine: Any,
) -> tuple[list[Trajectory], FakeEngine]:
    """Collect that many episodes."""
    fake = FakeEngine(chat, write, **engine)
    with pool(make_env, num_envs) as envs:
        return collect(envs, fake, chat, episodes(count), Sampling(max_tokens=max_tokens)), fake


def ids(text: str) -> list[int]:
    return WORDY.encode_feedback(text)


def text_of(token_ids: Sequence[int]) -> str:
    return str(WORDY.tokenizer.decode(list(token_ids)))


def marks(trajectory: Trajectory) -> str:
    return "".join("x" if acts else "." for acts in trajectory.action_mask)


# ------------------------------------------------------------------------------------------------ tokens of episodes


def test_an_answer_is_the_prompt_and_every_sampled_token() -> None:
    (made,), _ = play(scripted("b"))
    assert list(made.token_ids) == [*ids("Q0: "), *ids("b"), END]
    assert marks(made) == "....xx"
    assert made.logprobs == (0, 0, 0, 0, logprob_of(ids("b")[0]), logprob_of(END))
    assert (made.prompt_length, made.text, made.reward) == (4, "b", 1.0)
    assert (made.terminated, made.truncated, made.reward_valid) == (True, False, True)


def test_a_prompt_may_be_a_chat() -> None:
    class Chatty(CallEnv):
        def reset(self, **arguments: Any) -> tuple[str, dict[str, Any]]:
            prompt, info = super().reset(**arguments)
            return prompt, info | {"messages": [{"role": "tutor", "content": "hi"}]}

    (made,), _ = play(scripted("z"), make_env=Chatty, chat=Chat(WORDY.tokenizer, "chat"))
    assert text_of(made.token_ids[: made.prompt_length]) == "<tutor>hi\n<assistant>"


def test_feedback_stands_between_the_turns_and_is_masked() -> None:
    (made,), _ = play(scripted("a`\n", "z"))
    assert list(made.token_ids) == [*ids("Q0: "), *ids("a`\n"), *ids("[1]\n"), *ids("z"), END]
    assert marks(made) == "...." + "x" * len(ids("a`\n")) + "." * len(ids("[1]\n")) + "xx"
    assert [(turn.text, turn.feedback, turn.finish_reason) for turn in made.turns] == [
        ("a`\n", "[1]\n", "boundary"),
        ("z", "", "stop"),
    ]
    assert made.text == "a`\n[1]\nz"


@pytest.mark.parametrize("make_env", [CallEnv, ScannedCallEnv])
def test_the_engine_sees_exactly_the_tokens_of_the_trajectory(make_env: Callable[[], CallEnv]) -> None:
    made, engine = play(scripted("a`\n\nmore", "yes ```\nSo", "z"), 5, make_env=make_env)
    for number, each in enumerate(made):
        assert len(engine.contexts[number]) == 3
        for context in engine.contexts[number]:
            assert list(each.token_ids[: len(context)]) == context
            assert not each.action_mask[len(context) - 1]


def test_text_behind_a_call_is_dropped_with_its_tokens() -> None:
    (made,), _ = play(scripted("a`\nmore text", "z"), make_env=CallEnv)
    assert made.turns[0].text == "a`\n"
    assert list(made.token_ids) == [*ids("Q0: "), *ids("a`\n"), *ids("[1]\n"), *ids("z"), END]
    assert made.boundary_cuts == 0


def test_newlines_in_the_same_token_as_the_boundary_stay() -> None:
    (made,), _ = play(scripted("a`\n\n", "z"))
    assert ids("a`\n\n")[-1] == ids("`\n\n")[0]
    assert list(made.token_ids[4:6]) == ids("a`\n\n")
    assert made.boundary_cuts == 0


def test_a_cut_token_is_counted_and_not_trained() -> None:
    (made,), _ = play(scripted("a```\nSo", "b```\nSo", "z"))
    assert made.text == "a```\n[1]\nb```\n[2]\nz"
    assert text_of(made.token_ids[4:]) == made.text + EOS
    assert made.boundary_cuts == 2
    assert [made.token_ids[i] for i, acts in enumerate(made.action_mask) if acts] == [
        *ids("a"),
        *ids("b"),
        *ids("z"),
        END,
    ]


def test_an_end_of_sequence_behind_a_call_is_dropped_if_the_episode_continues() -> None:
    (made,), _ = play(scripted("a`\n", "z"), make_env=CallEnv)
    assert made.turns[0].finish_reason == "stop"
    assert made.token_ids.count(END) == 1
    assert made.token_ids[-1] == END


def test_an_end_of_sequence_is_trained_if_the_episode_ends() -> None:
    (made,), _ = play(scripted("a`\n"), make_env=lambda: ScannedCallEnv(calls=0))
    assert made.token_ids[-1] == END
    assert made.action_mask[-1]
    assert len(made.turns) == 1


@pytest.mark.parametrize("make_env", [CallEnv, ScannedCallEnv])
def test_any_trajectory_decodes_to_its_text(make_env: Callable[[], CallEnv]) -> None:
    made, _ = play(write_at_random, 24, make_env=make_env)
    for each in made:
        assert text_of(each.token_ids[each.prompt_length :]).removesuffix(EOS) == each.text
        assert all(acts or logprob == 0 for acts, logprob in zip(each.action_mask, each.logprobs, strict=True))
    assert len({len(each.turns) for each in made}) > 1


# ------------------------------------------------------------------------------------------------------------- limits


def test_the_length_limit_truncates() -> None:
    (made,), _ = play(scripted("z" * 50), max_tokens=7)
    assert sum(made.action_mask) == 7
    assert (made.truncated, made.terminated, made.reward_valid, made.reward) == (True, False, True, -1.0)
    assert made.turns[-1].finish_reason == "length"


def test_feedback_counts_towards_the_limit() -> None:
    (made,), engine = play(scripted("aa`\n", "z" * 50), max_tokens=12)
    used = len(ids("aa`\n")) + len(ids("[1]\n"))
    assert [sampling.max_tokens for sampling in engine.samplings] == [12, 12 - used]
    assert len(made.token_ids) == made.prompt_length + 12
    assert made.truncated


def test_the_models_context_length_is_a_limit_too() -> None:
    (made,), engine = play(scripted("z" * 50), max_tokens=60, max_model_len=20)
    assert len(made.token_ids) == 20
    assert engine.samplings[0].max_tokens == 16
    assert made.truncated


@pytest.mark.parametrize("spare", [-1, 0])
def test_feedback_that_leaves_no_room_ends_the_episode(spare: int) -> None:
    call, feedback = ids("aa`\n"), ids("[1]\n")
    (made,), engine = play(scripted("aa`\n", "z"), max_tokens=len(call) + len(feedback) + spare)
    assert list(made.token_ids) == [*ids("Q0: "), *call]
    assert (made.truncated, made.terminated, made.reward_valid) == (True, False, True)
    assert made.reward == 1.0  # graded as it stands
    assert len(engine.samplings) == 1


def test_a_prompt_that_leaves_no_room_invalidates_the_episode_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    (made,), engine = play(scripted("z"), max_model_len=4)
    assert caplog.messages == ["Dropping problem 0: its prompt has 4 tokens of at most 4"]
    assert not made.reward_valid
    assert (made.truncated, made.terminated) == (True, False)
    assert list(made.token_ids) == ids("Q0: ")
    assert not any(made.action_mask)
    assert engine.samplings == []


class Endless(CallEnv):
    """Asks again whatever it is told."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        if len(self.actions) > 200:
            raise OSError("asked without end")
        return "again", 0.0, False, False, self._info(len(action))


def test_an_environment_that_never_ends_is_ended_by_the_limit() -> None:
    (made,), _ = play(scripted("z"), make_env=Endless)
    assert (made.truncated, made.terminated) == (True, False)


def test_a_prompt_that_leaves_no_room_invalidates_the_episode_whatever_the_environment_returns() -> None:
    class AsksTwice(CallEnv):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            first = not self.actions
            result = super().step(action)
            return ("speak up\n", 0.0, False, False, self._info(0)) if first else result

    (made,), _ = play(scripted("z"), make_env=AsksTwice, max_model_len=4)
    assert not made.reward_valid


def test_the_environment_may_truncate() -> None:
    class Cut(CallEnv):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            return "", 0.5, False, True, super().step(action)[4] | {"reward_valid": False}

    (made,), _ = play(scripted("a`\nmore"), make_env=Cut)
    assert (made.truncated, made.terminated, made.reward_valid, made.reward) == (True, False, False, 0.5)
    assert list(made.token_ids[4:]) == [*ids("a`\nmore"), END]


def test_an_episode_is_terminated_or_truncated_and_never_both() -> None:
    made, _ = play(write_at_random, 30, max_tokens=14)
    assert all(each.terminated != each.truncated for each in made)
    assert {each.terminated for each in made} == {True, False}


# ------------------------------------------------------------------------------------------- order, seeds, releases


@pytest.mark.parametrize(("num_envs", "rows"), [(1, 4), (3, 2), (8, 3), (40, 5)])
def test_trajectories_come_in_order_whatever_the_delays(num_envs: int, rows: int) -> None:
    order: list[int] = []
    engine = FakeEngine(WORDY, write_at_random, max_num_seqs=rows)
    asked = episodes(24)
    with pool(lambda: ScannedCallEnv(delay_s=0.004), num_envs) as envs:
        made = collect(envs, engine, WORDY, asked, Sampling(max_tokens=60), on_end=lambda t: order.append(t.group_id))
    assert [each.group_id for each in made] == [each.group_id for each in asked]
    assert [each.problem_id for each in made] == [str(each.options["problem_index"]) for each in asked]
    assert sorted(order) == [each.group_id for each in asked]
    assert engine.held == set()


def test_what_is_sampled_depends_only_on_the_episode() -> None:
    asked = episodes(12)
    outcomes = []
    for chosen, num_envs in ((asked, 2), (asked[::-1], 7)):
        with pool(ScannedCallEnv, num_envs) as envs:
            made = collect(envs, FakeEngine(WORDY), WORDY, chosen, Sampling(max_tokens=60))
        outcomes.append([(each.token_ids, each.reward) for each in made])
    assert outcomes[0] == outcomes[1][::-1]


def test_every_turn_of_every_episode_has_its_own_random_stream() -> None:
    _, engine = play(scripted("a`\n", "b`\n", "z"), 10)
    seeds = [sampling.seed for sampling in engine.samplings]
    assert len(set(seeds)) == len(seeds) == 30


def test_temperature_and_top_p_reach_the_engine() -> None:
    engine = FakeEngine(WORDY, scripted("z"))
    with pool() as envs:
        collect(envs, engine, WORDY, episodes(1), Sampling(temperature=0.25, top_p=0.5, max_tokens=9))
    (sampling,) = engine.samplings
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.25, 0.5, 9)


def test_no_episodes_give_no_trajectories() -> None:
    assert play(scripted("z"), 0)[0] == []


def test_every_token_names_the_weights_that_sampled_it() -> None:
    class Ageing(FakeEngine):
        def submit(self, *arguments: Any, **more: Any) -> None:
            self.version += 1
            super().submit(*arguments, **more)

    with pool() as envs:
        engine = Ageing(WORDY, scripted("a`\n", "z"))
        (made,) = collect(envs, engine, WORDY, episodes(1), Sampling(max_tokens=60))
    first, feedback = len(ids("a`\n")), len(ids("[1]\n"))
    assert made.policy_versions == (*[-1] * 4, *[1] * first, *[-1] * feedback, 2, 2)


def test_an_environment_need_not_report_kept_chars_or_problem_ids() -> None:
    class Terse(CallEnv):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            observation, _, terminated, _, _ = super().step(action)
            return observation, 0.25, terminated, False, {}

    (made,), _ = play(scripted("a`\nb", "z"), make_env=Terse)
    assert made.text == "a`\nb[1]\nz"
    assert (made.reward, made.problem_id) == (0.5, "0")


# ------------------------------------------------------------------------------------------------------------- errors


class Mute(CallEnv):
    """Answers the calls for its problem 2 with nothing that could be read."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, *rest = super().step(action)
        bad: Any = None if self._problem == 2 else observation
        return (bad, *rest)


@pytest.mark.parametrize(
    "make_env",
    [
        lambda: ScannedCallEnv(fail_at=1, fail_on=2, delay_s=0.003),
        lambda: ScannedCallEnv(fail_at=2, fail_on=2, delay_s=0.003),
        Mute,
    ],
    ids=["at the first step", "at the second step", "unreadable"],
)
def test_after_an_environment_error_engine_and_pool_are_usable(make_env: Callable[[], CallEnv]) -> None:
    engine = FakeEngine(WORDY, scripted("a`\n", "z"), max_num_seqs=3)
    sampling = Sampling(max_tokens=60)
    healthy = [each for each in episodes(16) if each.options["problem_index"] != 2]
    with pool(make_env, 4) as envs:
        with pytest.raises((OSError, ValueError)):
            collect(envs, engine, WORDY, episodes(16), sampling)
        assert engine.held == set()
        assert len(collect(envs, engine, WORDY, healthy, sampling)) == len(healthy)
    assert engine.held == set()


def test_after_an_interrupted_collection_engine_and_pool_are_usable() -> None:
    class Enough(Exception):
        pass

    def stop(_: Trajectory) -> None:
        raise Enough

    engine = FakeEngine(WORDY, max_num_seqs=2)
    with pool(lambda: ScannedCallEnv(delay_s=0.003), 4) as envs:
        with pytest.raises(Enough):
            collect(envs, engine, WORDY, episodes(9), Sampling(max_tokens=60), on_end=stop)
        assert engine.held == set()
        assert len(collect(envs, engine, WORDY, episodes(9), Sampling(max_tokens=60))) == 9


def test_an_interruption_does_not_wait_for_environments_but_the_next_collection_does() -> None:
    held, gate, late, sampling = *(threading.Event() for _ in range(3)), Sampling(max_tokens=60)

    class Held(ScannedCallEnv):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            if self._problem == 1:
                held.set()
                if not gate.wait(timeout=20):
                    late.set()
            return super().step(action)

    class Enough(Exception):
        pass

    def stop(_: Trajectory) -> None:
        if held.is_set():
            raise Enough

    engine = FakeEngine(WORDY, scripted("z"))
    with pool(Held, 2) as envs:
        with pytest.raises(Enough):
            collect(envs, engine, WORDY, episodes(8, group_size=1), sampling, on_end=stop)
        assert not late.is_set()
        gate.set()
        assert len(collect(envs, engine, WORDY, episodes(4), sampling)) == 4


def test_an_episode_in_which_nothing_is_written_is_truncated() -> None:
    class Silent(CallEnv):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            return "", 0.0, False, False, {}

    (made,), _ = play(scripted(""), make_env=Silent)
    assert (made.truncated, len(made.turns)) == (True, 2)


def test_the_engine_rejects_an_empty_prompt() -> None:
    class Silent(CallEnv):
        problems = ("",)

    with pytest.raises(ValueError, match=r"^Expect a context of 1 to 95 tokens, got 0"):
        play(scripted("z"), make_env=Silent)


def test_episodes_carry_their_options_to_the_environment() -> None:
    engine = FakeEngine(WORDY, scripted("a`\n"))
    asked = [EpisodeSpec(group_id=0, env_seed=0, sampling_seed=0, options={"interaction_budget": n}) for n in (0, 1, 3)]
    with pool() as envs:
        made = collect(envs, engine, WORDY, asked, Sampling(max_tokens=60))
    assert [len(each.turns) for each in made] == [1, 2, 4]
