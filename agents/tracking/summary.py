"""What a run says once it has ended: accuracy before and after, how long it took, and how to see more."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from agents.core.programs import shell_command
from agents.core.tables import percent, score_interval
from agents.tracking.callbacks import Callback, Run
from agents.tracking.history import ARMS, load_training_run

if TYPE_CHECKING:
    from agents.core.types import Trajectory


class ClosingSummary(Callback):
    """Logs the outcome of a run that has done all its steps; the clock starts when it is constructed."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._sizes: dict[str, int] = {}  # valid episodes of the last validation, by set or arm

    def on_validation(
        self, run: Run, metrics: Mapping[str, float], trajectories: Mapping[str, Sequence[Trajectory]]
    ) -> None:
        """Note how many problems stand behind each accuracy."""
        self._sizes = {arm: sum(each.reward_valid for each in played) for arm, played in trajectories.items()}

    def on_train_end(self, run: Run) -> None:
        """Log the summary, unless the run was asked to stop before its last step."""
        if run.step < run.config.max_steps:
            return
        folder = run.config.output_dir
        if self._sizes:
            history = load_training_run(folder)
            for arm, size in self._sizes.items():
                before, after = (_with_interval(share, size) for share in history.before_after(f"{arm}/accuracy"))
                run.log(f"Held-out accuracy, {ARMS.get(arm, arm)}, %: {before} -> {after} (problems: {size})")
        run.log(f"Time: {tqdm.format_interval(time.perf_counter() - self._begin)}, warm-up included.")
        page = shell_command("evaluate", ["report", folder, "--output", f"{folder}.html"])
        run.log(f"Curves and transcripts: {page}")


def _with_interval(share: float | None, size: int) -> str:
    if share is None or not size:
        return "-"
    low, high = score_interval(share, size)
    return percent({"value": share, "low": low, "high": high})
