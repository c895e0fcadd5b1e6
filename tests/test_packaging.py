import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from paths import ROOT

import cir_programs
from agents.core.programs import shell_command, this_command

BUILD = """
import os, shutil, sys
from setuptools import build_meta
folder = sys.argv[1]
sdist = build_meta.build_sdist(folder)
shutil.unpack_archive(os.path.join(folder, sdist), folder, filter="data")
os.chdir(os.path.join(folder, sdist.removesuffix(".tar.gz")))
build_meta.build_wheel(folder)
"""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the sdist from a copy of the checkout, which stays clean, and from it the wheel."""
    folder = tmp_path_factory.mktemp("packaging")
    for name in ("agents", "cir_env", "tests"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder / "source")
    program = [sys.executable, "-c", BUILD, folder]
    subprocess.run(program, cwd=folder / "source", check=True, capture_output=True, timeout=120)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def test_the_distributions_hold_the_environment_and_not_the_trainer(distributions: tuple[Path, Path]) -> None:
    sdist, wheel = distributions
    own = {str(path.relative_to(ROOT)) for path in (ROOT / "cir_env").rglob("*.py")}
    own |= {"cir_env/py.typed", "cir_env_verifiers.py", "cir_programs.py"}
    assert {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name} == own
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    about = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "MANIFEST.in", "pyproject.toml"}
    made = {"PKG-INFO", "setup.cfg", *(name for name in files if name.startswith("cir_env.egg-info/"))}
    assert files == own | about | made


def test_the_wheel_depends_on_what_the_environment_imports(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        metadata = email.message_from_bytes(wheel.read(name))
    needed = {Requirement(text).name for text in metadata.get_all("Requires-Dist", []) if "extra ==" not in text}
    assert needed == {"gymnasium", "math-verify", "numpy", "packaging", "pint"}
    assert all(metadata[field] for field in ("Author", "Keywords", "License-Expression", "Project-URL", "Summary"))


@pytest.mark.slow
def test_the_environment_works_where_nothing_but_its_dependencies_is_installed(
    distributions: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    probe = [*pip, "download", "--retries", "0", "--no-deps", "--dest", tmp_path, "math-verify"]
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        pytest.skip("needs the package index")
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    subprocess.run([*pip, "--python", python, "install", "--no-compile", distributions[1]], check=True)
    installed = sum(path.stat().st_size for path in (tmp_path / "venv").rglob("*") if path.is_file())
    assert installed < 200e6
    subprocess.run([python, "-I", "-c", "import math_verify, pint"], check=True)  # compiled once, not by each process
    program = [python, "-I", "-W", "error", ROOT / "tests/support/core_alone.py"]
    subprocess.run(program, check=True, cwd=tmp_path)


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_a_console_script_runs_the_program_beside_packages_of_the_same_names(program: str, tmp_path: Path) -> None:
    for name in ("agents", "evaluate"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('another distribution')")
    (script := tmp_path / f"cir-{program}").write_text(f"import cir_programs; exit(cir_programs.{program}())")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    help_text = subprocess.check_output([sys.executable, script, "--help"], env=environment, text=True, timeout=60)
    assert f"$ python {program}.py" in help_text


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_a_program_without_the_libraries_of_the_trainer_says_in_one_line_what_to_install(program: str) -> None:
    without_packages = [sys.executable, "-E", "-S", ROOT / f"{program}.py"]
    done = subprocess.run(without_packages, check=False, capture_output=True, text=True, timeout=60)
    expected = (
        rf"{program}\.py: Expect the libraries of the trainer, got no torch, .* pip install -e '\.\[train\]' .*\n"
    )
    assert re.fullmatch(expected, done.stderr)
    assert done.returncode == 1


def test_each_hint_to_install_names_an_extra_and_no_package_of_the_index() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    patterns = [
        "*.md",
        "*.py",
        "agents/**/*.py",
        "cir_env/**/*.py",
        "docs/*.md",
        "docker/Dockerfile",
        ".devcontainer/*",
    ]
    texts = [path.read_text() for pattern in patterns for path in ROOT.glob(pattern)]
    hints = [hint for text in texts for hint in re.findall(r"pip install .*?-e \W\.\[(.*?)\]", text)]
    assert {"train", "remote"} <= {extra for hint in hints for extra in hint.split(",")} <= {*extras}
    assert not [text for text in texts if re.search(r"pip install \W?cir-env", text)]


def test_a_console_script_without_a_checkout_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cir_programs, "__file__", str(tmp_path / "cir_programs.py"))
    with pytest.raises(
        SystemExit, match=r"cir-train: Expect a clone of the repository .* `pip install -e '\.\[train\]'`"
    ):
        cir_programs.train()


def test_commands_in_messages_are_those_of_the_console_scripts_that_a_user_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/cir-train", "tiny"])
    assert shell_command("evaluate", ["report", Path("runs/tiny")]) == "cir-evaluate report runs/tiny"
    assert this_command() == "cir-train tiny"
    monkeypatch.setattr(sys, "argv", ["train.py", "tiny"])
    assert this_command() == "python train.py tiny"
