"""A scripted policy, that is a function from the transcript to more text: it runs the product and boxes the output.

python examples/scripted_agent.py --episodes 5
"""

import re

import gymnasium
import tyro

import cir_env  # noqa: F401


def policy(transcript: str) -> str:
    """Run the last product in the transcript, or box the last output."""
    outputs = re.findall(r"```output\n(.*?)\n```", transcript, re.DOTALL)
    if outputs:
        return f"The answer is \\boxed{{{outputs[-1]}}}."
    a, b = re.findall(r"\d+", transcript)[-2:]
    return f"```python\nprint({a} * {b})\n```\n"


def main(episodes: int = 5) -> float:
    """Play held-out problems, print the last transcript, and return the share of right answers."""
    env = gymnasium.make("CodeMath-v0", problems="products", split="test", prompt="question", render_mode="ansi")
    right = 0
    for seed in range(episodes):
        transcript, _ = env.reset(seed=seed)
        over = False
        while not over:
            transcript, _, terminated, truncated, info = env.step(policy(transcript))
            over = terminated or truncated
        right += info["correct"]
    print(env.render())
    print(f"right: {right} of {episodes}")
    env.close()
    return right / episodes


if __name__ == "__main__":
    tyro.cli(main)
