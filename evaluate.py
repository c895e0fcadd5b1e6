"""Measure how well a language model solves mathematics by writing Python.

$ python evaluate.py --model M                                  held-out problems of a generator
$ python evaluate.py --model M --benchmarks DIR                 the five benchmarks of the paper
$ python evaluate.py --model M --prompt text --interaction-budget 0               without code
$ python evaluate.py --model M --temperature 0 --num-samples 1                          greedy
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import tyro

from agents import report
from agents.config import ConfigError
from agents.errors import AgentsError
from agents.evaluation import EvalConfig, run

if TYPE_CHECKING:
    from cir_env.problems import ProblemSet


def load_sets(config: EvalConfig) -> Mapping[str, ProblemSet]:
    """Return the problems that the configuration asks for, by the name of their set."""
    from cir_env.benchmarks import BENCHMARKS, load_benchmark
    from cir_env.problems import load_problems

    if config.benchmarks is None:
        if config.names or config.limit:
            raise ConfigError("Expect `names` and `limit` beside `benchmarks`: add --benchmarks FOLDER.")
        return {config.problems: load_problems(config.problems, "test")[: config.num_problems]}
    names = config.names or list(BENCHMARKS)[:5]  # the paper's main table
    return {name: load_benchmark(name, config.benchmarks)[: config.limit] for name in names}


def main(args: Sequence[str]) -> int:
    """Evaluate; return the exit code: 0 done, 1 failed, 2 bad input, 130 stopped by the user."""
    config = tyro.cli(EvalConfig, prog="evaluate.py", description=__doc__, args=args)
    from cir_env.errors import CirEnvError

    try:
        output = config.output or report.new_path(config.model)
        samples = output.with_suffix(".samples.jsonl")
        if output.exists():
            raise ConfigError(f"Expect `output` to be a new file, but {output} is there: choose another --output.")
        print("Starting: loading the problems.", flush=True)
        sets = load_sets(config)
        begin = time.perf_counter()
        evaluations = run(config, sets, samples=samples)
        data = {"config": dataclasses.asdict(config), "samples": samples, "seconds": time.perf_counter() - begin}
        report.write_json(output, data | report.as_json(evaluations))
    except (AgentsError, CirEnvError, OSError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print(f"evaluate.py: stopped; the samples so far are in {samples}.", file=sys.stderr)
        return 130
    print("\n\n".join(filter(None, ["", report.summary(evaluations), report.by_subject(evaluations)])))
    print(f"\nReport: {output}\nSamples: {samples}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
