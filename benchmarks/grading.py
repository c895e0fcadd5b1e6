"""Compare our grader with math-verify alone: by kind of answer, and both ways of being wrong apart.

$ python benchmarks/grading.py
$ python benchmarks/grading.py --cases mine.jsonl
$ python benchmarks/grading.py --benchmarks DIR

Without options, it judges the cases of tests/cir_env/grading/grading_cases.toml; known limits of our grader count
against it. `--cases` names a file of rows with the fields kind, gold, answer and right. `--benchmarks` names a folder
of benchmark files: their right answers are judged in other layouts, each formula of a statement is submitted as its
answer, and the time of each verdict is measured.

math-verify gets gold and answer between dollar signs, gold first, or the whole text where there is one; a comparison
that has not ended after some seconds counts as "not equal".
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import re
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.core.files import write_json
from agents.core.tables import table
from cir_env.grading.grader import GRADER_VERSION, Grader
from cir_env.parsing import final_answer
from cir_env.problems.load import load_sets
from cir_env.problems.problem import Problem

CASES = Path(__file__).parent.parent / "tests/cir_env/grading/grading_cases.toml"
SETS = ("AIME24", "AIME25", "AMC23", "MATH500", "OlymMATH-EN-EASY", "OlymMATH-EN-HARD")
LAYOUTS = {
    "dollars": "${}$",
    "full stop": "{}.",
    "braces": "{{{}}}",
    "boxed": r"\boxed{{{}}}",
    "bold": r"\boldsymbol{{{}}}",
    "display style": r"\displaystyle {}",
    "a sentence": r"\text{{The answer is }} {}",
    "a sentence without a command": "The answer is {}",
}
REWRITINGS: dict[str, tuple[str, str]] = {
    "display fractions": (r"\\frac", r"\\dfrac"),
    "fractions without braces": (r"\\frac\{(\w)\}\{(\w)\}", r"\\frac\1\2"),
    "fractions with a slash": (r"^\\frac\{(\d+)\}\{(\d+)\}$", r"\1/\2"),
    "roots without braces": (r"\\sqrt\{(\d)\}", r"\\sqrt\1"),
    "the sign of a root": (r"\\sqrt\{(\d+)\}", r"√\1"),
    "the letter pi": (r"\\pi(?![a-z])", "π"),
    "a typographical minus": ("-", "−"),
    "thin spaces": (",(?! )", r",\\,"),
    "an asterisk": (r"(\d)(\\(?:sqrt|pi))", r"\1*\2"),
    "brackets without left and right": (r"\\(?:left|right)(?![a-z])", ""),
    "a decimal zero": (r"^(-?\d+)$", r"\1.0"),
    "a leading zero": (r"^(\d+)$", r"0\1"),
    "a name": (r"^(?!.*(?:=|<|>|\\in|\\le|\\ge|\\text|\\ne))", "x = "),
    "a unit": (r"^(\d+)$", r"\1\\text{ units}"),
}
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to compare."""

    cases: Path | None = None
    """JSON lines of cases to judge instead."""
    benchmarks: Path | None = None
    """Folder of benchmark files."""
    time_limit_s: float = 10.0
    """After so many seconds a comparison of math-verify is ended."""
    output: Path | None = None
    """Where to write the counts as JSON."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One answer and what a fair reader says of it."""

    kind: str
    gold: str
    text: str
    right: bool
    is_whole_text: bool = False


def read_cases(path: Path | None) -> Iterator[Case]:
    """Read all cases, known limits of our grader too."""
    if path is not None:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            yield Case(kind=row["kind"], gold=row["gold"], text=row["answer"], right=row["right"])
        return
    file = tomllib.loads(CASES.read_text())
    for section in ("cases", "texts", "known_limits"):
        for group, cases in file[section].items():
            for gold, text, right, _ in cases:
                kind = group.replace("_", " ")
                yield Case(kind=kind, gold=gold, text=text, right=right, is_whole_text=section == "texts")


def judge_by_us(grader: Grader, case: Case) -> bool:
    """Return what our grader says; a verdict that is not valid is no "right"."""
    answer = final_answer([case.text]) if case.is_whole_text else case.text
    verdict = grader.grade(case.gold, answer)
    return verdict.correct and verdict.valid


def judge_by_math_verify(case: Case) -> bool:
    """Return what math-verify says."""
    from math_verify import parse, verify

    text = case.text if case.is_whole_text else f"${case.text}$"
    return bool(verify(parse(f"${case.gold}$"), parse(text)))


def within(seconds: float, judge: Callable[[Case], bool], case: Case) -> bool:
    """Ask in a process of its own, which is ended after some seconds: then, or if it dies, the answer is no."""

    def ask(pipe: Connection) -> None:
        logging.disable(logging.CRITICAL)
        pipe.send(judge(case))

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=ask, args=(theirs,))
    process.start()
    theirs.close()
    try:
        return bool(ours.poll(seconds) and ours.recv())
    except EOFError:
        return False
    finally:
        process.kill()
        process.join()


def compare(config: Config, grader: Grader) -> dict[str, list[int]]:
    """Print how often each grader pays a wrong answer and refuses a right one, by kind; return the counts."""
    import math_verify  # noqa: F401  (the forks have it then)

    counts: dict[str, list[int]] = defaultdict(lambda: [0] * 5)
    for case in read_cases(config.cases):
        ours = judge_by_us(grader, case)
        theirs = within(config.time_limit_s, judge_by_math_verify, case)
        found = counts[case.kind]
        found[0] += 1
        for place, said in ((1, ours), (3, theirs)):
            found[place] += said and not case.right
            found[place + 1] += case.right and not said
    rows = [[kind, *map(str, found)] for kind, found in counts.items()]
    rows.append(["all", *(str(sum(column)) for column in zip(*counts.values(), strict=True))])
    columns = ["kind", "cases", "ours: paid wrongly", "refused wrongly", "math-verify: paid wrongly", "refused wrongly"]
    print(table(columns, rows))
    return dict(counts)


def rewritings(problem: Problem) -> Iterator[tuple[str, str]]:
    """Yield the right answer of a problem in other layouts, with their names."""
    gold = problem.answer
    for name, layout in LAYOUTS.items():
        yield name, layout.format(gold)
    for name, (pattern, new) in REWRITINGS.items():
        if (text := re.sub(pattern, new, gold)) != gold:
            yield name, text


def formulas(problem: Problem) -> set[str]:
    """Return the formulas of a statement, and their sides."""
    found = set()
    for match in FORMULA.finditer(problem.statement):
        formula = next(group for group in match.groups() if group)
        found |= {part.strip() for part in (formula, *formula.split("="))}
    return found - {""}


def judge_benchmarks(folder: Path, grader: Grader) -> dict[str, object]:
    """Print which right answers are refused in another layout, and which formulas of statements are paid."""
    problems = [problem for problems in load_sets(SETS, str(folder)).values() for problem in problems]
    grader.grade("x + 1", "1 + x")  # starts the process
    times: dict[str, list[float]] = defaultdict(list)
    refused, paid, layouts, copies = [], [], 0, 0
    for problem in problems:
        for name, text in rewritings(problem):
            start = time.perf_counter()
            verdict = grader.grade(problem.answer, text, statement=problem.statement)
            spent = time.perf_counter() - start
            times["all"].append(spent)
            if "algebra" in verdict.reason:
                times["by algebra"].append(spent)
            layouts += 1
            if not verdict.correct:
                refused.append([name, problem.answer, text, verdict.reason])
        for formula in formulas(problem):
            copies += 1
            if grader.grade(problem.answer, formula, statement=problem.statement).correct:
                paid.append([problem.id, problem.answer, formula])
        start = time.perf_counter()
        grader.grade(problem.answer, problem.answer, statement=problem.statement)
        times["equal strings"].append(time.perf_counter() - start)
    print(table(["layout", "right answer", "refused", "reason"], refused))
    print(f"{layouts} right answers in other layouts: {len(refused)} refused.\n")
    print(table(["problem", "right answer", "paid formula of the statement"], paid))
    print(f"{copies} formulas of statements: {len(paid)} paid, the right answers themselves included.\n")
    rows = []
    for name, seconds in times.items():
        seconds.sort()
        quantiles = (seconds[int(len(seconds) * share)] for share in (0.5, 0.95, 0.99))
        rows.append([name, str(len(seconds)), *(f"{1e3 * value:.2f}" for value in (*quantiles, seconds[-1]))])
    print(table(["verdicts", "number", "p50 in ms", "p95", "p99", "max"], rows))
    return {"layouts": layouts, "refused": len(refused), "formulas": copies, "paid": len(paid)}


def main(config: Config) -> None:
    """Compare, print tables, and write the counts."""
    with Grader() as grader:
        if config.benchmarks is None:
            counts: object = compare(config, grader)
        else:
            counts = judge_benchmarks(config.benchmarks, grader)
    if config.output is not None:
        write_json(config.output, {"grader_version": GRADER_VERSION, "counts": counts})


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
