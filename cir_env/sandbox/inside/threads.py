"""Tells a block why a thread did not start: Python's error is the same for too many threads and too little memory."""

import _thread
import functools
import threading
from collections.abc import Callable
from typing import Any

PYTHON_SAYS = "can't start new thread"

limit = 0
"""Number of threads that may run at once."""


def explain_failures() -> None:
    """Let `threading` raise errors that give the reason."""
    for name in ("_start_new_thread", "_start_joinable_thread"):  # The latter since Python 3.13.
        if (start := getattr(threading, name, None)) is not None:
            setattr(threading, name, _explaining(start))


def is_over_limit(error: BaseException) -> bool | None:
    """Return whether an error means too many threads (True) or too little memory for one (False); None for neither.

    >>> is_over_limit(RuntimeError(f"{PYTHON_SAYS}: the code ran over 64 threads")), is_over_limit(ValueError())
    (True, None)
    """
    text = str(error.args[0]) if type(error) is RuntimeError and error.args else ""
    return "threads" in text if text.startswith(PYTHON_SAYS) else None


def _explaining(start: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(start)
    def explaining(*args: Any, **options: Any) -> Any:
        try:
            return start(*args, **options)
        except RuntimeError as error:
            if error.args == (PYTHON_SAYS,):
                is_full = _thread._count() + 1 >= limit
                why = f"the code ran over {limit} threads" if is_full else "the code has too little memory left"
                error.args = (f"{PYTHON_SAYS}: {why}",)
            raise

    return explaining
