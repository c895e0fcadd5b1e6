"""Runs hostile code in a sandbox and judges whether it was contained: for test_attacks.py, or as a program.

    python tests/support/sandbox/attacks.py --isolation without-namespaces --repeat 3
    python tests/support/sandbox/attacks.py --attacks FILE --ordinary-user

An attack has a `name` and what runs: `code`, or `blocks` (a session); `then` is a block that runs afterwards in another
process. `expect` says how it is judged:

- `status`: how the last block ends; a `Status`, `died` (killed or out of memory) or `error` (also by a limit)
- `out_has`, `lacks`: texts that stdout and errors of all blocks have, or lack; `max_out`: their length in characters
- `max_wall`: seconds until the last block has ended
- `final_none`: an environment that runs the code takes no answer from its output

No attack may print ESCAPED or a secret, change a file outside, leave a process behind, affect the next block, or end as
an infrastructure error.
"""

import argparse
import contextlib
import ctypes
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from observe import descendants, eventually
from ordinary_user import AS_NOBODY, copied_interpreter
from paths import ROOT

from cir_env.errors import SandboxUnavailable
from cir_env.sandbox import ExecutionResult, Limits, LocalSandbox, Status

Attack = dict[str, Any]
ATTACKS: list[Attack] = json.loads((ROOT / "tests/cir_env/sandbox/attacks.json").read_text())
CANARY = "/tmp/sbx_canary"
"""The name that attacks use for the folder of the canary; the real one has a path of its own in each run."""
SUMS = {
    "died": {Status.KILLED, Status.MEMORY},
    "error": {Status.ERROR, Status.MEMORY, Status.FILE_LIMIT, Status.PROCESS_LIMIT},
}
INNOCENT = "import sympy as sp, math\nx = sp.symbols('x')\nprint(sp.solve(x**2 - 4, x), math.sqrt(16))"


class Range:
    """A sandbox to attack, with a secret in a file, in the environment and in the memory of this process."""

    def __init__(self, isolation: str, time_limit_s: float = 0.15) -> None:
        """Start a sandbox; `time_limit_s` is for attacks that may end by a timeout."""
        self._time_limit_s = time_limit_s
        self._secret = "SECRET_" + os.urandom(12).hex()
        os.environ["CANARY_API_KEY"] = self._secret
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._canary = Path(self._folder.name) / "sbx_canary" / "answer.txt"
        self._canary.parent.mkdir()
        self._canary.write_text(self._secret)
        for path, mode in ((self._canary, 0o666), (self._canary.parent, 0o777), (self._canary.parents[1], 0o755)):
            path.chmod(mode)  # The sandbox has to protect what the file system does not.
        os.utime(self._canary, (10**9, 10**9))
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: processes left behind become children.
        self._isolation: Any = isolation
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sandbox.close()
        self._folder.cleanup()

    def judge(self, attack: Attack) -> list[str]:
        """Run an attack; return in which ways it was not contained."""
        start = time.monotonic()
        try:
            results = self._execute(attack)
            wall = time.monotonic() - start
            problems = [*self._check_results(attack["expect"], results, wall), *self._check_surroundings()]
        except SandboxUnavailable as error:
            self._sandbox.close()
            self._start()
            return [f"expect a sandbox that still runs code, got {error}"]
        if attack["expect"].get("final_none") and importlib.util.find_spec("gymnasium"):
            problems += self._check_environment(attack["code"])
        return problems

    def _start(self) -> None:
        self._sandbox = LocalSandbox(slots=1, isolation=self._isolation)
        self._sandbox.run(INNOCENT)
        self.layers = self._sandbox.layers
        self._processes = max(len(descendants(os.getpid())) for _ in range(20) if time.sleep(0.01) is None)

    def _execute(self, attack: Attack) -> list[ExecutionResult]:
        ends = attack["expect"].get("status", [])
        seconds = self._time_limit_s if "timeout" in ends else 20.0 if ends else 2.0
        prints = "out_has" in attack["expect"]  # It may wait for a disk first, to import.
        limits = Limits(time_limit_s=seconds, idle_limit_s=max(seconds, 2.0) if prints else seconds)

        def real(code: str) -> str:
            return code.replace(CANARY, str(self._canary.parent))

        if "code" in attack:
            blocks = [attack["code"], *([attack["then"]] if "then" in attack else [])]
            return [self._sandbox.run(real(block), limits) for block in blocks]
        with contextlib.closing(self._sandbox.open_session()) as session:
            return [session.run(real(block), limits) for block in attack["blocks"]]

    def _check_results(self, expect: dict[str, Any], results: list[ExecutionResult], wall: float) -> Iterator[str]:
        seen = "".join(result.stdout + result.error for result in results)
        shown = f"{results[-1].status.value}: {seen[:300]!r}"
        for text in ("ESCAPED", self._secret, *expect.get("lacks", [])):
            if text in seen:
                yield f"expect no {text!r}, got {shown}"
        for text in expect.get("out_has", []):
            if text not in seen:
                yield f"expect {text!r}, got {shown}"
        if Status.INFRASTRUCTURE in {result.status for result in results}:
            yield f"expect no infrastructure error, got {shown}"
        names = expect.get("status", list(Status))
        if not any(results[-1].status in SUMS.get(name, {name}) for name in names):
            yield f"expect the status {' or '.join(names)}, got {shown}"
        if len(seen) > expect.get("max_out", 2**21):
            yield f"expect at most {expect['max_out']} characters, got {len(seen)}"
        if wall > expect.get("max_wall", 60.0):
            yield f"expect the end after {expect['max_wall']} s, got {wall:.1f} s"

    def _check_surroundings(self) -> Iterator[str]:
        state = self._canary.stat()
        if (self._canary.read_text(), state.st_mode & 0o7777, state.st_mtime) != (self._secret, 0o666, 10**9):
            yield "expect the canary to be unchanged"
        if (names := os.listdir(self._canary.parent)) != [self._canary.name]:
            yield f"expect no file beside the canary, got {names}"
        innocent = self._sandbox.run(INNOCENT)
        if (innocent.status, innocent.stdout) != (Status.OK, "[-2, 2] 4.0\n"):
            yield f"expect the next block to run, got {innocent}"
        seen: list[str] = []

        def settled() -> bool:
            seen[:] = [describe(pid) for pid in descendants(os.getpid())]
            return len(seen) <= self._processes

        if not eventually(settled, 60.0):
            yield f"expect {self._processes} processes, got {seen}"

    def _check_environment(self, code: str) -> list[str]:
        import gymnasium

        from cir_env import Problem, ProblemSet

        problem = Problem(id="1", statement="What is 6 * 7?", answer="42", source="attacks", subject="products")
        env = gymnasium.make("CodeMath-v0", problems=ProblemSet([problem]), sandbox=self._sandbox)
        env.reset(seed=0)
        _, _, ended, _, _ = env.step(f"```python\n{code}\n```\n")
        _, reward, _, _, info = env.step("I do not know.")
        env.close()
        return [] if not ended and reward < 0 and info["predicted"] is None else [f"expect no answer, got {info}"]


def describe(pid: int) -> str:
    """Return the number, name, state and parent of a process."""
    with contextlib.suppress(OSError):
        return " ".join(Path(f"/proc/{pid}/stat").read_text().split()[:4])
    return f"{pid} has ended"


def why_not_here(attack: Attack) -> str | None:
    """Return why an attack means nothing on this machine."""
    foreign = platform.machine() != "x86_64" and any(word in str(attack) for word in ("libc.syscall", "fromhex("))
    return "its system calls and instructions are those of x86-64" if foreign else None


class Driver:
    """Judges attacks in a process of its own, by a `Range`."""

    def __init__(self, isolation: str, *, ordinary_user: bool = False, time_limit_s: float = 0.15) -> None:
        """Start the process, as this user or as an ordinary one.

        Raises:
            NoInterpreter: An ordinary user can run no suitable Python on this machine.
        """
        self._stack = contextlib.ExitStack()
        python, root, user = Path(sys.executable), ROOT, {}
        if ordinary_user:
            (python, root), user = self._stack.enter_context(copied_interpreter()), AS_NOBODY
        command = [python, root / "tests/support/sandbox/attacks.py", "--requests", "--isolation", isolation]
        self._process = self._stack.enter_context(
            subprocess.Popen(
                [*command, "--time-limit-s", str(time_limit_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={"PATH": os.environ["PATH"]} if ordinary_user else None,
                **user,
            )
        )
        self.layers: dict[str, str] = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def judge(self, attack: Attack) -> list[str]:
        """Run an attack; return in which ways it was not contained."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(attack) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the driver ended with exit status {self._process.wait()}")
        return json.loads(line)


def answer_requests(isolation: str, time_limit_s: float) -> None:
    """Print the layers, and for each attack on stdin its problems, as lines of JSON."""
    with Range(isolation, time_limit_s) as range_:
        print(json.dumps(range_.layers), flush=True)
        for line in sys.stdin:
            print(json.dumps(range_.judge(json.loads(line))), flush=True)


def main() -> int:
    """Run a list of attacks. Print those that were not contained, and a summary."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--attacks", type=Path, help="JSON file (default: those of the tests)")
    parser.add_argument("--only", nargs="*", help="names of attacks (default: all)")
    parser.add_argument("--isolation", default="auto", choices=["auto", "without-namespaces", "unsafe"])
    parser.add_argument("--ordinary-user", action="store_true", help="run as user 65534; needs root")
    parser.add_argument("--repeat", type=int, default=1, help="number of passes (default: 1)")
    parser.add_argument(
        "--time-limit-s", type=float, default=0.15, help="for attacks that may time out (default: 0.15)"
    )
    parser.add_argument("--requests", action="store_true", help="read the attacks from stdin")
    options = parser.parse_args()
    if options.requests:
        answer_requests(options.isolation, options.time_limit_s)
        return 0
    attacks = json.loads(options.attacks.read_text()) if options.attacks else ATTACKS
    attacks = [attack for attack in attacks if why_not_here(attack) is None]
    attacks = [attack for attack in attacks if options.only is None or attack["name"] in options.only] * options.repeat
    escaped = 0
    how = {"ordinary_user": options.ordinary_user, "time_limit_s": options.time_limit_s}
    with Driver(options.isolation, **how) as driver:
        print("layers: " + ", ".join(f"{name} {state}" for name, state in driver.layers.items()))
        for attack in attacks:
            if problems := driver.judge(attack):
                escaped += 1
                print(f"{attack['name']}: {'; '.join(problems)}", flush=True)
    print(f"{len(attacks) - escaped} of {len(attacks)} contained")
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
