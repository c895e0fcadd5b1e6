"""An engine in another process, on this machine or another one.

    python -m agents.engines --model M --address HOST:PORT       serves one
    python train.py ... --rollout.engine HOST:PORT                      samples with it

Both sides hold the same secret in the environment variable ``CIR_ENGINE_KEY``. What travels is not encrypted, and who
knows the secret can run code on both sides: use it in a network of your own.

The server samples on between two calls of its client. New weights replace the old ones when the last tensor has
arrived, so that a transfer that breaks off leaves an engine with whole old weights.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import TYPE_CHECKING, Any

import torch

from agents.engines.base import EngineError, EngineFault, Sampling, Scanner
from agents.engines.request import check_room
from agents.types import Completion

if TYPE_CHECKING:
    from agents.engines.base import Engine

KEY = "CIR_ENGINE_KEY"
_REPLY_WITHIN_S = 0.02  # a client that polls hears within this, or a step of the engine, what there is
_ANSWER_TIMEOUT_S = 600.0


def read_address(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT.

    >>> read_address("localhost:5005")
    ('localhost', 5005)
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise EngineError(f'Expect an engine to be "auto", "transformers", "vllm" or HOST:PORT, got {address!r}.')
    return host, int(port)


def _key() -> bytes:
    key = os.environ.get(KEY, "")
    if not key:
        raise EngineError(f"Expect a secret in the environment variable {KEY}, the same on both sides; it is not set.")
    return key.encode()


class RemoteEngine:
    """Samples with an engine that :func:`serve` serves; see :class:`agents.engines.base.Engine`.

    Args:
        address: HOST:PORT.

    Raises:
        EngineFault: Nothing answers there, or not with our secret.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._running: set[int] = set()
        self._orders: list[tuple[Any, ...]] = []
        host_and_port, key = read_address(address), _key()
        with self._faults():
            self._connection = Client(host_and_port, authkey=key)
        self.max_model_len, self.version, self._dtype = self._call("describe")

    def submit(
        self,
        request_id: int,
        token_ids: Sequence[int],
        sampling: Sampling,
        scanner: Scanner | None = None,
        *,
        begun: Completion | None = None,
    ) -> None:
        """Ask for a completion."""
        check_room(token_ids, begun, self.max_model_len)
        if request_id in self._running:
            raise EngineError(f"Expect a request that is not running, got {request_id} again.")
        self._running.add(request_id)
        self._orders.append(("submit", request_id, list(token_ids), sampling, scanner, begun))

    def release(self, request_id: int) -> None:
        """Forget a request."""
        self._running.discard(request_id)
        self._orders.append(("release", request_id))

    @property
    def busy(self) -> bool:
        """Whether a request runs."""
        return bool(self._running)

    def poll(self) -> list[Completion]:
        """Hand over what was asked for since the last call, and return what has ended."""
        if not self._running:
            return []
        orders, self._orders = self._orders, []
        done: list[Completion] = self._call("poll", orders)
        done = [each for each in done if each.request_id in self._running]
        self._running.difference_update(each.request_id for each in done)
        return done

    def load_weights(self, version: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Send the weights in the engine's dtype, tensor by tensor."""
        self.version = self._call("load_weights", version, list(weights), parts=self._parts(weights))

    def sleep(self) -> None:
        """Free the engine's memory until new weights come."""
        self._call("sleep")

    def close(self) -> None:
        """Leave the engine to others."""
        self._running.clear()
        self._connection.close()

    def _parts(self, weights: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor]:
        for tensor in weights.values():
            yield tensor.detach().to("cpu", self._dtype if tensor.is_floating_point() else tensor.dtype).contiguous()

    def _call(self, name: str, *arguments: Any, parts: Iterable[torch.Tensor] = ()) -> Any:
        with self._faults():
            self._connection.send((name, arguments))
            for part in parts:
                self._connection.send((part.dtype, tuple(part.shape)))
                self._connection.send_bytes(part.view(-1).view(torch.uint8).numpy().data)
            if not self._connection.poll(_ANSWER_TIMEOUT_S):
                raise TimeoutError(f"no answer within {_ANSWER_TIMEOUT_S:g} s")
            answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Say of every way in which a connection breaks that the engine is gone."""
        try:
            yield
        except (EOFError, OSError, AuthenticationError) as error:
            reason = str(error) or type(error).__name__
            raise EngineFault(
                f"Expect an engine at {self._address}, got none ({reason}). Start it again: python -m "
                f"agents.engines --address {self._address} --model MODEL, with the same {KEY}."
            ) from error


class _Server:
    """Serves an engine to one client after another."""

    def __init__(self, engine: Engine, dtype: torch.dtype) -> None:
        self._engine, self._dtype = engine, dtype
        self._known: set[int] = set()
        self._done: list[Completion] = []

    def attend(self, connection: Connection[Any, Any]) -> None:
        """Serve a client until it hangs up."""
        try:
            while True:
                while self._engine.busy and not connection.poll():
                    self._done += self._engine.poll()
                name, arguments = connection.recv()
                try:
                    answer = getattr(self, f"_{name}")(connection, *arguments)
                except (EngineError, EngineFault) as error:
                    answer = error
                connection.send(answer)
        except (EOFError, ConnectionError):
            for request_id in self._known:
                self._engine.release(request_id)
            self._known.clear()
            self._done.clear()

    def _describe(self, connection: Connection[Any, Any]) -> tuple[int, int, torch.dtype]:
        return self._engine.max_model_len, self._engine.version, self._dtype

    def _poll(self, connection: Connection[Any, Any], orders: Sequence[tuple[Any, ...]]) -> list[Completion]:
        for order, request_id, *more in orders:
            if order == "submit":
                *arguments, begun = more
                self._engine.submit(request_id, *arguments, begun=begun)
                self._known.add(request_id)
            else:
                self._engine.release(request_id)
                self._known.discard(request_id)
                self._done = [each for each in self._done if each.request_id != request_id]
        deadline = time.monotonic() + _REPLY_WITHIN_S
        while not self._done and self._engine.busy and time.monotonic() < deadline:
            self._done += self._engine.poll()
        done, self._done = self._done, []
        return done

    def _load_weights(self, connection: Connection[Any, Any], version: int, names: Sequence[str]) -> int:
        weights = {}
        for name in names:
            dtype, shape = connection.recv()
            data = bytearray(connection.recv_bytes())
            weights[name] = torch.frombuffer(data, dtype=dtype).view(shape)
        self._engine.load_weights(version, weights)
        return self._engine.version

    def _sleep(self, connection: Connection[Any, Any]) -> None:
        self._engine.sleep()


def serve(engine: Engine, address: str, *, dtype: torch.dtype) -> None:
    """Serve an engine for ever, to one client at a time.

    Args:
        engine: What to serve.
        address: HOST:PORT to listen at.
        dtype: Of the weights that it wants.

    Raises:
        EngineError: The address is none, or there is no secret.
    """
    server = _Server(engine, dtype)
    with Listener(read_address(address), authkey=_key()) as listener:
        print(f"Serving an engine at {address}.", flush=True)
        while True:
            try:
                connection = listener.accept()
            except (AuthenticationError, EOFError, ConnectionError):
                continue  # somebody without the secret
            with connection:
                server.attend(connection)
