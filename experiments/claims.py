"""Measure the paper's claims on a model before and after training, and write one page with the paper's values.

$ python experiments/claims.py --before M --after runs/gsm8k/checkpoint-60 --names MATH500 AMC23 --benchmarks hub
$ python experiments/claims.py --before M --after runs/gsm8k/checkpoint-60 --env.problems gsm8k --num-problems 100

Any other flag is one of evaluate.py, whose runs lie in OUTPUT/pass-at-k and OUTPUT/budgets. The same command resumes
them; the page is OUTPUT/claims.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.core import programs
from agents.core.errors import AgentsError, expect
from agents.core.tables import number, percent, table
from agents.evaluation.bootstrap import Estimate, powers_of_two
from agents.evaluation.comparison import compare
from agents.evaluation.metrics import BLOCKS, SetMetrics, summarise
from agents.evaluation.run_folder import Run, find_runs, read_run

ROOT = Path(__file__).parents[1]
BUDGETS = (0, 1, 2, 4, 8)
MAIN_ARMS = ("text", "code")
OTHER_ARMS = ("neutral", *(f"code:{budget}" for budget in BUDGETS))

ARMS = ("before text", "before code", "after text", "after code")
PAPER: Mapping[str, Sequence[tuple[float, float]]] = {
    "AIME24": ((6.6, 47.1), (13.4, 66.2), (9.9, 56.8), (17.5, 68.1)),
    "AIME25": ((6.9, 38.3), (18.8, 59.0), (8.3, 40.9), (25.6, 65.2)),
    "OlymMATH-EN-EASY": ((9.6, 44.9), (24.8, 67.6), (12.7, 47.9), (30.6, 70.4)),
    "OlymMATH-EN-HARD": ((3.2, 26.2), (9.1, 42.7), (4.2, 26.2), (11.6, 44.8)),
}
"""The paper's pass@1 and pass@64 of Qwen2.5-Math-7B in percent in these arms, read off its figure."""

Runs = Mapping[str, Run]
"""Runs by model and arm, such as "after code"."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured; any other flag is one of evaluate.py."""

    before: str
    """The model before training: a folder, a GGUF file, a hub name, or "tiny"."""
    after: str
    """The model after training."""
    samples: int = 64
    """Samples of each problem with code and in text, for pass@k."""
    budget_samples: int = 8
    """Samples of each problem with other budgets, and with errors without a message."""
    output: Path = Path("runs/claims")
    """Folder of the runs and the page."""

    def __post_init__(self) -> None:
        for name in ("samples", "budget_samples"):
            expect(getattr(self, name) >= 1, name, "of at least 1", getattr(self, name))
        expect(self.before != self.after, "after", "to be another model than before", self.after)


def evaluate(arguments: Arguments, flags: Sequence[str], folder: Path, arms: Sequence[str], samples: int) -> int:
    """Run evaluate.py on both models, and return its exit code."""
    command = ["--model", arguments.before, arguments.after, "--arms", *arms, "--num-samples", str(samples)]
    command += ["--output", str(folder), *flags]
    return programs.run([sys.executable, str(ROOT / "evaluate.py"), *command])


def read_runs(arguments: Arguments, folder: Path) -> dict[str, Run]:
    """Return the complete runs of a folder, by model and arm."""
    when = {arguments.before: "before", arguments.after: "after"}
    runs = map(read_run, find_runs(folder))
    return {f"{when[name]} {run.about['arm']}": run for run in runs if (name := run.about["model"]["name"]) in when}


def percents(estimate: Estimate) -> str:
    """Format a share in percent, with its interval."""
    return percent(estimate.as_json())


def claim_1(runs: Runs) -> str:
    """Return pass@k in the four arms, and the differences between arms."""
    pairs = (("before text", "before code"), ("after text", "after code"), ("before code", "after code"))
    compared = {pair: compare(runs[pair[0]], runs[pair[1]]) for pair in pairs}
    lines = []
    for name in runs["before text"].samples:
        metrics = {arm: SetMetrics(name, runs[arm].samples[name]) for arm in ARMS}
        counts = powers_of_two(min(each.num_samples for each in metrics.values()))
        paper = dict(zip(ARMS, PAPER.get(name, ()), strict=False))
        header = [name, *(f"pass@{k}" for k in counts), *(["paper, k = 1", "k = 64"] if paper else [])]
        rows = [
            [arm, *(percents(each.pass_at_k(k)) for k in counts), *(f"{value:.1f}" for value in paper.get(arm, ()))]
            for arm, each in metrics.items()
        ]
        for (one, other), sets in compared.items():
            gains = sets[name].gain_at_k
            cells = [percents(gains[k]) if k in gains else "-" for k in counts]
            theirs = [f"{b - a:+.1f}" for a, b in zip(paper[one], paper[other], strict=True)] if paper else []
            rows.append([f"{other} - {one}", *cells, *theirs])
        lines.append(table(header, rows))
    return "\n\n".join(lines)


def claim_2(runs: Runs) -> str:
    """Return tokens with code as a multiple of those in text, on all samples and where both arms are right."""
    rows = []
    for when in ("before", "after"):
        text, code = runs[f"{when} text"], runs[f"{when} code"]
        for name, pair in compare(text, code).items():
            if name not in text.samples:
                continue  # the mean over the sets
            solved = [
                index
                for index, both in enumerate(zip(text.samples[name], code.samples[name], strict=True))
                if all(any(row["correct"] for row in rows) for rows in both)
            ]
            cells = [number(pair.token_ratio("total").as_json(), 2), "-"]
            if solved:
                right = [SetMetrics(name, [run.samples[name][index] for index in solved]) for run in (text, code)]
                cells[1] = number((right[1].tokens("total_correct") / right[0].tokens("total_correct")).as_json(), 2)
            rows.append([f"{when}, {name}", percents(pair.gain), *cells, str(len(solved))])
    heads = ["code against text", "accuracy, code - text", "tokens, code / text", "right samples, solved by both"]
    return table([*heads, "problems"], rows)


def claim_3(runs: Runs) -> str:
    """Return the gains by subject."""
    rows = [
        [subject, name, str(size), percents(gain)]
        for name, pair in compare(runs["before code"], runs["after code"]).items()
        for subject, (size, gain) in pair.gain_by_subject.items()
    ]
    if not rows:
        return "The problems have no subjects, or only one."
    return table(["subject", "set", "problems", "after - before, with code"], rows)


def claim_4(runs: Runs, others: Runs) -> str:
    """Return accuracy by what became of the blocks, recoveries, and the arm whose errors have no message."""
    rows = []
    for when in ("before", "after"):
        run = runs[f"{when} code"]
        over_neutral = compare(others[f"{when} neutral"], run)
        for name, metrics in summarise(run)["sets"].items():
            blocks, recovery = metrics["by_blocks"], metrics["recovery"]
            cells = [f"{percent(blocks[kind]['accuracy'])} of {blocks[kind]['samples']}" for kind in BLOCKS]
            recovered = f"{percent(recovery['rate'])} of {recovery['samples']}"
            rows.append([f"{when}, {name}", *cells, recovered, percents(over_neutral[name].gain)])
    kinds = [f"right, {kind.replace('_', ' ')}" for kind in BLOCKS]
    return table(["with code", *kinds, "repaired", "with message - without"], rows)


def claim_5(others: Runs) -> str:
    """Return accuracy by the interaction budget at test time."""
    rows = []
    for when in ("before", "after"):
        each = {budget: others[f"{when} code:{budget}"] for budget in BUDGETS}
        over_none = [compare(each[0], each[budget]) for budget in BUDGETS[1:]]
        for name in each[0].samples:
            metrics = [SetMetrics(name, run.samples[name]).as_json() for run in each.values()]
            rows.append([f"{when}, {name}", *(percent(m["avg"]) for m in metrics)])
            rows.append(["  gain over a budget of 0", "-", *(percents(sets[name].gain) for sets in over_none)])
            rows.append(["  blocks per sample", *(number(m["calls"]["per_sample"], 2) for m in metrics)])
    return table(["budget", *map(str, BUDGETS)], rows)


def page(arguments: Arguments, runs: Runs, others: Runs) -> str:
    """Return the page, in markdown."""
    sections = {
        "1. Code beats text at every k, and training gains most at small k": (
            claim_1(runs),
            "The paper's values are Qwen2.5-Math-7B's, with 1,005 samples, 16,384 tokens and a budget of 5.",
        ),
        "2. Code needs far fewer tokens at similar accuracy": (
            claim_2(runs),
            "The paper reports over 80% less than models with long chains of thought, so a ratio below 0.2. Here the "
            "same model answers in text, which is much shorter than such a chain.",
        ),
        "3. Gains lie in algebra, number theory and combinatorics, little in geometry": (claim_3(runs),),
        "4. An error message makes the model revise, and it may then be right": (
            claim_4(runs, others),
            "Repaired: a later block ran. The last column is paired by problem: what the message of an error adds.",
        ),
        "5. Accuracy by the interaction budget at test time": (
            claim_5(others),
            "The paper trains with budgets of 2, 3 and 4 and tests with 5.",
        ),
    }
    head = [
        "# The paper's claims",
        f"Before: `{arguments.before}`. After: `{arguments.after}`. Brackets hold 95% intervals, over problems and "
        "samples. Accuracies are in percent.",
    ]
    parts = [text for title, section in sections.items() for text in (f"## {title}", *section)]
    return "\n\n".join([*head, *parts]) + "\n"


def main(args: Sequence[str]) -> int:
    """Measure what is missing, and write the page; return the exit code."""
    try:
        arguments, flags = tyro.cli(Arguments, description=__doc__, args=args, return_unknown_args=True)
        main_runs, other_runs = arguments.output / "pass-at-k", arguments.output / "budgets"
        for folder, arms, samples in (
            (main_runs, MAIN_ARMS, arguments.samples),
            (other_runs, OTHER_ARMS, arguments.budget_samples),
        ):
            if code := evaluate(arguments, flags, folder, arms, samples):
                return code
        text = page(arguments, read_runs(arguments, main_runs), read_runs(arguments, other_runs))
        (arguments.output / "claims.md").write_text(text)
    except (AgentsError, OSError) as error:
        print(f"claims.py: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
