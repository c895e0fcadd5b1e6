"""Episodes in the rollout loop of verifiers, with a scripted model."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeGrader, FakeSandbox, PatientSandbox, products

import cir_env
from cir_env.dialects import HERMES
from cir_env.episode.prompts import EXHAUSTED, render_messages

if TYPE_CHECKING:
    import verifiers.v1 as vf

pytestmark = pytest.mark.slow  # to import the library takes seconds

CODE = "print(2 * 3)"
FEEDBACK = "6"
Message = dict[str, Any]


def call(arguments: str, name: str = "python") -> Message:
    """Return a message that calls a tool."""
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


def run(code: object) -> Message:
    return call(json.dumps({"code": code}))


def say(text: str) -> Message:
    return {"role": "assistant", "content": text}


@contextmanager
def model(turns: Sequence[Message]) -> Iterator[tuple[str, list[Message]]]:
    """Serve a model that plays these turns in every episode, repeating the last; yield its address and its requests."""
    requests: list[Message] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(body)
            turn = sum(message["role"] == "assistant" for message in body["messages"])
            choice = {"index": 0, "finish_reason": "stop", "message": turns[min(turn, len(turns) - 1)]}
            answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "scripted", "choices": [choice]}
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", requests
        finally:
            server.shutdown()
            thread.join()


def play(
    turns: Sequence[Message], *, episodes: int = 1, agent: dict[str, Any] | None = None, **arguments: Any
) -> "tuple[list[vf.Trace], list[Message]]":
    """Play concurrent episodes of the problem 2 * 3; return their traces and the requests to the model."""
    import verifiers.v1 as vf  # heavy

    arguments = {"problems": products(1)} | arguments

    async def main(url: str) -> list[vf.Trace]:
        taskset = {"id": "cir-env-verifiers", "task": {"arguments": arguments}}
        env = vf.load_environment(vf.resolve_env_config({"taskset": taskset, "agent": agent or {}}))
        context = vf.ModelContext(model="scripted", client=vf.EvalClientConfig(base_url=url, api_key_var="NONE"))
        async with env.serving():
            (task,) = env.taskset
            played = await asyncio.gather(*(env.run_episode(task, context) for _ in range(episodes)))
        return [trace for episode in played for trace in episode.traces]

    with model(turns) as (url, requests):
        return asyncio.run(main(url)), requests


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
