import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import pytest
from aiohttp import web
from fakes import FakeSandbox
from observe import eventually
from served_sandbox import TOKEN, Served, WaitingSandbox

import cir_env  # noqa: F401
from cir_env.errors import OptionError, SandboxUnavailable
from cir_env.sandbox import Limits, RemoteSandbox, Sandbox, SandboxFusion, Session, Status
from cir_env.sandbox.contract import MAX_FILES, MAX_FILES_BYTES
from cir_env.sandbox.http.connections import Connections
from cir_env.sandbox.http.server import CONNECTIONS, MAX_BODY_BYTES, make_app


@pytest.fixture
def fake() -> FakeSandbox:
    return FakeSandbox()


@pytest.fixture
def remote(fake: FakeSandbox) -> Iterator[RemoteSandbox]:
    with Served(make_app(fake, TOKEN)) as server, RemoteSandbox(server.url, token=TOKEN) as made:
        yield made


TwoServers = tuple[WaitingSandbox, list[Served], RemoteSandbox]


@pytest.fixture
def two_servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoServers]:
    """Two servers; the first, which gets the first block, returns no result."""
    monkeypatch.setattr("random.Random.shuffle", lambda *_: None)
    waiting = WaitingSandbox()
    with (
        Served(make_app(waiting, TOKEN)) as first,
        Served(make_app(FakeSandbox(), TOKEN)) as second,
        RemoteSandbox(first.url, second.url, token=TOKEN) as sandbox,
    ):
        yield waiting, [first, second], sandbox


@pytest.fixture(scope="module")
def process() -> Iterator[str]:
    """Start a server from the command line and return its address."""
    program = [sys.executable, "-m", "cir_env.sandbox", "serve", "--port", "0", "--slots", "2"]
    environment = {**os.environ, "CIR_SANDBOX_TOKEN": TOKEN}
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1]
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_a_block_runs_on_the_server(process: str) -> None:
    with RemoteSandbox(process, token=TOKEN) as sandbox:
        assert sandbox.run("print(6 * 7)").stdout == "42\n"
        failed = sandbox.run("print('\\ud800é')\n1 / 0")
        assert (failed.status, failed.stdout) == (Status.ERROR, "\\ud800é\n")
        assert failed.error == "ZeroDivisionError: division by zero"
        assert failed.traceback.splitlines()[-1] == failed.error
        assert sandbox.run("while True: pass", Limits(time_limit_s=0.2)).status is Status.TIMEOUT


def test_files_reach_blocks_and_sessions(process: str) -> None:
    files = {"data.csv": "é\n", "empty": ""}
    code = "import os\nprint({name: open(name).read() for name in sorted(os.listdir())})"
    with RemoteSandbox(process, token=TOKEN) as sandbox:
        session = sandbox.open_session(files=files)
        printed = [run(code).stdout for run in (session.run, session.run, sandbox.run)]
        assert [sandbox.run(code, files=files).stdout, *printed] == [*[f"{files}\n"] * 3, "{}\n"]
        with pytest.raises(OptionError, match="plain file names"):
            sandbox.submit(code, files={"../x": ""})


def test_many_blocks_are_in_flight_at_once(process: str) -> None:
    with RemoteSandbox(process, token=TOKEN) as sandbox:
        futures = [sandbox.submit(f"print({i})") for i in range(100)]
        assert [future.result().stdout for future in futures] == [f"{i}\n" for i in range(100)]


def test_the_environment_runs_its_code_on_a_server_by_name(process: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIR_SANDBOX_TOKEN", TOKEN)
    env = gymnasium.make("CodeMath-v0", sandbox=process, stateful=True, interaction_budget=3)
    env.reset(seed=0)
    env.step("```python\nx = 6\n```\n")
    *_, info = env.step("```python\nprint(x * 7)\n```\n")
    assert info["feedback"] == "```output\n42\n```\n"
    env.close()


def test_a_session_keeps_its_order_and_its_namespace(process: str) -> None:
    with RemoteSandbox(process, token=TOKEN) as sandbox:
        session = sandbox.open_session()
        futures = [session.submit(code) for code in ["x = 1", *["x += 1"] * 20, "print(x)"]]
        assert futures[-1].result().stdout == "21\n"
        session.close()
        assert session.run("x").status is Status.INFRASTRUCTURE


def test_the_remote_classes_satisfy_the_protocols(remote: RemoteSandbox) -> None:
    assert isinstance(remote, Sandbox)
    assert isinstance(remote.open_session(), Session)


def test_limits_reach_the_server(remote: RemoteSandbox, fake: FakeSandbox) -> None:
    remote.run("1", Limits(time_limit_s=1.5, memory_limit_mb=7))
    remote.run("1")
    assert fake.limits == [Limits(time_limit_s=1.5, memory_limit_mb=7), Limits()]


def test_closing_a_session_closes_it_on_the_server(remote: RemoteSandbox, fake: FakeSandbox) -> None:
    closed, collected, left = (remote.open_session() for _ in range(3))
    for session in (closed, collected, left):
        session.run("1")
    closed.close()
    assert eventually(lambda: [session.closed for session in fake.sessions] == [True, False, False])
    del session, collected
    assert eventually(lambda: [session.closed for session in fake.sessions] == [True, True, False])
    left.close()
    remote.close()
    assert [session.closed for session in fake.sessions] == [True, True, True]


def test_an_unused_session_is_closed_by_the_server(fake: FakeSandbox) -> None:
    app = make_app(fake, TOKEN, session_ttl_s=0.2)
    with Served(app) as server, RemoteSandbox(server.url, token=TOKEN) as sandbox:
        session = sandbox.open_session()
        session.run("1")
        assert eventually(lambda: fake.sessions[0].closed)
        assert "unused for too long" in session.run("1").error


@pytest.mark.parametrize("token", ["wrong", "é", TOKEN + "x"])
def test_a_wrong_token_is_rejected(remote: RemoteSandbox, fake: FakeSandbox, token: str) -> None:
    (server,) = remote._servers
    with (
        RemoteSandbox(server.url, token=token) as other,
        pytest.raises(SandboxUnavailable, match="401 Expect the token of the server"),
    ):
        other.run("1")
    assert fake.executed == []


@pytest.mark.slow
def test_without_a_server_the_message_says_how_to_start_one() -> None:
    with RemoteSandbox("http://127.0.0.1:9", token=TOKEN) as sandbox:
        with pytest.raises(SandboxUnavailable, match=r"127.0.0.1:9.*python -m cir_env.sandbox serve"):
            sandbox.run("1")
        assert sandbox.open_session().run("1").status is Status.INFRASTRUCTURE


def test_a_server_that_cannot_run_code_is_an_infrastructure_error() -> None:
    app = make_app(FakeSandbox(unavailable=True), TOKEN)
    with (
        Served(app) as server,
        RemoteSandbox(server.url, token=TOKEN) as sandbox,
        pytest.raises(SandboxUnavailable, match="will not run"),
    ):
        sandbox.run("1")


def test_a_block_of_a_dead_server_runs_on_another(two_servers: TwoServers) -> None:
    waiting, servers, sandbox = two_servers
    future = sandbox.submit("print(1)")
    assert eventually(lambda: bool(waiting.futures))
    servers[0].stop()
    assert future.result(30).stdout == "1\n"


def test_blocks_go_to_the_least_busy_server(two_servers: TwoServers) -> None:
    waiting, _, sandbox = two_servers
    held = sandbox.submit("print(0)")
    assert eventually(lambda: bool(waiting.futures))
    assert [sandbox.run(f"print({i})").stdout for i in range(3)] == ["0\n", "1\n", "2\n"]
    waiting.futures[0].set_result(FakeSandbox().run("1"))
    assert held.result().status is Status.OK


def test_closing_resolves_blocks_in_flight() -> None:
    waiting = WaitingSandbox()
    with Served(make_app(waiting, TOKEN)) as server:
        sandbox = RemoteSandbox(server.url, token=TOKEN)
        future = sandbox.submit("1")
        assert eventually(lambda: bool(waiting.futures))
        sandbox.close()
        assert future.result().status is Status.INFRASTRUCTURE
        assert eventually(waiting.futures[0].cancelled)
        with pytest.raises(SandboxUnavailable, match="closed"):
            sandbox.run("1")


def test_a_garbage_collected_sandbox_disconnects(fake: FakeSandbox) -> None:
    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "cir-env-remote"]

    before = threads()
    with Served(make_app(fake, TOKEN)) as server:
        future = RemoteSandbox(server.url, token=TOKEN).submit("print(1)")  # Only the task of the block references it.
        assert future.result(30).stdout == "1\n"
        assert eventually(lambda: threads() == before)


def test_keepalives_of_the_server_prevent_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.server.KEEPALIVE_S", 0.05)
    monkeypatch.setattr(RemoteSandbox, "read_timeout_s", 0.5)
    waiting = WaitingSandbox()
    with Served(make_app(waiting, TOKEN)) as server, RemoteSandbox(server.url, token=TOKEN) as sandbox:
        future = sandbox.submit("print(1)")
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(1.0)
        waiting.futures[0].set_result(FakeSandbox().run("print(1)"))
        assert future.result().stdout == "1\n"


def test_a_silent_server_counts_as_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.client.RETRY_PAUSE_S", 0.0)
    monkeypatch.setattr(RemoteSandbox, "read_timeout_s", 0.2)
    with Served(make_app(WaitingSandbox(), TOKEN)) as server, RemoteSandbox(server.url, token=TOKEN) as sandbox:
        result = sandbox.run("print(1)")
    assert result.status is Status.INFRASTRUCTURE
    assert "no sandbox server returned a result" in result.error


def test_code_that_is_too_long_is_an_error_of_the_policy(remote: RemoteSandbox, fake: FakeSandbox) -> None:
    assert remote.run("#" * 300_000).error == "SyntaxError: code of over 256 KB"
    assert remote.open_session().run("#" * 300_000).status is Status.ERROR
    assert fake.executed == []


def test_the_longest_code_fits_into_a_request() -> None:
    worst = "\x01" * (256 * 1024)
    files = {f"{n:0100}": "\x01" * (MAX_FILES_BYTES // MAX_FILES) for n in range(MAX_FILES)}
    assert len(json.dumps({"code": worst, "files": files})) < MAX_BODY_BYTES


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RemoteSandbox(token=TOKEN), "at least one sandbox server, got none"),
        (lambda: RemoteSandbox("node7:8700", token=TOKEN), "like http://host:8700, got 'node7:8700'"),
        (
            lambda: RemoteSandbox("http://a"),
            "Expect the token of the servers in `token` or CIR_SANDBOX_TOKEN, got none",
        ),
    ],
)
def test_a_wrong_address_or_missing_token_is_rejected(make: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()


@pytest.mark.slow
def test_a_port_in_use_is_a_one_line_error(process: str) -> None:
    program = [sys.executable, "-m", "cir_env.sandbox", "serve", "--slots", "1", "--port", process.rpartition(":")[2]]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("Cannot serve: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout.startswith("CIR_SANDBOX_TOKEN=")


def fusion_app(answers: list[dict[str, Any]], asked: list[dict[str, Any]]) -> web.Application:
    async def run_code(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.json_response(answers.pop(0))

    app = web.Application()
    app[CONNECTIONS] = Connections(strangers=8, clients=8)
    app.add_routes([web.post("/run_code", run_code)])
    return app


def fusion_answer(status: str, code: int | None, stdout: str = "", stderr: str = "") -> dict[str, Any]:
    run = {"status": status, "execution_time": 0.25, "return_code": code, "stdout": stdout, "stderr": stderr}
    return {"status": "Success" if code == 0 else "Failed", "message": "", "compile_result": None, "run_result": run}


TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1\nZeroDivisionError: division by zero\n'


@pytest.mark.parametrize(
    ("answer", "status", "stdout", "error"),
    [
        (fusion_answer("Finished", 0, "42\n"), Status.OK, "42\n", ""),
        (fusion_answer("Finished", 1, "a\n", TRACE), Status.ERROR, "a\n", "ZeroDivisionError: division by zero"),
        (fusion_answer("Finished", 3), Status.ERROR, "", "SystemExit: 3"),
        (
            fusion_answer("TimeLimitExceeded", None, "b\n"),
            Status.TIMEOUT,
            "b\n",
            "TimeoutError: the code ran for over 2.5 s",
        ),
        (
            {"status": "SandboxError", "message": "no worker", "run_result": None},
            Status.INFRASTRUCTURE,
            "",
            "SandboxFusion failed: no worker",
        ),
    ],
)
def test_results_of_sandbox_fusion_are_translated(answer: Any, status: Status, stdout: str, error: str) -> None:
    asked: list[dict[str, Any]] = []
    with Served(fusion_app([answer], asked)) as server, SandboxFusion(server.url) as sandbox:
        result = sandbox.run("print(42)", Limits(time_limit_s=2.5, memory_limit_mb=64))
    assert (result.status, result.stdout, result.error) == (status, stdout, error)
    assert asked == [{"code": "print(42)", "language": "python", "run_timeout": 2.5, "memory_limit_MB": 64}]


def test_sandbox_fusion_gets_files_in_base64() -> None:
    asked: list[dict[str, Any]] = []
    with Served(fusion_app([fusion_answer("Finished", 0)], asked)) as server, SandboxFusion(server.url) as sandbox:
        sandbox.run("1", files={"data.csv": "é"})
    assert asked[0]["files"] == {"data.csv": "w6k="}


def test_sandbox_fusion_has_no_sessions() -> None:
    with SandboxFusion("http://127.0.0.1:9") as sandbox, pytest.raises(SandboxUnavailable, match="stateful=False"):
        sandbox.open_session()


@pytest.mark.slow
def test_a_killed_server_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.client.PATIENCE_S", 0.0)
    program = [sys.executable, "-m", "cir_env.sandbox", "serve", "--port", "0", "--slots", "1"]
    environment = {**os.environ, "CIR_SANDBOX_TOKEN": TOKEN}
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        with RemoteSandbox(server.stdout.readline().split()[-1], token=TOKEN) as sandbox:
            future = sandbox.submit("while True: pass", Limits(time_limit_s=60.0))
            time.sleep(0.2)
            server.kill()
            server.wait()
            with contextlib.suppress(SandboxUnavailable):
                assert future.result(30).status is Status.INFRASTRUCTURE
