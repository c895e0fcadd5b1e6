"""An HTTP server in front of a `LocalSandbox`.

::

    GET    /                     the layers
    POST   /run                  {"code": ..., "limits": {...}, "files": {...}}  ->  {"status": ..., "stdout": ..., ...}
    POST   /sessions             {"files": {...}} or nothing  ->  {"session": ...}
    POST   /sessions/ID/run      like /run without files, in the namespace of the session
    DELETE /sessions/ID

Each request needs the token (`Authorization: Bearer ...`). While a block waits or runs, the response body starts with
keepalive spaces, one every few seconds, so that a client can tell a busy server from a dead one.
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
    encode_files,
)

KEEPALIVE_S = 5.0
"""Seconds between two keepalive spaces."""
SESSION_TTL_S = 3600.0
"""Seconds without a block after which a session is closed, since its client may have died."""
SHUTDOWN_S = 5.0
"""Seconds that blocks in flight get to finish when the server stops."""
MAX_BODY_BYTES = 6 * (MAX_CODE_BYTES + MAX_FILES_BYTES) + 65_536
"""JSON may encode each byte of the code and of the files as up to six bytes."""


def make_app(sandbox: Sandbox, token: str, *, session_ttl_s: float = SESSION_TTL_S) -> web.Application:
    """Return the server application of a sandbox; the caller closes the sandbox.

    Args:
        sandbox: Runs the blocks.
        token: The token that each request needs.
        session_ttl_s: Seconds after which an unused session is closed.
    """
    handlers = _Handlers(sandbox, token, session_ttl_s)
    app = web.Application(middlewares=[handlers.authenticate], client_max_size=MAX_BODY_BYTES)
    app.add_routes(
        [
            web.get("/", handlers.describe),
            web.post("/run", handlers.run),
            web.post("/sessions", handlers.open_session),
            web.post("/sessions/{name}/run", handlers.run_in_session),
            web.delete("/sessions/{name}", handlers.close_session),
        ]
    )
    app.cleanup_ctx.append(handlers.close_unused)
    return app


class _Handlers:
    """The request handlers and the open sessions."""

    def __init__(self, sandbox: Sandbox, token: str, session_ttl_s: float) -> None:
        self._sandbox = sandbox
        self._token = token.encode()
        self._ttl = session_ttl_s
        self._sessions: dict[str, Session] = {}
        self._last_used: dict[str, float] = {}

    @web.middleware
    async def authenticate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        given = request.headers.get(hdrs.AUTHORIZATION, "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, b"Bearer " + self._token):
            raise web.HTTPUnauthorized(text="Expect the token of the server in `Authorization: Bearer TOKEN`")
        response: web.StreamResponse = await handler(request)
        return response

    async def describe(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"layers": getattr(self._sandbox, "layers", {}), "sessions": len(self._sessions)})

    async def run(self, request: web.Request) -> web.StreamResponse:
        code, limits, files = await _read_block(request)
        return await self._answer(request, partial(self._sandbox.submit, code, limits, **files))

    async def open_session(self, request: web.Request) -> web.StreamResponse:
        files = _read_files(await _read_object(request)) if request.can_read_body else {}
        name = secrets.token_urlsafe(16)
        self._sessions[name] = self._sandbox.open_session(**files)
        self._last_used[name] = time.monotonic()
        return web.json_response({"session": name})

    async def run_in_session(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self._sessions:
            raise web.HTTPNotFound(text="Expect an open session, got one that is closed or was unused for too long")
        self._last_used[name] = float("inf")
        try:
            code, limits, _ = await _read_block(request)
            return await self._answer(request, partial(self._sessions[name].submit, code, limits))
        finally:
            self._last_used[name] = time.monotonic()

    async def close_session(self, request: web.Request) -> web.StreamResponse:
        self._forget(request.match_info["name"])
        return web.Response()

    async def close_unused(self, app: web.Application) -> AsyncIterator[None]:
        """Close sessions that were unused for too long, and all of them at shutdown."""

        async def watch() -> None:
            while True:
                await asyncio.sleep(self._ttl / 10)
                oldest = time.monotonic() - self._ttl
                for name in [name for name, used in self._last_used.items() if used < oldest]:
                    self._forget(name)

        watching = asyncio.create_task(watch())
        yield
        watching.cancel()
        for name in list(self._sessions):
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._last_used.pop(name, None)
        session = self._sessions.pop(name, None)
        if session is not None:
            session.close()

    async def _answer(
        self, request: web.Request, submit: "Callable[[], Future[ExecutionResult]]"
    ) -> web.StreamResponse:
        """Run the block of a request; send keepalive spaces until its result is available."""
        try:
            future = asyncio.wrap_future(submit())
        except SandboxUnavailable as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/json"})
        await response.prepare(request)
        try:
            while not (await asyncio.wait([future], timeout=KEEPALIVE_S))[0]:
                await response.write(b" ")
            body = dataclasses.asdict(future.result())
        except SandboxUnavailable as error:
            body = {"unavailable": str(error)}
        finally:
            future.cancel()  # If the client has disconnected, a waiting block must not run.
        await response.write(json.dumps(body).encode())
        await response.write_eof()
        return response


EXPECTED = 'Expect JSON {"code": TEXT, "limits": {NAME: NUMBER}, "files": {NAME: TEXT}}'


async def _read_object(request: web.Request) -> dict[str, Any]:
    """Return the JSON object of a request."""
    body: Any = None
    with contextlib.suppress(ValueError):
        body = json.loads(await request.text())
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text=EXPECTED)
    return body


def _read_files(body: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword argument with the files of a request; none without files."""
    try:
        return {"files": body["files"]} if encode_files(body.get("files")) else {}
    except OptionError as error:
        raise web.HTTPBadRequest(text=f"{EXPECTED}: {error}") from None


async def _read_block(request: web.Request) -> tuple[str, Limits | None, dict[str, Any]]:
    """Return the code, the limits and the files of a request."""
    body = await _read_object(request)
    if not isinstance(body.get("code"), str):
        raise web.HTTPBadRequest(text=EXPECTED)
    try:
        limits = None if body.get("limits") is None else Limits(**body["limits"])
    except (TypeError, OptionError) as error:
        raise web.HTTPBadRequest(text=f"{EXPECTED}: {error}") from None
    return body["code"], limits, _read_files(body)


async def serve(sandbox: Sandbox, token: str, host: str, port: int) -> None:
    """Serve until the task is cancelled; print the address once the server is up.

    Raises:
        OSError: The address cannot be bound.
    """
    runner = web.AppRunner(
        make_app(sandbox, token), access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        print(f"Serving a sandbox on http://{host}:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
