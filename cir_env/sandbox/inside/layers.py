"""Probes which layers the kernel and the container allow, and combines them. Runs in the zygote."""

import contextlib
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

from cir_env.sandbox import control_group
from cir_env.sandbox.inside import imports, namespaces
from cir_env.sandbox.inside.jail import CLONE_NEWUSER, Jail, drop_bounding_set, landlock_version, unshare
from cir_env.sandbox.inside.seccomp import Filter

ON = "on"


@dataclass(kw_only=True, slots=True)
class Layers:
    """The layers that are available."""

    jail: Jail
    """What each child enters."""
    report: dict[str, str] = field(default_factory=dict)
    """Each layer with "on" or the reason why it is missing."""
    contained: bool = False
    """Whether the layers suffice: seccomp, and namespaces or Landlock."""
    memory_files: tuple[IO[str], IO[str]] | None = None
    """/proc/self/statm and maps, opened before the files of the host became invisible."""


def try_in_fork(action: Callable[[], None]) -> str:
    """Try an irreversible action in a fork; return "on" or the reason why it failed."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except BaseException as error:
            os.write(write_end, f"missing: {error}".encode()[:300])
            os._exit(1)
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        error_text = pipe.read().decode("utf-8", "replace")
    _, status = os.waitpid(pid, 0)
    return error_text or (ON if status == 0 else f"missing: the attempt ended with wait status {status}")


def open_memory_files() -> tuple[IO[str], IO[str]]:
    """Open the files that report the memory of this process, and make it the OOM killer's first choice."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    return open("/proc/self/statm"), open("/proc/self/maps")


def set_up(isolation: str, packages: list[str], groups: list[str]) -> Layers:
    """Set up the layers that children share, and return those that each child has to enter.

    Args:
        isolation: "auto", "without-namespaces" or "unsafe".
        packages: Packages that blocks may import in addition to the standard library: import names, or paths.
        groups: Folders of the control group to join.
    """
    if isolation == "unsafe":
        control_group.join(groups)
        return Layers(jail=Jail(), memory_files=open_memory_files())
    readable = namespaces.readable_paths(packages)
    found = Layers(jail=Jail())
    report = found.report

    def build() -> None:
        namespaces.enter_namespaces(lambda: None)
        namespaces.build_root(packages)

    report["namespaces"] = try_in_fork(build) if isolation == "auto" else "missing: not requested"
    inside = report["namespaces"] == ON
    if inside:
        remover = control_group.Remover(groups)
        namespaces.enter_namespaces(remover.remove)
        remover.close()
    control_group.join(groups)
    found.memory_files = open_memory_files()
    if inside:
        namespaces.build_root(packages)
    else:
        imports.show_only(readable)
    drop_bounding_set()
    jail = found.jail
    _add_user(found, inside)
    if inside:
        _count_threads_by_child(jail)
        jail.scratch_mount = namespaces.SCRATCH
        report["scratch"] = try_in_fork(jail.mount_scratch)
        jail.scratch_mount = namespaces.SCRATCH if report["scratch"] == ON else ""
    else:
        report["scratch"] = "missing: needs namespaces; blocks cannot write files"
    _add_landlock(found, ["/"] if inside else readable, [jail.scratch_mount] if jail.scratch_mount else [])
    _add_seccomp(found)
    found.contained = report["seccomp"] == ON and (inside or report["landlock"] == ON)
    return found


def _add_user(found: Layers, inside: bool) -> None:
    """Run children as an unprivileged user if possible, and always without capabilities."""
    found.jail.capabilities = True
    if os.geteuid() != 0:
        found.report["user"] = ON
        return
    uid = namespaces.INSIDE_UID if inside else namespaces.OUTSIDE_UID
    probe = Jail(uid=uid, capabilities=True)

    def read_libraries() -> None:
        probe.enter(os.getppid())
        with open(os.__file__, "rb"):
            pass

    if not inside and not _may_signal_others():
        found.report["user"] = "missing: a child of another user could not be killed without CAP_KILL"
        return
    found.report["user"] = try_in_fork(read_libraries)
    if found.report["user"] == ON:
        found.jail.uid = uid


def _count_threads_by_child(jail: Jail) -> None:
    """Let the kernel limit the threads of each child by itself, if it counts them by user namespace (5.14 or newer)."""

    def fork_beside_another() -> None:
        Jail(uid=jail.uid).enter(os.getppid())
        read_end, write_end = os.pipe()
        if os.fork() == 0:
            os.close(write_end)
            os.read(read_end, 1)  # until the other process ends
            os._exit(0)
        unshare(CLONE_NEWUSER)
        resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))
        if os.fork() == 0:
            os._exit(0)

    jail.own_user_namespace = try_in_fork(fork_beside_another) == ON


def _may_signal_others() -> bool:
    with open("/proc/self/status") as file:
        effective = next((line.split()[1] for line in file if line.startswith("CapEff")), "0")
    return bool(int(effective, 16) >> 5 & 1)


def _add_landlock(found: Layers, readable: list[str], writable: list[str]) -> None:
    version = landlock_version()
    if version == 0:
        found.report["landlock"] = "missing: the kernel or the container does not support it"
        return
    probe = Jail(uid=found.jail.uid, scratch_mount=found.jail.scratch_mount, readable=readable, writable=writable)

    def enter() -> None:
        probe.mount_scratch()
        probe.enter(os.getppid())

    found.report["landlock"] = try_in_fork(enter)
    if found.report["landlock"] == ON:
        found.jail.readable, found.jail.writable = readable, writable


def _add_seccomp(found: Layers) -> None:
    try:
        probe = Jail(filter=Filter(metadata=bool(found.jail.scratch_mount)))
    except OSError as error:
        found.report["seccomp"] = f"missing: {error}"
        return
    found.report["seccomp"] = try_in_fork(lambda: probe.enter(os.getppid()))
    if found.report["seccomp"] == ON:
        found.jail.filter = probe.filter
