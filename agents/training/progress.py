"""The progress bar of a run, in the first process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import count
from types import TracebackType
from typing import Self

from tqdm import tqdm

from agents.core import distributed
from agents.core.types import Trajectory

_REFRESH_S = 0.3
_SHOWN = {"reward": "reward", "accuracy": "accuracy", "tools/use_ratio": "code", "tokens_per_second": "tok/s"}


class Progress:
    """Shows whole steps, the time left, and what is being sampled.

    Args:
        total: Steps of the whole run.
        done: Steps that are done already.
    """

    def __init__(self, total: int, done: int) -> None:
        # the time left is by the mean of all steps of this process, validations between them included
        hidden = distributed.rank() > 0
        self._bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, smoothing=0, disable=hidden)

    def begin(self) -> None:
        """Start the clock: what came before the first step does not count."""
        self._bar.unpause()

    def counter(self, what: str) -> Callable[[Trajectory], None]:
        """Return a callback that shows how many episodes have ended, a few times a second at most."""
        numbers, shown = count(1), 0.0

        def show(_: Trajectory) -> None:
            nonlocal shown
            now = time.monotonic()
            is_due = now - shown > _REFRESH_S
            self._bar.set_description(f"{what} {next(numbers)}", refresh=is_due)
            if is_due:
                shown = now

        return show

    def end_step(self, metrics: Mapping[str, float]) -> None:
        """Count a whole step and show its metrics."""
        self._bar.update()
        self._bar.set_postfix_str(
            ", ".join(f"{label} {metrics[key]:.3g}" for key, label in _SHOWN.items() if key in metrics)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
