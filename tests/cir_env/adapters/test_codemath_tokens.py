"""`CodeMathTokens-v0`, the small environment of tokens."""

import random
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env

import cir_env  # noqa: F401  (registers it)
from cir_env.adapters.codemath_tokens import END, MAX_TOKENS, WORDS, Words, sums

IDS = {word: i for i, word in enumerate(WORDS)}


def make() -> gymnasium.Env[dict[str, np.ndarray], np.int64]:
    return gymnasium.make("CodeMathTokens-v0")


@pytest.mark.parametrize("flat", [False, True])
def test_the_checkers_of_gymnasium_and_stable_baselines_pass(flat: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("CodeMathTokens-v0", flat=flat).unwrapped
        check_env(env)
        sb3_check_env(env)


def test_what_lies_under_all_wrappers_has_the_actions_of_the_environment() -> None:
    assert make().unwrapped.action_space == make().action_space == gymnasium.spaces.Discrete(len(WORDS))


def test_a_flat_observation_has_each_token_as_a_one_hot_vector() -> None:
    flat, both = gymnasium.make("CodeMathTokens-v0", flat=True), make()
    for env in (flat, both):
        env.reset(seed=0)
    (observation, *_), (expected, *_) = flat.step(np.int64(3)), both.step(np.int64(3))
    assert observation.dtype == np.float32
    rows = observation.reshape(MAX_TOKENS, len(WORDS))
    assert (rows.argmax(1) == expected["token_ids"]).all()
    assert (rows.sum(1) == expected["attention_mask"]).all()


def test_infos_are_numbers_from_the_first_to_the_last() -> None:
    env = make()
    infos = [env.reset(seed=0)[1], env.step(np.int64(IDS[END]))[4]]
    assert all(isinstance(value, int) for info in infos for value in info.values())
    assert [(info["n_code_blocks"], info["correct"], info["reward_valid"]) for info in infos] == [(0, False, True)] * 2


@pytest.mark.slow
def test_stable_baselines_trains_by_the_id_alone() -> None:
    model = PPO("MultiInputPolicy", "CodeMathTokens-v0", n_steps=32, batch_size=32)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(64)
    assert any((old != new).any() for old, new in zip(before, model.policy.parameters(), strict=True))
    envs = make_vec_env("CodeMathTokens-v0", n_envs=2)
    envs.reset()
    assert [image.ndim for image in envs.get_images()] == [3, 3]


@pytest.mark.slow
def test_the_passive_checker_gives_no_warning_in_random_episodes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env, actions = make(), random.Random(0)
        for seed in range(5):
            env.reset(seed=seed)
            while not any(env.step(np.int64(actions.randrange(len(WORDS))))[2:4]):
                pass


def test_every_sum_can_be_computed_by_its_code_and_answered() -> None:
    env = make()
    for index, problem in enumerate(sums()):
        first, _, second, _ = Words().encode(problem.statement)
        env.reset(options={"problem_index": index})
        for action in (IDS["```python\nprint("], first, IDS[" + "], second):
            env.step(np.int64(action))
        observation, *_ = env.step(np.int64(IDS[")\n```\n"]))
        feedback = f"```output\n{problem.answer}\n```\n"
        seen = Words().decode(observation["token_ids"][observation["attention_mask"] == 1])
        assert seen == f"{problem.statement}```python\nprint({problem.statement[:5]})\n```\n{feedback}"
        env.step(np.int64(IDS[rf"\boxed{{{problem.answer}}}"]))
        assert env.step(np.int64(IDS[END]))[1:4] == (1.0, True, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("12", ["1", "2"]),
        ("```output\n7\n```\n", ["```output\n", "7", "\n```\n"]),
        ("NameError: x\n```\n", ["<other>", "\n```\n"]),
        (r"\boxed{7}\boxed{x}", [r"\boxed{7}", "<other>"]),
    ],
)
def test_text_becomes_words_and_unknown_text_one_other(text: str, words: list[str]) -> None:
    assert [WORDS[i] for i in Words().encode(text)] == words


def test_a_full_transcript_is_graded_as_it_stands() -> None:
    env = make()
    env.reset(seed=0, options={"problem_index": 0})
    results = [env.step(np.int64(IDS[r"\boxed{0}"])) for _ in range(MAX_TOKENS - 4)]
    assert results[-1][1:4] == (1.0, False, True)
