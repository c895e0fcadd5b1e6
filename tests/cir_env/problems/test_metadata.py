"""The other fields of a row: which are kept, and that they reach infos, vector environments and rewards unchanged."""

import copy
import json
import math
import pickle
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from fakes import fakes
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

import cir_env  # noqa: F401  registers the environment
from cir_env.episode.rewards import EpisodeRecord
from cir_env.errors import ProblemError
from cir_env.problems.load import load_problems
from cir_env.problems.problem import Metadata, Problem
from cir_env.problems.problem_set import ProblemSet
from cir_env.problems.rows import MAX_METADATA_CHARS

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), VALUES)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# --- the object --------------------------------------------------------------------------------------------------


@given(OBJECTS)
@pytest.mark.slow
def test_metadata_is_the_object_that_it_was_made_of(values: dict[str, Any]) -> None:
    metadata = Metadata(values)
    assert dict(metadata) == values == metadata
    assert (len(metadata), bool(metadata)) == (len(values), bool(values))
    assert metadata == Metadata(dict(reversed(values.items())))
    assert hash(metadata) == hash(Metadata(values))
    assert pickle.loads(pickle.dumps(metadata)) == copy.deepcopy(metadata) == metadata
    assert eval(repr(metadata), {"Metadata": Metadata}) == metadata


def test_what_a_user_changes_changes_nothing_else() -> None:
    given = {"tests": [1]}
    metadata = Metadata(given)
    given["tests"].append(2)
    metadata["tests"].append(3)
    assert metadata == {"tests": [1]}
    with pytest.raises(TypeError):
        metadata["tests"] = []  # type: ignore[index]


@pytest.mark.parametrize("metadata", [{"at": date(2026, 1, 1)}, {"x": math.nan}, {1: 2, "a": 3}, ["a"], "text", 7])
def test_metadata_that_is_not_json_is_rejected(metadata: Any) -> None:
    with pytest.raises(ProblemError, match=r"^Problem 'p': Expect `metadata` as a JSON object, got: "):
        Problem(id="p", statement="?", answer="1", metadata=metadata)


def test_problems_with_other_metadata_are_other_problems() -> None:
    one, other = (Problem(id="p", statement="?", answer="1", metadata={"n": n}) for n in (1, 2))
    assert one != other
    assert len({one, other, copy.copy(one)}) == 2


# --- from rows ---------------------------------------------------------------------------------------------------


def test_all_fields_but_the_statement_and_the_answer_are_kept(tmp_path: Path) -> None:
    row = {"problem": "?", "answer": 2, "level": 3, "source": "AMC", "tests": [{"in": 1}], "note": None}
    problems = ProblemSet.from_jsonl(write(tmp_path / "a.jsonl", row, {"problem": "1?", "answer": 1}))
    assert problems[0].metadata == {"level": 3, "source": "AMC", "tests": [{"in": 1}], "note": None}
    assert (problems[0].source, problems[0].level, problems[1].metadata) == ("a", "3", {})
    assert pickle.loads(pickle.dumps(problems)) == problems
    assert load_problems(problems, answer_type="number")[0].metadata == problems[0].metadata


def test_a_field_with_the_answer_in_it_is_not_kept(tmp_path: Path) -> None:
    row = {"prompt": [{"content": "?"}], "reward": {"gold": "2", "style": "rule"}, "a.b": 1, "kind": "x"}
    path = write(tmp_path / "a.jsonl", row)
    fields = {"statement": "prompt.0.content", "answer": "reward.gold"}
    assert ProblemSet.from_jsonl(path, fields=fields)[0].metadata == {"a.b": 1, "kind": "x"}
    fields = {"statement": "kind", "answer": "a.b"}
    assert ProblemSet.from_jsonl(path, fields=fields)[0].metadata.keys() == {"prompt", "reward"}


@pytest.mark.parametrize(("named", "kept"), [("", set()), ("b", {"b"}), ("b,c,none", {"b", "c"}), ("answer", set())])
def test_the_fields_to_keep_may_be_named(tmp_path: Path, named: str, kept: set[str]) -> None:
    path = write(tmp_path / "a.jsonl", {"problem": "?", "answer": 2, "b": 1, "c": 2, "d": 3})
    assert load_problems(f"{path}?metadata={named}")[0].metadata.keys() == kept


def test_large_fields_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [
        {"problem": f"{n}?", "answer": n, "solution": "x" * (MAX_METADATA_CHARS * (n > 0)), "level": n}
        for n in range(3)
    ]
    problems = ProblemSet.from_jsonl(write(tmp_path / "a.jsonl", *rows))
    assert [sorted(problem.metadata) for problem in problems] == [["level", "solution"], ["level"], ["level"]]
    assert problems.notes == ("values of 'solution' missing in the metadata: 2",)


def test_values_that_are_not_json_are_dropped_and_counted(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"problem": ["?"], "answer": ["2"], "at": [date(2026, 1, 1)], "image": [b"\xff"], "level": [3]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    problems = load_problems(tmp_path / "a.parquet")
    assert problems[0].metadata == {"level": 3}
    assert problems.notes == (
        "values of 'at' missing in the metadata: 1",
        "values of 'image' missing in the metadata: 1",
    )


# --- to infos and rewards ----------------------------------------------------------------------------------------


METADATA: list[dict[str, Any]] = [
    {"level": 3, "tags": {"a": 1}},
    {"level": "hard", "tags": 2},
    {"level": None},
    {},
]
PROBLEMS = ProblemSet(
    Problem(id=str(n), statement=f"{n}?", answer="6", metadata=metadata) for n, metadata in enumerate(METADATA)
)


def test_it_is_in_the_info_of_reset_and_of_every_step() -> None:
    env = gymnasium.make("CodeMath-v0", **(fakes() | {"problems": PROBLEMS}))
    _, info = env.reset(options={"problem_index": 0})
    *_, last = env.step(r"\boxed{6}")
    assert info["metadata"] == last["metadata"] == METADATA[0]


def make_of(n: int) -> Callable[[], gymnasium.Env[str, str]]:
    def make() -> gymnasium.Env[str, str]:
        return gymnasium.make("CodeMath-v0", problems=PROBLEMS[n : n + 1], prompt="question", max_transcript_chars=500)

    return make


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_vector_environments_of_gymnasium_keep_it_whole(kind: Any) -> None:
    envs = kind([make_of(n) for n in range(len(METADATA))])
    try:
        _, infos = envs.reset(seed=0)
        *_, last = envs.step(("no answer",) * len(METADATA))
    finally:
        envs.close()
    assert infos["metadata"].dtype == np.dtype(object)
    assert list(infos["metadata"]) == list(last["metadata"]) == METADATA


def test_the_vector_environment_keeps_it_whole() -> None:
    envs = gymnasium.make_vec("CodeMath-v0", num_envs=4, **(fakes() | {"problems": PROBLEMS}))
    made: Any = envs
    made.send_reset(range(4), options=[{"problem_index": n} for n in range(4)])
    assert list(made.recv()[-1]["metadata"]) == METADATA
    _, infos = envs.reset(options={"problem_index": 1})
    assert list(infos["metadata"]) == [METADATA[1]] * 4
    envs.close()


def by_level(episode: EpisodeRecord) -> float:
    return float(episode.correct) * episode.problem.metadata["level"]


def test_a_reward_function_sees_it() -> None:
    env = gymnasium.make("CodeMath-v0", **(fakes() | {"problems": PROBLEMS, "reward": by_level}))
    env.reset(options={"problem_index": 0})
    assert env.step(r"\boxed{6}")[1] == 3.0
