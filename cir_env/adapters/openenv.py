r"""`CodeMath-v0` for OpenEnv: ``pip install -e ".[openenv]"``.

A server, with the arguments of `CodeMathEnv`, and its client::

    uvicorn.run(make_app(problems="products"), port=8000)

    with CodeMathClient(base_url="http://localhost:8000").sync() as env:
        result = env.reset(seed=0)  # or problem_index=7
        while not result.done:
            result = env.step(CodeMathAction(text=policy(result.observation.text)))

Each session has its own environment; all share one sandbox. An infrastructure error ends the episode with the reward
None. ``examples/openenv`` is such a server as OpenEnv's hub expects it.
"""

from functools import partial
from typing import Any

from cir_env.env import CodeMathEnv

try:
    from openenv.core import EnvClient
    from openenv.core.client_types import StepResult
    from openenv.core.env_server import Action, Environment, Observation, State, create_app
except ImportError:
    raise ImportError('This adapter needs the library openenv: pip install -e ".[openenv]".') from None

_INFO = ("problem_id", "problem_index", "interactions_left", "execution_status", "predicted", "correct", "reason")


class CodeMathAction(Action):
    """What the policy writes."""

    text: str
    """Any text, with at most one block."""


class CodeMathObservation(Observation):
    """What the environment writes; ``metadata`` has some of the environment's info."""

    text: str
    """The prompt after a reset, and the feedback after a step."""
    messages: list[dict[str, str]]
    """The prompt as a chat."""
    kept_chars: int
    """Number of characters of the action that were kept."""


class CodeMathEnvironment(Environment[CodeMathAction, CodeMathObservation, State]):
    """The environment of one session.

    Args:
        arguments: Those of `CodeMathEnv`.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self._env = CodeMathEnv(**arguments, observation="feedback")
        self._state = State()

    def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> CodeMathObservation:
        """Begin an episode; `options` are those of `CodeMathEnv.reset`."""
        text, info = self._env.reset(seed=seed, options=options)
        self._state = State(episode_id=episode_id)
        return _observe(text, info)

    def step(self, action: CodeMathAction, timeout_s: float | None = None, **_: Any) -> CodeMathObservation:
        """Run a block or grade the answer; the environment's own limits hold, not `timeout_s`."""
        text, reward, terminated, truncated, info = self._env.step(action.text)
        self._state.step_count += 1
        return _observe(text, info, reward=reward if info["reward_valid"] else None, done=terminated or truncated)

    @property
    def state(self) -> State:
        """The episode's id and number of steps."""
        return self._state

    def close(self) -> None:
        """Release what belongs to this session only."""
        self._env.close()


class CodeMathClient(EnvClient[CodeMathAction, CodeMathObservation, State]):
    """The client of a server with this environment."""

    def _step_payload(self, action: CodeMathAction) -> dict[str, Any]:
        return {"text": action.text}

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[CodeMathObservation]:
        reward, done = payload["reward"], payload["done"]
        observation = CodeMathObservation(**payload["observation"], reward=reward, done=done)
        return StepResult(observation=observation, reward=reward, done=done)

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(**payload)


def make_app(max_concurrent_envs: int = 64, **arguments: Any) -> Any:
    """Return the FastAPI application of a server.

    Args:
        max_concurrent_envs: How many sessions may be open.
        arguments: Those of `CodeMathEnv`.
    """
    return create_app(
        partial(CodeMathEnvironment, **arguments),
        CodeMathAction,
        CodeMathObservation,
        env_name="codemath",
        max_concurrent_envs=max_concurrent_envs,
    )


def _observe(text: str, info: dict[str, Any], **outcome: Any) -> CodeMathObservation:
    return CodeMathObservation(
        text=text,
        messages=list(info["messages"]),
        kept_chars=info["kept_chars"],
        metadata={name: info[name] for name in _INFO},
        **outcome,
    )
