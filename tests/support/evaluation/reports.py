"""Fake samples and training runs for the tests of the HTML report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.evaluation.metrics import summarise
from agents.evaluation.run_folder import read_run
from agents.report import report_evaluations

HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><!--<script>\u2028\ud800\0\u202e"
    '"&amp;<svg onload=window.hacked=3>'
)
"""Text that tries to break out of its place in the page."""
PROGRAM = "Try it.\n\n```python\ntotal = sum(range(10))  # all\nprint(total)\n```"


def turn(text: str, feedback: str = "", status: str | None = None) -> dict[str, Any]:
    return {"text": text, "feedback": feedback, "status": status, "finish_reason": "stop"}


def ran(result: str, status: str = "ok", text: str = PROGRAM) -> dict[str, Any]:
    return turn(text, f"\n```output\n{result}\n```\n", status)


def row(index: int = 0, sample: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "set": "AIME24",
        "problem_index": index,
        "sample": sample,
        "problem_id": f"made-up-{index}",
        "subject": None,
        "level": None,
        "problem": f"Made-up problem {index}: add all numbers below $n$.",
        "turns": [ran("45"), turn("It is \\boxed{45}.")],
        "predicted": "45",
        "answer": "45",
        "reason": "equal",
        "reward": 1.0,
        "reward_valid": True,
        "correct": True,
        "terminated": True,
        "truncated": False,
        "void": False,
        "interactions": 1,
        "sampled_tokens": 100,
        "feedback_tokens": 9,
        "boundary_cuts": 0,
        **fields,
    }


def wrong(index: int = 0, sample: int = 0, **fields: Any) -> dict[str, Any]:
    return row(index, sample, **{"correct": False, "predicted": "7", "reason": "different", "reward": 0.0, **fields})


def some_rows() -> list[dict[str, Any]]:
    """Two sets of three problems with four samples each, with every kind of outcome."""
    failed = [ran("NameError: name 'y' is not defined", "error"), ran("45"), turn("So \\boxed{44}.")]
    rows = []
    for name, subjects in (("AIME24", [None] * 3), ("OlymMATH-EN-EASY", ["Algebra", "Geometry", "Geometry"])):
        for problem, subject in enumerate(subjects):
            common = {"set": name, "subject": subject, "level": None if subject is None else str(problem + 1)}
            rows += [
                row(problem, 0, **common),
                wrong(problem, 1, turns=failed, sampled_tokens=300, **common),
                wrong(
                    problem, 2, turns=[turn("So it is")], predicted=None, truncated=True, sampled_tokens=900, **common
                ),
                row(problem, 3, turns=[ran("", "timeout")], reward_valid=problem != 2, **common),
            ]
    return rows


def hostile_row() -> dict[str, Any]:
    names = ("problem_id", "subject", "level", "problem", "predicted", "answer", "reason")
    turns = [ran(HOSTILE, HOSTILE, text=f"{HOSTILE}\n```python\n{HOSTILE}\n```\n"), turn(HOSTILE)]
    return row(**dict.fromkeys(names, HOSTILE), set=HOSTILE.replace("\ud800", ""), turns=turns)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_run(folder: Path, rows: Sequence[Mapping[str, Any]], model: str = "mine", arm: str = "code") -> Path:
    """Write an evaluation run; ``rows`` are all samples of all of its problems."""
    sizes = {
        name: {
            "problems": 1 + max(row["problem_index"] for row in rows if row["set"] == name),
            "num_samples": 1 + max(row["sample"] for row in rows if row["set"] == name),
            "temperature": 1.0,
        }
        for name in dict.fromkeys(row["set"] for row in rows)
    }
    about = {
        "model": {"name": model, "revision": "sha256 0f", "template": "chat", "dtype": "bfloat16"},
        "arm": arm,
        "arguments": {"prompt": "cir", "interaction_budget": 5},
        "sets": sizes,
        "sampling": {"top_p": 0.95, "seed": 0, "engine": "auto"},
    }
    write_rows(folder / "samples.jsonl", rows)
    (folder / "manifest.json").write_text(json.dumps({"run": about, "sessions": [{"command": "evaluate"}]}))
    return folder


def write_page(output: Path, *folders: Path) -> str:
    """Write the page about evaluation runs; return it."""
    runs = [read_run(folder) for folder in folders]
    report_evaluations(runs, [summarise(run) for run in runs], output)
    return output.read_text()


def write_training(folder: Path) -> Path:
    """Write a training run of four steps whose interaction budget grows in the third."""
    metrics: list[Mapping[str, float]] = [
        {"step": 0, "validation/accuracy": 0.25, "validation_greedy/accuracy": 0.5, "time/validation_s": 30.0},
        *(
            {
                **{"step": step, "accuracy": 0.2 * step, "interaction_budget": 2 + step // 3, "step_time": 30.0},
                **{"reward": 0.4 * step - 1, "policy_loss": 0.1 / step, "sampling/staleness_mean": 0.0},
                **{"clip_ratio/low_mean": 0.01 * step, "clip_ratio/high_mean": 0.02, "tokens_per_second": 900.0},
            }
            for step in range(1, 5)
        ),
        {"step": 4, "validation/accuracy": 0.875, "validation_greedy/accuracy": 1.0, "time/validation_s": 30.0},
    ]
    samples = [
        {"step": 0, "kind": "validation", **wrong(set="products")},
        *({"step": step, "kind": "training", **row(step, set="products")} for step in range(1, 5)),
    ]
    write_rows(folder / "metrics.jsonl", metrics)
    write_rows(folder / "samples.jsonl", samples)
    return folder
