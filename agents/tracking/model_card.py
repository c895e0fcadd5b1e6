"""The model card of a checkpoint: model, data, command, configuration and measured accuracy."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.config.training import short_name
from agents.core.files import installed_version, read_metrics
from agents.core.programs import this_command
from agents.core.tables import percent, table
from agents.tracking.callbacks import Callback, Run
from agents.tracking.curves import Curve, draw_curves, mark_budget_changes
from agents.tracking.history import TrainingRun

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

    from agents.config.sft import SFTConfig
    from agents.config.training import RunArguments, TrainConfig

Rows = Sequence[Mapping[str, float]]

CURVE = "learning_curve.png"
HELD_OUT = "held_out/loss"
"""The metric of supervised fine-tuning on transcripts that are held out."""
_DATA_SET = re.compile(r"'([\w.-]+/[\w.-]+)'")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(?<!\.gguf)")
_NOT_ON_HUB = ("/train", "/test", ".jsonl", ".json", ".csv", ".parquet")  # generators and files
_ACCURACY = "/accuracy"
_ARMS = {"validation_greedy": ", greedy", "validation_text": ", without code"}
_LIBRARIES = ("cir-env", "torch", "transformers", "gymnasium", "math-verify", "vllm")
_CITATION = """@misc{bai2025codeintegrated,
  title = {Towards Effective Code-Integrated Reasoning},
  author = {Fei Bai and Yingqian Min and Beichen Zhang and Zhipeng Chen and Wayne Xin Zhao and Lei Fang and
            Zheng Liu and Zhongyuan Wang and Ji-Rong Wen},
  year = {2025},
  eprint = {2505.24480},
  archivePrefix = {arXiv},
  primaryClass = {cs.CL}
}"""


class ModelCardWriter(Callback):
    """Writes ``README.md`` to every checkpoint, from the run's configuration and ``metrics.jsonl``."""

    def on_save(self, run: Run, path: Path) -> None:
        """Write the card."""
        rows = [row for row in read_metrics(run.config.output_dir / "metrics.jsonl") if row["step"] <= run.step]
        about: dict[str, Any] = {"step": run.step, "command": this_command(), "data": run.data_summary}
        save_card(
            path, lambda: model_card(run.config, rows, drawn=draw_curve(rows, path / CURVE), **about), log=run.log
        )


def save_card(path: Path, make: Callable[[], ModelCard], *, log: Callable[[str], Any]) -> None:
    """Write the card of a checkpoint; if that fails, log a warning: the checkpoint is complete without it."""
    try:
        make().save(path / "README.md")
    except OSError as error:
        log(f"Warning: could not write the model card in {path}: {error}.")


def model_card(
    config: TrainConfig, rows: Rows, *, step: int, command: str, drawn: bool, data: str | None = None
) -> ModelCard:
    """Return the model card of a checkpoint of reinforcement learning.

    Args:
        config: The run's configuration.
        rows: The run's metrics so far, the source of all numbers on the card.
        step: Number of completed training steps.
        command: The command that started the run.
        drawn: Whether :data:`CURVE` lies beside the card; otherwise the learning curve is a table.
        data: Summary of the training problems by the environment, with data sets of the hub as 'OWNER/NAME'.
    """
    problems = f"`{config.env.problems}`{f' ({data})' if data else ''}"
    sections = [
        f"{_origin(config)} after {step} steps of reinforcement learning in the environment `{config.env.id}`, "
        f"on the problems {problems}.",
        "## Accuracy",
        *_accuracy(config, rows, step),
        *_learning_curve(rows, drawn),
        "## Training",
        _method(config),
    ]
    return _card(
        config,
        sections,
        command=command,
        tags=["reinforcement-learning", "ppo"],
        datasets=[name for name in _DATA_SET.findall(data or "") if not name.endswith(_NOT_ON_HUB)] or None,
        eval_results=_eval_results(config, rows, step),
        metrics=["accuracy"],
    )


def fine_tuned_card(config: SFTConfig, rows: Rows, *, step: int, command: str, data: str) -> ModelCard:
    """Return the model card of a checkpoint of supervised fine-tuning.

    Args:
        config: The run's configuration.
        rows: The run's metrics so far.
        step: Number of completed optimizer steps.
        command: The command that started the run.
        data: What the transcripts are, in words.
    """
    losses = [[f"{row['step']:g}", f"{row[HELD_OUT]:.4f}"] for row in rows if HELD_OUT in row]
    sections = [
        f"{_origin(config)} after {step} steps of supervised fine-tuning on transcripts of the environment "
        f"`{config.env.id}`, with the prompt `{config.env.prompt}`. Only the policy's tokens are learned.",
        "## Training",
        f"{data} Each step takes {config.batch_size} of them, for {config.num_epochs} passes, at a learning rate of "
        f"{config.optimizer.learning_rate:g}.",
        *([table(["step", "held-out loss, nats per token"], losses)] if losses else []),
    ]
    return _card(config, sections, command=command, tags=["sft"])


def _card(
    config: RunArguments, sections: Sequence[str], *, command: str, tags: Sequence[str], **metadata: Any
) -> ModelCard:
    """Return a card with these sections and what every card has."""
    from huggingface_hub import ModelCard, ModelCardData

    name = config.output_dir.resolve().name
    data = ModelCardData(
        base_model=_base(config),
        library_name="transformers",
        model_name=name,
        pipeline_tag="text-generation",
        tags=[*tags, "code-integrated-reasoning", "cir-env"],
        **metadata,
    )
    settings = json.dumps(dataclasses.asdict(config), default=str, indent=2)
    versions = [f"{library} {found}" for library, found in library_versions().items()]
    body = [
        f"# {name}",
        *sections,
        f"```bash\n{command}\n```",
        f"<details><summary>Full configuration</summary>\n\n```json\n{settings}\n```\n\n</details>",
        "Versions: " + ", ".join(versions) + ".",
        "## Citation",
        "The method follows [Towards Effective Code-Integrated Reasoning](https://arxiv.org/abs/2505.24480):",
        f"```bibtex\n{_CITATION}\n```",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(body) + "\n")


def _base(config: RunArguments) -> str | None:
    """Return the model's name on the hub."""
    is_on_hub = _HUB_NAME.fullmatch(config.model) and config.model != "tiny" and not Path(config.model).exists()
    return config.model if is_on_hub else None


def _origin(config: RunArguments) -> str:
    base = _base(config)
    return f"[{base}](https://huggingface.co/{base})" if base else f"`{config.model}`"


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that a run depends on."""
    found = {name: installed_version(name) for name in _LIBRARIES}
    return {"Python": platform.python_version()} | {name: version for name, version in found.items() if version}


def _accuracy(config: TrainConfig, rows: Rows, step: int) -> Iterable[str]:
    """Yield accuracy before and after training, in words and as a table."""
    before, after = _accuracies(rows, 0), _accuracies(rows, step)
    keys = [key for key in _measured(rows) if key in before or key in after]
    if not keys:
        yield "Not measured at this step."
        return
    sizes = ", ".join(f"{size} of {_label(config, key)}" for key, (_, size) in config.validation.sets().items())
    yield (
        f"In percent of held-out problems, at most {sizes}; one answer per problem, sampled at temperature "
        f"{config.rollout.temperature:g} and top-p {config.validation.top_p:g} unless greedy. A dash means not "
        "measured."
    )
    cells = [[_label(config, key), percent(before.get(key)), percent(after.get(key))] for key in keys]
    yield table(["problems", "before", f"after step {step}"], cells)


def _learning_curve(rows: Rows, drawn: bool) -> Iterable[str]:
    points = TrainingRun(name="", rows=rows).series("validation/accuracy")
    if drawn:
        yield f"![Accuracy by training step]({CURVE})"
    elif len(points) > 2:
        yield table(["step", "held-out accuracy, %"], [[f"{step:g}", percent(value)] for step, value in points])


def _method(config: TrainConfig) -> str:
    ppo, rollout = config.ppo, config.rollout
    warm_up = f"After {config.warm_up_steps} supervised steps: " if config.warm_up_steps else ""
    kl = f"a KL penalty of {ppo.kl_coefficient:g} ({ppo.kl_estimator})" if ppo.kl_coefficient else "no KL penalty"
    bonus = f"an entropy bonus of {ppo.entropy_coefficient:g}" if ppo.entropy_coefficient else "no entropy bonus"
    rises = f" after a warm-up of {ppo.warmup_steps} steps" if ppo.warmup_steps else ""
    falls = {"constant": "", "linear": ", falling linearly to 0", "cosine": ", falling along a cosine to 0"}
    rate = f"{ppo.learning_rate:g}{rises}{falls[ppo.lr_scheduler_type]}"
    return (
        f"{warm_up}PPO's clipped loss (epsilon {ppo.epsilon:g} below, {ppo.epsilon_high:g} above) with "
        f"`{ppo.advantage}` advantages, {kl} and {bonus}. Each step samples {rollout.num_problems} problems with "
        f"{rollout.num_generations} episodes each; the learning rate is {rate}, the interaction budget "
        f"`{config.env.interaction_budget}`. Tokens inserted by the environment are excluded from the loss."
    )


def _eval_results(config: TrainConfig, rows: Rows, step: int) -> list[EvalResult]:
    """Return the accuracy measured at this step, for the card's metadata."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_name=short_name(_problems(config, key)),
            dataset_type=_problems(config, key),
            metric_type="accuracy",
            metric_name="accuracy" + _ARMS.get(key, ""),
            metric_value=value,
        )
        for key, value in _accuracies(rows, step).items()
    ]


def _accuracies(rows: Rows, step: int) -> dict[str, float]:
    """Return accuracy on held-out problems at a step, by validation set or arm."""
    return {
        name.removesuffix(_ACCURACY): value
        for row in rows
        if row["step"] == step
        for name, value in row.items()
        if name.startswith("validation") and name.endswith(_ACCURACY)
    }


def _measured(rows: Rows) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in _accuracies([row], int(row["step"]))))


def _problems(config: TrainConfig, key: str) -> str:
    """Return the problems of a validation set; an arm uses those of the first set."""
    sets = config.validation.sets()
    return sets.get(key, sets["validation"])[0] or config.env.problems


def _label(config: TrainConfig, key: str) -> str:
    return short_name(_problems(config, key)) + _ARMS.get(key, "")


def draw_curve(rows: Rows, path: Path) -> bool:
    """Draw accuracy by step as a PNG.

    Returns:
        Whether it was drawn: it takes matplotlib, and at least three validations.
    """
    run = TrainingRun(name="", rows=rows)
    held_out = run.series("validation/accuracy")
    if len(held_out) < 3:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    training = Curve(points=run.series("accuracy"), color="C0", label="training")
    draw_curves(axes, [training, Curve(points=held_out, color="C1", marker="o", label="held-out")], is_rate=True)
    mark_budget_changes(axes, run.budget_changes, color="gray")
    axes.set(xlabel="step", ylabel="accuracy")
    axes.legend()
    figure.savefig(path, dpi=120)
    return True
