import pytest

from cir_env.errors import OptionError
from cir_env.sandbox import Limits, LocalSandbox, Status
from cir_env.sandbox.contract import MAX_FILES, MAX_FILES_BYTES

READ = "import os\nprint({name: open(name, newline='').read() for name in sorted(os.listdir())})"
FILES = {"data.csv": "x\r\n1\n", "empty": "", "naïve.txt": "é🙂\0"}


def test_a_block_finds_its_files_and_the_next_block_does_not(sandbox: LocalSandbox) -> None:
    assert sandbox.run(READ, files=FILES).stdout == f"{FILES}\n"
    assert sandbox.run(READ).stdout == "{}\n"


def test_files_are_read_only_but_the_block_can_write_others(sandbox: LocalSandbox) -> None:
    assert sandbox.run("open('data.csv', 'a')", files=FILES).error == (
        "PermissionError: [Errno 13] Permission denied: 'data.csv'"
    )
    assert sandbox.run("print(open('new', 'w').write('12'))", files=FILES).stdout == "2\n"


def test_all_that_a_block_can_be_given_arrives(sandbox: LocalSandbox) -> None:
    files = {"large": "x" * MAX_FILES_BYTES} | {str(n): "" for n in range(MAX_FILES - 1)}
    code = "import os\nprint(len(os.listdir()), set(open('large').read()), os.path.getsize('large'))"
    result = sandbox.run(code, Limits(file_limit_mb=1), files=files)
    assert (result.stdout, result.error) == (f"{MAX_FILES} {{'x'}} {MAX_FILES_BYTES}\n", "")


def test_a_session_gets_its_files_once_per_process(sandbox: LocalSandbox) -> None:
    session = sandbox.open_session(files=FILES)
    assert session.run(READ).stdout == f"{FILES}\n"
    assert session.run("import os\nos.remove('empty')\nos.remove('naïve.txt')").status is Status.OK
    assert session.run(READ).stdout == "{'data.csv': 'x\\r\\n1\\n'}\n"
    assert session.run("while True: pass", Limits(time_limit_s=0.1)).status is Status.TIMEOUT
    assert session.run(READ).stdout == f"{FILES}\n"
    session.close()


def test_files_need_no_namespaces_but_cannot_be_listed_without() -> None:
    with LocalSandbox(slots=1, preload=(), isolation="without-namespaces") as sandbox:
        read = "print({name: open(name, newline='').read() for name in %r})"
        assert sandbox.run(read % list(FILES), files=FILES).stdout == f"{FILES}\n"
        assert sandbox.run("open('data.csv', 'a')", files=FILES).error.startswith("PermissionError: ")
        assert sandbox.run("open('data.csv')").error.startswith("FileNotFoundError: ")
        session = sandbox.open_session(files=FILES)
        assert [session.run("print(open('data.csv').read())").stdout for _ in range(2)] == ["x\n1\n\n"] * 2
        session.close()


def test_without_a_working_directory_files_are_an_infrastructure_error() -> None:
    with LocalSandbox(slots=1, preload=(), isolation="without-namespaces") as sandbox:
        sandbox.run("1")
        for zygote in sandbox._supervisor.zygotes:
            zygote.folders = ""
        result = sandbox.run("1", files=FILES)
        session = sandbox.open_session(files=FILES)
        assert result.status is session.run("1").status is session.run("1").status is Status.INFRASTRUCTURE
        assert result.error == "blocks have no working directory on this machine, and cannot be given files"
        assert sandbox.run("1").stdout == "1\n"


def test_the_unsafe_sandbox_has_a_folder_for_each_block() -> None:
    with LocalSandbox(slots=1, preload=(), isolation="unsafe") as sandbox:
        assert [sandbox.run(READ, files=FILES).stdout for _ in range(2)] == [f"{FILES}\n"] * 2


def test_files_that_are_not_valid_are_rejected_at_once(sandbox: LocalSandbox) -> None:
    for call in (sandbox.submit, sandbox.run):
        with pytest.raises(OptionError, match=r"plain file names like 'data\.csv', got '\.\./x'"):
            call("1", files={"../x": ""})
    with pytest.raises(OptionError, match="at most 32 `files`"):
        sandbox.open_session(files={str(n): "" for n in range(MAX_FILES + 1)})
