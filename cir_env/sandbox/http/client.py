"""Sandboxes on other machines, over HTTP: ours (`cir_env.sandbox.http.server`) and SandboxFusion's.

Both speak from one background thread, so that thousands of blocks can be in flight. They need the extra `remote`.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from cir_env.errors import OptionError, SandboxUnavailable
from cir_env.sandbox.contract import ExecutionResult, Limits, Status, refuse_code

TOKEN_VARIABLE = "CIR_SANDBOX_TOKEN"
CONNECT_S = 10.0
MAX_CONNECTIONS = 4096


RETRY_PAUSE_S = 1.0


class _Refused(Exception):
    """A server has answered that it will not run the block."""


class _HttpSandbox(ABC):
    """Servers, a thread that speaks with them, and the choice between them."""

    silence_s: ClassVar[float]
    """Seconds without a byte after which a server is taken for dead."""

    def __init__(self, urls: Sequence[str], limits: Limits | None, token: str | None) -> None:
        if not urls:
            raise OptionError("Expect the address of at least one sandbox server, got none")
        for url in urls:
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
                raise OptionError(f"Expect the address of a sandbox server like http://host:8700, got {url!r}")
        self._busy = {url.rstrip("/"): 0 for url in urls}
        self._limits = limits or Limits()
        self._token = token
        self._lock = threading.RLock()  # Reentrant: a collected session may hang up from within.
        self._line: _Line | None = None
        self._closed = False
        self._pid = os.getpid()

    def submit(self, code: str, limits: Limits | None = None) -> "Future[ExecutionResult]":
        """Send a block that runs in a fresh namespace. See `Sandbox.submit`.

        The future raises `SandboxUnavailable` when no server can be reached or will run it.
        """
        return self._begin(self._run(code, limits or self._limits))

    def run(self, code: str, limits: Limits | None = None) -> ExecutionResult:
        """Execute a block in a fresh namespace and wait for its result. See `Sandbox.run`."""
        return self.submit(code, limits).result()

    def close(self) -> None:
        """Hang up; blocks in flight end as `Status.INFRASTRUCTURE`. Calling it twice is fine."""
        with self._lock:
            closed, self._closed = self._closed, True
        if self._line is not None and not closed and self._pid == os.getpid():
            self._line.close()

    def __deepcopy__(self, memo: object) -> Self:
        """Return the sandbox itself: Gymnasium copies the arguments of `make` and means the same servers."""
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
    async def _ask(self, url: str, code: str, limits: Limits) -> ExecutionResult:
        """Have one server run one block."""

    async def _run(self, code: str, limits: Limits) -> ExecutionResult:
        """Try the least busy server, then the others, each once more if all fail: a fresh block may run again."""
        if (refusal := refuse_code(code)) is not None:
            return refusal
        reached, why = False, ""
        urls = sorted(self._busy, key=self._busy.__getitem__)
        for attempt, url in enumerate(urls * 2):
            await asyncio.sleep(RETRY_PAUSE_S * (attempt == len(urls)))
            self._busy[url] += 1
            try:
                return await self._ask(url, code, limits)
            except _Refused as error:
                raise SandboxUnavailable(f"The sandbox server at {url} will not run code: {error}") from None
            except _failures() as error:
                reached |= not _unreachable(error)
                why = f"{url}: {type(error).__name__}: {error}"
            finally:
                self._busy[url] -= 1
        if reached:
            return _fault(f"no sandbox server gave a result: {why}")
        raise SandboxUnavailable(
            f"Expect a sandbox server, got no answer from {why}. Start one with: python -m cir_env.sandbox serve"
        )

    async def _post(self, url: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        """Send a request and return the JSON of its answer."""
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        assert self._line is not None
        timeout = self._timeout()
        async with self._line.http.request(method, url, json=body, headers=headers, timeout=timeout) as response:
            text = await response.text()
            if response.status >= 500 and response.status != 503:
                response.raise_for_status()
            if response.status >= 300:
                raise _Refused(f"{response.status} {text.strip() or response.reason}")
            return json.loads(text) if text.strip() else None

    def _timeout(self) -> Any:
        import aiohttp

        return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self.silence_s)

    def _begin(self, work: Coroutine[Any, Any, ExecutionResult]) -> "Future[ExecutionResult]":
        try:
            return self._open_line().begin(work)
        except SandboxUnavailable:
            work.close()
            raise

    def _open_line(self) -> "_Line":
        with self._lock:
            if self._closed:
                raise SandboxUnavailable("Expect an open sandbox, got one that was closed; make a new one")
            if self._pid != os.getpid():  # Threads do not survive a fork.
                self._pid, self._line = os.getpid(), None
            if self._line is None:
                self._line = _Line()
                weakref.finalize(self, self._line.close)
            return self._line


class RemoteSandbox(_HttpSandbox):
    """Runs blocks on machines where `python -m cir_env.sandbox serve` runs. See the `Sandbox` protocol.

    A fresh block whose server dies is run by another one; a session lives and dies with its server.

    Args:
        urls: Addresses of servers, such as "http://node7:8700"; the least busy one gets the next block.
        token: What the servers ask for; by default the environment variable CIR_SANDBOX_TOKEN.
        limits: What a block may use where `submit` and `run` do not say.

    Raises:
        OptionError: An address is none, or the token is missing.
    """

    silence_s = 60.0  # Our server sends a byte every few seconds.

    def __init__(self, *urls: str, token: str | None = None, limits: Limits | None = None) -> None:
        token = token or os.environ.get(TOKEN_VARIABLE)
        if not token:
            raise OptionError(f"Expect the servers' token as `token` or in {TOKEN_VARIABLE}, got none")
        super().__init__(urls, limits, token)

    def open_session(self) -> "RemoteSession":
        """Open a namespace for several blocks; the first of them chooses its server."""
        return RemoteSession(self)

    async def _ask(self, url: str, code: str, limits: Limits) -> ExecutionResult:
        said = await self._post(f"{url}/run", {"code": code, "limits": dataclasses.asdict(limits)})
        if "unavailable" in said:
            raise _Refused(said["unavailable"])
        texts = {name: str(said.get(name, "")) for name in ("stdout", "error", "traceback")}
        return ExecutionResult(status=Status(said["status"]), cpu_seconds=float(said["cpu_seconds"]), **texts)


class RemoteSession:
    """A session of a `RemoteSandbox`. See the `Session` protocol.

    When its server is lost, this block and the later ones end as `Status.INFRASTRUCTURE`.
    """

    def __init__(self, sandbox: RemoteSandbox) -> None:
        self._sandbox = sandbox
        self._turn: asyncio.Lock | None = None
        self._place = ""
        self._lost = ""
        self._finalizer: Callable[[], object] = lambda: None

    def submit(self, code: str, limits: Limits | None = None) -> "Future[ExecutionResult]":
        """Send a block behind those already submitted to this session."""
        return self._sandbox._begin(self._run(code, limits or self._sandbox._limits))

    def run(self, code: str, limits: Limits | None = None) -> ExecutionResult:
        """Execute a block and wait for its result."""
        return self.submit(code, limits).result()

    def close(self) -> None:
        """Forget the namespace and end its process. Calling it twice is fine."""
        self._lost = self._lost or "the session was closed"
        self._finalizer()

    async def _run(self, code: str, limits: Limits) -> ExecutionResult:
        sandbox = self._sandbox
        self._turn = self._turn or asyncio.Lock()
        async with self._turn:
            if self._lost:
                return _fault(self._lost)
            if (refusal := refuse_code(code)) is not None:
                return refusal
            try:
                if not self._place:
                    await self._open(sandbox)
                return await sandbox._ask(self._place, code, limits)
            except _failures(_Refused) as error:
                self._lost = f"the session's server failed: {type(error).__name__}: {error}"
                return _fault(self._lost)

    async def _open(self, sandbox: RemoteSandbox) -> None:
        url = min(sandbox._busy, key=sandbox._busy.__getitem__)
        said = await sandbox._post(f"{url}/sessions")
        self._place = f"{url}/sessions/{said['session']}"
        sandbox._busy[url] += 1  # An open session keeps a process: it counts like a block.
        self._finalizer = weakref.finalize(self, _end_session, sandbox, url, self._place)


def _end_session(sandbox: RemoteSandbox, url: str, place: str) -> None:
    async def end() -> None:
        sandbox._busy[url] -= 1
        with contextlib.suppress(*_failures(_Refused)):
            await sandbox._post(place, method="DELETE")

    with contextlib.suppress(SandboxUnavailable):
        sandbox._open_line().part(end)


class SandboxFusion(_HttpSandbox):
    """Runs blocks on a SandboxFusion server (POST /run_code), for clusters that have one.

    It is less than `RemoteSandbox`: no sessions, time on the wall clock only, and neither the value of a block's
    last expression nor a memory or output status. Whether it contains hostile code is that server's affair.

    Args:
        urls: Addresses of servers, such as "http://fusion:8080".
        token: Sent as a bearer token, if given.
        limits: What a block may use where `submit` and `run` do not say.
    """

    silence_s = 600.0  # It says nothing while a block waits or runs.

    def __init__(self, *urls: str, token: str | None = None, limits: Limits | None = None) -> None:
        super().__init__(urls, limits, token)

    def open_session(self) -> Any:
        """Refuse: the API has no sessions.

        Raises:
            SandboxUnavailable: Always.
        """
        raise SandboxUnavailable("Expect a sandbox with sessions, got SandboxFusion; use stateful=False")

    async def _ask(self, url: str, code: str, limits: Limits) -> ExecutionResult:
        body = {
            "code": code,
            "language": "python",
            "run_timeout": limits.time_limit_s,
            "memory_limit_MB": limits.memory_limit_mb,
        }
        said = await self._post(f"{url}/run_code", body)
        ran = said.get("run_result")
        if said.get("status") == "SandboxError" or ran is None:
            return _fault(f"SandboxFusion failed: {said.get('message')}")
        stdout, stderr = ran.get("stdout") or "", (ran.get("stderr") or "").rstrip()
        seconds = float(ran.get("execution_time") or 0.0)
        if ran.get("status") == "TimeLimitExceeded":
            error = f"TimeoutError: the code ran for over {limits.time_limit_s:g} s"
            return ExecutionResult(status=Status.TIMEOUT, stdout=stdout, error=error, cpu_seconds=seconds)
        if ran.get("return_code") == 0:
            return ExecutionResult(status=Status.OK, stdout=stdout, error="", cpu_seconds=seconds)
        error = stderr.rpartition("\n")[2] or f"SystemExit: {ran.get('return_code')}"
        return ExecutionResult(status=Status.ERROR, stdout=stdout, error=error, traceback=stderr, cpu_seconds=seconds)


class _Line:
    """An event loop in a thread of its own, and the connections that it holds."""

    def __init__(self) -> None:
        try:
            import aiohttp
        except ImportError:
            raise SandboxUnavailable("A remote sandbox needs aiohttp: pip install 'cir-env[remote]'") from None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="cir-env-remote", daemon=True)
        self._thread.start()

        async def connect() -> aiohttp.ClientSession:
            return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS))

        self._partings: set[asyncio.Task[None]] = set()
        self.http = asyncio.run_coroutine_threadsafe(connect(), self._loop).result()

    def begin(self, work: Coroutine[Any, Any, ExecutionResult]) -> "Future[ExecutionResult]":
        """Start a block."""

        async def do() -> ExecutionResult:
            try:
                return await work
            except asyncio.CancelledError:
                return _fault("the sandbox was closed")

        return asyncio.run_coroutine_threadsafe(do(), self._loop)

    def part(self, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Send a last message, which `close` waits for."""

        def start() -> None:
            task = self._loop.create_task(farewell())
            self._partings.add(task)
            task.add_done_callback(self._partings.discard)

        self._loop.call_soon_threadsafe(start)

    def close(self) -> None:
        """Part from servers, end what is in flight, hang up, and end the thread."""
        if self._loop.is_closed() or not self._thread.is_alive():
            return

        async def end() -> None:
            if self._partings:
                await asyncio.wait(self._partings, timeout=CONNECT_S)
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.http.close()
            self._loop.call_soon(self._loop.stop)

        ending = asyncio.run_coroutine_threadsafe(end(), self._loop)
        if threading.current_thread() is not self._thread:  # It may be collected by a task of its own.
            ending.result()
            self._thread.join()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()


def _fault(why: str) -> ExecutionResult:
    return ExecutionResult(status=Status.INFRASTRUCTURE, stdout="", error=why, cpu_seconds=0.0)


def _failures(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what a connection can raise, and what an answer that is none raises."""
    import aiohttp

    return (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError, KeyError, *others)


def _unreachable(error: Exception) -> bool:
    import aiohttp

    return isinstance(error, aiohttp.ClientConnectorError)
