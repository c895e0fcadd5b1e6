"""Episodes in the rollout loop of verifiers, with a scripted model."""

import importlib
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeGrader, FakeSandbox, PatientSandbox, products
from paths import ROOT
from verifiers_fakes import Message, call, play, run, say

import cir_env
from cir_env.dialects import HERMES
from cir_env.episode.prompts import EXHAUSTED, render_messages

if TYPE_CHECKING:
    import verifiers.v1 as vf

pytestmark = pytest.mark.slow  # to import the library takes seconds

CODE = "print(2 * 3)"
FEEDBACK = "6"


def contents(trace: "vf.Trace") -> list[str]:
    return [message.content for message in trace.tool_messages]


def test_an_episode_runs_code_and_has_the_environments_reward() -> None:
    (trace,), requests = play([run(CODE), say(r"It is \boxed{6}.")])
    assert (trace.ok, trace.reward, contents(trace)) == (True, 1.0, [FEEDBACK])
    assert requests[0]["messages"] == list(render_messages("cir", products()[0], dialect=HERMES))
    assert [tool["function"]["name"] for tool in requests[0]["tools"]] == ["python"]


def test_a_wrong_answer_costs_one() -> None:
    (trace,), _ = play([say(r"It is \boxed{7}.")])
    assert (trace.ok, trace.reward) == (True, -1.0)


@pytest.mark.parametrize("broken", [{"sandbox": FakeSandbox(broken=True)}, {"grader": FakeGrader(valid=False)}])
def test_an_infrastructure_error_fails_the_rollout_without_a_reward(broken: dict[str, Any]) -> None:
    (trace,), _ = play([run(CODE), say(r"\boxed{6}")], **broken)
    assert not trace.ok
    assert trace.rewards == {"codemath": None}
    assert "infrastructure error" in trace.last_error.message


def test_a_model_that_never_stops_calling_is_stopped_after_its_budget() -> None:
    (trace,), requests = play([run(CODE)], interaction_budget=1)
    assert contents(trace)[:2] == [FEEDBACK, EXHAUSTED]
    assert (len(requests), trace.ok, trace.reward) == (3, True, -1.0)


@pytest.mark.parametrize(
    "broken",
    [run(""), run(5), call("print(1)"), call("[1]"), call('{"cod": "1"}'), call("{}", "ruby")],
    ids=lambda message: message["tool_calls"][0]["function"]["arguments"][:12],
)
def test_a_malformed_call_is_answered(broken: Message) -> None:
    (trace,), _ = play([broken, say(r"\boxed{6}")])
    assert (trace.ok, trace.reward) == (True, 1.0)
    assert "xpect" in contents(trace)[0]


def test_a_limit_of_verifiers_ends_the_episode_with_the_last_message() -> None:
    (trace,), _ = play([run(CODE) | {"content": r"I guess \boxed{6}."}], agent={"max_turns": 1})
    assert (trace.ok, trace.reward, trace.stop_condition) == (True, 1.0, "max_turns")


def test_a_failed_rollout_closes_its_namespace() -> None:
    sandbox = FakeSandbox()
    (trace,), _ = play([run("a = 6"), {"role": "nobody"}], stateful=True, sandbox=sandbox)
    assert (trace.ok, [session.closed for session in sandbox.sessions]) == (False, [True])


def test_episodes_run_concurrently() -> None:
    traces, _ = play([run(CODE), say(r"\boxed{6}")], episodes=4, sandbox=PatientSandbox(4))
    assert [trace.reward for trace in traces] == [1.0] * 4


def test_the_right_answer_is_not_in_the_trace_of_a_problem() -> None:
    (trace,), _ = play([say("No idea.")])
    data = trace.task.data.model_dump()
    assert data["problem_index"] == 0
    assert "answer" not in data


def test_the_folder_for_the_hub_has_what_its_documentation_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "examples/prime_hub"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert {"name", "version", "description", "tags"} <= set(project)
    assert (folder / "README.md").exists()
    from verifiers.v1.utils.loaders import taskset_class

    monkeypatch.syspath_prepend(str(folder))
    env = importlib.import_module(project["name"]).load_environment(problems=products(2))
    assert [task.data.id for task in env.taskset] == ["product-2", "product-3"]
    assert taskset_class(project["name"]).__name__ == "CodeMathTaskset"  # `vf-eval codemath` finds it too


def test_only_the_adapter_needs_the_library() -> None:
    code = """
import sys
sys.modules["verifiers"] = None
from cir_env import *
try:
    import cir_env_verifiers
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == 'This adapter needs the library verifiers: pip install -e ".[verifiers]".\n'


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="CodeMathTask'"):
        cir_env.CodeMathTask  # noqa: B018
