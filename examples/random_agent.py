"""An agent that writes random text: the shortest program that steps the environment.

python examples/random_agent.py --episodes 3
"""

import gymnasium
import tyro

import cir_env  # noqa: F401


def main(episodes: int = 3) -> float:
    """Play episodes with random strings, and return their mean reward."""
    env = gymnasium.make("CodeMath-v0")
    env.action_space.seed(0)
    total = 0.0
    for seed in range(episodes):
        env.reset(seed=seed)
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total += float(reward)
            over = terminated or truncated
    env.close()
    print(f"mean reward {total / episodes:+.2f}")
    return total / episodes


if __name__ == "__main__":
    tyro.cli(main)
