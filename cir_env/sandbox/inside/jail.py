"""The isolation layers of a child: system call wrappers, and `Jail`, which a child enters before it reads any code.

`namespaces` sets up what all children of a zygote share: namespaces, and a root without files of the host.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct
from dataclasses import dataclass, field

from cir_env.sandbox.inside.seccomp import Filter

libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
SYS_CAPSET = {"x86_64": 126, "aarch64": 91}.get(os.uname().machine, -1)
SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT = 444, 445, 446
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8

EXECUTE, READ_FILE, READ_DIR = 1, 4, 8
WRITE = 0b110_0001_1011_1110
"""Landlock rights in a scratch folder: read, write, truncate, create, rename and remove files and links."""
ALL_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Rights that Landlock knows, by the version that introduced them."""
NET_RIGHTS, SCOPES = 3, 3
"""TCP bind and connect (version 4); abstract sockets and signals (version 6)."""


def check(result: int, what: str) -> int:
    """Return the result of a system call.

    Raises:
        OSError: It failed.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, value: int) -> None:
    """Set a process option."""
    check(libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def unshare(flags: int) -> None:
    """Move to new namespaces of the given kinds."""
    check(libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount, bind-mount or remount."""
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    check(libc.mount(*arguments), f"mount {target}")


def drop_capabilities() -> None:
    """Drop all capabilities."""
    header, nothing = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)
    check(libc.syscall(SYS_CAPSET, header, nothing), "capset")


def drop_bounding_set() -> None:
    """Make it impossible to gain capabilities."""
    for number in range(64):
        if libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            break


def landlock_version() -> int:
    """Return the Landlock version of the kernel; 0 without Landlock."""
    return max(0, int(libc.syscall(SYS_LANDLOCK_CREATE, None, 0, 1)))


def landlock_ruleset(readable: list[str], writable: list[str], folder: str = "") -> int:
    """Create a ruleset that allows reading and writing the given trees and nothing else; return its descriptor.

    Args:
        readable: Trees in which files can be read and folders listed.
        writable: Trees in which both can be changed, too.
        folder: A tree in which files can be read; '' for none.
    """
    version = landlock_version()
    known = next(rights for since, rights in reversed(ALL_RIGHTS.items()) if version >= since)
    attributes = struct.pack("QQQ", known, NET_RIGHTS * (version >= 4), SCOPES * (version >= 6))
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = check(libc.syscall(SYS_LANDLOCK_CREATE, attributes, size, 0), "landlock_create_ruleset")
    for path, rights in [
        *((path, READ_FILE | READ_DIR | EXECUTE) for path in readable),
        *((path, WRITE & known) for path in writable),
        *([(folder, READ_FILE)] if folder else []),
    ]:
        with contextlib.suppress(FileNotFoundError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            given = rights if os.path.isdir(path) else rights & ~READ_DIR
            rule = struct.pack("=Qi", given, place)
            try:
                check(libc.syscall(SYS_LANDLOCK_ADD, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
            finally:
                os.close(place)
    return ruleset


@dataclass(kw_only=True, slots=True)
class Jail:
    """The layers of a child. If one of them fails, the child ends before it reads any code."""

    scratch_mount: str = ""
    """Where each child mounts its own scratch file system; '' for none."""
    scratch_mb: int = 16
    """Size of that file system in MB."""
    uid: int | None = None
    """The user to become; None to keep the current one."""
    capabilities: bool = False
    """Whether to drop capabilities."""
    readable: list[str] | None = None
    """Trees that Landlock allows to read; None without Landlock."""
    writable: list[str] = field(default_factory=list)
    """Trees that Landlock allows to write."""
    folder: str = ""
    """Folder with files that Landlock allows to read; '' for none."""
    filter: Filter | None = None
    """The seccomp filter."""
    own_user_namespace: bool = False
    """Whether to enter a user namespace, so that the kernel counts the threads of this child alone."""

    def mount_scratch(self) -> None:
        """Mount an empty file system that disappears with the child."""
        if self.scratch_mount:
            unshare(CLONE_NEWNS)
            options = f"size={self.scratch_mb}m,nr_inodes=4096,mode=777"
            mount("tmpfs", self.scratch_mount, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)

    def enter(self, parent: int) -> None:
        """Drop all privileges, irreversibly. The order matters: each step needs privileges that a later one drops."""
        if self.uid is not None:
            with contextlib.suppress(PermissionError):
                os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
        if self.own_user_namespace:
            unshare(CLONE_NEWUSER)
            drop_bounding_set()
        if self.capabilities:
            drop_capabilities()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
        prctl(PR_SET_DUMPABLE, 0)
        if self.filter is None and self.readable is None:
            return
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        if self.readable is not None:
            ruleset = landlock_ruleset(self.readable, self.writable, self.folder)
            check(libc.syscall(SYS_LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict_self")
            os.close(ruleset)
        if self.filter is not None:
            self.filter.install(libc, os.getpid())


def raise_descriptor_limit() -> None:
    """Raise this process's limit of open descriptors: a child takes three in the trainer, and one in the zygote."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
