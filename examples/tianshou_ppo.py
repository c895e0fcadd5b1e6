"""Train Tianshou's PPO on sums; one action is one token.

python examples/tianshou_ppo.py --epochs 10
"""

import gymnasium
import torch
import tyro
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, CollectStats, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

import cir_env  # noqa: F401


def main(epochs: int = 10, epoch_num_steps: int = 10_000, num_envs: int = 16, seed: int = 0) -> float:
    """Train for ``epochs * epoch_num_steps`` tokens; return the mean reward of the greedy policy, from -1 to 1."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    training, test = (
        DummyVectorEnv([lambda: gymnasium.make("CodeMathTokens-v0", flat=True) for _ in range(number)])
        for number in (num_envs, 4)
    )
    training.seed(seed)
    test.seed(seed + num_envs)
    (box, *_), (actions, *_) = training.observation_space, training.action_space
    actor = DiscreteActor(
        preprocess_net=Net(state_shape=box.shape, hidden_sizes=[128]), action_shape=actions.n, softmax_output=False
    )
    critic = DiscreteCritic(preprocess_net=Net(state_shape=box.shape, hidden_sizes=[128]))
    policy = DiscreteActorPolicy(actor=actor, action_space=actions, deterministic_eval=True)
    algorithm = PPO(
        policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=2.5e-3), gamma=1.0, gae_lambda=1.0, ent_coef=0.01
    )
    size = 128 * num_envs
    result = algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=Collector[CollectStats](algorithm, training, VectorReplayBuffer(size, num_envs)),
            test_collector=Collector[CollectStats](algorithm, test),
            max_epochs=epochs,
            epoch_num_steps=epoch_num_steps,
            collection_step_num_env_steps=min(size, epoch_num_steps),
            test_step_num_episodes=100,
            batch_size=512,
            update_step_num_repetitions=4,
        )
    )
    for envs in (training, test):
        envs.close()
    return float(result.best_reward)


if __name__ == "__main__":
    print(f"mean reward: {tyro.cli(main):.2f}")
