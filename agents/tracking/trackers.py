"""Records the metrics of a run in ``metrics.jsonl`` and in the trackers named by ``report_to``."""

from __future__ import annotations

import importlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from agents.core.distributed import rank
from agents.core.errors import ConfigError, ServiceError, one_line
from agents.core.files import append_json_lines, drop_rows, write_text
from agents.core.plugins import is_plugin, load_plugin

if TYPE_CHECKING:
    from types import TracebackType

    from agents.config.training import RunArguments

PROJECT = "cir-env"
"""Default project of a tracker's runs; WANDB_PROJECT and TRACKIO_PROJECT override it."""


class Tracker(Protocol):
    """The common interface of wandb's and trackio's runs."""

    def log(self, data: dict[str, Any], step: int) -> object:
        """Record the metrics of a step."""

    def finish(self) -> None:
        """Flush and close the run."""


class TensorBoard:
    """A tracker that writes TensorBoard event files to ``folder/tensorboard``."""

    def __init__(self, folder: Path, config: Mapping[str, Any], *, keep_before: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(folder / "tensorboard", purge_step=keep_before or None)
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```", keep_before)

    def log(self, data: dict[str, Any], step: int) -> None:
        """Write scalars."""
        for name, value in data.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        self._writer.close()


def check_installed(names: Iterable[str]) -> None:
    """Check that the trackers' libraries are installed, without importing them.

    Raises:
        ConfigError: A library is missing; the message has the command that installs it.
    """
    for name in names:
        if not is_plugin(name, "trackers") and find_spec(name) is None:
            raise ConfigError(f"Expect the library {name} for --report-to {name}, got none: pip install {name}.")


def open_tracker(name: str, folder: Path, config: Mapping[str, Any], *, run_id: str, keep_before: int) -> Tracker:
    """Start a tracker's run, or resume the one with this ``run_id``.

    Args:
        name: "tensorboard", "wandb" or "trackio".
        folder: The run's output folder.
        config: The run's configuration, JSON-serializable.
        run_id: Identifies the run across resumes.
        keep_before: First step whose earlier TensorBoard events are dropped; 0 for a new run.

    Raises:
        ServiceError: The tracker does not start, for example without a login or a network.
    """
    if name == "tensorboard":
        return TensorBoard(folder, config, keep_before=keep_before)
    if is_plugin(name, "trackers"):
        opened: Tracker = load_plugin("report_to", name, "trackers")(folder, config, run_id=run_id)
        return opened
    own = {"wandb": {"id": run_id, "dir": folder, "allow_val_change": True}}.get(name, {})
    project = os.environ.get(f"{name.upper()}_PROJECT", PROJECT)
    try:
        library = importlib.import_module(name)
        run: Tracker = library.init(
            project=project, name=f"{folder.resolve().name}-{run_id}", config=dict(config), resume="allow", **own
        )
    except Exception as error:  # each library has classes of its own
        raise ServiceError(
            f"Expect {name} to start a run, got: {one_line(error)}. Remove it from --report-to to train without it."
        ) from error
    return run


class MetricsLog:
    """Appends metrics to ``metrics.jsonl`` and passes them to trackers; a tracker that fails is dropped.

    Args:
        folder: Output folder; created if missing.
        keep_before: Rows from this step on are dropped, so that a resumed run has each step once.
        report_to: Names of the trackers.
        config: The run's configuration for the trackers, JSON-serializable.
        warn: Receives a line when a tracker fails.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_before: int,
        report_to: Iterable[str] = (),
        config: Mapping[str, Any] | None = None,
        warn: Callable[[str], Any] = print,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        drop_rows(self._path, keep_before=keep_before)
        self._warn = warn
        self._trackers: dict[str, Tracker] = {}
        run_id = _run_id(folder / "run_id", resumed=keep_before > 0)
        try:
            for name in dict.fromkeys(report_to):
                opened = open_tracker(name, folder, config or {}, run_id=run_id, keep_before=keep_before)
                self._trackers[name] = opened
        except BaseException:
            self.close()
            raise

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row; a step may have several."""
        append_json_lines(self._path, [{"step": step, **metrics}])
        self._with_each(lambda tracker: tracker.log(dict(metrics), step=step))

    def close(self) -> None:
        """Finish the trackers' runs."""
        self._with_each(lambda tracker: tracker.finish())

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _with_each(self, do: Callable[[Tracker], object]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                do(tracker)
            except Exception as error:  # a broken network must not end training
                del self._trackers[name]
                self._warn(
                    f"Warning: {name} failed and gets no more metrics; metrics.jsonl has them all: {one_line(error)}."
                )


def open_log(
    config: RunArguments, done: int, *, warn: Callable[[str], Any]
) -> AbstractContextManager[MetricsLog | None]:
    """Open the log of a run, which the first process keeps; a resumed run writes its steps again.

    Args:
        config: The run.
        done: Whole steps so far.
        warn: Takes a line when a tracker fails.

    Raises:
        ServiceError: A tracker does not start.
    """
    if rank() > 0:
        return nullcontext()
    return MetricsLog(
        config.output_dir,
        keep_before=done + 1 if done else 0,
        report_to=config.report_to,
        config=json.loads(json.dumps(asdict(config), default=str)),
        warn=warn,
    )


def _run_id(path: Path, *, resumed: bool) -> str:
    """Return the run's id for trackers; a resumed run keeps its id."""
    if not (resumed and path.exists()):
        write_text(path, secrets.token_hex(4))
    return path.read_text()
