"""The commands of ``evaluate.py``: their arguments, and those commands that need no model."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro

from agents.config.evaluation import ARMS_IN_WORDS, EvalConfig, protocols
from agents.config.files import first_paragraph, parse_one, parse_with_files
from agents.core.errors import ConfigError, RunError, expect
from agents.core.files import expect_new, write_json, write_json_lines
from agents.core.programs import shell_command
from agents.engines.chat_api import take_key
from agents.evaluation.comparison import compare, comparison_as_json
from agents.evaluation.imported import write_imported, write_regraded
from agents.evaluation.lm_eval import Find, read_lm_eval, read_plain
from agents.evaluation.metrics import summarise
from agents.evaluation.regrade import ReadAnswer, Submit, in_words, read_rows, regrade
from agents.evaluation.run_folder import SUMMARY, find_runs, read_run
from agents.evaluation.tables import comparison, report
from agents.evaluation.training_runs import compare_training, report_on_training
from agents.sft.select import FindBlock, read_all, select
from agents.tracking.history import is_training_run


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare two finished runs on the same problems, or two training runs."""

    runs: tyro.conf.Positional[tuple[Path, Path]]
    """Their folders: what the second gains over the first, and how long its samples are beside the first's."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Show runs that are done, or training runs; with --output or --watch, also as a page."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or folders that hold such; or output folders of training runs."""
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
    """Folder of a run, as evaluate.py or the command import writes it, or JSONL of samples."""
    answer_type: str = "math"
    """How answers are compared."""
    output: Path | None = None
    """The new folder or file; None: beside the old one, with "regraded-" before the name."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Turn other programs' transcripts into a run, which regrade judges, and report and compare show."""

    file: tyro.conf.Positional[Path]
    """A samples_*.jsonl of lm-evaluation-harness, or JSONL with a statement, a right answer and a text in each row."""
    format: Literal["lm-eval", "jsonl"] = "lm-eval"
    """Which of the two."""
    problem: str = "problem"
    """JSONL: the field with the statement, or with messages; a nested one by its path, such as task.prompt."""
    answer: str = "answer"
    """JSONL: the field with the right answer."""
    completion: str = "completion"
    """JSONL: the field with what a model wrote, with a list of such texts, or with messages."""
    name: str | None = None
    """Of the model, for tables; None: that of the file."""
    output: Path | None = None
    """The run's folder, or a .jsonl for the samples alone; None: beside the file, with "imported-" before the name."""


@dataclass(frozen=True, kw_only=True)
class Select:
    """Choose right and different samples for train.py sft, those with more successful executions first."""

    samples: tyro.conf.Positional[tuple[Path, ...]]
    """Sample files, or folders of runs."""
    output: Path
    """The new file."""
    max_per_problem: int = 4
    """Samples of a problem that are kept."""
    min_calls: int = 1
    """Executions without an error that a sample must have."""
    repaired_only: bool = False
    """Keep only samples in which a block ran after another had failed."""

    def __post_init__(self) -> None:
        expect(len(self.samples) > 0, "samples", "to name at least one file or folder", self.samples)
        expect(self.max_per_problem >= 1, "max_per_problem", "of at least 1", self.max_per_problem)
        expect(self.min_calls >= 0, "min_calls", "of at least 0", self.min_calls)


@dataclass(frozen=True, kw_only=True)
class List:
    """List the problems, arms and protocols that have a name, and what each needs."""


RunsCommand = Compare | Report
SamplesCommand = Regrade | Import
Command = EvalConfig | RunsCommand | SamplesCommand | Select | List
_WITHOUT_A_MODEL = {made.__name__.lower(): made for made in (List, Compare, Report, Regrade, Import, Select)}


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
        name, rest = args[0], args[1:]
        prog = f"evaluate.py {name}"
        if name in protocols:  # alone, so that a hint is given once and not for each protocol
            make = protocols[name]
            default: Any = make(tyro.MISSING)
            return parse_one(EvalConfig, default, rest, prog=prog, description=first_paragraph(make))
        config = (tyro.conf.OmitSubcommandPrefixes,)
        parsed: Command = tyro.cli(union, prog="evaluate.py", description=description, args=args, config=config)
        return parsed

    try:
        command = parse_with_files(args, read, config=EvalConfig, commands=tuple(protocols), name="protocol")
        if isinstance(command, EvalConfig) and command.served:
            take_key(command.api_key_env)  # before any process starts
        return command
    except ConfigError as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def protocols_in_words() -> str:
    """Return the protocols and arms as text of at most 80 columns."""
    lines = [f"Protocols ({shell_command('evaluate', ['PROTOCOL'])} --model M)"]
    for name, make in protocols.items():
        lines += textwrap.wrap(first_paragraph(make), 78, initial_indent=f"  {name:10}", subsequent_indent=" " * 12)
    return "\n".join(
        [*lines, "", "Arms (--arms ARM ...)", *(f"  {arm:10}{what}" for arm, what in ARMS_IN_WORDS.items())]
    )


def execute_on_runs(command: RunsCommand) -> None:
    """Execute the command, and print its result.

    Raises:
        ConfigError: There are training runs beside evaluations, or no set has ``k`` samples.
        RunError: A folder holds no whole run, the runs are not on the same problems, or the page cannot be made.
    """
    are_training = list(map(is_training_run, command.runs))
    if any(are_training) and not all(are_training):
        raise ConfigError("Expect `runs` to be evaluations or training runs, got both.")
    if isinstance(command, Compare) and any(are_training):
        print(compare_training(*command.runs))
    elif isinstance(command, Compare):
        one, other = map(read_run, command.runs)
        print(comparison(comparison_as_json(one, other, compare(one, other))))
    elif command.watch:
        _watch(command)
    elif any(are_training):
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
    folders = list(dict.fromkeys(command.runs))
    print("\n" + report_on_training(folders) + "\n")
    if command.output is None:
        print(f"As a page: {shell_command('evaluate', ['report', *folders, '--output', 'report.html'])}")
        return
    from agents.report import report_training

    report_training(folders, command.output)
    print(f"Page: {command.output}")


def _watch(command: Report) -> None:
    expect(command.output is None, "output", "unset beside --watch", command.output)
    from agents.report.watch import WatchServer

    with WatchServer(list(dict.fromkeys(command.runs)), command.port) as server, suppress(KeyboardInterrupt):
        print(f"Page: http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()


def execute_select(command: Select, find_block: FindBlock) -> None:
    """Write the chosen samples, and print how many of what were kept and why others were not.

    Raises:
        RunError: There are no samples, none is to be kept, or the output is there.
    """
    expect_new(command.output)
    selection = select(
        read_all(command.samples),
        find_block,
        max_per_problem=command.max_per_problem,
        min_calls=command.min_calls,
        repaired_only=command.repaired_only,
    )
    print(selection.in_words())
    if not selection.rows:
        raise RunError("Expect at least one sample to keep, got none.")
    write_json_lines(command.output, selection.rows)
    learn = shell_command("train", ["sft", "--transcripts", command.output])
    print(f"Samples: {command.output}. Learn from them: {learn}")


def execute_on_samples(
    command: SamplesCommand, submit: Submit, read_answer: ReadAnswer, find: Find, *, version: str, as_typed: str = ""
) -> None:
    """Execute the command, and print its result.

    Args:
        command: What to do.
        submit: Judges an answer, as for :func:`agents.evaluation.regrade.regrade`.
        read_answer: Finds the answer, as for it.
        find: Finds a field by its path, as for :func:`agents.evaluation.lm_eval.read_plain`.
        version: Of the grader.
        as_typed: The command as it was typed, for manifests.

    Raises:
        RunError: A file is not what is expected, or one that is to be written is there.
    """
    if isinstance(command, Regrade):
        _regrade(command, submit, read_answer, version, as_typed)
    else:
        _import(command, read_answer, find, as_typed)


def _regrade(command: Regrade, submit: Submit, read_answer: ReadAnswer, version: str, as_typed: str) -> None:
    path = command.samples
    is_run = path.is_dir()
    rows = [row for problems in read_run(path).samples.values() for each in problems for row in each] if is_run else []
    rows = rows or read_rows(_expect_file(path))
    output = command.output or path.with_name(f"regraded-{path.name}")
    expect_new(output)
    regrading = regrade(rows, submit, read_answer, answer_type=command.answer_type)
    print(f"Grader {version}. {in_words(regrading)}\n")
    if is_run:
        write_regraded(output, regrading.rows, before=path, grader=version, command=as_typed)
        print(f"Run: {output}. Show it: {shell_command('evaluate', ['report', output])}")
    else:
        write_json_lines(output, regrading.rows)
        print(f"Samples: {output}")


def _import(command: Import, read_answer: ReadAnswer, find: Find, as_typed: str) -> None:
    path = _expect_file(command.file)
    output = command.output or path.with_name(f"imported-{path.stem}")
    expect_new(output)
    if command.format == "lm-eval":
        rows = read_lm_eval(path, read_answer)
    else:
        fields = {name: getattr(command, name) for name in ("problem", "answer", "completion")}
        rows = read_plain(path, **fields, find=find)
    if not rows:
        raise RunError(f"Expect at least one text of a model in {path}, got none.")
    judge = shell_command("evaluate", ["regrade", output])
    if output.suffix == ".jsonl":
        write_json_lines(output, rows)
        print(f"Samples: {output}, {len(rows)} of them. Judge them: {judge}")
        return
    source = {"file": path.name, "format": command.format}
    missing = write_imported(output, rows, name=command.name or path.stem, source=source, command=as_typed)
    if missing:
        print(f"Some problems have fewer samples than others: {missing} that are missing count as not judged.")
    print(f"Run: {output}, {len(rows)} samples. Judge them: {judge}")


def _expect_file(path: Path) -> Path:
    if not path.is_file():
        raise RunError(f"Expect a file, got {path}, which is none.")
    return path
