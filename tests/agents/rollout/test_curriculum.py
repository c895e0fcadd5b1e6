"""The order of training problems: whole passes, exactly resumable, by subject or easy ones first."""

from itertools import chain
from typing import Any

import gymnasium
import numpy as np
import pytest
from agents_fakes import pool
from hypothesis import given
from hypothesis import strategies as st

from agents.config.training import CurriculumConfig, EnvConfig, RolloutConfig, TrainConfig
from agents.core.errors import ConfigError
from agents.rollout.curriculum import ProblemOrder
from agents.rollout.envs import open_pool
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet


def taken(order: ProblemOrder, steps: int, begin: int = 0) -> list[int]:
    return list(chain.from_iterable(order.indices(step) for step in range(begin, steps)))


def order(size: int, per_step: int = 3, seed: int = 0, **settings: Any) -> ProblemOrder:
    traits = {name: settings.pop(name) for name in ("subjects_of", "levels") if name in settings}
    return ProblemOrder(
        CurriculumConfig(**settings),
        seed=seed,
        per_step=per_step,
        size=size,
        subjects=traits.get("subjects_of", ()),
        levels=traits.get("levels", ()),
    )


@given(st.integers(1, 20), st.integers(1, 5), st.integers(0, 3))
def test_every_pass_takes_every_problem_once(size: int, per_step: int, seed: int) -> None:
    indices = taken(order(size, per_step, seed), 30)
    for begin in range(0, len(indices) - size, size):
        assert sorted(indices[begin : begin + size]) == list(range(size))


def test_the_order_without_a_curriculum_is_unchanged() -> None:
    expected = [np.random.default_rng([7, epoch]).permutation(10) for epoch in range(3)]
    assert taken(order(10, seed=7), 10) == np.concatenate(expected).tolist()


SUBJECTS = ["algebra", "Geometry", "algebra", "sets", "geometry", "algebra"]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"subjects": "0:algebra,2:geometry|sets,5:*", "subjects_of": SUBJECTS},
    {"easy_first_steps": 4, "levels": ["3", "1", "2", "Level 5", "4.5", "-1"]},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_step_does_not_depend_on_the_steps_before(settings: dict[str, Any]) -> None:
    assert taken(order(6, **settings), 12)[6 * 3 :] == taken(order(6, **settings), 12, begin=6)
    assert taken(order(6, **settings), 12) != taken(order(6, seed=1, **settings), 12)


def test_a_phase_takes_all_problems_of_its_subjects_in_turn() -> None:
    made = order(6, **SETTINGS[1])
    assert [sorted(made.indices(step)) for step in range(2)] == [[0, 2, 5]] * 2
    assert [sorted(made.indices(step)) for step in (2, 3, 4)] == [[1, 3, 4]] * 3
    assert sorted(made.indices(5) + made.indices(6)) == [0, 1, 2, 3, 4, 5]


def test_the_first_steps_take_the_same_problems_sorted_by_level() -> None:
    levels = [str(index % 10) for index in range(100)]
    plain, easy = order(100), order(100, easy_first_steps=10, window=0, levels=levels)
    assert sorted(taken(easy, 10)) == sorted(taken(plain, 10))
    assert [levels[index] for index in taken(easy, 10)] == sorted(levels[index] for index in taken(plain, 10))
    assert taken(easy, 40, begin=10) == taken(plain, 40, begin=10)


@given(st.floats(0, 1), st.integers(0, 3))
def test_no_problem_is_further_than_the_window_from_its_place(window: float, seed: int) -> None:
    made = order(60, easy_first_steps=20, window=window, levels=[str(index) for index in range(60)], seed=seed)
    assert all(abs(place - index) <= window * 60 for place, index in enumerate(taken(made, 20)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"subjects": "0:algebra|logic", "subjects_of": SUBJECTS},
            "Expect subjects of the problems in `curriculum.subjects`, got 'logic': there are Geometry (1), "
            "algebra (3), geometry (1), sets (1).",
        ),
        (
            {"easy_first_steps": 1, "levels": ["1", "hard", ""]},
            "Expect a level with a number for every problem to sort by, got 2 of 3 without. Name their field, as in "
            "PATH?level=difficulty, or do not set curriculum.easy_first_steps.",
        ),
        (
            {"subjects": "5:algebra"},
            "Expect `curriculum.subjects` like '0:algebra,100:algebra|geometry', got '5:algebra'.",
        ),
        ({"subjects": "algebra"}, "Expect `curriculum.subjects` like '0:algebra,100:algebra|geometry', got 'algebra'."),
        ({"subjects": "0:"}, "Expect `curriculum.subjects` like '0:algebra,100:algebra|geometry', got '0:'."),
        ({"window": 1.5}, "Expect `curriculum.window` in [0, 1], got 1.5."),
        (
            {"subjects": "0:*", "easy_first_steps": 3},
            "Expect `curriculum.easy_first_steps` 0 beside curriculum.subjects, got 3.",
        ),
    ],
)
def test_a_curriculum_that_the_problems_do_not_fit_is_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        order(6, **settings)
    assert str(error.value) == message


def test_subjects_and_levels_come_through_the_environment() -> None:
    problems = ProblemSet(
        Problem(id=str(n), statement=f"{n}?", answer="1", subject="odd" if n % 2 else "even", level=str(-n))
        for n in range(8)
    )
    rollout = RolloutConfig(num_problems=2, num_extra_problems=2)
    envs = open_pool("cir_env:CodeMath-v0", 1, problems=problems)
    try:
        assert envs.data_summary == "8 problems of 'problems'; not checked against benchmarks"
        odd = ProblemOrder.of(envs, TrainConfig(rollout=rollout, curriculum=CurriculumConfig(subjects="0:odd")))
        easy = CurriculumConfig(easy_first_steps=2, window=0)
        by_level = ProblemOrder.of(envs, TrainConfig(rollout=rollout, curriculum=easy))
    finally:
        envs.close()
    assert odd is not None
    assert by_level is not None
    assert sorted(odd.indices(0)) == [1, 3, 5, 7]
    assert taken(by_level, 2) == [7, 6, 5, 4, 3, 2, 1, 0]


def test_an_environment_without_a_problem_set_has_no_order() -> None:
    class Endless(gymnasium.Env[str, str]):
        action_space = observation_space = gymnasium.spaces.Text(10)

    with pool(Endless, 1) as envs:
        assert envs.data_summary is None
        assert ProblemOrder.of(envs, TrainConfig()) is None
        config = TrainConfig(env=EnvConfig(id="X-v0"), curriculum=CurriculumConfig(easy_first_steps=1))
        with pytest.raises(
            ConfigError, match=r"^Expect an environment with a problem set for `curriculum`, got 'X-v0'"
        ):
            ProblemOrder.of(envs, config)


def test_benchmark_problems_are_excluded_from_training_only() -> None:
    env = EnvConfig(decontaminate="benchmarks")
    assert [env.kwargs(split=split)["decontaminate"] for split in ("train", "test")] == ["benchmarks", None]
