import asyncio
import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from observe import descendants, eventually, zygote_pid

from cir_env.errors import OptionError, SandboxUnavailable
from cir_env.sandbox import Limits, LocalSandbox, Status, shared_sandbox
from cir_env.sandbox.host import self_test
from cir_env.sandbox.host.zygotes import MAX_PAUSE_S
from cir_env.sandbox.local import LocalSession


def children_of_zygote(sandbox: LocalSandbox) -> list[int]:
    return [worker.pid for worker in sandbox._supervisor._workers.values() if worker.pid]


def busy(sandbox: LocalSandbox, attempt: int = 1) -> bool:
    tasks = [worker.task for worker in sandbox._supervisor._workers.values()]
    return any(task is not None and task.attempts == attempt for task in tasks)


def session_pid(session: LocalSession) -> int:
    """Return the process that holds the session's namespace."""
    worker = session._state.worker
    assert worker is not None
    return worker.pid


def test_a_session_keeps_its_namespace_and_blocks_do_not(sandbox: LocalSandbox) -> None:
    session = sandbox.open_session()
    assert session.run("def f(n):\n    return n + 1\nx = 41").status is Status.OK
    assert session.run("f(x)").stdout == "42\n"
    assert session.run("1 / 0").status is Status.ERROR
    assert session.run("print(x)").stdout == "41\n"
    assert sandbox.run("print(x)").error == "NameError: name 'x' is not defined"
    session.close()
    assert session.run("x").status is Status.INFRASTRUCTURE


def test_blocks_of_a_session_run_in_order(sandbox: LocalSandbox) -> None:
    session = sandbox.open_session()
    session.run("seen = []")
    futures = [session.submit(f"seen.append({i})") for i in range(20)]
    assert all(future.result().status is Status.OK for future in futures)
    assert session.run("seen == list(range(20))").stdout == "True\n"
    session.close()


def test_a_session_continues_empty_after_a_timeout(sandbox: LocalSandbox) -> None:
    session = sandbox.open_session()
    session.run("x = 1")
    assert session.run("while True: pass", Limits(time_limit_s=0.2)).status is Status.TIMEOUT
    assert session.run("'x' in dir()").stdout == "False\n"
    session.close()


def test_threads_left_running_by_a_session_are_stopped(sandbox: LocalSandbox) -> None:
    session = sandbox.open_session()
    noise = "import threading, time\ndef tick():\n    while True: print('tick', flush=True); time.sleep(0.001)\n"
    session.run(noise + "threading.Thread(target=tick, daemon=True).start()")
    stat = Path(f"/proc/{session_pid(session)}/stat")
    assert eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
    session.close()


def test_a_closed_session_leaves_no_process(sandbox: LocalSandbox) -> None:
    session = sandbox.open_session()
    session.run("1")
    place = Path(f"/proc/{session_pid(session)}")
    assert place.exists()
    session.close()
    assert eventually(lambda: not place.exists())


def test_many_threads_share_one_sandbox(sandbox: LocalSandbox) -> None:
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        results = list(pool.map(lambda i: sandbox.run(f"print({i} ** 2)").stdout, range(64)))
    assert results == [f"{i**2}\n" for i in range(64)]


def test_waiting_for_a_slot_counts_towards_no_limit() -> None:
    with LocalSandbox(slots=1, preload=()) as sandbox:
        brief = Limits(wall_limit_s=20.0, idle_limit_s=0.4)
        sleep = "import time\ntime.sleep(0.25)"
        futures = [sandbox.submit(sleep, brief) for _ in range(4)]
        assert {future.result().status for future in futures} == {Status.OK}


def test_sleeping_blocks_do_not_occupy_a_slot() -> None:
    with LocalSandbox(slots=1, preload=()) as sandbox:
        limits = Limits(idle_limit_s=60.0)
        sleeping = [sandbox.submit("import time\ntime.sleep(20)", limits) for _ in range(3)]
        assert sandbox.run("print(1)").stdout == "1\n"
        assert not any(future.done() for future in sleeping)


def test_asyncio_can_wait_for_a_block(sandbox: LocalSandbox) -> None:
    async def both() -> list[str]:
        futures = [asyncio.wrap_future(sandbox.submit(f"print({i})")) for i in range(2)]
        return [result.stdout for result in await asyncio.gather(*futures)]

    assert asyncio.run(both()) == ["0\n", "1\n"]


def test_a_cancelled_block_never_runs() -> None:
    with LocalSandbox(slots=1, preload=()) as sandbox:
        running = sandbox.submit("import time\ntime.sleep(0.3)")
        waiting = sandbox.submit("print('no')")
        assert waiting.cancel()
        assert running.result().status is Status.OK
        assert sandbox.run("print('next')").stdout == "next\n"


def test_a_killed_child_is_reported_as_killed_and_the_next_block_runs() -> None:
    with LocalSandbox(slots=1, spares=0, preload=()) as sandbox:
        sandbox.run("1")
        future = sandbox.submit("import time\nprint('begun', flush=True)\ntime.sleep(60)", Limits(idle_limit_s=60))
        assert eventually(lambda: busy(sandbox))
        os.kill(children_of_zygote(sandbox)[0], signal.SIGKILL)
        assert future.result().status is Status.KILLED
        assert sandbox.run("print(1)").stdout == "1\n"


def test_a_killed_spare_is_replaced() -> None:
    with LocalSandbox(slots=1, spares=1, preload=()) as sandbox:
        sandbox.run("1")
        assert eventually(lambda: len(children_of_zygote(sandbox)) == 1)
        spare = children_of_zygote(sandbox)[0]
        os.kill(spare, signal.SIGKILL)
        assert eventually(lambda: children_of_zygote(sandbox) not in ([], [spare]))
        assert sandbox.run("print(1)").stdout == "1\n"


def test_a_dead_zygote_is_replaced_and_its_block_is_retried() -> None:
    with LocalSandbox(slots=1, preload=()) as sandbox:
        sandbox.run("1")
        future = sandbox.submit("import time\ntime.sleep(0.5)\nprint('done')")
        assert eventually(lambda: busy(sandbox))
        os.kill(zygote_pid(sandbox), signal.SIGKILL)
        assert future.result().stdout == "done\n"


def test_a_block_that_loses_its_zygote_twice_is_an_infrastructure_error() -> None:
    with LocalSandbox(slots=1, preload=()) as sandbox:
        sandbox.run("1")
        future = sandbox.submit("import time\ntime.sleep(60)", Limits(idle_limit_s=60))
        for attempt in (1, 2):
            assert eventually(partial(busy, sandbox, attempt))
            os.kill(zygote_pid(sandbox), signal.SIGKILL)
        assert future.result().status is Status.INFRASTRUCTURE


def test_a_session_whose_zygote_died_reports_infrastructure_errors() -> None:
    with LocalSandbox(slots=1, preload=()) as sandbox:
        session = sandbox.open_session()
        session.run("x = 1")
        first = zygote_pid(sandbox)
        os.kill(first, signal.SIGKILL)
        assert eventually(lambda: sandbox._supervisor.zygotes != [] and zygote_pid(sandbox) != first)
        assert sandbox.run("print(1)").stdout == "1\n"
        assert session.run("print(x)").status is Status.INFRASTRUCTURE


def test_a_full_scratch_disk_does_not_affect_the_next_block(sandbox: LocalSandbox) -> None:
    fill = "f = open('f', 'wb')\ntry:\n    while True: f.write(bytes(1 << 20))\nexcept OSError: print('full')"
    assert sandbox.run(fill).stdout == "full\n"
    assert sandbox.run("print(1)").stdout == "1\n"


CLOSE = """
import os
from cir_env.sandbox import Limits, LocalSandbox
LocalSandbox(preload=()).close()
before = os.listdir("/proc/self/fd")
sandbox = LocalSandbox(slots=2, preload=())
sandbox.open_session().run("x = 1")
sandbox.run("while True: pass", Limits(time_limit_s=0.1))
sandbox.close()
print(before == os.listdir("/proc/self/fd"), open(f"/proc/self/task/{os.getpid()}/children").read().split())
"""


def test_close_leaves_no_process_and_no_descriptor() -> None:
    done = subprocess.run([sys.executable, "-c", CLOSE], capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"


def test_many_blocks_leave_no_descriptor_behind(sandbox: LocalSandbox) -> None:
    def settled() -> bool:
        state = sandbox._supervisor
        return len(state._spare) == len(state._workers) == state.spares

    sandbox.run("1")
    assert eventually(settled)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        sandbox.run("import os; os._exit(1)" if number % 5 == 0 else "1")
    assert eventually(settled)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_sandbox_raises() -> None:
    sandbox = LocalSandbox()
    sandbox.close()
    with pytest.raises(SandboxUnavailable, match="Expect an open sandbox, got one that is closed"):
        sandbox.run("1")


def test_close_resolves_the_blocks_in_flight() -> None:
    sandbox = LocalSandbox(slots=1, preload=())
    futures = [sandbox.submit("import time\ntime.sleep(60)", Limits(idle_limit_s=60)) for _ in range(3)]
    sandbox.close()
    assert {future.result().status for future in futures} == {Status.INFRASTRUCTURE}


@pytest.mark.slow
def test_an_interpreter_that_cannot_start_makes_the_sandbox_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    good = sys.executable
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with LocalSandbox(slots=1, preload=()) as sandbox:
        with pytest.raises(SandboxUnavailable, match="no process could be started in 3 attempts"):
            sandbox.run("1")
        assert "no process could be started" in (sandbox.failure or "")
        assert not sandbox.failure_is_final
        monkeypatch.setattr(sys, "executable", good)
        assert eventually(lambda: sandbox.failure is None)
        assert sandbox.run("print(1)").stdout == "1\n"


def test_the_pause_between_starts_stays_bounded_however_many_fail() -> None:
    supervisor = LocalSandbox()._supervisor
    supervisor._failed_starts = 5000
    supervisor._on_failed_start("no memory")
    assert 0 < supervisor._start_at - time.monotonic() <= MAX_PAUSE_S


def failure_with(layers: dict[str, str], *, contained: bool) -> str:
    supervisor = LocalSandbox()._supervisor
    supervisor.on_zygote_ready(SimpleNamespace(layers=layers, contained=contained))  # type: ignore[arg-type]
    return supervisor.failure or ""


def test_too_few_layers_are_rejected_by_default() -> None:
    why = failure_with({"seccomp": "missing: no", "landlock": "on"}, contained=False)
    assert why.startswith("expect seccomp with namespaces or Landlock, got seccomp missing: no.")
    assert "LocalSandbox(isolation='unsafe')" in why


def test_missing_layers_are_listed_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert failure_with({"namespaces": "missing: no", "landlock": "on"}, contained=True) == ""
    assert caplog.messages == ["The sandbox runs without some of its layers: namespaces missing: no"]


def test_layers_that_fail_the_self_test_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "CODE", "print(['fork'])")
    why = r"its layers failed the self-test: \['fork'\]"
    with LocalSandbox(slots=1, preload=()) as sandbox, pytest.raises(SandboxUnavailable, match=why):
        sandbox.run("print(1)")


def test_unsafe_runs_without_layers() -> None:
    with LocalSandbox(slots=1, preload=(), isolation="unsafe") as sandbox:
        assert sandbox.run("import socket\nsocket.socket().close()").status is Status.OK
        assert sandbox.layers.keys() == {"group"}


MANY_DESCRIPTORS = """
import os, resource
from cir_env.sandbox import LocalSandbox
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
for _ in range(1100):
    os.dup(0)
with LocalSandbox(slots=1, preload=()) as sandbox:
    session = sandbox.open_session()
    assert session.run("x = 1").stdout == ""
    assert session.run("print(x)").stdout == "1\\n"
    assert sandbox.run("print(2)").stdout == "2\\n"
"""


def test_more_than_a_thousand_descriptors_work() -> None:
    subprocess.run([sys.executable, "-c", MANY_DESCRIPTORS], check=True, timeout=60)


def test_the_command_lists_every_layer() -> None:
    program = [sys.executable, "-m", "cir_env.sandbox"]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60)
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["namespaces", "user", "scratch", "landlock", "seccomp", "group", "Blocks"]


def test_unknown_options_are_rejected() -> None:
    with pytest.raises(OptionError, match="Expect `slots` >= 1 and `spares` >= 0, got 0 and 0"):
        LocalSandbox(slots=0)
    with pytest.raises(
        OptionError, match="Expect `isolation` to be 'auto', 'without-namespaces' or 'unsafe', got 'none'"
    ):
        LocalSandbox(isolation="none")  # type: ignore[arg-type]


PROGRAM = """
import os, sys, time
from cir_env.sandbox import LocalSandbox
sandbox = LocalSandbox(slots=1, preload=())
sandbox.open_session().run("x = 1")
sandbox.submit("while True: pass")
print(sandbox._supervisor.zygotes[0].pid, flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["time.sleep(60)", "sys.exit()", "os._exit(0)", "1 / 0"])
@pytest.mark.slow
def test_nothing_outlives_the_trainer(end: str) -> None:
    program = [sys.executable, "-c", PROGRAM.format(end=end)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as trainer:
        assert trainer.stdout is not None
        pid = int(trainer.stdout.readline())
        left = descendants(pid) | {pid}
        if end.startswith("time"):
            trainer.kill()
        trainer.wait(30)
    assert eventually(lambda: not any(Path(f"/proc/{p}/fd").exists() for p in left))


FORK = """
import os
from cir_env.sandbox import LocalSandbox, shared_sandbox
from cir_env.errors import SandboxUnavailable
own, shared = LocalSandbox(slots=1, preload=()), shared_sandbox()
assert own.run("print(1)").stdout == "1\\n"
if os.fork() == 0:
    try:
        own.run("1")
    except SandboxUnavailable as error:
        assert "forked" in str(error)
        assert shared_sandbox() is not shared
        os._exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
assert own.run("print(2)").stdout == "2\\n"
"""


def test_a_forked_process_makes_its_own_shared_sandbox() -> None:
    program = [sys.executable, "-W", "ignore", "-c", FORK]
    subprocess.run(program, check=True, timeout=60)


def test_a_process_shares_one_sandbox_per_name() -> None:
    assert shared_sandbox() is shared_sandbox("local")
    assert shared_sandbox("unsafe") is shared_sandbox("unsafe") is not shared_sandbox()


def test_a_name_may_say_how_many_blocks_run_at_once() -> None:
    sandbox = shared_sandbox("unsafe?slots=3")
    assert sandbox is shared_sandbox("unsafe?slots=3") is not shared_sandbox("unsafe")
    assert isinstance(sandbox, LocalSandbox)
    assert sandbox._supervisor.slots == 3


@pytest.mark.parametrize("options", ["slots=0", "slots=x", "slots=-1", "cores=2", "slots=1&slots=2", "slots="])
def test_a_bad_number_of_slots_is_rejected(options: str) -> None:
    with pytest.raises(OptionError, match=r"Expect .*slots"):
        shared_sandbox(f"local?{options}")


def test_an_unknown_name_is_rejected() -> None:
    with pytest.raises(OptionError, match=r"Expect `sandbox` to be 'local', 'unsafe', .*, got 'docker'"):
        shared_sandbox("docker")


@pytest.fixture(scope="module")
def two_zygotes() -> Iterator[LocalSandbox]:
    with LocalSandbox(slots=8, spares=8, preload=()) as made:
        made.run("print(1)")
        assert eventually(lambda: sum(zygote.ready for zygote in made._supervisor.zygotes) == 2)
        yield made


def test_many_slots_are_served_by_several_zygotes(two_zygotes: LocalSandbox) -> None:
    futures = [two_zygotes.submit(f"import time; time.sleep(0.05); print({i})") for i in range(64)]
    assert [future.result().stdout for future in futures] == [f"{i}\n" for i in range(64)]
    parents = {worker.zygote for worker in two_zygotes._supervisor._workers.values()}
    assert len(parents) == 2


def test_a_dead_zygote_does_not_affect_the_other(two_zygotes: LocalSandbox) -> None:
    first, second = two_zygotes._supervisor.zygotes
    sessions = [two_zygotes.open_session() for _ in range(8)]
    futures = [session.submit("import time; time.sleep(0.1); x = 1") for session in sessions]
    assert {future.result().status for future in futures} == {Status.OK}
    zygotes = [session._state.worker.zygote for session in sessions if session._state.worker]
    os.kill(first.pid, signal.SIGKILL)
    assert eventually(lambda: first not in two_zygotes._supervisor.zygotes)
    seen = [session.run("x").status for session in sessions]
    assert seen == [Status.OK if zygote is second else Status.INFRASTRUCTURE for zygote in zygotes]
    for session in sessions:
        session.close()


def test_importing_the_sandbox_does_not_import_sympy() -> None:
    program = "import sys, cir_env.sandbox; print('sympy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
