"""Runs each attack of attacks.json with all layers, and without namespaces.

An entry has `code` (or `blocks`, for a session) and expectations: `status` (died: killed or out of memory; error: also
out of memory), `out_has`, `max_out`. No attack may print ESCAPED or a secret, change a canary file, leave a process
behind, or affect the next block.
"""

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from observe import eventually

from cir_env.sandbox import ExecutionResult, Limits, LocalSandbox, Status

ATTACKS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "attacks.json").read_text())
CANARY = Path("/tmp/sbx_canary")
SECRET = "SECRET_" + os.urandom(12).hex()
"""In a file, in the environment and in the memory of this process when the sandbox starts."""

MEANING = {
    "ok": {Status.OK},
    "error": {Status.ERROR, Status.MEMORY, Status.FILE_LIMIT, Status.PROCESS_LIMIT},
    "died": {Status.KILLED, Status.MEMORY},
    "timeout": {Status.TIMEOUT},
    "output_limit": {Status.OUTPUT_LIMIT},
}


@pytest.fixture(scope="module")
def canary() -> Iterator[Path]:
    CANARY.mkdir(exist_ok=True)
    answer = CANARY / "answer.txt"
    answer.write_text(SECRET)
    os.utime(answer, (10**9, 10**9))
    os.environ["CANARY_API_KEY"] = SECRET
    yield answer
    del os.environ["CANARY_API_KEY"]
    answer.unlink()
    CANARY.rmdir()


@pytest.fixture(scope="module", params=["auto", "without-namespaces"])
def jail(request: pytest.FixtureRequest, canary: Path) -> Iterator[LocalSandbox]:
    with LocalSandbox(slots=1, isolation=request.param) as sandbox:
        sandbox.run("1")
        if request.param == "auto" and sandbox.layers["namespaces"] != "on":
            pytest.skip("this machine forbids namespaces: " + sandbox.layers["namespaces"])
        yield sandbox


def execute(sandbox: LocalSandbox, attack: dict[str, Any]) -> list[ExecutionResult]:
    patient = "timeout" not in attack["expect"].get("status", ["timeout"])
    limits = Limits(time_limit_s=20.0 if patient else 0.15, idle_limit_s=20.0 if patient else 0.15)
    if "code" in attack:
        return [sandbox.run(attack["code"], limits)]
    session = sandbox.open_session()
    with contextlib.closing(session):
        return [session.run(block, limits) for block in attack["blocks"]]


def settled(sandbox: LocalSandbox) -> bool:
    state = sandbox._supervisor
    return len(state._workers) == len(state._spare) == state.spares


def case(attack: dict[str, Any]) -> ParameterSet:
    code = attack.get("code", "")
    foreign = platform.machine() != "x86_64" and ("libc.syscall" in code or "cd80" in code)
    marks = [pytest.mark.skip("its system call numbers are those of x86-64")] if foreign else []
    return pytest.param(attack, id=attack["name"], marks=marks)


@pytest.mark.parametrize("attack", [case(attack) for attack in ATTACKS])
def test_the_attack_is_contained(jail: LocalSandbox, canary: Path, attack: dict[str, Any]) -> None:
    before = canary.stat()
    results = execute(jail, attack)
    seen = "".join(result.stdout + result.error for result in results)
    assert "ESCAPED" not in seen
    assert SECRET not in seen
    assert Status.INFRASTRUCTURE not in {result.status for result in results}
    expect = attack["expect"]
    if "status" in expect:
        assert results[-1].status in set().union(*(MEANING[name] for name in expect["status"]))
    assert all(text in seen for text in expect.get("out_has", []))
    assert len(seen) <= expect.get("max_out", 2**21)
    assert os.listdir(CANARY) == [canary.name]
    after = canary.stat()
    assert canary.read_text() == SECRET
    assert (after.st_mode, after.st_mtime) == (before.st_mode, before.st_mtime)
    innocent = jail.run("import sympy as sp, math\nx = sp.symbols('x')\nprint(sp.solve(x**2 - 4, x), math.sqrt(16))")
    assert (innocent.status, innocent.stdout) == (Status.OK, "[-2, 2] 4.0\n")
    assert eventually(lambda: settled(jail))


def test_the_attacks_have_distinct_names() -> None:
    assert len({attack["name"] for attack in ATTACKS}) == len(ATTACKS)
