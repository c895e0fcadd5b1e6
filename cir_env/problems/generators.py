"""Procedural problems: endless, exact, with a train and a test split that never overlap.

A *family* draws one problem at random. A *generator* is a named tuple of families that take turns. Which
split a problem belongs to is decided by a hash of its operands in canonical order (`split_of`), never by the
seed: a rephrased or commuted problem cannot be in both splits, whatever seeds, sizes and generators are
used.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle

from cir_env.errors import ProblemError
from cir_env.problems.families import GENERATORS, Draft, Family, make_key

SPLITS = ("train", "test")
_BUCKETS = 10  # one in ten problems is held out
_MAX_TRIES = 5_000  # draws in a row that bring nothing new before a family counts as exhausted


def split_of(key: str) -> str:
    """The split that a problem belongs to, in every process and for every seed.

    >>> split_of("product 367 4822"), split_of("product 101 1007")
    ('train', 'test')
    """
    digest = hashlib.sha256(key.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % _BUCKETS == 0 else "train"


def draw(name: str, split: str, seed: int, size: int) -> Iterator[Draft]:
    """Draw `size` distinct problems of one split; the first n are the same whatever the size.

    Args:
        name: A key of `GENERATORS`, "reasoning_gym", "reasoning_gym:" and one of `REASONING_GYM_TASKS`, or several of
            these with "+" between them, whose families then all take turns.
        split: "train" or "test".
        seed: Any integer.
        size: How many problems.

    Raises:
        ProblemError: The name is unknown, its library is missing, or it cannot make that many problems.
    """
    families = _families(name, seed)
    # Seeding with text goes through SHA-512: the same in every process, whatever PYTHONHASHSEED is.
    rng = random.Random(f"cir_env/{name}/{seed}")
    seen: set[str] = set()
    for family, done in zip(cycle(families), range(size), strict=False):
        for _ in range(_MAX_TRIES):
            draft = family(rng)
            if draft.key not in seen and split_of(draft.key) == split:
                break
        else:
            raise ProblemError(
                f"Expect a `size` that generator {name!r} can fill without repeating itself, got {size}: "
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
"""The tasks whose answers a maths grader can judge, with their subjects.

Left out on purpose: tasks where the question itself has the value of the answer (simplifying a fraction,
expanding a polynomial, factorising, complex numbers), antiderivatives (any constant will do), answers that are rounded
differently from what is asked, and gsm_symbolic (0.4 s a problem).
"""


def _reasoning_gym_family(task: str, seed: int) -> Family:
    """A family that walks through a data set of the library; its entries follow from seed and index."""
    try:
        import reasoning_gym  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise ProblemError(
            f"Expect the library reasoning-gym to make 'reasoning_gym:{task}': "
            'pip install "cir-env[problems]" (it needs a C compiler).'
        ) from None
    # The library seeds entry i with seed + i: seeds far apart keep small seeds from sharing their entries.
    far = random.Random(f"cir_env/reasoning_gym/{task}/{seed}").randrange(2**62)
    dataset = iter(reasoning_gym.create_dataset(task, seed=far, size=2**31))
    entries = (entry for entry in dataset if str(entry["answer"]).strip("$ "))

    def family(rng: random.Random) -> Draft:
        entry = next(entries)
        statement = str(entry["question"]).strip()
        # The numbers alone decide the split, so that other words or another order cannot straddle it.
        key = make_key(f"reasoning_gym {task}", *sorted(re.findall(r"[\d.]+", statement)))
        return Draft(key, statement, str(entry["answer"]).strip("$ "), REASONING_GYM_TASKS[task])

    return family


NAMES_IN_WORDS = "one of 'products', 'arithmetic', 'mixed', 'reasoning_gym', 'reasoning_gym:TASK'"


def is_name(spec: str) -> bool:
    """Whether a text looks like a generator's name: only its task may still be unknown."""
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
        raise ProblemError(f"Expect a generator's name, {NAMES_IN_WORDS}, got {name!r}.")
    if task not in REASONING_GYM_TASKS:
        raise ProblemError(
            "Expect a task of reasoning-gym whose answers can be graded, one of "
            f"{', '.join(REASONING_GYM_TASKS)}; got {task!r}."
        )
    return [_reasoning_gym_family(task, seed)]
