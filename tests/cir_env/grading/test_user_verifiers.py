"""User verifiers: how they are found, and that nothing they do stops or starves other gradings."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import fakes
from processes import is_alive, new_child, wait_until, worker_of

from cir_env.env import CodeMathEnv
from cir_env.errors import OptionError, ProblemError
from cir_env.grading.answer_types import find_answer_type
from cir_env.grading.grader import Grader, Verdict
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet

MODULE = """
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

COUNT = 0
VALUE = 7


class Words:
    @staticmethod
    def same(gold, answer):
        return sorted(gold.split()) == sorted(answer.split())


def exact(gold, answer):
    return gold == answer


def one(gold):
    return True


def by_level(gold, answer, metadata):
    return answer == gold * metadata["level"]


def listed(gold, answer, *, strict=True, metadata=None):
    return strict and answer in metadata.get("accepted", [gold])


def no_place(gold, metadata):
    return True


def behave(gold, answer):
    global COUNT
    COUNT += 1
    if answer == "loop":
        while True:
            pass
    if answer == "sleep":
        time.sleep(1000)
    if answer == "ignore":
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        time.sleep(1000)
    if answer == "raise":
        raise ValueError("no such answer")
    if answer == "raise without words":
        class Mute(Exception):
            def __str__(self):
                raise RuntimeError
        raise Mute
    if answer == "exit":
        sys.exit(0)
    if answer == "_exit":
        os._exit(0)
    if answer == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if answer == "memory":
        return bool([0] * 10**10)
    if answer == "none":
        return None
    if answer == "int":
        return 1
    if answer == "print":
        print("{}", flush=True)
        sys.stderr.write("x" * 10**6)
    if answer == "write":
        Path(gold).write_text("x")
    if answer == "fork":
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            time.sleep(1000)
        raise ValueError(pid)
    if answer == "child":
        pid = os.fork()
        if pid == 0:
            time.sleep(100)
        raise ValueError(pid)
    if answer == "environment":
        raise ValueError(sorted(os.environ))
    if answer == "count":
        return COUNT == 1
    return gold == answer
"""

SWAPPED = [
    *("answer, gold", "prediction, target", "response, ground_truth", "solution_str, ground_truth", "a, reference"),
    *("completion, b", "model_output, expected_output", "answers, labels", "y_pred, y_true", "predLabel, goldLabel"),
    *("solution, right_answer", "answer, x, tolerance=0", "response, answer", "answer, solution", "x, gold, /"),
]
ORDERED = [
    *("gold, answer", "a, b", "x, y, /", "left, right", "*args", "gold, *args", "a, b=1, *, answer=2", "gold, target"),
    *("expected, actual", "target, solution_str", "y_true, y_pred", "reference_answer, answer", "answer, response"),
    *("ground_truth, output, strict=True", "label, a, **kwargs", "gold, answer, *metadata", "a, b, metadata=None, /"),
]
for _kind, _parameters in (("swapped", SWAPPED), ("ordered", ORDERED)):
    MODULE += "".join(f"def {_kind}_{n}({text}): return True\n" for n, text in enumerate(_parameters))


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the import path with a user module and a distribution that provides two of its functions."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "users_verifiers.py").write_text(MODULE)
    (folder / "users_broken.py").write_text("import no_such_module_at_all\n")
    (folder / "users_moody.py").write_text("import os\nos.environ['USERS_KEY']\ndef check(gold, answer): return True\n")
    metadata = folder / "users-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: users\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[cir_env.verifiers]\nusers_exact = users_verifiers:exact\nusers_words = users_verifiers:Words.same\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(time_limit_s=0.4) as grader:
        grader.grade(r"\sqrt{8}", r"2\sqrt{2}")
        yield grader


BEHAVE = "users_verifiers:behave"


def invalid(reason: str) -> Verdict:
    return Verdict(correct=False, reason=reason, valid=False)


# --- lookup ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer_type", "gold", "answer", "correct"),
    [
        ("users_exact", "a b", "a b", True),
        ("users_exact", "1", "1.0", False),
        ("users_words", "a b", "b a", True),
        ("users_verifiers:Words.same", "a b", "b c", False),
        ("operator:eq", " $1$ ", " $1$ ", True),
    ],
)
def test_verifiers_of_distributions_and_modules_decide_what_is_right(
    grader: Grader, answer_type: str, gold: str, answer: str, correct: bool
) -> None:
    reason = "accepted by the verifier" if correct else "refused by the verifier"
    assert grader.grade(gold, answer, answer_type) == Verdict(correct=correct, reason=reason)


def test_a_verifier_added_to_the_path_after_the_worker_started_is_found(
    grader: Grader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_late.py").write_text("def check(gold, answer): return answer == gold[::-1]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert grader.grade("ab", "ba", "users_late:check").correct


def test_a_verifier_decides_the_reward(grader: Grader) -> None:
    env = CodeMathEnv(**fakes() | {"grader": grader, "answer_type": "users_exact"})
    env.reset(options={"problem_index": 0})
    assert env.step(r"\boxed{6}")[1] == 1.0
    env.reset(options={"problem_index": 0})
    assert env.step(r"\boxed{6.0}")[1] == -1.0


def test_a_verifier_gets_the_metadata_that_it_asks_for(grader: Grader) -> None:
    assert grader.grade("a", "aa", "users_verifiers:by_level", metadata={"level": 2}).correct
    assert not grader.grade(
        "a", "aa", "users_verifiers:by_level", metadata={"level": 3}
    ).correct  # not the cached verdict
    assert grader.grade("a", "b", "users_verifiers:listed", metadata={"accepted": ["b", "c"]}).correct
    assert grader.grade("a", "a", "users_verifiers:listed").correct
    assert grader.grade("a", "a", "users_exact", metadata={"level": 2}).correct
    assert grader.grade("a", "a", "users_verifiers:by_level") == invalid("the verifier raises KeyError: 'level'")
    with pytest.raises(OptionError, match=r"^Expect `metadata` as a JSON object, got: "):
        grader.grade("a", "b", "users_verifiers:listed", metadata={"accepted": {"b"}})


def test_a_verifier_gets_the_metadata_of_the_problem(grader: Grader) -> None:
    problems = ProblemSet([Problem(id="p", statement="?", answer="a", metadata={"level": 2})])
    for answer, reward in (("aa", 1.0), ("a", -1.0)):
        more = {"problems": problems, "grader": grader, "answer_type": "users_verifiers:by_level"}
        env = CodeMathEnv(**fakes() | more)
        env.reset()
        assert env.step(rf"\boxed{{{answer}}}")[1] == reward


def test_a_failing_verifier_drops_the_episode(grader: Grader) -> None:
    env = CodeMathEnv(**fakes() | {"grader": grader, "answer_type": BEHAVE})
    env.reset(options={"problem_index": 0})
    *_, info = env.step(r"\boxed{raise}")
    assert not info["reward_valid"]


# --- rejected verifiers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("users_exat", "got 'users_exat'. Did you mean 'users_exact'?"),
        ("no_such_module:f", "can be imported, got ModuleNotFoundError: No module named 'no_such_module'."),
        ("users_broken:f", "can be imported, got ModuleNotFoundError: No module named 'no_such_module_at_all'."),
        ("users_verifiers:exat", "got AttributeError: module 'users_verifiers' has no attribute 'exat'."),
        ("users_verifiers:VALUE", "Expect the verifier 'users_verifiers:VALUE' to be a function, got int."),
        (
            "users_verifiers:one",
            "Expect the verifier 'users_verifiers:one' to take (gold, answer), got other parameters.",
        ),
        (
            "users_verifiers:no_place",
            "Expect the verifier 'users_verifiers:no_place' to take (gold, answer), got other parameters.",
        ),
        ("users_verifiers:", "Expect a verifier as 'module:function', got 'users_verifiers:'."),
        ("os; import x:f", "Expect a verifier as 'module:function', got 'os; import x:f'."),
        ("__main__:f", "Expect a verifier in a module that the grading process can import, got '__main__:f'."),
        ("users_exact?strict=1", "Expect the options of 'users_exact' to be none, got 'strict'."),
    ],
)
def test_an_unusable_verifier_is_rejected_before_grading(spec: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        find_answer_type(spec)
    assert str(caught.value).endswith(message)
    with pytest.raises(ProblemError):
        Problem(id="p", statement="?", answer="1", answer_type=spec)


@pytest.mark.parametrize("number", range(len(SWAPPED)), ids=SWAPPED)
def test_a_verifier_whose_parameters_are_swapped_is_rejected(number: int) -> None:
    with pytest.raises(OptionError) as caught:
        find_answer_type(f"users_verifiers:swapped_{number}")
    first, second = SWAPPED[number].split(", ")[:2]
    assert str(caught.value) == (
        f"Expect the verifier 'users_verifiers:swapped_{number}' to take (gold, answer), the right answer first, got "
        f"({first}, {second}): swap its parameters, or call them gold and answer if they are in this order."
    )


@pytest.mark.parametrize("number", range(len(ORDERED)), ids=ORDERED)
def test_a_verifier_whose_parameters_have_other_names_is_accepted(number: int) -> None:
    answer_type = f"users_verifiers:ordered_{number}"
    assert find_answer_type(answer_type).compare == answer_type


def test_two_distributions_with_the_same_verifier_name_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for distribution, function in (("one", "exact"), ("two", "behave")):
        metadata = tmp_path / f"{distribution}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[cir_env.verifiers]\nusers_both = users_verifiers:{function}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(OptionError, match="got users_verifiers:behave and users_verifiers:exact"):
        find_answer_type("users_both")


# --- hostile verifiers -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_verifiers_that_never_end_make_verdicts_invalid_and_starve_no_other(grader: Grader) -> None:
    bad = [grader.submit(f"{k}", answer, BEHAVE) for k in range(2) for answer in ("loop", "sleep", "ignore")]
    good = [grader.submit(f"{k}", f"{k}", BEHAVE) for k in range(20)]
    algebra = [grader.submit(rf"{k}\sqrt{{7}}", rf"\sqrt{{{7 * k * k}}}") for k in range(2, 12)]
    assert all(future.result().correct for future in good + algebra)
    assert {future.result() for future in bad} == {invalid("takes more than 0.4 s to compare")}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("raise", "the verifier raises ValueError: no such answer"),
        ("exit", "the verifier raises SystemExit: 0"),
        ("_exit", "crashes the comparison"),
        ("crash", "crashes the comparison"),
        ("memory", "the verifier raises MemoryError"),
        ("none", "the verifier returns NoneType, not bool"),
        ("int", "the verifier returns int, not bool"),
    ],
)
def test_a_verifier_without_a_verdict_makes_the_verdict_invalid(grader: Grader, answer: str, reason: str) -> None:
    assert grader.grade("6", answer, BEHAVE) == invalid(reason)
    assert grader.grade("6", "6", BEHAVE).correct


def test_an_unprintable_exception_makes_the_verdict_invalid(grader: Grader) -> None:
    verdict = grader.grade("6", "raise without words", BEHAVE)
    assert not verdict.valid
    assert "Mute" in verdict.reason


def test_verifier_output_is_discarded_and_writing_a_file_is_invalid(grader: Grader, tmp_path: Path) -> None:
    assert grader.grade("6", "print", BEHAVE) == Verdict(correct=False, reason="refused by the verifier")
    assert "File too large" in grader.grade(str(tmp_path / "file"), "write", BEHAVE).reason


def test_calls_of_a_verifier_share_no_state(grader: Grader) -> None:
    assert [grader.grade(gold, "count", BEHAVE).correct for gold in ("1", "2", "3")] == [True] * 3


@pytest.mark.slow
def test_a_process_left_behind_by_a_verifier_delays_no_verdict() -> None:
    with Grader(time_limit_s=600) as grader:
        verdict = grader.submit("6", "fork", BEHAVE).result(timeout=60)
    os.kill(named_process(verdict), signal.SIGKILL)


def test_a_process_left_behind_by_a_verifier_is_killed(grader: Grader) -> None:
    child = named_process(grader.grade("6", "child", BEHAVE))
    wait_until(lambda: not is_alive(child))


def named_process(verdict: Verdict) -> int:
    return int(verdict.reason.removeprefix("the verifier raises ValueError: "))


@pytest.mark.slow
def test_a_verifier_sees_no_secret_of_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "planted")
    with Grader() as grader:
        assert "WANDB_API_KEY" not in grader.grade("6", "environment", BEHAVE).reason


@pytest.mark.slow
def test_a_verifier_that_only_the_trainer_can_import_makes_verdicts_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERS_KEY", "1")
    with Grader() as grader:
        for answer in ("1", "2"):
            assert grader.grade("6", answer, "users_moody:check") == invalid(
                "users_moody:check cannot be imported for grading: KeyError: 'USERS_KEY'"
            )
        assert grader.grade(r"\sqrt{8}", r"2\sqrt{2}").correct


def test_the_module_of_a_verifier_is_imported_once(
    grader: Grader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_slow.py").write_text(
        "import time\nIMPORTED = time.monotonic_ns()\ndef check(gold, answer): raise ValueError(IMPORTED)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    reasons = {grader.grade("6", answer, "users_slow:check").reason for answer in ("1", "2", "3")}
    assert len(reasons) == 1
    assert f"{sys.modules['users_slow'].IMPORTED}" not in reasons.pop()


@pytest.mark.slow
def test_closing_ends_a_sleeping_verifier() -> None:
    grader = Grader(time_limit_s=600)
    future = grader.submit("6", "sleep", BEHAVE)
    child = new_child(worker_of(grader))
    grader.close()
    assert future.result() == invalid("the grader was closed")
    wait_until(lambda: not is_alive(child))
