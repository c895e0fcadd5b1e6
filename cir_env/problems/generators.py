"""Procedural problems, with train and test splits that never overlap.

A *family* (`families`) draws one problem at random. A *generator* is a named list of families that take turns. The
split of a problem depends on a hash of its operands in canonical order (`split_of`), never on the seed: a rephrased or
commuted problem cannot be in both splits, whatever seeds, sizes and generators are used.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle

from cir_env.errors import ProblemError
from cir_env.problems.families import GENERATORS, Draft, Family, make_key

SPLITS = ("train", "test")
_BUCKETS = 10  # one in ten problems is held out for "test"
_MAX_TRIES = 5_000  # consecutive draws without a new problem after which a family counts as exhausted


def split_of(key: str) -> str:
    """Return the split that a problem belongs to, in every process and for every seed.

    >>> split_of("product 367 4822"), split_of("product 101 1007")
    ('train', 'test')
    """
    digest = hashlib.sha256(key.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % _BUCKETS == 0 else "train"


def draw(name: str, split: str, seed: int, size: int) -> Iterator[Draft]:
    """Draw `size` distinct problems of one split; a larger size only appends problems.

    Args:
        name: A key of `GENERATORS`, "reasoning_gym", "reasoning_gym:TASK" with one of `REASONING_GYM_TASKS`, or several
            joined by "+", whose families all take turns.
        split: "train" or "test".
        seed: Any integer.
        size: Number of problems.

    Raises:
        ProblemError: The name is unknown, its library is missing, or it has fewer problems.
    """
    families = _families(name, seed)
    # `random` hashes string seeds with SHA-512: the same in every process, whatever PYTHONHASHSEED is.
    rng = random.Random(f"cir_env/{name}/{seed}")
    seen: set[str] = set()
    for family, done in zip(cycle(families), range(size), strict=False):
        for _ in range(_MAX_TRIES):
            draft = family(rng)
            if draft.key not in seen and split_of(draft.key) == split:
                break
        else:
            raise ProblemError(
                f"Expect `size` to be at most the number of distinct problems of generator {name!r}, got {size}: "
                f"split {split!r} with seed {seed} ends after {done} problems. Ask for fewer."
            )
        seen.add(draft.key)
        yield draft


REASONING_GYM_TASKS: Mapping[str, str] = {
    "simple_equations": "algebra",
    "polynomial_equations": "algebra",
    "gcd": "number theory",
    "lcm": "number theory",
    "count_primes": "number theory",
    "basic_arithmetic": "arithmetic",
    "chain_sum": "arithmetic",
    "decimal_chain_sum": "arithmetic",
    "products": "arithmetic",
    "count_bits": "arithmetic",
    "dice": "arithmetic",
    "leg_counting": "arithmetic",
    "simple_geometry": "geometry",
    "advanced_geometry": "geometry",
}
"""The reasoning-gym tasks whose answers the grader can judge, with their subjects.

Excluded on purpose: tasks whose question is equal to its answer (simplifying a fraction, expanding a polynomial,
factorising, complex numbers), antiderivatives (any constant is right), answers that are rounded differently from what
the question asks for, and gsm_symbolic (0.4 s per problem).
"""


def _reasoning_gym_family(task: str, seed: int) -> Family:
    """Return a family that iterates over a data set of the library; its entries depend on seed and index only."""
    try:
        import reasoning_gym  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise ProblemError(
            f"Generating 'reasoning_gym:{task}' needs the library reasoning-gym: "
            'pip install -e ".[problems]" (it needs a C compiler).'
        ) from None
    # The library seeds entry i with seed + i; distant seeds keep small seeds from sharing entries.
    far = random.Random(f"cir_env/reasoning_gym/{task}/{seed}").randrange(2**62)
    dataset = iter(reasoning_gym.create_dataset(task, seed=far, size=2**31))
    entries = (entry for entry in dataset if str(entry["answer"]).strip("$ "))

    def family(rng: random.Random) -> Draft:
        entry = next(entries)
        statement = str(entry["question"]).strip()
        # Only the numbers decide the split, so that rephrased or reordered questions cannot be in both.
        key = make_key(f"reasoning_gym {task}", *sorted(re.findall(r"[\d.]+", statement)))
        return Draft(key, statement, str(entry["answer"]).strip("$ "), REASONING_GYM_TASKS[task])

    return family


NAMES_IN_WORDS = f"one of {', '.join(map(repr, GENERATORS))}, 'reasoning_gym', 'reasoning_gym:TASK'"


def is_name(spec: str) -> bool:
    """Whether a spec names generators (a task of reasoning-gym may still be unknown)."""
    parts = spec.split("+")
    return all(part in GENERATORS or part == "reasoning_gym" or part.startswith("reasoning_gym:") for part in parts)


def _families(name: str, seed: int) -> Sequence[Family]:
    if "+" in name:
        return [family for part in name.split("+") for family in _families(part, seed)]
    if name in GENERATORS:
        return GENERATORS[name]
    if name == "reasoning_gym":
        return [_reasoning_gym_family(task, seed) for task in REASONING_GYM_TASKS]
    task = name.removeprefix("reasoning_gym:")
    if task == name:
        raise ProblemError(f"Expect the name of a generator, {NAMES_IN_WORDS}, got {name!r}.")
    if task not in REASONING_GYM_TASKS:
        raise ProblemError(
            "Expect a reasoning-gym task whose answers can be graded, one of "
            f"{', '.join(REASONING_GYM_TASKS)}; got {task!r}."
        )
    return [_reasoning_gym_family(task, seed)]
