"""The grading process: no answer can stop or starve it, and it ends with the trainer."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import is_alive, new_child, wait_until, worker_of

from cir_env.errors import GraderUnavailable, OptionError
from cir_env.grading import grader as grading
from cir_env.grading.grader import Grader, Verdict, shared_grader

BOMB = r"\gcd(9^{10^{8}}, 3) + "  # with a number appended: an answer that no computer can evaluate


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with pytest.MonkeyPatch.context() as patch, Grader() as grader:
        patch.setenv("WANDB_API_KEY", "planted")
        yield grader


def run_program(code: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


# --- robustness ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runaway_answers_are_wrong_and_do_not_starve_good_ones() -> None:
    with Grader(time_limit_s=0.3, max_parallel=3) as grader:
        bombs = [grader.submit(r"\sqrt{7}", f"{BOMB}{k}") for k in range(8)]
        bombs += [grader.submit(r"\sqrt{7}", f"{k}00000000!") for k in range(1, 5)]
        good = [grader.submit(rf"{k}\sqrt{{7}}", rf"\sqrt{{{7 * k * k}}}") for k in range(2, 14)]
        assert [future.result() for future in good] == [Verdict(correct=True, reason="equal by algebra")] * 12
        assert bombs[0].result() == Verdict(correct=False, reason="takes more than 0.3 s to compare")


NASTY = {
    "nested roots": r"\sqrt{2+" * 120 + "1" + "}" * 120,
    "deep brackets": "(" * 480 + "x" + ")" * 480,
    "deep braces": "{" * 480 + "x" + "}" * 480,
    "a tall tower": "2^{" * 200 + "1" + "}" * 200,
    "a huge root": r"\sqrt{10^{10^{10}}}",
    "a long decimal": "0." + "3" * 950 + r"\pi",
    "many binomials": "".join(f"(x+{k}y+{k}z+w)^{{50}}" for k in range(1, 40)),
    "a high power of a sum": r"(1+\sqrt{2}+\sqrt{3}+\sqrt{5})^{2000}",
    "a long sum": r"\sum_{k=1}^{10^{9}} \frac{1}{k^2+\sqrt{k}}",
    "a matrix of towers": r"\begin{pmatrix} 9^{9^9} & 9^{9^8} \\ 9^{9^7} & 9^{9^6} \end{pmatrix}",
    "factorials of factorials": "9" + "!" * 200,
    "nested intervals": r"(-\infty," * 80 + "1" + ")" * 80,
    "control characters": "\0\x1b[31m7" * 50,
    "half a character": "\ud83e" * 50,
}


@pytest.mark.slow
def test_no_answer_can_block_or_break_the_grader() -> None:
    with Grader(time_limit_s=0.2) as grader:
        verdicts = {name: grader.submit("x^2+1", answer) for name, answer in NASTY.items()}
        verdicts |= {f"7, {name}": grader.submit("7", answer) for name, answer in NASTY.items()}
        good = [grader.submit(rf"{k}\sqrt{{7}}", rf"\sqrt{{{7 * k * k}}}") for k in range(2, 12)]
        assert all(future.result().correct for future in good)
        found = {name: future.result() for name, future in verdicts.items()}
        assert grader.grade("10^{10^{10}}", r"\boxed{10^{ 10^{10} }}").correct
        assert not grader.grade("10^{10^{10}}", "7").correct
    assert [name for name, verdict in found.items() if verdict.correct or not verdict.valid] == []


@pytest.mark.parametrize("character", ["7", "(", r"\frac", "9^{"])
def test_a_million_characters_are_rejected_unread(character: str) -> None:
    answer = character * 1_000_000
    assert Grader().grade("7", answer) == Verdict(correct=False, reason="longer than 1000 characters")


@pytest.mark.slow
def test_an_answer_that_needs_too_much_memory_is_wrong() -> None:
    with Grader(time_limit_s=600, memory_limit_mb=2) as grader:
        verdict = grader.grade(r"\sqrt{7}", "3^{9^{9}}")
        assert (verdict.correct, verdict.valid) == (False, True)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_while_idle_and_while_busy() -> None:
    with Grader() as grader:
        assert grader.grade(r"\sqrt{8}", r"2\sqrt{2}").correct
        os.kill(worker_of(grader), signal.SIGKILL)
        assert grader.grade(r"\sqrt{12}", r"2\sqrt{3}").correct
        future = grader.submit(r"\sqrt{20}", r"2\sqrt{5}")
        os.kill(worker_of(grader), signal.SIGKILL)
        assert future.result().correct


def test_a_worker_that_dies_twice_on_an_answer_makes_the_verdict_invalid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dies.py").write_text("input()\n")
    monkeypatch.setattr(grading, "_WORKER", tmp_path / "dies.py")
    with Grader() as grader:
        verdict = grader.grade(r"\sqrt{8}", r"2\sqrt{2}")
    assert verdict == Verdict(correct=False, reason="the grading process died twice", valid=False)


@pytest.mark.slow
def test_a_killed_comparison_is_repeated_once_and_then_invalid() -> None:
    with Grader(time_limit_s=600) as grader:
        future = grader.submit(r"\sqrt{7}", f"{BOMB}1")
        first = new_child(worker_of(grader))
        os.kill(first, signal.SIGKILL)
        os.kill(new_child(worker_of(grader), first), signal.SIGKILL)
        assert future.result() == Verdict(correct=False, reason="grading was killed twice from outside", valid=False)


@pytest.mark.slow
def test_closing_ends_the_worker_and_pending_verdicts_and_may_be_repeated() -> None:
    grader = Grader(time_limit_s=600)
    future = grader.submit(r"\sqrt{7}", f"{BOMB}1")
    worker = worker_of(grader)
    child = new_child(worker)
    grader.close()
    grader.close()
    assert future.result() == Verdict(correct=False, reason="the grader was closed", valid=False)
    wait_until(lambda: not is_alive(worker) and not is_alive(child))


def test_many_threads_may_grade_at_once(grader: Grader) -> None:
    verdicts: dict[int, bool] = {}

    def work(k: int) -> None:
        verdicts[k] = grader.grade(rf"{k}\sqrt{{11}}", rf"\sqrt{{{11 * k * k}}}").correct

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2, 18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == dict.fromkeys(range(2, 18), True)


def test_a_repeated_comparison_is_done_once(grader: Grader) -> None:
    first, second = (grader.submit(r"\sqrt{99}", r"3\sqrt{11}") for _ in range(2))
    assert first.result() == second.result()
    assert grader.submit(r"\sqrt{99}", r"3\sqrt{11}").done()


def test_the_worker_sees_no_secret_of_the_trainer(grader: Grader) -> None:
    grader.grade(r"\sqrt{8}", r"2\sqrt{2}")
    assert b"planted" not in Path(f"/proc/{worker_of(grader)}/environ").read_bytes()


# --- lifetime --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_trainer_does_not_import_sympy_and_its_exit_ends_the_worker() -> None:
    run = run_program(r"""
import sys
from cir_env.grading.grader import shared_grader
grader = shared_grader()
assert grader is shared_grader()
assert grader.grade("\\sqrt{8}", "2\\sqrt{2}").correct
assert not {"sympy", "math_verify"} & set(sys.modules)
grader.submit("\\sqrt{8}", "\\gcd(9^{10^{8}}, 3)")
print(grader._process.pid)
""")
    assert (run.returncode, run.stderr) == (0, "")
    wait_until(lambda: not is_alive(int(run.stdout)))


@pytest.mark.slow
def test_the_worker_ends_when_the_trainer_is_killed() -> None:
    code = r"""
import time
from cir_env.grading.grader import Grader
grader = Grader()
grader.submit("\\sqrt{8}", "\\gcd(9^{10^{8}}, 3)")
print(grader._process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        worker = int(trainer.stdout.readline())
        trainer.kill()
    wait_until(lambda: not is_alive(worker))


@pytest.mark.slow
def test_a_forked_process_gets_its_own_shared_grader() -> None:
    run = run_program(r"""
import os, warnings
from cir_env.grading.grader import shared_grader
warnings.simplefilter("ignore")
grader = shared_grader()
assert grader.grade("\\sqrt{8}", "2\\sqrt{2}").correct
if os.fork() == 0:
    assert shared_grader() is not grader
    assert shared_grader().grade("\\sqrt{18}", "3\\sqrt{2}").correct
    shared_grader().close()
    try:
        grader.grade("7", "7")
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
assert grader.grade("\\sqrt{50}", "5\\sqrt{2}").correct
print(os.getpid())
""")
    assert (run.returncode, run.stderr) == (0, "")
    error, pid = run.stdout.splitlines()
    assert error == f"This grader belongs to process {pid}: make one in this process, or use shared_grader()."


def test_a_closed_shared_grader_is_replaced() -> None:
    first = shared_grader()
    first.close()
    assert shared_grader() is not first
    assert shared_grader().grade("7", "7").correct


# --- errors ----------------------------------------------------------------------------------------------------


def test_a_closed_grader_raises() -> None:
    grader = Grader()
    grader.close()
    with pytest.raises(GraderUnavailable, match=r"^This grader is closed: make a new one, or use shared_grader\(\)\.$"):
        grader.submit("7", "7")


def test_a_worker_that_cannot_work_raises_from_then_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("""print('{"fatal": "ImportError: no math_verify"}', flush=True)\ninput()\n""")
    monkeypatch.setattr(grading, "_WORKER", tmp_path / "fails.py")
    expected = (
        "^Expect math-verify to work in a fresh process, got ImportError: no math_verify. "
        r'Install it: pip install "math-verify\[antlr4_13_2\]>=0.9,<1".$'
    )
    with Grader() as grader:
        with pytest.raises(GraderUnavailable, match=expected):
            grader.submit(r"\sqrt{8}", r"2\sqrt{2}").result()
        with pytest.raises(GraderUnavailable, match=expected):
            grader.submit("7", "7")


def test_a_process_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with Grader() as grader, pytest.raises(GraderUnavailable, match=r"^Expect to start a process for grading, got: .*"):
        grader.submit(r"\sqrt{8}", r"2\sqrt{2}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"time_limit_s": 0}, "Expect `time_limit_s` and `memory_limit_mb` to be positive, got 0 and 256."),
        ({"memory_limit_mb": -1}, "Expect `time_limit_s` and `memory_limit_mb` to be positive, got 1.5 and -1."),
        ({"max_parallel": 1}, "Expect `max_parallel` to be at least 2, got 1."),
    ],
)
def test_limits_out_of_range_are_errors(arguments: dict[str, float], expected: str) -> None:
    with pytest.raises(OptionError) as error:
        Grader(**arguments)  # type: ignore[arg-type]
    assert str(error.value) == expected


def test_answers_that_are_not_text_are_errors(grader: Grader) -> None:
    with pytest.raises(OptionError, match=r"^Expect `gold` and `answer` to be text, got int and str\.$"):
        grader.submit(7, "7")  # type: ignore[arg-type]
