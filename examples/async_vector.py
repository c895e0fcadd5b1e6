"""Many concurrent episodes that do not wait for each other: send, recv, send, recv.

python examples/async_vector.py --num-envs 32 --episodes 200
"""

import gymnasium
import tyro
from scripted_agent import policy

import cir_env  # noqa: F401


def main(num_envs: int = 32, episodes: int = 200) -> float:
    """Play until `episodes` episodes are finished, and return the share of right answers."""
    envs = gymnasium.make_vec("CodeMath-v0", num_envs=num_envs, problems="products", prompt="question")
    transcripts, _ = envs.reset(seed=0)
    envs.send([policy(transcript) for transcript in transcripts], range(num_envs))
    finished = right = 0
    while finished < episodes:
        transcripts, _, terminations, truncations, infos = envs.recv()
        finished += int((terminations | truncations).sum())
        right += sum(infos["correct"])
        envs.send([policy(transcript) for transcript in transcripts], infos["env_id"])
    envs.close()
    print(f"right: {right} of {finished}")
    return right / finished


if __name__ == "__main__":
    tyro.cli(main)
