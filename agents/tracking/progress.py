"""What a run shows in the terminal while it goes, in the first process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from agents.core import distributed
from agents.core.tables import short

_SHOWN = {
    "accuracy": "accuracy",
    "reward": "reward",
    "loss": "loss",
    "tools/use_ratio": "code",
    "tokens_per_second": "tok/s",
}
_BAR = "{desc} {n_fmt}/{total_fmt} {bar:6} {elapsed}<{remaining}{postfix}"


def open_bar(
    desc: str = "", *, total: int | None = None, done: int = 0, hidden: bool = False, **more: Any
) -> tqdm[Any]:
    """Open a progress bar that leaves most of 80 columns to figures; it is hidden where there is no terminal."""
    more |= {"bar_format": _BAR, "dynamic_ncols": True, "disable": hidden or None}
    return tqdm(desc=desc, total=total, initial=done, **more)


class Progress:
    """Shows whole steps with the time left, and below them what the run is doing; without a terminal, a line per step.

    Args:
        total: Steps of the whole run.
        done: Steps that are done already.
        log: Takes the lines where there is no terminal.
    """

    def __init__(self, total: int, done: int, *, log: Callable[[str], Any]) -> None:
        hidden = distributed.rank() > 0
        self._log = log
        # the time left is by the mean of all steps of this process, validations between them included
        self._steps = open_bar("step", total=total, done=done, hidden=hidden, smoothing=0)
        self._phase = open_bar(hidden=hidden, position=1, leave=False)
        self._done = done  # the bar does not count where it is hidden
        self._begin = time.perf_counter()

    def begin(self) -> None:
        """Start the clock: what came before the first step does not count."""
        self._steps.unpause()

    def phase(self, name: str, total: int) -> Callable[[object], None]:
        """Show what begins now; return what is called with each of its ``total`` parts that has ended."""
        self._phase.set_description_str(name, refresh=False)
        self._phase.reset(total)
        self._phase.refresh()

        def advance(_: object) -> None:
            self._phase.update()

        return advance

    def end_step(self, metrics: Mapping[str, float]) -> None:
        """Count a whole step and show its metrics."""
        shown = ", ".join(f"{label} {short(metrics[key])}" for key, label in _SHOWN.items() if key in metrics)
        self._steps.set_postfix_str(shown, refresh=False)
        self._steps.update()
        self._done += 1
        if self._steps.disable and distributed.rank() == 0:
            spent = tqdm.format_interval(time.perf_counter() - self._begin)
            self._log(f"Step {self._done} of {self._steps.total} after {spent}: {shown}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phase.close()
        self._steps.close()
