"""Accuracy of a policy on a set of problems: every problem gets the same number of episodes.

`run` plays all sets, models and arms of an `EvalConfig`: it writes each sample as it finishes, and resumes where an
earlier process was killed. `agents.evaluation.players` plays a single set, with a local model or one behind an API.
`agents.evaluation.metrics` computes metrics from the samples, `agents.evaluation.tables` prints them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, product
from pathlib import Path
from statistics import fmean
from typing import Any

from agents.cluster.connect import check_ray
from agents.config.evaluation import EvalConfig
from agents.config.shared import EnvArguments
from agents.core.errors import ConfigError, expect
from agents.core.files import expect_writable
from agents.core.samples import Sample, SampleFile, transcript
from agents.core.tables import score_interval
from agents.core.types import Trajectory, Usage
from agents.engines.base import Sampling
from agents.evaluation.manifest import describe_run, describe_session
from agents.evaluation.players import Load, Play, Player, engine_dtype, find_player
from agents.evaluation.run_folder import RunFiles
from agents.rollout.envs import EnvPool, lacking, open_split
from agents.tracking.progress import open_bar

Place = tuple[str, int, int]
"""Identifies a sample: set, problem index and sample number."""
Sets = Mapping[str, "Sequence[Any] | int"]
"""Problem sets by name, in the form of the environment's argument ``problems``; or how many of its own problems."""
OpenEnvs = Callable[..., EnvPool]


def run_own_problems(
    config: EvalConfig, *, command: str = "", load: Load | None = None, log: Callable[[str], Any] = print
) -> list[Path]:
    """Play the problems of another environment than CodeMath-v0, which are its own, as :func:`run` does.

    One with a problem set plays that, or its first ``num_problems``; any other the episodes of so many seeds.

    Raises:
        ConfigError: There is no such environment, it has no problem set and there is no ``num_problems``, there are
            ``names`` or ``benchmarks``, or it lacks an argument of the configuration or of an arm.
        RunError, ModelError: As for :func:`run`.
    """
    env = config.env
    for name in ("names", "benchmarks"):
        expect(not getattr(config, name), name, f"unset beside the environment {env.id!r}", getattr(config, name))
    with closing(open_split(env, 1, split=config.env.split)) as envs:
        available = envs.num_problems
    for arm, name in product(config.arms, lacking(env.id, ("error_format", "prompt"))):
        takes = config.env_kwargs(arm)[name] in (getattr(env, name), "text")
        expect(takes, "arms", f"of an environment with the argument `{name}`, which {env.id!r} lacks", arm)
    sizes = [size for size in (available, config.num_problems) if size is not None]
    if not sizes:
        raise ConfigError(f"Expect `num_problems` for {env.id!r}, which has no problem set: add --num-problems.")
    environment = {"id": env.id, "problems": env.problems}
    sets = {env.id.rpartition(":")[2]: min(sizes)}
    return run(config, sets, about=lambda **_: {"environment": environment}, command=command, load=load, log=log)


def _open_envs(env: EnvArguments, num_envs: int, **kwargs: Any) -> EnvPool:
    return open_split(env, num_envs, **kwargs)


def run(
    config: EvalConfig,
    sets: Sets,
    *,
    about: Callable[..., Mapping[str, Any]] = lambda **prompts: {},
    command: str = "",
    open_envs: OpenEnvs | None = None,
    load: Load | None = None,
    log: Callable[[str], Any] = print,
) -> list[Path]:
    """Play every problem of every set with every model in every arm; existing samples are kept.

    Args:
        config: The models, the arms, the sampling and the environment.
        sets: Problem sets by name, in the form of the environment's argument ``problems``; or how many of its own.
        about: Returns, for an arm's ``prompt``, ``system_prompt`` and ``dialect``, what else its samples depend on.
        command: The command that resumes these runs, for the manifest.
        open_envs: Called as ``open_envs(num_envs, **arguments)`` with ``config.env_kwargs(arm)`` and, unless they are
            the environment's own, ``problems``; by default for ``config.env``.
        load: Loads the model of a folder; by default :func:`agents.evaluation.players.load_engine`. Its engine is
            closed at the end.
        log: Receives lines for the user.

    Returns:
        The runs' folders.

    Raises:
        ConfigError: ``num_samples`` or ``temperature`` names a set that is not in ``sets``, a run cannot be written,
            or Ray is missing.
        RunError: An existing run has other settings, or another process is writing to it.
        ModelError: A model cannot be loaded, or its tokenizer cannot be used for chats.
        EngineError: There is no such API, or it rejects the key, the model or a request.
        EngineFault: An API fails. The samples that are done are kept.
    """
    if config.cluster.engines:
        check_ray()
    open_envs = open_envs or partial(_open_envs, config.env)
    sizes = _sizes(sets)
    config.samples_of(sizes)  # rejects unknown set names, as does the next line
    config.temperatures_of(sizes)
    for model, arm in product(config.model, config.arms):
        expect_writable(RunFiles.of(config, model, arm).samples)
    with ExitStack() as opened:  # reject bad arguments before resolving a model
        for arm, problems in product(config.arms, sets.values()):
            opened.enter_context(closing(open_envs(1, **_arguments(config, arm, problems))))
    if config.served != config.model:
        config = replace(config, dtype=engine_dtype(config, log=log))
    plans = []
    for model in config.model:
        player = find_player(config, model, load=load, log=log)
        for arm in config.arms:
            more = about(**{name: config.env_kwargs(arm)[name] for name in ("prompt", "system_prompt", "dialect")})
            made_with = describe_run(config, model=player.about, arm=arm, sizes=sizes, about=more)
            plans.append(_Plan(model=model, player=player, arm=arm, about=made_with))
    folders = [plan.files(config).folder for plan in plans]
    names = [f"{plan.model} {plan.arm}" for plan in plans]
    expect(len(set(folders)) == len(folders), "model and arms", "to give each run a folder of its own", names)
    for plan in plans:
        plan.files(config).claim(plan.about)
    for _, arms in groupby(plans, key=lambda plan: plan.model):
        _run_model(config, sets, list(arms), command=command, open_envs=open_envs, log=log)
    return folders


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """One run."""

    model: str
    player: Player
    arm: str
    about: Mapping[str, Any]

    def files(self, config: EvalConfig) -> RunFiles:
        return RunFiles.of(config, self.model, self.arm)


def _sizes(sets: Sets) -> dict[str, int]:
    return {name: problems if isinstance(problems, int) else len(problems) for name, problems in sets.items()}


def _arguments(config: EvalConfig, arm: str, problems: Sequence[Any] | int) -> dict[str, Any]:
    """Return the environment's arguments for one arm and set."""
    return {**config.env_kwargs(arm), **({} if isinstance(problems, int) else {"problems": problems})}


def _run_model(
    config: EvalConfig,
    sets: Sets,
    plans: Sequence[_Plan],
    *,
    command: str,
    open_envs: OpenEnvs,
    log: Callable[[str], Any],
) -> None:
    """Play the missing samples of one model's runs; a model without missing samples is not loaded."""
    plans = [plan for plan in plans if plan.files(config).num_samples() < len(_places(config, sets))]
    if not plans:
        return
    player = plans[0].player
    with player.opened() as (play, decode):
        for plan in plans:
            files = plan.files(config)
            with SampleFile(files.samples) as file:
                files.write_manifest(plan.about, describe_session(command))
                if file.dropped:
                    log(f"Dropped an incomplete sample at the end of {files.samples}; it will be played again.")
                record = _Record(file, _places(config, sets), decode=decode)
                log(f"{files.folder}: {len(file.rows)} samples found, {len(record.missing)} to play.")
                with record.bar(f"{Path(plan.model).name} {plan.arm}", log):
                    _play_sets(config, sets, record, plan, open_envs=open_envs, play=play)


def _play_sets(
    config: EvalConfig,
    sets: Sets,
    record: _Record,
    plan: _Plan,
    *,
    open_envs: OpenEnvs,
    play: Play,
) -> None:
    """Play the missing samples of one run."""
    for name, temperature in config.temperatures_of(sets).items():
        missing = frozenset((problem, sample) for of_set, problem, sample in record.missing if of_set == name)
        if not missing:
            continue
        arguments = _arguments(config, plan.arm, sets[name])
        with closing(open_envs(plan.player.num_envs, **arguments)) as envs:
            play(
                envs,
                Sampling(
                    temperature=temperature,
                    top_p=config.top_p,
                    top_k=config.top_k,
                    min_p=config.min_p,
                    max_tokens=config.max_completion_length,
                ),
                num_problems=_sizes(sets)[name],
                num_samples=config.samples_of(sets)[name],
                seed=config.seed,
                options={"interaction_budget": arguments["interaction_budget"]},
                wanted=missing.__contains__,
                on_end=partial(record.add, name),
            )


def _places(config: EvalConfig, sets: Sets) -> set[Place]:
    """Return all samples of a run."""
    counts = config.samples_of(sets)
    return {
        (name, problem, sample)
        for name, size in _sizes(sets).items()
        for problem in range(size)
        for sample in range(counts[name])
    }


class _Record:
    """Writes samples as they finish, and shows the progress of a run.

    Args:
        file: The output file; it may already contain samples.
        wanted: All samples of the complete run.
        decode: Returns the text of a prompt's tokens.
    """

    def __init__(
        self, file: SampleFile, wanted: Collection[Place], *, decode: Callable[[Sequence[int]], str] | None = None
    ) -> None:
        self.missing = set(wanted)
        self._decode = decode
        self._file, self._total = file, len(wanted)
        self._problems: dict[tuple[str, int], int] = Counter((name, problem) for name, problem, _ in wanted)
        self._played: dict[tuple[str, int], list[Sample]] = {}
        for row in file.rows:
            self._count(row)

    @contextmanager
    def bar(self, title: str, log: Callable[[str], Any]) -> Iterator[None]:
        """Show a progress bar with the remaining time; without a terminal, log a line for each tenth of the samples."""
        self._log = log
        done = self._total - len(self.missing)
        with open_bar(title, total=self._total, done=done) as self._bar:
            self._bar.set_postfix_str(self.progress())
            yield

    def add(self, name: str, trajectory: Trajectory, usage: Usage | None = None) -> None:
        """Write a sample of a set."""
        row = transcript(trajectory, set_name=name, decode=self._decode, usage=usage)
        self._file.append(row)
        self._count(row)
        self._bar.set_postfix_str(self.progress(), refresh=False)
        self._bar.update()
        done = self._total - len(self.missing)
        if self._bar.disable and 10 * done // self._total > 10 * (done - 1) // self._total:
            self._log(f"{done} of {self._total} samples, {self.progress()}")

    def progress(self) -> str:
        """Return the number of finished problems, and the accuracy so far with its interval over problems."""
        done = sum(len(rows) == self._problems.get(problem) for problem, rows in self._played.items())
        judged = [[row["correct"] for row in rows if row["reward_valid"]] for rows in self._played.values()]
        means = [fmean(rows) for rows in judged if rows]
        text = f"{done}/{len(self._problems)} problems"
        if means:
            low, high = score_interval(fmean(means), len(means))
            text += f", accuracy {100 * fmean(means):.1f}% [{100 * low:.1f}, {100 * high:.1f}]"
        return text

    def _count(self, row: Sample) -> None:
        self.missing.discard((row["set"], row["problem_index"], row["sample"]))
        self._played.setdefault((row["set"], row["problem_index"]), []).append(row)
