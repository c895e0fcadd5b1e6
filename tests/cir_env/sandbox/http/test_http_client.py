"""How `RemoteSandbox` chooses between servers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from aiohttp import web
from fakes import FakeSandbox
from observe import eventually
from served_sandbox import TOKEN, Served, WaitingSandbox

from cir_env.errors import SandboxUnavailable
from cir_env.sandbox import RemoteSandbox, Status
from cir_env.sandbox.http.balancing import Server, shuffled
from cir_env.sandbox.http.connections import Connections
from cir_env.sandbox.http.server import CONNECTIONS, make_app


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.client.RETRY_PAUSE_S", 0.0)


@contextmanager
def four_servers() -> Iterator[tuple[list[WaitingSandbox], RemoteSandbox]]:
    waiting = [WaitingSandbox() for _ in range(4)]
    with ExitStack() as stack:
        urls = [stack.enter_context(Served(make_app(each, TOKEN))).url for each in waiting]
        yield waiting, stack.enter_context(RemoteSandbox(*urls, token=TOKEN))


@contextmanager
def refusing() -> Iterator[tuple[str, list[int]]]:
    """A port whose connections are closed at once, and their number."""
    tried = [0]

    def accept() -> None:
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            tried[0] += 1
            connected.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", tried
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def answering(status: int, text: str = "no") -> tuple[web.Application, list[str]]:
    """An application with the same answer to every request, and the paths that were requested."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=status, text=text)

    app = web.Application()
    app[CONNECTIONS] = Connections(strangers=8, clients=8)
    app.router.add_route("*", "/{path:.*}", answer)
    return app, asked


# ------------------------------------------------------------------------------------------------------------ balancing


@pytest.mark.parametrize("number", [4, 16, 64])
@pytest.mark.parametrize("stateful", [False, True], ids=["blocks", "sessions"])
def test_a_burst_is_spread_evenly(number: int, *, stateful: bool) -> None:
    with four_servers() as (waiting, sandbox):
        sessions = [sandbox.open_session() if stateful else sandbox for _ in range(number)]
        futures = [each.submit("1") for each in sessions]
        assert eventually(lambda: sum(len(each.futures) for each in waiting) == number)
        assert [len(each.futures) for each in waiting] == [number // 4] * 4
        for each in waiting:
            for future in each.futures:
                future.set_result(FakeSandbox().run("1"))
        assert all(future.result(30).status is Status.OK for future in futures)
        if stateful:
            assert [len(each.sessions) for each in waiting] == [number // 4] * 4


def test_open_sessions_and_cancelled_blocks_are_accounted_for() -> None:
    with four_servers() as (_, sandbox):
        futures = [sandbox.submit("1") for _ in range(50)]
        for future in futures:
            future.cancel()
        assert eventually(lambda: not any(server.busy for server in sandbox._servers))
        sessions = [sandbox.open_session() for _ in range(8)]
        results = [session.submit("1") for session in sessions]
        assert eventually(lambda: [server.busy for server in sandbox._servers] == [4] * 4)  # a session and its block
        for session in sessions:
            session.close()
        assert all(each.result(30).status is Status.INFRASTRUCTURE for each in results)
        assert eventually(lambda: not any(server.busy for server in sandbox._servers))


def test_clients_do_not_all_prefer_the_same_server() -> None:
    firsts = {min(shuffled(["http://a", "http://b", "http://a"]), key=Server.rank).url for _ in range(64)}
    assert firsts == {"http://a", "http://b"}


# ---------------------------------------------------------------------------------------------------- servers that fail


def test_a_server_that_failed_is_avoided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.balancing.MAX_BACKOFF_S", 1000.0)
    monkeypatch.setattr("cir_env.sandbox.http.balancing.FIRST_BACKOFF_S", 1000.0)
    with (
        refusing() as (gone, tried),
        Served(make_app(FakeSandbox(), TOKEN)) as server,
        RemoteSandbox(gone, server.url, token=TOKEN) as sandbox,
    ):
        for _ in range(3):
            assert sandbox.open_session().run("print(1)").stdout == "1\n"
        assert [sandbox.run("print(1)").stdout for _ in range(10)] == ["1\n"] * 10
        assert tried == [1]


def test_a_server_that_is_back_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.balancing.FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr("random.Random.shuffle", lambda *_: None)
    fakes = [FakeSandbox(), FakeSandbox()]
    with (
        Served(make_app(fakes[0], TOKEN)) as first,
        Served(make_app(fakes[1], TOKEN)) as second,
        RemoteSandbox(first.url, second.url, token=TOKEN) as sandbox,
    ):
        first.stop()
        assert [sandbox.run("print(1)").stdout for _ in range(4)] == ["1\n"] * 4
        with Served(make_app(fakes[0], TOKEN), port=int(first.url.rpartition(":")[2])):
            assert eventually(lambda: sandbox.run("print(1)").stdout == "1\n" and bool(fakes[0].executed))


def test_blocks_wait_for_a_server_that_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.client.RETRY_PAUSE_S", 0.01)
    monkeypatch.setattr("cir_env.sandbox.http.balancing.FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr("cir_env.sandbox.http.client.PATIENCE_S", 3600.0)
    server = Served(make_app(FakeSandbox(), TOKEN))
    with RemoteSandbox(server.url, token=TOKEN) as sandbox:
        sandbox.run("1")
        server.stop()
        waiting = sandbox.submit("print(1)")
        assert eventually(lambda: sandbox._servers[0]._failures > 3)
        with Served(make_app(FakeSandbox(), TOKEN), port=int(server.url.rpartition(":")[2])):
            assert waiting.result(30).stdout == "1\n"


def test_a_single_request_probes_a_server_after_its_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    server, other = Server("http://a"), Server("http://b")
    for _ in range(5):  # concurrent requests
        server.failed("reset")
    assert min(server, other, key=Server.rank) is other
    backoffs = []
    for _ in range(8):
        begin = now
        while server.rank()[0]:
            now += 0.5
        backoffs.append(now - begin)
        server.take()
        assert server.rank()[0]
        server.failed("reset")
    assert backoffs == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0]
    server.answered()
    assert not server.rank()[0]


def test_a_session_is_opened_on_another_server() -> None:
    with Served(make_app(FakeSandbox(), TOKEN)) as server:
        for _ in range(8):  # orders of the servers
            with RemoteSandbox("http://127.0.0.1:9", server.url, token=TOKEN) as sandbox:
                session = sandbox.open_session()
                assert session.run("x = 1").status is Status.OK
                assert session.run("print(x)").stdout == "1\n"


def test_a_server_whose_sandbox_failed_is_avoided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.balancing.MAX_BACKOFF_S", 1000.0)
    monkeypatch.setattr("cir_env.sandbox.http.balancing.FIRST_BACKOFF_S", 1000.0)
    monkeypatch.setattr("random.Random.shuffle", lambda *_: None)
    app, asked = answering(503, "The sandbox cannot run code: it is broken")
    with (
        Served(app) as broken,
        Served(make_app(FakeSandbox(), TOKEN)) as server,
        RemoteSandbox(broken.url, server.url, token=TOKEN) as sandbox,
    ):
        assert sandbox.open_session().run("print(1)").stdout == "1\n"
        assert [sandbox.run("print(1)").stdout for _ in range(5)] == ["1\n"] * 5
    assert asked == ["/sessions"]


def test_a_block_that_breaks_servers_is_sent_to_two_of_them() -> None:
    apps = [answering(500) for _ in range(4)]
    with ExitStack() as stack:
        urls = [stack.enter_context(Served(app)).url for app, _ in apps]
        sandbox = stack.enter_context(RemoteSandbox(*urls, token=TOKEN))
        with pytest.raises(SandboxUnavailable, match="will not run code: 500 no"):
            sandbox.run("1")
    assert sorted(asked for _, asked in apps) == [[], [], ["/run"], ["/run"]]


@pytest.mark.parametrize(("status", "requests"), [(400, 1), (401, 1), (404, 1), (413, 1), (500, 2), (501, 2), (503, 2)])
def test_an_error_is_not_retried_again_and_again(status: int, requests: int) -> None:
    app, asked = answering(status, "Expect this.\nNot that.")
    with Served(app) as server, RemoteSandbox(server.url, token=TOKEN) as sandbox:
        with pytest.raises(SandboxUnavailable, match=f"will not run code: {status} Expect this.$"):
            sandbox.run("1")
        assert asked == ["/run"] * requests
        assert sandbox.open_session().run("1").status is Status.INFRASTRUCTURE
        assert len(asked) == 2 * requests


@pytest.mark.parametrize("text", ["[]", "no JSON", '{"status": "fine"}', '{"status": "ok"}', ""])
def test_a_malformed_response_is_an_infrastructure_error(text: str) -> None:
    app, _ = answering(200, text)
    with Served(app) as server, RemoteSandbox(server.url, token=TOKEN) as sandbox:
        assert sandbox.run("1").status is Status.INFRASTRUCTURE
        assert sandbox.open_session().run("1").status is Status.INFRASTRUCTURE


def test_a_block_of_a_session_runs_at_most_once() -> None:
    fake = FakeSandbox()
    with Served(make_app(fake, TOKEN)) as server, RemoteSandbox(server.url, token=TOKEN) as sandbox:
        session = sandbox.open_session()
        session.run("print(1)")
        server.stop()
        assert session.run("print(2)").status is Status.INFRASTRUCTURE
        assert "the server of the session failed" in session.run("print(3)").error
    assert fake.executed == ["print(1)"]
