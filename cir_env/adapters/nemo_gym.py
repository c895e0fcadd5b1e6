r"""`CodeMath-v0` for NeMo Gym, which needs Python 3.12 or newer: ``pip install nemo-gym``.

A resources server: the agent posts the row to ``/seed_session``, each call to a path with the tool's name, and the
response to ``/verify``. This is the file `app.py` in a folder of ``resources_servers``::

    from cir_env.adapters.nemo_gym import CodeMathServer

    if __name__ == "__main__":
        CodeMathServer.run_webserver()

``arguments`` in the server's configuration are those of `CodeMathEnv`, and `dataset_rows` makes the JSONL. The reward
of a sample with an infrastructure error is masked.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from cir_env.adapters.tools import ToolEpisode, rows
from cir_env.dialects import PYTHON_TOOL

try:
    from fastapi import FastAPI, Request
    from fastapi.responses import PlainTextResponse
    from nemo_gym.base_resources_server import (
        BaseResourcesServerConfig,
        BaseSeedSessionRequest,
        BaseSeedSessionResponse,
        BaseVerifyRequest,
        BaseVerifyResponse,
        SimpleResourcesServer,
    )
    from nemo_gym.server_utils import SESSION_ID_KEY
except ImportError:
    raise ImportError("This adapter needs the library nemo-gym: pip install nemo-gym (Python 3.12).") from None


class CodeMathServerConfig(BaseResourcesServerConfig):
    """The configuration of the server."""

    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of `CodeMathEnv`."""


class SeedRequest(BaseSeedSessionRequest):
    """The row of an episode."""

    problem_index: int
    """The index of its problem."""


class CodeMathServer(SimpleResourcesServer):
    """The server, with one episode per session."""

    config: CodeMathServerConfig
    _episodes: dict[str, ToolEpisode] = PrivateAttr(default_factory=dict)

    def setup_webserver(self) -> FastAPI:
        """Add the calls of tools to the server's routes."""
        app: FastAPI = super().setup_webserver()
        app.post("/{tool}")(self.call)
        return app

    async def seed_session(self, request: Request, body: SeedRequest) -> BaseSeedSessionResponse:
        """Begin an episode."""
        episode = self._episodes[request.session[SESSION_ID_KEY]] = ToolEpisode(**self.config.arguments)
        episode.reset(body.problem_index)
        return BaseSeedSessionResponse()

    async def call(self, request: Request, tool: str) -> PlainTextResponse:
        """Answer a call, of whatever tool."""
        episode = self._episodes[request.session[SESSION_ID_KEY]]
        return PlainTextResponse(await episode.call(tool, (await request.body()).decode()))

    async def verify(self, request: Request, body: BaseVerifyRequest) -> BaseVerifyResponse:
        """End the episode with the last message and return its reward."""
        episode = self._episodes.pop(request.session[SESSION_ID_KEY])
        last = body.response.output[-1] if body.response.output else None
        parts = last.content if last is not None and last.type == "message" else ()
        reward = await episode.finish("".join(part.text for part in parts if part.type == "output_text"))
        episode.close()
        return BaseVerifyResponse(**body.model_dump(), reward=reward or 0.0, mask_sample=reward is None)


def dataset_rows(split: Literal["train", "test"] | None = None, **arguments: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of the JSONL.

    Args:
        split: As for `CodeMathEnv`.
        arguments: The other arguments of `CodeMathEnv`, the same as in the configuration.
    """
    tool = {"type": "function", **PYTHON_TOOL["function"], "strict": False}
    for row in rows(split, **arguments):
        yield {"responses_create_params": {"input": row.pop("prompt"), "tools": [tool]}, **row}
