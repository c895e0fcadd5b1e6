"""Compare our PPO with Stable-Baselines3's: one small transformer, one task, the same number of episodes.

$ python benchmarks/sb3_comparison.py --output sb3_comparison.json
$ python benchmarks/sb3_comparison.py --seeds 1 --episodes 512

The task is `CodeMathTokens-v0`'s. Both begin with the same weights and use the same optimizer, epochs, minibatches and
clipping, and neither has an entropy bonus. Ours samples whole completions of `CodeMath-v0`; theirs acts token by token
through `TokenActions`, with a value head, as ours has with GAE. The metric is the mean reward (-1 to 1) of the episodes
that were sampled in the last tenth of the training.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

import gymnasium
import torch
import transformers
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.config.training import EnvConfig, PPOConfig, RolloutConfig, TrainConfig, ValidationConfig
from agents.core.files import read_metrics, write_json
from agents.core.tables import table
from agents.training.trainer import Trainer
from cir_env.adapters.codemath_tokens import END, MAX_TOKENS, OTHER, PATTERN, WORDS, sums

GROUPS, GROUP_SIZE = 16, 16
PROMPT_TOKENS = 4
COMMON = PPOConfig(learning_rate=1e-3, num_epochs=4, num_minibatches=4, epsilon_high=0.2)


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much to compare."""

    episodes: int = 40_960
    """Episodes that each run samples."""
    seeds: int = 5
    """Runs of each contender."""
    output: Path | None = None
    """Where to write the metrics as JSON."""


def build_model(folder: Path) -> None:
    """Write a transformer of two layers with fresh weights, and a tokenizer of `WORDS`."""
    backend = Tokenizer(models.WordLevel(vocab={word: i for i, word in enumerate(WORDS)}, unk_token=OTHER))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)
    tokenizer.save_pretrained(folder)
    shape = transformers.Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    transformers.Qwen2ForCausalLM(shape).save_pretrained(folder)


def train_ours(
    advantage: Literal["reinforce_plus_plus_baseline", "gae"], model: Path, folder: Path, episodes: int, seed: int
) -> float:
    """Train with `agents`; return the last tenth's mean reward."""
    for split in ("train", "test"):  # on the same sums: the reward is of training
        rows = ({"problem": problem.statement, "answer": problem.answer} for problem in sums())
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TrainConfig(
        model=str(model),
        template="raw",
        output_dir=folder / f"{advantage}-{seed}",
        max_steps=episodes // (GROUPS * GROUP_SIZE),
        save_every=episodes,
        seed=seed,
        device="cpu",
        autocast=False,
        env=EnvConfig(problems=str(folder), prompt="question"),
        rollout=RolloutConfig(
            num_problems=GROUPS,
            num_generations=GROUP_SIZE,
            max_completion_length=MAX_TOKENS - PROMPT_TOKENS,
            max_model_len=MAX_TOKENS,
            max_num_seqs=GROUPS * GROUP_SIZE,
            dtype="float32",
        ),
        ppo=PPOConfig(**asdict(COMMON) | {"advantage": advantage}),
        validation=ValidationConfig(every=0, num_problems=1, max_overlap=1),
    )
    trainer = Trainer(config, log=lambda _: None)
    try:
        trainer.train()
    finally:
        trainer.close()
    rewards = [row["reward"] for row in read_metrics(config.output_dir / "metrics.jsonl") if "reward" in row]
    return fmean(rewards[-max(1, len(rewards) // 10) :])


class LastHidden(BaseFeaturesExtractor):
    """The transformer's last hidden state at the last token."""

    def __init__(self, observation_space: gymnasium.spaces.Dict, folder: Path) -> None:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        super().__init__(observation_space, features_dim=model.config.hidden_size)
        self.body = model.model
        self.head = [model.lm_head.weight.detach()]

    def forward(self, observation: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return (batch, hidden size)."""
        last = observation["attention_mask"].sum(dim=1).long() - 1
        hidden = self.body(input_ids=observation["token_ids"].long()).last_hidden_state  # rows end in padding
        return hidden[torch.arange(len(hidden)), last]


def train_theirs(model: Path, folder: Path, episodes: int, seed: int) -> float:
    """Train with Stable-Baselines3; return the last tenth's mean reward."""
    num_envs, num_steps = 64, 20
    envs = make_vec_env("CodeMathTokens-v0", n_envs=num_envs, seed=seed)
    ppo = PPO(
        "MultiInputPolicy",
        envs,
        learning_rate=COMMON.learning_rate,
        n_steps=num_steps,
        batch_size=num_envs * num_steps // COMMON.num_minibatches,
        n_epochs=COMMON.num_epochs,
        gamma=COMMON.gamma,
        gae_lambda=COMMON.lam,
        clip_range=COMMON.epsilon,
        vf_coef=COMMON.value_coefficient,
        max_grad_norm=COMMON.max_grad_norm,
        stats_window_size=max(1, episodes // 10),
        policy_kwargs={
            "features_extractor_class": LastHidden,
            "features_extractor_kwargs": {"folder": model},
            "net_arch": [],
            "ortho_init": False,
            "optimizer_class": torch.optim.AdamW,
            "optimizer_kwargs": {"weight_decay": COMMON.weight_decay},
        },
        seed=seed,
        device="cpu",
    )
    with torch.no_grad():
        ppo.policy.action_net.weight.copy_(ppo.policy.features_extractor.head[0])
        ppo.policy.action_net.bias.zero_()
    stop = StopTrainingOnMaxEpisodes(max_episodes=episodes // num_envs)
    ppo.learn(episodes * MAX_TOKENS, callback=CallbackList([stop]))
    envs.close()
    return fmean(episode["r"] for episode in ppo.ep_info_buffer)


def main(config: Config) -> list[dict[str, object]]:
    """Run all contenders on all seeds, interleaved; print the table and return its rows."""
    torch.set_num_threads(1)
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model"
        build_model(model)
        contenders: dict[str, Callable[[Path, Path, int, int], float]] = {
            "ours, REINFORCE++ baseline": partial(train_ours, "reinforce_plus_plus_baseline"),
            "ours, GAE": partial(train_ours, "gae"),
            "Stable-Baselines3": train_theirs,
        }
        for seed in range(config.seeds):
            for contender, train in contenders.items():
                reward = train(model, folder, config.episodes, seed)
                rows.setdefault(contender, []).append(reward)
                print(f"seed {seed}, {contender}: {reward:.3f}", flush=True)
    metrics: list[dict[str, object]] = [
        {
            "contender": contender,
            "mean": fmean(rewards),
            "standard_deviation": stdev(rewards) if len(rewards) > 1 else 0.0,
            "rewards": rewards,
        }
        for contender, rewards in rows.items()
    ]
    cells = [[f["contender"], f"{f['mean']:.3f}", f"{f['standard_deviation']:.3f}"] for f in metrics]
    print(table(["contender", "mean reward", "standard deviation"], cells))
    if config.output is not None:
        write_json(config.output, {"episodes": config.episodes, "results": metrics})
    return metrics


if __name__ == "__main__":
    main(tyro.cli(Config))
