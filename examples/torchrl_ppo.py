"""Train TorchRL's PPO on sums; one action is one token.

python examples/torchrl_ppo.py --steps 100000
"""

import torch
import tyro
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.envs import GymEnv, RewardSum, SerialEnv, TransformedEnv
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import cir_env  # noqa: F401


def main(steps: int = 100_000, num_envs: int = 16, batch: int = 2048, epochs: int = 4, seed: int = 0) -> float:
    """Train for `steps` tokens, and return the mean reward of the episodes of the last batch, from -1 to 1."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)

    def make_env() -> GymEnv:
        return GymEnv("CodeMathTokens-v0", flat=True, categorical_action_encoding=True)

    env = TransformedEnv(SerialEnv(num_envs, make_env), RewardSum())
    env.set_seed(seed)
    features, num_actions = env.observation_spec["observation"].shape[-1], env.action_spec.space.n

    def network(outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(features, 128), nn.Tanh(), nn.Linear(128, outputs))

    actor = ProbabilisticActor(
        TensorDictModule(network(num_actions), in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=Categorical,
        return_log_prob=True,
        spec=env.action_spec,
    )
    critic = ValueOperator(network(1), in_keys=["observation"])
    advantage = GAE(gamma=1.0, lmbda=1.0, value_network=critic)
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01, critic_coeff=0.5, normalize_advantage=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=2.5e-3)
    mean = float("nan")
    collector = Collector(env, actor, frames_per_batch=batch, total_frames=steps, auto_register_policy_transforms=False)
    for data in collector:
        rewards = data["next", "episode_reward"][data["next", "done"]]
        mean = rewards.mean().item()
        print(f"mean reward {mean:.2f}")
        for _ in range(epochs):
            advantage(data)
            rows = data.reshape(-1)
            for indices in torch.randperm(len(rows)).split(512):
                losses = loss(rows[indices])
                optimizer.zero_grad()
                (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()
    collector.shutdown()
    return mean


if __name__ == "__main__":
    print(f"mean reward: {tyro.cli(main):.2f}")
