"""`CodeMathTokens-v0`, the small environment of tokens."""

import random
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import cir_env  # noqa: F401  (registers it)
from cir_env.adapters.codemath_tokens import END, MAX_TOKENS, WORDS, Words, make_tokens_env, sums

IDS = {word: i for i, word in enumerate(WORDS)}


def make() -> gymnasium.Env[dict[str, np.ndarray], np.int64]:
    return gymnasium.make("CodeMathTokens-v0")


def test_the_checkers_of_gymnasium_and_stable_baselines_pass() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*is different from the unwrapped version")  # its actions are a wrapper's
        env = make_tokens_env()
        check_env(env, skip_render_check=True)
        sb3_check_env(env)


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
        observation, *_, info = env.step(np.int64(IDS[")\n```\n"]))
        assert info["feedback"] == f"```output\n{problem.answer}\n```\n"
        seen = Words().decode(observation["token_ids"][observation["mask"] == 1])
        assert seen == f"{problem.statement}```python\nprint({problem.statement[:5]})\n```\n{info['feedback']}"
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
