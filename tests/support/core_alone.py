"""What must work where the environment is installed without any extra; a program for an interpreter of its own."""

import asyncio
from importlib.util import find_spec

import gymnasium

BLOCK, ANSWER = "```python\nprint(6 * 7)\n```\n", r"It is \boxed{42}."


async def call_tools() -> float | None:
    """Play an episode with tool calls; return its reward."""
    from cir_env import Problem, ProblemSet
    from cir_env.adapters.tools import ToolEpisode

    episode = ToolEpisode(problems=ProblemSet([Problem(id="1", statement="What is 6 * 7?", answer="42")]))
    episode.reset(0)
    assert "42" in await episode.python("print(6 * 7)")
    return await episode.finish(ANSWER)


def main() -> None:
    """Play an episode in each way."""
    with gymnasium.make("cir_env:CodeMath-v0", problems="products") as env:  # before anything imports cir_env
        env.reset(seed=0)
        assert "42" in env.step(BLOCK)[-1]["feedback"]
        assert env.step(ANSWER)[2]
    envs = gymnasium.make_vec("cir_env:CodeMath-v0", num_envs=2, problems="products")
    envs.reset(seed=0)
    assert all("42" in feedback for feedback in envs.step([BLOCK] * 2)[-1]["feedback"])
    envs.close()
    with gymnasium.make("CodeMathTokens-v0") as tokens:
        tokens.action_space.seed(0)
        tokens.reset(seed=0)
        while not any(tokens.step(tokens.action_space.sample())[2:4]):
            pass
    assert asyncio.run(call_tools()) == 1.0
    assert not [name for name in ("torch", "transformers", "agents", "yaml") if find_spec(name)]


if __name__ == "__main__":
    main()
