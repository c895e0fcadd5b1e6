"""Reads rows from files (JSON Lines, JSON, CSV, Parquet) and from the hub, each with its place for error messages."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cir_env.errors import ProblemError
from cir_env.problems.rows import BadRowError, TextRow, check_unicode, decode_row, first_line

_BATCH: Final = 10_000
"""How many rows of a table to convert at once."""
_MAX_CELL: Final = 2**31 - 1

PlacedRow = tuple[str, Any]
"""Where a row is, such as ``mine.jsonl, line 3``; and the row, or the error of one that cannot be decoded."""


def read_rows(path: Path) -> Iterator[PlacedRow]:
    """Return the rows of a file in the format of its suffix.

    Raises:
        ProblemError: It has another suffix than `READERS`, or cannot be read as a whole.
    """
    if path.suffix not in READERS:
        raise ProblemError(f"Expect a {SUFFIXES} file, got {str(path)!r}.")
    return READERS[path.suffix](path)


def _jsonl(path: Path) -> Iterator[PlacedRow]:
    return _lines(path, _read_bytes(path))


def _lines(path: Path, data: bytes) -> Iterator[PlacedRow]:
    lines = data.split(b"\n")
    return ((f"{path}, line {n}", decode_row(line)) for n, line in enumerate(lines, 1) if line.strip())


def _json(path: Path) -> Iterator[PlacedRow]:
    """Read an array of objects; a file that begins with an object is JSON Lines, as many on the hub are."""
    data = _read_bytes(path)
    if not data.lstrip().startswith(b"["):
        return _lines(path, data)
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"Expect a JSON array of objects, got {str(path)!r}: {first_line(error)}.") from None
    is_escaped = b"\\u" in data
    return ((f"{path}, row {n}", check_unicode(row) if is_escaped else row) for n, row in enumerate(rows, 1))


def _csv(path: Path) -> Iterator[PlacedRow]:
    """Read a table with commas, whose first line has the names of the fields; blank rows are ignored."""
    data = _read_bytes(path)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ProblemError(f"{path}, line {line}: Expect UTF-8, got {error.reason}.") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    limit = csv.field_size_limit(_MAX_CELL)
    try:
        header, *rows = [(reader.line_num, cells) for cells in reader] or [(0, [])]
    except csv.Error as error:
        raise ProblemError(f"{path}, line {reader.line_num}: Expect CSV, got {first_line(error)}.") from None
    finally:
        csv.field_size_limit(limit)
    return _cells(path, header, rows)


def _cells(path: Path, header: tuple[int, list[str]], rows: Iterable[tuple[int, list[str]]]) -> Iterator[PlacedRow]:
    end, names = header
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ProblemError(f"{path}, line {end}: Expect distinct names of fields, got {twice!r} twice.")
    for last, cells in rows:
        place, end = f"{path}, line {end + 1}", last
        if len(cells) == len(names) and any(map(str.strip, cells)):
            yield place, TextRow(zip(names, cells, strict=True))
        elif any(map(str.strip, cells)):
            yield place, BadRowError(f"Expect {len(names)} cells, as the first line has, got {len(cells)}.")


def _parquet(path: Path) -> Iterator[PlacedRow]:
    try:
        import pyarrow  # type: ignore[import-not-found, import-untyped, unused-ignore]
        import pyarrow.parquet  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise ProblemError(f'Reading {str(path)!r} needs pyarrow: pip install -e ".[parquet]".') from None
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(_read_bytes(path)))
    except pyarrow.ArrowException as error:
        raise ProblemError(f"Expect a Parquet file, got {str(path)!r}: {first_line(error)}") from None
    return ((f"{path}, row {n}", row) for n, row in enumerate(_rows_of(table.to_batches(max_chunksize=_BATCH)), 1))


def hub_rows(name: str, *, split: str, config: str | None = None, revision: str | None = None) -> Iterator[PlacedRow]:
    """Return the rows of a data set on the Hugging Face hub.

    Raises:
        ProblemError: The library is missing, or the data set cannot be loaded.
    """
    try:
        import datasets  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise ProblemError(f'Loading {name!r} needs the library datasets: pip install -e ".[hub]".') from None
    try:
        table = datasets.load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # the library has no common base class
        raise ProblemError(
            f"Expect the hub to have split {split!r} of {name!r}, and to be reachable; "
            f"got {type(error).__name__}: {first_line(error)}"
        ) from None
    batches = table.with_format("arrow").iter(_BATCH)  # five times as fast as row by row
    return ((f"{name}, row {n}", row) for n, row in enumerate(_rows_of(batches), 1))


def _rows_of(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the rows of Arrow tables, so that a large data set is never in memory as Python objects at once."""
    for batch in batches:
        yield from batch.to_pylist()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ProblemError(f"Expect a readable file, got {str(path)!r}: {error.strerror}.") from None


READERS: Final[Mapping[str, Callable[[Path], Iterator[PlacedRow]]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
"""The readers of files by suffix."""
SUFFIXES: Final = f"{', '.join(list(READERS)[:-1])} or {list(READERS)[-1]}"
"""The suffixes in words."""
