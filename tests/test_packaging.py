import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from paths import ROOT

import cir_programs
from agents.core.programs import shell_command, this_command


def test_the_wheel_holds_the_environment_and_not_the_trainer(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "cir_env_verifiers.py", "cir_programs.py"):
        shutil.copy(ROOT / name, source)
    for name in ("cir_env", "agents", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    expected = {"cir_env", "cir_env_verifiers.py", "cir_programs.py"}
    assert {top for top in tops if not top.endswith(".dist-info")} == expected
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "cir_env").rglob("*.py")}
    assert modules | {"cir_env/py.typed"} <= set(names)


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_a_console_script_runs_the_program_beside_packages_of_the_same_names(program: str, tmp_path: Path) -> None:
    for name in ("agents", "evaluate"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('another distribution')")
    (script := tmp_path / f"cir-{program}").write_text(f"import cir_programs; exit(cir_programs.{program}())")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    help_text = subprocess.check_output([sys.executable, script, "--help"], env=environment, text=True, timeout=60)
    assert f"$ python {program}.py" in help_text


def test_a_console_script_without_a_checkout_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cir_programs, "__file__", str(tmp_path / "cir_programs.py"))
    with pytest.raises(SystemExit, match=r"cir-train: Expect a clone of the repository .* `pip install -e \.`"):
        cir_programs.train()


def test_commands_in_messages_are_those_of_the_console_scripts_that_a_user_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/cir-train", "tiny"])
    assert shell_command("evaluate", ["report", Path("runs/tiny")]) == "cir-evaluate report runs/tiny"
    assert this_command() == "cir-train tiny"
    monkeypatch.setattr(sys, "argv", ["train.py", "tiny"])
    assert this_command() == "python train.py tiny"
