"""Measure how well language models solve mathematics by writing Python.

$ python evaluate.py --model M                                 a first look: held-out problems of a generator
$ python evaluate.py paper --model M --benchmarks DIR          the paper's table: five benchmarks, 16 samples
$ python evaluate.py --model BASE RL --arms code text neutral  two models in three arms
$ python evaluate.py compare A B                               two runs (folders), paired by problem
$ python evaluate.py report FOLDER ... --k 1 4 16              runs that are done, shards put together
$ python evaluate.py regrade SAMPLES                           today's grader on samples of any day
$ python evaluate.py export SAMPLES --model M                  for lm-evaluation-harness and the hub
$ python evaluate.py import FILE                               others' transcripts, for regrade
$ python evaluate.py report FOLDER ... --output report.html    the same as a page, with every transcript

The same command goes on where it was stopped or killed. All flags: python evaluate.py quick --help
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from agents import report, transcripts
from agents.commands import Command, Compare, Report, parse
from agents.comparison import compare, comparison_as_json
from agents.config import ConfigError
from agents.errors import AgentsError
from agents.protocols import EvalConfig
from agents.runs import SUMMARY, find_runs, read_run
from agents.summary import summarise
from agents.training_runs import is_training_run

if TYPE_CHECKING:
    from cir_env.problems import ProblemSet


def load_sets(config: EvalConfig) -> Mapping[str, ProblemSet]:
    """Return the problems that the configuration asks for, by the name of their set."""
    from cir_env.benchmarks import PAPER, load_benchmark
    from cir_env.problems import load_problems

    def load(name: str) -> ProblemSet:
        is_file = name.partition("?")[0].endswith((".jsonl", ".parquet"))
        return load_problems(name, "test") if is_file else load_benchmark(name, str(config.benchmarks))

    if config.benchmarks is not None:
        names = config.names or PAPER
        return {name: load(name)[: config.num_problems] for name in names}
    if config.names:
        raise ConfigError("Expect `benchmarks`, the folder with the files of `names`: add --benchmarks FOLDER.")
    return {config.problems: load_problems(config.problems, "test")[: config.num_problems]}


def work_on_samples(command: transcripts.Command) -> None:
    """Judge, export or import stored samples."""
    from cir_env.benchmarks import BENCHMARKS
    from cir_env.grading import GRADER_VERSION, shared_grader
    from cir_env.parsing import final_answer

    transcripts.execute(
        command,
        submit=shared_grader().submit,
        read_answer=final_answer,
        version=str(GRADER_VERSION),
        datasets={name: benchmark.hub.name for name, benchmark in BENCHMARKS.items()},
    )


def execute(command: Command, args: Sequence[str]) -> None:
    """Do what was asked for, and print what came of it."""
    if isinstance(command, transcripts.Command):
        work_on_samples(command)
        return
    if isinstance(command, Compare):
        one, other = map(read_run, command.runs)
        print(report.comparison(comparison_as_json(one, other, compare(one, other))))
        return
    k: Sequence[int] = ()
    page = command.output if isinstance(command, Report) else None
    if isinstance(command, Report) and any(map(is_training_run, command.runs)):
        report_on_training(command)
        return
    if isinstance(command, Report):
        folders, k = [folder for path in command.runs for folder in find_runs(path)], command.k
    else:
        from agents.evaluation import run
        from cir_env.fingerprint import fingerprint

        sets = load_sets(command)
        again = shlex.join(["python", "evaluate.py", *args])
        folders = run(command, sets, about=partial(fingerprint, sets), command=again)
        if command.shard_of[1] > 1:
            print(f"Shard {command.shard} is done. When all are: python evaluate.py report {command.output}")
            return
    runs = [read_run(folder) for folder in folders]
    summaries = [summarise(run) for run in runs]
    print("\n" + report.report(summaries, k=k) + "\n")
    for folder, summary in zip(folders, summaries, strict=True):
        report.write_json(folder / SUMMARY, summary)
        print(f"Run: {folder}")
    if page is not None:
        from agents.html import report_evaluations

        report_evaluations(runs, summaries, page)
        print(f"Page: {page}")


def report_on_training(command: Report) -> None:
    """Write the page on training runs."""
    if command.output is None or not all(map(is_training_run, command.runs)):
        raise ConfigError("Expect `output`, and training runs alone, to report on one: add --output report.html.")
    from agents.html import report_training

    report_training(command.runs, command.output)
    print(f"Page: {command.output}")


def main(args: Sequence[str]) -> int:
    """Evaluate; return the exit code: 0 done, 1 failed, 2 bad input, 130 stopped by the user."""
    command = parse(args, __doc__ or "")
    from cir_env.errors import CirEnvError

    try:
        execute(command, args)
    except (AgentsError, CirEnvError, OSError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("evaluate.py: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
