"""Measure how far the trainer's log-probabilities are from the engine's, over whole multi-turn episodes.

$ python benchmarks/exactness.py --output exactness.json
$ python benchmarks/exactness.py --model tiny --prompt question --problems arithmetic --episodes 8
$ python benchmarks/exactness.py --families all --page docs/reference/models.md

Each row is an engine in one dtype; the trainer's weights are float32 and its matrix products of the row's dtype. Beside
it stands what a pipeline would see that keeps text in place of tokens: it decodes each turn, strips it, and encodes it
again. There the sampled tokens and the trained ones differ, and their log-probabilities are compared place by place.
vLLM has rows where it is installed.

`--families` measures tiny random models in place of a whole one: of each family of `benchmarks/models.py` that the
trainer accepts, the engine is loaded with one and then gets the weights of another, as in a sync.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.core.chat import Chat
from agents.core.errors import AgentsError
from agents.core.files import write_json
from agents.core.tables import table
from agents.core.types import EpisodeSpec, Trajectory
from agents.engines import open_engine
from agents.engines.base import Sampling
from agents.learning.batching import collate
from agents.learning.policy import Policy
from agents.models.find import resolve_model
from agents.models.load import load_model, load_tokenizer
from agents.models.support import check_length
from agents.models.tiny import byte_tokenizer
from agents.rollout.collector import collect
from agents.rollout.envs import open_pool
from agents.training.weight_sync import weights_of
from benchmarks.models import FAMILIES, LENGTH, ROWS, Reasons, as_batch, replace_in_page, sample

ENGINES = ("transformers", "vllm")
DTYPES = ("float32", "bfloat16")
FAMILY_MARKS = ("<!-- the table of benchmarks/exactness.py -->\n", "<!-- the end of the table of exactness.py -->\n")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Folder, GGUF file, hub name, or "tiny"."""
    problems: str = "products"
    """As for train.py's env.problems."""
    prompt: str = "cir_one_shot"
    """Name of the prompt template."""
    episodes: int = 64
    """Episodes of each row, 4 of each problem."""
    max_completion_length: int = 96
    """Tokens after the prompt, feedback included."""
    max_model_len: int = 448
    """Tokens of a whole episode."""
    output: Path | None = None
    """Where to write the metrics as JSON."""
    families: tuple[str, ...] = ()
    """Families of benchmarks/models.py, or "all", in place of --model."""
    page: Path | None = None
    """Page whose table of families is replaced."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far two lists of log-probabilities are apart, and what was compared."""

    pipeline: str
    """Engine and dtype, and what is handed on."""
    tokens: int
    """Sampled tokens."""
    turns: float
    """Mean turns of an episode."""
    mean: float
    """Mean absolute difference in nats."""
    largest: float
    """The largest."""
    changed: float
    """Share of episodes whose sampled token ids were altered, in percent."""
    cuts: int
    """Tokens that held a block's end and more, and were replaced."""


def play(config: Config, folder: Path, chat: Chat, name: str, dtype: str) -> list[Trajectory]:
    """Sample the episodes with the engine called ``name``."""
    envs = open_pool(
        "cir_env:CodeMath-v0", 32, problems=config.problems, prompt=config.prompt, observation="feedback", split="test"
    )
    engine = open_engine(
        name,
        folder,
        chat,
        dtype=dtype,
        device=torch.device("cpu"),
        max_num_seqs=32,
        max_model_len=config.max_model_len,
    )
    episodes = [
        EpisodeSpec(group_id=i // 4, env_seed=i, sampling_seed=i, options={"problem_index": i // 4})
        for i in range(config.episodes)
    ]
    with closing(envs), closing(engine):
        return collect(envs, engine, chat, episodes, Sampling(max_tokens=config.max_completion_length))


def trained(policy: Policy, trajectories: Sequence[Trajectory]) -> list[list[float]]:
    """Return the trainer's log-probabilities of each trajectory's sampled tokens."""
    batch = collate(trajectories)
    logprobs = policy.evaluate(batch, 8).logprobs
    return [row[mask].tolist() for row, mask in zip(logprobs, batch.action_mask, strict=True)]


def through_text(chat: Chat, trajectory: Trajectory) -> tuple[list[int], list[bool]]:
    """Return token ids and mask of an episode that was kept as text: each part stripped and encoded again."""
    token_ids = list(trajectory.token_ids[: trajectory.prompt_length])
    mask = [False] * len(token_ids)
    for turn in trajectory.turns:
        for text, acted in ((turn.text, True), (turn.feedback, False)):
            part = chat.encode_feedback(text.strip()) if text else []
            if acted and turn.finish_reason == "stop":
                part.append(int(chat.tokenizer.eos_token_id))
            token_ids += part
            mask += [acted] * len(part)
    return token_ids, mask


def compare(
    pipeline: str, trajectories: Sequence[Trajectory], found: Sequence[Sequence[float]], changed: int
) -> Difference:
    """Compare log-probabilities with the engine's, place by place."""
    differences = [
        abs(ours - theirs)
        for trajectory, row in zip(trajectories, found, strict=True)
        for ours, theirs in zip(row, _sampled(trajectory), strict=False)
    ]
    return Difference(
        pipeline=pipeline,
        tokens=sum(sum(t.action_mask) for t in trajectories),
        turns=sum(len(t.turns) for t in trajectories) / len(trajectories),
        mean=sum(differences) / len(differences),
        largest=max(differences),
        changed=100 * changed / len(trajectories),
        cuts=sum(t.boundary_cuts for t in trajectories),
    )


def _sampled(trajectory: Trajectory) -> list[float]:
    pairs = zip(trajectory.logprobs, trajectory.action_mask, strict=True)
    return [logprob for logprob, acted in pairs if acted]


def _actions(token_ids: Sequence[int], mask: Sequence[bool]) -> list[int]:
    return [token_id for token_id, acted in zip(token_ids, mask, strict=True) if acted]


def measure(config: Config, folder: Path, chat: Chat, engine: str, dtype: str) -> list[Difference]:
    """Return the rows of one engine and dtype: token ids handed on, and text handed on."""
    trajectories = [t for t in play(config, folder, chat, engine, dtype) if any(t.action_mask)]
    policy = Policy(load_model(folder, "float32"), autocast=None if dtype == "float32" else torch.bfloat16)
    kept = trained(policy, trajectories)
    texts = [through_text(chat, t) for t in trajectories]
    pairs = list(zip(trajectories, texts, strict=True))
    changed = sum(_actions(t.token_ids, t.action_mask) != _actions(*text) for t, text in pairs)
    again = [
        replace(t, token_ids=tuple(ids), action_mask=tuple(mask), logprobs=(0.0,) * len(ids))
        for t, (ids, mask) in pairs
    ]
    name = f"{engine}, {dtype}"
    return [
        compare(f"{name}: tokens", trajectories, kept, 0),
        compare(f"{name}: text", trajectories, trained(policy, again), changed),
    ]


@dataclass(frozen=True, kw_only=True)
class OfFamily:
    """How far the trainer is from an engine for a tiny model of a family."""

    family: str
    """Its name."""
    engine: str
    """Engine and dtype."""
    mean: float | None = None
    """Mean absolute difference in nats; None: the model is rejected."""
    largest: float | None = None
    """The largest."""
    reason: str = ""
    """Why the model is rejected."""


def measure_family(name: str, engine: str, dtype: str) -> OfFamily:
    """Load the engine with a tiny model of a family, give it other weights, and compare it with the trainer."""
    family, chat = FAMILIES[name], Chat(byte_tokenizer())
    title = f"{engine}, {dtype}"
    with tempfile.TemporaryDirectory() as folder:
        family.build().save_pretrained(folder)
        chat.tokenizer.save_pretrained(folder)
        try:
            policy = Policy(family.build(seed=1), autocast=None if dtype == "float32" else torch.bfloat16)
            check_length(policy.model, LENGTH)
            sizes = {"max_num_seqs": ROWS, "max_model_len": LENGTH}
            opened = open_engine(engine, Path(folder), chat, dtype=dtype, device=torch.device("cpu"), **sizes)
            with closing(opened):
                opened.load_weights(1, weights_of(policy.model, getattr(torch, dtype)))
                sampled = as_batch(sample(opened))
        except AgentsError as error:
            return OfFamily(family=name, engine=title, reason=str(error).replace(folder, "this model"))
    there = sampled.action_mask
    found = (policy.evaluate(sampled, 10_000).logprobs - sampled.sampling_logprobs)[there].abs()
    return OfFamily(family=name, engine=title, mean=found.mean().item(), largest=found.max().item())


def families_table(rows: Sequence[OfFamily]) -> str:
    """Return the table, a family in each row, and the reasons below it."""
    reasons, cells = Reasons(), {row.family: [FAMILIES[row.family].title] for row in rows}
    for row in rows:
        measured = row.mean is not None
        cells[row.family].append(f"{row.mean:.0e} / {row.largest:.0e}" if measured else reasons.refer(row.reason))
    header = ["family", *dict.fromkeys(row.engine for row in rows)]
    return reasons.below(table(header, list(cells.values())))


def main(config: Config) -> list[Difference] | list[OfFamily]:
    """Measure all engines and dtypes, print the table, and return its rows."""
    engines = [name for name in ENGINES if name != "vllm" or importlib.util.find_spec("vllm")]
    if "vllm" not in engines:
        print("vllm: not installed, excluded; docs/concepts/rollouts.md says how to get it.")
    if config.families:
        names = [*FAMILIES] if config.families == ("all",) else config.families
        cases = list(product(names, engines, DTYPES))
        of_families = [measure_family(*case) for case in tqdm(cases)]
        # the families that the trainer rejects have their reasons in the other table
        accepted = {row.family for row in of_families if row.mean is not None}
        of_families = [row for row in of_families if row.family in accepted]
        print(printed := families_table(of_families))
        if config.page is not None:
            replace_in_page(config.page, FAMILY_MARKS, printed)
        if config.output is not None:
            write_json(config.output, {"rows": [asdict(row) for row in of_families]})
        return of_families
    folder = resolve_model(config.model)
    chat = Chat(load_tokenizer(folder))
    rows = [row for engine in engines for dtype in DTYPES for row in measure(config, folder, chat, engine, dtype)]
    cells = [
        [
            r.pipeline,
            str(r.tokens),
            f"{r.turns:.2f}",
            f"{r.mean:.1e}",
            f"{r.largest:.1e}",
            f"{r.changed:.0f}",
            str(r.cuts),
        ]
        for r in rows
    ]
    header = ["handed to the trainer", "tokens", "turns", "mean difference", "largest", "episodes changed, %", "cuts"]
    print(table(header, cells))
    if config.output is not None:
        write_json(config.output, {"config": asdict(config), "rows": [asdict(row) for row in rows]})
    return rows


if __name__ == "__main__":
    main(tyro.cli(Config))
