"""The commands of ``evaluate.py``: their arguments, and those commands that need no model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro

from agents.config.evaluation import EvalConfig, protocols
from agents.config.files import first_paragraph, parse_with_files
from agents.core.errors import ConfigError, RunError, expect
from agents.core.files import expect_new, write_json, write_json_lines
from agents.evaluation.comparison import compare, comparison_as_json
from agents.evaluation.lm_eval import read_lm_eval, read_plain
from agents.evaluation.metrics import summarise
from agents.evaluation.regrade import ReadAnswer, Submit, in_words, read_rows, regrade
from agents.evaluation.run_folder import SUMMARY, find_runs, read_run
from agents.evaluation.tables import comparison, report
from agents.tracking.history import is_training_run


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare two finished runs on the same problems."""

    runs: tyro.conf.Positional[tuple[Path, Path]]
    """Their folders: what the second gains over the first, and how long its samples are beside the first's."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Put shards together and show runs that are done; with --output or --watch as a page, as training runs are."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or folders that hold such; or output folders of training runs, as a page."""
    output: Path | None = None
    """Also write an HTML page: metrics, charts and every transcript, in one file."""
    watch: bool = False
    """Serve the page on this machine instead, also of runs in progress, and refresh it until Ctrl-C."""
    port: int = 0
    """Port for --watch; 0: a free one."""
    k: tuple[int, ...] = ()
    """Show pass@k for these k; none: for the number of samples."""

    def __post_init__(self) -> None:
        expect(len(self.runs) > 0, "runs", "to name at least one folder", self.runs)


@dataclass(frozen=True, kw_only=True)
class Regrade:
    """Judge stored samples again with today's grader, without a model."""

    samples: tyro.conf.Positional[Path]
    """JSONL of samples, as evaluate.py or the command import writes it."""
    answer_type: str = "math"
    """How answers are compared."""
    output: Path | None = None
    """The new samples; None: beside the old ones, with "regraded-" before the name."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Turn other programs' transcripts into samples, which regrade can judge."""

    file: tyro.conf.Positional[Path]
    """A samples_*.jsonl of lm-evaluation-harness, or JSONL with a statement, a right answer and a text in each row."""
    format: Literal["lm-eval", "jsonl"] = "lm-eval"
    """Which of the two."""
    problem: str = "problem"
    """JSONL: the field with the statement."""
    answer: str = "answer"
    """JSONL: the field with the right answer."""
    completion: str = "completion"
    """JSONL: the field with what a model wrote, or with a list of such texts."""
    output: Path | None = None
    """The samples; None: beside the file, with "imported-" before the name."""


RunsCommand = Compare | Report
SamplesCommand = Regrade | Import
Command = EvalConfig | RunsCommand | SamplesCommand
_WITHOUT_A_MODEL = {made.__name__.lower(): made for made in (Compare, Report, Regrade, Import)}


def parse(args: Sequence[str], description: str) -> Command:
    """Return what the arguments of the program ask for; without a command the first protocol is meant.

    What cannot be read is told on stderr, and ends the program with code 2.
    """
    commands: list[Any] = [
        Annotated[EvalConfig, tyro.conf.subcommand(name, default=make(tyro.MISSING), description=first_paragraph(make))]
        for name, make in protocols.items()
    ]
    commands += [Annotated[made, tyro.conf.subcommand(name)] for name, made in _WITHOUT_A_MODEL.items()]
    union: Any = Union[tuple(commands)]  # noqa: UP007

    def read(args: list[str]) -> Command:
        config = (tyro.conf.OmitSubcommandPrefixes,)
        parsed: Command = tyro.cli(union, prog="evaluate.py", description=description, args=args, config=config)
        return parsed

    try:
        return parse_with_files(args, read, config=EvalConfig, commands=tuple(protocols), name="protocol")
    except ConfigError as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def execute_on_runs(command: RunsCommand) -> None:
    """Execute the command, and print its result.

    Raises:
        ConfigError: Training runs are reported on without a page or beside evaluations, or no set has ``k`` samples.
        RunError: A folder holds no whole run, the runs are not on the same problems, or the page cannot be made.
    """
    if isinstance(command, Compare):
        one, other = map(read_run, command.runs)
        print(comparison(comparison_as_json(one, other, compare(one, other))))
    elif command.watch:
        _watch(command)
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
            from agents.report import report_evaluations

            report_evaluations(runs, summaries, page)
            print(f"Page: {page}")


def _report_on_training(command: Report) -> None:
    if command.output is None or not all(map(is_training_run, command.runs)):
        raise ConfigError(
            "A training run is shown as a page, without evaluations: add --output report.html or --watch."
        )
    from agents.report import report_training

    report_training(list(dict.fromkeys(command.runs)), command.output)
    print(f"Page: {command.output}")


def _watch(command: Report) -> None:
    expect(command.output is None, "output", "unset beside --watch", command.output)
    from agents.report.watch import WatchServer

    with WatchServer(list(dict.fromkeys(command.runs)), command.port) as server, suppress(KeyboardInterrupt):
        print(f"Page: http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()


def execute_on_samples(command: SamplesCommand, *, submit: Submit, read_answer: ReadAnswer, version: str) -> None:
    """Execute the command, and print its result.

    Args:
        command: What to do.
        submit: Judges an answer, as for :func:`agents.evaluation.regrade.regrade`.
        read_answer: Finds the answer, as for it.
        version: Of the grader.

    Raises:
        RunError: A file is not what is expected, or one that is to be written is there.
    """
    path = command.file if isinstance(command, Import) else command.samples
    if not path.is_file():
        raise RunError(f"Expect a file, got {path}, which is none.")
    if isinstance(command, Regrade):
        output = command.output or command.samples.with_name(f"regraded-{command.samples.name}")
        rows = read_rows(command.samples)
        expect_new(output)
        regrading = regrade(rows, submit, read_answer, answer_type=command.answer_type)
        print(f"Grader {version}. {in_words(regrading)}\n")
        write_json_lines(output, regrading.rows)
        print(f"Samples: {output}")
    else:
        output = command.output or command.file.with_name(f"imported-{command.file.name}")
        expect_new(output)
        if command.format == "lm-eval":
            rows = read_lm_eval(command.file, read_answer)
        else:
            fields = {name: getattr(command, name) for name in ("problem", "answer", "completion")}
            rows = read_plain(command.file, **fields)
        if not rows:
            raise RunError(f"Expect at least one text of a model in {command.file}, got none.")
        write_json_lines(output, rows)
        print(f"Samples: {output}, {len(rows)} of them. Judge them: python evaluate.py regrade {output}")
