"""The commands of ``evaluate.py`` that need no model: judge stored samples again, and exchange them with others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from agents.errors import expect
from agents.interop import model_card_metadata, read_lm_eval, read_plain, write_lm_eval
from agents.regrade import ReadAnswer, Submit, expect_new, in_words, read_rows, regrade, write_rows
from agents.report import write_text
from agents.samples import SamplesError


@dataclass(frozen=True, kw_only=True)
class Regrade:
    """Judge stored samples again with today's grader, without a model."""

    samples: tyro.conf.Positional[Path]
    """JSONL of samples, as evaluate.py or the command import writes it."""
    answer_type: str = "math"
    """How answers are compared."""
    output: Path | None = None
    """The new samples; None: beside the old ones, with "regraded-" before the name."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write samples as lm-evaluation-harness does, and the metadata of a model card."""

    samples: tyro.conf.Positional[Path]
    """JSONL of samples."""
    model: str
    """The model's name."""
    output: Path = Path("runs/export")
    """Folder; the files go below it into one that is named by the model."""

    def __post_init__(self) -> None:
        expect(bool(self.model.strip(". ")), "model", "to be a model's name", self.model)


@dataclass(frozen=True, kw_only=True)
class Import:
    """Turn other programs' transcripts into samples, which regrade can judge."""

    file: tyro.conf.Positional[Path]
    """A samples_*.jsonl of lm-evaluation-harness, or JSONL with a statement, a right answer and a text in each row."""
    format: Literal["lm-eval", "jsonl"] = "lm-eval"
    """Which of the two."""
    problem: str = "problem"
    """JSONL: the field with the statement."""
    answer: str = "answer"
    """JSONL: the field with the right answer."""
    completion: str = "completion"
    """JSONL: the field with what a model wrote, or with a list of such texts."""
    output: Path | None = None
    """The samples; None: beside the file, with "imported-" before the name."""


Command = Regrade | Export | Import


def execute(
    command: Command, *, submit: Submit, read_answer: ReadAnswer, version: str, datasets: Mapping[str, str]
) -> None:
    """Do what was asked for, and print what came of it.

    Args:
        command: What to do.
        submit: Judges an answer, as for :func:`agents.regrade.regrade`.
        read_answer: Finds the answer, as for it.
        version: Of the grader.
        datasets: The hub's names of sets.

    Raises:
        SamplesError: A file is not what is expected, or one that is to be written is there.
    """
    path = command.file if isinstance(command, Import) else command.samples
    if not path.is_file():
        raise SamplesError(f"Expect a file, got {path}, which is none.")
    if isinstance(command, Regrade):
        output = command.output or command.samples.with_name(f"regraded-{command.samples.name}")
        rows = read_rows(command.samples)
        expect_new(output)
        regrading = regrade(rows, submit, read_answer, answer_type=command.answer_type)
        print(f"Grader {version}. {in_words(regrading)}\n")
        write_rows(output, regrading.rows)
        print(f"Samples: {output}")
    elif isinstance(command, Export):
        rows = read_rows(command.samples)
        card = model_card_metadata(rows, model=command.model, datasets=datasets)
        written = write_lm_eval(command.output, rows, model=command.model, version=version)
        metadata = written[0].with_name(written[0].name.replace("results_", "model-card_")).with_suffix(".yaml")
        write_text(metadata, card)
        print("\n".join(f"Wrote {path}" for path in [*written, metadata]))
    else:
        output = command.output or command.file.with_name(f"imported-{command.file.name}")
        if command.format == "lm-eval":
            rows = read_lm_eval(command.file, read_answer)
        else:
            fields = {name: getattr(command, name) for name in ("problem", "answer", "completion")}
            rows = read_plain(command.file, **fields)
        if not rows:
            raise SamplesError(f"Expect at least one text of a model in {command.file}, got none.")
        write_rows(output, rows)
        print(f"Samples: {output}, {len(rows)} of them. Judge them: python evaluate.py regrade {output}")
