"""Problems that take several blocks: scripted readers solve them in the real environment, one block does not."""

import re
from collections.abc import Callable, Iterator

import pytest

from cir_env import CodeMathEnv, Problem, ProblemSet
from cir_env.problems.families.multi_block import SCREEN, _affine_term
from experiments.demonstrations import READERS, play, printed, read_rule

PROBLEMS = ProblemSet.generate("multi_block", split="test", seed=3, size=80)
CASES = [(subject, level) for subject in READERS for level in ("1", "2", "3")]


@pytest.fixture(scope="module")
def env() -> Iterator[CodeMathEnv]:
    with CodeMathEnv(problems=PROBLEMS, observation="feedback", time_limit_s=0.5) as env:
        yield env


def choose(subject: str, level: str) -> tuple[int, Problem]:
    return next((i, p) for i, p in enumerate(PROBLEMS) if (p.subject, p.level) == (subject, level))


def run(env: CodeMathEnv, code: str) -> tuple[str, str]:
    """Execute a block; return what it printed, and its status."""
    feedback, _, _, _, info = env.step(f"```python\n{code}\n```\n")
    return printed(feedback), info["execution_status"]


def box(env: CodeMathEnv, answer: str) -> float:
    return float(env.step(f"\\boxed{{{answer}}}")[1])


@pytest.mark.parametrize(("subject", "level"), CASES)
def test_a_reader_solves_a_problem_with_one_block_more_than_its_level(
    env: CodeMathEnv, subject: str, level: str
) -> None:
    index, problem = choose(subject, level)
    env.reset(options={"problem_index": index, "interaction_budget": int(level) + 1})
    _, answer = play(env, READERS[subject](problem))
    assert box(env, answer) == 1


def guess_trail(problem: Problem, name: str) -> str:
    first = re.findall(r"Begin with line (\d+)", problem.statement)[0]
    return (
        "import re, math\n"
        f"numbers = re.findall(r'\\d+', open({name!r}).read().splitlines()[{first}])\n"
        "print(math.prod(map(int, numbers)))"
    )


def guess_ledger(problem: Problem, name: str) -> str:
    who, start = re.findall(r"does (\w+) have", problem.statement)[0], re.findall(r"\d+", problem.statement)[0]
    sentences = f"[s for s in open({name!r}).read().split('.') if {who!r} in s]"
    return f"import re\nprint({start} + sum(int(n) for s in {sentences} for n in re.findall(r'\\d+', s)))"


def guess_readings(problem: Problem, name: str) -> str:
    return f"print(sum(int(line) for line in open({name!r}).read().splitlines() if line.isdigit()))"


def guess_sequence(problem: Problem, name: str) -> str:
    n = re.findall(r"\d+", problem.statement)[-1]
    numbers = f"map(int, re.findall(r'\\d\\d+', open({name!r}).read()))"
    return f"import re\nx, a, c, m, *_ = {numbers}\nfor _ in range({n}):\n    x = (a * x + c) % m\nprint(x)"


GUESSES: dict[str, Callable[[Problem, str], str]] = {
    "trails": guess_trail,
    "ledgers": guess_ledger,
    "irregular data": guess_readings,
    "sequences": guess_sequence,
}


@pytest.mark.parametrize(("subject", "level"), CASES)
def test_one_block_that_takes_the_file_for_plain_data_is_wrong(env: CodeMathEnv, subject: str, level: str) -> None:
    index, problem = choose(subject, level)
    env.reset(options={"problem_index": index, "interaction_budget": 1})
    printed, _ = run(env, GUESSES[subject](problem, *problem.files))
    assert box(env, printed) == -1


def test_summing_the_readings_without_a_look_is_an_error_that_names_a_line(env: CodeMathEnv) -> None:
    index, problem = choose("irregular data", "1")
    (name, text), *_ = problem.files.items()
    env.reset(options={"problem_index": index})
    printed, status = run(env, f"print(sum(int(line) for line in open({name!r}).read().splitlines()))")
    odd = next(line for line in text.splitlines() if not line.isdigit())
    assert (printed, status) == (f"ValueError: invalid literal for int() with base 10: {odd!r}", "error")


def test_no_machine_takes_the_steps_of_a_sequence_of_level_2_or_3() -> None:
    hard = [p for p in PROBLEMS if p.subject == "sequences" and p.level != "1"]
    assert hard
    assert all(int(re.findall(r"\d+", p.statement)[-1]) >= 10**15 for p in hard)


def test_no_machine_finds_the_period_of_a_sequence_of_level_3() -> None:
    """It divides the modulus, and no number of which the modulus is a multiple by 2 or 5: it is the modulus."""
    for problem in (p for p in PROBLEMS if (p.subject, p.level) == ("sequences", "3")):
        rule = read_rule(*problem.files.values())
        x, m = rule["x"], rule["m"]
        assert m == 10**12
        assert [_affine_term(**rule, n=n) == x for n in (m, m // 2, m // 5)] == [True, False, False]


def test_a_ledger_takes_as_many_outputs_as_its_level_and_the_lines_of_a_trail_several() -> None:
    lengths: dict[str, list[tuple[int, int]]] = {p.subject: [] for p in PROBLEMS}
    for problem in PROBLEMS:
        lengths[problem.subject].append((int(problem.level), sum(map(len, problem.files.values()))))
    assert all(length > 2 * SCREEN for _, length in lengths["trails"])
    assert all((level - 1) * SCREEN < length <= level * SCREEN for level, length in lengths["ledgers"])


def test_a_look_is_as_long_as_the_default_output(env: CodeMathEnv) -> None:
    assert env.max_output_chars == SCREEN
