import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.core.errors import RunError
from agents.core.files import append_json_lines, drop_rows, read_json_lines, read_metrics, write_json, write_json_lines


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "summary.json"
    write_json(path, {"a": path})
    assert json.loads(path.read_text()) == {"a": str(path)}
    with pytest.raises(TypeError):
        write_json(path, {("no", "key"): 1})
    assert json.loads(path.read_text()) == {"a": str(path)}
    assert [each.name for each in path.parent.iterdir()] == ["summary.json"]


def test_a_full_disk_is_reported_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    (tmp_path / ".metrics.jsonl.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"\[Errno 28\] No space left on device: '{path}'"):
        write_json(path, {"a": 1})
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"\[Errno 28\] No space left on device: '{path}'"):
        append_json_lines(path, [{"a": 1}])


def test_rows_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"

    def killed() -> Iterator[dict[str, Any]]:
        yield {"step": 0}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_json_lines(path, killed())
    assert not path.exists()
    write_json_lines(path, [{"step": 0}])
    assert read_json_lines(path) == ([{"step": 0}], path.stat().st_size)


def test_a_last_line_without_a_line_break_is_dropped_unless_the_file_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')
    assert read_json_lines(path) == ([{"step": 1}], 12)
    assert read_json_lines(path, complete=True)[0] == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("line", ["[1]", "{", '{"reward": 1}', ""])
def test_a_line_of_metrics_that_is_no_row_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(RunError, match=r"metrics.jsonl, line 2: Expect a row with a step, got "):
        read_metrics(path)


def test_rows_from_a_step_on_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_json_lines(path, [{"step": step} for step in (0, 1, 1, 2)])
    drop_rows(path, keep_before=2)
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 1]
