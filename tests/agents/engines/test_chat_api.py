"""Requests to a chat API: what a server can do is found out, what may pass is repeated, the rest is one line."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import chat_server as api
import pytest
from chat_server import KEY, serving, status

from agents.config.evaluation import EvalConfig
from agents.core.errors import ConfigError, EngineError, EngineFault
from agents.engines import chat_api
from agents.engines.base import Sampling
from agents.engines.chat_api import ChatServer, Reply, Traits
from cir_env.parsing import BlockScanner

QUESTION = [{"role": "user", "content": "What is 6 * 7?"}]
Serve = Callable[..., api.ChatServer]


@pytest.fixture(autouse=True)
def _a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_api, "_KEYS", {})
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(chat_api.random, "uniform", lambda low, high: 0.0)  # no pauses but those that are asked for


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda **kinds: stack.enter_context(serving(api.ChatServer(**kinds)))


def client(url: str, name: str = "scripted", **changes: Any) -> ChatServer:
    config = EvalConfig(model=(f"openai:{name}",), base_url=url, **changes)
    return ChatServer(config, name, template_kwargs={"enable_thinking": False})


def ask(asked: ChatServer, **arguments: Any) -> Reply | None:
    return asked.run(lambda: asked.complete(QUESTION, Sampling(seed=3), **arguments))


# ------------------------------------------------------------------------------------------------- what a server can


@pytest.mark.parametrize(
    ("kinds", "traits"),
    [
        ({}, Traits(turns="prefix", extra_parameters=True, seed=True)),
        ({"continues": False}, Traits(turns="message", extra_parameters=True, seed=True)),
        ({"extra": False, "counts": "end"}, Traits(turns="message", extra_parameters=False, seed=True)),
    ],
)
@pytest.mark.slow
def test_a_server_continues_a_message_only_if_it_counts_fewer_tokens(
    serve: Serve, kinds: dict[str, Any], traits: Traits
) -> None:
    assert client(serve(**kinds).url).connect() == traits


def test_a_wanted_continuation_that_is_ignored_is_an_error(serve: Serve) -> None:
    with pytest.raises(EngineError, match=r"Expect an API that continues the assistant's message, .* --turns message"):
        client(serve(continues=False).url, turns="prefix").connect()


def test_parameters_that_a_server_rejects_are_dropped(serve: Serve) -> None:
    def fails(body: dict[str, Any]) -> api.Fault | None:
        if "max_tokens" in body:
            return status(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return status(400, "seed is not supported") if "seed" in body else None

    server = serve(extra=False, counts="end")
    server.fails = fails
    assert client(server.url).connect() == Traits(turns="message", extra_parameters=False, seed=False)


def test_a_run_is_not_resumed_where_the_server_can_do_less(serve: Serve) -> None:
    begun = Traits(turns="prefix", extra_parameters=True, seed=True)
    with pytest.raises(EngineError, match="Expect an API that can do what it could when the run began"):
        client(serve(continues=False).url).connect(begun)
    less = Traits(turns="message", extra_parameters=True, seed=True)
    assert client(serve().url).connect(less) == less


def test_sampling_is_spelled_out_so_that_the_server_has_no_defaults(serve: Serve) -> None:
    server = serve()
    ask(client(server.url))
    (body,) = server.requests
    assert (body["temperature"], body["top_p"], body["seed"]) == (1.0, 1.0, 3)
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0.0, 1.0)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


# ------------------------------------------------------------------------------------------------------------ replies


def test_a_reply_ends_where_the_environment_ends_the_block(serve: Serve) -> None:
    reply = ask(client(serve().url), scanner=BlockScanner())
    assert reply is not None
    assert (reply.text, reply.finish_reason) == ("```python\nprint(6 * 7)\n```\n", "boundary")
    assert (reply.completion_tokens, reply.is_estimated) == (9, False)


def test_tokens_that_the_server_does_not_count_are_estimated(serve: Serve) -> None:
    reply = ask(client(serve(counts="end").url), scanner=BlockScanner())
    assert reply is not None
    assert (reply.completion_tokens, reply.is_estimated) == (9, True)


def test_half_a_character_does_not_stop_the_next_request(serve: Serve) -> None:
    reply = ask(client(serve(policy=lambda text: "\ud83d!").url))
    assert reply is not None
    assert reply.text == "?!"


@pytest.mark.parametrize(
    "fault",
    [
        *map(status, (408, 429, 500, 502, 503, 529)),
        *(api.html(502), api.html(200), api.cut, api.finished_early, api.malformed, api.misshapen, api.failing),
    ],
)
def test_a_failure_that_may_pass_is_repeated(serve: Serve, fault: api.Fault) -> None:
    server = serve(policy=lambda text: "fine")
    asked = client(server.url)
    asked.connect()
    server.requests.clear()
    server.faults = [fault, fault]
    reply = ask(asked)
    assert (reply and reply.text, len(server.requests)) == ("fine", 3)


def test_a_silent_request_is_given_up_and_repeated(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(policy=lambda text: "fine")
    server.faults = [api.slow(1.0)]
    reply = ask(client(server.url, request_timeout_s=0.3))
    assert reply is not None
    assert reply.text == "fine"
    assert caplog.messages == ["A request is repeated: silence for --request-timeout-s 0.3"]


def test_a_reply_may_take_longer_than_the_server_may_be_silent(serve: Serve) -> None:
    server = serve(policy=lambda text: "fine")
    server.faults = [api.dripping(pieces=5, pause_s=0.5)]
    reply = ask(client(server.url, request_timeout_s=1.5))
    assert (reply and reply.text, len(server.requests)) == ("drip" * 5, 1)


@pytest.mark.parametrize("value", ["0.4", lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=2), True)])
def test_a_server_that_says_when_to_come_again_is_heard(serve: Serve, value: Any) -> None:
    server = serve(policy=lambda text: "fine")
    server.faults = [status(429, Retry_After=value if isinstance(value, str) else value())]
    begin = time.monotonic()
    assert ask(client(server.url)) is not None
    assert time.monotonic() - begin > 0.39


def test_a_longer_wait_than_is_allowed_is_an_error_at_once(serve: Serve) -> None:
    server = serve()
    server.faults = [status(429, "slow down", Retry_After="900")]
    with pytest.raises(EngineFault, match=r"within --retry-s 600, got: 429 slow down \(wait 900 s\). What was sampled"):
        ask(client(server.url))


def test_a_server_that_is_away_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_api.random, "uniform", lambda low, high: 0.1)
    with serving(api.ChatServer(policy=lambda text: "before")) as first:
        asked = client(first.url)
        asked.connect()

    def come_back() -> None:
        time.sleep(1.0)
        with serving(api.ChatServer(policy=lambda text: "after", port=first.server_port)):
            done.wait(30)

    done = threading.Event()
    thread = threading.Thread(target=come_back)
    thread.start()
    try:
        reply = ask(asked)
    finally:
        done.set()
        thread.join()
    assert reply is not None
    assert reply.text == "after"


def test_a_server_that_is_gone_is_an_error(serve: Serve) -> None:
    with serving(api.ChatServer()) as server:
        asked = client(server.url, retry_s=0.2)
        asked.connect()
    with pytest.raises(EngineFault, match=r"answer within --retry-s 0.2, got: All connection attempts failed\."):
        ask(asked)


def test_a_request_that_fails_alone_is_no_error_of_the_server(serve: Serve) -> None:
    server = serve(policy=lambda text: "fine")
    server.fails = lambda body: status(500, "bad luck") if body["messages"] != QUESTION else None
    asked = client(server.url, retry_s=1.0)

    async def both() -> tuple[Reply | None, Reply | None]:
        async def later() -> Reply | None:
            await asyncio.sleep(0.3)
            return await asked.complete(QUESTION, Sampling())

        other = [{"role": "user", "content": "another"}]
        return await asyncio.gather(asked.complete(other, Sampling()), later())

    failed, fine = asked.run(both)
    assert failed is None
    assert fine is not None
    assert asked.last_failure == "500 bad luck"


# ---------------------------------------------------------------------------------------------------------- bad input


def complaint(asked: ChatServer) -> str:
    with pytest.raises(EngineError) as error:
        asked.connect()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_refused_key_is_said_without_the_key(serve: Serve) -> None:
    url = serve(key="another").url
    expected = f"Expect a key for {url} in the variable OPENAI_API_KEY, got 401 Incorrect key: Bearer [key]."
    assert complaint(client(url)) == expected


def test_a_missing_key_is_said(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "in the variable OPENAI_API_KEY, got no key (401 " in complaint(client(serve().url))


def test_an_unknown_model_is_said_with_those_that_there_are(serve: Serve) -> None:
    url = serve().url
    assert complaint(client(url, "other")) == f"Expect a model that {url} has (scripted), got 'other'."


@pytest.mark.parametrize("fault", [api.html(), api.html(404)])
def test_a_url_with_something_else_behind_it_is_said(serve: Serve, fault: api.Fault) -> None:
    server = serve()
    server.fails = lambda body: fault
    assert complaint(client(server.url)).startswith(f"Expect an OpenAI-compatible API at {server.url}")


def test_a_url_with_nothing_behind_it_is_said() -> None:
    asked = client("http://127.0.0.1:9/v1")
    assert complaint(asked).startswith("Expect an OpenAI-compatible API at http://127.0.0.1:9/v1, such as http://HOST")


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://a b/v1", "http://h:x/v1"])
def test_what_is_no_url_is_said(url: str) -> None:
    with pytest.raises(ConfigError, match="Expect `base_url` like 'http://HOST:8000/v1', got "):
        EvalConfig(model=("openai:m",), base_url=url)


@pytest.mark.parametrize("url", ["http://me:secret@host/v1", "http://host/v1?key=secret"])
def test_a_url_with_a_secret_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="Expect `base_url` without user, password or query") as error:
        EvalConfig(model=("openai:m",), base_url=url)
    assert "secret" not in str(error.value)


def test_a_key_of_other_characters_is_said_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "schlüssel")
    with pytest.raises(ConfigError, match="Expect a key of printable ASCII characters in the variable OPENAI_API_KEY"):
        client("http://127.0.0.1:9/v1")


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(EngineError, match=r"Expect the package openai .* pip install -e '.\[openai\]'"):
        client("http://127.0.0.1:9/v1")


def test_no_process_that_starts_later_sees_the_key() -> None:
    program = (
        "import os, pathlib; from agents.engines.chat_api import take_key\n"
        "assert take_key('OPENAI_API_KEY') == take_key('OPENAI_API_KEY') == 'sk-1234567'\n"
        "assert 'OPENAI_API_KEY' not in os.environ\n"
        "print('sk-1234567' in pathlib.Path('/proc/self/environ').read_text())"
    )
    environment = {**os.environ, "OPENAI_API_KEY": "sk-1234567", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
