"""An HTTP server in front of a `LocalSandbox`.

::

    GET    /                     the layers; 503 and the reason while the sandbox cannot run code
    POST   /run                  {"code": ..., "limits": {...}, "files": {...}}  ->  {"status": ..., "stdout": ..., ...}
    POST   /sessions             {"files": {...}} or nothing  ->  {"session": ...}
    POST   /sessions/ID/run      like /run without files, in the namespace of the session
    DELETE /sessions/ID          ends its running block, too

Each request needs the token (`Authorization: Bearer ...`). While a block waits or runs, the response body starts with
keepalive spaces, one every few seconds, so that a client can tell a busy server from a dead one. A block ends when its
client disconnects. Errors are one line of text: 400 for a request that is malformed or exceeds the `Maxima`, 429 while
the server is full, 503 while the sandbox cannot run code.
"""

import asyncio
import contextlib
import dataclasses
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from aiohttp import hdrs, web

from cir_env.errors import OptionError, SandboxUnavailable
from cir_env.sandbox.contract import (
    MAX_CODE_BYTES,
    MAX_FILES_BYTES,
    ExecutionResult,
    Limits,
    Sandbox,
    Session,
    Status,
    encode_files,
)
from cir_env.sandbox.http import connections
from cir_env.sandbox.http.connections import Connections, closing
from cir_env.sandbox.http.maxima import Maxima, read_limits

KEEPALIVE_S = 5.0
"""Seconds between two keepalive spaces."""
SESSION_TTL_S = 3600.0
"""Seconds without a block after which a session is closed, since its client may have died."""
SPARED_S = 600.0
"""Seconds without a block after which a session makes room for a new one when there are too many."""
FAILED_S = 60.0
"""Seconds without a sandbox that can run code after which the server ends."""
WATCH_S = 1.0
"""Seconds between two checks of connections, sessions and the sandbox."""
QUEUE = 1024
"""Number of connections that the kernel holds until they are accepted."""
LINGER_S = 1.0
"""Seconds that a client that is refused gets to send the rest of its request, so that it reads why."""
SHUTDOWN_S = 5.0
"""Seconds that blocks in flight get to finish when the server stops."""
MAX_BODY_BYTES = 6 * (MAX_CODE_BYTES + MAX_FILES_BYTES) + 65_536
"""JSON may encode each byte of the code and of the files as up to six bytes."""


CONNECTIONS = web.AppKey("connections", Connections)

Block = Future[ExecutionResult]


def make_app(
    sandbox: Sandbox, token: str, *, maxima: Maxima | None = None, session_ttl_s: float = SESSION_TTL_S
) -> web.Application:
    """Return the server application of a sandbox; the caller closes the sandbox.

    Args:
        sandbox: Runs the blocks.
        token: The token that each request needs.
        maxima: What clients may ask for.
        session_ttl_s: Seconds after which an unused session is closed.
    """
    handlers = _Handlers(sandbox, token, maxima or Maxima(), session_ttl_s)
    app = web.Application(middlewares=[handlers.authenticate], client_max_size=MAX_BODY_BYTES)
    app[CONNECTIONS] = handlers.connections
    app.add_routes(
        [
            web.get("/", handlers.describe),
            web.post("/run", handlers.run),
            web.post("/sessions", handlers.open_session),
            web.post("/sessions/{name}/run", handlers.run_in_session),
            web.delete("/sessions/{name}", handlers.close_session),
        ]
    )
    app.cleanup_ctx.append(handlers.watch)
    return app


class _OpenSession:
    """A session, its blocks, and when the last one ended."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.blocks: set[Block] = set()
        self.last_used = time.monotonic()

    def close(self) -> None:
        self.session.close()
        for block in self.blocks:
            block.cancel()


class _Handlers:
    """The request handlers and the open sessions."""

    def __init__(self, sandbox: Sandbox, token: str, maxima: Maxima, session_ttl_s: float) -> None:
        self.connections = Connections(strangers=maxima.strangers, clients=maxima.connections)
        self._sandbox = sandbox
        self._token = token.encode()
        self._maxima = maxima
        self._ttl = session_ttl_s
        self._sessions: dict[str, _OpenSession] = {}

    @web.middleware
    async def authenticate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        given = request.headers.get(hdrs.AUTHORIZATION, "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, b"Bearer " + self._token):
            raise closing(web.HTTPUnauthorized(text="Expect the token of the server in `Authorization: Bearer TOKEN`"))
        with self.connections.serving(request.protocol):
            response: web.StreamResponse = await handler(request)
            return response

    async def describe(self, request: web.Request) -> web.StreamResponse:
        self._check_sandbox()
        return web.json_response({"layers": getattr(self._sandbox, "layers", {}), "sessions": len(self._sessions)})

    async def run(self, request: web.Request) -> web.StreamResponse:
        code, limits, files = await self._read_block(request)
        return await self._answer(request, partial(self._sandbox.submit, code, limits, **files), set())

    async def open_session(self, request: web.Request) -> web.StreamResponse:
        files = _read_files(await _read_object(request)) if request.can_read_body else {}
        self._check_sandbox()
        if len(self._sessions) >= self._maxima.sessions:
            self._close_unused(SPARED_S)
        if len(self._sessions) >= self._maxima.sessions:
            raise web.HTTPTooManyRequests(text=f"The server has {self._maxima.sessions} open sessions already")
        name = secrets.token_urlsafe(16)
        self._sessions[name] = _OpenSession(self._sandbox.open_session(**files))
        return web.json_response({"session": name})

    async def run_in_session(self, request: web.Request) -> web.StreamResponse:
        code, limits, _ = await self._read_block(request)
        opened = self._sessions.get(request.match_info["name"])  # looked up last: it may be closed meanwhile
        if opened is None:
            raise web.HTTPNotFound(text="Expect an open session, got one that is closed or was unused for too long")
        try:
            return await self._answer(request, partial(opened.session.submit, code, limits), opened.blocks)
        finally:
            opened.last_used = time.monotonic()

    async def close_session(self, request: web.Request) -> web.StreamResponse:
        self._forget(request.match_info["name"])
        return web.Response()

    async def watch(self, app: web.Application) -> AsyncIterator[None]:
        """Close idle connections, sessions that were unused for too long, and all sessions at shutdown."""

        async def check() -> None:
            while True:
                await asyncio.sleep(WATCH_S)
                self.connections.close_idle()
                self._close_unused(self._ttl)

        checking = asyncio.create_task(check())
        yield
        checking.cancel()
        for name in list(self._sessions):
            self._forget(name)

    def _check_sandbox(self) -> None:
        if (failure := getattr(self._sandbox, "failure", None)) is not None:
            raise web.HTTPServiceUnavailable(text=f"The sandbox cannot run code: {failure}")

    def _close_unused(self, seconds: float) -> None:
        oldest = time.monotonic() - seconds
        for name in [name for name, each in self._sessions.items() if not each.blocks and each.last_used < oldest]:
            self._forget(name)

    def _forget(self, name: str) -> None:
        opened = self._sessions.pop(name, None)
        if opened is not None:
            opened.close()

    async def _answer(
        self, request: web.Request, submit: Callable[[], Block], blocks: set[Block]
    ) -> web.StreamResponse:
        """Run the block of a request; send keepalive spaces until its result is available."""
        try:
            block = submit()
        except SandboxUnavailable as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None
        blocks.add(block)
        try:
            response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/json"})
            await response.prepare(request)
            future = asyncio.wrap_future(block)
            while not (await asyncio.wait([future], timeout=KEEPALIVE_S))[0]:
                await response.write(b" ")
            await response.write(json.dumps(_result(future)).encode())
            await response.write_eof()
        finally:
            block.cancel()  # If the client has disconnected, it must neither wait nor run on.
            blocks.discard(block)
        return response

    async def _read_block(self, request: web.Request) -> tuple[str, Limits | None, dict[str, Any]]:
        """Return the code, the limits and the files of a request, the last as the keyword argument of `submit`."""
        body = await _read_object(request)
        code, limits = body.get("code"), body.get("limits")
        if not isinstance(code, str) or not isinstance(limits, dict | None):
            raise web.HTTPBadRequest(text=EXPECTED)
        if len(code.encode("utf-8", "surrogatepass")) > MAX_CODE_BYTES:
            raise web.HTTPBadRequest(text=f"Expect code of at most {MAX_CODE_BYTES // 1024} KB, got more")
        try:
            read = None if limits is None else read_limits(limits, self._maxima.limits)
        except OptionError as error:
            raise web.HTTPBadRequest(text=f"{error!s:.300}") from None
        return code, read, _read_files(body)


EXPECTED = 'Expect JSON {"code": TEXT, "limits": {NAME: NUMBER}, "files": {NAME: TEXT}}'


async def _read_object(request: web.Request) -> dict[str, Any]:
    """Return the JSON object of a request."""
    body: Any = None
    try:
        async with asyncio.timeout(connections.IDLE_S):
            text = await request.text()
        body = json.loads(text)
    except TimeoutError:
        raise closing(web.HTTPRequestTimeout(text=f"Expect a request within {connections.IDLE_S:g} s")) from None
    except (ValueError, LookupError, RecursionError):  # LookupError: an unknown charset
        pass
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text=EXPECTED)
    return body


def _read_files(body: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword argument with the files of a request; none without files."""
    try:
        return {"files": body["files"]} if encode_files(body.get("files")) else {}
    except OptionError as error:
        raise web.HTTPBadRequest(text=f"{error!s:.300}") from None


def _result(future: "asyncio.Future[ExecutionResult]") -> dict[str, Any]:
    if future.cancelled():
        error = "the block was cancelled: its session was closed"
        cancelled = ExecutionResult(status=Status.INFRASTRUCTURE, stdout="", error=error, cpu_seconds=0.0)
        return dataclasses.asdict(cancelled)
    try:
        return dataclasses.asdict(future.result())
    except SandboxUnavailable as error:
        return {"unavailable": str(error)}


@contextlib.asynccontextmanager
async def listen(app: web.Application, host: str, port: int, *, shutdown_s: float = SHUTDOWN_S) -> AsyncIterator[str]:
    """Serve an application of `make_app`; yield its address.

    Raises:
        OSError: The address cannot be bound.
    """
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, lingering_time=LINGER_S, shutdown_timeout=shutdown_s
    )
    await runner.setup()
    try:
        make, loop = runner.server, asyncio.get_running_loop()
        assert make is not None
        bound = await loop.create_server(make, host, port, start_serving=False)
        listeners = [each.dup() for each in bound.sockets]
        bound.close()
        for each in listeners:
            each.setblocking(False)
            each.listen(QUEUE)
        accepting = [asyncio.create_task(app[CONNECTIONS].accept(each, make)) for each in listeners]
        try:
            yield f"http://{host}:{listeners[0].getsockname()[1]}"
        finally:
            for task, each in zip(accepting, listeners, strict=True):
                task.cancel()
                await asyncio.wait([task])
                each.close()
    finally:
        await runner.cleanup()


class SandboxFailed(Exception):
    """The sandbox of a server cannot run code, and will not recover."""


async def serve(sandbox: Sandbox, token: str, host: str, port: int, maxima: Maxima) -> None:
    """Serve until the task is cancelled; print the address once the server is up.

    Raises:
        OSError: The address cannot be bound.
        SandboxFailed: The sandbox will never run code again, or could not for `FAILED_S`.
    """
    async with listen(make_app(sandbox, token, maxima=maxima), host, port) as url:
        print(f"Serving a sandbox on {url}", flush=True)
        worked = time.monotonic()
        while not getattr(sandbox, "failure_is_final", False) and time.monotonic() - worked < FAILED_S:
            await asyncio.sleep(WATCH_S)
            if getattr(sandbox, "failure", None) is None:
                worked = time.monotonic()
    raise SandboxFailed(getattr(sandbox, "failure", None))
