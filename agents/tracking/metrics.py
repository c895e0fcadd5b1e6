"""Every metric of ``metrics.jsonl``, which a run's trackers get as well. Tests compare the list with a run.

Names are TRL's where TRL has the same metric. Metrics of a step are means over its episodes unless stated otherwise;
metrics of the update are means over the sampled tokens of all its minibatches.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """Metrics of one kind."""

    names: tuple[str, ...]
    """``<level>``, ``<subject>``, ``<name>`` and ``<validation>`` stand for what there is in a run; the last for
    ``validation``, ``validation/<name>``, ``validation_greedy`` and ``validation_text``."""
    unit: str
    """Or the range."""
    meaning: str
    """Of each name, in Markdown."""


METRICS = (
    Metric(("reward", "reward_std"), "reward", "mean and standard deviation over the episodes"),
    Metric(("accuracy",), "0 to 1", "share of right answers"),
    Metric(("frac_reward_zero_std",), "0 to 1", "share of the groups in which all rewards are equal"),
    Metric(("completions/mean_length", "completions/max_length"), "tokens", "sampled per episode"),
    Metric(
        ("completions/mean_length_right", "completions/mean_length_wrong"),
        "tokens",
        "sampled per right, and per wrong episode; missing without one",
    ),
    Metric(("completions/mean_feedback_length",), "tokens", "inserted by the environment per episode"),
    Metric(("completions/clipped_ratio",), "0 to 1", "share of the episodes that were truncated"),
    Metric(("tools/call_frequency",), "blocks", "written per episode, executed or not"),
    Metric(
        ("tools/call_frequency/level/<level>", "tools/call_frequency/subject/<subject>"),
        "blocks",
        "the same for problems of one level, and of one subject; missing unless there are several",
    ),
    Metric(("tools/use_ratio",), "0 to 1", "share of the episodes that write a block"),
    Metric(
        ("tools/output_use_ratio",),
        "0 to 1",
        "share of the executed blocks that printed the answer which the episode gives: as a number of the same "
        "value, or else as the same text. If it falls while `tools/use_ratio` stays, code has become an "
        "afterthought",
    ),
    Metric(
        ("tools/failure_frequency", "tools/timeout_frequency"),
        "0 to 1",
        "share of the executions that fail, and that time out",
    ),
    Metric(
        ("tools/recovery_ratio", "tools/recovery_right_ratio"),
        "0 to 1",
        "of the valid episodes with a failed block, the share in which a later block ran, and in which the answer"
        " is right as well; missing without a failure",
    ),
    Metric(("tools/budget_exhausted_ratio",), "0 to 1", "share of the episodes that use up their budget"),
    Metric(("tools/execution_s",), "seconds", "per execution"),
    Metric(("interaction_budget",), "blocks", "that an episode may execute"),
    Metric(("episodes/void_ratio",), "0 to 1", "share of the episodes that end in neither code nor an answer"),
    Metric(
        ("episodes/invalid_ratio",),
        "0 to 1",
        "share of the episodes with an infrastructure error; they count in neither rewards nor accuracy",
    ),
    Metric(("episodes/boundary_cuts",), "tokens", "cut at the end of a block, over all episodes"),
    Metric(("episodes/grading_s",), "seconds", "of the step that ends an episode"),
    Metric(("selection/kept_ratio",), "0 to 1", "share of the episodes that are trained on"),
    Metric(
        ("sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max"),
        "nats",
        "between engine and trainer, per sampled token",
    ),
    Metric(
        (
            "sampling/importance_sampling_ratio/min",
            "sampling/importance_sampling_ratio/mean",
            "sampling/importance_sampling_ratio/max",
        ),
        "ratio",
        "the trainer's probability of a sampled token over the engine's; with `--ppo.importance-sampling` the "
        "factor of the advantages, after its bound",
    ),
    Metric(
        ("sampling/importance_sampling_ratio/capped",),
        "0 to 1",
        "share of the sampled tokens whose ratio was capped or masked by `--ppo.importance-sampling`",
    ),
    Metric(
        ("sampling/probe_difference",),
        "nats",
        "between engine and trainer on a fixed prompt, after each weight sync",
    ),
    Metric(
        ("sampling/dropped_tokens",),
        "tokens",
        "that vLLM has sampled past the end of a turn, and that were dropped",
    ),
    Metric(
        ("sampling/staleness_mean", "sampling/staleness_max"),
        "updates",
        "by which the weights that sampled a token are older than the trainer's",
    ),
    Metric(("policy_loss",), "advantage", "clipped loss"),
    Metric(("value_loss",), "reward squared", "of the value head (`gae`)"),
    Metric(("kl",), "nats", "from the initial model (`--ppo.kl-coefficient`)"),
    Metric(("entropy",), "nats", "of the policy"),
    Metric(("approx_kl",), "nats", "between the policy before the update and during it"),
    Metric(("clip_ratio/low_mean", "clip_ratio/high_mean"), "0 to 1", "share of the tokens clipped below, and above"),
    Metric(("grad_norm",), "norm", "of the gradient before clipping, over the minibatches"),
    Metric(("learning_rate",), "", "AdamW's in the last minibatch"),
    Metric(("num_updates",), "optimizer steps", "taken; if it is 0, the metrics of the update are missing"),
    Metric(
        ("health/skipped_steps", "health/skipped_in_a_row"),
        "optimizer steps",
        "skipped in this step; consecutive ones so far",
    ),
    Metric(("health/entropy_collapse", "health/code_use_collapse"), "0 or 1", "whether the metric has collapsed"),
    Metric(("tokens_per_second",), "tokens per second", "sampled by all processes, over `time/sampling_s`"),
    Metric(
        ("engine/utilisation",),
        "0 to 1",
        "share of the sampling time in which the engine is busy, over all processes",
    ),
    Metric(
        ("engine/waiting_s",),
        "seconds",
        "in which all episodes of a process wait for their environments, mean over processes",
    ),
    Metric(("step_time",), "seconds", "of the whole step"),
    Metric(
        ("time/sampling_s", "time/update_s", "time/validation_s"),
        "seconds",
        "of its parts, and of a validation; sampling: of the slowest process",
    ),
    Metric(
        ("time/sampling_mean_s",),
        "seconds",
        "of sampling, mean over processes: far less than `time/sampling_s` if one process is slow",
    ),
    Metric(
        ("<validation>/accuracy",),
        "0 to 1",
        "of `validation`, `validation/<name>`, `validation_greedy` and `validation_text`",
    ),
    Metric(("<validation>/accuracy/<subject>",), "0 to 1", "if the problems have several subjects"),
    Metric(("<validation>/completions/mean_length",), "tokens", "as above"),
    Metric(
        (
            "<validation>/tools/use_ratio",
            "<validation>/tools/output_use_ratio",
            "<validation>/tools/recovery_ratio",
            "<validation>/tools/recovery_right_ratio",
            "<validation>/episodes/invalid_ratio",
        ),
        "0 to 1",
        "as above",
    ),
    Metric(
        (
            "<validation>/tools/call_frequency",
            "<validation>/tools/call_frequency/level/<level>",
            "<validation>/tools/call_frequency/subject/<subject>",
        ),
        "blocks",
        "as above",
    ),
)
