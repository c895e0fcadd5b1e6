"""Mixtures of problem sets, and specs of data sets and benchmarks."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeTable
from hypothesis import given
from hypothesis import strategies as st

from cir_env.errors import ProblemError
from cir_env.problems.load import DATA_SETS, load_problems
from cir_env.problems.mixtures import mix, unite
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet


def numbered(name: str, size: int) -> ProblemSet:
    """Problems that are distinct between sets, with the same ids in every set."""
    return ProblemSet(
        (Problem(id=str(n), statement=f"{name} {n}?", answer="1", source=name) for n in range(size)), name=name
    )


def file(path: Path, size: int) -> Path:
    path.write_text("".join(json.dumps({"problem": f"{path.name} {n}?", "answer": n}) + "\n" for n in range(size)))
    return path


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30)), min_size=1, max_size=4))
def test_a_mixture_has_exact_proportions_in_order_and_ends_with_the_first_set(parts: list[tuple[int, int]]) -> None:
    weights = tuple(weight for weight, _ in parts)
    sets = tuple(numbered(f"set{n}", max(size, weight)) for n, (weight, size) in enumerate(parts))
    mixed = mix(sets, weights, "mixed")
    rounds = len(mixed) // sum(weights)
    for turn in range(rounds):
        sources = [p.source for p in mixed[turn * sum(weights) : (turn + 1) * sum(weights)]]
        assert [sources.count(part.name) for part in sets] == list(weights)
    for part, weight in zip(sets, weights, strict=True):
        assert [p.statement for p in mixed if p.source == part.name] == [p.statement for p in part[: rounds * weight]]
    assert any(len(part) - rounds * weight < weight for part, weight in zip(sets, weights, strict=True))


def test_a_union_has_every_problem_once_with_a_distinct_id() -> None:
    both = unite((numbered("a", 2), numbered("b", 3), numbered("a", 4)), "all")
    assert [p.statement for p in both] == ["a 0?", "a 1?", "b 0?", "b 1?", "b 2?", "a 2?", "a 3?"]
    assert [p.id for p in both] == ["0", "1", "0-2", "1-2", "2", "2-2", "3"]


def test_files_and_generators_are_mixed_by_weight(tmp_path: Path) -> None:
    spec = f"{file(tmp_path / 'a.jsonl', 7)}*2+products+{file(tmp_path / 'b.jsonl', 50)}*3"
    mixed = load_problems(spec)
    assert load_problems(spec) is mixed
    assert [p.source for p in mixed[:6]] == ["a", "a", "products", "b", "b", "b"]
    assert mixed.notes == ("6 of 7 of 'a'", "3 of 3 of 'products/train'", "9 of 50 of 'b'")


def test_a_sum_without_weights_has_everything(tmp_path: Path) -> None:
    spec = f"{file(tmp_path / 'a.jsonl', 7)}+products"
    assert len(load_problems(spec)) == 10_007
    assert (len(load_problems(spec, "train")), len(load_problems(spec, "test"))) == (10_006, 501)


def test_a_mixture_keeps_the_notes_of_its_sets(tmp_path: Path) -> None:
    path = file(tmp_path / "a.jsonl", 3)
    path.write_text(path.read_text() * 2)
    assert load_problems(f"{path}*3+products").notes[0] == "3 of 3 of 'a' (exact repetitions dropped: 3)"


def test_a_file_name_may_contain_plus_and_star(tmp_path: Path) -> None:
    assert len(load_problems(str(file(tmp_path / "a+b*2.jsonl", 7)))) == 7


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("products*0+arithmetic", "Expect weights of at least 1 in `problems`, got 'products*0+arithmetic'."),
        ("products*2+sums", "Expect `problems` to be one of 'products', "),
        ("products*x", "Expect `problems` to be one of 'products', "),
        ("products+", "Expect `problems` to be one of 'products', "),
        ("dapoo", "got 'dapoo'. Did you mean 'dapo'?"),
        (
            "products*2+products",
            "Expect 'products/train' to have at least 1 problems, its weight in 'products*2+products', ",
        ),
        ("FILE*8+products", "Expect 'a' to have at least 8 problems, its weight in "),
        ("FILE?fields=still", "Expect `fields` to be one of 'still3', 'dapo', 'gsm8k', got 'still'."),
        ("FILE?boxed=1", "Expect `boxed` to be true or false, got '1'."),
        ("benchmark:AIME24", "Expect a folder with the file of AIME24, or 'hub', got neither: name it"),
        ("benchmark:AIME24?dir=x", "Expect only the option 'folder', 'benchmark:AIME24?folder=PATH', got ['dir']."),
        ("benchmark:AIME23?folder=x", "Expect a benchmark's name, one of AIME24, "),
        ("x" * 5000, "Expect `problems` to be one of 'products', "),
    ],
)
def test_a_spec_that_cannot_be_loaded_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, expected: str
) -> None:
    monkeypatch.delenv("CIR_BENCHMARKS", raising=False)
    with pytest.raises(ProblemError) as error:
        load_problems(spec.replace("FILE", str(file(tmp_path / "a.jsonl", 7))))
    assert expected in str(error.value)


def test_a_spec_loads_a_benchmark_from_a_folder_or_the_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "AIME24.jsonl").write_text('{"problem": "1 + 1?", "solution": "\\\\boxed{2}"}')
    monkeypatch.setenv("CIR_BENCHMARKS", str(tmp_path))
    for spec in ("benchmark:AIME24", f"benchmark:AIME24?folder={tmp_path}"):
        with pytest.raises(ProblemError, match=r"^Expect the 30 problems of AIME24 .* got 1 with"):
            load_problems(spec, "test")


# --- data sets by name -----------------------------------------------------------------------------------------


WRAPPED = {
    "still3": "A conversation between User and Assistant. The User asks.\n\nUser: {}\nAssistant:\n<think>\n",
    "dapo": "Solve it. $Answer is the answer to the problem.\n\n{}\n\nRemember to put your answer on its own line.",
}


def rows(name: str) -> list[dict[str, Any]]:
    """Two problems in the layout of a data set, one of them twice."""
    if name == "gsm8k":
        return [{"question": f"What is 1 + {n}?", "answer": f"It is #{n + 1}.\n#### {n + 1}"} for n in (1, 2, 1)]
    return [
        {
            "data_source": name,
            "prompt": [{"role": "user", "content": WRAPPED[name].format(f"What is 1 + {n}?")}],
            "ability": "MATH",
            "reward_model": {"ground_truth": str(n + 1), "style": "rule"},
            "extra_info": {"index": str(place)},
        }
        for place, n in enumerate((1, 2, 1))
    ]


def as_pairs(problems: ProblemSet) -> list[tuple[str, str]]:
    return [(p.statement, p.answer) for p in problems]


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_named_data_set_is_loaded_from_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*names: Any, **options: Any) -> FakeTable:
        asked.append((*names, options))
        return FakeTable(rows(name))

    fake: Any = types.ModuleType("datasets")
    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    loaded = load_problems(f"{name}?revision=abc", "train")
    assert as_pairs(loaded) == [("What is 1 + 1?", "2"), ("What is 1 + 2?", "3")]
    assert loaded.notes == ("exact repetitions dropped: 1",)
    config = DATA_SETS[name][1].get("config")
    assert asked == [(DATA_SETS[name][0], config, {"split": "train", "revision": "abc"})]


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_local_copy_of_a_named_data_set_is_read_with_its_fields(name: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows(name)), tmp_path / "a.parquet")
    loaded = load_problems(f"{tmp_path / 'a.parquet'}?fields={name}")
    assert as_pairs(loaded) == [("What is 1 + 1?", "2"), ("What is 1 + 2?", "3")]
