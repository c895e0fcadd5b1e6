"""The train and test split of a single file: which problems are held out, and what may change that."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cir_env  # noqa: F401  registers the environment
from cir_env.errors import OptionError, ProblemError
from cir_env.problems.load import load_problems, load_sets
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet
from cir_env.problems.splits import divide, statement_key, statement_keys

NUMBERS = st.lists(st.integers(0, 10**6), min_size=2, max_size=60, unique=True)


def numbered(numbers: Any) -> ProblemSet:
    return ProblemSet((Problem(id=str(n), statement=f"What is {n} + 1?", answer="1") for n in numbers), name="mine")


def ids(problems: ProblemSet) -> list[str]:
    return [problem.id for problem in problems]


def file(path: Path, size: int) -> Path:
    rows = ({"problem": f"What is {n} + 1?", "answer": n + 1} for n in range(size))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@given(NUMBERS, st.floats(0.001, 0.999))
def test_every_problem_is_in_one_split_and_both_have_one(numbers: list[int], share: float) -> None:
    train, test = (ids(divide(numbered(numbers), split, share)) for split in ("train", "test"))
    assert train
    assert test
    assert [str(n) for n in numbers if str(n) in train] == train
    assert sorted(train + test) == sorted(map(str, numbers))


@given(st.data(), NUMBERS, st.floats(0.001, 0.999))
def test_the_order_of_the_rows_makes_no_difference(data: st.DataObject, numbers: list[int], share: float) -> None:
    shuffled = data.draw(st.permutations(numbers))
    assert set(ids(divide(numbered(numbers), "test", share))) == set(ids(divide(numbered(shuffled), "test", share)))


@given(NUMBERS, NUMBERS, st.floats(0.001, 0.999))
def test_other_rows_move_no_problem_but_the_extreme_ones(numbers: list[int], more: list[int], share: float) -> None:
    few, many = numbered(numbers), numbered(dict.fromkeys(numbers + more))
    moved = set(ids(divide(few, "test", share))) ^ (set(ids(divide(many, "test", share))) & set(ids(few)))
    by_hash = sorted(few, key=lambda problem: statement_key(problem.statement))
    assert moved <= {by_hash[0].id, by_hash[-1].id}


@given(NUMBERS, st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_a_larger_share_only_adds_to_the_test_split(numbers: list[int], one: float, other: float) -> None:
    small, large = (divide(numbered(numbers), "test", share) for share in sorted((one, other)))
    assert set(ids(small)) <= set(ids(large))


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_large_file_is_divided_by_the_share(share: float) -> None:
    assert len(divide(numbered(range(20_000)), "test", share)) == pytest.approx(20_000 * share, rel=0.05)


@pytest.mark.parametrize(
    "same",
    [
        "WHAT  is\n$12{,}000 + 1$?",
        r"What is \left( 12000 + 1 \right)?",
        "what is 12,000 ＋ 1",
        r"What is \text{ }12000 + 1?",
    ],
)
def test_statements_that_differ_in_layout_are_on_the_same_side(same: str) -> None:
    assert statement_key(same) == statement_key("What is 12000 + 1?") != statement_key("What is 12001 + 1?")


def test_statements_without_words_are_told_apart() -> None:
    assert len({statement_key(text) for text in ("?", "!?", "🙂", "🙃")}) == 4
    assert statement_key("🙂 ?") == statement_key(" 🙂\n?")


def test_repeated_statements_are_never_divided() -> None:
    rows = [(f"What is {n} + {m} + 1?", str(n)) for n in range(40) for m in (0, 1)]
    twice = ProblemSet(
        Problem(id=f"{n}-{answer}", statement=text.upper() if answer == "2" else text, answer=answer)
        for n, (text, _) in enumerate(rows)
        for answer in ("1", "2")
    )
    train, test = (set(statement_keys(divide(twice, split, 0.5))) for split in ("train", "test"))
    assert len(train) + len(test) == len(rows)
    assert train.isdisjoint(test)


@pytest.mark.parametrize(("split", "share", "size"), [("train", 0, 3), ("test", 1, 3), ("train", 0.5, 1)])
def test_a_share_of_0_or_1_does_not_divide(tmp_path: Path, split: str, share: float, size: int) -> None:
    path = file(tmp_path / "mine.jsonl", size)
    if size > 1:
        assert load_problems(path, split, test_share=share) is load_problems(path)
    else:
        with pytest.raises(ProblemError):
            load_problems(path, split, test_share=share)


@pytest.mark.parametrize(
    ("size", "split", "share", "message"),
    [
        (1, "train", 0.05, "Expect at least 2 distinct problems in 'mine' to divide it into train and test, got 1. "),
        (1, "test", 0.05, "Expect at least 2 distinct problems in 'mine' to divide it into train and test, got 1. "),
        (3, "test", 0, "Expect `test_share` above 0 for split 'test' of 'mine', got 0. Give the splits files of "),
        (3, "train", 1, "Expect `test_share` below 1 for split 'train' of 'mine', got 1. Give the splits files of "),
    ],
)
def test_a_file_that_cannot_be_divided_is_reported(
    tmp_path: Path, size: int, split: str, share: float, message: str
) -> None:
    with pytest.raises(ProblemError) as caught:
        load_problems(file(tmp_path / "mine.jsonl", size), split, test_share=share)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), "0.1", True])
def test_a_share_out_of_range_is_rejected(share: Any) -> None:
    with pytest.raises(OptionError, match=r"^Expect `test_share` to be "):
        load_problems("products", "test", test_share=share)


def test_the_environment_plays_the_named_split_or_all(tmp_path: Path) -> None:
    path = str(file(tmp_path / "mine.jsonl", 200))

    def made(**arguments: Any) -> gymnasium.Env[str, str]:
        return gymnasium.make("CodeMath-v0", problems=path, **arguments)

    envs = {split: made(split=split) for split in ("train", "test", None)}
    keys = {split: set(env.get_wrapper_attr("statement_keys")) for split, env in envs.items()}
    assert keys["train"] | keys["test"] == keys[None]
    assert (len(keys["train"]), len(keys["test"]), len(keys[None])) == (194, 6, 200)
    assert envs["train"].get_wrapper_attr("data_summary") == (
        "194 problems of 'mine/train'; 6 of 200 held out; not checked against benchmarks"
    )
    assert envs["test"].get_wrapper_attr("data_summary") == "6 problems of 'mine/test'; held out of 200"
    assert len(made(split="test", test_share=0.5).get_wrapper_attr("problems")) == pytest.approx(100, abs=20)


def test_files_named_for_an_evaluation_are_played_whole(tmp_path: Path) -> None:
    path = str(file(tmp_path / "mine.jsonl", 200))
    assert len(load_sets([path], None)[path]) == 200


def test_the_files_of_a_mixture_are_divided_too(tmp_path: Path) -> None:
    spec = f"{file(tmp_path / 'a.jsonl', 200)}+products"
    train, test = (load_problems(spec, split) for split in ("train", "test"))
    assert set(statement_keys(train)).isdisjoint(statement_keys(test))
    assert (len(train), len(test)) == (10_194, 506)


@pytest.mark.parametrize(
    "name",
    ["products", "arithmetic", "mixed", "products*2+mixed", pytest.param("multi_block", marks=pytest.mark.slow)],
)
def test_no_generated_statement_is_in_both_splits(name: str) -> None:
    train, test = (load_problems(name, split) for split in ("train", "test"))
    assert set(statement_keys(train)).isdisjoint(statement_keys(test))


@pytest.mark.slow
def test_no_statement_of_reasoning_gym_is_in_both_splits() -> None:
    pytest.importorskip("reasoning_gym")
    train, test = (ProblemSet.generate("reasoning_gym", split=split, size=70) for split in ("train", "test"))
    assert set(statement_keys(train)).isdisjoint(statement_keys(test))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_files_of_a_folder_are_its_splits(tmp_path: Path, split: str) -> None:
    for name, size in (("train", 30), ("test", 20)):
        file(tmp_path / f"{name}.jsonl", size)
    assert len(load_problems(tmp_path, split)) == {"train": 30, "test": 20}[split]
