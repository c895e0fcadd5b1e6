"""Renders report pages from the template and writes them."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from agents.core.errors import RunError
from agents.core.files import expect_writable, write_text
from agents.core.samples import Sample, read_samples
from agents.evaluation.run_folder import Run
from agents.report.parts import Page
from agents.tracking.history import load_training_run

_SETTINGS = {
    "model": "Model",
    "name": "Model",
    "revision": "Weights",
    "arm": "Arm",
    "template": "Chat template",
    "chat_template_kwargs": "Template variables",
    "prompt": "Prompt",
    "interaction_budget": "Interaction budget",
    "num_samples": "Samples per problem",
    "temperature": "Temperature",
    "top_p": "top_p",
    "max_completion_length": "Max. completion length",
    "num_problems": "Problems per step",
    "num_generations": "Episodes per problem",
    "learning_rate": "Learning rate",
    "advantage": "Advantages",
    "dtype": "dtype",
    "engine": "Engine",
    "seed": "Seed",
}
"""The settings shown in the heading, in order, with their labels."""


def report_evaluations(runs: Sequence[Run], summaries: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Write the page about complete evaluation runs; an existing file is replaced.

    Args:
        runs: At least one run.
        summaries: The metrics of each run, as :func:`agents.evaluation.metrics.summarise` returns them.
        output: Path of the HTML file.

    Raises:
        RunError: A library is missing, or ``output`` is a folder.
        OSError: The file cannot be written.
    """
    _need(output)
    from agents.report.evaluation_page import evaluation_page

    names = _distinct([_short_name(run.about) for run in runs], [run.folder for run in runs])
    samples = {
        name: [row for problems in run.samples.values() for rows in problems for row in rows]
        for name, run in zip(names, runs, strict=True)
    }
    files = [[*run.folder.glob("samples*.jsonl")] for run in runs]
    facts = _facts(names, [_settings_of_run(run.about) for run in runs], files)
    _write(evaluation_page(samples, dict(zip(names, summaries, strict=True)), facts), samples, output)


def report_training(folders: Sequence[Path], output: Path) -> None:
    """Write the page about training runs; an existing file is replaced.

    Args:
        folders: The runs' output folders, at least one.
        output: Path of the HTML file.

    Raises:
        RunError: A folder does not hold a training run, its metrics or samples are malformed, a library is missing,
            or ``output`` is a folder.
        OSError: A file cannot be read or written.
    """
    _need(output)
    from agents.report.training_page import training_page

    names = _distinct([folder.resolve().name for folder in folders], folders)
    pairs = list(zip(names, folders, strict=True))
    runs = [dataclasses.replace(load_training_run(folder), name=name) for name, folder in pairs]
    facts = _facts(names, [_settings_of_training(f) for f in folders], [[f / "metrics.jsonl"] for f in folders])
    for run in runs:
        after = f", {run.name}" if len(runs) > 1 else ""
        facts |= {f"Steps{after}": str(run.steps), f"Time{after}": f"{run.minutes:.1f} minutes"}
    files = {name: folder / "samples.jsonl" for name, folder in pairs}
    samples = {name: read_samples(file)[0] for name, file in files.items() if file.exists()}
    _write(training_page(runs, facts), samples, output)


def render(page: Page, items: Sequence[Mapping[str, Any]]) -> str:
    """Render the page as HTML; its content security policy allows only the viewer's script and no other resource."""
    import jinja2

    from agents.report.viewer import FACETS, facet_counts

    folder = resources.files("agents.report") / "assets"
    script = (folder / "report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string((folder / "report.html").read_text()).render(
        page=page,
        items=items,
        facets=facet_counts(items),
        labels=FACETS,
        style=(folder / "report.css").read_text(),
        script=script,
        digest=digest,
    )


def _write(page: Page, samples: Mapping[str, Sequence[Sample]], output: Path) -> None:
    from agents.report.viewer import items

    write_text(output, render(page, items(samples)))


def _short_name(about: Mapping[str, Any]) -> str:
    """Return a run's model, shortened to the last two parts of a path, and its arm."""
    return f"{'/'.join(Path(about['model']['name']).parts[-2:])} ({about['arm']})"


def _settings_of_run(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return an evaluation's settings from its manifest; settings that differ between sets are listed by set."""
    sets = about["sets"]
    settings = {**about["model"], **about.get("arguments", {}), **about.get("sampling", {}), "arm": about["arm"]}
    for key in ("num_samples", "temperature"):
        values = {name: size[key] for name, size in sets.items() if key in size}
        several = len(set(values.values())) > 1
        words = ", ".join(f"{value} ({name})" for name, value in values.items()) if several else None
        settings |= {key: words or next(iter(values.values()))} if values else {}
    return settings


def _settings_of_training(folder: Path) -> dict[str, Any]:
    """Return the settings in the last checkpoint, all groups merged; empty before the first checkpoint."""
    path = max(folder.glob("checkpoint-*/trainer_state.json"), key=os.path.getmtime, default=None)
    if path is None:
        return {}
    try:
        config = dict(json.loads(path.read_text())["config"])
    except (ValueError, KeyError, TypeError):
        raise RunError(f"Expect a trainer's state with its `config` in {path}, got something else.") from None
    groups = [part for part in config.values() if isinstance(part, dict)]
    return {key: value for part in [*groups, config] for key, value in part.items()}


def _facts(
    names: Sequence[str], settings: Sequence[Mapping[str, Any]], files: Sequence[Sequence[Path]]
) -> dict[str, str]:
    """Return settings and modification time of the files, listed by run where the runs differ."""
    facts: dict[str, str] = {}

    def add(label: str, values: Sequence[str]) -> None:
        if len(set(values)) == 1:
            facts[label] = values[0]
        else:
            facts.update({f"{label}, {name}": value for name, value in zip(names, values, strict=True)})

    for key, label in _SETTINGS.items():
        if any(key in found for found in settings):
            add(label, [str(found.get(key, "unknown")) for found in settings])
    times = [max((file.stat().st_mtime for file in written), default=0.0) for written in files]
    add("Written", [time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds)) for seconds in times])
    return facts


def _distinct(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return the names, or the folders' paths if two names are equal."""
    return list(names) if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _need(output: Path) -> None:
    """Check early that all libraries are installed and that the page can be written."""
    if output.is_dir():
        raise RunError(f"Expect `output` to be a file, got the folder {output}.")
    expect_writable(output)
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
        import pygments  # noqa: F401
    except ImportError as error:
        raise RunError(f'Expect the library {error.name}: pip install "cir-env[report]".') from None
