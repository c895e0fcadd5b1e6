"""Measure the sandbox against what others use, and against its limits, in one interleaved run.

$ python benchmarks/sandbox.py --output sandbox.json
$ python benchmarks/sandbox.py --parts latency --rounds 5
$ python benchmarks/sandbox.py --parts --against ../before --rounds 300

Parts: `latency` and `throughput` beside subprocess, bubblewrap, firejail, nsjail (skipped by name where they are not
installed), a process pool that executes in-process, and a bare fork of a process of the same size; `sessions`: memory
of 1,000 open ones; `timeouts`: honest jobs on a crowded machine. `--against DIR` compares with another checkout.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.core.files import write_json
from agents.core.tables import table
from cir_env.sandbox import Limits, LocalSandbox, Session, Status, usable_cores

IMPORTS = "import math, fractions, itertools, collections, numpy, sympy\n"
TASKS = {
    "print": "print(1)",
    "sympy": "from sympy import symbols, solve\nx = symbols('x')\nprint(solve(x**2 - 3*x + 2, x))",
    "numpy": "import numpy as np\nprint(np.linalg.det(np.arange(9).reshape(3, 3) + np.eye(3)))",
    "lines": "for i in range(100_000):\n    print(i)",
    "loop": "s = 0\nfor i in range(10**6):\n    s += i\nprint(s)",
}
RARE_TASKS = {
    "endless": "while True: pass",
    "2 GB": "x = bytearray(2 * 10**9)\nprint(len(x))",
}
LIMIT_S = 1.0
"""CPU time of a block; the peers know only the wall clock."""
Part = Literal["latency", "throughput", "sessions", "timeouts"]
Run = Callable[[str], str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    parts: tuple[Part, ...] = ("latency", "throughput", "sessions", "timeouts")
    """Parts to run."""
    rounds: int = 30
    """Measurements of each contender and task (the slow tasks get a tenth), also with `against`."""
    seconds: float = 6.0
    """Length of each throughput measurement."""
    sessions: int = 1000
    """Sessions open at once."""
    against: Path | None = None
    """Another checkout of this repository, to compare with; the medians' ratios are printed with an interval."""
    output: Path | None = None
    """Where to write the metrics as JSON."""


def by_command(*command: str) -> Run:
    """Return what runs a block as a script under a command."""

    def run(code: str) -> str:
        program = [*command, sys.executable, "-c", code]
        done = subprocess.run(program, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        return done.stdout if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2]

    return run


def execute_here(code: str) -> str:
    """Execute a block in this process, as pools of workers do."""
    import io

    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        exec(code, {})
    return stream.getvalue()


class BareFork:
    """A process that has imported what the zygote has, and does nothing but fork, exit and wait."""

    program = """
import gc, importlib, json, os, sys
for name in json.loads(sys.argv[1]):
    try: importlib.import_module(name)
    except ImportError: pass
gc.collect(); gc.freeze()
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
    print("done", flush=True)
"""

    def __init__(self) -> None:
        from cir_env.sandbox.host.launch import PRELOAD

        program = [sys.executable, "-c", self.program, json.dumps(PRELOAD)]
        self.process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._say("ready")

    def __call__(self, code: str) -> str:
        """Fork once, whatever the code."""
        assert self.process.stdin is not None
        self.process.stdin.write("x\n")
        self.process.stdin.flush()
        return self._say("done")

    def _say(self, expected: str) -> str:
        assert self.process.stdout is not None
        said = self.process.stdout.readline().strip()
        assert said == expected, said
        return said

    def close(self) -> None:
        """End it."""
        self.process.communicate()


@contextlib.contextmanager
def contenders() -> Iterator[dict[str, Run]]:
    """Yield what runs a block, by name; ours first."""
    limits = Limits(time_limit_s=LIMIT_S)
    bwrap = ("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc")
    found: dict[str, Run] = {}
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(LocalSandbox())
        ours.run("1")
        found["ours"] = lambda code: _text(ours.run(code, limits))
        found["ours, session"] = _session(ours.open_session(), limits)
        bare = BareFork()
        stack.callback(bare.close)
        found["bare fork"] = bare
        found["subprocess"] = by_command()
        found["subprocess, imports"] = lambda code: by_command()(IMPORTS + code)
        for name, command in {
            "bubblewrap": ("bwrap", "--unshare-all", "--die-with-parent", "--new-session", *bwrap),
            "firejail": ("firejail", "--quiet", "--noprofile", "--net=none", "--rlimit-as=1g"),
            "nsjail": ("nsjail", "-Q", "-Mo", "--chroot", "/", "--rlimit_as", "1024", "--"),
        }.items():
            if shutil.which(command[0]):
                found[name] = by_command(*command)
            else:
                print(f"{name}: skipped, not installed")
        pool = stack.enter_context(ProcessPoolExecutor(usable_cores()))
        found["pool, no isolation"] = lambda code: pool.submit(execute_here, code).result()
        yield found


def _session(session: Session, limits: Limits) -> Run:
    return lambda code: _text(session.run(code, limits))


def _text(result: Any) -> str:
    return result.stdout or result.error or result.status.value


def latency(config: Config, found: dict[str, Run]) -> dict[str, Any]:
    """Return the milliseconds of each contender and task."""
    samples: dict[tuple[str, str], list[float]] = {}
    order = random.Random(0)
    ended: dict[tuple[str, str], str] = {}
    for number in range(config.rounds):
        names = list(found)
        order.shuffle(names)
        tasks = TASKS | (RARE_TASKS if number % 10 == 0 else {})
        for (task, code), name in ((t, n) for t in tasks.items() for n in names):
            if (name == "bare fork" and task != "print") or (name.startswith("pool") and task == "endless"):
                continue  # The one has no code, the other no way to end it.
            start = time.perf_counter()
            try:
                ended[name, task] = found[name](code).strip()[:40]
            except subprocess.TimeoutExpired:
                ended[name, task] = "ended by the clock"
            samples.setdefault((name, task), []).append((time.perf_counter() - start) * 1000)
            time.sleep(0.01)
    columns = [*TASKS, *RARE_TASKS]
    rows = [[name, *(_spread(samples.get((name, task))) for task in columns)] for name in found]
    print("\nMilliseconds, median / 95th percentile\n")
    print(table(["contender", *columns], rows))
    print("\nHow 2 GB ended: " + "; ".join(f"{name}: {ended.get((name, '2 GB'), '-')}" for name in found))
    middle = {f"{name}/{task}": median(times) for (name, task), times in samples.items()}
    base = middle["ours/print"]
    print(f"print: 1/{middle['subprocess, imports/print'] / base:.0f} of a subprocess with imports")
    return {"median_ms": middle, "how_2gb_ended": {name: ended.get((name, "2 GB")) for name in found}}


def _spread(times: list[float] | None) -> str:
    if not times:
        return "-"
    tail = quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
    return f"{median(times):.3g} / {tail:.3g}"


def throughput(config: Config, found: dict[str, Run]) -> dict[str, Any]:
    """Return blocks a second and CPU milliseconds a block, with as many callers as cores."""
    metrics: dict[str, Any] = {}
    cores = usable_cores()
    for name, run in found.items():
        callers = 1 if name in ("ours, session", "bare fork") else cores
        for task in ("print", "sympy"):
            if name == "bare fork" and task == "sympy":
                continue
            done, spent = _hammer(run, TASKS[task], callers, config.seconds)
            metrics[f"{name}/{task}"] = {"per_s": done, "cpu_ms": spent}
    rows = [
        [name, *(f"{metrics[f'{name}/{t}'][k]:.3g}" if f"{name}/{t}" in metrics else "-" for t, k in _COLUMNS)]
        for name in found
    ]
    print(f"\nBlocks a second on {cores} cores ('ours, session' and 'bare fork' on one), and CPU ms a block\n")
    print(table(["contender", *(f"{task} {key}" for task, key in _COLUMNS)], rows))
    ours = metrics["ours/sympy"]["per_s"]
    for name in ("bubblewrap", "firejail", "nsjail"):
        if name in found:
            print(f"sympy: {ours / metrics[f'{name}/sympy']['per_s']:.0f} times {name}")
    ratio = metrics["ours/print"]["cpu_ms"] / metrics["bare fork/print"]["cpu_ms"]
    print(f"print: {ratio:.1f} times the CPU of a bare fork")
    return metrics


_COLUMNS = [("print", "per_s"), ("sympy", "per_s"), ("print", "cpu_ms")]


def _hammer(run: Run, code: str, callers: int, seconds: float) -> tuple[float, float]:
    """Run a block again and again; return how many a second, and their CPU milliseconds, all processes together."""
    run(code)
    before, start = busy_seconds(), time.perf_counter()

    def again() -> int:
        count = 0
        while time.perf_counter() - start < seconds:
            run(code)
            count += 1
        return count

    with ThreadPoolExecutor(callers) as pool:
        total = sum(pool.map(lambda _: again(), range(callers)))
    return total / (time.perf_counter() - start), (busy_seconds() - before) * 1000 / total


class Checkout:
    """The sandbox of a checkout of this repository, in a process of its own that times each block itself."""

    program = """
import json, sys, time
import cir_env
from cir_env.sandbox import Limits, LocalSandbox
with LocalSandbox() as sandbox:
    runs = {"block": sandbox, "session": sandbox.open_session()}
    print(json.dumps(cir_env.__file__), flush=True)
    for line in sys.stdin:
        how, code = json.loads(line)
        start = time.perf_counter()
        result = runs[how].run(code, Limits())
        print(json.dumps([time.perf_counter() - start, result.status.value]), flush=True)
"""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        command = [sys.executable, "-c", self.program]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment
        )
        found = Path(self._read()).parents[1]
        assert found == folder.resolve(), f"expect the package of {folder}, got {found}"

    def milliseconds(self, how: str, code: str) -> float:
        """Run a block, by itself or in the session; return its time."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([how, code]) + "\n")
        self._process.stdin.flush()
        seconds, status = self._read()
        assert status == "ok", status
        return float(seconds) * 1000

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def against(config: Config, other: Path) -> dict[str, Any]:
    """Return the ratio of the medians of this checkout and another, both run in the same way, with a 95% interval."""
    tasks = {"print": ("block", TASKS["print"]), "sympy": ("block", TASKS["sympy"]), "session": ("session", "print(1)")}
    order = random.Random(0)
    times: dict[tuple[str, str], list[float]] = {(task, name): [] for task in tasks for name in ("ours", "before")}
    with contextlib.ExitStack() as stack:
        found = {"ours": Checkout(Path(__file__).parents[1]), "before": Checkout(other)}
        for checkout in found.values():
            stack.callback(checkout.close)
        for number in range(-3, config.rounds):
            for task, name in order.sample(list(times), len(times)):
                taken = found[name].milliseconds(*tasks[task])
                time.sleep(0.01)
                if number >= 0:
                    times[task, name].append(taken)
    metrics = {}
    for task in tasks:
        ours, before = times[task, "ours"], times[task, "before"]
        draws = [
            median(order.choices(ours, k=len(ours))) / median(order.choices(before, k=len(before))) for _ in range(2000)
        ]
        cuts = quantiles(draws, n=40)
        metrics[task] = {"ours_ms": median(ours), "before_ms": median(before), "ratio": median(ours) / median(before)}
        metrics[task] |= {"low": cuts[0], "high": cuts[-1]}
    rows = [[task, *(f"{value:.3f}" for value in found.values())] for task, found in metrics.items()]
    print(f"\nMedian milliseconds of {config.rounds} blocks, here and in {other}, their ratio and its 95% interval\n")
    print(table(["task", "ours", "before", "ratio", "from", "to"], rows))
    return metrics


def busy_seconds() -> float:
    """Return the CPU seconds of this process and all its descendants, living and reaped."""
    total = 0.0
    for pid in [os.getpid(), *descendants(os.getpid())]:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def children(pid: int) -> list[int]:
    """Return the direct children of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Return the processes below one."""
    return [process for child in children(pid) for process in (child, *descendants(child))]


def sessions(config: Config) -> dict[str, Any]:
    """Return the memory of idle sessions, and the time of a later block in one of them."""
    with LocalSandbox() as sandbox:
        opened = [sandbox.open_session() for _ in range(config.sessions)]
        start = time.perf_counter()
        for future in [session.submit("x = 1") for session in opened]:
            assert future.result().status is Status.OK
        opening = (time.perf_counter() - start) / config.sessions
        sizes = {pid: memory(pid) for pid in descendants(os.getpid())}
        smallest = sorted(sizes.values(), key=lambda size: size["Pss"])[: config.sessions]
        metrics = {name: median(size[name] for size in smallest) / 1024 for name in ("Pss", "Private_Dirty")}
        times = []
        for session in opened[:100]:
            start = time.perf_counter()
            session.run("x += 1")
            times.append((time.perf_counter() - start) * 1000)
    metrics |= {"open_ms": opening * 1000, "later_block_ms": median(times)}
    print(f"\n{config.sessions} sessions open at once: {metrics['Pss']:.1f} MB PSS each (median; ", end="")
    print(f"{metrics['Private_Dirty']:.1f} MB of its own), {metrics['open_ms']:.1f} ms to open, ", end="")
    print(f"{metrics['later_block_ms']:.2f} ms for a later block")
    return metrics


def memory(pid: int) -> dict[str, int]:
    """Return what the kernel tells about the memory of a process, in KB; huge values if it has ended."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        return {line.split()[0].rstrip(":"): int(line.split()[1]) for line in lines}
    return {"Pss": 1 << 40, "Private_Dirty": 1 << 40}


def timeouts(config: Config) -> dict[str, Any]:
    """Return how many honest jobs, far below their CPU limit, were ended on a crowded machine."""
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint('done')"
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(50)]
    try:
        beside = _false_timeouts(code, slots=2, jobs=8)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    metrics = {"24 jobs at once": _false_timeouts(code, slots=24, jobs=48), "50 busy processes beside": beside}
    print("\nHonest jobs of 0.3 s of CPU that were ended under a limit of 1 s: ", end="")
    print("; ".join(f"{name}: {count}" for name, count in metrics.items()))
    return metrics


def _false_timeouts(code: str, *, slots: int, jobs: int) -> int:
    with LocalSandbox(slots=slots) as sandbox:
        futures = [sandbox.submit(code, Limits(time_limit_s=1.0, wall_limit_s=600)) for _ in range(jobs)]
        return sum(future.result().status is not Status.OK for future in futures)


def main(config: Config) -> None:
    """Run the parts, print tables, and write the metrics."""
    metrics: dict[str, Any] = {}
    if {"latency", "throughput"} & set(config.parts):
        with contenders() as found:
            for part in (latency, throughput):
                if part.__name__ in config.parts:
                    metrics[part.__name__] = part(config, found)
    if config.against is not None:
        metrics["against"] = against(config, config.against)
    for alone in (sessions, timeouts):
        if alone.__name__ in config.parts:
            metrics[alone.__name__] = alone(config)
    if config.output is not None:
        write_json(config.output, metrics)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
