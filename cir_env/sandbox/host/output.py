"""`Output`, the file in memory that holds what a child prints."""

import ctypes
import mmap
import os

from cir_env.sandbox import wire

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
KEEP_SIZE_PUNCH_HOLE = 3


class Output:
    """What a child prints; see `wire.log_bytes`.

    The child can write anything to any place of this file, cut it or leave holes. So it is read, not mapped (access
    beyond its end would end this process), once the block has ended, and never beyond a limit.
    """

    def __init__(self, limit: int) -> None:
        unshared = os.memfd_create("output", os.MFD_CLOEXEC)
        try:  # Opened by name, unlike at its creation, a file's offset is safe from concurrent writes.
            self.fd = os.open(f"/proc/self/fd/{unshared}", os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.close(unshared)
        self.log_bytes = self._allocated = 0
        self.resize(limit)

    def resize(self, limit: int) -> None:
        """Let the log hold `limit` bytes, up to a page more; a child that fills it ends."""
        needed = wire.log_bytes(limit)
        if needed != self.log_bytes:
            self.log_bytes = needed
            self._drop_direct()

    def clear(self) -> None:
        """Discard what was printed, after `read`."""
        self._drop_direct()
        if self._allocated <= mmap.PAGESIZE:
            os.pwrite(self.fd, bytes(self._allocated), 0)  # Faster than to free and fault in the page.
        else:  # Truncation would end a child that is still printing.
            _libc.fallocate(self.fd, KEEP_SIZE_PUNCH_HOLE, 0, self.log_bytes)

    def read(self, limit: int) -> bytes:
        """Return the first `limit` bytes that were printed."""
        self._allocated = os.fstat(self.fd).st_blocks * 512
        limit = min(limit, self._allocated)
        _, taken, end = self.header()
        room = self.log_bytes - wire.LOG_HEADER_BYTES
        log = self._read(min(limit, room, end - wire.LOG_HEADER_BYTES if end else room), wire.LOG_HEADER_BYTES)
        if not end:  # The child was killed. What it did not write to is zero.
            log = log.rstrip(b"\0")
        direct = self.direct_bytes()
        taken = min(taken, direct)
        return log + self._read(min(limit - len(log), direct - taken), self.log_bytes + taken)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)

    def header(self) -> wire.LogHeader:
        """Return the header of the log."""
        return wire.LogHeader.unpack(self._read(wire.LOG_HEADER_BYTES, 0))

    def surely_exceeds(self, limit: int) -> bool:
        """Return whether more than `limit` bytes were written to the descriptors directly.

        Unlike the offset, which writing threads may hold, the size is known at once.
        """
        return os.fstat(self.fd).st_size > self.log_bytes + limit

    def direct_bytes(self) -> int:
        """Return how many bytes were written to the descriptors directly."""
        return max(0, os.lseek(self.fd, 0, os.SEEK_CUR) - self.log_bytes)

    def _drop_direct(self) -> None:
        if os.lseek(self.fd, 0, os.SEEK_CUR) != self.log_bytes:
            os.ftruncate(self.fd, self.log_bytes)
            os.lseek(self.fd, self.log_bytes, os.SEEK_SET)

    def _read(self, size: int, offset: int) -> bytes:
        return os.pread(self.fd, size, offset) if size > 0 else b""
