"""The bytes between supervisor, zygote and child: fixed frames, no pickles. Both sides import this file.

A child reads jobs from, and writes one status packet per job to, a socket of packets. The nonce of a job
comes back in its status, so that a packet which generated code wrote to that descriptor is not mistaken for
one of the runner's. (Code shares a process with its runner and can, with effort, find the nonce: it can then
misstate how its own block ended, as it could by printing something else. It cannot claim a fault of ours,
nor reach another block.)
"""

import socket
import struct
from typing import NamedTuple

CHUNK_BYTES = 32 * 1024
STATUS_BYTES = 32 * 1024
TEXT_BYTES = 15 * 1024
NONCE_BYTES = 16

READY = b"ready"
"""A child's first packet, sent before it reads any code; anything else is the reason why it cannot run any."""

OK, ERROR, MEMORY, FILES, THREADS = KINDS = range(5)
"""What a runner can report."""

ONE_SHOT = 1
"""Flag of a job: no other follows it."""

_JOB = struct.Struct("!16sIIIIIB")
_STATUS = struct.Struct("!16sBH")
_SPAWN = struct.Struct("!I?")
_REPORT = struct.Struct("!cIid")


class Job(NamedTuple):
    """The header of a job; the code follows in packets of at most `CHUNK_BYTES`."""

    nonce: bytes
    code_bytes: int
    cpu_s: int
    memory_mb: int
    file_mb: int
    processes: int
    flags: int

    def pack(self) -> bytes:
        """Return the header's bytes."""
        return _JOB.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> "Job":
        """Read a header."""
        return cls(*_JOB.unpack(data))


class Report(NamedTuple):
    """What the zygote tells the supervisor about a child."""

    kind: bytes
    """b"S" forked (with its pidfd), b"F" could not fork, b"X" exited."""
    worker: int
    code: int
    """The wait status (X) or the errno (F)."""
    cpu_s: float
    """CPU time of the child's whole life (X)."""

    def pack(self) -> bytes:
        """Return the report's bytes."""
        return _REPORT.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> "Report":
        """Read a report."""
        return cls(*_REPORT.unpack(data))


def pack_status(nonce: bytes, kind: int, error: str = "", trace: str = "") -> bytes:
    r"""Return a status packet; a long traceback keeps its end.

    >>> read_status(pack_status(b"n" * 16, ERROR, "ValueError: x", "Traceback\nValueError: x"), b"n" * 16)
    (1, 'ValueError: x', 'Traceback\nValueError: x')
    """
    line = error.encode("utf-8", "replace")[-TEXT_BYTES:]
    return _STATUS.pack(nonce, kind, len(line)) + line + trace.encode("utf-8", "replace")[-TEXT_BYTES:]


def read_status(packet: bytes, nonce: bytes) -> tuple[int, str, str] | None:
    """Return (kind, last line of the error, traceback), or None if the packet is not the runner's.

    >>> read_status(b"anything else", b"n" * 16) is None
    True
    """
    if len(packet) < _STATUS.size:
        return None
    came, kind, length = _STATUS.unpack_from(packet)
    if came != nonce or kind not in KINDS:
        return None
    texts = packet[_STATUS.size :]
    return kind, texts[:length].decode("utf-8", "replace"), texts[length:].decode("utf-8", "replace")


def pack_spawn(worker: int, *, rehearse: bool) -> bytes:
    """Return the order to fork a child, which has time to rehearse or not; its two descriptors travel beside it."""
    return _SPAWN.pack(worker, rehearse)


def read_spawn(data: bytes) -> tuple[int, bool]:
    """Return the number of the child to fork, and whether it has time to rehearse."""
    worker, rehearse = _SPAWN.unpack(data)
    return int(worker), bool(rehearse)


def receive_job(sock: socket.socket) -> tuple[Job, bytes] | None:
    """Read the next job and its code in the child; None when the supervisor has hung up."""
    head = sock.recv(_JOB.size)
    if not head:
        return None
    job = Job.unpack(head)
    code = bytearray()
    while len(code) < job.code_bytes:
        piece = sock.recv(CHUNK_BYTES)
        if not piece:
            return None
        code += piece
    return job, bytes(code)
