"""What the server of a sandbox allows: how long, how many, how much; and what it says when it cannot run code."""

import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from fakes import FakeSandbox
from observe import eventually
from served_sandbox import (
    TOKEN,
    Served,
    WaitingSandbox,
    block,
    connect_to,
    ended_by_the_server,
    exchange,
    read_response,
    request,
)

from cir_env.errors import OptionError
from cir_env.sandbox import Limits, RemoteSandbox, Status
from cir_env.sandbox import __main__ as program
from cir_env.sandbox.http.log import OncePerMinute
from cir_env.sandbox.http.maxima import LARGEST_LIMITS, Maxima, read_maxima
from cir_env.sandbox.http.server import CONNECTIONS, EXPECTED, MAX_BODY_BYTES, make_app


class FailedSandbox(FakeSandbox):
    """Cannot run code."""

    failure: str | None = "its supervisor failed"
    failure_is_final = False


@pytest.fixture
def fake() -> FakeSandbox:
    return FakeSandbox()


@pytest.fixture
def waiting() -> WaitingSandbox:
    return WaitingSandbox()


@pytest.fixture
def url(fake: FakeSandbox) -> Iterator[str]:
    with Served(make_app(fake, TOKEN)) as server:
        yield server.url


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.connections.IDLE_S", 0.2)
    monkeypatch.setattr("cir_env.sandbox.http.server.WATCH_S", 0.02)


# ------------------------------------------------------------------------------------------------------------ deadlines


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /run HTTP/1.1\r\nHost: sand",
        b"\x16\x03\x01\x02\x00\x01\x00",
        request("POST", "/run", "{", token="wrong", length=100),
        request("POST", "/run", "{", length=100),
        request("GET", "/"),
        request("GET", "/") * 3,
        request("GET", "/", length=100),
    ],
    ids=["nothing", "half a header", "TLS", "wrong token", "half a body", "idle", "pipelined", "unread body"],
)
@pytest.mark.usefixtures("impatient")
def test_a_connection_without_a_whole_request_is_closed(url: str, sent: bytes) -> None:
    with connect_to(url) as connection:
        connection.sendall(sent)
        assert ended_by_the_server(connection)


@pytest.mark.usefixtures("impatient")
def test_bytes_now_and_then_extend_no_deadline(url: str) -> None:
    def sends() -> bool:
        with suppress(OSError):
            connection.sendall(b"X-A: b\r\n")
            return True
        return False

    with connect_to(url) as connection:
        connection.sendall(request("GET", "/")[:-2])
        assert eventually(lambda: not sends())


@pytest.mark.usefixtures("impatient")
def test_half_a_body_gets_a_line_that_says_so(url: str) -> None:
    assert exchange(url, request("POST", "/run", "{", length=100)) == (408, "Expect a request within 0.2 s")


@pytest.mark.usefixtures("impatient")
def test_a_connection_whose_block_runs_has_no_deadline(
    waiting: WaitingSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.server.KEEPALIVE_S", 0.1)
    with Served(make_app(waiting, TOKEN)) as server, connect_to(server.url) as connection:
        connection.sendall(request("POST", "/run", block("1")))
        received = b""
        while received.count(b"\r\n \r\n") < 5:  # chunks of one space, for longer than an idle connection is held
            received += connection.recv(1000)
        waiting.futures[0].set_result(FakeSandbox().run("print(1)"))
        while b'"stdout": "1\\n"' not in received:
            received += connection.recv(1000)


# ----------------------------------------------------------------------------------------------------------------- caps


def test_strangers_do_not_keep_a_client_out(fake: FakeSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.connections.IDLE_S", 1000.0)
    monkeypatch.setattr("cir_env.sandbox.http.connections.GRACE_S", 0.01)
    app = make_app(fake, TOKEN, maxima=Maxima(strangers=4, connections=2))
    with Served(app) as server, RemoteSandbox(server.url, token=TOKEN) as sandbox, ExitStack() as stack:
        strangers = [stack.enter_context(connect_to(server.url)) for _ in range(4)]
        assert sandbox.run("print(1)").stdout == "1\n"
        strangers += [stack.enter_context(connect_to(server.url)) for _ in range(40)]
        assert all(map(ended_by_the_server, strangers[:38]))
        assert sandbox.run("print(2)").stdout == "2\n"


@pytest.mark.slow
def test_a_client_gets_in_while_strangers_come_and_come(fake: FakeSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.connections.GRACE_S", 0.05)

    def flood() -> None:
        opened: deque[socket.socket] = deque()
        while not done.is_set():
            with suppress(OSError):
                opened.append(connect_to(server.url))
            if len(opened) > 100:
                opened.popleft().close()
        for each in opened:
            each.close()

    done = threading.Event()
    app = make_app(fake, TOKEN, maxima=Maxima(strangers=128, connections=128))
    with Served(app) as server:
        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            for _ in range(10):
                with RemoteSandbox(server.url, token=TOKEN) as sandbox:
                    assert sandbox.run("print(1)").stdout == "1\n"
        finally:
            done.set()
            flooding.join()
        assert exchange(server.url, request("GET", "/"))[0] == 200  # All others have been accepted before it.
        assert eventually(lambda: not any(each.transport for each in list(app[CONNECTIONS]._strangers)))


@pytest.mark.slow
def test_a_burst_of_a_client_closes_none_of_its_own_connections(
    fake: FakeSandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.connections.GRACE_S", 1000.0)
    monkeypatch.setattr("cir_env.sandbox.http.client.RETRY_PAUSE_S", 0.02)
    app = make_app(fake, TOKEN, maxima=Maxima(strangers=2, connections=10))
    with Served(app) as server, RemoteSandbox(server.url, token=TOKEN) as sandbox:
        futures = [sandbox.submit("1") for _ in range(200)]
        assert all(future.result(30).status is Status.OK for future in futures)
    assert caplog.messages == []


def test_one_client_too_many_is_told_and_gets_the_next_free_place(
    waiting: WaitingSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.client.RETRY_PAUSE_S", 0.02)
    app = make_app(waiting, TOKEN, maxima=Maxima(connections=1))
    with Served(app) as server, RemoteSandbox(server.url, token=TOKEN) as sandbox:
        first = sandbox.submit("1")
        assert eventually(lambda: len(waiting.futures) == 1)
        assert exchange(server.url, request("GET", "/")) == (429, "The server has 1 connections already")
        second = sandbox.submit("2")
        waiting.futures[0].set_result(FakeSandbox().run("print(1)"))
        assert first.result(30).stdout == "1\n"
        assert eventually(lambda: len(waiting.futures) == 2)
        waiting.futures[1].set_result(FakeSandbox().run("print(2)"))
        assert second.result(30).stdout == "2\n"


def test_connections_that_have_gone_make_room(fake: FakeSandbox) -> None:
    with Served(make_app(fake, TOKEN, maxima=Maxima(connections=2))) as server:
        assert [exchange(server.url, request("POST", "/run", block("1")))[0] for _ in range(6)] == [200] * 6


def test_one_session_too_many_ends_as_infrastructure_with_the_reason(
    fake: FakeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.client.PATIENCE_S", 0.0)
    monkeypatch.setattr("cir_env.sandbox.http.client.RETRY_PAUSE_S", 0.0)
    app = make_app(fake, TOKEN, maxima=Maxima(sessions=2))
    with Served(app) as server, RemoteSandbox(server.url, token=TOKEN) as sandbox:
        sessions = [sandbox.open_session() for _ in range(3)]
        results = [session.run("print(1)") for session in sessions]
        assert [result.status for result in results] == [Status.OK, Status.OK, Status.INFRASTRUCTURE]
        assert results[2].error.endswith("429 The server has 2 open sessions already")
        assert sandbox.run("print(1)").stdout == "1\n"
        sessions[0].close()
        assert eventually(lambda: fake.sessions[0].closed)
        assert sandbox.open_session().run("print(1)").stdout == "1\n"


def test_a_session_of_a_client_that_died_makes_room(fake: FakeSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir_env.sandbox.http.server.SPARED_S", 0.0)
    with Served(make_app(fake, TOKEN, maxima=Maxima(sessions=1))) as server:
        assert [exchange(server.url, request("POST", "/sessions"))[0] for _ in range(2)] == [200, 200]
    assert len(fake.sessions) == 2


def test_the_maxima_fit_the_descriptor_limit() -> None:
    assert read_maxima([], descriptors=65_536) == Maxima()
    few = read_maxima([], descriptors=256)
    assert 3 * few.sessions + few.connections + few.strangers <= 160
    given = read_maxima(["sessions=7", "time_limit_s=1.5", "memory_limit_mb=9000"], descriptors=256)
    assert (given.sessions, given.limits.time_limit_s, given.limits.memory_limit_mb) == (7, 1.5, 9000)


@pytest.mark.parametrize("given", ["sesions=1", "sessions", "sessions=many", "memory_limit_mb=0.5", "idle_limit_s=0"])
def test_a_maximum_that_makes_no_sense_is_rejected(given: str) -> None:
    with pytest.raises(OptionError, match=r"^Expect "):
        read_maxima([given], descriptors=1024)


# --------------------------------------------------------------------------------------------------- malformed requests


def post(url: str, body: str | bytes, content_type: str = "application/json") -> tuple[int, str]:
    return exchange(url, request("POST", "/run", body, f"Content-Type: {content_type}"))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "null",
        "{",
        '{"code": 1}',
        "[" * 200_000,
        '{"a":' * 200_000,
        '{"code": "1", "limits": [1]}',
        b"\xff\xfe",
    ],
)
def test_a_malformed_request_is_rejected(url: str, fake: FakeSandbox, body: str | bytes) -> None:
    assert post(url, body) == (400, EXPECTED)
    assert fake.executed == []


@pytest.mark.parametrize("files", [[1], {"/a": ""}, {"a": 1}])
def test_files_that_are_not_valid_are_rejected_in_one_line(url: str, fake: FakeSandbox, files: object) -> None:
    for path in ("/run", "/sessions"):
        status, text = exchange(url, request("POST", path, json.dumps({"code": "1", "files": files})))
        assert (status, text[:7], text.count("\n")) == (400, "Expect ", 0)
    assert fake.executed == []


@pytest.mark.parametrize("charset", ["nonsense", "hex", "utf-16", "\x01"])
def test_a_charset_that_is_unknown_or_wrong_is_rejected(url: str, charset: str) -> None:
    assert post(url, block("1"), f"application/json; charset={charset}")[0] == 400


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("time_limit_s", True, "Expect `time_limit_s` to be a number, got True"),
        ("time_limit_s", "1", "Expect `time_limit_s` to be a number, got '1'"),
        ("time_limit_s", None, "Expect `time_limit_s` to be a number, got None"),
        ("time_limit_s", 301, "Expect `time_limit_s` of at most 300.0, got 301: see --max"),
        ("memory_limit_mb", 2**32, "Expect `memory_limit_mb` of at most 4096, got 4294967296: see --max"),
        ("memory_limit_mb", 1.5, "Expect `memory_limit_mb` to be a whole number"),
        ("idle_limit_s", -1, "Expect `idle_limit_s` to be a "),
        ("wall_limit_s", float("nan"), "Expect `wall_limit_s` to be a "),
        ("time", 1, f"Expect limits out of {', '.join(Limits.__slots__)}, got 'time'"),
        ("a\nb", 1, f"Expect limits out of {', '.join(Limits.__slots__)}, got 'a\\nb'"),
    ],
)
def test_limits_that_are_malformed_or_too_large_are_rejected_in_one_line(
    url: str, fake: FakeSandbox, name: str, value: Any, message: str
) -> None:
    status, text = post(url, json.dumps({"code": "1", "limits": {name: value}}))
    assert (status, text[: len(message)], text.count("\n")) == (400, message, 0)
    assert fake.executed == []


@pytest.mark.parametrize("value", [10**400, f"1{'0' * 5000}", "1e999"], ids=["long", "longer", "infinite"])
def test_a_number_beyond_all_bounds_is_rejected_in_one_short_line(url: str, value: Any) -> None:
    status, text = post(url, f'{{"code": "1", "limits": {{"time_limit_s": {value}}}}}')
    assert status == 400
    assert len(text) <= 300


def test_the_largest_limits_are_accepted(fake: FakeSandbox) -> None:
    with Served(make_app(fake, TOKEN)) as server, RemoteSandbox(server.url, token=TOKEN) as sandbox:
        assert sandbox.run("1", LARGEST_LIMITS).status is Status.OK
    assert fake.limits == [LARGEST_LIMITS]


def test_code_that_is_too_long_is_rejected(url: str, fake: FakeSandbox) -> None:
    assert post(url, block("#" * 300_000)) == (400, "Expect code of at most 256 KB, got more")
    assert post(url, block("#" * MAX_BODY_BYTES))[0] == 413
    assert fake.executed == []


# --------------------------------------------------------------------------------------------- blocks that nobody wants


def test_the_block_of_a_client_that_has_gone_ends(waiting: WaitingSandbox) -> None:
    with Served(make_app(waiting, TOKEN)) as server:
        with connect_to(server.url) as connection:
            connection.sendall(request("POST", "/run", block("1")))
            assert eventually(lambda: bool(waiting.futures))
        assert eventually(waiting.futures[0].cancelled)


def test_the_block_of_a_future_that_was_cancelled_ends(waiting: WaitingSandbox) -> None:
    with Served(make_app(waiting, TOKEN)) as server, RemoteSandbox(server.url, token=TOKEN) as sandbox:
        future = sandbox.submit("1")
        assert eventually(lambda: bool(waiting.futures))
        assert future.cancel()
        assert eventually(waiting.futures[0].cancelled)


def test_a_block_whose_session_is_closed_while_it_is_sent_does_not_run(waiting: WaitingSandbox) -> None:
    with Served(make_app(waiting, TOKEN)) as server, connect_to(server.url) as connection:
        path = f"/sessions/{json.loads(exchange(server.url, request('POST', '/sessions'))[1])['session']}"
        data = request("POST", f"{path}/run", block("1"))
        connection.sendall(data[:-1])
        assert exchange(server.url, request("DELETE", path))[0] == 200
        connection.sendall(data[-1:])
        assert read_response(connection)[0] == 404
    assert waiting.futures == []


def test_the_blocks_of_a_session_end_when_it_is_closed(waiting: WaitingSandbox) -> None:
    with Served(make_app(waiting, TOKEN)) as server, RemoteSandbox(server.url, token=TOKEN) as sandbox:
        session = sandbox.open_session()
        future = session.submit("1")
        assert eventually(lambda: bool(waiting.futures))
        session.close()
        assert future.result(30).status is Status.INFRASTRUCTURE
        assert waiting.futures[0].cancelled()
        assert waiting.sessions[0].closed


# ------------------------------------------------------------------------------------------------ a sandbox that failed


def test_a_server_whose_sandbox_failed_says_so() -> None:
    failed = FailedSandbox()
    with Served(make_app(failed, TOKEN)) as server:
        for data in (request("GET", "/"), request("POST", "/sessions")):
            assert exchange(server.url, data) == (503, "The sandbox cannot run code: its supervisor failed")
        failed.failure = None
        assert exchange(server.url, request("GET", "/")) == (200, '{"layers": {}, "sessions": 0}')


def test_the_program_ends_with_one_line_when_its_sandbox_has_failed_for_good(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(FailedSandbox):
        failure_is_final = True

    monkeypatch.setattr(program, "LocalSandbox", lambda **_: Broken())
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert program.serve("127.0.0.1", 0, 1, (), []) == 1
    assert capsys.readouterr().err == "The server ends: its sandbox has failed (its supervisor failed).\n"


@pytest.mark.slow
def test_the_program_raises_its_descriptor_limit() -> None:
    command = [sys.executable, "-m", "cir_env.sandbox", "serve", "--port", "0", "--slots", "1", "--max", "sessions=3"]
    soft, hard = 100, 400

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"CIR_SANDBOX_TOKEN": TOKEN},
        preexec_fn=lower,  # noqa: PLW1509
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (hard, hard)
            sent = [exchange(url, request("POST", "/sessions")) for _ in range(4)]
            assert [status for status, _ in sent] == [200, 200, 200, 429]
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_an_unknown_maximum_ends_the_program_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.serve("127.0.0.1", 0, 1, (), ["memory=1"]) == 2
    assert capsys.readouterr().err.startswith("Cannot serve: Expect `--max` of sessions, time_limit_s, ")


# ------------------------------------------------------------------------------------------------------------------ log


def record(name: str, text: str, *arguments: object, error: Exception | None = None) -> logging.LogRecord:
    raised = error and (type(error), error, error.__traceback__)
    return logging.LogRecord(name, logging.ERROR, "a.py", 1, text, arguments, raised)


def test_one_line_per_kind_and_minute_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    once = OncePerMinute()
    records = [record(name, "Error of %s", number) for number in range(9) for name in ("asyncio", "aiohttp")]
    assert [once.filter(each) for each in records] == [True, True] + [False] * 16
    now = 61.0
    assert once.filter(record("asyncio", "Error of %s", 10))


def test_a_traceback_is_logged_as_one_line() -> None:
    try:
        raise OSError(24, "Too many\nopen files")
    except OSError as error:
        logged = record("asyncio", "socket.accept() out of system resource\nsocket: <...>", error=error)
    assert OncePerMinute().filter(logged)
    line = logging.Formatter().format(logged)
    assert line.startswith("socket.accept() out of system resource: OSError: [Errno 24] Too many open files (")
    assert "\n" not in line


def test_garbage_from_strangers_is_logged_once(url: str) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda each: lines.append(each.getMessage())  # type: ignore[method-assign]
    handler.addFilter(OncePerMinute())
    logging.getLogger("aiohttp").addHandler(handler)
    try:
        for _ in range(5):
            with connect_to(url) as connection:
                connection.sendall(b"no HTTP at all\r\n\r\n")
                assert ended_by_the_server(connection)
    finally:
        logging.getLogger("aiohttp").removeHandler(handler)
    assert len(lines) <= 1
