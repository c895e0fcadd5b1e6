"""Clients of sandbox servers: `RemoteSandbox` for `cir_env.sandbox.http.server`, and `SandboxFusion`.

Each runs an event loop in a background thread, so that thousands of blocks can be in flight. Both need the extra
`remote`.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import resource
import threading
import time
import weakref
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar
from urllib.parse import urlsplit

from cir_env.errors import OptionError, SandboxUnavailable
from cir_env.sandbox.contract import ExecutionResult, Limits, Status, encode_files, reject_code
from cir_env.sandbox.http.balancing import Server, shuffled

TOKEN_VARIABLE = "CIR_SANDBOX_TOKEN"
CONNECT_S = 10.0
MAX_CONNECTIONS = 4096
KEEP_S = 5.0
"""Seconds that an idle connection is kept: fewer than the server keeps it, so that no request meets its end."""
RETRY_PAUSE_S = 1.0
PATIENCE_S = 30.0
"""Seconds to wait for a free place while all servers are full, and for a server that has answered before."""
FULL = 429
GATEWAY_ERRORS = (502, 503, 504)
"""Statuses of a server that cannot run code at present, or of a proxy that does not reach it."""

T = TypeVar("T")


class _Rejected(Exception):
    """A server answered with an error."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(f"{status} {why}")
        self.status = status


class _Failed(Exception):
    """A server was reached, but returned no result."""


class _HttpSandbox(ABC):
    """Balances blocks between servers and retries failed ones."""

    read_timeout_s: ClassVar[float]
    """Seconds without a received byte after which a server counts as dead."""

    def __init__(self, urls: Sequence[str], limits: Limits | None, token: str | None) -> None:
        if not urls:
            raise OptionError("Expect the address of at least one sandbox server, got none.")
        for url in urls:
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
                raise OptionError(f"Expect the address of a sandbox server like http://host:8700, got {url!r}.")
        self._servers = shuffled(url.rstrip("/") for url in urls)
        self._limits = limits or Limits()
        self._token = token
        self._lock = threading.RLock()  # Reentrant: a session may be garbage-collected while it is held.
        self._connection: _Connection | None = None
        self._closed = False
        self._pid = os.getpid()

    def submit(
        self, code: str, limits: Limits | None = None, *, files: Mapping[str, str] | None = None
    ) -> "Future[ExecutionResult]":
        """Send a block that runs in a fresh namespace. See `Sandbox.submit`.

        The future raises `SandboxUnavailable` if no server can be reached, or a server rejects the block.
        """
        encode_files(files)
        return self._begin(self._run(code, limits or self._limits, files))

    def run(
        self, code: str, limits: Limits | None = None, *, files: Mapping[str, str] | None = None
    ) -> ExecutionResult:
        """Execute a block in a fresh namespace and wait for its result. See `Sandbox.run`."""
        return self.submit(code, limits, files=files).result()

    def close(self) -> None:
        """Disconnect; blocks in flight end with `Status.INFRASTRUCTURE`. Closing twice is fine."""
        with self._lock:
            closed, self._closed = self._closed, True
        if self._connection is not None and not closed and self._pid == os.getpid():
            self._connection.close()

    def __deepcopy__(self, memo: object) -> Self:
        """Return the sandbox itself: Gymnasium deep-copies the arguments of `make`, which must share connections."""
        return self

    def __enter__(self) -> Self:
        """Return the sandbox itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sandbox."""
        self.close()

    @abstractmethod
    async def _ask(
        self, server: Server, code: str, limits: Limits, files: Mapping[str, str] | None = None
    ) -> ExecutionResult:
        """Run a block on one server."""

    async def _run(self, code: str, limits: Limits, files: Mapping[str, str] | None) -> ExecutionResult:
        if (rejection := reject_code(code)) is not None:
            return rejection
        try:
            return await self._try_servers(lambda server: self._ask(server, code, limits, files))
        except _Failed as error:
            return _infrastructure_error(f"no sandbox server returned a result: {error}")

    async def _try_servers(
        self, ask: Callable[[Server], Awaitable[T]], servers: Sequence[Server] = (), *, rounds: int = 2
    ) -> T:
        """Ask the least busy server that works, then the others; wait while one is full, or while all are gone.

        Args:
            ask: Sends a request to a server.
            servers: The servers to try; by default all.
            rounds: How often to try each of them.

        Raises:
            SandboxUnavailable: No server was reached, or one rejected the request.
            _Failed: A server was reached, but returned no result.
        """
        end, server_errors = time.monotonic() + PATIENCE_S, 0
        while True:
            untried = list(servers or self._servers)
            # A server that ran before may be starting again; an address that never answered may be wrong.
            wait = not servers and any(server.has_answered for server in untried)
            while untried:
                # No `await` before `take`, so that each request of a burst sees what the earlier ones took.
                server = min(untried, key=Server.rank)
                untried.remove(server)
                server.take()
                try:
                    return await ask(server)
                except _Rejected as error:
                    why = f"The sandbox server at {server.url} will not run code: {error}"
                    failure: Exception = SandboxUnavailable(why)
                    server_errors += error.status >= 500
                    if error.status in GATEWAY_ERRORS:
                        wait = False
                        server.failed(str(error))
                    elif error.status == FULL:
                        wait, failure = True, _Failed(why)
                    elif error.status < 500 or server_errors > 1:
                        raise failure from None
                except _failures() as error:
                    why = f"{server.url}: {type(error).__name__}: {error}"
                    failure, wait = _Failed(why), wait and _unreachable(error)
                    if _unreachable(error):
                        start = "Start one with: python -m cir_env.sandbox serve"
                        failure = SandboxUnavailable(f"Expect a sandbox server, got no answer from {why}. {start}")
                    server.failed(why)
                finally:
                    server.busy -= 1
            if not wait or time.monotonic() > end:
                rounds -= 1
            if rounds <= 0:
                raise failure
            await asyncio.sleep(RETRY_PAUSE_S)

    async def _post(
        self, server: Server, path: str, body: dict[str, Any] | None = None, method: str = "POST"
    ) -> dict[str, Any]:
        """Send a request and return the JSON object of the response."""
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        assert self._connection is not None
        async with self._connection.http.request(
            method, server.url + path, json=body, headers=headers, timeout=self._timeout()
        ) as response:
            if response.status not in GATEWAY_ERRORS:
                server.answered()
            text = (await response.text()).strip()
            if response.status >= 300:
                raise _Rejected(response.status, text.partition("\n")[0][:300] or str(response.reason))
            reply = json.loads(text or "{}")
            if not isinstance(reply, dict):
                raise ValueError(f"Expect a JSON object, got {text[:80]!r}")
            return reply

    def _timeout(self) -> Any:
        import aiohttp

        return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self.read_timeout_s)

    def _begin(self, work: Coroutine[Any, Any, ExecutionResult]) -> "Future[ExecutionResult]":
        try:
            return self._connect().begin(work)
        except SandboxUnavailable:
            work.close()
            raise

    def _connect(self) -> "_Connection":
        with self._lock:
            if self._closed:
                raise SandboxUnavailable("Expect an open sandbox, got one that is closed. Make a new one.")
            if self._pid != os.getpid():  # Threads do not survive a fork, and the requests are those of the parent.
                self._pid, self._connection = os.getpid(), None
                self._servers = shuffled(server.url for server in self._servers)
            if self._connection is None:
                self._connection = _Connection()
                weakref.finalize(self, self._connection.close)
            return self._connection


class RemoteSandbox(_HttpSandbox):
    """Runs blocks on machines that run `python -m cir_env.sandbox serve`. See the `Sandbox` protocol.

    If a server dies, its blocks are retried on another one, but its sessions are lost.

    Args:
        urls: Addresses of servers, such as "http://node7:8700"; the least busy one gets the next block.
        token: The token of the servers; by default the environment variable CIR_SANDBOX_TOKEN.
        limits: Default limits of `submit` and `run`.

    Raises:
        OptionError: An address is not valid, or the token is missing.
    """

    read_timeout_s = 60.0  # The server sends a byte every few seconds.

    def __init__(self, *urls: str, token: str | None = None, limits: Limits | None = None) -> None:
        token = token or os.environ.get(TOKEN_VARIABLE)
        if not token:
            raise OptionError(f"Expect the token of the servers in `token` or {TOKEN_VARIABLE}, got none.")
        super().__init__(urls, limits, token)

    def open_session(self, *, files: Mapping[str, str] | None = None) -> "RemoteSession":
        """Open a namespace for several blocks; its server is chosen with the first of them."""
        encode_files(files)
        return RemoteSession(self, files)

    async def _ask(
        self, server: Server, code: str, limits: Limits, files: Mapping[str, str] | None = None, session: str = ""
    ) -> ExecutionResult:
        body = {"code": code, "limits": dataclasses.asdict(limits), **_body(files)}
        reply = await self._post(server, f"{session}/run", body)
        if "unavailable" in reply:
            raise _Rejected(503, reply["unavailable"])
        texts = {name: str(reply.get(name, "")) for name in ("stdout", "error", "traceback")}
        return ExecutionResult(status=Status(reply["status"]), cpu_seconds=float(reply["cpu_seconds"]), **texts)


class RemoteSession:
    """A session of a `RemoteSandbox`. See the `Session` protocol.

    If its server is lost, the current and all later blocks end with `Status.INFRASTRUCTURE`.
    """

    def __init__(self, sandbox: RemoteSandbox, files: Mapping[str, str] | None = None) -> None:
        self._sandbox = sandbox
        self._files = files
        self._lock: asyncio.Lock | None = None
        self._server: Server | None = None
        self._path = ""
        self._lost = ""
        self._finalizer: Callable[[], object] = lambda: None

    def submit(self, code: str, limits: Limits | None = None) -> "Future[ExecutionResult]":
        """Send a block; the blocks of a session run in order."""
        return self._sandbox._begin(self._run(code, limits or self._sandbox._limits))

    def run(self, code: str, limits: Limits | None = None) -> ExecutionResult:
        """Execute a block and wait for its result."""
        return self.submit(code, limits).result()

    def close(self) -> None:
        """Discard the namespace and end its process. Closing twice is fine."""
        self._lost = self._lost or "the session was closed"
        self._finalizer()

    async def _run(self, code: str, limits: Limits) -> ExecutionResult:
        sandbox = self._sandbox
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            if self._lost:
                return _infrastructure_error(self._lost)
            if (rejection := reject_code(code)) is not None:
                return rejection
            try:
                if self._server is None:
                    self._server = await self._open(sandbox)
                return await sandbox._try_servers(
                    lambda server: sandbox._ask(server, code, limits, session=self._path), [self._server], rounds=1
                )
            except (SandboxUnavailable, _Failed) as error:
                self._lost = f"the server of the session failed: {error}"
                return _infrastructure_error(self._lost)

    async def _open(self, sandbox: RemoteSandbox) -> Server:
        async def ask(server: Server) -> tuple[Server, str]:
            return server, (await sandbox._post(server, "/sessions", _body(self._files)))["session"]

        server, name = await sandbox._try_servers(ask)
        server.busy += 1  # An open session occupies a process, like a running block.
        self._path = f"/sessions/{name}"
        self._finalizer = weakref.finalize(self, _end_session, sandbox, server, self._path)
        return server


def _body(files: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the part of a request with the files, if there are any, so that older servers take all others."""
    return {"files": dict(files)} if files else {}


def _end_session(sandbox: RemoteSandbox, server: Server, path: str) -> None:
    async def end() -> None:
        server.busy -= 1
        with contextlib.suppress(SandboxUnavailable, _Failed):
            await sandbox._try_servers(lambda _: sandbox._post(server, path, method="DELETE"), [server], rounds=1)

    with contextlib.suppress(SandboxUnavailable):
        sandbox._connect().send_last(end)


class SandboxFusion(_HttpSandbox):
    """Runs blocks on SandboxFusion servers (https://github.com/bytedance/SandboxFusion), for clusters that have them.

    Compared with `RemoteSandbox` it has no sessions, limits only wall-clock time, and reports neither the value of the
    last expression of a block nor a memory or output status. Its isolation is that of the server.

    Args:
        urls: Addresses of servers, such as "http://fusion:8080".
        token: Bearer token, if the servers need one.
        limits: Default limits of `submit` and `run`.

    Raises:
        OptionError: An address is not valid.
    """

    read_timeout_s = 600.0  # The server sends nothing while a block waits or runs.

    def __init__(self, *urls: str, token: str | None = None, limits: Limits | None = None) -> None:
        super().__init__(urls, limits, token)

    def open_session(self, *, files: Mapping[str, str] | None = None) -> Any:
        """Raise: the API has no sessions.

        Raises:
            SandboxUnavailable: Always.
        """
        raise SandboxUnavailable("Expect a sandbox with sessions, got SandboxFusion. Use stateful=False.")

    async def _ask(
        self, server: Server, code: str, limits: Limits, files: Mapping[str, str] | None = None
    ) -> ExecutionResult:
        body = {
            "code": code,
            "language": "python",
            "run_timeout": limits.time_limit_s,
            "memory_limit_MB": limits.memory_limit_mb,
        }
        if files:
            body["files"] = {name: b64encode(data).decode() for name, data in encode_files(files).items()}
        reply = await self._post(server, "/run_code", body)
        ran = reply.get("run_result")
        if reply.get("status") == "SandboxError" or ran is None:
            return _infrastructure_error(f"SandboxFusion failed: {reply.get('message')}")
        stdout, stderr = ran.get("stdout") or "", (ran.get("stderr") or "").rstrip()
        seconds = float(ran.get("execution_time") or 0.0)
        if ran.get("status") == "TimeLimitExceeded":
            error = f"TimeoutError: the code ran for over {limits.time_limit_s:g} s"
            return ExecutionResult(status=Status.TIMEOUT, stdout=stdout, error=error, cpu_seconds=seconds)
        if ran.get("return_code") == 0:
            return ExecutionResult(status=Status.OK, stdout=stdout, error="", cpu_seconds=seconds)
        error = stderr.rpartition("\n")[2] or f"SystemExit: {ran.get('return_code')}"
        return ExecutionResult(status=Status.ERROR, stdout=stdout, error=error, traceback=stderr, cpu_seconds=seconds)


class _Connection:
    """An event loop in a background thread, and its HTTP connections."""

    def __init__(self) -> None:
        try:
            import aiohttp
        except ImportError:
            raise SandboxUnavailable("A remote sandbox needs aiohttp: pip install -e '.[remote]'") from None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="cir-env-remote", daemon=True)
        self._thread.start()

        async def connect() -> aiohttp.ClientSession:
            descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            limit = max(1, min(MAX_CONNECTIONS, descriptors // 2))
            return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=limit, keepalive_timeout=KEEP_S))

        self._closing_tasks: set[asyncio.Task[None]] = set()
        self.http = asyncio.run_coroutine_threadsafe(connect(), self._loop).result()

    def begin(self, work: Coroutine[Any, Any, ExecutionResult]) -> "Future[ExecutionResult]":
        """Start executing a block."""

        async def do() -> ExecutionResult:
            try:
                return await work
            except asyncio.CancelledError:
                return _infrastructure_error("the sandbox was closed")

        return asyncio.run_coroutine_threadsafe(do(), self._loop)

    def send_last(self, message: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Send a message that `close` waits for."""

        def start() -> None:
            task = self._loop.create_task(message())
            self._closing_tasks.add(task)
            task.add_done_callback(self._closing_tasks.discard)

        self._loop.call_soon_threadsafe(start)

    def close(self) -> None:
        """Wait for last messages, cancel what is in flight, disconnect, and end the thread."""
        if self._loop.is_closed() or not self._thread.is_alive():
            return

        async def end() -> None:
            if self._closing_tasks:
                await asyncio.wait(self._closing_tasks, timeout=CONNECT_S)
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.http.close()
            self._loop.call_soon(self._loop.stop)

        ending = asyncio.run_coroutine_threadsafe(end(), self._loop)
        if threading.current_thread() is not self._thread:  # It may be garbage-collected in its own thread.
            ending.result()
            self._thread.join()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()


def _infrastructure_error(why: str) -> ExecutionResult:
    return ExecutionResult(status=Status.INFRASTRUCTURE, stdout="", error=why, cpu_seconds=0.0)


def _failures() -> tuple[type[Exception], ...]:
    """Return the exceptions of failed connections and malformed responses."""
    import aiohttp

    return (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError, KeyError)


def _unreachable(error: Exception) -> bool:
    import aiohttp

    return isinstance(error, aiohttp.ClientConnectorError)
