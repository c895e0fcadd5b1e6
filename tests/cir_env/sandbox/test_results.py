import pytest

from cir_env.errors import OptionError
from cir_env.sandbox import ExecutionResult, Limits, LocalSandbox, Sandbox, Session, Status

BRIEF = Limits(time_limit_s=0.3, idle_limit_s=0.3)
LITTLE = Limits(memory_limit_mb=128)


def test_a_block_prints(sandbox: LocalSandbox) -> None:
    result = sandbox.run("print(6 * 7)")
    assert (result.status, result.stdout, result.error) == (Status.OK, "42\n", "")
    assert 0 < result.cpu_seconds < 5


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("x = 41\nx + 1", "42\n"),
        ("'text'", "'text'\n"),
        ("print('seen')\n42", "seen\n"),
        ("x = 1", ""),
        ("None", ""),
        ("if __name__ == '__main__':\n    print('main')", "main\n"),
        ("def f():\n    return 2\nf()", "2\n"),
        ("from __future__ import annotations\nx: nonsense = 1\nx", "1\n"),
        ("import sympy as sp\nx = sp.symbols('x')\nsp.solve(x**2 - 5*x + 6, x)", "[2, 3]\n"),
        ("import numpy as np\nprint(np.linalg.det(np.eye(2)))", "1.0\n"),
        ("print('out'); exit()", "out\n"),
        ("import sys\nprint('out'); sys.exit(0)", "out\n"),
        ("import os\nos.write(1, b'raw'); os._exit(0)", "raw"),
        ("import threading\nthreading.Thread(target=print, args=('late',)).start()", "late\n"),
        ("import atexit\natexit.register(print, 'end')\nprint('begin')", "begin\nend\n"),
        ("import sys\nprint('err', file=sys.stderr)", "err\n"),
        ("import warnings\nwarnings.warn('noise')\nprint(1)", "1\n"),
        ("x = '\\d'\nprint(1)", "1\n"),
        ("import math\nprint(len(str(math.factorial(3000))))", "9131\n"),
        ("x = 1\r\nprint('crlf', x)\r\n", "crlf 1\n"),
        ("import sys\nsys.stdout.buffer.write(b'\\xff')\nprint()", "�\n"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nP(3)", "P(x=3)\n"),
        ("import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))).__name__)", "A\n"),
    ],
)
def test_a_successful_block_shows_the_expected_output(sandbox: LocalSandbox, code: str, stdout: str) -> None:
    result = sandbox.run(code)
    assert (result.status, result.stdout, result.error) == (Status.OK, stdout, "")


@pytest.mark.parametrize(
    ("code", "stdout", "error"),
    [
        ("print('kept')\n1 / 0", "kept\n", "ZeroDivisionError: division by zero"),
        ("x = (", "", "SyntaxError: '(' was never closed"),
        ("1 +", "", "SyntaxError: invalid syntax"),
        ("print('early')\nreturn 3", "", "SyntaxError: 'return' outside function"),
        ("print(1)\x00print(2)", "", None),
        ("x = '\ud800'\n1 / 0", "", None),
        ("input()", "", "EOFError: EOF when reading a line (blocks have no input)"),
        ("import sys\nsys.exit('bad input')", "bad input\n", "SystemExit: bad input"),
        ("exit(3)", "", "SystemExit: 3"),
        ("import os\nos._exit(3)", "", "SystemExit: 3"),
        ("raise ValueError('first\\nsecond')", "", "second"),
        ("class E(Exception):\n    def __str__(self): raise E()\nraise E()", "", None),
        ("import sys\nsys.stdout = sys.stderr = None\n1 / 0", "", "ZeroDivisionError: division by zero"),
        ("raise KeyboardInterrupt", "", "KeyboardInterrupt"),
        ("def f(): return f()\nf()", "", "RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_an_error_keeps_its_last_line_and_earlier_output(
    sandbox: LocalSandbox, code: str, stdout: str, error: str | None
) -> None:
    result = sandbox.run(code)
    assert (result.status, result.stdout) == (Status.ERROR, stdout)
    assert result.error if error is None else result.error == error


def test_a_huge_error_is_shortened(sandbox: LocalSandbox) -> None:
    result = sandbox.run("raise ValueError('A' * 10**7)")
    assert result.status is Status.ERROR
    assert result.error.startswith("ValueError: AAA")
    assert len(result.error) < 4000


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
        "x = 10 ** 10 ** 9",
        "import collections, itertools\ncollections.deque(itertools.count(), maxlen=0)",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E()",
    ],
)
def test_code_that_never_ends_is_a_timeout(sandbox: LocalSandbox, code: str) -> None:
    result = sandbox.run("print('before', flush=True)\n" + code, BRIEF)
    assert (result.status, result.stdout) == (Status.TIMEOUT, "before\n")
    assert result.error.startswith("TimeoutError: the code ")


def test_the_wall_limit_applies_when_the_other_limits_do_not(sandbox: LocalSandbox) -> None:
    result = sandbox.run("import time\ntime.sleep(1000)", Limits(wall_limit_s=0.3))
    assert (result.status, result.error) == (Status.TIMEOUT, "TimeoutError: no result after 0.3 s")


def test_the_cpu_time_of_threads_counts(sandbox: LocalSandbox) -> None:
    spin = "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin).start()"
    assert sandbox.run(spin, BRIEF).status is Status.TIMEOUT


def test_too_many_threads_have_their_own_status(sandbox: LocalSandbox) -> None:
    sleep = "import threading, time\nfor _ in range({}): threading.Thread(target=time.sleep, args=(0.5,)).start()"
    result = sandbox.run(sleep.format(12), Limits(process_limit=8))
    assert result.status is Status.PROCESS_LIMIT
    assert result.error.endswith("the code ran over 8 threads")
    assert sandbox.run(sleep.format(7), Limits(process_limit=8)).status is Status.OK


def test_all_threads_of_the_limit_can_run(sandbox: LocalSandbox) -> None:
    meet = "import threading\nmeet = threading.Barrier(64)\n"
    start = "for _ in range(63): threading.Thread(target=meet.wait).start()\n"
    assert sandbox.run(meet + start + "print(meet.wait() >= 0)").stdout == "True\n"


def test_threads_that_do_not_start_for_lack_of_memory_are_a_memory_error(sandbox: LocalSandbox) -> None:
    code = "import threading, time\nthreading.stack_size(100 << 20)\n"
    result = sandbox.run(code + "for _ in range(9): threading.Thread(target=time.sleep, args=(0.5,)).start()", LITTLE)
    assert (result.status, result.error) == (
        Status.MEMORY,
        "RuntimeError: can't start new thread: the code has too little memory left",
    )


@pytest.mark.parametrize("error", ["[Errno 27] File too large", "[Errno 28] No space left on device"])
def test_writing_too_much_has_its_own_status(sandbox: LocalSandbox, error: str) -> None:
    one = "with open('big', 'wb') as file: file.write(bytes(3 * 1024**2))"
    many = "for n in range(10**4):\n    with open(str(n), 'wb') as file: file.write(bytes(900 * 1024))"
    result = sandbox.run(one if "large" in error else many, Limits(file_limit_mb=1))
    assert (result.status, result.error) == (Status.FILE_LIMIT, f"OSError: {error}")


@pytest.mark.parametrize(
    "code",
    ["x = bytearray(2 * 1024**3)", "x = []\nwhile True: x.append(bytearray(10**7))", "[0] * 10**9"],
)
def test_too_much_memory_has_its_own_status(sandbox: LocalSandbox, code: str) -> None:
    result = sandbox.run("print('kept')\n" + code, Limits(memory_limit_mb=64, time_limit_s=30))
    assert (result.status, result.stdout, result.error) == (Status.MEMORY, "kept\n", "MemoryError")


def test_memory_up_to_the_limit_is_available(sandbox: LocalSandbox) -> None:
    code = "x = bytes(48 * 1024**2)\nlen(x)"
    assert sandbox.run(code, Limits(memory_limit_mb=64)).stdout == "50331648\n"


def test_output_beyond_the_limit_is_cut_and_ends_the_block(sandbox: LocalSandbox) -> None:
    result = sandbox.run("while True: print('x' * 1000)", Limits(output_limit_kb=8))
    assert (result.status, len(result.stdout)) == (Status.OUTPUT_LIMIT, 8 * 1024)
    assert result.error == "OutputLimitError: the code printed over 8 KB"


def test_output_at_the_limit_is_complete(sandbox: LocalSandbox) -> None:
    result = sandbox.run("import sys\nsys.stdout.write('x' * 8192)", Limits(output_limit_kb=8))
    assert (result.status, len(result.stdout)) == (Status.OK, 8192)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_a_signal_is_reported_as_killed(sandbox: LocalSandbox, name: str) -> None:
    code = f"import os, signal\nprint('last', flush=True)\nos.kill(os.getpid(), signal.{name})"
    result = sandbox.run(code)
    assert (result.status, result.stdout) == (Status.KILLED, "last\n")
    assert result.error == f"the process was killed by {name}"


def test_code_beyond_the_size_limit_is_an_error(sandbox: LocalSandbox) -> None:
    result = sandbox.run("#" * 300_000)
    assert (result.status, result.error) == (Status.ERROR, "SyntaxError: code of over 256 KB")


def test_long_code_arrives_complete(sandbox: LocalSandbox) -> None:
    assert sandbox.run("x = '" + "y" * 250_000 + "'\nlen(x)").stdout == "250000\n"


def test_each_block_starts_from_the_same_state(sandbox: LocalSandbox) -> None:
    code = "import random, numpy as np\nprint(random.random(), np.random.rand(), set('hello'), 'x' in dir())"
    first = sandbox.run(code + "\nx = 1\nimport math\nmath.sqrt = None")
    assert first.status is Status.OK
    assert sandbox.run(code).stdout == first.stdout


@pytest.mark.slow
def test_a_second_sandbox_gives_the_same_text(sandbox: LocalSandbox) -> None:
    code = "import random, sympy\nprint(random.random(), set('hello'), set(sympy.symbols('a:h')))"
    with LocalSandbox(slots=1, spares=0) as other:
        assert other.run(code).stdout == sandbox.run(code).stdout != ""


def test_memory_addresses_do_not_appear(sandbox: LocalSandbox) -> None:
    assert sandbox.run("print(object(), hex(2**40))").stdout == "<object object at 0x...> 0x10000000000\n"


def test_generators_without_a_seed_give_the_same_numbers(sandbox: LocalSandbox) -> None:
    code = "import numpy as np\na, b = (np.random.default_rng().random() for _ in range(2))\nprint(a, b, a != b)"
    first = sandbox.run(code).stdout
    assert first == sandbox.run(code).stdout
    assert first.endswith("True\n")


def test_tracebacks_show_only_frames_of_the_block(sandbox: LocalSandbox) -> None:
    result = sandbox.run("def f():\n    return 1 / 0\nf()")
    lines = result.traceback.splitlines()
    assert (lines[0], lines[-1]) == ("Traceback (most recent call last):", result.error)
    assert 'File "<block>", line 2, in f\n    return 1 / 0' in result.traceback
    assert "child.py" not in result.traceback


def test_a_long_traceback_keeps_its_end(sandbox: LocalSandbox) -> None:
    result = sandbox.run(f"raise ValueError({'x' * 100_000!r} + 'end')")
    assert result.error.endswith("end")
    assert result.traceback.endswith("end")
    assert len(result.traceback) < 3000


def test_the_environment_holds_no_secret(sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_KEY", "sesame")
    with LocalSandbox(slots=1, preload=()) as fresh:
        assert "sesame" not in fresh.run("import os\nprint(dict(os.environ))").stdout


def test_the_scratch_directory_is_fresh_and_writable(sandbox: LocalSandbox) -> None:
    code = "import os\nprint(os.listdir('.'))\nopen('f', 'w').write('x')\nprint(open('f').read())"
    assert [sandbox.run(code).stdout for _ in range(2)] == ["[]\nx\n"] * 2


def test_the_local_classes_satisfy_the_protocols(sandbox: LocalSandbox) -> None:
    assert isinstance(sandbox, Sandbox)
    assert isinstance(sandbox.open_session(), Session)
    assert isinstance(sandbox.run(""), ExecutionResult)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"time_limit_s": 0}, "`time_limit_s` to be a number above 0 and at most 86,400, got 0"),
        ({"time_limit_s": 1e10}, "`time_limit_s` to be a number above 0 and at most 86,400, got 1"),
        ({"time_limit_s": 10**400}, "`time_limit_s` to be a number above 0"),
        ({"time_limit_s": True}, "`time_limit_s` to be a number above 0 and at most 86,400, got True"),
        ({"memory_limit_mb": 1.5}, "`memory_limit_mb` to be a whole number above 0 and at most 1,048,576, got 1.5"),
        ({"memory_limit_mb": 2**32}, "`memory_limit_mb` to be a whole number above 0"),
        ({"process_limit": True}, "`process_limit` to be a whole number above 0 and at most 4,096, got True"),
        ({"wall_limit_s": float("inf")}, "`wall_limit_s` to be a number above 0 and at most 1,209,600, got inf"),
    ],
)
def test_invalid_limits_are_rejected(limits: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Limits(**limits)  # type: ignore[arg-type]
