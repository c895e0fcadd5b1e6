"""Train with a PPO loop in one file, in the style of CleanRL, on sums; one action is one token.

python examples/cleanrl_ppo.py --steps 150000
"""

import gymnasium
import torch
import tyro
from torch import Tensor, nn

import cir_env  # noqa: F401


def main(
    *,
    steps: int = 150_000,
    num_envs: int = 16,
    num_steps: int = 128,
    epochs: int = 4,
    num_minibatches: int = 4,
    learning_rate: float = 2.5e-3,
    clip: float = 0.2,
    entropy_coef: float = 0.01,
    value_coef: float = 0.5,
    interaction_budget: int = 2,
    seed: int = 0,
) -> float:
    """Train for `steps` tokens, and return the mean reward of the last 200 episodes, from -1 to 1."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    envs = gymnasium.make_vec(
        "CodeMathTokens-v0",
        num_envs=num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
        flat=True,
        interaction_budget=interaction_budget,
    )
    features, num_actions = envs.single_observation_space.shape[0], envs.single_action_space.n
    actor = nn.Sequential(nn.Linear(features, 128), nn.Tanh(), nn.Linear(128, num_actions))
    critic = nn.Sequential(nn.Linear(features, 128), nn.Tanh(), nn.Linear(128, 1))
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, eps=1e-5)
    finished: list[float] = []

    observation = torch.tensor(envs.reset(seed=seed)[0])
    for iteration in range(max(1, steps // (num_envs * num_steps))):
        # rollout
        observations, actions, logprobs, rewards, dones = [], [], [], [], []
        for _ in range(num_steps):
            with torch.no_grad():
                distribution = torch.distributions.Categorical(logits=actor(observation))
            action = distribution.sample()
            observations.append(observation)
            actions.append(action)
            logprobs.append(distribution.log_prob(action))
            following, reward, terminated, truncated, _ = envs.step(action.numpy())
            rewards.append(torch.tensor(reward, dtype=torch.float32))
            dones.append(torch.tensor(terminated | truncated))
            finished += reward[terminated | truncated].tolist()
            observation = torch.tensor(following)
        batch = torch.cat(observations), torch.cat(actions), torch.cat(logprobs), torch.cat(_returns(rewards, dones))

        # update
        for _ in range(epochs):
            for indices in torch.randperm(len(batch[0])).chunk(num_minibatches):
                seen, chosen, old, returns = (column[indices] for column in batch)
                values = critic(seen).squeeze(-1)
                distribution = torch.distributions.Categorical(logits=actor(seen))
                advantages = returns - values.detach()
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
                ratio = (distribution.log_prob(chosen) - old).exp()
                policy_loss = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()
                value_loss = (values - returns).square().mean()
                loss = policy_loss + value_coef * value_loss - entropy_coef * distribution.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 0.5)
                optimizer.step()
        if iteration % 10 == 0:
            print(f"{(iteration + 1) * num_envs * num_steps} tokens, mean reward {_mean(finished):.2f}")
    envs.close()
    return _mean(finished)


def _returns(rewards: list[Tensor], dones: list[Tensor]) -> list[Tensor]:
    """Return the undiscounted rewards to go of each step; an episode that is cut off counts with what it has so far."""
    returns, after = [], torch.zeros_like(rewards[0])
    for reward, done in zip(reversed(rewards), reversed(dones), strict=True):
        after = reward + after * ~done
        returns.append(after)
    return returns[::-1]


def _mean(rewards: list[float]) -> float:
    last = rewards[-200:]
    return sum(last) / max(1, len(last))


if __name__ == "__main__":
    print(f"mean reward: {tyro.cli(main):.2f}")
