"""Repeat the paper's ablations in small: the recipe against variants that differ from it in one thing each.

$ python experiments/recipe.py                  eleven arms, three seeds: 4 hours
$ python experiments/recipe.py --max-steps 4    the same with half of the steps
$ python experiments/recipe.py --preset tiny --output runs/recipe-tiny    an hour
$ python experiments/recipe.py --arms recipe kl --seeds 1    a part of it
$ python experiments/recipe.py --report-only    table and figure of finished runs

Any other flag is one of train.py, such as --env.interaction-budget, the recipe's. The arm `competence` differs from
`budget-2` only in runs that are longer than --env.competence.window. Runs follow one another. What is done is not
repeated when the command is given again, and a run that was stopped or killed resumes from its last checkpoint. After
each run `recipe.md`, `recipe.json` and `recipe.png` in the output folder are written anew from the `metrics.jsonl` of
all runs.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal, get_args

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.config.presets import from_flags, presets
from agents.config.training import TrainConfig
from agents.core.errors import AgentsError, expect
from agents.core.files import write_json
from agents.core.tables import table
from agents.rollout.episode import TurnRules
from agents.tracking.curves import Curve, draw_curves, mark_budget_changes
from agents.tracking.history import TrainingRun, load_training_run
from agents.training.checkpoint import checkpoints
from cir_env.errors import CirEnvError
from experiments.ablations import FeedbackRules, StopStringRules

try:
    from matplotlib.figure import Figure
except ImportError:
    sys.exit('recipe.py: expect the library matplotlib: pip install -e ".[plot]".')

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Arm = Literal[
    "recipe",
    "budget-1",
    "budget-2",
    "budget-4",
    "competence",
    "feedback",
    "stop-string",
    "kl",
    "entropy",
    "clip-equal",
    "text",
]
DONE = "done.json"


def _in(part: str, **changes: Any) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(config, **{part: replace(getattr(config, part), **changes)})


def _text_only(config: TrainConfig) -> TrainConfig:
    prompt = config.env.prompt.replace("cir", "text", 1)  # the prompts' names
    return replace(config, env=replace(config.env, interaction_budget="0", prompt=prompt))


RULES: Mapping[str, type[TurnRules]] = {"feedback": FeedbackRules, "stop-string": StopStringRules}
"""The rules of turns in the arms that break one; the others keep the trainer's."""
ARMS: Mapping[Arm, tuple[str, Callable[[TrainConfig], TrainConfig]]] = {
    "recipe": ("all as in the paper; a budget of 2, 3 and 4 in thirds, or the given one", lambda config: config),
    "budget-1": ("a budget of 1 throughout", _in("env", interaction_budget="1")),
    "budget-2": ("a budget of 2 throughout", _in("env", interaction_budget="2")),
    "budget-4": ("a budget of 4 throughout", _in("env", interaction_budget="4")),
    "competence": ("a budget that grows by competence", _in("env", interaction_budget="competence")),
    "feedback": ("feedback is trained on", lambda config: config),
    "stop-string": ("turns end at a stop string and are encoded again", lambda config: config),
    "kl": ("a KL penalty of 0.01", _in("ppo", kl_coefficient=0.01)),
    "entropy": ("an entropy bonus of 0.01", _in("ppo", entropy_coefficient=0.01)),
    "clip-equal": ("the upper clip range is the lower one", lambda c: _in("ppo", epsilon_high=c.ppo.epsilon)(c)),
    "text": ("no code: a budget of 0 and the text prompt, in validation too", _text_only),
}
QUESTIONS: Mapping[str, Sequence[Arm]] = {
    "Budget": ("recipe", "budget-1", "budget-2", "budget-4", "competence"),
    "Feedback in the loss": ("recipe", "feedback"),
    "Where a turn ends": ("recipe", "stop-string"),
    "KL penalty": ("recipe", "kl"),
    "Entropy bonus": ("recipe", "entropy"),
    "Clip-higher": ("recipe", "clip-equal"),
    "Code": ("recipe", "text"),
}
COLUMNS: Mapping[str, tuple[str, float]] = {
    "before": ("held out before, %", 100),
    "after": ("after, %", 100),
    "learning": ("over all steps, %", 100),
    "tools/use_ratio": ("code use, %", 100),
    "tools/call_frequency": ("blocks", 1),
    "reward": ("reward", 1),
    "entropy": ("entropy, 1e-3", 1e3),
    "completions/mean_length": ("tokens", 1),
    "approx_kl": ("approx_kl, 1e-6", 1e6),
}
"""What the table has of each run: heading and factor.

"learning" is the accuracy of all training episodes, the area under the learning curve; what follows it is of the last
quarter of the training steps.
"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which runs to make; any other flag is one of train.py."""

    preset: str = "quickstart"
    """Of train.py: model, problems and sizes. A run takes about 6 minutes, or 2 with "tiny"."""
    arms: tuple[Arm, ...] = get_args(Arm)
    """What to compare."""
    seeds: int = 3
    """Runs of each arm, with seeds from --seed on."""
    output: Path = Path("runs/recipe")
    """Folder of the runs, the table and the figure."""
    report_only: bool = False
    """Train nothing."""

    def __post_init__(self) -> None:
        expect(self.seeds >= 1, "seeds", "of at least 1", self.seeds)
        expect(self.preset in presets, "preset", f"one of {', '.join(presets)}", self.preset)


def configure(base: TrainConfig, arm: Arm, seed: int, folder: Path) -> TrainConfig:
    """Return the configuration of one run."""
    config = ARMS[arm][1](base)
    return replace(
        config,
        seed=seed,
        output_dir=folder / f"{arm}-seed{seed}",
        save_every=base.validation.every or base.save_every,
        save_total_limit=1,
        validation=replace(config.validation, greedy=False, text_prompt=None),
    )


def plan(config: Config, base: TrainConfig) -> list[tuple[Arm, TrainConfig]]:
    """Return all runs with their arms, seed by seed."""
    seeds = range(base.seed, base.seed + config.seeds)
    return [(arm, configure(base, arm, seed, config.output)) for seed in seeds for arm in config.arms]


def is_done(config: TrainConfig) -> bool:
    """Return whether a run has ended.

    Raises:
        ValueError: It has, with other settings.
    """
    path = config.output_dir / DONE
    if not path.exists():
        return False
    if json.loads(path.read_text()) != _settings(config):
        raise ValueError(f"Expect a run with the same settings in {config.output_dir}: choose another --output.")
    return True


def _settings(config: TrainConfig) -> dict[str, Any]:
    settings = dataclasses.asdict(config) | {"resume": False, "output_dir": None}
    return dict(json.loads(json.dumps(settings)))


def train(config: TrainConfig, rules: TurnRules) -> bool:
    """Begin or resume a run; return whether it has ended. Of one that has, weights are not kept."""
    from agents.training.trainer import Trainer

    folder = config.output_dir
    trainer = Trainer(replace(config, resume=bool(checkpoints(folder))), rules=rules)
    try:
        ended = trainer.train()
    finally:
        trainer.close()
    if ended:
        write_json(folder / DONE, _settings(config))
        for path in (*checkpoints(folder), folder / "reference"):
            shutil.rmtree(path, ignore_errors=True)
    return ended


def metrics_of(run: TrainingRun) -> dict[str, float]:
    """Return what the table has of a run, as far as it is known.

    >>> rows = [{"step": 0, "validation/accuracy": 0.25}, {"step": 1, "step_time": 1.0, "accuracy": 0.5}]
    >>> metrics_of(TrainingRun(name="run", rows=[*rows, {"step": 1, "validation/accuracy": 0.75}]))
    {'before': 0.25, 'after': 0.75, 'learning': 0.5}
    """
    before, after = run.before_after("validation/accuracy")
    every = [value for _, value in run.series("accuracy")]
    found = {"before": before, "after": after, "learning": fmean(every) if every else None}
    for key in list(COLUMNS)[3:]:
        values = [value for step, value in run.series(key) if step > run.steps * 3 / 4]
        found[key] = fmean(values) if values else None
    return {key: value for key, value in found.items() if value is not None}


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation over seeds.

    >>> spread([1.0, 2.0, 3.0]), spread([0.5]), spread([])
    ('2.00 ± 1.00', '0.50', '-')
    """
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else "-"
    return f"{fmean(values):.2f} ± {stdev(values):.2f}"


def report(runs: Mapping[Arm, Sequence[TrainingRun]]) -> str:
    """Return the table with what it says, as markdown."""
    rows = []
    for arm, each in runs.items():
        metrics = [metrics_of(run) for run in each]
        cells = [spread([f[key] * factor for f in metrics if key in f]) for key, (_, factor) in COLUMNS.items()]
        rows.append([arm, str(len(each)), *cells])
    lines = [f"- `{arm}`: {ARMS[arm][0]}." for arm in runs]
    return "\n".join(
        [
            table(["arm", "seeds", *(heading for heading, _ in COLUMNS.values())], rows),
            "",
            "Mean ± standard deviation over seeds, which is all that is known of the noise. Held out: accuracy on",
            "problems that are not trained on, sampled, with the budget of validation (`text`: 0). Over all steps:",
            "accuracy of all training episodes, each sampled before its problem was trained on. What follows is of the",
            "last quarter of the training steps. With feedback in the loss, its tokens count in entropy and approx_kl.",
            "",
            *lines,
            "",
        ]
    )


def plot(runs: Mapping[Arm, Sequence[TrainingRun]], path: Path) -> None:
    """Draw the accuracy of each step's episodes, a panel for each question; bands reach from worst to best seed.

    The recipe's changes of the budget are marked.
    """
    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = list(figure.subplots(2, 4, sharex=True, sharey=True).flat)
    for axis, (question, arms) in zip(axes, QUESTIONS.items(), strict=False):
        draw_curves(axis, [_mean(axis, arm, runs[arm]) for arm in arms if arm in runs], is_rate=True)
        if "recipe" in runs:
            mark_budget_changes(axis, runs["recipe"][0].budget_changes, color="black")
        axis.set_title(question, fontsize="medium")
        axis.tick_params(labelbottom=True)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="small", loc="lower right")
    for axis in axes[len(QUESTIONS) :]:
        axis.remove()
    figure.supxlabel("step", fontsize="medium")
    figure.supylabel("accuracy of the step's episodes", fontsize="medium")
    figure.savefig(path, dpi=120)


def _mean(axis: Axes, arm: Arm, runs: Sequence[TrainingRun]) -> Curve:
    """Draw an arm's band, and return its mean."""
    series = [dict(run.series("accuracy")) for run in runs]
    steps = sorted(set.intersection(*map(set, series)))
    values = [[each[step] for each in series] for step in steps]
    color = f"C{list(ARMS).index(arm)}"
    axis.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.2, linewidth=0)
    points = [(step, fmean(v)) for step, v in zip(steps, values, strict=True)]
    return Curve(points=points, color=color, marker="o", label=arm)


def write_report(config: Config, base: TrainConfig) -> str | None:
    """Write table, metrics as JSON and figure of the finished runs; return the table, or None without any."""
    runs: dict[Arm, list[TrainingRun]] = {arm: [] for arm in config.arms}
    for arm, run in plan(config, base):
        if is_done(run):
            runs[arm].append(load_training_run(run.output_dir))
    runs = {arm: made for arm, made in runs.items() if made}
    if not runs:
        return None
    text = report(runs)
    (config.output / "recipe.md").write_text(text)
    metrics = {arm: {run.name: metrics_of(run) for run in each} for arm, each in runs.items()}
    write_json(config.output / "recipe.json", {"preset": config.preset, "steps": base.max_steps, "runs": metrics})
    plot(runs, config.output / "recipe.png")
    return text


def main(config: Config, base: TrainConfig) -> bool:
    """Make the runs that are missing, and report; return whether all are done or none was to be made."""
    missing = [] if config.report_only else [(arm, run) for arm, run in plan(config, base) if not is_done(run)]
    for number, (arm, run) in enumerate(missing, 1):
        print(f"== {run.output_dir.name}, {number} of {len(missing)}", flush=True)
        if not train(run, RULES.get(arm, TurnRules)()):
            print("Stopped: the same command resumes.")
            return False
        write_report(config, base)
    print(write_report(config, base) or f"No run in {config.output} is done.")
    return True


def parse(args: Sequence[str]) -> tuple[Config, TrainConfig]:
    """Return which runs to make, and what they have in common; a budget that is not given grows in thirds of a run."""
    config, others = tyro.cli(Config, description=__doc__, args=args, return_unknown_args=True)
    _, sized = from_flags([config.preset, *others], "")
    assert isinstance(sized, TrainConfig)
    third = max(1, round(sized.max_steps / 3))
    growing = ["--env.interaction-budget", f"0:2,{third}:3,{2 * third}:4"]  # first, so that a given one wins
    _, base = from_flags([config.preset, *growing, *others], "")
    assert isinstance(base, TrainConfig)
    return config, base


if __name__ == "__main__":
    try:
        sys.exit(0 if main(*parse(sys.argv[1:])) else 130)
    except (AgentsError, CirEnvError, OSError, ValueError) as error:
        print(f"recipe.py: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    except KeyboardInterrupt:
        print("recipe.py: stopped at once; the same command resumes from the last checkpoint.", file=sys.stderr)
        sys.exit(130)
