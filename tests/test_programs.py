"""The programs beside the packages run the clone's `agents`, whatever else is installed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

FOLDERS = ("benchmarks", "examples", "experiments")
PROGRAMS = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).glob("*.py"))
    if re.search(r"^from agents\b", text := path.read_text(), re.MULTILINE) and "__main__" in text
]
IMPORT_ALL = """
import runpy, sys
from pathlib import Path

root, *programs = sys.argv[1:]
path = sys.path[1:]
for program in programs:
    sys.path[:] = [str(Path(program).parent), *path]  # as `python PROGRAM` does
    for name in [name for name in sys.modules if name.partition(".")[0] == "agents"]:
        del sys.modules[name]
    runpy.run_path(program, run_name="imported")
    print(Path(sys.modules["agents"].__file__).parents[1] == Path(root), program)
"""


@pytest.mark.slow
def test_another_package_called_agents_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("raise ImportError('This is another package.')")
    programs = [str(program) for program in PROGRAMS]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(ROOT), *programs],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        timeout=240,
        check=False,
    )
    assert done.stdout.splitlines() == [f"True {program}" for program in programs], done.stderr
    assert len(programs) >= 10
