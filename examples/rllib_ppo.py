"""Train RLlib's PPO on sums; one action is one token.

python examples/rllib_ppo.py --iterations 25
"""

import ray
import tyro
from ray.rllib.algorithms.ppo import PPOConfig


def main(iterations: int = 25, batch: int = 4000, num_env_runners: int = 0, seed: int = 0) -> float:
    """Train for ``iterations * batch`` tokens, and return the mean reward of the last episodes, from -1 to 1."""
    config = (
        PPOConfig()
        .environment("cir_env:CodeMathTokens-v0", env_config={"flat": True})
        .env_runners(num_env_runners=num_env_runners, num_envs_per_env_runner=16)
        .training(
            lr=2.5e-3,
            gamma=1.0,
            lambda_=1.0,
            entropy_coeff=0.01,
            num_epochs=4,
            train_batch_size_per_learner=batch,
            minibatch_size=min(512, batch),
        )
        .debugging(seed=seed, log_level="ERROR")
    )
    algorithm = config.build_algo()
    mean = float("nan")
    for _ in range(iterations):
        mean = algorithm.train()["env_runners"]["episode_return_mean"]
        print(f"mean reward {mean:.2f}")
    algorithm.stop()
    ray.shutdown()
    return float(mean)


if __name__ == "__main__":
    print(f"mean reward: {tyro.cli(main):.2f}")
