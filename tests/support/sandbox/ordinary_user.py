"""An interpreter and a copy of this checkout that an ordinary user can read, for tests that run as root."""

import contextlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paths import ROOT

from cir_env.sandbox.host.launch import PRELOAD

NOBODY = 65534
AS_NOBODY: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}
PACKAGES = ("numpy", "sympy", "mpmath")


class NoInterpreter(Exception):
    """This machine has no Python of this version that an ordinary user can run."""


@contextlib.contextmanager
def copied_interpreter() -> Iterator[tuple[Path, Path]]:
    """Yield a Python with `PACKAGES`, and the root of a copy of this checkout in which the sandbox can be imported.

    Raises:
        NoInterpreter: There is none.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        base = _readable_base()
        python = folder / "venv/bin/python"
        site = folder / "venv/lib" / f"python3.{sys.version_info.minor}" / "site-packages"
        for made in (python.parent, site):
            made.mkdir(parents=True)
        python.symlink_to(base)
        (folder / "venv/pyvenv.cfg").write_text(f"home = {base.parent}\n")
        for package in PACKAGES:
            spec = importlib.util.find_spec(package)
            assert spec is not None
            source = Path(str(spec.origin)).parent
            for found in (source, source.with_name(f"{package}.libs")):
                if found.is_dir():
                    shutil.copytree(found, site / found.name, ignore=shutil.ignore_patterns("tests"))
        for path in ("cir_env", "tests/support", "tests/cir_env/sandbox"):
            shutil.copytree(ROOT / path, folder / "checkout" / path)
        (folder / "checkout/cir_env/__init__.py").write_text("")  # It imports packages that are not copied.
        wanted = [module for module in PRELOAD if module.startswith(PACKAGES)]
        subprocess.run([python, "-c", f"import {', '.join(wanted)}"], check=True)  # Compiles what is not compiled yet.
        yield python, folder / "checkout"


def _readable_base() -> Path:
    """Return the first interpreter of this version that NOBODY can run."""
    own = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    for base in (own, Path("/usr/bin/python3")):
        program = [base, "-I", "-c", "import sys, ctypes; print(*sys.version_info[:2])"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            said = subprocess.run(program, check=True, capture_output=True, text=True, **AS_NOBODY).stdout
            if said.split() == [str(number) for number in sys.version_info[:2]]:
                return base
    raise NoInterpreter(f"no Python {sys.version_info.major}.{sys.version_info.minor} that user {NOBODY} can run")
