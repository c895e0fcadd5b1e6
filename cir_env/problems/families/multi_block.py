"""Families whose answer needs a look in between: what a later block has to do stands in the output of an earlier one.

A program can branch by itself, so a first result that a later step depends on is not enough. Here the file of a problem
has to be read like a text. Level L takes L looks, and then a block that computes the answer:

- `_trail`: a result says which question comes next, and all questions are too long to be seen at once.
- `_ledger`: a story as long as L outputs, of which the middle is cut if it is printed as a whole.
- `_readings`: a list of numbers of which L are no literals. Each is found by an error, or by looking for all of them.
- `_sequence`: a rule to read, too many steps for a loop (level 2), and too long a period to search for (level 3).

In the last two, a policy that foresees the obstacle takes 2 blocks at any level. A program that knew every wording of a
family could do without looking.
"""

import random
from collections.abc import Callable, Mapping, Sequence

from cir_env.problems.families.draft import Draft, Family, make_key
from cir_env.problems.families.one_block import SHORT_QUESTIONS

SCREEN = 400
"""Characters of a look: the environment's default `max_output_chars`."""
_MAX_LEVEL = 3


def _trail(rng: random.Random) -> Draft:
    level, count = rng.randint(1, _MAX_LEVEL), 20
    questions = [rng.choice(SHORT_QUESTIONS)(rng) for _ in range(count)]
    path = [first := rng.randrange(count)]
    while len(path) < level:
        following = int(questions[path[-1]].answer) % count
        if following in path:  # a trail in a circle: ask something else
            questions[path[-1]] = rng.choice(SHORT_QUESTIONS)(rng)
        else:
            path.append(following)
    name = _file_name(rng, "questions")
    statement = (
        f"Each of the {count} lines of {name} asks for a whole number. Begin with line {first}, counting from 0. After "
        f"a line with the answer a, go to the line whose number is the remainder when a is divided by {count}. What is "
        f"the answer to the {('first', 'second', 'third')[level - 1]} question on this way?"
    )
    return Draft(
        make_key("trail", *(questions[place].key for place in path)),
        statement,
        questions[path[-1]].answer,
        "trails",
        level=str(level),
        files={name: "\n".join(question.statement for question in questions)},
    )


_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "June")
_TRANSFERS = (
    "{a} gives {b} {n} coins.",
    "{n} coins go from {a} to {b}.",
    "{b} gets {n} coins from {a}.",
    "{b} wins a bet of {n} coins against {a}.",
    "{b} collects the {n} coins that {a} owes.",
    "{b} sells {a} a lamp for {n} coins.",
    "{a} buys a hat from {b} for {n} coins.",
    "{a} loses {n} coins to {b} at cards.",
    "{a} owes {b} {n} coins, and pays at once.",
    "{a} takes back a coat, so {n} coins return to {b}.",
)
"""Sentences in which `n` coins go from `a` to `b`."""
_AGAIN = "The same happens once more."


def _ledger(rng: random.Random) -> Draft:
    level, names, start = rng.randint(1, _MAX_LEVEL), rng.sample(_NAMES, 3), rng.randint(3000, 9999)
    who, story = names[0], list[tuple[str, int]]()
    while min((gain for _, gain in story), default=0) >= 0 or max(gain for _, gain in story) <= 0:
        story = _story(rng, names, who, level * SCREEN)  # again, if the sum of all numbers would be right
    sentences, gains = zip(*story, strict=True)
    name = _file_name(rng, "ledger")
    statement = (
        f"{', '.join(sorted(names))} begin with {start} coins each. {name} tells in order what happens. "
        f"How many coins does {who} have in the end?"
    )
    return Draft(
        make_key("ledger", who, start, *sentences),
        statement,
        str(start + sum(gains)),
        "ledgers",
        level=str(level),
        files={name: "\n".join(sentences)},
    )


def _story(rng: random.Random, names: Sequence[str], who: str, max_chars: int) -> list[tuple[str, int]]:
    """Return as many sentences as fit, each with the coins that `who` gains."""
    story: list[tuple[str, int]] = []
    while True:
        if story and story[-1][0] != _AGAIN and rng.random() < 0.15:
            told = _AGAIN, story[-1][1]
        else:
            a, b = rng.sample(names, 2)
            n = rng.randint(11, 99)
            told = rng.choice(_TRANSFERS).format(a=a, b=b, n=n), n * ((b == who) - (a == who))
        if len("\n".join(sentence for sentence, _ in [*story, told])) > max_chars:
            return story
        story.append(told)


Reading = tuple[str, int]
"""How a number is written down, and the number."""


def _corrected(rng: random.Random, above: int) -> Reading:
    wrong, right = rng.sample(range(100, 1000), 2)
    return f"{wrong}, no: {right}", right


def _dozens(rng: random.Random, above: int) -> Reading:
    n = rng.randint(3, 40)
    return f"{n} dozen", 12 * n


def _with_comma(rng: random.Random, above: int) -> Reading:
    n = rng.randint(1001, 9999)
    return f"{n:,}", n


def _quarter(rng: random.Random, above: int) -> Reading:
    n = rng.randint(26, 249)
    return f"a quarter of {4 * n}", n


def _repeated(rng: random.Random, above: int) -> Reading:
    return "as in the line above", above


def _twice(rng: random.Random, above: int) -> Reading:
    return "twice the line above", 2 * above


def _more(rng: random.Random, above: int) -> Reading:
    n = rng.randint(2, 9)
    return f"{n} more than the line above", above + n


def _less(rng: random.Random, above: int) -> Reading:
    n = rng.randint(2, 9)
    return f"{n} less than the line above", above - n


_IRREGULAR: tuple[Callable[[random.Random, int], Reading], ...] = (
    _corrected,
    _dozens,
    _with_comma,
    _quarter,
    _repeated,
    _twice,
    _more,
    _less,
)


def _readings(rng: random.Random) -> Draft:
    level, count = rng.randint(1, _MAX_LEVEL), rng.randint(20, 30)
    values = [rng.randint(100, 999) for _ in range(count)]
    lines = [str(value) for value in values]
    places = rng.sample(range(1, count, 2), level)  # the line above is regular
    for place, write in zip(places, rng.sample(_IRREGULAR, level), strict=True):
        lines[place], values[place] = write(rng, values[place - 1])
    name = _file_name(rng, "readings")
    statement = (
        f"{name} has a whole number in each line, the way {rng.choice(_NAMES)} and others wrote them down. "
        f"What is the sum of the {count} numbers?"
    )
    return Draft(
        make_key("readings", *lines),
        statement,
        str(sum(values)),
        "irregular data",
        level=str(level),
        files={name: "\n".join(lines)},
    )


_RULES = (
    "To get from one term to the next, multiply by {a}, add {c}, and keep the remainder on division by {m}. Term 0 is "
    "{x}.",
    "All terms are remainders on division by {m}. Each is {c} more than {a} times the one before. Term 0 is {x}.",
    "Take {a} times a term, add {c}, and drop as many multiples of {m} as possible: that is the next term. The first "
    "of all, term 0, is {x}.",
)
"""Wordings of x -> (a x + c) mod m."""


def _sequence(rng: random.Random) -> Draft:
    level = rng.randint(1, _MAX_LEVEL)
    n = rng.randint(2000, 20_000) if level == 1 else rng.randint(10**15, 10**18)
    m = rng.randint(1000, 9999)
    a, c = rng.randint(2, m - 1), rng.randint(1, m - 1)
    if level == _MAX_LEVEL:  # a period of m: a - 1 is divisible by 2, 4 and 5, and c by neither 2 nor 5 (Hull, Dobell)
        m = 10**12
        a, c = 20 * rng.randint(50, 5000) + 1, 10 * rng.randint(50, 5000) + rng.choice([1, 3, 7, 9])
    x = rng.randint(1, m - 1)
    name = _file_name(rng, "rule")
    wording = rng.choice(["What is term {n}?", "Find term {n}.", "Which number is term {n}?"])
    return Draft(
        make_key("sequence", x, a, c, m, n),
        f"{name} describes a sequence of whole numbers. {wording.format(n=n)}",
        str(_affine_term(x, a, c, m, n)),
        "sequences",
        level=str(level),
        files={name: rng.choice(_RULES).format(x=x, a=a, c=c, m=m)},
    )


def _affine_term(x: int, a: int, c: int, m: int, n: int) -> int:
    """Return term `n` of x -> (a x + c) mod m, for `a` above 1, by the sum of the geometric series.

    >>> _affine_term(1, 2, 3, 100, 4)
    61
    """
    power = pow(a, n, m * (a - 1))
    return (power * x + c * ((power - 1) // (a - 1))) % m


def _file_name(rng: random.Random, stem: str) -> str:
    """Return a name that differs between problems: problems of both splits may differ only in their files."""
    return f"{stem}_{rng.randrange(10**6):06}.txt"


MULTI_BLOCK: Mapping[str, Family] = {
    "trails": _trail,
    "ledgers": _ledger,
    "readings": _readings,
    "sequences": _sequence,
}
