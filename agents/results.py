"""The commands of ``evaluate.py`` that read runs which are done: compare two, or report on any number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from agents.comparison import compare, comparison_as_json
from agents.errors import ConfigError, expect
from agents.report import comparison, report, write_json
from agents.runs import SUMMARY, find_runs, read_run
from agents.summary import summarise
from agents.training_runs import is_training_run


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare two finished runs on the same problems."""

    runs: tyro.conf.Positional[tuple[Path, Path]]
    """Their folders: what the second gains over the first, and how long its samples are beside the first's."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Put shards together and show runs that are done; with --output, also as a page, as training runs are."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or folders that hold such; or output folders of training runs, with --output."""
    output: Path | None = None
    """Write an HTML page too: figures, charts and every transcript, in one file."""
    k: tuple[int, ...] = ()
    """Show pass@k for these k; none: for the number of samples."""

    def __post_init__(self) -> None:
        expect(len(self.runs) > 0, "runs", "to name at least one folder", self.runs)


Command = Compare | Report


def execute(command: Command) -> None:
    """Do what was asked for, and print what came of it.

    Raises:
        ConfigError: Training runs are reported on without a page or beside evaluations, or no set has ``k`` samples.
        SamplesError, UnfinishedRunError: A folder holds no whole run.
        ComparisonError: The runs are not on the same problems.
        ReportError: The page cannot be made.
    """
    if isinstance(command, Compare):
        one, other = map(read_run, command.runs)
        print(comparison(comparison_as_json(one, other, compare(one, other))))
    elif any(map(is_training_run, command.runs)):
        _report_on_training(command)
    else:
        folders = dict.fromkeys(folder for path in command.runs for folder in find_runs(path))
        report_on_evaluations(list(folders), k=command.k, page=command.output)


def report_on_evaluations(folders: Sequence[Path], *, k: Sequence[int] = (), page: Path | None = None) -> None:
    """Print the tables of whole runs, write each one's summary, and the page if there is to be one."""
    runs = [read_run(folder) for folder in folders]
    summaries = [summarise(run) for run in runs]
    print("\n" + report(summaries, k=k) + "\n")
    try:
        for folder, summary in zip(folders, summaries, strict=True):
            write_json(folder / SUMMARY, summary)
            print(f"Run: {folder}")
    finally:  # the page does not need a run's folder to be one that can be written to
        if page is not None:
            from agents.html import report_evaluations

            report_evaluations(runs, summaries, page)
            print(f"Page: {page}")


def _report_on_training(command: Report) -> None:
    if command.output is None or not all(map(is_training_run, command.runs)):
        raise ConfigError("Expect `output`, and training runs alone, to report on one: add --output report.html.")
    from agents.html import report_training

    report_training(list(dict.fromkeys(command.runs)), command.output)
    print(f"Page: {command.output}")
