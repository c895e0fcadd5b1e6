from collections.abc import Iterator

import pytest

from cir_env.sandbox import LocalSandbox, Status

NO_PROCESSES = "(blocks cannot start processes)"
NO_MULTIPROCESSING = "(blocks cannot use multiprocessing)"
NO_NETWORK = "(blocks have no network)"


@pytest.fixture(scope="module", params=["auto", "without-namespaces"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[LocalSandbox]:
    with LocalSandbox(slots=1, isolation=request.param) as made:
        yield made


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import subprocess\nsubprocess.run(['ls'])", NO_PROCESSES),
        ("import os\nprint(1, os.fork())", NO_PROCESSES),
        ("from os import fork\nfork()", NO_PROCESSES),
        ("import os\nos.popen('ls').read()", NO_PROCESSES),
        ("import os\nos.execv('/bin/ls', ['ls'])", NO_PROCESSES),
        ("import os\nos.spawnl(os.P_WAIT, '/bin/ls', 'ls')", NO_PROCESSES),
        ("import os\nos.posix_spawn('/bin/ls', ['ls'], {})", NO_PROCESSES),
        ("import multiprocessing as m\nm.Process(target=print).start()", NO_PROCESSES),
        ("import multiprocessing as m\nm.get_context('spawn').Process(target=print).start()", NO_PROCESSES),
        ("import asyncio\nasyncio.run(asyncio.create_subprocess_exec('ls'))", NO_PROCESSES),
        ("import multiprocessing as m\nm.Pool(2).map(abs, [1])", NO_MULTIPROCESSING),
        ("from concurrent.futures import ProcessPoolExecutor as P\nlist(P().map(abs, [1]))", NO_MULTIPROCESSING),
        ("from multiprocessing.shared_memory import SharedMemory as S\nS(create=True, size=9)", NO_MULTIPROCESSING),
        ("import socket\nsocket.socket()", NO_NETWORK),
        ("import socket\nsocket.create_connection(('1.1.1.1', 80))", NO_NETWORK),
        ("import socket\nsocket.gethostbyname('example.com')", NO_NETWORK),
        ("import urllib.request\nurllib.request.urlopen('http://example.com')", NO_NETWORK),
        ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1')", NO_NETWORK),
        ("import http.client\nhttp.client.HTTPConnection('1.1.1.1').request('GET', '/')", NO_NETWORK),
        ("input()", "(blocks have no input)"),
    ],
)
@pytest.mark.slow
def test_what_no_block_can_do_is_said_at_once(sandbox: LocalSandbox, code: str, reason: str) -> None:
    result = sandbox.run(code)
    assert (result.status, result.stdout) == (Status.ERROR, "")
    assert result.error.endswith(f" {reason}")
    assert result.traceback.endswith(f"\n{result.error}")


@pytest.mark.parametrize("code", ["import yaml", "import yaml.nodes", "from no_such_module import x"])
@pytest.mark.slow
def test_a_missing_package_names_those_that_are_there(sandbox: LocalSandbox, code: str) -> None:
    error = sandbox.run(code).error
    missing = code.split()[1].partition(".")[0]
    start = f"ModuleNotFoundError: No module named '{missing}' (blocks can import the standard library, numpy, "
    assert error.startswith(start)
    assert error.endswith(")")
    assert "sympy" in error.removeprefix(start)
    assert "yaml" not in error.removeprefix(start)


@pytest.mark.parametrize(
    "code",
    [
        "import os\nopen(os.__file__, 'a')",
        "import os\nos.kill(1, 0)",
        "import os\nos.chmod('/', 0o755)",
        "open('missing.csv')",
        "import numpy.no_such_module",
        "from numpy import no_such_name",
        "raise ModuleNotFoundError('none')",
        "raise PermissionError(1, 'socket fork(')",
        "raise EOFError",
        "import subprocess\ntry:\n    subprocess.run('ls')\nexcept OSError:\n    open('missing.csv')",
        "import os\ndef fork():\n    os.kill(1, 0)\nfork()",
        "import urllib.request\nurllib.request.urlopen('file:///missing')",
        "class E(OSError):\n    reason = property(lambda self: 1 / 0)\nraise E",
        "e = OSError()\ne.reason = e\nraise e",
    ],
)
def test_other_errors_stay_as_they_are(sandbox: LocalSandbox, code: str) -> None:
    result = sandbox.run(code)
    assert result.status is Status.ERROR
    assert "blocks c" not in result.error
    assert "blocks h" not in result.error
    assert result.traceback.endswith(result.error)


def test_without_layers_there_is_nothing_to_explain() -> None:
    with LocalSandbox(slots=1, preload=(), isolation="unsafe") as sandbox:
        assert sandbox.run("import no_such_module").error == "ModuleNotFoundError: No module named 'no_such_module'"
