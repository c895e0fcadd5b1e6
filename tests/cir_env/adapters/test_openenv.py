"""A server of OpenEnv and its client; `test_conformance` plays whole episodes."""

import json
from pathlib import Path

import pytest
from clients import OUTSIDE, serving
from fakes import CODE, FEEDBACK, fakes, products
from paths import ROOT

pytest.importorskip("openenv", reason=OUTSIDE["openenv"])
pytestmark = pytest.mark.slow  # to import the library takes seconds


def test_sessions_play_their_own_episodes_at_once() -> None:
    from cir_env.adapters.openenv import CodeMathAction, CodeMathClient, make_app

    app = make_app(**fakes() | {"problems": products(2)})
    with serving(app) as url, CodeMathClient(base_url=url).sync() as one, CodeMathClient(base_url=url).sync() as two:
        for index, env in enumerate((one, two)):
            assert env.reset(problem_index=index).observation.metadata["problem_index"] == index
        assert one.step(CodeMathAction(text=CODE)).observation.text == FEEDBACK
        assert two.step(CodeMathAction(text=r"\boxed{12}")).reward == 1.0
        assert one.step(CodeMathAction(text=r"\boxed{6}")).reward == 1.0
        assert (one.state().step_count, two.state().step_count) == (2, 1)


def test_nothing_that_is_sent_holds_the_right_answer() -> None:
    from cir_env.adapters.openenv import CodeMathAction, CodeMathEnvironment

    env = CodeMathEnvironment(**fakes() | {"problems": [{"problem": "Guess.", "answer": "8191", "solution": "8191"}]})
    sent = [env.reset(seed=1), env.step(CodeMathAction(text=r"\boxed{1}"))]
    assert "8191" not in json.dumps([each.model_dump() for each in sent])


def test_the_folder_for_the_hub_is_what_openenv_expects() -> None:
    from openenv.cli._validation import validate_multi_mode_deployment

    _, missing = validate_multi_mode_deployment(ROOT / "examples/openenv")
    assert missing == ["Missing uv.lock - run 'uv lock' to generate it"]  # which names the index that made it


def test_the_server_of_the_hub_takes_its_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    monkeypatch.setenv("CODEMATH", '{"problems": "products", "interaction_budget": 3}')
    app = runpy.run_path(str(Path(ROOT / "examples/openenv/server/app.py")))["app"]
    assert {"/ws", "/health", "/schema"} <= {route.path for route in app.routes}
