"""Demonstrations for `multi_block`: scripted readers solve its problems, and what they do is written as chats.

$ python experiments/demonstrations.py --size 400 --output runs/demonstrations.jsonl
$ python train.py sft --model M --transcripts runs/demonstrations.jsonl --chat-prompts env --env.problems multi_block

A model that solves none of these problems gets no signal from reinforcement learning. Fine-tuned on demonstrations it
solves some. The problems are of the train split.

A reader is a generator: it yields the code of a block, is sent what the block printed, and returns its answer. What it
does depends on the statement and on earlier outputs alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.core.errors import expect
from agents.core.files import write_json_lines
from cir_env import CodeMathEnv, Problem, ProblemSet
from cir_env.errors import CirEnvError
from cir_env.problems.families.multi_block import SCREEN

Reader = Generator[str, str, str]

_QUESTIONS = {
    "greatest common divisor": "gcd({0}, {1})",
    "least common multiple": "lcm({0}, {1})",
    r"remainder|\d mod ": "pow({0}, {1}, {2})",
    "How many positive divisors": "divisor_count({0})",
    "sum of all divisors": "divisor_sigma({0})",
    "digits": "sum(map(int, str({0} ** {1})))",
    "Fibonacci": "fibonacci({5}) % {6}",
}


def read_trail(problem: Problem) -> Reader:
    """Answer the question of a line, and print the line that the answer leads to."""
    (name,) = problem.files
    code = "from sympy import *\n"
    line = yield _print_line(name, re.findall(r"Begin with line (\d+)", problem.statement)[0])
    for _ in range(int(problem.level) - 1):
        line = yield code + _print_line(name, f"{_answer_to(line)} % 20")
    return (yield f"{code}print({_answer_to(line)})")


def _print_line(name: str, number: str) -> str:
    return f"print(open({name!r}).read().splitlines()[{number}])"


def _answer_to(question: str) -> str:
    numbers = re.findall(r"\d+", question)
    return next(code.format(*numbers) for words, code in _QUESTIONS.items() if re.search(words, question))


_PAYMENTS = [
    r"(?P<a>\w+) gives (?P<b>\w+) (?P<n>\d+) coins",
    r"(?P<n>\d+) coins go from (?P<a>\w+) to (?P<b>\w+)",
    r"(?P<b>\w+) gets (?P<n>\d+) coins from (?P<a>\w+)",
    r"(?P<b>\w+) wins a bet of (?P<n>\d+) coins against (?P<a>\w+)",
    r"(?P<b>\w+) collects the (?P<n>\d+) coins that (?P<a>\w+) owes",
    r"(?P<b>\w+) sells (?P<a>\w+) a lamp for (?P<n>\d+) coins",
    r"(?P<a>\w+) buys a hat from (?P<b>\w+) for (?P<n>\d+) coins",
    r"(?P<a>\w+) loses (?P<n>\d+) coins to (?P<b>\w+) at cards",
    r"(?P<a>\w+) owes (?P<b>\w+) (?P<n>\d+) coins, and pays",
    r"(?P<a>\w+) takes back a coat, so (?P<n>\d+) coins return to (?P<b>\w+)",
]


def read_ledger(problem: Problem) -> Reader:
    """Read a story output by output, and add up what it says."""
    (name,) = problem.files
    ((start, who),) = re.findall(r"begin with (\d+) coins .* does (\w+) have", problem.statement)
    terms, story = [start], ""
    for screen in range(int(problem.level)):
        story += yield f"print(open({name!r}).read()[{SCREEN * screen}:{SCREEN * (screen + 1)}])"
    for sentence in re.split(r"(?<=\.)\s*", story)[:-1]:
        terms.append(terms[-1] if "once more" in sentence else _gain(sentence, who))
    return (yield f"print({' + '.join(terms)})")


def _gain(sentence: str, who: str) -> str:
    (payment,) = (found for pattern in _PAYMENTS if (found := re.match(pattern, sentence)))
    return {payment["b"]: payment["n"], payment["a"]: f"-{payment['n']}"}.get(who, "0")


_NOTES = {
    r"\d+, no: (\d+)": "{0}",
    r"(\d+) dozen": "12 * {0}",
    r"(\d+),(\d+)": "{0}{1}",
    r"a quarter of (\d+)": "{0} // 4",
    r"as in the line above": "above",
    r"twice the line above": "2 * above",
    r"(\d+) more than the line above": "above + {0}",
    r"(\d+) less than the line above": "above - {0}",
}


_SUM = """
cases, total, above = {cases}, 0, 0
for line in open("{name}").read().splitlines():
    above = cases[line]() if line in cases else int(line)
    total += above
print(total)
"""


def read_readings(problem: Problem) -> Reader:
    """Add up all lines, and correct the line that each error names."""
    (name,) = problem.files
    corrections: dict[str, str] = {}
    while True:
        cases = ", ".join(f"{line!r}: lambda: {value}" for line, value in corrections.items())
        result = yield _SUM.format(cases=f"{{{cases}}}", name=name)
        if not (error := re.search(r"invalid literal .*?: '(.*)'", result)):
            return result
        corrections[error[1]] = next(
            value.format(*found.groups()) for note, value in _NOTES.items() if (found := re.fullmatch(note, error[1]))
        )


_RULES = [
    r"multiply by (?P<a>\d+), add (?P<c>\d+), .* division by (?P<m>\d+)\. Term 0 is (?P<x>\d+)",
    r"division by (?P<m>\d+)\. Each is (?P<c>\d+) more than (?P<a>\d+) times .* Term 0 is (?P<x>\d+)",
    r"Take (?P<a>\d+) times a term, add (?P<c>\d+), .* multiples of (?P<m>\d+) .* term 0, is (?P<x>\d+)",
]
BY_STEPS = """
x = {x}
for _ in range({n}):
    x = ({a} * x + {c}) % {m}
print(x)
"""
BY_PERIOD = """
x, terms, places = {x}, [], {{}}
while x not in places:
    places[x] = len(terms)
    terms.append(x)
    x = ({a} * x + {c}) % {m}
first = places[x]
print(terms[first + ({n} - first) % (len(terms) - first)])
"""
BY_DOUBLING = """
x, a, c, n = {x}, {a}, {c}, {n}
while n:
    if n % 2:
        x = (a * x + c) % {m}
    a, c, n = a * a % {m}, (a * c + c) % {m}, n // 2
print(x)
"""


def read_rule(text: str) -> dict[str, int]:
    """Return the numbers of x -> (a x + c) mod m, and the first x."""
    (rule,) = (found for pattern in _RULES if (found := re.search(pattern, text)))
    return {name: int(number) for name, number in rule.groupdict().items()}


def read_sequence(problem: Problem) -> Reader:
    """Read the rule, and compute the term: step by step, else by the period, else by doubling the step."""
    (name,) = problem.files
    n = re.findall(r"\d+", problem.statement)[-1]
    rule = read_rule((yield f"print(open({name!r}).read())"))
    for code in (BY_STEPS, BY_PERIOD, BY_DOUBLING):
        result = yield code.format(n=n, **rule)
        if result.isdigit():
            break
    return result


READERS: Mapping[str, Callable[[Problem], Reader]] = {
    "trails": read_trail,
    "ledgers": read_ledger,
    "irregular data": read_readings,
    "sequences": read_sequence,
}
"""The reader for each subject."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which problems are solved."""

    size: int = 400
    """How many."""
    problems: str = "multi_block"
    """Of all families, or of one, as in "multi_block:trails"."""
    seed: int = 0
    """Which ones are drawn."""
    time_limit_s: float = 5.0
    """CPU time of a block, in seconds. What runs out of it says so: give `--env.time-limit-s` in training, too."""
    output: Path = Path("runs/demonstrations.jsonl")
    """The file."""

    def __post_init__(self) -> None:
        expect(self.size >= 1, "size", "of at least 1", self.size)


def demonstrate(env: CodeMathEnv, index: int) -> Mapping[str, Any]:
    """Return a chat in which a reader solves a problem.

    Raises:
        RuntimeError: The answer is wrong.
    """
    _, info = env.reset(seed=index, options={"problem_index": index})
    text, answer = play(env, READERS[info["subject"]](env.problems[index]))
    text += (final := f"The answer is \\boxed{{{answer}}}.")
    *_, info = env.step(final)
    if not info["correct"]:
        raise RuntimeError(f"Expect a right answer to {info['problem_id']}, got {info['reason']}: {text}")
    user, assistant = ({"role": "user", "content": info["statement"]}, {"role": "assistant", "content": text})
    return {"messages": [user, assistant], "files": info["files"]}


def play(env: CodeMathEnv, reader: Reader) -> tuple[str, str]:
    """Run the blocks of a reader; return them with their outputs, and its answer."""
    text, code = "", next(reader)
    while True:
        block = f"```python\n{code.strip()}\n```\n"
        feedback = env.step(block)[0]
        text += block + feedback
        try:
            code = reader.send(printed(feedback))
        except StopIteration as end:
            return text, end.value


def printed(feedback: str) -> str:
    """Return what stands in an output block."""
    return feedback.removeprefix("```output\n").removesuffix("\n```\n")


def main(arguments: Arguments) -> None:
    """Write the demonstrations."""
    problems = ProblemSet.generate(arguments.problems, split="train", seed=arguments.seed, size=arguments.size)
    env = CodeMathEnv(
        problems=problems, observation="feedback", interaction_budget=4, time_limit_s=arguments.time_limit_s
    )
    with closing(env):
        chats = [demonstrate(env, index) for index in range(len(problems))]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(arguments.output, chats)
    print(f"Wrote {len(problems)} demonstrations to {arguments.output}.")


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments, description=__doc__))
    except (ValueError, CirEnvError, OSError, RuntimeError) as error:
        sys.exit(f"demonstrations.py: {error}")
