"""The configuration of a run: frozen dataclasses, checked when they are made.

Every field is a flag of ``train.py``. `agents.config.presets` has ready configurations.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from agents.config.cluster import ClusterConfig
from agents.config.schedules import CompetenceConfig, parse_budgets, parse_schedule
from agents.config.shared import (
    CHAT_TEMPLATE_KWARGS,
    EngineArguments,
    EnvArguments,
    Template,
    check_dialect,
    check_template_kwargs,
)
from agents.core.errors import expect
from agents.core.plugins import check_name

ADVANTAGES = ("reinforce_plus_plus_baseline", "reinforce_plus_plus", "grpo", "dr_grpo", "rloo", "gae")
AGGREGATIONS = ("token", "sequence", "constant")
_CPU_ROWS = 64
_MOST_GPU_ROWS = 512  # the most that vLLM captures CUDA graphs for
TRACKERS = ("tensorboard", "wandb", "trackio")


@dataclass(frozen=True, kw_only=True)
class EnvConfig(EnvArguments):
    """Which environment, and which problems."""

    decontaminate: str | None = None
    """Folder with benchmark files: their problems are excluded from training. None: no check."""
    interaction_budget: str = "2"
    """Executions per episode: a number, a schedule over training steps such as 0:2,100:3,200:4, or competence."""
    competence: CompetenceConfig = field(default_factory=CompetenceConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interaction_budget != "competence":
            parse_budgets(self.interaction_budget)

    def kwargs(self, *, split: str) -> dict[str, Any]:
        """Return the keyword arguments of ``gymnasium.make``."""
        decontaminate = self.decontaminate if split == "train" else None
        return {**super().kwargs(split=split), "decontaminate": decontaminate}


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """Order of the training problems; by default each pass is shuffled anew."""

    subjects: str | None = None
    """Subjects by training steps, such as 0:algebra,100:algebra|geometry,200:*, where * is all. None: all."""
    easy_first_steps: int = 0
    """Sort the problems of this many first steps by level, easy ones first."""
    window: float = 0.1
    """How far a problem may move at random from its place by level, as a share of what is sorted."""

    def __post_init__(self) -> None:
        subjects = self.subjects
        valid = subjects is None or bool(parse_schedule(subjects))
        expect(valid, "curriculum.subjects", "like '0:algebra,100:algebra|geometry'", subjects)
        expect(self.easy_first_steps >= 0, "curriculum.easy_first_steps", "of at least 0", self.easy_first_steps)
        expect(0 <= self.window <= 1, "curriculum.window", "in [0, 1]", self.window)
        both = bool(subjects and self.easy_first_steps)
        expect(not both, "curriculum.easy_first_steps", "0 beside curriculum.subjects", self.easy_first_steps)


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(EngineArguments):
    """How trajectories are sampled."""

    num_problems: int = 8
    """Problems of one training step."""
    num_generations: int = 8
    """Episodes of each problem: the group that shares a baseline."""
    temperature: float = 1.0
    """Sampling temperature."""
    max_completion_length: int = 128
    """Tokens after the prompt, feedback included."""
    num_envs: int | None = None
    """Episodes in flight: more than max_num_seqs keep the engine busy while blocks run. None: as many as it takes, and
    on a GPU no more than vLLM's cache holds."""
    num_extra_problems: int = 0
    """Problems begun beyond num_problems: the first groups with different rewards are trained on, the rest dropped."""
    max_new_tokens: int | None = None
    """Tokens of an episode in one step; longer ones continue in the next. None: no limit."""
    max_staleness: int = 0
    """Most updates by which the weights that sampled a token may lag behind those that train on it. 0: sample, then
    update; 1: sample the next step's episodes during the update; more, on a cluster: those of as many further steps."""
    reproducible: bool | None = None
    """Give each request a random stream of its own, so that what it samples does not depend on the others, up to
    rounding. None: on a CPU; on a GPU vLLM is faster with one stream for all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_problems", "max_completion_length", "num_envs", "max_new_tokens"):
            value = getattr(self, name)
            expect(value is None or value >= 1, name, "of at least 1", value)
        if self.max_new_tokens is not None and self.num_envs is not None:
            needed = replace(self, num_envs=None).pool_size
            expect(self.num_envs >= needed, "num_envs", f"of at least {needed} beside max_new_tokens", self.num_envs)
        expect(self.num_extra_problems >= 0, "num_extra_problems", "of at least 0", self.num_extra_problems)
        needed, parts = self._num_parts - 1, self._num_parts
        expect(
            self.max_staleness >= needed,
            "max_staleness",
            f"of at least {needed}" + (f" (max_new_tokens lets an episode take {parts} steps)" if needed else ""),
            self.max_staleness,
        )
        whole = self.max_new_tokens is None or not self.num_extra_problems
        expect(
            whole,
            "num_extra_problems",
            "0 beside max_new_tokens (paused episodes cannot be chosen from)",
            self.num_extra_problems,
        )
        expect(self.num_generations >= 2, "num_generations", "of at least 2", self.num_generations)
        expect(self.temperature > 0, "temperature", "above 0", self.temperature)
        expect(
            self.max_model_len > self.max_completion_length,
            "max_model_len",
            f"above max_completion_length ({self.max_completion_length})",
            self.max_model_len,
        )

    @property
    def num_episodes(self) -> int:
        """Episodes that one training step begins."""
        return (self.num_problems + self.num_extra_problems) * self.num_generations

    @property
    def steps_ahead(self) -> int:
        """Of how many steps the episodes are sampled before the update of the present one has ended."""
        return self.max_staleness - (self._num_parts - 1)

    @property
    def _num_parts(self) -> int:
        """In how many steps an episode is sampled, at most."""
        return 1 if self.max_new_tokens is None else math.ceil(self.max_completion_length / self.max_new_tokens)

    @property
    def num_rows(self) -> int:
        """How many episodes are sampled at once; see :meth:`sized` for a GPU."""
        return self.max_num_seqs or _CPU_ROWS

    def sized(self, *, on_gpu: bool, processes: int) -> RolloutConfig:
        """Return the configuration with a number of rows for this device.

        >>> RolloutConfig(num_problems=16, num_generations=16).sized(on_gpu=True, processes=2).num_rows
        128
        """
        if self.max_num_seqs is not None or not on_gpu:
            return self
        return replace(self, max_num_seqs=min(_MOST_GPU_ROWS, math.ceil(self.num_episodes / processes)))

    @property
    def pool_size(self) -> int:
        """How many copies of the environment play the training episodes."""
        if self.num_envs is not None or self.max_new_tokens is None:
            return self.num_envs or self.num_rows
        return self.num_problems * self.num_generations * self._num_parts


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights change."""

    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    """AdamW, or torchao's with 2 bytes of state for each parameter instead of 8 (extra torchao)."""
    learning_rate: float = 1e-6
    """AdamW's, without a schedule or at its peak."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """Keep the learning rates, or lower them to 0 by the last step, linearly or along a cosine."""
    warmup_steps: int = 0
    """Training steps in which the learning rates first rise from 0."""
    adam_beta1: float = 0.9
    """AdamW's."""
    adam_beta2: float = 0.999
    """AdamW's."""
    weight_decay: float = 0.01
    """AdamW's."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    micro_batch_tokens: int = 2048
    """Tokens of one forward and backward pass, shared prefixes counted once; changes memory, not results."""

    @property
    def num_updates(self) -> int:
        """Optimizer steps of one training step."""
        return 1

    def __post_init__(self) -> None:
        expect(self.micro_batch_tokens >= 1, "micro_batch_tokens", "of at least 1", self.micro_batch_tokens)
        for name in ("learning_rate", "max_grad_norm"):
            expect(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        for name in ("weight_decay", "warmup_steps"):
            expect(getattr(self, name) >= 0, name, "of at least 0", getattr(self, name))
        for name in ("adam_beta1", "adam_beta2"):
            expect(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class PPOConfig(OptimizerConfig):
    """The update."""

    advantage: str = "reinforce_plus_plus_baseline"
    """reinforce_plus_plus_baseline, reinforce_plus_plus, grpo, dr_grpo, rloo, gae (which adds a value head), or your
    own estimator as module:function."""
    aggregation: str = "token"
    """token: mean over the minibatch's tokens; sequence: mean over sequences of their means; constant: sum over
    max_completion_length; or your own as module:function."""
    ratio: Literal["token", "sequence"] = "token"
    """Clip each token's ratio, or the sequence's geometric mean of them (GSPO)."""
    kl_coefficient: float = 0.0
    """Weight of a KL penalty towards the model that training began with; 0: no penalty, and no copy."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """How the KL divergence is estimated from the sampled tokens."""
    entropy_coefficient: float = 0.0
    """Weight of an entropy bonus."""
    tool_efficiency: float = 0.0
    """Favour right answers with fewer executed blocks than other right ones of their group, above all on easy problems
    (after AdaTIR): weight of the shaped part of their advantages. 0: none."""
    num_epochs: int = 1
    """Passes over each step's trajectories."""
    num_minibatches: int = 2
    """Optimizer steps in each pass."""
    epsilon: float = 0.2
    """Lower clip range of the ratio."""
    epsilon_high: float = 0.28
    """Upper clip range of the ratio."""
    dual_clip: float | None = 3.0
    """Bound of the ratio for negative advantages. None: no bound."""
    importance_sampling: Literal["none", "token", "sequence", "geometric"] = "none"
    """Correct for the mismatch between engine and trainer, by the ratio at this level."""
    importance_sampling_bound: Literal["truncate", "mask"] = "truncate"
    """Cap a large ratio, or drop tokens whose ratio is outside [1 / cap, cap]."""
    importance_sampling_cap: float = 2.0
    """Largest ratio."""
    gamma: float = 1.0
    """Discount (gae)."""
    lam: float = 1.0
    """Trace decay (gae)."""
    value_coefficient: float = 0.5
    """Weight of the value loss (gae)."""
    critic: Literal["shared", "separate"] = "shared"
    """Let the value head read the policy's hidden states, or those of a copy of the model (gae)."""
    critic_learning_rate: float = 1e-5
    """AdamW's for a separate critic; the schedule is the same."""

    @property
    def num_updates(self) -> int:
        """Optimizer steps of one training step."""
        return self.num_epochs * self.num_minibatches

    def __post_init__(self) -> None:
        check_name("ppo.advantage", self.advantage, ADVANTAGES, "advantages")
        check_name("ppo.aggregation", self.aggregation, AGGREGATIONS, "aggregations")
        super().__post_init__()
        for name in ("num_epochs", "num_minibatches"):
            expect(getattr(self, name) >= 1, name, "of at least 1", getattr(self, name))
        expect(self.critic_learning_rate > 0, "critic_learning_rate", "above 0", self.critic_learning_rate)
        for name in ("kl_coefficient", "entropy_coefficient", "tool_efficiency", "value_coefficient"):
            expect(getattr(self, name) >= 0, name, "of at least 0", getattr(self, name))
        expect(0 <= self.epsilon < 1, "epsilon", "in [0, 1)", self.epsilon)
        expect(self.epsilon_high >= self.epsilon, "epsilon_high", "of at least epsilon", self.epsilon_high)
        expect(self.dual_clip is None or self.dual_clip > 1, "dual_clip", "above 1", self.dual_clip)
        cap = self.importance_sampling_cap
        expect(cap >= 1, "importance_sampling_cap", "of at least 1", cap)
        own = self.critic == "shared" or self.advantage == "gae"
        expect(own, "critic", f"shared beside the advantage {self.advantage}, which has none", self.critic)
        expect(0 < self.gamma <= 1, "gamma", "in (0, 1]", self.gamma)
        expect(0 <= self.lam <= 1, "lam", "in [0, 1]", self.lam)


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters instead of all weights (needs the extra ``lora``)."""

    rank: int = 0
    """Inner dimension of an adapter; 0: train all weights, without adapters."""
    alpha: int = 32
    """An adapter's product is multiplied by alpha / rank."""

    def __post_init__(self) -> None:
        expect(self.rank >= 0, "lora.rank", "of at least 0", self.rank)
        expect(self.alpha > 0, "lora.alpha", "above 0", self.alpha)


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which episodes are trained on."""

    differing_rewards: bool = False
    """Drop groups whose rewards are all the same; always on with rollout.num_extra_problems."""
    min_accuracy: float = 0.0
    """Drop groups with a smaller share of right answers."""
    max_accuracy: float = 1.0
    """Drop groups with a larger share of right answers."""
    keep_generations: int | None = None
    """Episodes of a group that are kept: of the right ones the cleanest, of the wrong ones any. None: all."""
    mask_truncated_completions: bool = False
    """Exclude truncated answers from the loss."""
    mask_void_turns: bool = False
    """Exclude episodes that end in neither code nor an answer from the loss."""

    def __post_init__(self) -> None:
        low, high = self.min_accuracy, self.max_accuracy
        expect(0 <= low <= high <= 1, "min_accuracy", "and max_accuracy in order in [0, 1]", (low, high))
        keep = self.keep_generations
        expect(keep is None or keep >= 2, "keep_generations", "of at least 2", keep)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Accuracy on held-out problems, which are never trained on."""

    every: int = 10
    """Steps between validations; there is always one before the first and one after the last step. 0: only these."""
    problems: tuple[str, ...] = ()
    """Problem sets, named as for env.problems, other files completely; none: the test split of env.problems. The arms
    below use the first set."""
    max_overlap: float = 0.1
    """Refuse to train if a larger share of a set's problems is trained on; a smaller one is a warning."""
    num_problems: int | tuple[int, ...] = 64
    """Maximum problems of one validation: one number for all sets, or one for each."""
    interaction_budget: int = 2
    """Executions per episode, independent of the training budget; 0 if that is always 0."""
    top_p: float = 1.0
    """Nucleus sampling: probability mass that is kept."""
    text_prompt: str | None = None
    """Prompt of the text-only arm (budget 0), reported before and after; None: no such arm."""
    greedy: bool = False
    """Report greedy accuracy before and after, too."""

    def __post_init__(self) -> None:
        for name in ("every", "interaction_budget"):
            expect(getattr(self, name) >= 0, f"validation.{name}", "of at least 0", getattr(self, name))
        sizes = self.num_problems if isinstance(self.num_problems, tuple) else (self.num_problems,)
        expect(min(sizes, default=0) >= 1, "validation.num_problems", "of at least 1", self.num_problems)
        count = max(1, len(self.problems))
        one_each = isinstance(self.num_problems, int) or len(sizes) == count
        expect(one_each, "validation.num_problems", f"as one number or as {count}, one for each set", sizes)
        names = [short_name(problems) for problems in self.problems]
        expect(len(set(names)) == len(names), "validation.problems", "of different names", tuple(names))
        expect(0 <= self.max_overlap <= 1, "validation.max_overlap", "in [0, 1]", self.max_overlap)
        expect(0 < self.top_p <= 1, "validation.top_p", "in (0, 1]", self.top_p)

    def sets(self) -> dict[str, tuple[str | None, int]]:
        """Return problems (None: the test split) and their number by what stands before the metrics of each set.

        >>> ValidationConfig(problems=("products", "hub:HuggingFaceH4/MATH-500"), num_problems=(64, 500)).sets()
        {'validation': ('products', 64), 'validation/MATH-500': ('hub:HuggingFaceH4/MATH-500', 500)}
        """
        problems = self.problems or (None,)
        keys = ["validation", *(f"validation/{short_name(each)}" for each in self.problems[1:])]
        sizes = self.num_problems if isinstance(self.num_problems, tuple) else [self.num_problems] * len(problems)
        return dict(zip(keys, zip(problems, sizes, strict=True), strict=True))


def short_name(problems: str) -> str:
    """Return what metrics call a set of problems: the last part of its name, without an ending and without fields.

    >>> [short_name(name) for name in ("mixed", "data/my set.jsonl", "hub:HuggingFaceH4/MATH-500?statement=problem")]
    ['mixed', 'my set', 'MATH-500']
    """
    name = problems.partition("?")[0].rpartition(":")[2].rpartition("/")[2]
    return re.sub(r"\.(jsonl|json|csv|parquet)$", "", name)


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """Which optimizer steps are skipped, and when to warn.

    An optimizer step whose loss or gradient is not finite is always skipped.
    """

    max_approx_kl: float | None = 1.0
    """Skip optimizer steps of minibatches whose approx_kl is larger (nats). None: no bound."""
    max_skipped_steps: int = 5
    """Stop the run after this many skipped optimizer steps in a row."""
    max_collapsed_steps: int | None = None
    """Stop the run when entropy or code use collapsed in this many steps in a row. None: never."""
    window: int = 10
    """Steps whose mean is the baseline for a collapse."""
    entropy_collapse: float = 0.01
    """Warn when the entropy falls below this share of that mean; 0: never."""
    code_use_collapse: float = 0.25
    """Warn when the share of episodes with code falls below this share of that mean; 0: never."""

    def __post_init__(self) -> None:
        bound = self.max_approx_kl
        expect(bound is None or bound > 0, "max_approx_kl", "above 0", bound)
        for name in ("max_skipped_steps", "window"):
            expect(getattr(self, name) >= 1, name, "of at least 1", getattr(self, name))
        collapsed = self.max_collapsed_steps
        valid = collapsed is None or 1 <= collapsed < self.window
        expect(valid, "max_collapsed_steps", f"of at least 1 and below window ({self.window})", collapsed)
        for name in ("entropy_collapse", "code_use_collapse"):
            expect(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """What every run of ``train.py`` has."""

    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Folder, GGUF file, hub name, or "tiny"."""
    template: Template = "chat"
    """Put prompts into the model's chat template, or take them as they are."""
    chat_template_kwargs: str = CHAT_TEMPLATE_KWARGS
    """Variables of the chat template, as a JSON object; templates ignore those that they do not have."""
    output_dir: Path = Path("runs")
    """Where metrics, samples and checkpoints go."""
    resume: bool | Literal["auto"] = False
    """Resume from the newest checkpoint in output_dir; auto: if there is one, else begin."""
    save_every: int = 10
    """Steps between checkpoints; there is always one after the last step."""
    save_total_limit: int = 2
    """Newest checkpoints that are kept."""
    seed: int = 0
    """Fixes all that is drawn at random."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    autocast: bool = True
    """Compute matrix products in bfloat16 where the device does so fast; parameters stay float32."""
    compile: bool = False
    """Compile the layers' feed-forward parts; the first steps take longer."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    num_replicas: int = 1
    """Copies of the parameters, each sharded over the processes of a node or more. With one per node, gathers stay
    inside the nodes; the memory of a node must hold a whole copy with its optimizer state."""
    report_to: tuple[str, ...] = ("tensorboard",)
    """Trackers of the metrics beside metrics.jsonl, or none: tensorboard, wandb, trackio, module:function."""
    env: EnvArguments = field(default_factory=EnvArguments)
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        for tracker in self.report_to:
            check_name("report_to", tracker, TRACKERS, "trackers")
        expect(self.seed >= 0, "seed", "of at least 0", self.seed)
        for name in ("save_every", "save_total_limit", "num_replicas"):
            expect(getattr(self, name) >= 1, name, "of at least 1", getattr(self, name))
        check_dialect(self.env.dialect, self.template)
        spelled = check_template_kwargs(self.chat_template_kwargs, self.template)
        object.__setattr__(self, "chat_template_kwargs", spelled)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunArguments):
    """A whole run."""

    warm_up_steps: int = 0
    """Supervised steps on scripted arithmetic before PPO, for a randomly initialised model."""
    output_dir: Path = Path("runs/quickstart")
    """Where metrics, samples and checkpoints go."""
    max_steps: int = 8
    """Training steps: one collection of trajectories and one PPO update each."""
    best_metric: str | None = "validation/accuracy"
    """Validation metric whose best checkpoint is kept, too; larger is better. None: no best checkpoint."""
    samples_every: int = 1
    """Steps between transcripts in samples.jsonl; validations always leave some. 0: only they."""
    samples_per_step: int = 2
    """Transcripts of a step, and of each arm of a validation: right and wrong ones of the same problem first."""
    push_to_hub: bool = False
    """Upload the last checkpoint with its model card to the hub, at the end or when the run is stopped."""
    hub_model_id: str | None = None
    """The hub's NAME or OWNER/NAME to upload to; None: the name of output_dir."""
    hub_private_repo: bool = False
    """Make the hub's repository private if it is new."""
    env: EnvConfig = field(default_factory=EnvConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        keep, size = self.selection.keep_generations, self.rollout.num_generations
        expect(keep is None or keep <= size, "keep_generations", f"of at most num_generations ({size})", keep)
        expect(
            not self.rollout.max_staleness or self.ppo.importance_sampling != "none",
            "ppo.importance_sampling",
            "other than none where older weights sample (rollout.max_staleness)",
            self.ppo.importance_sampling,
        )
        expect(
            self.rollout.steps_ahead <= 1 or self.cluster.engines > 0,
            "rollout.max_staleness",
            f"of at most {self.rollout.max_staleness - self.rollout.steps_ahead + 1} without cluster.engines, "
            "since an engine beside the trainer gets its weights between two steps",
            self.rollout.max_staleness,
        )
        pauses = self.rollout.max_new_tokens is not None and self.cluster.engines > 0
        expect(not pauses, "rollout.max_new_tokens", "None beside cluster.engines", self.rollout.max_new_tokens)
        expect(
            self.cluster.weight_transfer == "store" or self.rollout.engine == "vllm",
            "rollout.engine",
            "vllm for cluster.weight_transfer nccl",
            self.rollout.engine,
        )
        best = self.best_metric
        expect(best is None or best.startswith("validation"), "best_metric", "named validation...", best)
        both = self.lora.rank and self.warm_up_steps
        expect(not both, "lora.rank", "0 for a model that is warmed up (its weights would not be kept)", self.lora.rank)
        for name in ("max_steps", "warm_up_steps", "samples_every", "samples_per_step"):
            expect(getattr(self, name) >= 0, name, "of at least 0", getattr(self, name))
