"""Count the files and functions behind one training step, or behind one evaluation: what a reader has to follow.

$ python benchmarks/road.py                a step of the tiny preset, after the first one
$ python benchmarks/road.py evaluation     an evaluation of the tiny model, from the command line to the tables
$ python benchmarks/road.py --list         every file with its functions

A function counts if it runs, in whatever thread of this process; comprehensions and lambdas belong to the function that
they stand in. What is only imported does not count, nor do the sandbox's and the grader's own processes.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import tyro

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("agents", "cir_env")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to count."""

    what: tyro.conf.Positional[Literal["step", "evaluation"]] = "step"
    """A training step, or an evaluation."""
    list: bool = False
    """Print each file with its functions."""


class Road:
    """The functions of our packages that run between :meth:`begin` and the end of it, by file."""

    def __init__(self) -> None:
        self.functions: dict[str, set[str]] = {}
        self._is_on = False

    @contextmanager
    def profiling(self) -> Iterator[None]:
        """Profile every thread that is started from here on, and this one."""
        threading.setprofile(self._take)
        sys.setprofile(self._take)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what runs meanwhile."""
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False

    def _take(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if not self._is_on or event != "call" or not code.co_flags & inspect.CO_OPTIMIZED:  # a class body is none
            return
        path = Path(code.co_filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PACKAGES:
            named = [part for part in code.co_qualname.split(".") if not part.startswith("<")]
            self.functions.setdefault(str(path.relative_to(ROOT)), set()).add(".".join(named) or "<module>")


def follow_step(folder: Path) -> Road:
    """Return what the second training step of the tiny preset runs."""
    from agents import Trainer, presets

    base = presets["tiny"]()
    config = replace(
        base,
        warm_up_steps=1,
        max_steps=3,
        output_dir=folder / "run",
        rollout=replace(base.rollout, num_problems=2, num_generations=4),
        validation=replace(base.validation, every=0, num_problems=2),
    )
    road = Road()
    with road.profiling(), closing(Trainer(config, log=lambda _: None)) as trainer:
        step = trainer._train_step

        def followed(*arguments: Any) -> bool:
            with road.counting() if trainer.step == 1 else contextlib.nullcontext():
                return step(*arguments)

        trainer._train_step = followed  # type: ignore[method-assign]
        trainer.train()
    return road


def follow_evaluation(folder: Path) -> Road:
    """Return what an evaluation of the tiny model runs."""
    import evaluate

    lengths = ["--max-completion-length", "48", "--max-model-len", "256", "--num-problems", "2", "--num-samples", "2"]
    road = Road()
    with road.profiling(), road.counting(), contextlib.redirect_stdout(io.StringIO()):
        code = evaluate.main(["--model", "tiny", *lengths, "--output", str(folder / "evaluation")])
    if code != 0:
        raise RuntimeError(f"Expect the evaluation to end with 0, got {code}.")
    return road


def main(config: Config) -> None:
    """Print the counts."""
    with tempfile.TemporaryDirectory() as folder:
        follow = follow_step if config.what == "step" else follow_evaluation
        functions = follow(Path(folder)).functions
    for package in PACKAGES:
        files = {path: names for path, names in functions.items() if path.startswith(f"{package}/")}
        print(f"{package}: {len(files)} files, {sum(map(len, files.values()))} functions")
    print(f"in all: {len(functions)} files, {sum(map(len, functions.values()))} functions")
    if config.list:
        for path, names in sorted(functions.items()):
            print(f"{path}: {', '.join(sorted(names))}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(tyro.cli(Config, description=__doc__))
