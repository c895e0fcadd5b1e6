"""Every failure of a served engine gives one clear line, and the server continues where it can."""

import http.server
import os
import pickle
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Client, Listener
from threading import Thread
from typing import Any

import pytest
import torch
from agents_fakes import CallScanner, FakeEngine, tiny_qwen2, transformers_engine
from engine_contract import CHAT, PROMPT, complete, finish
from observe import eventually
from serving import Halting, Make, V, clients, connect, served

from agents.core.errors import EngineError, EngineFault
from agents.core.types import Completion
from agents.engines import open_engine, remote
from agents.engines.base import Sampling, Weights
from agents.engines.remote import KEY, read_address, read_key, serve


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")


@pytest.fixture
def make() -> Iterator[Make]:
    with clients() as make_one:
        yield make_one


def lost(address: str) -> str:
    """The error of a client that finds no engine at an address."""
    with pytest.raises(EngineFault) as caught:
        connect(address)
    message = str(caught.value)
    assert message.startswith(f"Expect an engine at {address}, got none (")
    assert message.endswith(f"agents.engines --address {address} --model MODEL, with the same {KEY}.")
    return message


@contextmanager
def answering(say: bytes) -> Iterator[str]:
    """A server that sends these bytes to every client, and nothing else."""

    def accept() -> None:
        with suppress(OSError), listener.accept()[0] as connected:
            connected.sendall(say)
            connected.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=accept)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_a_closed_port_gives_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "Connection refused" in lost(f"127.0.0.1:{port}")


def test_a_silent_server_is_not_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_GREETING_WITHIN_S", 0.2)
    with answering(b"") as address:
        assert "no reply for 0.2 s" in lost(address)


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\0\0\0\5hello"])
def test_a_server_of_another_protocol_is_not_an_engine(greeting: bytes) -> None:
    with (
        answering(greeting) as address,
        pytest.raises((EngineFault, EngineError), match=rf"^Expect .* at {address}, got "),
    ):
        connect(address)


def test_a_web_server_is_not_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_GREETING_WITHIN_S", 0.2)

    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as web:
        thread = Thread(target=web.handle_request)
        thread.start()
        lost(f"127.0.0.1:{web.server_port}")
        thread.join()


def test_an_engine_that_serves_another_client_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(FakeEngine(CHAT)) as address:
        first = connect(address)
        with monkeypatch.context() as impatient:
            impatient.setattr(remote, "_GREETING_WITHIN_S", 0.2)
            assert "an engine serves one trainer at a time" in lost(address)
        first.close()
        connect(address).close()


@pytest.mark.parametrize("address", ["host", "host:", ":5005", "host:port", "host:0", "host:70000", "host:-1"])
def test_a_malformed_address_is_rejected(address: str) -> None:
    with pytest.raises(EngineError, match=f"^Expect the address of an engine, HOST:PORT, got '{address}'"):
        read_address(address)


def test_an_unknown_engine_is_rejected() -> None:
    with pytest.raises(
        EngineError, match=r"^Expect an engine to be auto, transformers, vllm, HOST:PORT or module:function, got "
    ):
        open_engine("vlm", **dict.fromkeys(("path", "chat", "dtype", "device", "max_num_seqs", "max_model_len")))  # type: ignore[arg-type]


def test_without_a_secret_nothing_is_served_or_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY)
    with pytest.raises(EngineError, match=rf"^Expect a secret in the environment variable {KEY}, the same on both"):
        connect("127.0.0.1:9")


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\5hello", b"\0\0"])
def test_a_foreign_client_does_not_stop_the_server(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as impatient, served(FakeEngine(CHAT)) as address:
        impatient.setattr(remote, "_GREETING_WITHIN_S", 0.2)
        with socket.create_connection(read_address(address)) as stranger, suppress(ConnectionResetError):
            stranger.sendall(said)
            while stranger.recv(100):
                pass
        impatient.undo()
        connect(address).close()


def test_a_client_with_another_secret_is_rejected_and_the_server_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(FakeEngine(CHAT)) as address:
        with monkeypatch.context() as other:
            other.setenv(KEY, "wrong")
            with pytest.raises(EngineError, match=f"^Expect an engine with the same secret at {address}, got anoth"):
                connect(address)
        connect(address).close()


def raw_client(address: str) -> Any:
    """An authenticated connection for arbitrary messages."""
    return Client(read_address(address), authkey=read_key())


def test_silent_strangers_do_not_keep_a_trainer_out() -> None:
    with served(FakeEngine(CHAT)) as address, ExitStack() as strangers:
        for _ in range(remote._MAX_STRANGERS + 10):
            strangers.enter_context(socket.create_connection(read_address(address)))
        connect(address).close()


def test_a_stranger_who_sends_a_byte_now_and_then_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_SECRET_WITHIN_S", 0.2)

    def disconnected() -> bool:
        try:
            stranger.sendall(b"\0")
        except OSError:
            return True
        return False

    with served(FakeEngine(CHAT)) as address, socket.create_connection(read_address(address)) as stranger:
        stranger.sendall(b"\0\0\0\x40")
        assert eventually(disconnected)
        connect(address).close()


@pytest.mark.parametrize(
    "message",
    [
        b"garbage",
        pickle.dumps("no pair"),
        pickle.dumps(("attend", ())),
        pickle.dumps(("load_weights", 1)),
        pickle.dumps(("load_weights", (1, ["weight"]))),
    ],
    ids=["no pickle", "no pair", "no call", "no names", "no tensor"],
)
def test_a_client_that_breaks_the_protocol_is_disconnected_and_the_next_one_is_served(message: bytes) -> None:
    with served(FakeEngine(CHAT)) as address:
        broken = raw_client(address)
        for _ in range(3):  # what follows `load_weights` is no tensor either
            with suppress(OSError):
                broken.send_bytes(message)
        with pytest.raises((EOFError, ConnectionResetError)):
            broken.recv()
        broken.close()
        connect(address).close()


@pytest.mark.parametrize("torn", [False, True])
def test_the_requests_of_a_client_that_disappears_are_released_and_the_next_one_is_served(torn: bool) -> None:
    inner = transformers_engine(tiny_qwen2(V), CHAT, max_num_seqs=2, max_model_len=2000)
    with served(inner) as address:
        gone = raw_client(address)
        orders = [
            ("submit", n, PROMPT, Sampling(temperature=9.0, max_tokens=1900, seed=n), None, None) for n in range(5)
        ]
        gone.send(("poll", (orders,)))
        if torn:
            os.write(gone.fileno(), b"\0\0\1\0abc")  # the beginning of a message
        gone.close()
        client = connect(address)
        assert not inner.busy
        assert complete(client).token_ids == complete(transformers_engine(tiny_qwen2(V), CHAT)).token_ids
        client.close()


def test_an_interrupted_transfer_leaves_the_old_weights_intact() -> None:
    inner = transformers_engine(tiny_qwen2(V), CHAT)
    before = complete(inner).token_ids
    with served(inner) as address:
        gone = raw_client(address)
        weights = tiny_qwen2(V, seed=5).state_dict()
        tensor = next(iter(weights.values()))
        gone.send(("load_weights", (1, list(weights))))
        gone.send((list(weights)[:1], tensor.dtype, tuple(tensor.shape)))
        os.write(gone.fileno(), b"\0\1\0\0abc")
        gone.close()
        client = connect(address)
        assert complete(client).token_ids == before
        assert client.version == 0
        client.close()


@pytest.mark.parametrize("parts", [0, 1])
def test_a_server_that_disappears_during_a_transfer_is_a_lost_engine(parts: int) -> None:
    def serve_badly() -> None:
        with listener.accept() as connection:
            connection.recv()
            connection.send((0, torch.float32, 96))
            for _ in ("order", "load_weights")[: 1 + parts]:
                connection.recv()
                connection.send(None)

    with Listener(("127.0.0.1", 0), authkey=read_key()) as listener:
        thread = Thread(target=serve_badly)
        thread.start()
        engine = connect("{}:{}".format(*listener.address))
        with pytest.raises(EngineFault, match=r"^Expect an engine at "):
            engine.load_weights(1, Weights.of(tiny_qwen2(V, hidden_size=512).state_dict()))
        thread.join()
        with pytest.raises(EngineError, match="last load failed"):
            engine.submit(0, PROMPT, Sampling())
    with pytest.raises(EngineFault, match="got none"):
        engine.load_weights(1, Weights.of({}))


def test_a_server_that_no_longer_answers_is_a_lost_engine(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(Halting(CHAT))
    monkeypatch.setattr(remote, "_ANSWER_WITHIN_S", 0.1)
    monkeypatch.setattr(remote, "_REPLY_WITHIN_S", 0.5)
    engine.submit(0, PROMPT, Sampling(max_tokens=12))
    with pytest.raises(EngineFault, match=r"got none \(no answer within 0\.1 s\)"):
        engine.poll()


class Failing(FakeEngine):
    """Samples three tokens, then fails."""

    failed = False

    def poll(self) -> list[Completion]:
        if any(len(request.token_ids) == 3 for request, _ in self._requests.values()):
            self.failed = True
            raise RuntimeError("out of memory\nand much more")
        return super().poll()


FAILED = r"^The served engine failed \(RuntimeError: out of memory\): check its output and restart it\.$"


def test_a_polling_client_is_told_in_one_line_that_the_engine_failed(make: Make) -> None:
    engine = make(Failing(CHAT))
    engine.submit(0, PROMPT, Sampling(max_tokens=12))
    with pytest.raises(EngineFault, match=FAILED):
        finish(engine, 1)


def test_the_next_call_reports_that_the_engine_has_failed(make: Make) -> None:
    inner = Failing(CHAT)
    engine = make(inner)
    engine.submit(0, PROMPT, Sampling(max_tokens=12))
    engine.submit(1, PROMPT, Sampling(max_tokens=1))
    assert [each.request_id for each in engine.poll()] == [1]
    while not inner.failed:
        pass
    with pytest.raises(EngineFault, match=FAILED):
        engine.load_weights(1, Weights.of({"weight": torch.zeros(3)}))


def test_a_server_ends_with_the_error_of_its_engine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def use_it() -> None:
            client = connect(f"127.0.0.1:{listener.getsockname()[1]}")
            client.submit(0, PROMPT, Sampling(max_tokens=12))
            with suppress(EngineFault):
                finish(client, 1)
            client.close()

        thread = Thread(target=use_it)
        thread.start()
        with pytest.raises(RuntimeError, match="out of memory"):
            serve(Failing(CHAT), listener, read_key(), dtype=torch.float32)
        thread.join()


def not_installed() -> None:
    raise ModuleNotFoundError("No module named 'my_env'")


class Foreign(CallScanner):
    def __reduce__(self) -> Any:
        return not_installed, ()


class Unpicklable(CallScanner):
    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle 'generator' object")


@pytest.mark.parametrize(
    ("scanner", "message"),
    [
        (
            Foreign(),
            r"^The engine's process cannot unpickle a request: No module named 'my_env'\. Install the package there\.$",
        ),
        (Unpicklable(), r"^Expect picklable scanners .* cannot pickle 'generator' object\.$"),
    ],
)
def test_a_scanner_that_cannot_be_pickled_is_rejected_and_the_server_continues(
    scanner: CallScanner, message: str, make: Make
) -> None:
    engine = make()
    engine.submit(0, PROMPT, Sampling(), scanner)
    with pytest.raises(EngineError, match=message):
        engine.poll()
    engine.release(0)
    assert len(complete(engine, max_tokens=1).token_ids) == 1


def test_a_rejected_request_does_not_block_others() -> None:
    class Choosy(FakeEngine):
        def submit(self, request_id: int, *args: Any, **kwargs: Any) -> None:
            if request_id == 1:
                raise EngineError("Expect another number.")
            super().submit(request_id, *args, **kwargs)

    inner = Choosy(CHAT)
    with served(inner) as address:
        engine = connect(address)
        for request_id in range(3):
            engine.submit(request_id, PROMPT, Sampling(max_tokens=4))
        engine.release(0)
        with pytest.raises(EngineError, match="Expect another number"):
            engine.poll()
        engine.release(1)
        assert set(finish(engine, 1)) == {2}
        assert inner.held == {2}
        engine.close()
