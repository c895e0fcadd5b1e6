"""A log that whoever reaches the server cannot fill."""

import logging
import time
import traceback

PERIOD_S = 60.0


class OncePerMinute(logging.Filter):
    """Passes one record per kind and minute, as one line. Records of a kind share their logger and message format."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record, and shorten it to one line."""
        kind, now = (record.name, str(record.msg).partition("\n")[0]), time.monotonic()
        if now - self._passed.get(kind, -PERIOD_S) < PERIOD_S:
            return False
        self._passed[kind] = now
        text = record.getMessage().partition("\n")[0]
        if record.exc_info and (error := record.exc_info[1]) is not None:
            where = traceback.extract_tb(error.__traceback__)[-1:]
            text += f": {type(error).__name__}: {error}" + "".join(f" ({at.filename}:{at.lineno})" for at in where)
        record.msg, record.args = " ".join(text.split())[:500], None
        record.exc_info = record.exc_text = record.stack_info = None
        return True
