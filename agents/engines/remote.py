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
import pickle
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import torch

from agents.core.errors import EngineError, EngineFault
from agents.core.types import Completion
from agents.engines.base import BROKEN, Sampling, Scanner
from agents.engines.request import check_room

if TYPE_CHECKING:
    from agents.engines.base import Engine

KEY = "CIR_ENGINE_KEY"
_REPLY_WITHIN_S = 0.02  # a client that polls hears within this, or a step of the engine, what there is
_GREETING_WITHIN_S = 30.0  # who says nothing for so long in a greeting or within a message is gone, or no engine
_ANSWER_WITHIN_S = 600.0

Link: TypeAlias = "Connection[Any, Any]"


def read_address(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT.

    >>> read_address("localhost:5005")
    ('localhost', 5005)

    Raises:
        EngineError: It is no address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise EngineError(f"Expect the address of an engine, HOST:PORT, got {address!r}.")
    return host, int(port)


def read_key() -> bytes:
    """Return the secret that both sides hold.

    Raises:
        EngineError: There is none.
    """
    key = os.environ.get(KEY, "")
    if not key:
        raise EngineError(f"Expect a secret in the environment variable {KEY}, the same on both sides; it is not set.")
    return key.encode()


def _link(connected: socket.socket) -> Link:
    """Take a socket over, so that no read or write on it lasts for ever."""
    connected.setblocking(True)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # so that a machine that is gone is missed
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, seconds in ((socket.SO_RCVTIMEO, _GREETING_WITHIN_S), (socket.SO_SNDTIMEO, _ANSWER_WITHIN_S)):
        whole, part = divmod(int(seconds * 1e6), 10**6)
        connected.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, part))
    return Connection(connected.detach())


def _connect(address: str) -> Link:
    """Return a connection to an engine whose side holds our secret."""
    host_and_port, key = read_address(address), read_key()
    with _faults(address):
        connection = _link(socket.create_connection(host_and_port, timeout=_GREETING_WITHIN_S))
        try:
            answer_challenge(connection, key)
            deliver_challenge(connection, key)
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def _faults(address: str) -> Iterator[None]:
    """Say of every way in which a connection breaks that the engine is gone."""
    try:
        yield
    except AuthenticationError as error:
        raise EngineError(
            f"Expect an engine with our secret at {address}, got one with another: set {KEY} to the same on both sides."
        ) from error
    except (EOFError, OSError, AssertionError) as error:  # AssertionError: a greeting that is none, in Python 3.11
        raise EngineFault(
            f"Expect an engine at {address}, got none ({_reason(error)}). Start it again: python -m agents.engines "
            f"--address {address} --model MODEL, with the same {KEY}."
        ) from error


def _reason(error: Exception) -> str:
    """Say in a few words how a connection broke."""
    if isinstance(error, EOFError):
        return "it hung up"
    if isinstance(error, BlockingIOError):
        return f"silence for {_GREETING_WITHIN_S:g} s; an engine serves one trainer at a time"
    if isinstance(error, AssertionError) or str(error) == "bad message length":
        return "what answers there is no engine"
    return str(error) or type(error).__name__


class RemoteEngine:
    """Samples with an engine that :func:`serve` serves; see :class:`agents.engines.base.Engine`.

    Args:
        address: HOST:PORT.
        dtype: Of the weights that sample, "float32" or "bfloat16".
        max_model_len: Tokens that a request may hold.

    Raises:
        EngineError: The address is none, the secret is another one, or the engine was started for something else.
        EngineFault: No engine answers there.
    """

    def __init__(self, address: str, *, dtype: str, max_model_len: int) -> None:
        self.max_model_len = max_model_len
        self._address = address
        self._running: set[int] = set()
        self._orders: list[tuple[Any, ...]] = []
        self._is_whole = True
        self._connection = _connect(address)
        self.version, self._dtype, length = self._call("describe")
        if self._dtype != getattr(torch, dtype) or length < max_model_len:
            self.close()
            raise EngineError(
                f"Expect an engine of {dtype} weights for {max_model_len} tokens at {address}, got one of "
                f"{self._dtype} for {length}: start it with --dtype {dtype} --max-model-len {max_model_len}."
            )

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
        if not self._is_whole:
            raise EngineError(BROKEN)
        room = check_room(token_ids, begun, self.max_model_len)
        if request_id in self._running:
            raise EngineError(f"Expect a request that is not running, got {request_id} again.")
        self._running.add(request_id)
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))  # the engine may hold more than we
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
        done: list[Completion] = self._call("poll", self._new_orders())
        done = [each for each in done if each.request_id in self._running]
        self._running.difference_update(each.request_id for each in done)
        return done

    def load_weights(self, version: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Send the weights in the engine's dtype, tensor by tensor."""
        self._call("order", self._new_orders())
        self._is_whole = False
        self.version = self._call("load_weights", version, list(weights), parts=self._parts(weights))
        self._is_whole = True

    def sleep(self) -> None:
        """Free the engine's memory until new weights come."""
        self._call("order", self._new_orders())
        self._call("sleep")

    def close(self) -> None:
        """Leave the engine to others."""
        self._running.clear()
        self._connection.close()

    def _new_orders(self) -> list[tuple[Any, ...]]:
        orders, self._orders = self._orders, []
        return orders

    def _parts(self, weights: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor]:
        for tensor in weights.values():
            yield tensor.detach().to("cpu", self._dtype if tensor.is_floating_point() else tensor.dtype).contiguous()

    def _call(self, name: str, *arguments: Any, parts: Iterable[torch.Tensor] = ()) -> Any:
        try:
            with _faults(self._address):
                self._send((name, arguments))
                for part in parts:
                    self._connection.send((part.dtype, tuple(part.shape)))
                    self._connection.send_bytes(part.view(-1).view(torch.uint8).numpy().data)
                if not self._connection.poll(_ANSWER_WITHIN_S):
                    raise TimeoutError(f"no answer within {_ANSWER_WITHIN_S:g} s")
                answer = self._connection.recv()
        except EngineFault:
            self.close()  # what still comes would be taken for the answer to another call
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise EngineError(f"Expect scanners that can be pickled for an engine elsewhere, but: {error}.") from error


class _Server:
    """Serves an engine to one client after another.

    Attributes:
        failure: What the engine failed with; it is not to be used after that.
    """

    def __init__(self, engine: Engine, dtype: torch.dtype) -> None:
        self.failure: Exception | None = None
        self._engine, self._dtype = engine, dtype
        self._known: set[int] = set()
        self._done: list[Completion] = []

    def attend(self, connection: Link) -> None:
        """Serve a client until it hangs up, or the engine fails and the client knows."""
        try:
            while self.failure is None:
                self._sample_until_asked(connection)
                connection.send(self._answer(connection))
        except (EOFError, OSError):  # the client is gone, maybe in the middle of a message
            for request_id in self._known:
                self._engine.release(request_id)
            self._known.clear()
            self._done.clear()

    def _sample_until_asked(self, connection: Link) -> None:
        try:
            while self._engine.busy and not connection.poll():
                self._done += self._engine.poll()
        except Exception as error:  # whatever it is, the client must hear of it
            self.failure = error
        connection.poll(None)

    def _answer(self, connection: Link) -> Any:
        """Do what the client asks for; an exception is an answer, too."""
        try:
            name, arguments = connection.recv()
        except (ImportError, AttributeError) as error:
            return EngineError(f"Expect the engine's process to know what it is sent, but: {error}. Install it there.")
        if name == "load_weights":
            version, names = arguments
            arguments = (version, {each: _receive_tensor(connection) for each in names})
        try:
            if self.failure is None:
                return getattr(self, f"_{name}")(*arguments)
        except (EngineError, EngineFault) as error:
            return error
        except Exception as error:
            self.failure = error
        first_line = f"{type(self.failure).__name__}: {self.failure}".partition("\n")[0]
        return EngineFault(f"Expect an engine that works, but it failed ({first_line}): see there, and start it again.")

    def _describe(self) -> tuple[int, torch.dtype, int]:
        return self._engine.version, self._dtype, self._engine.max_model_len

    def _order(self, orders: Sequence[tuple[Any, ...]]) -> None:
        refused: EngineError | None = None
        for order, request_id, *more in orders:
            if order == "release":
                self._engine.release(request_id)
                self._known.discard(request_id)
                self._done = [each for each in self._done if each.request_id != request_id]
                continue
            *arguments, begun = more
            try:
                self._engine.submit(request_id, *arguments, begun=begun)
                self._known.add(request_id)
            except EngineError as error:  # the orders behind it count all the same
                refused = error
        if refused is not None:
            raise refused

    def _poll(self, orders: Sequence[tuple[Any, ...]]) -> list[Completion]:
        self._order(orders)
        deadline = time.monotonic() + _REPLY_WITHIN_S
        while not self._done and self._engine.busy and time.monotonic() < deadline:
            self._done += self._engine.poll()
        done, self._done = self._done, []
        return done

    def _load_weights(self, version: int, weights: Mapping[str, torch.Tensor]) -> int:
        self._engine.load_weights(version, weights)
        return self._engine.version

    def _sleep(self) -> None:
        self._engine.sleep()


def _receive_tensor(connection: Link) -> torch.Tensor:
    dtype, shape = connection.recv()
    return torch.frombuffer(bytearray(connection.recv_bytes()), dtype=dtype).view(shape)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket for :func:`serve`.

    Raises:
        EngineFault: The port is taken, or the host is not this machine.
    """
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise EngineFault(
            f"Expect to listen at {host}:{port}, but {error}: choose another port, or host 0.0.0.0."
        ) from error


def serve(engine: Engine, listener: socket.socket, key: bytes, *, dtype: torch.dtype) -> NoReturn:
    """Serve an engine to one client at a time, for ever.

    Args:
        engine: What to serve.
        listener: Where clients connect.
        key: The secret that they hold.
        dtype: Of the weights that it wants.

    Raises:
        Exception: What the engine failed with, after the client has heard of it.
    """
    server = _Server(engine, dtype)
    while server.failure is None:
        with _link(listener.accept()[0]) as connection:
            try:
                deliver_challenge(connection, key)
                answer_challenge(connection, key)
            except (AuthenticationError, EOFError, OSError, AssertionError):
                continue  # somebody without the secret
            server.attend(connection)
    raise server.failure
