"""Families for one block: most are too hard for a small language model without code, and easy for a short program."""

import math
import random
from bisect import bisect
from fractions import Fraction
from functools import lru_cache

from cir_env.problems.families.draft import Draft, Family, make_key


def _product(rng: random.Random) -> Draft:
    a, b = rng.randint(1000, 9999), rng.randint(100, 999)
    return _multiplication(rng, *rng.choice([(a, b), (b, a)]))


def _small_product(rng: random.Random) -> Draft:
    return _multiplication(rng, rng.randint(2, 999), rng.randint(2, 99))


def _multiplication(rng: random.Random, a: int, b: int) -> Draft:
    statement = rng.choice(
        [
            f"What is {a} * {b}?",
            f"Compute {a} * {b}.",
            f"What is {a} times {b}?",
            f"Find the product of {a} and {b}.",
            f"Calculate ${a} \\times {b}$.",
        ]
    )
    return Draft(make_key("product", *sorted((a, b))), statement, str(a * b), "multiplication")


def _sum(rng: random.Random) -> Draft:
    a, b = rng.randint(2, 9999), rng.randint(2, 9999)
    statement = rng.choice([f"What is {a} + {b}?", f"Compute {a} + {b}.", f"Find the sum of {a} and {b}."])
    return Draft(make_key("sum", *sorted((a, b))), statement, str(a + b), "addition")


def _difference(rng: random.Random) -> Draft:
    a, b = rng.randint(2, 9999), rng.randint(2, 9999)
    statement = rng.choice([f"What is {a} - {b}?", f"Compute {a} - {b}.", f"Subtract {b} from {a}."])
    # a - b and b - a share a key, so that both are in the same split.
    return Draft(make_key("difference", *sorted((a, b))), statement, str(a - b), "subtraction")


def _gcd(rng: random.Random) -> Draft:
    common = rng.randint(12, 999)
    a, b = common * rng.randint(100, 9999), common * rng.randint(100, 9999)
    word, value = rng.choice([("greatest common divisor", math.gcd(a, b)), ("least common multiple", math.lcm(a, b))])
    return Draft(make_key("gcd", *sorted((a, b))), f"Find the {word} of {a} and {b}.", str(value), "gcd and lcm")


def _power_remainder(rng: random.Random) -> Draft:
    base, exponent, modulus = rng.randint(3, 999), rng.randint(20, 9999), rng.randint(11, 9999)
    statement = rng.choice(
        [
            f"What is the remainder when ${base}^{{{exponent}}}$ is divided by ${modulus}$?",
            f"Compute {base}^{exponent} mod {modulus}.",
        ]
    )
    key = make_key("power remainder", base, exponent, modulus)
    return Draft(key, statement, str(pow(base, exponent, modulus)), "remainders of powers")


def _power(rng: random.Random) -> Draft:
    base, exponent = rng.randint(101, 9999), rng.randint(3, 5)
    return Draft(make_key("power", base, exponent), f"Compute ${base}^{exponent}$.", str(base**exponent), "powers")


def _power_sum(rng: random.Random) -> Draft:
    first, exponent = rng.randint(1, 300), rng.randint(2, 4)
    last = first + rng.randint(10, 700)
    statement = rng.choice(
        [
            f"Compute $\\sum_{{k={first}}}^{{{last}}} k^{exponent}$.",
            f"Find the sum of k^{exponent} for all integers k from {first} to {last}.",
        ]
    )
    value = sum(k**exponent for k in range(first, last + 1))
    return Draft(make_key("power sum", first, last, exponent), statement, str(value), "sums of series")


def _multiples_sum(rng: random.Random) -> Draft:
    a, b = rng.sample(range(3, 60), 2)
    limit = rng.randint(200, 9999)
    statement = f"Find the sum of all positive integers below {limit} that are divisible by {a} or by {b}."
    value = sum({*range(a, limit, a), *range(b, limit, b)})
    return Draft(make_key("multiples", *sorted((a, b)), limit), statement, str(value), "sums of series")


def _fractions(rng: random.Random) -> Draft:
    terms = [Fraction(rng.randint(1, 99), rng.randint(11, 99)) for _ in range(3)]
    statement = f"Compute {' + '.join(map(str, terms))}. Give the answer as a reduced fraction."
    return Draft(make_key("fractions", *sorted(terms)), statement, str(sum(terms)), "fractions")


def _nth_prime(rng: random.Random) -> Draft:
    n = rng.randint(50, 5000)
    return Draft(make_key("nth prime", n), f"What is the {_ordinal(n)} prime number?", str(_primes()[n - 1]), "primes")


def _prime_count(rng: random.Random) -> Draft:
    low = 2 * rng.randint(50, 10_000)  # even bounds are no primes, so that "between" is unambiguous
    high = low + 2 * rng.randint(100, 10_000)
    value = bisect(_primes(), high) - bisect(_primes(), low)
    return Draft(
        make_key("prime count", low, high),
        f"How many primes are between {low} and {high}?",
        str(value),
        "primes",
    )


def _next_prime(rng: random.Random) -> Draft:
    n = rng.randint(1000, 999_999)
    value = next(k for k in range(n + 1, 2 * n) if _smallest_factor(k) == k)
    return Draft(make_key("next prime", n), f"What is the smallest prime greater than {n}?", str(value), "primes")


def _largest_factor(rng: random.Random) -> Draft:
    n = rng.randint(1000, 999_999)
    value = max(_factors(n))
    return Draft(make_key("largest factor", n), f"What is the largest prime factor of {n}?", str(value), "factors")


def _divisors(rng: random.Random) -> Draft:
    n = rng.randint(1000, 99_999)
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    divisors = {*small, *(n // d for d in small)}
    what, value = rng.choice(
        [
            ("How many positive divisors does {n} have?", len(divisors)),
            ("Find the sum of all divisors of {n}.", sum(divisors)),
        ]
    )
    return Draft(make_key("divisors", n), what.format(n=n), str(value), "factors")


def _linear_equation(rng: random.Random) -> Draft:
    a, c = rng.sample(range(2, 60), 2)
    b, d = rng.randint(1, 999), rng.randint(1, 999)
    statement = f"Solve for x: {a}x + {b} = {c}x - {d}. Give an exact answer."
    return Draft(make_key("linear", a, b, c, d), statement, str(Fraction(-d - b, a - c)), "linear equations")


def _system(rng: random.Random) -> Draft:
    x, y = rng.randint(-60, 60), rng.randint(-60, 60)
    a, b, c, d = (rng.randint(2, 30) for _ in range(4))
    if a * d == b * c:
        d += 1
    equations = f"{a}x + {b}y = {a * x + b * y} and {c}x + {d}y = {c * x + d * y}"
    statement = f"Solve the system {equations}. What is the value of xy?"
    return Draft(make_key("system", *sorted([(a, b), (c, d)]), x, y), statement, str(x * y), "systems of equations")


def _binomial(rng: random.Random) -> Draft:
    n, k = rng.randint(20, 999), rng.randint(3, 12)
    statement = rng.choice(
        [
            f"Compute $\\binom{{{n}}}{{{k}}}$.",
            f"In how many ways can a committee of {k} be chosen from {n} people?",
        ]
    )
    return Draft(make_key("binomial", n, k), statement, str(math.comb(n, k)), "combinatorics")


def _digit_sum(rng: random.Random) -> Draft:
    base, exponent = rng.randint(2, 99), rng.randint(20, 300)
    value = sum(map(int, str(base**exponent)))
    statement = f"What is the sum of the digits of ${base}^{{{exponent}}}$?"
    return Draft(make_key("digit sum", base, exponent), statement, str(value), "digit sums")


def _fibonacci(rng: random.Random) -> Draft:
    n, modulus = rng.randint(30, 999), rng.randint(11, 9999)
    a, b = 0, 1
    for _ in range(n):
        a, b = b, (a + b) % modulus
    statement = f"The Fibonacci numbers are F(1) = F(2) = 1 and F(n) = F(n-1) + F(n-2). Find F({n}) modulo {modulus}."
    return Draft(make_key("fibonacci", n, modulus), statement, str(a), "recurrences")


# --- helpers ----------------------------------------------------------------------------------------------


def _ordinal(n: int) -> str:
    """Return the English ordinal of a positive integer.

    >>> [_ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 101, 112)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '13th', '101st', '112th']
    """
    suffix = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


@lru_cache(maxsize=1)
def _primes() -> tuple[int, ...]:
    """Return all primes below 50,000 (there are 5,133)."""
    sieve = bytearray([1]) * 50_000
    sieve[:2] = b"\0\0"
    for k in range(2, math.isqrt(len(sieve)) + 1):
        if sieve[k]:
            sieve[k * k :: k] = bytes(len(range(k * k, len(sieve), k)))
    return tuple(k for k, is_prime in enumerate(sieve) if is_prime)


def _smallest_factor(n: int) -> int:
    return next((p for p in range(2, math.isqrt(n) + 1) if n % p == 0), n)


def _factors(n: int) -> list[int]:
    """Return the prime factors of an integer greater than 1, with multiplicity.

    >>> _factors(360)
    [2, 2, 2, 3, 3, 5]
    """
    factors = []
    while n > 1:
        factors.append(_smallest_factor(n))
        n //= factors[-1]
    return factors


PRODUCTS: tuple[Family, ...] = (_product,)
ARITHMETIC: tuple[Family, ...] = (_sum, _difference, _small_product)
MIXED: tuple[Family, ...] = (
    _product,
    _gcd,
    _power_remainder,
    _power,
    _power_sum,
    _multiples_sum,
    _fractions,
    _nth_prime,
    _prime_count,
    _next_prime,
    _largest_factor,
    _divisors,
    _linear_equation,
    _system,
    _binomial,
    _digit_sum,
    _fibonacci,
)
SHORT_QUESTIONS: tuple[Family, ...] = (_gcd, _power_remainder, _divisors, _digit_sum, _fibonacci)
"""Families that ask for a whole number in one line, for problems that consist of several questions."""
