"""The sandbox keeps running, whatever ends or stops a part of it, and never blames a block for this."""

import concurrent.futures
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from observe import eventually

from cir_env.sandbox import Limits, LocalSandbox, Session, Status
from cir_env.sandbox.host.monitor import Worker
from cir_env.sandbox.host.supervisor import MAX_RECOVERIES

PATIENT = Limits(idle_limit_s=60.0)


@pytest.fixture
def own() -> Iterator[LocalSandbox]:
    with LocalSandbox(slots=1, preload=()) as sandbox:
        sandbox.run("1")
        yield sandbox


def is_running(sandbox: LocalSandbox) -> bool:
    return bool(sandbox._supervisor._running)


def works(sandbox: LocalSandbox) -> bool:
    return sandbox.run("print(6 * 7)").stdout == "42\n"


def break_supervisor(sandbox: LocalSandbox) -> None:
    def fail() -> None:
        raise ValueError("planted")

    sandbox._supervisor.call(fail)


def spare_pid(sandbox: LocalSandbox) -> int:
    assert eventually(lambda: len(sandbox._supervisor._spare) > 0)
    return sandbox._supervisor._spare[0].pid


def test_blocks_survive_a_failure_of_the_supervisor(own: LocalSandbox) -> None:
    session = own.open_session()
    session.run("x = 1")
    running = own.submit("import time\ntime.sleep(0.3)\nprint('done')", PATIENT)
    assert eventually(lambda: is_running(own))
    break_supervisor(own)
    assert running.result().stdout == "done\n"
    assert session.run("x").status is Status.INFRASTRUCTURE
    assert works(own)


@pytest.mark.slow
def test_a_supervisor_that_fails_again_and_again_fails_the_open_blocks_only(own: LocalSandbox) -> None:
    running = own.submit("import time\ntime.sleep(60)", PATIENT)
    for _ in range(MAX_RECOVERIES + 1):
        break_supervisor(own)
    ended = running.exception() or running.result()
    assert "planted" in str(ended) or running.result().status is Status.INFRASTRUCTURE
    assert works(own)


def test_an_error_that_one_block_causes_affects_no_other(own: LocalSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Worker.read_output

    def read_or_fail(worker: Worker) -> Any:
        if worker.task is not None and b"unlucky" in worker.task.code:
            raise OverflowError("planted")
        return read(worker)

    monkeypatch.setattr(Worker, "read_output", read_or_fail)
    session = own.open_session()
    session.run("x = 1")
    assert own.run("print('unlucky')").status is Status.INFRASTRUCTURE
    assert session.run("print(x)").stdout == "1\n"
    assert works(own)


def test_a_stopped_zygote_continues_and_its_blocks_are_not_blamed(own: LocalSandbox) -> None:
    zygote = own._supervisor.zygotes[0]
    crash = own.submit("import os, time\ntime.sleep(0.3)\nos.abort()", Limits(idle_limit_s=0.6))
    assert eventually(lambda: is_running(own))
    for pid in {zygote.pid, zygote._inner_pid}:
        os.kill(pid, signal.SIGSTOP)
    assert crash.result(30).status is Status.KILLED
    assert works(own)


@pytest.mark.slow
def test_a_block_that_ended_while_the_trainer_was_stopped_is_not_late() -> None:
    program = """
from cir_env.sandbox import Limits, LocalSandbox
with LocalSandbox(slots=1, preload=()) as sandbox:
    sandbox.run("1")
    code = "import time\\ntime.sleep(0.3)\\nprint('done')"
    futures = [sandbox.submit(code, Limits(wall_limit_s=1.0, idle_limit_s=1.0)) for _ in range(2)]
    print("begun", flush=True)
    print([future.result().status.value for future in futures])
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        trainer.stdout.readline()
        trainer.send_signal(signal.SIGSTOP)
        time.sleep(2.0)
        trainer.send_signal(signal.SIGCONT)
        assert trainer.stdout.read() == "['ok', 'ok']\n"


def test_a_block_runs_although_the_spare_for_it_was_killed(own: LocalSandbox) -> None:
    for _ in range(5):
        os.kill(spare_pid(own), signal.SIGKILL)
        assert works(own)


def test_a_block_runs_although_an_earlier_one_has_shut_the_session_socket(own: LocalSandbox) -> None:
    shut = "import socket\ns = socket.socket(fileno=3); s.shutdown(socket.SHUT_RD); s.detach()\nprint('one')"
    with closing(own.open_session()) as session:
        assert session.run(shut).stdout == "one\n"
        assert session.run("print('two')").stdout == "two\n"


def test_a_session_that_was_killed_between_two_blocks_says_so_once(own: LocalSandbox) -> None:
    with closing(own.open_session()) as session:
        session.run("x = 1")
        worker = session._state.worker
        assert worker is not None
        os.kill(worker.pid, signal.SIGKILL)
        assert eventually(lambda: session._state.worker is None)
        result = session.run("x")
        assert (result.status, result.error) == (Status.KILLED, "the process was killed by SIGKILL")
        assert session.run("print(2)").stdout == "2\n"


def processes(sandbox: LocalSandbox) -> list[int]:
    return [os.pidfd_open(worker.pid) for worker in sandbox._supervisor._running]


def have_ended(pidfds: list[int]) -> bool:
    return len(select.select(pidfds, [], [], 0)[0]) == len(pidfds)


@pytest.mark.parametrize("in_session", [False, True])
def test_a_cancelled_block_ends_at_once(own: LocalSandbox, in_session: bool) -> None:
    place: LocalSandbox | Session = own.open_session() if in_session else own
    running = place.submit("while True: pass", Limits(time_limit_s=600.0))
    assert eventually(lambda: is_running(own))
    pids = processes(own)
    assert running.cancel()
    assert eventually(lambda: have_ended(pids))
    assert place.run("print(1)").stdout == "1\n"


def test_closing_a_session_ends_its_blocks(own: LocalSandbox) -> None:
    session = own.open_session()
    futures = [session.submit("while True: pass", Limits(time_limit_s=600.0)) for _ in range(2)]
    assert eventually(lambda: is_running(own))
    pids = processes(own)
    session.close()
    assert {future.result(30).status for future in futures} == {Status.INFRASTRUCTURE}
    assert eventually(lambda: have_ended(pids))
    assert works(own)


def test_threads_of_other_sessions_do_not_count(own: LocalSandbox) -> None:
    leave = "import threading, time\nfor _ in range(60): "
    leave += "threading.Thread(target=time.sleep, args=(99,), daemon=True).start()"
    sessions = [own.open_session() for _ in range(20)]
    assert {session.run(leave).status for session in sessions} == {Status.OK}
    pool = "from concurrent.futures import ThreadPoolExecutor\nprint(sum(ThreadPoolExecutor(32).map(int, '123')))"
    assert own.run(pool).stdout == "6\n"
    for session in sessions:
        session.close()


def test_what_a_session_sends_between_its_blocks_keeps_nobody_busy(
    own: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = []
    turn = own._supervisor._turn
    monkeypatch.setattr(own._supervisor, "_turn", lambda: (turns.append(1), turn()))
    send = """
import os, sys
frame = sys._getframe()
while "job" not in frame.f_locals: frame = frame.f_back
from struct import pack
os.write(3, pack("!16sBH", frame.f_locals["job"].nonce, 0, 0))
os.write(3, b"left")
print("one")
"""
    with closing(own.open_session()) as session:
        session.run(send)
        time.sleep(0.3)
        before = len(turns)
        time.sleep(0.5)
        assert len(turns) - before < 20
        assert session.run("print('two')").stdout == "two\n"


def test_callbacks_may_raise_anything_and_submit_again(own: LocalSandbox) -> None:
    again: list[Any] = []
    first = own.submit("import time\ntime.sleep(0.2)")
    first.add_done_callback(lambda _: again.append(own.submit("print('again')")))
    first.add_done_callback(lambda _: sys.exit(3))
    assert first.result().status is Status.OK
    assert eventually(lambda: bool(again))
    assert again[0].result(30).stdout == "again\n"
    assert works(own)


def test_a_callback_that_would_wait_for_itself_is_told(own: LocalSandbox) -> None:
    told: list[BaseException] = []

    def run(_: object) -> None:
        try:
            own.run("1")
        except RuntimeError as error:
            told.append(error)

    own.submit("import time\ntime.sleep(0.2)").add_done_callback(run)
    assert eventually(lambda: bool(told))
    assert "Expect `submit` in the callback" in str(told[0])


def test_a_callback_that_submits_to_a_closed_session_starves_nobody(own: LocalSandbox) -> None:
    session = own.open_session()
    session.run("1")
    stop: list[int] = []

    def again(_: object) -> None:
        if not stop:
            session.submit("1").add_done_callback(again)

    session.close()
    again(None)
    assert works(own)
    stop.append(1)


def test_a_queued_block_of_a_closed_session_does_not_run(own: LocalSandbox) -> None:
    session = own.open_session()
    session.run("x = 1")
    busy = own.submit("import time\nwhile time.process_time() < 0.5: pass", Limits(time_limit_s=60.0))
    queued = session.submit("print('ran')")
    session.close()
    assert queued.result(30).status is Status.INFRASTRUCTURE
    assert busy.result().status is Status.OK


def test_closing_notifies_those_who_wait_for_cancelled_blocks() -> None:
    sandbox = LocalSandbox(slots=1, preload=())
    futures = [sandbox.submit("import time\ntime.sleep(60)", PATIENT) for _ in range(20)]
    for future in futures[::2]:
        future.cancel()
    sandbox.close()
    futures[1].cancel()
    assert not concurrent.futures.wait(futures, timeout=30).not_done


FORK = """
import os, sys
from cir_env.sandbox import LocalSandbox
closed = LocalSandbox(slots=1, preload=(), isolation=sys.argv[1])
closed.run("1")
closed.close()
sandbox = LocalSandbox(slots=1, preload=(), isolation=sys.argv[1])
session = sandbox.open_session(files={"data.csv": "7"})
session.run("1")
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
if os.fork() == 0:
    for fd in held: os.fstat(fd)
    os._exit(9 if sandbox.failure else 1)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 9
print(session.run("print(open('data.csv').read())").stdout, sandbox.run("print(8)").stdout)
"""


@pytest.mark.parametrize("isolation", ["auto", "without-namespaces"])
@pytest.mark.slow
def test_a_fork_of_the_trainer_affects_no_block(isolation: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK, isolation]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["7", "8"]


def test_a_folder_that_a_cleaner_has_removed_is_made_again() -> None:
    with LocalSandbox(slots=1, preload=(), isolation="without-namespaces") as sandbox:
        sandbox.run("1")
        assert eventually(lambda: len(sandbox._supervisor._spare) == 1)
        shutil.rmtree(sandbox._supervisor.zygotes[0].folders)
        for _ in range(4):
            sandbox.run("1")
        assert sandbox.run("print(open('a').read())", files={"a": "1"}).stdout == "1\n"


DESCRIPTORS = """
import os, resource, sys
from cir_env.errors import SandboxUnavailable
from cir_env.sandbox import LocalSandbox, Status
sandbox = LocalSandbox(preload=())
sandbox.run("1")
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
sessions = [sandbox.open_session() for _ in range(int(sys.argv[1]) // 3)]
results = [session.run("1") for session in sessions]
assert results[0].status is Status.OK, results[0]
assert "raise `ulimit -n`" in results[-1].error, results[-1]
assert sandbox.run("print(2)").stdout == "2\\n"
for session in sessions:
    session.close()
held = []
try:
    while True: held.append(os.dup(0))
except OSError:
    os.kill(sandbox._supervisor.zygotes[0].pid, 9)
for _ in range(3):
    try:
        sandbox.run("print(3)")
    except SandboxUnavailable as error:
        assert "descriptors" in str(error), error
for fd in held: os.close(fd)
assert sandbox.open_session().run("print(4)").stdout == "4\\n"
"""


@pytest.mark.parametrize("limit", [40, 43, 47, 64, 256])
@pytest.mark.slow
def test_running_out_of_descriptors_is_temporary(limit: int) -> None:
    subprocess.run([sys.executable, "-c", DESCRIPTORS, str(limit)], check=True, timeout=120)


def test_the_soft_limit_of_descriptors_is_raised() -> None:
    program = """
import resource
from cir_env.sandbox import LocalSandbox
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(hard, 200)))
with LocalSandbox(slots=1, preload=()) as sandbox:
    sandbox.run("1")
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 200))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


TELLS = """
import gc, os, sys
seen = [*map(repr, sys.modules.values()), *sys.path_importer_cache, *sys.path, *sys.orig_argv, os.getcwd()]
frame = sys._getframe()
while frame:
    seen += [frame.f_code.co_filename, *map(repr, frame.f_locals.values()), *map(repr, frame.f_globals.values())]
    frame = frame.f_back
seen += [o for o in gc.get_objects() if isinstance(o, str)]
seen += [repr(o) for o in gc.get_objects() if isinstance(o, (dict, tuple, list)) and len(repr(o)) < 9999]
"""


@pytest.mark.parametrize("isolation", ["auto", "without-namespaces"])
def test_a_block_is_not_told_where_the_checkout_is(isolation: Any) -> None:
    checkout = str(Path(__file__).parents[3])
    with LocalSandbox(slots=1, preload=(), isolation=isolation) as sandbox:
        find = f"print(len(seen) > 100, [text for text in seen if {checkout[::-1]!r}[::-1] in text])"
        assert sandbox.run(TELLS + find).stdout == "True []\n"
