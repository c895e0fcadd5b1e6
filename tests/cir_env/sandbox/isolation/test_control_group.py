import os
import subprocess
import sys
from pathlib import Path

import pytest
from observe import eventually, zygote_pid

from cir_env.sandbox import LocalSandbox, Status
from cir_env.sandbox.control_group import UNIFIED, ControlGroup, _candidates


def groups(pid: int) -> set[Path]:
    """Return the groups of a trainer."""
    return {path for parents in _candidates() for parent in parents for path in parent.glob(f"cir-env-{pid}-*")}


@pytest.fixture
def group() -> ControlGroup:
    try:
        ControlGroup.delegated().remove()
    except OSError as error:
        pytest.skip(str(error))
    return ControlGroup.delegated()


def test_a_group_is_made_with_limits_and_removed(group: ControlGroup) -> None:
    files = {file.name: file for place in group.folders for file in Path(place).iterdir()}
    assert files["pids.max"].read_text() == "16384\n"
    group.remove()
    assert not any(map(os.path.exists, group.folders))


def test_the_sandbox_and_its_blocks_are_in_the_group(group: ControlGroup) -> None:
    group.remove()
    before = groups(os.getpid())
    with LocalSandbox(slots=1, preload=()) as sandbox:
        session = sandbox.open_session()
        session.run("x = 1")
        (place, *_) = groups(os.getpid()) - before
        children = {worker.pid for worker in sandbox._supervisor._workers.values() if worker.pid}
        members = set(map(int, (place / "cgroup.procs").read_text().split()))
        assert children
        assert children <= members
        assert os.getpid() not in members
    assert groups(os.getpid()) == before


def test_blocks_killed_by_the_group_limit_have_used_too_much_memory(group: ControlGroup) -> None:
    group.remove()
    with LocalSandbox(slots=2, preload=()) as sandbox:
        session = sandbox.open_session()
        session.run("x = bytearray(300_000_000)")
        own = sandbox._supervisor.group
        assert own is not None
        name = next(p for place in own.folders for p in Path(place).glob("memory.[lm]*") if p.name in LIMITS)
        name.write_text(str(400_000_000))
        result = sandbox.run("y = bytearray(350_000_000)\nprint(len(y))")
        statuses = {result.status, session.run("len(x)").status}
        assert Status.MEMORY in statuses
        assert statuses <= {Status.MEMORY, Status.OK}


LIMITS = ("memory.max", "memory.limit_in_bytes")


KILLED = """
import os, signal
from cir_env.sandbox import LocalSandbox
sandbox = LocalSandbox(slots=1, preload=())
assert sandbox.run("1").stdout == "1\\n"
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_group_remains_when_the_trainer_is_killed(group: ControlGroup) -> None:
    group.remove()
    with subprocess.Popen([sys.executable, "-c", KILLED]) as trainer:
        assert eventually(lambda: bool(groups(trainer.pid)))
        trainer.wait(60)
    assert eventually(lambda: not groups(trainer.pid))


def test_the_unified_hierarchy_gets_its_limits_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (place,) = ControlGroup({tmp_path: UNIFIED}).folders
    assert {file.name: file.read_text() for file in Path(place).iterdir()} == {
        "memory.max": "750000",
        "pids.max": "16384",
    }


def test_oom_kills_are_counted_between_calls(tmp_path: Path) -> None:
    group = ControlGroup({tmp_path: UNIFIED})
    events = Path(group.folders[0], "memory.events")
    events.write_text("low 0\noom 9\noom_kill 0\n")
    assert not group.oom_killed_since_last_call()
    events.write_text("low 0\noom 9\noom_kill 2\n")
    assert [group.oom_killed_since_last_call() for _ in range(2)] == [True, False]


def test_groups_of_dead_trainers_are_removed(tmp_path: Path) -> None:
    (tmp_path / "cir-env-4194305-0").mkdir()  # beyond the largest process id
    (tmp_path / f"cir-env-{os.getppid()}-0").mkdir()
    ControlGroup({tmp_path: UNIFIED})
    assert not (tmp_path / "cir-env-4194305-0").exists()
    assert (tmp_path / f"cir-env-{os.getppid()}-0").exists()


def test_a_dead_zygote_is_replaced_in_the_group(group: ControlGroup) -> None:
    group.remove()
    with LocalSandbox(slots=1, preload=()) as sandbox:
        sandbox.run("1")
        first = zygote_pid(sandbox)
        os.kill(first, 9)
        assert eventually(lambda: sandbox._supervisor.zygotes != [] and zygote_pid(sandbox) != first)
        assert sandbox.run("print(2)").stdout == "2\n"
        assert sandbox._supervisor.group_report == "on"
