"""Generated problems are reproducible, right, varied, and never in both splits."""

import pickle
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import sympy

from cir_env.errors import ProblemError
from cir_env.problems import generators
from cir_env.problems.families import Draft
from cir_env.problems.families.multi_block import MULTI_BLOCK
from cir_env.problems.load import load_problems
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet


def message(action: Callable[[], object]) -> str:
    with pytest.raises(ProblemError) as error:
        action()
    return str(error.value)


@pytest.mark.parametrize("name", ["products", "arithmetic", "mixed", "multi_block"])
def test_generated_problems_are_the_same_in_every_process(name: str) -> None:
    code = f"""
from cir_env.problems import ProblemSet
print([(p.id, p.statement, p.answer) for p in ProblemSet.generate({name!r}, split="test", seed=5, size=40)])
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "77"}
    )
    here = ProblemSet.generate(name, split="test", seed=5, size=40)
    assert run.stdout.strip() == str([(p.id, p.statement, p.answer) for p in here])


def test_another_seed_gives_other_problems_and_a_larger_size_appends() -> None:
    small, large = (ProblemSet.generate("mixed", seed=1, size=size) for size in (30, 60))
    assert large[:30] == small
    assert {p.id for p in small}.isdisjoint(p.id for p in ProblemSet.generate("products", seed=2, size=30))


@pytest.mark.parametrize("name", ["products", "arithmetic", "mixed", "multi_block"])
def test_train_and_test_never_overlap(name: str) -> None:
    train = {p.id.split("-")[-1] for s in range(3) for p in ProblemSet.generate(name, seed=s, size=2000)}
    test = {
        p.id.split("-")[-1]
        for other in ("products", "arithmetic", "mixed", "multi_block")
        for p in ProblemSet.generate(other, split="test", seed=9, size=300)
    }
    assert train.isdisjoint(test)


@pytest.mark.parametrize("name", MULTI_BLOCK)
def test_a_family_of_several_blocks_is_a_generator_of_its_own(name: str) -> None:
    subjects = {problem.subject for problem in ProblemSet.generate(f"multi_block:{name}", size=5)}
    assert subjects == {"irregular data" if name == "readings" else name}


def test_a_commuted_or_rephrased_product_is_in_the_same_split() -> None:
    def operands(split: str) -> set[tuple[int, ...]]:
        made = ProblemSet.generate("products", split=split, size=3000)
        return {tuple(sorted(map(int, re.findall(r"\d+", p.statement)))) for p in made}

    train, test = operands("train"), operands("test")
    assert len(train) == len(test) == 3000
    assert train.isdisjoint(test)


def test_products_have_four_by_three_digits_in_several_phrasings_and_both_orders() -> None:
    made = ProblemSet.generate("products", size=500)
    shapes = {tuple(map(len, re.findall(r"\d+", p.statement))) for p in made}
    phrasings = {re.sub(r"\d+", "N", p.statement) for p in made}
    assert (shapes, {p.subject for p in made}) == ({(4, 3), (3, 4)}, {"multiplication"})
    assert "What is N * N?" in phrasings
    assert len(phrasings) >= 4


def test_the_default_generator_is_small_arithmetic() -> None:
    made = ProblemSet.generate("arithmetic", size=300)
    assert Counter(p.subject for p in made) == {"addition": 100, "subtraction": 100, "multiplication": 100}


def numbers(problem: Problem) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", problem.statement)]


def solve_linear(p: Problem) -> object:
    left, right = p.statement.removeprefix("Solve for x: ").split(".")[0].split("=")
    return sympy.solve(sympy.sympify(f"{left} - ({right})".replace("x", "*x")))[0]


def solve_system(p: Problem) -> object:
    equations = re.findall(r"-?\d+x \+ \d+y = -?\d+", p.statement)
    lines = [sympy.sympify(re.sub("([xy])", r"*\1", e).replace("=", "- (") + ")") for e in equations]
    solution = sympy.solve(lines, dict=True)[0]
    return sympy.prod(list(solution.values())) if len(solution) == 2 else None


CHECKS: dict[str, Callable[[Problem, list[int]], object]] = {
    r"product|times|\*": lambda p, n: sympy.prod(n),
    "greatest common": lambda p, n: sympy.igcd(*n),
    "least common": lambda p, n: sympy.ilcm(*n),
    r"remainder|\d mod ": lambda p, n: sympy.Mod(sympy.Pow(n[0], n[1]), n[2]),
    r"\d(?:st|nd|rd|th) prime": lambda p, n: sympy.prime(n[0]),
    "primes are between": lambda p, n: len(list(sympy.primerange(*n))),
    "smallest prime greater": lambda p, n: sympy.nextprime(n[0]),
    "largest prime factor": lambda p, n: max(sympy.factorint(n[0])),
    "How many positive divisors": lambda p, n: sympy.divisor_count(n[0]),
    "sum of all divisors": lambda p, n: sympy.divisor_sigma(n[0]),
    "Solve for x": lambda p, n: solve_linear(p),
    "Solve the system": lambda p, n: solve_system(p),
    "binom|committee": lambda p, n: sympy.binomial(max(n), min(n)),
    "Fibonacci": lambda p, n: sympy.fibonacci(n[-2]) % n[-1],
    "reduced fraction": lambda p, n: sympy.sympify(p.statement.split("Compute ")[1].split(". ")[0], rational=True),
}


def test_the_answers_of_mixed_problems_are_what_sympy_finds() -> None:
    made = ProblemSet.generate("mixed", split="test", seed=4, size=170)
    checked = set()
    for problem in made:
        for pattern, solve in CHECKS.items():
            if re.search(pattern, problem.statement):
                assert str(solve(problem, numbers(problem))) == problem.answer, problem
                checked.add(pattern)
                break
    assert checked == set(CHECKS)
    assert len({p.subject for p in made}) >= 12


def test_an_exhausted_generator_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    family = lambda rng: Draft(f"coin {rng.randint(0, 30)}", "?", "1", "coins")  # noqa: E731
    monkeypatch.setattr(generators, "GENERATORS", {"coins": (family,)})
    assert re.fullmatch(
        r"Expect `size` to be at most the number of distinct problems of generator 'coins', got 99: "
        r"split 'train' with seed 0 ends after \d+ problems\. Ask for fewer\.",
        message(lambda: ProblemSet.generate("coins", size=99)),
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"name": "sums"},
            "Expect the name of a generator, one of 'products', 'arithmetic', 'mixed', 'multi_block', ",
        ),
        ({"split": "dev"}, "Expect `split` to be 'train' or 'test', got 'dev'."),
        ({"size": 0}, "Expect `size` to be a positive integer, got 0."),
        ({"size": 1.5}, "Expect `size` to be a positive integer, got 1.5."),
        ({"seed": "a"}, "Expect `seed` to be an integer, got 'a'."),
        (
            {"name": "reasoning_gym:sudoku"},
            "Expect a reasoning-gym task whose answers can be graded, one of simple_",
        ),
    ],
)
def test_bad_arguments_of_a_generator_are_errors(arguments: dict[str, Any], expected: str) -> None:
    assert message(lambda: ProblemSet.generate(**{"name": "products", **arguments})).startswith(expected)


def test_reasoning_gym_tasks_have_disjoint_splits_and_subjects() -> None:
    pytest.importorskip("reasoning_gym")
    train = ProblemSet.generate("reasoning_gym:leg_counting", size=200)
    test = ProblemSet.generate("reasoning_gym:leg_counting", split="test", size=20)
    assert {p.statement for p in train}.isdisjoint(p.statement for p in test)
    assert train == ProblemSet.generate("reasoning_gym:leg_counting", size=200)
    assert {p.subject for p in train} == {"arithmetic"}


def test_reasoning_gym_alone_mixes_its_tasks() -> None:
    pytest.importorskip("reasoning_gym")
    made = ProblemSet.generate("reasoning_gym", size=len(generators.REASONING_GYM_TASKS))
    assert {p.subject for p in made} == {"algebra", "number theory", "arithmetic", "geometry"}
    assert pickle.loads(pickle.dumps(made)) == made


def test_several_generators_take_turns() -> None:
    both = ProblemSet.generate("products+arithmetic", split="test", size=8)
    assert [problem.subject for problem in both] == ["multiplication", "addition", "subtraction", "multiplication"] * 2
    assert load_problems("products+arithmetic", "test")[:8] == both


def test_an_unknown_one_of_several_generators_is_rejected() -> None:
    with pytest.raises(ProblemError, match="got 'sums'"):
        load_problems("products+sums", "train")
