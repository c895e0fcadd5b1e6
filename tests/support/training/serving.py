"""A tiny engine, served by a thread to clients in the same process, for tests."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Thread

import torch
from agents_fakes import FakeEngine, tiny_qwen2, transformers_engine
from engine_contract import CHAT

from agents.core.types import Completion
from agents.engines.base import Engine
from agents.engines.remote import RemoteEngine, read_key, serve

V = len(CHAT.tokenizer)


@contextmanager
def served(engine: Engine) -> Iterator[str]:
    """Serve an engine in a thread; yield its address. All clients must have disconnected at the end of the block."""

    def serve_it() -> None:
        with suppress(OSError, RuntimeError):  # the listener is shut down, or the engine fails
            serve(engine, listener, key, dtype=torch.float32)

    key = read_key()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve_it)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def connect(address: str, max_model_len: int = 96) -> RemoteEngine:
    return RemoteEngine(address, dtype="float32", max_model_len=max_model_len)


Make = Callable[..., RemoteEngine]


@contextmanager
def clients() -> Iterator[Make]:
    """Yield a factory of clients, each with its own engine, by default a tiny transformer."""
    with ExitStack() as stack:

        def make_one(engine: Engine | None = None, *, max_num_seqs: int = 4, max_model_len: int = 96) -> RemoteEngine:
            model = tiny_qwen2(V)
            if engine is None:
                engine = transformers_engine(model, CHAT, max_num_seqs=max_num_seqs, max_model_len=max_model_len)
            client = connect(stack.enter_context(served(engine)), max_model_len)
            stack.callback(client.close)
            client.weights = model.state_dict()  # type: ignore[attr-defined]  # for the laws
            return client

        yield make_one


class Halting(FakeEngine):
    """Samples three tokens with its first weights, and continues with new ones."""

    halted = False

    def poll(self) -> list[Completion]:
        self.halted = self.version == 0 and any(len(request.token_ids) == 3 for request, _ in self._requests.values())
        return [] if self.halted else super().poll()
