"""The console scripts `cir-train` and `cir-evaluate`: train.py and evaluate.py of the installed checkout."""

import importlib
import sys
from pathlib import Path


def train() -> int:
    """Run train.py; return its exit code."""
    return _run("train")


def evaluate() -> int:
    """Run evaluate.py; return its exit code."""
    return _run("evaluate")


def _run(program: str) -> int:
    folder = Path(__file__).parent
    if not (folder / f"{program}.py").is_file():
        raise SystemExit(
            f"cir-{program}: Expect a clone of the repository that was installed by `pip install -e '.[train]'`, "
            "got the environment alone."
        )
    sys.path.insert(0, str(folder))  # other distributions have modules named `agents` and `evaluate`, too
    code: int = importlib.import_module(program).main(sys.argv[1:])
    return code
