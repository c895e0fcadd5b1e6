"""Sets up what all children of a zygote share: namespaces, and a root file system that contains only libraries.

Everything here runs once, in the zygote, before any library is loaded.
"""

import contextlib
import importlib.machinery
import os
import signal
import site
import socket
import struct
import sys
import sysconfig
import time
from collections.abc import Callable

from cir_env.sandbox.inside import jail

NAMESPACES = {"user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000}
NAMESPACES["uts"] = 0x4000000
CLONE_NEWTIME = 0x80
INSIDE_UID, OUTSIDE_UID = 1000, 65534
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine, -1)
SYS_MOUNT_SETATTR, AT_RECURSIVE, AT_FDCWD = 442, 0x8000, -100
SCRATCH = "/box/tmp"
PLACE = "/proc"
"""Where the new root is assembled: a folder that exists everywhere and contains nothing that the root needs."""


def enter_namespaces(at_end: Callable[[], None]) -> None:
    """Leave all namespaces of the host. The caller continues in a fork, as process 1 of the new namespaces.

    The original process only waits for the fork to end, and then calls `at_end`.

    If the caller is root, two users are mapped: root, which sets up, and nobody, which runs code. Otherwise the caller
    is mapped to an ordinary user.

    Raises:
        OSError: The kernel or the policy of a container forbids it.
    """
    flags = 0
    for flag in NAMESPACES.values():
        flags |= flag
    if os.geteuid() == 0:
        _map_from_outside(flags)
    else:
        uid, gid = os.geteuid(), os.getegid()
        jail.unshare(flags)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{INSIDE_UID} {uid} 1")
        _write("/proc/self/gid_map", f"{INSIDE_UID} {gid} 1")
    with contextlib.suppress(OSError):
        socket.sethostname("sandbox")
    _hide_uptime()
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        at_end()
        os._exit(0 if status == 0 else 1)
    jail.prctl(jail.PR_SET_PDEATHSIG, signal.SIGKILL)


def _map_from_outside(flags: int) -> None:
    """Unshare, and let a helper outside write the maps, which mapping two users requires."""
    target = os.getpid()
    read_end, write_end = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(write_end)
        os.read(read_end, 1)
        users = f"0 0 1\n{INSIDE_UID} {OUTSIDE_UID} 1\n"
        try:
            _write(f"/proc/{target}/uid_map", users)
            _write(f"/proc/{target}/gid_map", users)
        except OSError:
            os._exit(1)
        os._exit(0)
    os.close(read_end)
    jail.unshare(flags)
    os.close(write_end)
    if os.waitpid(helper, 0)[1] != 0:
        raise OSError("cannot map the users of the namespace")


def _hide_uptime() -> None:
    """Let the clocks that tell how long the machine has been up begin at 0, if the kernel has time namespaces (5.6)."""
    with contextlib.suppress(OSError):
        jail.unshare(CLONE_NEWTIME)
        clocks = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}
        offsets = (f"{name} {-int(time.clock_gettime(clock))} 0\n" for name, clock in clocks.items())
        _write("/proc/self/timens_offsets", "".join(offsets))


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def site_folders() -> list[str]:
    """Return the folders with installed packages, which are hidden except for the requested packages."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    for base in (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "/usr/lib/python3"):
        folders |= {os.path.join(base, name) for name in ("site-packages", "dist-packages")}
    folders.add(site.getusersitepackages())
    return sorted(folder for folder in folders if os.path.isdir(folder))


def library_folders() -> list[str]:
    """Return the folders of the standard library and of shared libraries."""
    triplet = sysconfig.get_config_var("MULTIARCH") or "none"
    system = [f"/usr/lib/{triplet}", f"/lib/{triplet}"] if os.path.isdir(f"/usr/lib/{triplet}") else ["/usr/lib"]
    found = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *system, "/usr/lib64", "/lib64"]
    own = os.path.join(sys.base_prefix, "lib")
    if not own.startswith("/usr/lib"):
        found += [entry.path for entry in os.scandir(own) if ".so" in entry.name] if os.path.isdir(own) else []
    return sorted({path for path in found if os.path.exists(path)}, key=lambda path: (path.count("/"), path))


def package_paths(names: list[str]) -> list[str]:
    """Return the folder or file of each installed package among `names`, and of its bundled libraries.

    Absolute paths among `names` are returned as they are.
    """
    found = [name for name in names if os.path.isabs(name)]
    for name in dict.fromkeys(name.partition(".")[0] for name in names if not os.path.isabs(name)):
        spec = importlib.machinery.PathFinder.find_spec(name)
        if spec is None or not spec.origin:
            continue
        place = os.path.dirname(spec.origin) if spec.submodule_search_locations else spec.origin
        if any(place.startswith(folder + os.sep) for folder in site_folders()):
            found += [path for path in (place, place + ".libs") if os.path.exists(path)]
    return list(dict.fromkeys(found))


def readable_paths(names: list[str]) -> list[str]:
    """Return the paths that a child without its own root may read under Landlock.

    Folders with installed packages are excluded; their siblings are listed individually.
    """
    hidden = set(site_folders())
    found = package_paths(names)
    for folder in library_folders():
        if any(other.startswith(folder + os.sep) for other in hidden) and os.path.isdir(folder):
            found += [entry.path for entry in os.scandir(folder) if entry.path not in hidden]
        elif folder not in hidden:
            found.append(folder)
    return found


def build_root(names: list[str], place: str = PLACE) -> None:
    """Replace the root of this mount namespace by one with read-only libraries and nothing else of the host.

    Raises:
        OSError: A mount failed.
    """
    packages, libraries, hidden = package_paths(names), library_folders(), site_folders()
    jail.mount("", "/", "", MS_REC | MS_PRIVATE)
    jail.mount("tmpfs", place, "tmpfs", jail.MS_NOSUID | jail.MS_NODEV, "mode=755")
    for path in libraries:
        _bind(path, place + path)
    for path in hidden:
        if os.path.isdir(place + path):
            jail.mount("tmpfs", place + path, "tmpfs", jail.MS_NOSUID | jail.MS_NODEV, "mode=755")
    for path in packages:
        _bind(path, place + path)
    for name in ("/lib", "/lib64", "/usr/lib64"):
        if os.path.islink(name) and not os.path.lexists(place + name):
            os.makedirs(os.path.dirname(place + name), exist_ok=True)
            os.symlink(os.readlink(name), place + name)
    os.makedirs(place + SCRATCH)
    if not os.path.lexists(place + "/tmp"):  # It exists if libraries are below it.
        os.symlink(SCRATCH, place + "/tmp")
    os.chdir(place)
    jail.check(jail.libc.syscall(SYS_PIVOT_ROOT, b".", b"."), "pivot_root")
    jail.check(jail.libc.umount2(b".", MNT_DETACH), "umount the host's root")
    os.chdir("/")
    _make_read_only("/")


def _bind(source: str, target: str) -> None:
    real = os.path.realpath(source)
    if os.path.isdir(real):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "a"):
            pass
    jail.mount(real, target, "", MS_BIND | MS_REC)
    _make_read_only(target)


def _make_read_only(path: str) -> None:
    """Make a mount and everything below it read-only, without devices and set-uid programs."""
    attributes = struct.pack("QQQQ", MS_RDONLY | jail.MS_NOSUID | jail.MS_NODEV, 0, 0, 0)
    arguments = (AT_FDCWD, path.encode(), AT_RECURSIVE, attributes, len(attributes))
    if jail.libc.syscall(SYS_MOUNT_SETATTR, *arguments) == 0:
        return
    kept = os.statvfs(path).f_flag & (jail.MS_NOEXEC | 0xC00)  # Flags locked by the host: noexec, noatime.
    flags = MS_REMOUNT | MS_BIND | MS_RDONLY | jail.MS_NOSUID | jail.MS_NODEV | kept
    with contextlib.suppress(FileNotFoundError):
        jail.mount("", path, "", flags)
