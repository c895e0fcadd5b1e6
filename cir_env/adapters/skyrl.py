r"""`CodeMath-v0` for SkyRL: ``pip install -e ".[skyrl]"``.

Register the environment where SkyRL's generator runs, and name it in the rows of the data set::

    import skyrl_gym
    from cir_env.adapters.skyrl import CodeMath, dataset_rows

    skyrl_gym.register(id="codemath", entry_point=CodeMath, kwargs={"env_config": {"problems": "products"}})
    dataset_rows(problems="products")  # for a Parquet file

A turn is text with at most one block, and feedback is a user's message. Infrastructure errors give the reward 0.0 and
``metadata["reward_valid"]`` False.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from cir_env.adapters.tools import rows
from cir_env.env import CodeMathEnv

try:
    from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput
except ImportError:
    raise ImportError('This adapter needs the library skyrl-gym: pip install -e ".[skyrl]".') from None


class CodeMath(BaseTextEnv):
    """One episode.

    Args:
        env_config: Arguments of `CodeMathEnv`.
        extras: The row of the data set; its "problem_index" selects the problem.
    """

    def __init__(self, env_config: Mapping[str, Any], extras: Mapping[str, Any]) -> None:
        super().__init__()
        self._env = CodeMathEnv(**env_config)
        _, self._info = self._env.reset(options={"problem_index": extras["problem_index"]})

    def init(self, prompt: list[dict[str, str]]) -> tuple[list[dict[str, str]], dict[str, Any]]:
        """Return the environment's prompt, which that of the row should equal."""
        return list(self._info["messages"]), self._info

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """Run a block or grade the answer; what follows a block in the action is dropped."""
        _, reward, terminated, truncated, info = self._env.step(action)
        done = terminated or truncated
        return BaseTextEnvStepOutput(
            observations=[] if done else [{"role": "user", "content": info["feedback"]}],
            reward=reward,
            done=done,
            metadata=info,
            postprocessed_action=action[: info["kept_chars"]],
        )

    def close(self) -> None:
        """Release what belongs to this episode only."""
        self._env.close()


def dataset_rows(split: Literal["train", "test"] | None = None, **arguments: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of SkyRL's data set: prompt, environment, and index of the problem.

    Args:
        split: As for `CodeMathEnv`.
        arguments: The other arguments of `CodeMathEnv`, the same as in ``env_config``.
    """
    for row in rows(split, **({"dialect": "fence"} | arguments)):
        yield row | {"env_class": "codemath"}
