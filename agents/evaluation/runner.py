"""Accuracy of a policy on a set of problems: every problem gets the same number of episodes.

`run` plays all sets, models and arms of an `EvalConfig`: it writes each sample as it finishes, and resumes where an
earlier process was killed. It plays a single set with `agents.rollout.evaluate`, which the trainer uses for validation.
`agents.evaluation.metrics` computes metrics from the samples, `agents.evaluation.tables` prints them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from agents.config.evaluation import EvalConfig
from agents.config.shared import EnvArguments
from agents.core.errors import ConfigError, expect
from agents.core.files import expect_writable
from agents.core.samples import Sample, SampleFile, transcript
from agents.core.types import Trajectory
from agents.engines.base import Sampling
from agents.evaluation.bootstrap import score_interval
from agents.evaluation.manifest import describe_run, describe_session, weights_revision
from agents.evaluation.run_folder import RunFiles
from agents.models.devices import pick_device, pick_dtype
from agents.models.find import resolve_model
from agents.models.load import load_tokenizer
from agents.rollout.envs import EnvPool, lacking, open_split
from agents.rollout.evaluate import evaluate

if TYPE_CHECKING:
    from agents.core.chat import Chat
    from agents.engines.base import Engine

Place = tuple[str, int, int]
"""Identifies a sample: set, problem index and sample number."""
Sets = Mapping[str, "Sequence[Any] | int"]
"""Problem sets by name, in the form of the environment's argument ``problems``; or how many of its own problems."""
OpenEnvs = Callable[..., EnvPool]
Load = Callable[[EvalConfig, Path], "tuple[Engine, Chat]"]


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
    with closing(open_split(env, 1, split="test")) as envs:
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
        about: Returns, for an arm's ``prompt`` and ``system_prompt``, what else its samples depend on.
        command: The command that resumes these runs, for the manifest.
        open_envs: Called as ``open_envs(num_envs, **arguments)`` with ``config.env_kwargs(arm)`` and, unless they are
            the environment's own, ``problems``; by default for ``config.env``.
        load: Loads the model of a folder; by default :func:`load_engine`. Its engine is closed at the end.
        log: Receives lines for the user.

    Returns:
        The runs' folders.

    Raises:
        ConfigError: ``num_samples`` or ``temperature`` names a set that is not in ``sets``, or a run cannot be
            written.
        RunError: An existing run has other settings, or another process is writing to it.
        ModelError: A model cannot be loaded, or its tokenizer cannot be used for chats.
    """
    open_envs = open_envs or partial(_open_envs, config.env)
    sizes = _sizes(sets)
    config.samples_of(sizes)  # rejects unknown set names, as does the next line
    config.temperatures_of(sizes)
    for model, arm in product(config.model, config.arms):
        expect_writable(RunFiles.of(config, model, arm).samples)
    with ExitStack() as opened:  # reject bad arguments before resolving a model
        for arm, problems in product(config.arms, sets.values()):
            opened.enter_context(closing(open_envs(1, **_arguments(config, arm, problems))))
    config = replace(config, dtype=pick_dtype(config.dtype, pick_device("auto"), log=log))
    plans = []
    for model in config.model:
        path = resolve_model(model, log=log)
        revision = weights_revision(path)
        for arm in config.arms:
            more = about(**{name: config.env_kwargs(arm)[name] for name in ("prompt", "system_prompt")})
            made_with = describe_run(config, model=model, revision=revision, arm=arm, sizes=sizes, about=more)
            plans.append(_Plan(model=model, path=path, arm=arm, about=made_with))
    folders = [plan.files(config).folder for plan in plans]
    names = [f"{plan.model} {plan.arm}" for plan in plans]
    expect(len(set(folders)) == len(folders), "model and arms", "to give each run a folder of its own", names)
    for plan in plans:
        plan.files(config).claim(plan.about)
    for _, arms in groupby(plans, key=lambda plan: plan.model):
        _run_model(config, sets, list(arms), command=command, open_envs=open_envs, load=load or load_engine, log=log)
    return folders


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """One run."""

    model: str
    path: Path
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
    load: Load,
    log: Callable[[str], Any],
) -> None:
    """Play the missing samples of one model's runs; a model without missing samples is not loaded."""
    plans = [plan for plan in plans if plan.files(config).num_samples() < len(_places(config, sets))]
    if not plans:
        return
    engine, chat = load(config, plans[0].path)
    with closing(engine):
        for plan in plans:
            files = plan.files(config)
            with SampleFile(files.samples) as file:
                files.write_manifest(plan.about, describe_session(command))
                if file.dropped:
                    log(f"Dropped an incomplete sample at the end of {files.samples}; it will be played again.")
                record = _Record(file, _places(config, sets), decode=chat.decode)
                log(f"{files.folder}: {len(file.rows)} samples found, {len(record.missing)} to play.")
                with record.bar(f"{plan.model} {plan.arm}"):
                    _play_sets(config, sets, record, arm=plan.arm, open_envs=open_envs, engine=engine, chat=chat)


def _play_sets(
    config: EvalConfig,
    sets: Sets,
    record: _Record,
    *,
    arm: str,
    open_envs: OpenEnvs,
    engine: Engine,
    chat: Chat,
) -> None:
    """Play the missing samples of one run."""
    for name, temperature in config.temperatures_of(sets).items():
        missing = frozenset((problem, sample) for of_set, problem, sample in record.missing if of_set == name)
        if not missing:
            continue
        arguments = _arguments(config, arm, sets[name])
        with closing(open_envs(config.max_num_seqs, **arguments)) as envs:
            evaluate(
                envs,
                engine,
                chat,
                Sampling(temperature=temperature, top_p=config.top_p, max_tokens=config.max_completion_length),
                num_problems=_sizes(sets)[name],
                num_samples=config.samples_of(sets)[name],
                seed=config.seed,
                options={"interaction_budget": arguments["interaction_budget"]},
                wanted=missing.__contains__,
                on_end=partial(record.add, name),
            )


def _places(config: EvalConfig, sets: Sets) -> set[Place]:
    """Return the samples of this process's shard."""
    index, count = config.shard_of
    counts = config.samples_of(sets)
    return {
        (name, problem, sample)
        for name, size in _sizes(sets).items()
        for problem in range(index, size, count)
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
    def bar(self, title: str) -> Iterator[None]:
        """Show a progress bar with the remaining time."""
        done = self._total - len(self.missing)
        with tqdm(total=self._total, initial=done, desc=title, unit="sample", dynamic_ncols=True) as self._bar:
            self._bar.set_postfix_str(self.progress())
            yield

    def add(self, name: str, trajectory: Trajectory) -> None:
        """Write a sample of a set."""
        row = transcript(trajectory, set_name=name, decode=self._decode)
        self._file.append(row)
        self._count(row)
        self._bar.set_postfix_str(self.progress(), refresh=False)
        self._bar.update()

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


def load_engine(config: EvalConfig, path: Path) -> tuple[Engine, Chat]:
    """Load the model of a folder into an engine; return it with its chat.

    Raises:
        ModelError: The model cannot be loaded, or its tokenizer cannot be used for chats.
    """
    from agents.core.chat import Chat
    from agents.engines import open_engine

    device = pick_device("auto")
    print(f"Loading {path} on {device} in {config.dtype}.", flush=True)
    chat = Chat(load_tokenizer(path), config.template, template_kwargs=json.loads(config.chat_template_kwargs))
    engine = open_engine(
        config.engine,
        path,
        chat,
        dtype=config.dtype,
        device=device,
        max_num_seqs=config.max_num_seqs,
        max_model_len=config.max_model_len,
        gpu_memory_utilization=config.vllm_gpu_memory_utilization,
    )
    return engine, chat
