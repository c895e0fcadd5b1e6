"""The wrapper in which one action is one token."""

import inspect
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from agents_fakes import byte_tokenizer
from fakes import CODE, FEEDBACK, PROMPT, FakeSandbox, make
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from cir_env.adapters.tokens import NumericInfo, TokenActions
from cir_env.errors import ActionError, EpisodeError, OptionError

EOS = 0


class Letters:
    """A token for each byte; 0 ends an answer."""

    size = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode("utf-8", "replace")


class Pieces(Letters):
    """Like `Letters`, with one more token that covers the end of a block and text after it."""

    size = 257
    piece = 256

    def decode(self, token_ids: Sequence[int]) -> str:
        text = b"".join(b"`\n\nnever" if i == self.piece else bytes([i]) for i in token_ids)
        return text.decode("utf-8", "replace")


def tokens(max_tokens: int = 1000, tokenizer: Any = None, **arguments: Any) -> TokenActions:
    env = make(**({"interaction_budget": 2} | arguments))
    tokenizer = tokenizer or Letters()
    return TokenActions(env, tokenizer, max_tokens, vocab_size=tokenizer.size, eos_token_id=EOS)


def begun(max_tokens: int = 1000, **arguments: Any) -> TokenActions:
    env = tokens(max_tokens, **arguments)
    env.reset(seed=0, options={"problem_index": 0})
    return env


def play(env: TokenActions, text: str, *more: int) -> list[tuple[Any, ...]]:
    return [env.step(np.int64(token)) for token in (*text.encode(), *more)]


def shown(observation: dict[str, Any]) -> str:
    """Return the text of an observation."""
    return bytes(observation["token_ids"][observation["attention_mask"] == 1].tolist()).decode()


def test_the_checker_of_stable_baselines_passes() -> None:
    env = tokens()
    sb3_check_env(env, warn=True)
    for token in range(env.action_space.n):  # the check draws a few of them
        env.reset(seed=0)
        env.step(np.int64(token))


def test_an_episode_of_tokens_equals_the_episode_of_texts() -> None:
    env = begun()
    *before, (observation, reward, terminated, _, info) = play(env, CODE)
    assert {step[1:4] for step in before} == {(0.0, False, False)}
    assert (shown(observation), reward, terminated) == (PROMPT + CODE + FEEDBACK, 0.0, False)
    assert info["execution_status"] == "ok"
    *_, (observation, reward, terminated, truncated, info) = play(env, "\\boxed{6}", EOS)
    assert (reward, terminated, truncated, info["predicted"]) == (1.0, True, False, "6")
    assert shown(observation) == PROMPT + CODE + FEEDBACK + "\\boxed{6}\0"


def test_observations_keep_their_shape_and_their_space() -> None:
    env = begun(500)
    for observation, *_ in play(env, CODE + "é"):
        assert env.observation_space.contains(observation)
        assert observation["token_ids"].shape == observation["attention_mask"].shape == (500,)


def test_a_token_that_extends_past_the_block_is_replaced_by_the_kept_part() -> None:
    env = begun(tokenizer=Pieces())
    play(env, CODE.removesuffix("`\n"))
    observation, *_, info = env.step(Pieces.piece)
    assert shown(observation) == PROMPT + CODE + "\n" + FEEDBACK
    assert info["kept_chars"] == len(CODE) + 1


def test_a_full_transcript_is_graded_as_it_stands_and_truncated() -> None:
    env = begun(len(PROMPT) + len("\\boxed{6}"))
    *_, (observation, reward, terminated, truncated, _) = play(env, "\\boxed{6}")
    assert (reward, terminated, truncated) == (1.0, False, True)
    assert observation["attention_mask"].all()


def test_feedback_that_fills_the_transcript_truncates() -> None:
    env = begun(len(PROMPT) + len(CODE) + 3)
    *_, (observation, reward, terminated, truncated, _) = play(env, CODE)
    assert (reward, terminated, truncated) == (-1.0, False, True)
    assert shown(observation) == PROMPT + CODE + FEEDBACK[:3]


def test_a_broken_sandbox_ends_the_episode_without_a_reward() -> None:
    *_, (_, reward, terminated, truncated, info) = play(begun(sandbox=FakeSandbox(broken=True)), CODE)
    assert (reward, terminated, truncated, info["reward_valid"]) == (0.0, False, True, False)


def test_tokenizers_of_transformers_work() -> None:
    tokenizer = byte_tokenizer()
    env = TokenActions(make(), tokenizer, 2000)
    observation, _ = env.reset(seed=0, options={"problem_index": 0})
    ids = observation["token_ids"][observation["attention_mask"] == 1].tolist()
    assert tokenizer.decode(ids) == PROMPT
    assert env.action_space == gymnasium.spaces.Discrete(len(tokenizer))
    assert "add_special_tokens" in inspect.signature(tokenizer.encode).parameters


@pytest.mark.parametrize("token", [256, -1, 1.5, "a", None])
def test_an_invalid_token_is_rejected(token: Any) -> None:
    with pytest.raises(ActionError, match="Expect an action to be a token id from 0 to 255, got "):
        begun().step(token)


def test_stepping_without_an_episode_is_an_error() -> None:
    with pytest.raises(EpisodeError, match=r"Call reset\(\) first"):
        tokens().step(1)
    env = begun()
    play(env, "", EOS)
    with pytest.raises(EpisodeError, match=r"Call reset\(\) first"):
        env.step(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": 1}, "Expect `max_tokens` to be at least 2, got 1"),
        ({"vocab_size": None}, "Expect `vocab_size` to be given, since the tokenizer does not define it"),
        ({"eos_token_id": None}, "Expect `eos_token_id` to be given, since the tokenizer does not define it"),
        ({"eos_token_id": 257}, "Expect `eos_token_id` to be from 0 to 256, got 257"),
    ],
)
def test_a_bad_argument_is_reported(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TokenActions(make(), Letters(), **({"max_tokens": 100, "vocab_size": 257, "eos_token_id": EOS} | arguments))


def test_a_prompt_that_fills_the_observation_is_rejected() -> None:
    with pytest.raises(OptionError, match=f"larger than the prompt, got {len(PROMPT)} for {len(PROMPT)} tokens"):
        begun(len(PROMPT))


def test_numeric_infos_have_the_numbers_and_bools_of_the_environments() -> None:
    env = NumericInfo(make())
    infos = [env.reset(seed=0, options={"problem_index": 0})[1], env.step("\\boxed{6}")[4]]
    numbers = {"problem_index", "interaction_budget", "interactions_left", "n_code_blocks", "kept_chars"}
    assert [set(info) for info in infos] == [numbers | {"correct", "reward_valid"}] * 2
    assert (infos[1]["kept_chars"], infos[1]["correct"]) == (len("\\boxed{6}"), True)


def test_numeric_infos_can_be_stacked_and_rebuilt_from_the_spec() -> None:
    envs = gymnasium.make_vec("CodeMath-v0", num_envs=2, vectorization_mode="sync", wrappers=[NumericInfo])
    assert all(value.dtype != object for value in envs.reset(seed=0)[1].values())
    assert isinstance(NumericInfo(gymnasium.make("CodeMath-v0")).spec.make(), NumericInfo)
