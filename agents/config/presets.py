"""Ready configurations: each preset is a function whose docstring says what it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import tyro

from agents.config import sft
from agents.config.files import first_paragraph, parse_one, parse_with_files, with_values
from agents.config.training import EnvConfig, PPOConfig, RolloutConfig, TrainConfig, ValidationConfig

AnyConfig = TrainConfig | sft.SFTConfig
"""What ``train.py`` takes."""


def quickstart() -> TrainConfig:
    """SmolLM2-135M-Instruct learns multiplication by Python on 2 CPU cores, in about 6 minutes."""
    return TrainConfig(
        env=EnvConfig(problems="products", prompt="cir_one_shot"),
        rollout=RolloutConfig(num_problems=8, num_generations=8, max_completion_length=72, max_model_len=384),
        ppo=PPOConfig(learning_rate=2e-5),
        validation=ValidationConfig(every=4, greedy=True),
    )


def mixed() -> TrainConfig:
    """The harder run on CPU: gcd, remainders, powers, series, primes, equations and more, by subject.

    It samples at temperature 0.6: at 1.0 the untrained model solves 3 in 100, and most groups give no signal.
    """
    return TrainConfig(
        output_dir=Path("runs/mixed"),
        max_steps=24,
        env=EnvConfig(problems="mixed", prompt="cir_one_shot"),
        rollout=RolloutConfig(
            num_problems=12, temperature=0.6, max_completion_length=112, max_model_len=448, max_num_seqs=96
        ),
        ppo=PPOConfig(learning_rate=2e-5),
        validation=ValidationConfig(every=8, num_problems=96, text_prompt="text_one_shot", greedy=True),
    )


def laptop() -> TrainConfig:
    """Qwen2.5-Coder-0.5B-Instruct on generated problems of many subjects: hours on 2 CPU cores, in parts."""
    return TrainConfig(
        model="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        output_dir=Path("runs/laptop"),
        max_steps=60,
        save_every=5,
        gradient_checkpointing=True,
        env=EnvConfig(problems="mixed+reasoning_gym", prompt="cir_one_shot"),
        rollout=RolloutConfig(num_problems=8, num_generations=8, max_completion_length=256, max_model_len=1024),
        ppo=PPOConfig(learning_rate=5e-6),
        validation=ValidationConfig(every=20, num_problems=200, text_prompt="text_one_shot", greedy=True),
    )


def gsm8k() -> TrainConfig:
    """Qwen2.5-Coder-0.5B-Instruct on GSM8K's 7,473 training problems, tested on the first 400 of its test problems.

    From the hub, or with ``--env.problems "FOLDER?fields=gsm8k"`` from a folder with train.jsonl and test.jsonl.

    More than half of the groups have equal rewards, so it begins twice the problems. With laptop's learning rate,
    answers grew until they were cut off (docs/results.md).
    """
    base = laptop()
    return replace(
        base,
        output_dir=Path("runs/gsm8k"),
        env=replace(base.env, problems="gsm8k"),
        rollout=replace(base.rollout, temperature=0.6, num_extra_problems=8),
        ppo=replace(base.ppo, learning_rate=2e-6, warmup_steps=2),
        validation=replace(base.validation, num_problems=400),
    )


def tiny() -> TrainConfig:
    """A tiny transformer without any download learns to add by Python in two minutes on one CPU core."""
    return TrainConfig(
        model="tiny",
        warm_up_steps=1000,
        output_dir=Path("runs/tiny"),
        max_steps=20,
        autocast=False,
        env=EnvConfig(problems="arithmetic", prompt="question"),
        rollout=RolloutConfig(
            num_problems=8, num_generations=16, max_completion_length=128, max_model_len=256, dtype="float32"
        ),
        ppo=PPOConfig(learning_rate=3e-4),
        validation=ValidationConfig(every=10, num_problems=100),
    )


def qwen2_5_math_7b() -> TrainConfig:
    """The paper's run: Qwen2.5-Math-7B on STILL-3, 300 steps of 128 x 16 episodes.

    All values are the paper's (arXiv 2505.24480). Weights, gradients and optimizer state in float32, with the engine's
    copy and cache, take some 175 GB: run it on one node of 8 GPUs, ``torchrun --nproc-per-node 8 train.py
    qwen2.5-math-7b``, which shards all but the engine's. Validation is on MATH500, with 5 executions as in the paper's
    evaluation.
    """
    return TrainConfig(
        model="Qwen/Qwen2.5-Math-7B",
        template="raw",
        output_dir=Path("runs/qwen2.5-math-7b"),
        max_steps=300,
        gradient_checkpointing=True,
        env=EnvConfig(
            problems="still3",
            prompt="cir",
            interaction_budget="0:2,100:3,200:4",
        ),
        rollout=RolloutConfig(
            num_problems=128,
            num_generations=16,
            max_completion_length=4096,
            max_model_len=5120,
        ),
        ppo=PPOConfig(learning_rate=1e-6, num_minibatches=2, micro_batch_tokens=16384),
        validation=ValidationConfig(
            every=10,
            problems=("hub:HuggingFaceH4/MATH-500",),
            num_problems=256,
            interaction_budget=5,
            top_p=0.95,
        ),
    )


def qwen3_8b() -> TrainConfig:
    """The paper's second run: Qwen3-8B without thinking, in its chat template."""
    return replace(qwen2_5_math_7b(), model="Qwen/Qwen3-8B", template="chat", output_dir=Path("runs/qwen3-8b"))


presets: Mapping[str, Callable[[], TrainConfig]] = MappingProxyType(
    {
        "quickstart": quickstart,
        "tiny": tiny,
        "mixed": mixed,
        "laptop": laptop,
        "gsm8k": gsm8k,
        "qwen2.5-math-7b": qwen2_5_math_7b,
        "qwen3-8b": qwen3_8b,
    }
)


def from_flags(args: Sequence[str], description: str) -> tuple[AnyConfig, AnyConfig]:
    """Return the preset that the arguments of ``train.py`` name, the first one by default, and what they make of it.

    Arguments that begin with ``sft`` are those of supervised fine-tuning, which has no other preset than its defaults.
    """
    choices = {name: (first_paragraph(preset), preset()) for name, preset in presets.items()}

    def parse(args: list[str]) -> tuple[AnyConfig, AnyConfig]:
        args = list(with_values(args))
        if args[0] == sft.COMMAND:
            return sft.SFTConfig(), sft.parse(args[1:])
        if args[0] in presets:  # alone, so that a hint is given once and not for each preset
            text, default = choices[args[0]]
            prog = f"train.py {args[0]}"
            return presets[args[0]](), parse_one(TrainConfig, default, args[1:], prog=prog, description=text)
        config = tyro.extras.overridable_config_cli(choices, prog="train.py", description=description, args=args)
        return presets[args[0]](), config

    config = sft.SFTConfig if args[:1] == [sft.COMMAND] else TrainConfig
    return parse_with_files(args, parse, config=config, commands=(*presets, sft.COMMAND), name="preset")
