"""stdout and stderr of a block, in memory that the supervisor shares.

What a block printed must reach the policy however the block ends, and a system call per `print` would make printing
several times slower. So both streams write, unbuffered, to one log: a mapping of the file behind descriptors 1 and 2.
It outlives the process, and holds the text of both streams in the order in which it was written.

What is written to a descriptor directly (`os.write`, C libraries) goes to the same file, behind the log. It gets its
exact place in the log if Python's streams are flushed before, as with ordinary buffered streams.
"""

import contextlib
import io
import mmap
import os
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from cir_env.sandbox import wire

Write = Callable[[Any], int]


class Log:
    """The text of both streams of a child."""

    def __init__(self) -> None:
        self._fd = os.dup(1)  # A block may redirect descriptor 1.
        self._memory = mmap.mmap(self._fd, 0)
        self._memory.seek(wire.LOG_HEADER_BYTES)
        self._end = wire.LOG_HEADER_BYTES
        self._job = self._taken = 0
        self._lock = threading.RLock()
        self._buffers: tuple[io.BufferedWriter, ...] = ()
        self._write = self._make_write()
        self._write_after_flush: Write = self._take_direct_and_write
        os.register_at_fork(after_in_parent=self.flush, after_in_child=self._bypass)

    @property
    def capacity(self) -> int:
        """Size of the mapping in bytes."""
        return len(self._memory)

    def begin(self, capacity: int, job: int) -> tuple[io.TextIOWrapper, io.TextIOWrapper]:
        """Empty the log; return fresh streams, so that a block cannot affect the streams of the next.

        Args:
            capacity: Size of the log in bytes, with its header.
            job: Mark of the job, for the header.
        """
        late = self._memory.tell()  # The supervisor has cleared the log only up to where the last block ended.
        self._memory[self._end : late] = bytes(late - self._end)
        if capacity != self.capacity:
            self._memory.resize(capacity)
        os.lseek(self._fd, capacity, os.SEEK_SET)
        self._memory.seek(wire.LOG_HEADER_BYTES)
        self._job, self._taken = job, 0
        self._write_header(0)
        self._buffers = self._open_buffer(), self._open_buffer()
        self.flush()
        out, err = (io.TextIOWrapper(b, "utf-8", "backslashreplace", write_through=True) for b in self._buffers)
        return out, err

    def end(self) -> None:
        """Record how much the block printed."""
        self._end = self._memory.tell()
        self._write_header(self._end)

    def is_empty(self) -> bool:
        """Return whether nothing was printed."""
        return self._memory.tell() == wire.LOG_HEADER_BYTES and self._direct_bytes() == 0

    def flush(self) -> None:
        """Let the next write first take what was written to a descriptor directly until then."""
        for buffer in self._buffers:
            vars(buffer)["write"] = self._write_after_flush

    def _open_buffer(self) -> io.BufferedWriter:
        """Return the binary layer of a stream, which writes to the log instead of a buffer of its own."""
        buffer: io.BufferedWriter = io.BufferedWriter(io.FileIO(1, "wb", closefd=False), 1)
        # Attributes rather than a subclass: the text layer, at each write, asks a subclass through Python's attributes
        # whether it is closed.
        vars(buffer).update(flush=self.flush, seekable=lambda: False, truncate=_reject_truncation)
        return buffer

    def _make_write(self) -> Write:
        put = self._memory.write

        def write(data: Any, /) -> int:
            try:
                return put(data)
            except ValueError:  # The log is full.
                self._overflow(data)

        return write

    def _take_direct_and_write(self, data: Any, /) -> int:
        for buffer in self._buffers:
            vars(buffer)["write"] = self._write
        with self._lock, contextlib.suppress(OSError):
            begin, self._taken = self._taken, self._direct_bytes()
            if self._taken > begin:
                self._write(os.pread(self._fd, min(self._taken - begin, self.capacity), self.capacity + begin))
                self._write_header(0)
        return self._write(data)

    def _overflow(self, data: Any) -> NoReturn:
        """Write what fits, and end the process: the output limit is exceeded."""
        with contextlib.suppress(ValueError):  # if another thread has filled the log
            self._memory.write(memoryview(data).cast("B")[: self.capacity - self._memory.tell()])
        os._exit(0)

    def _bypass(self) -> None:
        """Write to descriptor 1 in a forked child, whose position in the log is its own."""
        self._write_after_flush = lambda data: os.write(1, data)
        self.flush()

    def _write_header(self, end: int) -> None:
        self._memory[: wire.LOG_HEADER_BYTES] = wire.LogHeader(self._job, self._taken, end).pack()

    def _direct_bytes(self) -> int:
        try:
            return os.lseek(self._fd, 0, os.SEEK_CUR) - self.capacity
        except OSError:  # The block has closed the descriptor.
            return self._taken


def _reject_truncation(size: int | None = None, /) -> NoReturn:
    raise io.UnsupportedOperation("truncate")
