"""The seccomp filter: system calls that are not on the list fail with EPERM.

The list contains what an interpreter needs to compute, print, and write to its scratch folder. It excludes, among
others, fork, exec, sockets, signals to others, tracing, namespaces, mounts, keys, BPF and io_uring.
"""

import ctypes
import platform
import struct
from collections.abc import Callable
from typing import NamedTuple

X86_64 = """
    read=0 write=1 readv=19 writev=20 pread64=17 pwrite64=18 preadv=295 pwritev=296 open=2 openat=257 close=3
    stat=4 fstat=5 lstat=6 newfstatat=262 statx=332 lseek=8 mmap=9
    mprotect=10 munmap=11 mremap=25 madvise=28 brk=12 msync=26 mincore=27 rt_sigaction=13 rt_sigprocmask=14
    rt_sigreturn=15 sigaltstack=131 rt_sigpending=127 rt_sigtimedwait=128 rt_sigsuspend=130 restart_syscall=219
    access=21 faccessat=269 faccessat2=439 pipe=22 pipe2=293 select=23 pselect6=270 poll=7 ppoll=271
    epoll_create1=291 epoll_ctl=233 epoll_wait=232 epoll_pwait=281 eventfd2=290 sched_yield=24
    sched_getaffinity=204 dup=32 dup2=33 dup3=292 pause=34 nanosleep=35 clock_nanosleep=230 getitimer=36
    setitimer=38 alarm=37 getpid=39 gettid=186 getppid=110 getuid=102 geteuid=107 getgid=104 getegid=108
    getresuid=118 getresgid=120 getgroups=115 getpgrp=111 exit=60 exit_group=231 uname=63 fsync=74
    fdatasync=75 ftruncate=77 getdents=78 getdents64=217 getcwd=79 chdir=80 fchdir=81 rename=82 renameat=264
    renameat2=316 mkdir=83 mkdirat=258 rmdir=84 creat=85 link=86 linkat=265 unlink=87 unlinkat=263 symlink=88
    symlinkat=266 readlink=89 readlinkat=267 umask=95 gettimeofday=96 time=201 clock_gettime=228 clock_getres=229
    getrlimit=97 getrusage=98 times=100 futex=202 futex_waitv=449 set_robust_list=273 rseq=334
    set_tid_address=218 getrandom=318 membarrier=324 fallocate=285 fadvise64=221 copy_file_range=326 sendfile=40
    getcpu=309 recvfrom=45 shutdown=48 getsockname=51 getpeername=52 sched_getparam=143
    sched_getscheduler=145 sched_get_priority_max=146 sched_get_priority_min=147 setrlimit=160
"""

AARCH64 = """
    read=63 write=64 readv=65 writev=66 pread64=67 pwrite64=68 preadv=69 pwritev=70 openat=56 close=57
    fstat=80 newfstatat=79 statx=291 lseek=62 mmap=222 mprotect=226
    munmap=215 mremap=216 madvise=233 brk=214 msync=227 mincore=232 rt_sigaction=134 rt_sigprocmask=135
    rt_sigreturn=139 sigaltstack=132 rt_sigpending=136 rt_sigtimedwait=137 rt_sigsuspend=133 restart_syscall=128
    faccessat=48 faccessat2=439 pipe2=59 pselect6=72 ppoll=73 epoll_create1=20 epoll_ctl=21 epoll_pwait=22
    eventfd2=19 sched_yield=124 sched_getaffinity=123 dup=23 dup3=24 nanosleep=101 clock_nanosleep=115
    getitimer=102 setitimer=103 getpid=172 gettid=178 getppid=173 getuid=174 geteuid=175 getgid=176 getegid=177
    getresuid=148 getresgid=150 getgroups=158 exit=93 exit_group=94 uname=160 fsync=82 fdatasync=83
    ftruncate=46 getdents64=61 getcwd=17 chdir=49 fchdir=50 renameat=38 renameat2=276 mkdirat=34 linkat=37
    unlinkat=35 symlinkat=36 readlinkat=78 umask=166 gettimeofday=169 clock_gettime=113 clock_getres=114
    getrlimit=163 getrusage=165 times=153 futex=98 futex_waitv=449 set_robust_list=99 rseq=293
    set_tid_address=96 getrandom=278 membarrier=283 fallocate=47 fadvise64=223 copy_file_range=285 sendfile=71
    getcpu=168 recvfrom=207 shutdown=210 getsockname=204 getpeername=205 sched_getparam=121
    sched_getscheduler=120 sched_get_priority_max=125 sched_get_priority_min=126 setrlimit=164
"""


class Arch(NamedTuple):
    """The audit number and the system calls of an architecture."""

    audit: int
    """Its AUDIT_ARCH constant."""
    always: str
    """Calls that are allowed with any arguments, as name=number."""
    metadata: tuple[int, ...]
    """Calls that change mode, times or size of a file by its path, which Landlock does not fully cover."""
    sometimes: dict[str, int]
    """Calls that are allowed with some arguments, or fail with another errno."""


_NAMES = [
    "kill",
    "tgkill",
    "prctl",
    "fcntl",
    "ioctl",
    "clone",
    "prlimit64",
    "socketpair",
    "sendto",
    "getsockopt",
    "close_range",
    "clone3",
    "openat2",
]
ARCHES = {
    "x86_64": Arch(
        0xC000003E,
        X86_64,
        (76, 90, 91, 268, 132, 235, 280),
        dict(zip(_NAMES, (62, 234, 157, 72, 16, 56, 302, 53, 44, 55, 436, 435, 437), strict=True)),
    ),
    "aarch64": Arch(
        0xC00000B7,
        AARCH64,
        (45, 52, 53, 88),
        dict(zip(_NAMES, (129, 131, 167, 25, 29, 220, 261, 199, 206, 209, 436, 435, 437), strict=True)),
    ),
}

Code = list[tuple[int, int, int, int]]
"""BPF instructions: code, jump if true, jump if false, constant."""

LOAD, AND, JUMP, EQUAL, GREATER_EQUAL, SET, RETURN = 0x20, 0x54, 0x05, 0x15, 0x35, 0x45, 0x06
KILL, ALLOW, ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
EPERM, ENOSYS = 1, 38
NR, ARCH_FIELD, ARGS = 0, 4, 16

CLONE_SHARED = 0x00010F00
"""VM, FS, FILES, SIGHAND, THREAD: a thread shares all. One with descriptors of its own could open 128 more."""
CLONE_OPTIONAL = 0x017C0000
"""SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID, DETACHED, CHILD_SETTID."""
FCNTL_ORDERS = (*range(8), 1030, 1032)
"""F_DUPFD .. F_SETLKW, F_DUPFD_CLOEXEC, F_GETPIPE_SZ: not F_SETOWN, which sends signals to others."""
IOCTL_ORDERS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
PRCTL_OPTIONS = (15, 16, 0x53564D41)  # PR_SET_NAME PR_GET_NAME PR_SET_VMA
AF_UNIX = SOL_SOCKET = 1
SOCKET_OPTIONS = (3, 4, 7, 8, 38, 39)
"""SO_TYPE, SO_ERROR, SO_SNDBUF, SO_RCVBUF, SO_PROTOCOL, SO_DOMAIN: nothing about the process at the other end."""
CLOSE_RANGE_CLOEXEC = 4


def deny(errno: int = EPERM) -> Code:
    """Return code that denies the call."""
    return [(RETURN, 0, 0, ERRNO | errno)]


def allow_if_any(*conditions: tuple[int, tuple[int, ...]]) -> Code:
    """Return code that allows the call if the low word of each given argument is one of its values."""
    code: Code = []
    for argument, values in conditions:
        code.append((LOAD, 0, 0, ARGS + 8 * argument))
        for left, value in zip(range(len(values), 0, -1), values, strict=True):
            code.append((EQUAL, left, 0, value))
        code += deny()
    return [*code, (RETURN, 0, 0, ALLOW)]


def allow_threads() -> Code:
    """Return code that allows clone(2) for threads of this process only."""
    return [
        (LOAD, 0, 0, ARGS),
        (SET, 3, 0, ~(CLONE_SHARED | CLONE_OPTIONAL) & 0xFFFFFFFF),
        (AND, 0, 0, CLONE_SHARED),
        (EQUAL, 0, 1, CLONE_SHARED),
        (RETURN, 0, 0, ALLOW),
        *deny(),
    ]


def allow_if_null(argument: int) -> Code:
    """Return code that allows the call if an argument is 0 in both words."""
    low = ARGS + 8 * argument
    return [
        (LOAD, 0, 0, low),
        (EQUAL, 0, 3, 0),
        (LOAD, 0, 0, low + 4),
        (EQUAL, 0, 1, 0),
        (RETURN, 0, 0, ALLOW),
        *deny(),
    ]


def rules(arch: Arch, pid: int, *, metadata: bool) -> dict[int, Code]:
    """Return the code for each listed call, for a process with the pid `pid`."""
    found: dict[int, Code] = {int(word.partition("=")[2]): [(RETURN, 0, 0, ALLOW)] for word in arch.always.split()}
    if metadata:
        found.update((number, [(RETURN, 0, 0, ALLOW)]) for number in arch.metadata)
    sometimes: dict[str, Callable[[], Code]] = {
        "kill": lambda: allow_if_any((0, (pid,))),
        "tgkill": lambda: allow_if_any((0, (pid,))),
        "prctl": lambda: allow_if_any((0, PRCTL_OPTIONS)),
        "fcntl": lambda: allow_if_any((1, FCNTL_ORDERS)),
        "ioctl": lambda: allow_if_any((1, IOCTL_ORDERS)),
        "clone": allow_threads,
        "prlimit64": lambda: allow_if_any((0, (0, pid))),
        "socketpair": lambda: allow_if_any((0, (AF_UNIX,))),
        "sendto": lambda: allow_if_null(4),
        "getsockopt": lambda: allow_if_any((1, (SOL_SOCKET,)), (2, SOCKET_OPTIONS)),
        "close_range": lambda: allow_if_any((2, (0, CLOSE_RANGE_CLOEXEC))),  # not CLOSE_RANGE_UNSHARE
        "clone3": lambda: deny(ENOSYS),  # Its flags are in memory, which a filter cannot read; libc falls back.
        "openat2": lambda: deny(ENOSYS),
    }
    found.update((arch.sometimes[name], make()) for name, make in sometimes.items())
    return found


def _tree(parts: list[tuple[int, Code]]) -> Code:
    """Return a binary search over ranges of call numbers, each with its code."""
    if len(parts) == 1:
        return parts[0][1]
    middle = len(parts) // 2
    below, above = _tree(parts[:middle]), _tree(parts[middle:])
    return [(GREATER_EQUAL, 0, 1, parts[middle][0]), (JUMP, 0, 0, len(below)), *below, *above]


def assemble(machine: str, pid: int, *, metadata: bool) -> bytes:
    """Return the instructions of the filter for a process with the pid `pid`.

    Raises:
        OSError: There is no list for this machine.

    >>> len(assemble("x86_64", 7, metadata=False)) % 8
    0
    """
    if machine not in ARCHES:
        raise OSError(f"expect the machine to be {' or '.join(ARCHES)}, got {machine}")
    arch = ARCHES[machine]
    listed = rules(arch, pid, metadata=metadata)
    parts: list[tuple[int, Code]] = [(0, deny())]
    for number in range(max(listed) + 2):
        code = listed.get(number, deny())
        if code != parts[-1][1]:
            parts.append((number, code))
    head: Code = [
        (LOAD, 0, 0, ARCH_FIELD),
        (EQUAL, 1, 0, arch.audit),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NR),
        (GREATER_EQUAL, 0, 1, 0x40000000),  # x32 system calls.
        (RETURN, 0, 0, KILL),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in [*head, *_tree(parts)])


class Filter:
    """A filter that is assembled once and adapted to each child."""

    MARK = 0x5AFE5AFE

    def __init__(self, *, metadata: bool) -> None:
        """Assemble the filter; `metadata` allows chmod, utime and truncate, for children with a scratch folder."""
        self._template = assemble(platform.machine(), self.MARK, metadata=metadata)

    def install(self, libc: ctypes.CDLL, pid: int) -> None:
        """Install the filter in the calling process, whose pid is `pid`, irreversibly."""
        code = self._template.replace(struct.pack("=I", self.MARK), struct.pack("=I", pid))
        buffer = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
        pr_set_seccomp, mode_filter = 22, 2
        if libc.prctl(pr_set_seccomp, mode_filter, program, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, "the kernel rejected the seccomp filter")
