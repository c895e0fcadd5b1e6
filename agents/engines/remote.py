"""An engine in another process, on this machine or another.

    python -m agents.engines --model M --address HOST:PORT       serves an engine
    python train.py ... --rollout.engine HOST:PORT               samples with it

Both sides share a secret in the environment variable ``CIR_ENGINE_KEY``. Traffic is not encrypted, and anyone who knows
the secret can run code on both sides: use a private network.

The server keeps sampling between two calls of its client. New weights replace the old ones once the last tensor has
arrived, so an interrupted transfer leaves the old weights intact.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import torch

from agents.core.errors import EngineError, EngineFault
from agents.core.types import Completion
from agents.engines.base import BROKEN, Sampling, Scanner, Weights
from agents.engines.request import check_room

if TYPE_CHECKING:
    from agents.engines.base import Engine

KEY = "CIR_ENGINE_KEY"
_REPLY_WITHIN_S = 0.02  # longest wait for a completion before a poll is answered, plus one step of the engine
_GREETING_WITHIN_S = 30.0  # timeout of the handshake, and of each read within a message
_SECRET_WITHIN_S = 5.0  # from accepting a connection until it has proved that it knows the secret
_MAX_STRANGERS = 64  # connections that have not; one more closes the oldest
_ACCEPT_S = 0.05  # between two looks at the strangers
_ANSWER_WITHIN_S = 600.0
_CALLS = ("describe", "order", "poll", "load_weights", "sleep")

Link: TypeAlias = "Connection[Any, Any]"


def read_address(address: str) -> tuple[str, int]:
    """Parse an address HOST:PORT.

    >>> read_address("localhost:5005")
    ('localhost', 5005)

    Raises:
        EngineError: The address is malformed, or its port is not in [1, 65535].
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise EngineError(f"Expect the address of an engine, HOST:PORT, got {address!r}.")
    return host, int(port)


def read_key() -> bytes:
    """Return the secret that client and server share.

    Raises:
        EngineError: The environment variable is not set.
    """
    key = os.environ.get(KEY, "")
    if not key:
        raise EngineError(f"Expect a secret in the environment variable {KEY}, the same on both sides; it is not set.")
    return key.encode()


def _link(connected: socket.socket) -> Link:
    """Turn a socket into a connection whose reads and writes time out."""
    connected.setblocking(True)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # detects a machine that is down
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, seconds in ((socket.SO_RCVTIMEO, _GREETING_WITHIN_S), (socket.SO_SNDTIMEO, _ANSWER_WITHIN_S)):
        whole, part = divmod(int(seconds * 1e6), 10**6)
        connected.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, part))
    return Connection(connected.detach())


def _connect(address: str) -> Link:
    """Connect to a served engine and authenticate both sides."""
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
    """Translate every connection error into an engine error."""
    try:
        yield
    except AuthenticationError as error:
        raise EngineError(
            f"Expect an engine with the same secret at {address}, got another secret: set {KEY} to the same value "
            "on both sides."
        ) from error
    except (EOFError, OSError, AssertionError) as error:  # AssertionError: a bad handshake in Python 3.11
        raise EngineFault(
            f"Expect an engine at {address}, got none ({_reason(error)}). Restart it: python -m agents.engines "
            f"--address {address} --model MODEL, with the same {KEY}."
        ) from error


def _reason(error: Exception) -> str:
    """Return in a few words how a connection failed."""
    if isinstance(error, EOFError):
        return "it closed the connection"
    if isinstance(error, BlockingIOError):
        return f"no reply for {_GREETING_WITHIN_S:g} s; an engine serves one trainer at a time"
    if isinstance(error, AssertionError) or str(error) == "bad message length":
        return "the server there is not an engine"
    return str(error) or type(error).__name__


class RemoteEngine:
    """Client of an engine served by :func:`serve`; implements :class:`agents.engines.base.Engine`.

    Args:
        address: HOST:PORT of the server.
        dtype: Expected dtype of the engine's weights, "float32" or "bfloat16".
        max_model_len: Maximum tokens per request; the engine may allow more.

    Raises:
        EngineError: Malformed address, different secret, or an engine with another dtype or less room.
        EngineFault: No engine answers at the address.
    """

    cache_tokens: int | None = None

    def __init__(self, address: str, *, dtype: str, max_model_len: int) -> None:
        self.max_model_len = max_model_len
        self._address = address
        self._running: set[int] = set()
        self._orders: list[tuple[Any, ...]] = []
        self.has_weights = True
        self._connection = _connect(address)
        self.version, self._dtype, length = self._call("describe")
        if self._dtype != getattr(torch, dtype) or length < max_model_len:
            self.close()
            raise EngineError(
                f"Expect an engine with {dtype} weights and {max_model_len} tokens at {address}, got {self._dtype} "
                f"and {length}: start it with --dtype {dtype} --max-model-len {max_model_len}."
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
        """Request a completion; it is sent with the next :meth:`poll`."""
        if not self.has_weights:
            raise EngineError(BROKEN)
        room = check_room(token_ids, begun, self.max_model_len)
        if request_id in self._running:
            raise EngineError(f"Expect a request that is not running, got {request_id} again.")
        self._running.add(request_id)
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))  # the engine may allow more
        self._orders.append(("submit", request_id, list(token_ids), sampling, scanner, begun))

    def release(self, request_id: int) -> None:
        """Discard a request."""
        self._running.discard(request_id)
        self._orders.append(("release", request_id))

    @property
    def busy(self) -> bool:
        """Whether a request is running."""
        return bool(self._running)

    def poll(self) -> list[Completion]:
        """Send the requests made since the last call; return the completions that have ended."""
        if not self._running:
            return []
        done: list[Completion] = self._call("poll", self._new_orders())
        done = [each for each in done if each.request_id in self._running]
        self._running.difference_update(each.request_id for each in done)
        return done

    def load_weights(self, version: int, weights: Weights) -> None:
        """Send the weights in the engine's dtype, tensor by tensor."""
        self._call("order", self._new_orders())
        self.has_weights = False
        self.version = self._call("load_weights", version, list(weights.shapes), parts=_parts(weights, self._dtype))
        self.has_weights = True

    def sleep(self) -> None:
        """Free the engine's memory until new weights are loaded."""
        self._call("order", self._new_orders())
        self.has_weights = self._call("sleep")

    def close(self) -> None:
        """Disconnect; the server then accepts another client."""
        self._running.clear()
        self._connection.close()

    def _new_orders(self) -> list[tuple[Any, ...]]:
        orders, self._orders = self._orders, []
        return orders

    def _call(self, name: str, *arguments: Any, parts: Iterable[tuple[list[str], torch.Tensor]] = ()) -> Any:
        try:
            with _faults(self._address):
                self._send((name, arguments))
                for names, part in parts:
                    self._connection.send((names, part.dtype, tuple(part.shape)))
                    self._connection.send_bytes(part.view(-1).view(torch.uint8).numpy().data)
                if not self._connection.poll(_ANSWER_WITHIN_S):
                    raise TimeoutError(f"no answer within {_ANSWER_WITHIN_S:g} s")
                answer = self._connection.recv()
        except EngineFault:
            self.close()  # a late answer would be mistaken for that of another call
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise EngineError(f"Expect picklable scanners for a served engine, got: {error}.") from error


def _parts(weights: Weights, dtype: torch.dtype) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Yield each tensor once, with all of its names, in main memory and the engine's dtype."""
    names: list[str] = []
    last: torch.Tensor | None = None
    for name, tensor in weights.tensors:
        if last is not None and tensor is not last:
            yield names, _to_send(last, dtype)
            names = []
        names, last = [*names, name], tensor
    if last is not None:
        yield names, _to_send(last, dtype)


def _to_send(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()


class _Server:
    """Serves an engine to one client after another.

    Attributes:
        failure: Exception that the engine failed with, after which it is unusable; None while it works.
    """

    def __init__(self, engine: Engine, dtype: torch.dtype) -> None:
        self.failure: Exception | None = None
        self._engine, self._dtype = engine, dtype
        self._known: set[int] = set()
        self._done: list[Completion] = []

    def attend(self, connection: Link) -> None:
        """Serve a client until it disconnects or breaks the protocol, or has been told that the engine failed."""
        try:
            while self.failure is None:
                self._sample_until_asked(connection)
                connection.send(self._answer(connection))
        except (EOFError, OSError):  # the client disconnected, perhaps in the middle of a message
            for request_id in self._known:
                self._engine.release(request_id)
            self._known.clear()
            self._done.clear()

    def _sample_until_asked(self, connection: Link) -> None:
        try:
            while self._engine.busy and not connection.poll():
                self._done += self._engine.poll()
        except Exception as error:  # reported to the client by `_answer`
            self.failure = error
        connection.poll(None)

    def _answer(self, connection: Link) -> Any:
        """Execute the client's next call; return its result, or an exception for the client to raise."""
        try:
            name, arguments = connection.recv()
            if name not in _CALLS:
                raise EOFError("not a call")
            if name == "load_weights":
                version, names = arguments
                arguments = (version, _receive_tensors(connection, len(names)))
        except (ImportError, AttributeError) as error:
            return EngineError(f"The engine's process cannot unpickle a request: {error}. Install the package there.")
        except OSError:
            raise
        except Exception as error:  # whatever unpickling garbage raises
            raise EOFError("not a message of the protocol") from error
        try:
            if self.failure is None:
                return getattr(self, f"_{name}")(*arguments)
        except (EngineError, EngineFault) as error:
            return error
        except Exception as error:
            self.failure = error
        first_line = f"{type(self.failure).__name__}: {self.failure}".partition("\n")[0]
        return EngineFault(f"The served engine failed ({first_line}): check its output and restart it.")

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
            except EngineError as error:  # later orders are executed all the same
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

    def _load_weights(self, version: int, weights: dict[str, torch.Tensor]) -> int:
        self._engine.load_weights(version, Weights.of(weights))
        return self._engine.version

    def _sleep(self) -> bool:
        self._engine.sleep()
        return self._engine.has_weights


def _receive_tensors(connection: Link, count: int) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    while len(tensors) < count:
        names, dtype, shape = connection.recv()
        tensor = torch.frombuffer(bytearray(connection.recv_bytes()), dtype=dtype).view(shape)
        tensors |= dict.fromkeys(names, tensor)
    return tensors


class _Door:
    """Accepts connections and lets in those that know the secret, however many others are silent."""

    def __init__(self, listener: socket.socket, key: bytes) -> None:
        self._listener, self._key = listener, key
        self._strangers: dict[socket.socket, float] = {}  # with their deadlines; the oldest is the first
        self._known: SimpleQueue[Link] = SimpleQueue()
        listener.settimeout(_ACCEPT_S)

    def next_client(self) -> Link:
        """Wait for a client.

        Raises:
            OSError: The listener is closed.
        """
        while True:
            with suppress(TimeoutError, ConnectionError):
                self._greet(self._listener.accept()[0])
            self._dismiss()
            while len(self._strangers) > 2 * _MAX_STRANGERS:  # until their threads have ended
                time.sleep(_ACCEPT_S)
            with suppress(Empty):
                client = self._known.get_nowait()
                try:
                    answer_challenge(client, self._key)
                    return client
                except (AuthenticationError, EOFError, OSError, AssertionError):
                    client.close()

    def _greet(self, connected: socket.socket) -> None:
        """Ask for the secret, in a thread."""

        def ask() -> None:
            connection = _link(connected)
            try:
                deliver_challenge(connection, self._key)
                self._known.put(connection)
            except Exception:  # whatever a stranger says
                connection.close()
            finally:
                del self._strangers[watched]
                watched.close()

        watched = connected.dup()
        self._strangers[watched] = time.monotonic() + _SECRET_WITHIN_S
        Thread(target=ask, daemon=True).start()

    def _dismiss(self) -> None:
        """Disconnect strangers that are late or too many, which ends their threads."""
        strangers = list(self._strangers.items())
        for number, (stranger, deadline) in enumerate(strangers, _MAX_STRANGERS - len(strangers)):
            if number < 0 or deadline < time.monotonic():
                with suppress(OSError):
                    stranger.shutdown(socket.SHUT_RDWR)


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket for :func:`serve`.

    Raises:
        EngineFault: The port is in use, or the host is not an address of this machine.
    """
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise EngineFault(f"Cannot listen on {host}:{port}: {error}. Choose another port, or host 0.0.0.0.") from error


def serve(engine: Engine, listener: socket.socket, key: bytes, *, dtype: torch.dtype) -> NoReturn:
    """Serve an engine to one client at a time, until it fails.

    Args:
        engine: The engine.
        listener: Socket that clients connect to.
        key: Secret shared with the clients.
        dtype: dtype of the engine's weights.

    Raises:
        Exception: What the engine failed with, after the client has been told.
        OSError: The listener is closed.
    """
    server, door = _Server(engine, dtype), _Door(listener, key)
    while server.failure is None:
        with door.next_client() as connection:
            server.attend(connection)
    raise server.failure
