"""A fake sandbox behind the HTTP server, served from a thread, and raw connections to it."""

import asyncio
import contextlib
import json
import socket
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from aiohttp import web
from fakes import FakeSandbox, FakeSession

from cir_env.sandbox import ExecutionResult, Limits
from cir_env.sandbox.http.server import listen

TOKEN = "a-token-of-the-tests"


class Served:
    """An application on a port, by default a free one, served from a thread."""

    def __init__(self, app: web.Application, port: int = 0) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._serving = contextlib.AsyncExitStack()
        self.url: str = self._do(self._serving.enter_async_context(listen(app, "127.0.0.1", port, shutdown_s=0.1)))

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        if not self._loop.is_closed():
            self._do(self._serving.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class WaitingSandbox(FakeSandbox):
    """Holds back all results until the test sets them."""

    def __init__(self) -> None:
        super().__init__()
        self.futures: list[Future[ExecutionResult]] = []

    def submit(self, code: str, limits: Limits | None = None) -> "Future[ExecutionResult]":
        self.futures.append(Future())
        return self.futures[-1]

    def open_session(self) -> FakeSession:
        session = super().open_session()
        session.submit = self.submit  # type: ignore[method-assign]
        return session


def connect_to(url: str) -> socket.socket:
    """Open a raw connection."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    return socket.create_connection((address.hostname, address.port), timeout=30)


def request(
    method: str, path: str, body: str | bytes = b"", *headers: str, token: str = TOKEN, length: int = -1
) -> bytes:
    """Return the bytes of a request."""
    data = body.encode() if isinstance(body, str) else body
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: sandbox",
        f"Authorization: Bearer {token}",
        f"Content-Length: {length if length >= 0 else len(data)}",
        *headers,
    ]
    return "\r\n".join([*lines, "\r\n"]).encode() + data


def block(code: str, **limits: float) -> str:
    """Return the body of a request to run a block."""
    return json.dumps({"code": code, "limits": limits})


def exchange(url: str, data: bytes) -> tuple[int, str]:
    """Send a request on a connection of its own; return status and body of the response."""
    with connect_to(url) as connection:
        connection.sendall(data)
        return read_response(connection)


def read_response(connection: socket.socket) -> tuple[int, str]:
    """Return status and body of a response that has a content length."""
    with connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        length = 0
        while line := file.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return status, file.read(length).decode()


def ended_by_the_server(connection: socket.socket) -> bool:
    """Read until the end of a connection."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(65536):
            pass
    return True
