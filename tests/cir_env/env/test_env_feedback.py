"""What a policy reads of a block that a real sandbox runs."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from fakes import begun

from cir_env.env import CodeMathEnv
from cir_env.sandbox import LocalSandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    with LocalSandbox(slots=1, preload=()) as made:
        yield made


@pytest.fixture(params=[False, True], ids=["fresh", "stateful"])
def env(request: pytest.FixtureRequest, sandbox: LocalSandbox) -> Iterator[CodeMathEnv]:
    with closing(begun(sandbox=sandbox, stateful=request.param, observation="feedback", time_limit_s=0.3)) as made:
        yield made


def feedback_of(env: CodeMathEnv, code: str) -> str:
    feedback, *_ = env.step(f"```python\n{code}\n```\n")
    return feedback.removeprefix("```output\n").removesuffix("\n```\n")


def test_a_search_that_runs_out_of_time_shows_what_it_found(env: CodeMathEnv) -> None:
    search = "for n in range(1, 10**9):\n    if n * n == 144: print('found', n)"
    assert feedback_of(env, search) == "found 12\nTimeoutError: the code ran for over 0.3 s"


def test_a_crash_shows_what_was_printed_before(env: CodeMathEnv) -> None:
    code = "import os\nprint('one', end=' ')\nprint('two', end='')\nos.abort()"
    assert feedback_of(env, code) == "one two\nthe process was killed by SIGABRT"


def test_a_warning_appears_between_the_prints_around_it(env: CodeMathEnv) -> None:
    code = "import warnings\nwarnings.simplefilter('always')\nprint('one')\nwarnings.warn('careful')\nprint('two')"
    assert feedback_of(env, code).splitlines() == [
        "one",
        "<block>:4: UserWarning: careful",
        "  warnings.warn('careful')",
        "two",
    ]


def test_the_last_half_of_a_long_output_is_its_end_even_if_the_block_was_stopped(env: CodeMathEnv) -> None:
    feedback = feedback_of(env, "for i in range(9999): print(i)\nwhile True: pass")
    error = "TimeoutError: the code ran for over 0.3 s"
    text = "".join(f"{i}\n" for i in range(9999)) + error
    assert feedback == text[:200] + "..." + text[-200:]
