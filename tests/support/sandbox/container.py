"""Runs a command under the system calls that Docker's default seccomp profile denies to a process without capabilities.

    python tests/support/sandbox/container.py [--allow unshare,mount] COMMAND ...

It denies those that the sandbox could use or has to fear, not all: the profile itself is a list of what is allowed.
x86-64 only.
"""

import argparse
import ctypes
import os
import struct

from cir_env.sandbox.inside.seccomp import ALLOW, ARGS, ENOSYS, EQUAL, LOAD, NR, RETURN, SET, Code, deny

DENIED = {
    **{"unshare": 272, "setns": 308, "chroot": 161, "pivot_root": 155, "mount": 165, "umount2": 166},
    **{"open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "mount_setattr": 442},
    **{"bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "io_uring_enter": 426},
    **{"add_key": 248, "request_key": 249, "keyctl": 250, "quotactl": 179, "syslog": 103, "kcmp": 312},
}
CLONE, CLONE3, PERSONALITY = 56, 435, 135
NEW_NAMESPACES = 0x7E020000
PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Those that may be set or asked for: without fixed addresses."""


def profile(allowed: list[str]) -> Code:
    """Return the filter."""
    code: Code = [(LOAD, 0, 0, NR)]
    for name, number in DENIED.items():
        if name not in allowed:
            code += [(EQUAL, 0, 1, number), *deny()]
    code += [(EQUAL, 0, 1, CLONE3), *deny(ENOSYS)]  # its flags are in memory: libc falls back to clone
    code += [(EQUAL, 0, 4, CLONE), (LOAD, 0, 0, ARGS), (SET, 0, 1, NEW_NAMESPACES), *deny(), (RETURN, 0, 0, ALLOW)]
    code += [(EQUAL, 0, len(PERSONALITIES) + 2, PERSONALITY), (LOAD, 0, 0, ARGS)]
    code += [
        (EQUAL, left, 0, value) for left, value in zip(range(len(PERSONALITIES), 0, -1), PERSONALITIES, strict=True)
    ]
    return [*code, *deny(), (RETURN, 0, 0, ALLOW)]


def main() -> None:
    """Install the filter, and become the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--allow", default="", help="calls that are allowed in spite of the profile")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    instructions = profile(options.allow.split(","))
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((38, 1, 0), (22, 2, struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(buffer)))):
        if libc.prctl(*arguments, 0, 0):  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP
            raise OSError(ctypes.get_errno(), "prctl")
    os.execv(options.command[0], options.command)


if __name__ == "__main__":
    main()
