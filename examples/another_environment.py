"""Train on your own text environment: the trainer only needs the Gymnasium API.

python examples/another_environment.py --steps 20
"""

import string
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gymnasium
import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents import Trainer
from agents.config.training import EnvConfig, PPOConfig, RolloutConfig, TrainConfig
from agents.core.files import read_metrics


class Vowels(gymnasium.Env[str, str]):
    """The reward is the share of vowels in the policy's text."""

    action_space = observation_space = gymnasium.spaces.Text(1000, min_length=0, charset=string.printable)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Return the prompt."""
        super().reset(seed=seed)
        return "Sing: ", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Count the vowels and end the episode."""
        return "", sum(letter in "aeiou" for letter in action) / max(1, len(action)), True, False, {}


gymnasium.register("Vowels-v0", Vowels)


def main(steps: int = 20, output_dir: Path | None = None) -> tuple[float, float]:
    """Train a tiny model from scratch; return the mean rewards of the first and the last step."""
    folder = output_dir or Path(mkdtemp()) / "vowels"
    config = TrainConfig(
        model="tiny",
        output_dir=folder,
        max_steps=steps,
        autocast=False,
        env=EnvConfig(id="Vowels-v0"),
        rollout=RolloutConfig(num_problems=4, num_generations=16, max_completion_length=16, dtype="float32"),
        ppo=PPOConfig(learning_rate=3e-3, advantage="rloo"),
    )
    trainer = Trainer(config)
    trainer.train()
    trainer.close()
    rewards = [row["reward"] for row in read_metrics(folder / "metrics.jsonl") if "reward" in row]
    print(f"share of vowels: {rewards[0]:.2f} in the first step, {rewards[-1]:.2f} in the last")
    return rewards[0], rewards[-1]


if __name__ == "__main__":
    tyro.cli(main)
