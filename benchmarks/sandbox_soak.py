"""Run honest and hostile blocks for hours while processes of the sandbox are killed, and count what goes wrong.

$ python benchmarks/sandbox_soak.py --output soak.json
$ python benchmarks/sandbox_soak.py --served --output served.json      # through `python -m cir_env.sandbox serve`

Every 2,000 blocks something fails: a zygote is killed or stopped for good, or the supervisor's thread raises; with
`--served`, the server is killed, and started again, or stopped for 3 s. Then the progress is written to the output
file. A run that finds such a file resumes from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.core.files import write_json
from agents.core.tables import table
from benchmarks.sandbox import children, descendants, memory
from cir_env.errors import SandboxUnavailable
from cir_env.sandbox import ExecutionResult, Limits, LocalSandbox, RemoteSandbox, Sandbox, Status

ROOT = Path(__file__).parents[1]
ATTACKS = json.loads((ROOT / "tests/cir_env/sandbox/attacks.json").read_text())
POOL = """\
import threading
from concurrent.futures import ThreadPoolExecutor
together = threading.Barrier(16)
def work(number):
    together.wait(4)
    return number
with ThreadPoolExecutor(16) as pool:
"""
HONEST_LIMITS = Limits()
HOSTILE_LIMITS = Limits(time_limit_s=0.5, idle_limit_s=0.5, wall_limit_s=10.0)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to run."""

    output: Path
    """Where to write the progress and the counts, as JSON."""
    blocks: int = 50_000
    """Blocks to run."""
    every: int = 2_000
    """Blocks from one failure to the next."""
    hostile: float = 0.05
    """Share of the episodes that are attacks."""
    in_flight: int = 32
    """Episodes in flight."""
    served: bool = False
    """Whether the sandbox is in a server."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """The blocks of a session, or a single block, and what they print; None for an attack."""

    kind: str
    blocks: list[str]
    expected: str | None


def make_episode(order: random.Random, number: int, hostile: float) -> Episode:
    """Draw an episode."""
    if order.random() < hostile:
        attack = order.choice(ATTACKS)
        return Episode(kind="attack", blocks=attack.get("blocks") or [attack["code"]], expected=None)
    n = number + 1
    honest = {  # kind: weight, blocks, output
        "print": (50, [f"print({n})"], f"{n}\n"),
        "sympy": (10, [f"from sympy import *\nx = symbols('x')\nprint(solve(x**2 - {n**2}, x))"], f"[-{n}, {n}]\n"),
        "session": (10, [f"x = {n}", "x += 1\nprint('one')", "print(x)"], f"one\n{n + 1}\n"),
        "output": (5, [f"print('{n % 10}' * 1_000_000)"], str(n % 10) * 1_000_000 + "\n"),
        "threads": (10, [POOL + f"    print(sum(pool.map(work, range(16))) + {n})"], f"{120 + n}\n"),
        "sleep": (15, [f"import time\ntime.sleep(0.3)\nprint({n})"], f"{n}\n"),
    }
    kind = order.choices(list(honest), [weight for weight, _, _ in honest.values()])[0]
    return Episode(kind=kind, blocks=honest[kind][1], expected=honest[kind][2])


def play(sandbox: Sandbox, episode: Episode) -> tuple[str, str]:
    """Run an episode; return a verdict, and what explains it."""
    limits = HONEST_LIMITS if episode.expected is not None else HOSTILE_LIMITS
    try:
        results = list(run_blocks(sandbox, episode.blocks, limits))
    except SandboxUnavailable as error:
        return "lost", f"SandboxUnavailable: {error}"
    ends = {result.status for result in results}
    seen = "".join(result.stdout for result in results)
    why = f"{episode.kind}: {', '.join(sorted(ends))}; {seen[-100:]!r} {results[-1].error}"
    if Status.INFRASTRUCTURE in ends:
        return "lost", why
    if episode.expected is None:
        return ("escaped" if "ESCAPED" in seen else "contained"), why
    if Status.TIMEOUT in ends:
        return "false timeout", why
    return ("right" if (ends, seen) == ({Status.OK}, episode.expected) else "wrong"), why


def run_blocks(sandbox: Sandbox, blocks: list[str], limits: Limits) -> Iterator[ExecutionResult]:
    """Yield the results of a block, or of the blocks of a session."""
    if len(blocks) == 1:
        yield sandbox.run(blocks[0], limits)
        return
    with contextlib.closing(sandbox.open_session()) as session:
        for block in blocks:
            yield session.run(block, limits)


class Local:
    """The sandbox of this process, and the ways in which it is made to fail."""

    def __init__(self) -> None:
        self.sandbox: Sandbox = LocalSandbox()
        self.failures: dict[str, Callable[[], None]] = {
            "inner zygote killed": lambda: self._signal(signal.SIGKILL, inner=True),
            "supervisor raises": self._raise,
            "outer zygote killed": lambda: self._signal(signal.SIGKILL, inner=False),
            "inner zygote stopped": lambda: self._signal(signal.SIGSTOP, inner=True),
            "outer zygote stopped": lambda: self._signal(signal.SIGSTOP, inner=False),
        }

    def revive(self) -> None:
        """Replace a sandbox that failed for good."""
        self.sandbox.close()
        self.sandbox = LocalSandbox()

    def close(self) -> None:
        """End the sandbox."""
        self.sandbox.close()

    def _signal(self, number: int, *, inner: bool) -> None:
        """Signal a zygote (a child of this process), or its fork in the namespaces, the parent of the blocks."""
        process = random.choice(children(os.getpid()))
        os.kill(children(process)[0] if inner else process, number)

    def _raise(self) -> None:
        def action() -> None:
            raise RuntimeError("injected by the soak")

        with contextlib.suppress(SandboxUnavailable):
            self.sandbox._supervisor.call(action)  # type: ignore[attr-defined]


class Served:
    """A server in a process of its own, which is started again when it ends."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._token = secrets.token_urlsafe()
        self._closed = False
        self._start()
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()
        self.sandbox: Sandbox = RemoteSandbox(f"http://127.0.0.1:{self._port}", token=self._token)
        self._wait()
        self.failures: dict[str, Callable[[], None]] = {"server killed": self._kill, "server stopped": self._stop}

    def revive(self) -> None:
        """Restart a server whose sandbox failed for good."""
        self._kill()
        self._wait()

    def close(self) -> None:
        """End the server."""
        self._closed = True
        self.sandbox.close()
        self._server.terminate()
        self._keeper.join()

    def _start(self) -> None:
        command = [sys.executable, "-m", "cir_env.sandbox", "serve", "--port", str(self._port)]
        environment = {**os.environ, "CIR_SANDBOX_TOKEN": self._token, "PYTHONPATH": str(ROOT)}
        self._server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    def _keep(self) -> None:
        while self._server.wait() is not None and not self._closed:
            self._start()

    def _wait(self) -> None:
        while True:
            with contextlib.suppress(SandboxUnavailable):
                if self.sandbox.run("1").status is Status.OK:
                    return
            time.sleep(0.1)

    def _kill(self) -> None:
        self._server.kill()

    def _stop(self) -> None:
        self._server.send_signal(signal.SIGSTOP)
        time.sleep(3.0)
        self._server.send_signal(signal.SIGCONT)


def run_chunk(host: Local | Served, config: Config, number: int, failure: str) -> dict[str, Any]:
    """Run the blocks until the next failure, and a while beyond; return the counts."""
    order = random.Random(number)
    episodes: list[Episode] = []
    while sum(len(episode.blocks) for episode in episodes) < config.every:
        episodes.append(make_episode(order, number * config.every + len(episodes), config.hostile))
    fails_at = order.randrange(len(episodes) // 4, len(episodes) // 2)
    in_flight: set[int] = set()
    at_failure: set[int] = set()
    examples: dict[str, list[str]] = {}

    def run(index: int) -> tuple[str, float]:
        if index == fails_at:
            at_failure.update(in_flight)
            host.failures[failure]()
        start = time.monotonic()
        in_flight.add(index)
        verdict, why = play(host.sandbox, episodes[index])
        in_flight.discard(index)
        if verdict == "lost":
            was_in_flight = index in at_failure or index <= fails_at
            verdict += " before" if not at_failure else " in flight" if was_in_flight else " later"
        if verdict not in ("right", "contained"):
            examples.setdefault(verdict, []).append(why)
        return verdict, time.monotonic() - start

    start = time.monotonic()
    with ThreadPoolExecutor(config.in_flight) as pool:
        verdicts = list(pool.map(run, range(len(episodes))))
    seconds = time.monotonic() - start
    if dead := not works(host.sandbox):
        host.revive()
    return {
        "failure": failure,
        "blocks": sum(len(episode.blocks) for episode in episodes),
        "seconds": round(seconds, 1),
        "slowest_s": round(max(s for _, s in verdicts), 1),
        "in_flight_at_failure": len(at_failure),
        "counts": dict(Counter(verdict for verdict, _ in verdicts)),
        "dead": dead,
        "examples": {verdict: sorted(reasons)[:10] for verdict, reasons in examples.items()},
        "census": census(),
    }


def works(sandbox: Sandbox) -> bool:
    """Return whether a sandbox can still run code."""
    try:
        return sandbox.run("1").status is Status.OK
    except SandboxUnavailable:
        return False


def census() -> dict[str, int]:
    """Return processes, memory and descriptors of this process and all below it, once they have settled."""
    time.sleep(1.0)
    pids = [os.getpid(), *descendants(os.getpid())]
    sizes = [memory(pid)["Pss"] // 1024 for pid in pids]
    own = [os.getpid(), *children(os.getpid())]  # The trainer, and zygotes or the server.
    return {
        "processes": len(pids),
        "MB": sum(size for size in sizes if size < 1 << 20),
        "MB here": sizes[0],
        "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in own),
    }


def report(state: dict[str, Any]) -> None:
    """Print what went wrong, by failure, and what was left behind."""
    chunks = state["chunks"]
    total: Counter[str] = Counter()
    rows = []
    for failure in dict.fromkeys(chunk["failure"] for chunk in chunks):
        these = [chunk for chunk in chunks if chunk["failure"] == failure]
        counts = sum((Counter(chunk["counts"]) for chunk in these), Counter[str]())
        total += counts
        rows.append([failure, len(these), sum(chunk["dead"] for chunk in these)])
        rows[-1] += [sum(chunk["in_flight_at_failure"] for chunk in these), *(counts[name] for name in COLUMNS)]
        rows[-1].append(max(chunk["slowest_s"] for chunk in these))
    heads = ["failure", "times", "dead for good", "in flight", *COLUMNS, "slowest s"]
    print(table(heads, [list(map(str, row)) for row in rows]))
    print(f"{sum(chunk['blocks'] for chunk in chunks)} blocks; {dict(total)}")
    for name, before in state["before"].items():
        print(f"{name}: {before} before, {chunks[-1]['census'][name]} after")


COLUMNS = ("right", "wrong", "false timeout", "lost in flight", "lost later", "lost before", "contained", "escaped")


def main(config: Config) -> None:
    """Run the blocks that the output file lacks, and print the report."""
    state: dict[str, Any] = {"before": {}, "chunks": []}
    if config.output.exists():
        state = json.loads(config.output.read_text())
    with contextlib.closing(Served() if config.served else Local()) as host:
        with ThreadPoolExecutor(config.in_flight) as pool:
            list(pool.map(host.sandbox.run, ["1"] * 200))
        state["before"] = state["before"] or census()
        while sum(chunk["blocks"] for chunk in state["chunks"]) < config.blocks:
            number = len(state["chunks"])
            state["chunks"].append(run_chunk(host, config, number, list(host.failures)[number % len(host.failures)]))
            write_json(config.output, state)
            shown = {name: value for name, value in state["chunks"][-1].items() if name != "examples"}
            print(f"{number}: {shown}", flush=True)
    report(state)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
