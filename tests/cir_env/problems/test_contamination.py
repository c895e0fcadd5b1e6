"""Training problems that overlap with a benchmark: which are found, by which rule, and which never match."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gymnasium
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paths import ROOT

import cir_env  # noqa: F401  registers the environment
from cir_env.errors import OptionError, ProblemError
from cir_env.problems.benchmarks import BENCHMARKS, content_sha256, load_benchmark, loading
from cir_env.problems.contamination import BenchmarkIndex, Match, decontaminate, split_off, words
from cir_env.problems.load import load_problems
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet

LONG = (
    r"Let $a$ and $b$ be real numbers with $a^2 + b^2 = 2{,}500$ such that the parabola $y = a x^2 + b$ touches the "
    r"line through $\left(3, \dfrac{7}{2}\right)$ and the origin. Find the largest possible value of $a$."
)
SHORT = r"Find $\sqrt{1764}$."
BENCHMARK = ProblemSet(
    [Problem(id="7", statement=LONG, answer="3"), Problem(id="8", statement=SHORT, answer="42")], name="AIME24"
)
INDEX = BenchmarkIndex({"AIME24": BENCHMARK})


def problem_set(*statements: str) -> ProblemSet:
    return ProblemSet(Problem(id=f"p{n}", statement=text, answer="1") for n, text in enumerate(statements))


def rule(statement: str) -> str | None:
    match = INDEX.find(statement)
    return match and match.rule


@pytest.mark.parametrize(
    "disguise",
    [
        str,
        lambda text: text.replace(" ", " \n ").upper(),
        lambda text: text.replace("$", "").replace(".", ";").replace(", ", " "),
        lambda text: text.replace(r"\left", "").replace(r"\right", "").replace("dfrac", "frac").replace("{,}", ","),
        lambda text: text.replace("$a", "$p").replace("= a", "= p").replace("$b", "$q").replace("+ b", "+ q"),
    ],
    ids=["copied", "re-spaced", "punctuation", "layout", "renamed variables"],
)
def test_the_same_words_match_by_text(disguise: Callable[[str], str]) -> None:
    assert INDEX.find(disguise(LONG)) == Match(benchmark="AIME24", problem_id="7", rule="text")
    assert rule(disguise(SHORT)) == "text"


@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: f"Solve this problem step by step. {text} Explain what you do.",
        lambda text: text.replace("largest", "greatest"),
        lambda text: text.replace("500", "600"),
        lambda text: text[: len(text) * 2 // 3],
    ],
    ids=["embedded", "a changed word", "a changed number", "cut off"],
)
def test_most_of_the_words_match_by_overlap(disguise: Callable[[str], str]) -> None:
    assert rule(disguise(LONG)) == "overlap"


@pytest.mark.parametrize(
    "statement",
    [
        "A parabola with vertex on the vertical axis is tangent to a line through the origin that passes through the "
        "point (3, 7/2). Its two coefficients have squares that add up to 2500. How large can the leading one be?",
        r"Let $a$ and $b$ be real numbers with $a^2 + b^2 = 13$. Find the largest possible value of $a$.",
        r"Find $\sqrt{1765}$.",
        r"Find the value of $\sqrt{1764}$.",
        r"Find $-\sqrt{1764}$.",
        "?!",
        "",
    ],
    ids=["paraphrase", "common phrases", "another number", "short", "sign", "no word", "nothing"],
)
def test_other_problems_do_not_match(statement: str) -> None:
    assert rule(statement) is None


@given(st.text() | st.sampled_from([LONG, SHORT]))
@example("ẞͅ İ ǰ ① ½ \\dfrac \\left\\leq 1,000,000")
def test_normalising_words_is_idempotent(text: str) -> None:
    once = words(text)
    assert words(" ".join(once)) == once


PLANTED = st.sampled_from([LONG, LONG.upper(), f"Look: {LONG}", SHORT])
CLEAN = st.integers(0, 9999).map(lambda n: f"What is {n} + 1?")


@given(st.lists(st.tuples(st.booleans(), PLANTED, CLEAN), min_size=1, max_size=12))
def test_kept_problems_keep_their_order_and_are_clean(rows: list[tuple[bool, str, str]]) -> None:
    statements = ["What is kept?", *(planted if is_planted else clean for is_planted, planted, clean in rows)]
    kept, matches = split_off(problem_set(*statements), INDEX)
    clean = [("What is kept?"), *(clean for is_planted, _, clean in rows if not is_planted)]
    assert [p.statement for p in kept] == clean
    assert len(matches) == len(statements) - len(clean)
    assert split_off(kept, INDEX) == (kept, {})


FOLDER = Path(os.environ.get("CIR_BENCHMARKS", ROOT.parent / "shared" / "benchmarks"))


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no benchmark files: name their folder in CIR_BENCHMARKS")
@pytest.mark.slow
def test_no_benchmark_matches_another_and_each_matches_itself() -> None:
    names = ("AIME24", "AIME25", "AMC23", "MATH500", "OlymMATH-EN-EASY", "OlymMATH-EN-HARD")
    loaded = {name: load_benchmark(name, FOLDER) for name in names}
    for name, problems in loaded.items():
        others = BenchmarkIndex({other: rest for other, rest in loaded.items() if other != name})
        assert split_off(problems, others) == (problems, {})
        mine = BenchmarkIndex({name: problems})
        assert all(
            mine.find(f"Solve this: {problem.statement}") or mine.find(problem.statement) for problem in problems
        )


def test_a_set_that_matches_entirely_is_rejected() -> None:
    with pytest.raises(
        ProblemError, match=r"^Expect problems that are in no benchmark, got 'AIME24', all of which are"
    ):
        split_off(BENCHMARK, INDEX)


@pytest.mark.parametrize("name", ["products", "arithmetic", "mixed", "multi_block"])
def test_generated_problems_do_not_match(name: str) -> None:
    made = ProblemSet.generate(name, size=1000)
    assert split_off(made, INDEX) == (made, {})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a benchmark of one problem."""
    row = {"problem": LONG, "solution": r"\boxed{3}"}
    (tmp_path / "AIME25.jsonl").write_text(json.dumps(row))
    loaded = load_benchmark("AIME25", tmp_path, pinned=False)
    pinned = {**BENCHMARKS}
    pinned["AIME25"] = replace(pinned["AIME25"], n_problems=1, sha256=content_sha256(loaded))
    monkeypatch.setattr(loading, "BENCHMARKS", pinned)
    return tmp_path


def test_the_environment_drops_benchmark_problems_and_reports_how_many(folder: Path) -> None:
    (folder / "mine.jsonl").write_text(
        "".join(
            json.dumps({"problem": text, "answer": 1}) + "\n" for text in ("1 + 1?", LONG.upper(), LONG + " Prove it.")
        )
    )
    env = gymnasium.make("CodeMath-v0", problems=str(folder / "mine.jsonl"), decontaminate=str(folder))
    assert len(env.get_wrapper_attr("problems")) == 1
    assert env.get_wrapper_attr("data_summary") == (
        "1 problems of 'mine'; checked against AIME25: 2 dropped (AIME25: 1 by text, 1 by overlap)"
    )


def test_a_set_is_checked_once_per_process(folder: Path) -> None:
    made = load_problems("products", "test")
    assert decontaminate(made, folder) is decontaminate(made, str(folder))


@pytest.mark.parametrize(
    ("problems", "unchecked"), [("products+mixed", False), ("products*2+FILE", True), ("FILE", True)]
)
def test_unchecked_data_is_reported_as_unchecked(tmp_path: Path, problems: str, unchecked: bool) -> None:
    (tmp_path / "mine.jsonl").write_text('{"problem": "1 + 1?", "answer": 2}')
    env = gymnasium.make("CodeMath-v0", problems=problems.replace("FILE", str(tmp_path / "mine.jsonl")))
    assert env.get_wrapper_attr("data_summary").endswith("; not checked against benchmarks") == unchecked


def test_a_folder_without_benchmarks_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"^Expect `decontaminate` to be a folder with benchmark files \(AIME24"):
        gymnasium.make("CodeMath-v0", problems="products", decontaminate=tmp_path / "none")
    with pytest.raises(OptionError, match=r"^Expect `decontaminate` to be the path of a folder or None, got int\.$"):
        gymnasium.make("CodeMath-v0", problems="products", decontaminate=7)
