"""The protocol between supervisor, zygote and child: fixed frames, no pickles. Both sides import this file.

A child reads jobs from a packet socket and writes one status packet per job. The status repeats the nonce of the job,
so that a packet written by generated code is not mistaken for one of the runner. What a block prints goes to a file in
memory, the child's descriptors 1 and 2: see `log_bytes`. (Code shares a process with its runner
and can, with effort, find the nonce. It can then misreport how its own block ended, as it could by printing something
else; it can neither report an infrastructure error nor reach another block.)
"""

import mmap
import os
import socket
import struct
from collections.abc import Mapping
from typing import NamedTuple

CHUNK_BYTES = 32 * 1024
STATUS_BYTES = 32 * 1024
TEXT_BYTES = 15 * 1024
NONCE_BYTES = 16

READY = b"ready"
"""First packet of a child, sent before it reads any code; any other text is the reason why it cannot run code."""

OK, ERROR, MEMORY, FILES, THREADS = KINDS = range(5)
"""The statuses that a runner can report."""

ONE_SHOT = 1
"""Flag of a job: it is the last one of the child."""

_LOG_HEADER = struct.Struct("=QQQ")
LOG_HEADER_BYTES = _LOG_HEADER.size

_JOB = struct.Struct("!16sIIIIIIIB")
_FILE = struct.Struct("!HI")
_STATUS = struct.Struct("!16sBH")
_SPAWN = struct.Struct("!I?16s")
_REPORT = struct.Struct("!cIid")


class Job(NamedTuple):
    """Header of a job; the code and the files (`pack_files`) follow in packets of at most `CHUNK_BYTES`."""

    nonce: bytes
    code_bytes: int
    files_bytes: int
    cpu_s: int
    memory_mb: int
    file_mb: int
    processes: int
    log_bytes: int
    flags: int

    def pack(self) -> bytes:
        """Encode the header."""
        return _JOB.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> "Job":
        """Decode a header."""
        return cls(*_JOB.unpack(data))


class Spawn(NamedTuple):
    """Order to the zygote to fork a child; the two descriptors of the child are attached."""

    worker: int
    """Number of the child, for the reports."""
    warm_up: bool
    """Whether the child has time to warm up."""
    folder: str
    """Name of its working directory, where children have no scratch file system of their own; up to 16 characters."""

    def pack(self) -> bytes:
        """Encode the order."""
        return _SPAWN.pack(self.worker, self.warm_up, self.folder.encode())

    @classmethod
    def unpack(cls, data: bytes) -> "Spawn":
        """Decode an order."""
        worker, warm_up, folder = _SPAWN.unpack(data)
        return cls(worker, warm_up, folder.rstrip(b"\0").decode())


class Report(NamedTuple):
    """Message of the zygote to the supervisor about a child."""

    kind: bytes
    """b"S": forked (its pidfd is attached); b"F": fork failed; b"X": exited."""
    worker: int
    """Number of the child."""
    code: int
    """The wait status (X) or the errno (F)."""
    cpu_s: float
    """Total CPU time of the child in seconds (X)."""

    def pack(self) -> bytes:
        """Encode the report."""
        return _REPORT.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> "Report":
        """Decode a report."""
        return cls(*_REPORT.unpack(data))


def pack_status(nonce: bytes, kind: int, error: str = "", trace: str = "") -> bytes:
    r"""Encode a status packet; only the end of a long traceback is kept.

    >>> read_status(pack_status(b"n" * 16, ERROR, "ValueError: x", "Traceback\nValueError: x"), b"n" * 16)
    (1, 'ValueError: x', 'Traceback\nValueError: x')
    """
    line = error.encode("utf-8", "replace")[-TEXT_BYTES:]
    return _STATUS.pack(nonce, kind, len(line)) + line + trace.encode("utf-8", "replace")[-TEXT_BYTES:]


def read_status(packet: bytes, nonce: bytes) -> tuple[int, str, str] | None:
    """Decode a status packet to (kind, last line of the error, traceback); None if it is not from the runner.

    >>> read_status(b"anything else", b"n" * 16) is None
    True
    """
    if len(packet) < _STATUS.size:
        return None
    received_nonce, kind, length = _STATUS.unpack_from(packet)
    if received_nonce != nonce or kind not in KINDS:
        return None
    line, trace = packet[_STATUS.size :][:length], packet[_STATUS.size + length :]
    return kind, " ".join(line.decode("utf-8", "replace").splitlines()), trace.decode("utf-8", "replace")


def pack_files(files: Mapping[str, bytes]) -> bytes:
    """Encode files; b"" for none.

    >>> read_files(pack_files({"data.csv": b"1,2", "empty": b""}))
    {'data.csv': b'1,2', 'empty': b''}
    """
    names = [(name.encode(), data) for name, data in files.items()]
    return b"".join(part for name, data in names for part in (_FILE.pack(len(name), len(data)), name, data))


def read_files(data: bytes) -> dict[str, bytes]:
    """Decode files."""
    files, begin = {}, 0
    while begin < len(data):
        name_bytes, size = _FILE.unpack_from(data, begin)
        begin += _FILE.size
        name = data[begin : begin + name_bytes].decode()
        begin += name_bytes
        files[name] = data[begin : begin + size]
        begin += size
    return files


def write_files(data: bytes, folder: str = ".") -> None:
    """Write encoded files to the working directory of a block, read-only. The block may replace its copies."""
    for name, content in read_files(data).items():
        place = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with open(place, "wb") as file:
            file.write(content)
            os.fchmod(place, 0o444)


def log_bytes(limit: int) -> int:
    """Return the size of the log for an output limit in bytes.

    The output file begins with the log: a header, and the text of Python's streams. Behind it is what was written to
    the descriptors directly; their common offset tells how much that is. The log is no larger than needed: the pages of
    this file do not count towards the child's memory limit.

    >>> log_bytes(1024 * 1024)
    1052672
    """
    return -(-(LOG_HEADER_BYTES + limit + 1) // mmap.PAGESIZE) * mmap.PAGESIZE


class LogHeader(NamedTuple):
    """Header of the log."""

    job: int = 0
    """`job_mark` of the job that has begun; 0 before the first."""
    taken: int = 0
    """How many of the bytes written to the descriptors directly were copied into the log."""
    end: int = 0
    """Where the log ends, counted from its header; 0 while the block runs."""

    def pack(self) -> bytes:
        """Encode the header."""
        return _LOG_HEADER.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> "LogHeader":
        """Decode a header; all is 0 if it is cut.

        >>> LogHeader.unpack(LogHeader(1, 2, 3).pack())
        LogHeader(job=1, taken=2, end=3)
        """
        return cls(*_LOG_HEADER.unpack(data)) if len(data) == LOG_HEADER_BYTES else cls()


def job_mark(nonce: bytes) -> int:
    """Return a number that tells jobs apart."""
    return int.from_bytes(nonce[:8], "big") | 1


def receive_job(sock: socket.socket) -> tuple[Job, bytes, bytes] | None:
    """Read the next job, its code and its files, in the child; None if the supervisor has closed the socket."""
    head = sock.recv(_JOB.size)
    if not head:
        return None
    job = Job.unpack(head)
    payload = bytearray()
    while len(payload) < job.code_bytes + job.files_bytes:
        piece = sock.recv(CHUNK_BYTES)
        if not piece:
            return None
        payload += piece
    return job, bytes(payload[: job.code_bytes]), bytes(payload[job.code_bytes :])
