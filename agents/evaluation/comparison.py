"""Compares two runs on the same problems, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.core.errors import RunError
from agents.evaluation.bootstrap import Estimate, mean, powers_of_two
from agents.evaluation.manifest import differences
from agents.evaluation.metrics import TOKENS, SetMetrics
from agents.evaluation.run_folder import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class SetComparison:
    """Comparison of two runs on one set, or averaged over all sets."""

    problems: int
    """Number of compared problems: those with a judged sample in both runs."""
    avg: tuple[Estimate, Estimate]
    """Accuracy of the first and the second run."""
    gain_at_k: Mapping[int, Estimate]
    """pass@k of the second run minus that of the first, for powers of two and the number of samples."""
    tokens: Mapping[str, tuple[Estimate, Estimate]]
    """Tokens per sample of both runs, by the names of :data:`agents.evaluation.metrics.TOKENS`."""
    gain_by_subject: Mapping[str, tuple[int, Estimate]]
    """Number of problems and gain by subject; empty if there is at most one subject."""

    @property
    def gain(self) -> Estimate:
        """Accuracy of the second run minus that of the first."""
        return self.avg[1] - self.avg[0]

    def token_ratio(self, name: str) -> Estimate:
        """Return the second run's tokens as a multiple of the first run's: 0.2 is 80% shorter."""
        one, other = self.tokens[name]
        return other / one


def compare(one: Run, other: Run) -> dict[str, SetComparison]:
    """Compare two runs set by set; for several sets, "mean" is their unweighted mean.

    Raises:
        RunError: The runs are on different problems.
    """
    _check_same_problems(one, other)
    sets = {name: _compare_set(name, one, other) for name in one.samples}
    if len(sets) > 1:
        parts = list(sets.values())
        sets["mean"] = SetComparison(
            problems=sum(part.problems for part in parts),
            avg=(mean([part.avg[0] for part in parts]), mean([part.avg[1] for part in parts])),
            gain_at_k={
                k: mean([part.gain_at_k[k] for part in parts])
                for k in parts[0].gain_at_k
                if all(k in part.gain_at_k for part in parts)
            },
            tokens={
                name: (mean([part.tokens[name][0] for part in parts]), mean([part.tokens[name][1] for part in parts]))
                for name in TOKENS
            },
            gain_by_subject={},
        )
    return sets


def settings_apart(one: Run, other: Run) -> list[str]:
    """Return the settings in which two runs differ, one line each."""
    return differences(one.about, other.about)


def comparison_as_json(one: Run, other: Run, sets: Mapping[str, SetComparison]) -> dict[str, Any]:
    """Return the comparison as a JSON-serializable dictionary."""
    return {
        "runs": [one.name, other.name],
        "differences": settings_apart(one, other),
        "sets": {
            name: {
                "problems": part.problems,
                "avg": [estimate.as_json() for estimate in part.avg],
                "gain": part.gain.as_json(),
                "gain_at_k": {str(k): gain.as_json() for k, gain in part.gain_at_k.items()},
                "token_ratio": {kind: part.token_ratio(kind).as_json() for kind in TOKENS},
                "by_subject": {
                    subject: {"problems": size, "gain": gain.as_json()}
                    for subject, (size, gain) in part.gain_by_subject.items()
                },
            }
            for name, part in sets.items()
        },
    }


def _compare_set(name: str, one: Run, other: Run) -> SetComparison:
    pair = [SetMetrics(name, run.samples[name]) for run in (one, other)]

    def both(k: int) -> list[int]:
        return sorted(pair[0].judged_problems(k) & pair[1].judged_problems(k))

    def metrics(indices: Sequence[int]) -> tuple[SetMetrics, SetMetrics]:
        first, second = (SetMetrics(name, [run.samples[name][index] for index in indices]) for run in (one, other))
        return first, second

    def gain(indices: Sequence[int], k: int = 1) -> Estimate:
        first, second = metrics(indices)
        return second.pass_at_k(k) - first.pass_at_k(k)

    if not both(1):
        raise RunError(f"Expect a problem of {name} with a judged sample in both runs, got none.")
    subjects: dict[str, list[int]] = {}
    for index in both(1):
        subjects.setdefault(one.samples[name][index][0]["subject"] or "", []).append(index)
    first, second = metrics(both(1))
    counts = powers_of_two(min(each.num_samples for each in pair))
    return SetComparison(
        problems=len(both(1)),
        avg=(first.avg(), second.avg()),
        gain_at_k={k: gain(indices, k) for k in counts if (indices := both(k))},
        tokens={kind: (first.tokens(kind), second.tokens(kind)) for kind in TOKENS},
        gain_by_subject={subject: (len(indices), gain(indices)) for subject, indices in sorted(subjects.items())}
        if len(subjects) > 1
        else {},
    )


def _check_same_problems(one: Run, other: Run) -> None:
    sizes = [{name: len(problems) for name, problems in run.samples.items()} for run in (one, other)]
    if sizes[0] != sizes[1]:
        listed = [", ".join(f"{size} of {name}" for name, size in each.items()) for each in sizes]
        raise RunError(
            f"Expect two runs on the same problems, got {listed[0]} in {one.folder} and {listed[1]} in {other.folder}."
        )
    for name, problems in one.samples.items():
        for index, (rows, theirs) in enumerate(zip(problems, other.samples[name], strict=True)):
            if (rows[0]["problem"], rows[0]["answer"]) != (theirs[0]["problem"], theirs[0]["answer"]):
                raise RunError(
                    f"Expect two runs on the same problems, but problem {index} of {name} differs between {one.folder} "
                    f"and {other.folder}."
                )
