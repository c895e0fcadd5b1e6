"""Describes how a block failed, for the policy: the last line of the traceback, and what blocks may not do."""

import contextlib
import errno
import linecache
import re
import socket
import sys
import traceback
import types
from collections.abc import Sequence
from typing import Any

from cir_env.sandbox import wire
from cir_env.sandbox.inside import streams, threads

BLOCK_NAME = "<block>"
MAX_ERROR_CHARS = 2000

NO_PROCESSES = "blocks cannot start processes"
NO_MULTIPROCESSING = "blocks cannot use multiprocessing"
NO_NETWORK = "blocks have no network"
NO_INPUT = "blocks have no input"

packages: tuple[str, ...] | None = None
"""The packages that blocks can import; None if nothing is forbidden, so that there is nothing to explain."""

_STARTS_PROCESS = re.compile(r"(?:\w+\.)*(?:fork|forkpty|_?exec[lv]p?e?|_spawnvef|posix_spawnp?)\s*\(")


def importable(preload: Sequence[str]) -> tuple[str, ...]:
    """Return the packages among preloaded modules, without the standard library and what is not installed."""
    tops = dict.fromkeys(name.partition(".")[0] for name in preload)
    return tuple(top for top in tops if top in sys.modules and top not in sys.stdlib_module_names)


def exit_outcome(stop: SystemExit, err: Any) -> tuple[int, str, str]:
    """Handle `exit(...)` as the interpreter does."""
    if stop.code is None or stop.code == 0:
        return wire.OK, "", ""
    if not isinstance(stop.code, int):
        with contextlib.suppress(Exception):
            print(stop.code, file=err)
    return wire.ERROR, last_line(stop), ""


def last_line(error: BaseException) -> str:
    """Return the last line of the error's traceback."""
    try:
        lines = traceback.format_exception_only(type(error), error)
        shown = [line for text in lines for line in _clip(text).splitlines() if line.strip()]
        return (shown[-1].strip() if shown else type(error).__name__) + _reason_in_brackets(error)
    except BaseException:
        return type(error).__name__


def whole_traceback(error: BaseException) -> str:
    """Return the traceback without frames of the sandbox; '' if it cannot be formatted."""
    try:
        text = "".join(traceback.format_exception(type(error), error, _block_frames(error)))
        return _clip(text.rstrip()) + _reason_in_brackets(error)
    except BaseException:
        return ""


def _reason_in_brackets(error: BaseException) -> str:
    try:
        reason = "" if packages is None else _reason(error, packages)
    except BaseException:  # A block may raise an object that cannot be inspected.
        return ""
    return reason and f" ({reason})"


def _reason(error: BaseException, packages: tuple[str, ...]) -> str:  # noqa: PLR0911
    """Return why an error was inevitable in a block; "" if it was not, or if that is not certain."""
    if isinstance(error, ModuleNotFoundError):
        name = error.name or ""
        known = "." in name or name in packages or name in sys.stdlib_module_names
        return "" if known or not name else f"blocks can import {', '.join(['the standard library', *packages])}"
    if isinstance(error, EOFError):
        return NO_INPUT if error.args == ("EOF when reading a line",) else ""
    if not isinstance(error, OSError):
        return ""
    if isinstance(cause := getattr(error, "reason", None), OSError):  # urllib.error.URLError
        return _reason(cause, packages)
    if isinstance(error, socket.gaierror):
        return NO_NETWORK
    module, call = _failed_call(error)
    if error.errno == errno.EPERM:
        if module == "socket":
            return NO_NETWORK
        is_start = module == "subprocess" or module.startswith("multiprocessing.") or _STARTS_PROCESS.match(call)
        return NO_PROCESSES if is_start else ""
    # Semaphores and shared memory are files in a folder that blocks do not have.
    is_shared = module in ("multiprocessing.synchronize", "multiprocessing.shared_memory")
    return NO_MULTIPROCESSING if is_shared and error.errno in (errno.ENOENT, errno.EACCES) else ""


def _failed_call(error: BaseException) -> tuple[str, str]:
    """Return the module and the expression that raised an error; without source, the name of the function."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return "", ""
    code = last.tb_frame.f_code
    line, end_line, begin, end = list(code.co_positions())[last.tb_lasti // 2]
    text = linecache.getline(code.co_filename, line or 0).encode()[begin : end if end_line == line else None]
    return str(last.tb_frame.f_globals.get("__name__")), text.decode("utf-8", "replace") or f"{code.co_name}("


def _block_frames(error: BaseException) -> types.TracebackType | None:
    first = error.__traceback__
    while first is not None and not first.tb_frame.f_code.co_filename.startswith(BLOCK_NAME[:-1]):
        first = first.tb_next
    last = first
    while last is not None and last.tb_next is not None:
        if last.tb_next.tb_frame.f_code.co_filename in (streams.__file__, threads.__file__):
            last.tb_next = None
        last = last.tb_next
    return first


def _clip(text: str) -> str:
    return text if len(text) <= MAX_ERROR_CHARS else text[:1000] + " ... " + text[-995:]
