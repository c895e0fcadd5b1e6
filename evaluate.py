"""Measure how well language models solve mathematics by writing Python.

$ python evaluate.py --model M              a first look: held-out problems
$ python evaluate.py paper --model M        the paper's table: five benchmarks
$ python evaluate.py --model openai:M --base-url URL    behind a chat API
$ python evaluate.py --model A B --arms code text   two models, two arms
$ python evaluate.py list                   named problems and protocols
$ python evaluate.py compare A B            two runs (folders), by problem
$ python evaluate.py report FOLDER ...      tables of finished runs
$ python evaluate.py report FOLDER --watch  the page of runs in progress
$ python evaluate.py regrade SAMPLES        judge stored samples again
$ python evaluate.py import FILE            other programs' samples
$ python evaluate.py select RUN --output FILE       right ones, to learn from
$ python evaluate.py quick --help           all flags; --config FILE reads them

The same command resumes a run that was stopped or killed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

try:
    from agents import cli
    from agents.config.evaluation import EvalConfig
    from agents.core.errors import AgentsError
    from agents.core.programs import reader_may_leave, shell_command
except ModuleNotFoundError as error:
    sys.exit(f"evaluate.py: {error}")


def work_on_samples(command: cli.SamplesCommand | cli.Select, as_typed: str) -> None:
    """Judge, import or choose stored samples."""
    from cir_env.grading.grader import GRADER_VERSION, shared_grader
    from cir_env.parsing import final_answer, find_block
    from cir_env.problems.rows import find_field

    if isinstance(command, cli.Select):
        return cli.execute_select(command, find_block)
    tools = shared_grader().submit, final_answer, find_field
    return cli.execute_on_samples(command, *tools, version=str(GRADER_VERSION), as_typed=as_typed)


def play(config: EvalConfig, as_typed: str) -> None:
    """Play what is missing of the evaluation's runs, and report on them."""
    from agents.evaluation.runner import run, run_own_problems

    if config.env.is_code_math:
        from cir_env.fingerprint import fingerprint
        from cir_env.problems.benchmarks import is_pinned
        from cir_env.problems.load import load_sets

        own = config.env.problems, config.env.split
        whole = load_sets(config.set_names, config.benchmarks, own=own, **config.env.reading)
        print(*(f"Problems: {problems.summary()}." for problems in whole.values()), sep="\n")
        sets = {name: problems[: config.num_problems] for name, problems in whole.items()}
        unpinned = [name for name, problems in whole.items() if not is_pinned(problems)]
        folders = run(config, sets, about=partial(fingerprint, sets, unpinned=unpinned), command=as_typed)
    else:
        folders = run_own_problems(config, command=as_typed)
    cli.report_on_evaluations(folders)


def main(args: Sequence[str]) -> int:
    """Evaluate; return the exit code: 0 done, 1 failed, 2 bad input, 130 stopped by the user."""
    command, as_typed = cli.parse(args, __doc__ or ""), shell_command("evaluate", args)
    from cir_env.errors import CirEnvError

    try:
        if isinstance(command, cli.List):
            from cir_env.problems.benchmarks import catalogue

            with reader_may_leave():
                print(catalogue(), cli.protocols_in_words(), sep="\n\n")
        elif isinstance(command, cli.RunsCommand):
            with reader_may_leave():
                cli.execute_on_runs(command)
        elif isinstance(command, cli.SamplesCommand | cli.Select):
            work_on_samples(command, as_typed)
        else:
            play(command, as_typed)
    except (AgentsError, CirEnvError, OSError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("evaluate.py: stopped; the same command resumes from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
