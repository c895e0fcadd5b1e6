"""The canary: a block that runs first and tries what no block may do. It must print an empty list."""

EXPECTED_OUTPUT = "[]\n"

CODE = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
escaped = []

def attempt(name, act):
    try:
        act()
    except (OSError, ImportError):
        return
    escaped.append(name)

def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")

attempt("fork", lambda: os.fork() or os._exit(0))
attempt("exec", lambda: os.execv("/bin/sh", ["sh", "-c", "exit 1"]))
attempt("socket", socket.socket)
attempt("read a host file", lambda: open("/etc/passwd").close())
attempt("read the trainer's package", lambda: __import__("cir_env"))
attempt("write beside a library", lambda: open(os.path.dirname(os.__file__) + "/cir_env_canary", "x"))
attempt("signal its parent", lambda: os.kill(os.getppid(), 0))
attempt("signal its group", lambda: os.kill(0, 0))
attempt("clear its death signal", lambda: call(157 if os.uname().machine == "x86_64" else 167, 1, 0, 0, 0, 0))
attempt("unshare", lambda: call(272 if os.uname().machine == "x86_64" else 97, 0x10000000))
attempt("make an anonymous file", lambda: os.memfd_create("canary"))
attempt("raise its priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
print(escaped)
"""
