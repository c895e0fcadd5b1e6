"""Handmade samples and runs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agents_fakes import trajectory
from fakes import fakes, make

from agents.core.samples import Sample, transcript
from agents.core.types import Turn
from agents.evaluation.run_folder import Run
from agents.rollout.envs import EnvPool, ThreadedPool


def row(right: bool | None = True, *, blocks: Sequence[str] = (), **changes: Any) -> Sample:
    """A sample that is right, wrong, or (None) invalid, with blocks that ended in these statuses."""
    turns = [Turn(text="code", feedback="out", finish_reason="boundary", info={"execution_status": s}) for s in blocks]
    predicted = None if right is None else "6" if right else "7"
    last = Turn(text="text", feedback="", finish_reason="stop", info={"predicted": predicted, "answer": "6"})
    made = transcript(
        trajectory(
            turns=(*turns, last),
            reward=0.0 if right is None else 1.0 if right else -1.0,
            reward_valid=right is not None,
            terminated=right is not None,
            truncated=right is None,
        ),
        set_name="set",
    )
    made["interactions"] = len(blocks)
    return made | changes  # type: ignore[return-value]


def outcomes(*problems: Sequence[bool | None]) -> list[list[Sample]]:
    """Samples of problems, given by their outcomes."""
    return [[row(right) for right in problem] for problem in problems]


def run_of(*, name: str = "A", **sets: Sequence[Sequence[Sample]]) -> Run:
    """A complete run; set, problem index and number of its samples are filled in."""
    samples = {
        set_name: tuple(
            tuple(
                each | {"set": set_name, "problem_index": problem, "sample": number}  # type: ignore[misc]
                for number, each in enumerate(rows)
            )
            for problem, rows in enumerate(problems)
        )
        for set_name, problems in sets.items()
    }
    sizes = {key: {"problems": len(rows), "num_samples": len(rows[0])} for key, rows in samples.items()}
    about = {"model": {"name": name, "revision": "r"}, "arm": "code", "sets": sizes}
    return Run(folder=Path(name), about=about, samples=samples)


def open_fakes(**fake: Any) -> Callable[..., EnvPool]:
    """Opens environments that start no process."""
    fake = fake or fakes()

    def open_envs(num_envs: int, **arguments: Any) -> EnvPool:
        return ThreadedPool(lambda: make(**(fake | arguments | {"sandbox": fake["sandbox"]})), num_envs)

    return open_envs
