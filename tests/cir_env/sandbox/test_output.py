"""What a block prints reaches the result: all of it, in order, however the block ends."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from cir_env.sandbox import ExecutionResult, Limits, LocalSandbox, Status, wire
from cir_env.sandbox.host.output import Output

BRIEF = Limits(time_limit_s=0.3, idle_limit_s=0.3, memory_limit_mb=64)
KB = 1024
Run = Callable[..., ExecutionResult]


@pytest.fixture(params=["block", "session"])
def run(request: pytest.FixtureRequest, sandbox: LocalSandbox) -> Iterator[Run]:
    if request.param == "block":
        yield sandbox.run
        return
    with closing(sandbox.open_session()) as session:
        session.run("print('earlier', 'x' * 9999)\nimport os\nos.write(1, b'earlier')")
        yield session.run


PRINT = """
import ctypes, os, sys
print("line")
print("no newline", end=" ")
sys.stdout.write("written ")
sys.stdout.buffer.write(b"bytes ")
print("error", file=sys.stderr, end=" ")
sys.stdout.flush()
os.write(1, b"direct ")
ctypes.CDLL(None).write(2, b"of C ", 5)
print("é")
os.write(2, b"last")
"""
PRINTED = "line\nno newline written bytes error direct of C é\nlast"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("while True: pass", Status.TIMEOUT),
        ("10 ** 10 ** 9", Status.TIMEOUT),
        ("import time\ntime.sleep(100)", Status.TIMEOUT),
        ("ctypes.string_at(0)", Status.KILLED),
        ("os.abort()", Status.KILLED),
        ("os.kill(os.getpid(), 9)", Status.KILLED),
        ("os._exit(0)", Status.OK),
        ("os._exit(3)", Status.ERROR),
        ("bytearray(1 << 40)", Status.MEMORY),
        ("1 / 0", Status.ERROR),
        ("", Status.OK),
    ],
)
@pytest.mark.slow
def test_what_was_printed_is_kept_however_the_block_ends(run: Run, end: str, status: Status) -> None:
    result = run(PRINT + end, BRIEF)
    assert (result.status, result.stdout) == (status, PRINTED)


def test_a_session_continues_after_each_end(sandbox: LocalSandbox) -> None:
    with closing(sandbox.open_session()) as session:
        for end in ("while True: pass", "import os; os.abort()", "1 / 0", "", "pass"):
            assert session.run("print('this')\n" + end, BRIEF).stdout == "this\n"


def test_both_streams_appear_in_the_order_in_which_they_were_written(run: Run) -> None:
    code = """
import logging, sys, warnings
warnings.simplefilter("always")
for i in range(100):
    print(i)
    print("e", i, file=sys.stderr)
print("before")
warnings.warn("careful")
print("between", end=";")
logging.warning("logged")
print("after")
"""
    head, tail = run(code).stdout.split("before\n")
    assert head == "".join(f"{i}\ne {i}\n" for i in range(100))
    warning, tail = tail.split("between;")
    assert "UserWarning: careful" in warning
    assert tail == "WARNING:root:logged\nafter\n"


def test_threads_lose_nothing(run: Run) -> None:
    code = """
import os, sys, threading
def work(n):
    for i in range(2000):
        sys.stdout.write(f"{n} {i}\\n")
        os.write(1, b"direct\\n")
        if i % 50 == 0: sys.stdout.flush()
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    lines = run(code, Limits(time_limit_s=60)).stdout.splitlines()
    assert lines.count("direct") == 8000
    for n in range(4):
        assert [line for line in lines if line.startswith(f"{n} ")] == [f"{n} {i}" for i in range(2000)]


def test_output_that_a_kill_interrupts_ends_with_what_was_printed_last(run: Run) -> None:
    numbers = "".join(f"{i}\n" for i in range(50_000))
    printed = run("import os\nfor i in range(50_000): print(i)\nos.kill(os.getpid(), 9)", Limits(time_limit_s=60))
    assert (printed.status, printed.stdout) == (Status.KILLED, numbers)
    endless = "import itertools\nfor i in itertools.count(): print(i)"
    result = run(endless, Limits(time_limit_s=0.2, output_limit_kb=1 << 18))
    assert result.status is Status.TIMEOUT
    *lines, _ = result.stdout.split("\n")
    assert lines == [str(i) for i in range(len(lines))] != []


@pytest.mark.parametrize(
    "code",
    [
        "while True: print('x' * 99)",
        "print('x' * 10**7)",
        "for _ in range(8 * 1024 + 1): print('x', end='')",
        "import os\nwhile True: os.write(1, b'x' * 999)",
        "import os\nos.write(1, b'x' * 10**8)",
        "import os\nprint('x' * 5000)\nos.write(1, b'x' * 4000)",
        "import os\nos.write(1, b'x' * 4000)\nprint('x' * 5000)",
        "import sys\nwhile True:\n    try: sys.stdout.buffer.write(b'x' * 9999)\n    except BaseException: pass",
    ],
)
@pytest.mark.parametrize("limit", [8, 2048])
@pytest.mark.slow
def test_output_beyond_the_limit_is_cut_at_the_limit(run: Run, code: str, limit: int) -> None:
    code = code.replace("8 *", f"{limit} *").replace("5000", str(600 * limit)).replace("4000", str(600 * limit))
    result = run(code, Limits(time_limit_s=60, output_limit_kb=limit))
    assert (result.status, len(result.stdout)) == (Status.OUTPUT_LIMIT, limit * KB)
    assert result.stdout.replace("\n", "").strip("x") == ""
    assert result.error == f"OutputLimitError: the code printed over {limit} KB"


@pytest.mark.parametrize("code", ["print('x' * {}, end='')", "import os\nos.write(1, b'x' * {})\npass"])
def test_output_at_the_limit_is_complete(run: Run, code: str) -> None:
    for limit in (8, 2048):
        result = run(code.format(limit * KB), Limits(output_limit_kb=limit))
        assert (result.status, len(result.stdout)) == (Status.OK, limit * KB)


def test_a_block_that_printed_too_much_ends_its_session(sandbox: LocalSandbox) -> None:
    with closing(sandbox.open_session()) as session:
        session.run("x = 1")
        assert session.run("print('x' * 9000)", Limits(output_limit_kb=8)).status is Status.OUTPUT_LIMIT
        assert session.run("'x' in dir()").stdout == "False\n"


def test_a_session_keeps_no_output_of_an_earlier_block(sandbox: LocalSandbox) -> None:
    with closing(sandbox.open_session()) as session:
        session.run("import os, sys\nold = sys.stdout\nprint('x' * 900_000)\nos.write(1, b'y' * 90_000)")
        worker = session._state.worker
        assert worker is not None
        assert os.fstat(worker.out.fd).st_blocks == 0
        assert session.run("pass").stdout == ""
        assert session.run("old.write('old ')\nprint('new')").stdout == "old new\n"
        assert session.run("print('z')\nos.abort()").stdout == "z\n"


LATE = """
import os, threading, time
def tick():
    while True:
        print('late')
        os.write(1, b'late')
threading.Thread(target=tick, daemon=True).start()
time.sleep(0.01)
"""


def test_threads_of_an_earlier_block_do_not_end_a_session(sandbox: LocalSandbox) -> None:
    with closing(sandbox.open_session()) as session:
        session.run("x = 1\n" + LATE, Limits(output_limit_kb=1 << 18))
        for _ in range(20):
            result = session.run("print(x)", Limits(output_limit_kb=1 << 18))
            assert result.status is Status.OK
            assert "1\n" in result.stdout


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("print('a')\nsys.stdout.close()\nprint('b', file=sys.stderr)", "a\nb\n"),
        ("sys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'latin-1')\nprint('ä')", "\ufffd\n"),
        ("sys.stdout.reconfigure(line_buffering=True)\nprint('a')\nos._exit(0)", "a\n"),
        ("sys.stdout = os.fdopen(1, 'w')\nprint('a')", "a\n"),
        ("sys.stdout.writelines(['a', 'b'])\nsys.stdout.buffer.writelines([b'c'])\nNone", "abc"),
        ("sys.stdout.buffer.raw.write(b'a')\nprint('b')", "ab\n"),
        ("print('a' * 3, sys.stdout.buffer.write(b'bb'))", "bbaaa 2\n"),
        ("sys.stdout.write('\\0a\\0')\nNone", "\0a\0"),
        ("with contextlib.redirect_stdout(sys.stderr): print('a')", "a\n"),
        ("f = sys.stdout\nprint(f.isatty(), f.seekable(), f.fileno(), f.name)", "False False 1 1\n"),
        ("os.closerange(4, 64)\nprint('a')\nNone", "a\n"),
        ("os.closerange(4, 64)\n42", "42\n"),
        ("r, w = os.pipe()\nos.dup2(w, 1)\nprint('a', flush=True)\nos.write(1, b'b')", "a\n"),
        ("print('\\ud800')", "\\ud800\n"),
        ("print('a', flush=True)\n42", "a\n"),
        ("os.write(1, b'a')\n42", "a"),
    ],
)
def test_the_streams_behave_like_those_of_an_interpreter(run: Run, code: str, stdout: str) -> None:
    result = run("import contextlib, io, os, sys\n" + code)
    assert (result.status, result.stdout) == (Status.OK, stdout)


@pytest.mark.parametrize("code", ["sys.stdout.truncate(0)", "sys.stdout.seek(0)", "sys.stdout.buffer.write('text')"])
def test_a_misused_stream_raises_in_the_block_alone(run: Run, code: str) -> None:
    result = run("import sys\n" + code)
    assert (result.status, result.stdout) == (Status.ERROR, "")
    assert "line 2, in <module>" in result.traceback
    assert "streams.py" not in result.traceback


SCRIBBLE = """
import fcntl, gc, mmap, os, struct
def log():
    return next(found for found in gc.get_objects() if type(found) is mmap.mmap)
print("x")
"""


@pytest.mark.parametrize(
    "code",
    [
        "os.lseek(1, 2**62, 0)",
        "os.lseek(1, 2**63 - 1, 0)",
        "os.lseek(1, 1 << 40, 0)\nos.write(1, b'x' * 99)",
        "os.ftruncate(1, 0)\nprint(1)",
        "os.ftruncate(1, 0)\nos._exit(0)",
        "os.ftruncate(1, 2**50)",
        "os.pwrite(1, struct.pack('=QQQ', 1, 2**64 - 1, 2**64 - 1), 0)\nos._exit(0)",
        "os.pwrite(1, struct.pack('=QQQ', 1, 2**63, 1), 0)\nos._exit(0)",
        "log().seek(0)\nlog().write(b'\\xff' * (1 << 20))",
        "log().seek(0)\nlog().write(b'\\xff' * (1 << 20))\nos._exit(0)",
        "log().close()\nprint(1)",
        "fcntl.fcntl(1, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK | os.O_DIRECT)\nprint(1)\nos.write(1, b'x')",
        "os.close(1)\nos.close(2)\nprint(1)",
    ],
)
def test_a_block_that_scribbles_over_its_output_affects_nothing_else(sandbox: LocalSandbox, code: str) -> None:
    result = sandbox.run(SCRIBBLE + code, BRIEF)
    assert result.status is not Status.INFRASTRUCTURE
    assert len(result.stdout.encode("utf-8", "replace")) <= 3 * 1024 * KB
    assert sandbox.run("print('next')").stdout == "next\n"


def write_log(output: Output, text: bytes, *, taken: int = 0, end: int = 0) -> None:
    os.pwrite(output.fd, wire.LogHeader(1, taken, end).pack() + text, 0)


def test_the_reader_of_the_output_trusts_nothing() -> None:
    output = Output(8 * KB)
    with closing(output):
        for taken in (0, 1, 2**40, 2**63, 2**64 - 1):
            for end in (0, 1, 15, 16, 17, 8 * KB, 2**63, 2**64 - 1):
                for offset in (0, 1, 2**40, 2**63 - 1):
                    write_log(output, b"text", taken=taken, end=end)
                    os.lseek(output.fd, offset, os.SEEK_SET)
                    assert len(output.read(100)) <= 100
        os.ftruncate(output.fd, 0)
        assert output.read(100) == b""
        assert output.direct_bytes() >= 0
        output.clear()
        assert output.read(100) == b""


GROW = {
    "fallocate": "os.posix_fallocate(1, 0, 300 << 20)",
    "fallocate after truncate": "os.ftruncate(1, 300 << 20)\nos.posix_fallocate(1, 0, 300 << 20)",
    "windows": """
for start in range(0, 300 << 20, 10 << 20):
    with mmap.mmap(1, 10 << 20, offset=start) as window:
        for page in range(0, 10 << 20, 4096): window[page] = 1
""",
    "direct writes": "for _ in range(300): os.write(1, bytes(1 << 20))",
    "writes at an offset": "for n in range(300): os.pwrite(1, bytes(1 << 20), n << 20)",
}


@pytest.mark.parametrize("code", GROW.values(), ids=GROW.keys())
def test_the_output_file_holds_little_memory(sandbox: LocalSandbox, code: str) -> None:
    held = "\nprint(f'held {os.fstat(1).st_blocks * 512 >> 20}')"
    code = f"import mmap, os\ntry:\n    {code.strip().replace(chr(10), chr(10) + '    ')}\nexcept Exception: pass{held}"
    result = sandbox.run(code, Limits(output_limit_kb=256))
    if result.status is Status.OK:
        assert int(result.stdout.rpartition("held ")[2]) <= 17


def test_direct_output_that_was_not_taken_follows_the_log() -> None:
    with closing(Output(KB)) as output:
        os.write(output.fd, b"taken rest")
        write_log(output, b"taken log ", taken=6)
        assert output.read(KB) == b"taken log rest"
        assert output.read(12) == b"taken log re"
        write_log(output, b"taken log, stale", taken=6, end=wire.LOG_HEADER_BYTES + 9)
        assert output.read(KB) == b"taken logrest"


def test_forked_processes_print_too() -> None:
    code = """
import os, subprocess, sys
print("begin")
if os.fork() == 0:
    print("child")
    sys.stdout.flush()
    print("again", flush=True)
    os._exit(0)
os.wait()
print("middle", flush=True)
subprocess.run(["echo", "program"])
print("end")
"""
    with LocalSandbox(slots=1, preload=(), isolation="unsafe") as sandbox:
        assert sandbox.run(code).stdout == "begin\nchild\nagain\nmiddle\nprogram\nend\n"
