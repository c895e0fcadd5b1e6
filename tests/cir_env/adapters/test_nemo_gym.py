"""The server for NeMo Gym, with stand-ins for the few names that it imports: the library needs Python 3.12.

They are written from its documentation (0.7); its agent's loop is repeated in `play`.
"""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from clients import play_tool_episode
from fakes import products
from scripts import SCRIPTS, Played, Script, arguments

from cir_env.episode.prompts import join_messages

fastapi = pytest.importorskip("fastapi")
pydantic = pytest.importorskip("pydantic")


class _Request(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


class _Verify(_Request):
    responses_create_params: dict[str, Any]
    response: Any

    @pydantic.field_validator("response")
    @classmethod
    def _with_attributes(cls, response: dict[str, Any]) -> Any:
        return json.loads(json.dumps(response), object_hook=lambda items: SimpleNamespace(**items))


class _Answer(pydantic.BaseModel):
    reward: float
    mask_sample: bool = False


class _Server(pydantic.BaseModel):
    config: Any

    def setup_webserver(self) -> Any:
        app = fastapi.FastAPI()

        @app.middleware("http")
        async def session(request: fastapi.Request, following: Any) -> Any:
            request.scope["session"] = {"id": request.cookies["session"]}
            return await following(request)

        app.post("/seed_session")(self.seed_session)
        app.post("/verify")(self.verify)
        return app


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    base: Any = ModuleType("nemo_gym.base_resources_server")
    base.BaseResourcesServerConfig = base.BaseSeedSessionRequest = base.BaseSeedSessionResponse = _Request
    base.BaseVerifyRequest, base.BaseVerifyResponse, base.SimpleResourcesServer = _Verify, _Answer, _Server
    utils: Any = ModuleType("nemo_gym.server_utils")
    utils.SESSION_ID_KEY = "id"
    for module in (ModuleType("nemo_gym"), base, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield import_module("cir_env.adapters.nemo_gym")
    del sys.modules["cir_env.adapters.nemo_gym"]


def play(client: Any, row: dict[str, Any], script: Script) -> Played:
    """Play an episode as the library's simple agent does."""
    client.post("/seed_session", json=row)
    feedback, output = [], []
    for turn in script:
        if turn.code is None:
            output.append({"type": "message", "content": [{"type": "output_text", "text": turn.text}]})
        else:
            feedback.append(client.post(f"/{turn.tool}", json={"code": turn.code}).text)
            output.append({"type": "function_call_output", "output": feedback[-1]})
    answer = client.post("/verify", json={**row, "response": {"output": output}}).json()
    prompt = join_messages(row["responses_create_params"]["input"])
    return Played(prompt, tuple(feedback), None if answer["mask_sample"] else answer["reward"])


@pytest.mark.slow
def test_each_episode_is_the_same_as_in_the_environment(adapter: Any) -> None:
    from fastapi.testclient import TestClient

    config = adapter.CodeMathServerConfig(arguments=arguments())
    app = adapter.CodeMathServer(config=config).setup_webserver()
    (row,) = adapter.dataset_rows(**arguments())
    played = []
    with TestClient(app) as client:
        for number, script in enumerate(SCRIPTS.values()):
            client.cookies.set("session", str(number))
            played.append(play(client, row, script))
    assert played == play_tool_episode()


def test_a_row_has_the_request_and_no_answer(adapter: Any) -> None:
    *_, row = adapter.dataset_rows(problems=products(2))
    assert row["problem_index"] == 1
    request = row["responses_create_params"]
    assert request["tools"][0]["name"] == "python"
    assert "12" not in json.dumps(row)
