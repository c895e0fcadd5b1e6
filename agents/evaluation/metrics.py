"""The metrics of a run, computed from its samples alone: the same samples give the same metrics.

:func:`summarise` returns the content of ``summary.json``. An estimate is ``{"value", "low", "high"}``, a fraction or a
number of tokens with its 95% interval (:mod:`agents.evaluation.bootstrap`), or None if there is nothing to measure::

    name, model, arm, revision
    mean                     unweighted mean over the sets
      avg, avg_fixed_problems
    sets.NAME
      problems, num_samples, unjudged
      avg                    accuracy: the mean over problems of the share of right samples
      avg_fixed_problems     the same; its interval is over samples of these problems
      pass_at_k.K            for every k up to num_samples
      majority_at_k.K        for powers of two and num_samples
      rates.NAME             shares of all samples: finished, truncated, void, invalid, used_code
      tokens.NAME            per sample: sampled, feedback, total; of the right and of the wrong ones: sampled_correct,
                             sampled_wrong, ...
      calls                  per_sample: executed blocks; used: share of the blocks that printed the answer given
      by_subject.NAME        problems, samples, accuracy, calls (executed blocks per sample); and so by_level.NAME
      by_blocks.NAME         samples, share, accuracy; none, all_ran, some_failed, all_failed
      recovery               of the samples with a failed block: samples; rate: share in which a later block ran; right:
                             share in which a later block ran and the answer is right
      usage                  of a model behind an API, in all samples together: prompt_tokens, completion_tokens, cost
                             (None without a price), estimated (how many samples the server has not counted whole)

A sample that is invalid because of an infrastructure error ("unjudged") counts only in ``rates`` and ``tokens``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from agents.core.blocks import count_used, plain_answer, ran, recovers
from agents.core.samples import Sample
from agents.evaluation.bootstrap import (
    Estimate,
    Floats,
    majority_at_k,
    mean,
    pass_at_k,
    powers_of_two,
    problem_weights,
    ratio,
    sampling_estimate,
    seed_of_set,
)
from agents.evaluation.run_folder import Run

BLOCKS = ("none", "all_ran", "some_failed", "all_failed")
"""Outcomes of a sample's code blocks."""

Problems = Sequence[Sequence[Sample]]
"""The samples of each problem of a set."""
Holds = Callable[[Sample], bool]


def summarise(run: Run) -> dict[str, Any]:
    """Return a run's metrics as a JSON-serializable dictionary; see the module's docstring for its layout."""
    sets = {name: SetMetrics(name, problems) for name, problems in run.samples.items()}
    return {
        "name": run.name,
        "model": run.about["model"]["name"],
        "revision": run.about["model"]["revision"],
        "arm": run.about["arm"],
        "mean": {
            "avg": mean([metrics.avg() for metrics in sets.values()]).as_json(),
            "avg_fixed_problems": mean([metrics.avg_fixed_problems() for metrics in sets.values()]).as_json(),
        },
        "sets": {name: metrics.as_json() for name, metrics in sets.items()},
    }


class SetMetrics:
    """The metrics of one set, as estimates.

    Args:
        name: Name of the set; it seeds the bootstrap draws.
        problems: The samples of each problem, at least one; the same number for all unless the run is in progress.
    """

    def __init__(self, name: str, problems: Problems) -> None:
        self._name, self._problems = name, problems
        self._judged = [[row for row in rows if row["reward_valid"]] for rows in problems]
        self._counts = [(len(rows), sum(row["correct"] for row in rows)) for rows in self._judged]

    @property
    def num_samples(self) -> int:
        """Number of samples per problem, at most."""
        return max(map(len, self._problems))

    def judged_problems(self, k: int = 1) -> set[int]:
        """Return the problems with at least ``k`` judged samples."""
        return {index for index, (valid, _) in enumerate(self._counts) if valid >= k}

    def avg(self) -> Estimate:
        """Return the mean over problems of the share of right samples."""
        return self._mean([c / v if v else None for v, c in self._counts])

    def avg_fixed_problems(self) -> Estimate:
        """Return :meth:`avg` with an interval over samples, for fixed problems."""
        valid, correct = zip(*self._counts, strict=True)
        return sampling_estimate(valid, correct, seed=seed_of_set(self._name))

    def pass_at_k(self, k: int) -> Estimate:
        """Return pass@k over the problems with at least ``k`` judged samples."""
        return self._mean([pass_at_k(v, c, k) if v >= k else None for v, c in self._counts])

    def majority_at_k(self, k: int) -> Estimate:
        """Return majority@k over the problems with at least ``k`` judged samples."""
        return self._mean([_majority(rows, k) if len(rows) >= k else None for rows in self._judged])

    def share(self, holds: Holds) -> Estimate:
        """Return the share of all samples, invalid ones included, for which a predicate holds."""
        return self._per_sample(holds, is_share=True)

    def share_of_judged(self, holds: Holds, among: Holds = lambda row: True) -> Estimate:
        """Return the share for which a predicate holds among the judged samples, or a subset of them."""
        return self._per_sample(holds, lambda row: row["reward_valid"] and among(row), is_share=True)

    def tokens(self, name: str) -> Estimate:
        """Return the mean length of samples; ``name`` is in :data:`TOKENS`."""
        return self._per_sample(*TOKENS[name])

    def as_json(self) -> dict[str, Any]:
        """Return all metrics as a JSON-serializable dictionary."""
        n = self.num_samples
        return {
            "problems": len(self._problems),
            "num_samples": n,
            "unjudged": sum(not row["reward_valid"] for rows in self._problems for row in rows),
            "avg": self.avg().as_json(),
            "avg_fixed_problems": self.avg_fixed_problems().as_json(),
            "pass_at_k": {str(k): self.pass_at_k(k).as_json() for k in range(1, n + 1)},
            "majority_at_k": {str(k): self.majority_at_k(k).as_json() for k in powers_of_two(n)},
            "rates": {name: self.share(holds).as_json() for name, holds in _RATES.items()},
            "tokens": {name: self.tokens(name).as_json() for name in TOKENS},
            "calls": {"per_sample": self._calls().as_json(), "used": self._used().as_json()},
            "by_subject": self._by(lambda row: row["subject"]),
            "by_level": self._by(lambda row: row["level"]),
            "by_blocks": {kind: self._of_blocks(kind) for kind in BLOCKS},
            "recovery": self._recovery(),
            **self._usage(),
        }

    @property
    def _weights(self) -> Floats:
        return problem_weights(len(self._problems), seed=seed_of_set(self._name))

    def _mean(self, values: Sequence[float | None]) -> Estimate:
        """Return the mean over the problems that have a value."""
        return ratio((v or 0.0 for v in values), (float(v is not None) for v in values), self._weights, is_share=True)

    def _per_sample(
        self, measure: Callable[[Sample], float], among: Holds = lambda row: True, *, is_share: bool = False
    ) -> Estimate:
        chosen = [[row for row in rows if among(row)] for rows in self._problems]
        return ratio((sum(map(measure, rows)) for rows in chosen), map(len, chosen), self._weights, is_share=is_share)

    def _by(self, key: Callable[[Sample], str | None]) -> dict[str, Any]:
        """Return accuracy by a property of problems; problems without it are excluded."""
        names = sorted({name for rows in self._problems if (name := key(rows[0])) is not None})
        return {name: self._of_group(key, name) for name in names}

    def _of_group(self, key: Callable[[Sample], str | None], name: str) -> dict[str, Any]:
        def holds(row: Sample) -> bool:
            return key(row) == name

        problems = sum(holds(rows[0]) for rows in self._problems)
        samples = sum(holds(row) for rows in self._judged for row in rows)
        return {
            "problems": problems,
            "samples": samples,
            "accuracy": self.share_of_judged(_right, holds).as_json(),
            "calls": self._calls(holds).as_json(),
        }

    def _of_blocks(self, kind: str) -> dict[str, Any]:
        def holds(row: Sample) -> bool:
            return blocks_of(row) == kind

        samples = sum(holds(row) for rows in self._judged for row in rows)
        return {
            "samples": samples,
            "share": self.share_of_judged(holds).as_json(),
            "accuracy": self.share_of_judged(_right, holds).as_json(),
        }

    def _recovery(self) -> dict[str, Any]:
        def failed(row: Sample) -> bool:
            return blocks_of(row) in ("some_failed", "all_failed")

        samples = sum(failed(row) for rows in self._judged for row in rows)
        return {
            "samples": samples,
            "rate": self.share_of_judged(recovered, failed).as_json(),
            "right": self.share_of_judged(lambda row: recovered(row) and row["correct"], failed).as_json(),
        }

    def _calls(self, among: Holds = lambda row: True) -> Estimate:
        return self._per_sample(lambda row: row["interactions"], lambda row: row["reward_valid"] and among(row))

    def _used(self) -> Estimate:
        used = (sum(count_used(_outputs(row), row["predicted"]) for row in rows) for rows in self._judged)
        executed = (sum(len(_outputs(row)) for row in rows) for rows in self._judged)
        return ratio(used, executed, self._weights, is_share=True)

    def _usage(self) -> dict[str, Any]:
        rows = [row for rows in self._problems for row in rows]
        if not all("prompt_tokens" in row for row in rows):
            return {}
        costs = [cost for row in rows if (cost := row.get("cost")) is not None]
        usage = {
            "prompt_tokens": sum(row["prompt_tokens"] for row in rows),
            "completion_tokens": sum(row["sampled_tokens"] for row in rows),
            "cost": sum(costs) if len(costs) == len(rows) else None,
            "estimated": sum(row.get("usage_estimated", False) for row in rows),
        }
        return {"usage": usage}


def blocks_of(row: Sample) -> str:
    """Return the outcome of a sample's executed code blocks, one of :data:`BLOCKS`."""
    outcomes = _ran(row)
    if not outcomes:
        return "none"
    return "all_ran" if all(outcomes) else "some_failed" if any(outcomes) else "all_failed"


def recovered(row: Sample) -> bool:
    """Return whether a block failed and a later one ran."""
    return recovers(_ran(row))


_COUNTS: dict[str, Callable[[Sample], float]] = {
    "sampled": lambda row: row["sampled_tokens"],
    "feedback": lambda row: row["feedback_tokens"],
    "total": lambda row: row["sampled_tokens"] + row["feedback_tokens"],
}
TOKENS: dict[str, tuple[Callable[[Sample], float], Holds]] = {
    **{name: (count, lambda row: True) for name, count in _COUNTS.items()},
    **{f"{name}_correct": (count, lambda row: row["correct"]) for name, count in _COUNTS.items()},
    **{
        f"{name}_wrong": (count, lambda row: row["reward_valid"] and not row["correct"])
        for name, count in _COUNTS.items()
    },
}
"""Token counts: the number to average, and the samples to average over."""

_RATES: dict[str, Holds] = {
    "finished": lambda row: row["terminated"],
    "truncated": lambda row: row["truncated"],
    "void": lambda row: row["void"],
    "invalid": lambda row: not row["reward_valid"],
    "used_code": lambda row: row["interactions"] > 0,
}


def _right(row: Sample) -> bool:
    return row["correct"]


def _ran(row: Sample) -> list[bool]:
    return ran(turn["status"] for turn in row["turns"])


def _outputs(row: Sample) -> list[str]:
    return [turn["feedback"] for turn in row["turns"] if turn["status"] is not None]


def _majority(rows: Sequence[Sample], k: int) -> float:
    wrong = Counter(
        plain_answer(row["predicted"]) for row in rows if not row["correct"] and row["predicted"] is not None
    )
    right = sum(row["correct"] for row in rows)
    return majority_at_k(right, sorted(wrong.values()), len(rows) - right - wrong.total(), k)
