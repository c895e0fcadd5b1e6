"""`Output`, the file in memory that holds what a child prints."""

import ctypes
import mmap
import os

from cir_env.sandbox import wire

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
KEEP_SIZE_PUNCH_HOLE = 3
_LOG_TEXT = wire.LOG_OFFSET + wire.LOG_HEADER_BYTES


class Output:
    """What a child prints; see `wire.LOG_OFFSET`.

    The child can write anything to any place of this file, cut it or leave holes. So it is read, not mapped (access
    beyond its end would end this process), once the block has ended, and never beyond a limit.
    """

    def __init__(self, limit: int) -> None:
        unshared = os.memfd_create("output", os.MFD_CLOEXEC)
        try:  # Opened by name, unlike at its creation, a file's offset is safe from concurrent writes.
            self.fd = os.open(f"/proc/self/fd/{unshared}", os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.close(unshared)
        self._capacity = self._allocated = 0
        self.make_room(limit)

    def make_room(self, limit: int) -> None:
        """Let the log hold `limit` bytes and one more; a child that fills it ends."""
        needed = wire.LOG_HEADER_BYTES + limit + 1
        if needed > self._capacity:
            os.ftruncate(self.fd, wire.LOG_OFFSET + needed)
            self._capacity = needed

    def clear(self) -> None:
        """Discard what was printed, after `read`."""
        os.lseek(self.fd, 0, os.SEEK_SET)
        if self._allocated <= mmap.PAGESIZE:
            os.pwrite(self.fd, bytes(self._allocated), wire.LOG_OFFSET)  # Faster than to free and fault in the page.
        else:  # Truncation would end a child that is still printing.
            _libc.fallocate(self.fd, KEEP_SIZE_PUNCH_HOLE, 0, wire.LOG_OFFSET + self._capacity)

    def surely_exceeds(self, limit: int) -> bool:
        """Return whether more than `limit` bytes were printed, as far as can be told without reading them."""
        return self._direct_bytes() > limit or os.pread(self.fd, 1, _LOG_TEXT + limit) > b"\0"

    def read(self, limit: int) -> bytes:
        """Return the first `limit` bytes that were printed."""
        self._allocated = os.fstat(self.fd).st_blocks * 512
        limit = min(limit, self._allocated)
        taken, end = wire.read_log_header(os.pread(self.fd, wire.LOG_HEADER_BYTES, wire.LOG_OFFSET))
        log = self._read(min(limit, end - wire.LOG_HEADER_BYTES) if end else limit, _LOG_TEXT)
        if not end:  # The child was killed. What it did not write to is zero.
            log = log.rstrip(b"\0")
        direct = self._direct_bytes()
        taken = min(taken, direct)
        return log + self._read(min(limit - len(log), direct - taken), taken)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)

    def _direct_bytes(self) -> int:
        return min(os.lseek(self.fd, 0, os.SEEK_CUR), wire.LOG_OFFSET)

    def _read(self, size: int, offset: int) -> bytes:
        return os.pread(self.fd, size, offset) if size > 0 else b""
