"""Problems of a validation that are trained on: which are found, and what becomes of the run."""

import json
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from runs import small

from agents import Trainer
from agents.config.training import EnvConfig, TrainConfig, ValidationConfig
from agents.core.errors import ConfigError
from agents.rollout.envs import EnvPool, ThreadedPool, open_split
from agents.training.validation import check_held_out, describe_held_out, open_held_out
from cir_env.problems.problem import Problem


def write(path: Path, statements: Sequence[str]) -> str:
    path.write_text("".join(json.dumps({"problem": text, "answer": "1"}) + "\n" for text in statements))
    return str(path)


def numbered(begin: int, end: int) -> list[str]:
    return [f"What is {n} + 1?" for n in range(begin, end)]


def configured(problems: str, *validation: str, num_problems: int = 1000, **changes: Any) -> TrainConfig:
    return TrainConfig(
        env=EnvConfig(problems=problems, prompt="question", **changes),
        validation=ValidationConfig(problems=validation, num_problems=num_problems),
    )


def checked(config: TrainConfig) -> tuple[list[str], list[str]]:
    """Return the lines about the sets, and the warnings."""
    lines: list[str] = []
    config = replace(config, rollout=replace(config.rollout, max_num_seqs=1))
    with ExitStack() as opened:
        train = opened.enter_context(closing(open_split(config.env, 1, split="train")))
        for envs, _ in open_held_out(config, train, log=lines.append).values():
            opened.enter_context(closing(envs))
    return [line for line in lines if line.startswith("Valid")], [line for line in lines if line.startswith("Warn")]


def test_a_file_is_validated_on_the_problems_that_it_is_not_trained_on(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", numbered(0, 200))
    assert checked(configured(path)) == (["Validating on 6 of 6 problems of 'mine/test'; held out of 200."], [])
    more = configured(path, path, "products", num_problems=5, test_share=0.5)
    assert checked(more) == (
        [
            "Validating on 5 of 98 problems of 'mine/test'; held out of 200.",
            "Validating on 5 of 500 problems of 'products/test'.",
        ],
        [],
    )


def test_another_file_is_played_completely(tmp_path: Path) -> None:
    path, other = write(tmp_path / "a.jsonl", numbered(0, 30)), write(tmp_path / "b.jsonl", numbered(30, 50))
    assert checked(configured(path, other)) == (["Validating on 20 of 20 problems of 'b'."], [])
    assert checked(configured("arithmetic", other))[0] == ["Validating on 20 of 20 problems of 'b'."]


@pytest.mark.parametrize("preset", ["products", "arithmetic", "mixed", "products*2+mixed"])
def test_generated_problems_never_overlap(preset: str) -> None:
    assert checked(configured(preset))[1] == []


def test_a_few_problems_that_are_trained_on_are_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", numbered(0, 30))
    other = write(tmp_path / "b.jsonl", [*numbered(100, 109), "WHAT IS\n$5 + 1$"])
    _, (warning,) = checked(configured(path, other, test_share=0))
    assert warning == (
        "Warning: 1 of 10 problems for 'validation' are training problems, too: b-10 ('WHAT IS\\n$5 + 1$')."
    )


@pytest.mark.parametrize(("max_overlap", "refused"), [(0.1, True), (0.25, False), (1, False)])
def test_more_of_them_are_refused_unless_they_are_accepted(tmp_path: Path, max_overlap: float, refused: bool) -> None:
    path, other = write(tmp_path / "a.jsonl", numbered(0, 30)), write(tmp_path / "b.jsonl", numbered(25, 45))
    config = configured(path, "products", other, test_share=0)
    config = replace(config, validation=replace(config.validation, max_overlap=max_overlap))
    if not refused:
        assert len(checked(config)[1]) == 1
        return
    with pytest.raises(ConfigError) as caught:
        checked(config)
    assert str(caught.value) == (
        "Expect problems for 'validation/b' that are not trained on, got 5 of 20 that are: b-1 ('What is 25 + 1?'), "
        "b-2 ('What is 26 + 1?'), b-3 ('What is 27 + 1?'), .... Name other problems with --validation.problems, or "
        "raise --validation.max-overlap."
    )


def test_only_the_problems_that_are_played_count(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", numbered(0, 30))
    other = write(tmp_path / "b.jsonl", [*numbered(30, 40), *numbered(0, 30)])
    assert checked(configured(path, other, num_problems=10, test_share=0))[1] == []


def test_a_folder_whose_splits_overlap_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}.jsonl", numbered(0, 30))
    with pytest.raises(ConfigError, match=r"^Expect problems for 'validation' that are not trained on, got 30 of 30 "):
        checked(configured(str(tmp_path)))


class Plain(gymnasium.Env[str, str]):
    """Another environment, perhaps with problems."""

    action_space = observation_space = gymnasium.spaces.Text(10)


class WithProblems(Plain):
    problems: Sequence[Any] = ("one", "two")


def pools(*envs: type[Plain]) -> list[EnvPool]:
    return [ThreadedPool(made, 1) for made in envs]


def test_another_environment_without_a_problem_set_has_nothing_to_compare() -> None:
    train, test = pools(Plain, Plain)
    assert train.statement_keys() is None
    check_held_out(train, {"validation": (test, 8)}, 0, warn=pytest.fail)
    assert describe_held_out({"validation": (test, 8)}) == ["Validating on 8 problems."]


def test_problems_of_another_environment_are_compared_by_their_statements() -> None:
    class Theirs(Plain):
        problems = tuple(Problem(id=str(n), statement=f"{n}?", answer="1") for n in range(3))

    class Others(Plain):
        problems = tuple(Problem(id=str(n), statement=f"{n}?", answer="1") for n in (7, 2))

    unknown, train, test = pools(WithProblems, Theirs, Others)
    assert unknown.statement_keys() is None
    assert train.data_summary == "3 problems"
    warnings: list[str] = []
    check_held_out(train, {"validation": (test, 2)}, 0.5, warn=warnings.append)
    check_held_out(unknown, {"validation": (test, 2)}, 0, warn=pytest.fail)
    assert warnings == ["Warning: 1 of 2 problems for 'validation' are training problems, too: 2 ('2?')."]


def test_the_first_lines_of_a_run_say_how_many_problems_train_and_validate(tmp_path: Path) -> None:
    lines: list[str] = []
    env = EnvConfig(problems=write(tmp_path / "mine.jsonl", numbered(0, 200)), prompt="question")
    Trainer(small(tmp_path / "run", env=env), log=lines.append).close()
    begin = lines.index("Training on 194 problems of 'mine/train'; 6 of 200 held out; not checked against benchmarks.")
    assert lines[begin + 1] == "Validating on 1 of 6 problems of 'mine/test'; held out of 200."


def test_a_run_on_a_file_of_one_problem_is_refused(tmp_path: Path) -> None:
    env = EnvConfig(problems=write(tmp_path / "mine.jsonl", ["What is 1 + 1?"] * 3), prompt="question")
    with pytest.raises(ValueError, match=r"^Expect at least 2 distinct problems in 'mine' to divide it "):
        Trainer(small(tmp_path / "run", env=env), log=lambda _: None)
