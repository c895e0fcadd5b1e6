"""What a run tells its user, kept in ``log.txt`` of its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOG = "log.txt"


class RunLog:
    """Passes lines on, and appends them with their time to a file; a full disk does not end the run.

    Args:
        log: Takes the lines; None: the first process has the log, and this is another one.
    """

    def __init__(self, log: Callable[[str], Any] | None) -> None:
        self._log = log
        self._path: Path | None = None
        self._early: list[str] = []  # before the folder was known

    def open(self, folder: Path) -> None:
        """Keep the lines so far, and all that follow, in a folder."""
        self._path = folder / LOG
        self._append("".join(self._early))

    def __call__(self, line: str) -> None:
        """Pass a line on, and keep it."""
        if self._log is not None:
            self._log(line)
            self.note(line)

    def note(self, line: str) -> None:
        """Keep a line without passing it on."""
        if self._log is None:
            return
        text = f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n"
        if self._path is None:
            self._early.append(text)
        else:
            self._append(text)

    @contextmanager
    def noting_errors(self) -> Iterator[None]:
        """Keep the error that ends a block; the caller reports it."""
        try:
            yield
        except BaseException as error:
            self.note(f"{type(error).__name__}: {error}")
            raise

    def _append(self, text: str) -> None:
        if self._path is not None:
            with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
                file.write(text)
