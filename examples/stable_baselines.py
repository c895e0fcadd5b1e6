"""Train Stable-Baselines3's PPO, or sb3-contrib's RecurrentPPO, on sums; one action is one token.

python examples/stable_baselines.py --algorithm ppo --steps 100000
python examples/stable_baselines.py --algorithm recurrent-ppo --steps 100000
"""

from typing import Literal

import gymnasium
import torch
import tyro
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

import cir_env  # noqa: F401


class Embeddings(BaseFeaturesExtractor):
    """Concatenates the embeddings of all tokens of the transcript, with zeros for padding."""

    def __init__(self, observation_space: gymnasium.spaces.Dict, size: int = 16) -> None:
        box = observation_space["token_ids"]
        super().__init__(observation_space, features_dim=box.shape[0] * size)
        self.embedding = torch.nn.Embedding(int(box.high.max()) + 1, size)

    def forward(self, observation: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the features, (batch, tokens * size)."""
        vectors = self.embedding(observation["token_ids"].long()) * observation["attention_mask"].unsqueeze(-1)
        return vectors.flatten(start_dim=1)


def main(algorithm: Literal["ppo", "recurrent-ppo"] = "ppo", steps: int = 100_000, seed: int = 0) -> float:
    """Train for `steps` tokens, and return the mean reward of the greedy policy, from -1 to 1."""
    torch.set_num_threads(1)
    envs = make_vec_env("CodeMathTokens-v0", n_envs=16, seed=seed)
    settings = {"learning_rate": 3e-3, "n_steps": 256, "batch_size": 512, "gamma": 1.0, "gae_lambda": 1.0}
    settings |= {"seed": seed, "verbose": 1}
    network = {"features_extractor_class": Embeddings, "net_arch": [128]}
    if algorithm == "ppo":
        model = PPO("MultiInputPolicy", envs, policy_kwargs=network, **settings)
    else:
        model = RecurrentPPO("MultiInputLstmPolicy", envs, policy_kwargs=network | {"lstm_hidden_size": 64}, **settings)
    model.learn(steps)
    mean, _ = evaluate_policy(model, envs, n_eval_episodes=200)
    envs.close()
    print(f"mean reward: {mean:.2f}")
    return float(mean)


if __name__ == "__main__":
    tyro.cli(main)
