"""Files that are written whole or not at all, JSON lines, and the versions of installed packages."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agents.core.errors import RunError, expect


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all, even if the process is killed meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with naming(path):
        partial.write_text(text, encoding="utf-8", errors="replace")
        os.replace(partial, path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an error that lacks it, as that of a write to a full disk does."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` to ``path``, whole or not at all; a value that JSON lacks, such as a path, becomes text."""
    write_text(path, json.dumps(data, indent=2, default=str) + "\n")


def json_line(row: Mapping[str, Any]) -> str:
    r"""Return a row of a JSON lines file.

    >>> json_line({"step": 1})
    '{"step": 1}\n'
    """
    return json.dumps(row) + "\n"


def append_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to a file, which is made if it is missing."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.writelines(map(json_line, rows))


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows to a file, whole or not at all."""
    write_text(path, "".join(map(json_line, rows)))


def read_json_lines(
    path: Path,
    *,
    expected: str = "a JSON object",
    is_row: Callable[[dict[str, Any]], bool] = lambda row: True,
    complete: bool = False,
) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of a JSON lines file, and how many bytes their lines have.

    Args:
        path: The file.
        expected: What a row is, for the error message.
        is_row: Tells whether a JSON object is one.
        complete: Take a last line without a line break, too. By default it is dropped: a process was killed while it
            wrote the line.

    Raises:
        RunError: A line is not what is expected.
    """
    data = path.read_bytes()
    if complete and data and not data.endswith(b"\n"):
        data += b"\n"
    size = data.rfind(b"\n") + 1
    rows = []
    for number, line in enumerate(data[:size].split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not is_row(row):
            raise RunError(f"{path}, line {number}: Expect {expected}, got {line[:40]!r}.")
        rows.append(row)
    return rows, size


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of a ``metrics.jsonl``, each with its ``step``; none if there is no such file.

    Raises:
        RunError: A line is not a row.
    """
    if not path.exists():
        return []
    return read_json_lines(path, expected="a row with a step", is_row=lambda row: isinstance(row.get("step"), int))[0]


def drop_rows(path: Path, *, keep_before: int) -> None:
    """Drop the rows of a JSON lines file from the step ``keep_before`` on; an unfinished last line goes, too."""
    write_json_lines(path, [row for row in read_metrics(path) if row["step"] < keep_before] if keep_before else [])


def expect_writable(path: Path) -> None:
    """Refuse an ``output`` that cannot be written, before what it is to hold is computed.

    Raises:
        ConfigError: Its folder cannot be made or written to.
    """
    place = next(folder for folder in path.parents if folder.exists())
    expect(place.is_dir() and os.access(place, os.W_OK), "output", f"where {path} can be made", str(place))


def expect_new(path: Path) -> None:
    """Reject a file that exists.

    Raises:
        RunError: It is there already.
    """
    if path.exists():
        raise RunError(f"Expect a new file to write to, but {path} is there: choose another --output.")


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
