import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from paths import ROOT


def test_the_wheel_holds_the_environment_and_not_the_trainer(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "cir_env_verifiers.py"):
        shutil.copy(ROOT / name, source)
    for name in ("cir_env", "agents", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cir_env", "cir_env_verifiers.py"}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "cir_env").rglob("*.py")}
    assert modules | {"cir_env/py.typed"} <= set(names)
