"""Renders report pages from the template and writes them."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from agents.core.errors import RunError
from agents.core.files import expect_writable, write_text
from agents.core.samples import Sample, read_samples
from agents.evaluation.run_folder import Run, RunFiles
from agents.report.parts import Page, Settings, Table, text
from agents.tracking.history import load_training_run

_SETTINGS = {
    "model": "Model",
    "name": "Model",
    "arm": "Arm",
    "prompt": "Prompt",
    "interaction_budget": "Interaction budget",
    "num_samples": "Samples per problem",
    "temperature": "Temperature",
    "problems": "Problems",
    "num_problems": "Problems per step",
    "num_generations": "Episodes per problem",
    "learning_rate": "Learning rate",
    "advantage": "Advantages",
    "max_completion_length": "Max. completion length",
    "top_p": "top_p",
    "seed": "Seed",
    "revision": "Weights",
    "template": "Chat template",
    "chat_template_kwargs": "Template variables",
    "dtype": "dtype",
    "engine": "Engine",
}
"""The settings shown in the heading, in order, with their labels."""
_FOLDED = (
    "Max. completion length",
    "top_p",
    "Seed",
    "Weights",
    "Chat template",
    "Template variables",
    "dtype",
    "Engine",
)
"""Labels of settings that are folded unless they differ between runs."""
_MAX_CELL = 40
"""Settings with more characters, such as hashes, are cut in the table of what differs."""


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
    _expect_file(output)
    write_text(output, evaluations_html(runs, summaries))


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
    _expect_file(output)
    write_text(output, training_html(folders))


def evaluations_html(runs: Sequence[Run], summaries: Sequence[Mapping[str, Any]], *, version: str | None = None) -> str:
    """Return the page about evaluation runs, which may be in progress.

    Args:
        runs: At least one run with at least one sample.
        summaries: The metrics of each run.
        version: Of the runs' files, if the page is to reload itself when they change.

    Raises:
        RunError: A library is missing.
    """
    expect_libraries()
    from agents.report.evaluation_page import evaluation_page

    names = _distinct([_short_name(run.about) for run in runs], [run.folder for run in runs])
    partial = {
        run.folder: f" (partial: {len(run.rows)} of {len(run.rows) + run.missing})" for run in runs if run.missing
    }
    names = [name + partial.get(run.folder, "") for name, run in zip(names, runs, strict=True)]
    files = [[RunFiles.at(run.folder).samples] for run in runs]
    settings = _settings(names, [_settings_of_run(run.about) for run in runs], files)
    by_name = dict(zip(names, runs, strict=True))
    progress = "In progress: metrics and intervals are those of the samples so far." if partial else ""
    page = evaluation_page(by_name, dict(zip(names, summaries, strict=True)), settings, progress=progress)
    return render(page, {name: run.rows for name, run in by_name.items()}, version=version)


def training_html(folders: Sequence[Path], *, version: str | None = None) -> str:
    """Return the page about training runs, which may be in progress.

    Args:
        folders: The runs' output folders, at least one.
        version: Of the runs' files, if the page is to reload itself when they change.

    Raises:
        RunError: As for :func:`report_training`.
    """
    expect_libraries()
    from agents.report.training_page import training_page

    names = _distinct([folder.resolve().name for folder in folders], folders)
    pairs = list(zip(names, folders, strict=True))
    runs = [dataclasses.replace(load_training_run(folder), name=name) for name, folder in pairs]
    found = [_settings_of_training(folder) for folder in folders]
    more = [{"Steps": str(run.steps), "Time": f"{run.minutes:.1f} minutes"} for run in runs]
    settings = _settings(names, found, [[folder / "metrics.jsonl"] for folder in folders], more)
    planned = [(run.steps, int(of.get("max_steps", 0))) for run, of in zip(runs, found, strict=True)]
    going = ", ".join(f"step {done} of {total}" for done, total in planned if done < total)
    files = {name: folder / "samples.jsonl" for name, folder in pairs}
    samples = {
        name: sorted(read_samples(file)[0], key=lambda row: -int(row.get("step", 0)))  # type: ignore[call-overload]
        for name, file in files.items()
        if file.exists()
    }
    return render(
        training_page(runs, settings, progress=f"Not finished: {going}." if going else ""), samples, version=version
    )


def render(page: Page, samples: Mapping[str, Sequence[Sample]], *, version: str | None = None) -> str:
    """Render the page as HTML; its content security policy allows only its own scripts and no other resource."""
    import jinja2

    from agents.report.viewer import FACETS, Transcripts, facet_counts

    folder = resources.files("agents.report") / "assets"
    scripts = {name: (folder / f"{name}.js").read_text() for name in ("charts", "report")}
    plotly, plotly_digest = _plotly() if any(section.charts for section in page.sections) else ("", "")
    transcripts = Transcripts(samples)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string((folder / "report.html").read_text()).render(
        page=page,
        data=transcripts.as_json(),
        items=transcripts.items,
        facets=facet_counts(transcripts.items),
        labels=FACETS,
        style=(folder / "report.css").read_text(),
        scripts=scripts.values(),
        digests=[*map(_digest, scripts.values()), plotly_digest],
        plotly=plotly,
        plotly_digest=plotly_digest,
        version=version,
    )


@lru_cache(maxsize=1)
def _plotly() -> tuple[str, str]:
    """Return the installed plotly.js, compressed and in base64, and its digest."""
    script = (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, mtime=0)).decode(), _digest(script.decode())


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


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
    """Return the settings of a training run, all groups merged; empty if its folder does not record them."""
    checkpoints = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=os.path.getmtime)
    path = next((path for path in (folder / "run.json", *reversed(checkpoints)) if path.is_file()), None)
    if path is None:
        return {}
    try:
        config = dict(json.loads(path.read_text())["config"])
    except (ValueError, KeyError, TypeError):
        raise RunError(f"Expect a trainer's state with its `config` in {path}, got something else.") from None
    groups = [part for name, part in config.items() if isinstance(part, dict) and name != "validation"]
    return {key: value for part in [*groups, config] for key, value in part.items()}


def _settings(
    names: Sequence[str],
    found: Sequence[Mapping[str, Any]],
    files: Sequence[Sequence[Path]],
    more: Sequence[Mapping[str, str]] = (),
) -> Settings:
    """Return the settings, what was said in addition, and when the files were written; a table of what differs."""
    times = [max((file.stat().st_mtime for file in written if file.exists()), default=0.0) for written in files]
    written = [time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds)) for seconds in times]
    values = {
        label: [str(settings.get(key, "unknown")) for settings in found]
        for key, label in _SETTINGS.items()
        if any(key in settings for settings in found)
    }
    values |= {label: [of_run[label] for of_run in more] for label in (more[0] if more else ())}
    same = {label: of_runs[0] for label, of_runs in values.items() if len(set(of_runs)) == 1}
    differing = {label: of_runs for label, of_runs in values.items() if label not in same}
    long = {
        f"{label}, {name}": value
        for label, of_runs in differing.items()
        for name, value in zip(names, of_runs, strict=True)
        if len(value) > _MAX_CELL
    }
    rows = [[text(label), *(text(_cut(value)) for value in of_runs)] for label, of_runs in differing.items()]
    return Settings(
        facts={label: value for label, value in same.items() if label not in _FOLDED} | {"Written": max(written)},
        table=Table(title="What differs", header=["setting", *names], rows=rows) if rows else None,
        folded={label: value for label, value in same.items() if label in _FOLDED} | long,
    )


def _cut(value: str) -> str:
    return value if len(value) <= _MAX_CELL else value[:18] + "…"


def _distinct(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return the names, or the folders' paths if two names are equal."""
    return list(names) if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _expect_file(output: Path) -> None:
    """Check early that all libraries are installed and that the page can be written."""
    if output.is_dir():
        raise RunError(f"Expect `output` to be a file, got the folder {output}.")
    expect_writable(output)
    expect_libraries()


def expect_libraries() -> None:
    """Check that the libraries of the extra ``report`` are installed.

    Raises:
        RunError: One is missing.
    """
    try:
        import jinja2  # noqa: F401
        import latex2mathml.converter  # noqa: F401
        import plotly  # noqa: F401
        import pygments  # noqa: F401
    except ImportError as error:
        raise RunError(f'Expect the library {error.name}: pip install -e ".[report]".') from None
