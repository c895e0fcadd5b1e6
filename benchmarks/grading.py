"""Count on how many answers of grading_cases.toml our grader, and math-verify alone, say what a fair reader says.

python benchmarks/grading.py
python benchmarks/grading.py --output grading.json

Known limits of our grader are counted against it. math-verify gets gold and answer between dollar signs, gold first, or
the whole text where there is one; a comparison that has not ended after some seconds counts as "not equal".
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
import tomllib
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

CASES = Path(__file__).parent.parent / "tests/cir_env/grading/grading_cases.toml"
FORM = ("arithmetic_left_to_do",)
"""Groups in which our rule on the form of a number decides, which math-verify does not have."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to count."""

    time_limit_s: float = 10.0
    """After so many seconds a comparison of math-verify is ended."""
    output: Path | None = None
    """Where to write the counts as JSON."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One answer and what a fair reader says of it."""

    group: str
    gold: str
    text: str
    right: bool
    is_whole_text: bool


def read_cases() -> Iterator[Case]:
    """Read all cases, known limits of our grader too."""
    file = tomllib.loads(CASES.read_text())
    for section in ("cases", "texts", "known_limits"):
        for group, cases in file[section].items():
            for gold, text, right, _ in cases:
                yield Case(group=group, gold=gold, text=text, right=right, is_whole_text=section == "texts")


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


def main(config: Config) -> None:
    """Count, print a table, and write the counts."""
    import math_verify  # noqa: F401  (the forks have it then)

    counts: dict[str, list[int]] = {}
    with Grader() as grader:
        for case in read_cases():
            found = counts.setdefault(case.group, [0, 0, 0])
            ours = judge_by_us(grader, case)
            theirs = within(config.time_limit_s, judge_by_math_verify, case)
            for place, hit in enumerate((True, ours == case.right, theirs == case.right)):
                found[place] += hit
    form = [sum(counts[group][place] for group in FORM) for place in range(3)]
    whole = [sum(found[place] for found in counts.values()) for place in range(3)]
    rows = [[group.replace("_", " "), *map(str, found)] for group, found in counts.items()]
    rows.append(["all", *map(str, whole)])
    rows.append(["all but arithmetic left to do", *(str(a - b) for a, b in zip(whole, form, strict=True))])
    print(table(["group", "cases", "ours", "math-verify alone"], rows))
    if config.output is not None:
        write_json(config.output, {"grader_version": GRADER_VERSION, "counts": counts})


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
