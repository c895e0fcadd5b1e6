"""Train a model that runs Python through tool calls with TRL's GRPOTrainer (`pip install -e ".[trl]"`).

python examples/trl_grpo.py --model Qwen/Qwen2.5-1.5B-Instruct --problems products --steps 100
"""

from functools import partial

import torch
import tyro
from trl import GRPOConfig, GRPOTrainer

from cir_env.adapters.trl import CodeMathTools, codemath_reward, make_dataset


def main(
    model: str,
    *,
    problems: str = "products",
    interaction_budget: int = 2,
    steps: int = 100,
    max_completion_length: int = 1024,
    output_dir: str = "runs/trl",
) -> float:
    """Train a model whose chat template supports tools, save it, and return the mean reward of the last step."""
    arguments = {"problems": problems, "interaction_budget": interaction_budget}
    trainer = GRPOTrainer(
        model=model,
        args=GRPOConfig(
            output_dir=output_dir,
            max_steps=steps,
            logging_steps=1,
            use_cpu=not torch.cuda.is_available(),
            max_completion_length=max_completion_length,
            max_tool_calling_iterations=interaction_budget + 1,
        ),
        train_dataset=make_dataset(**arguments),
        environment_factory=partial(CodeMathTools, **arguments),
        reward_funcs=codemath_reward,
    )
    trainer.train()
    trainer.save_model()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    print(f"mean reward of the last step: {rewards[-1]:+.2f}")
    return float(rewards[-1])


if __name__ == "__main__":
    tyro.cli(main)
