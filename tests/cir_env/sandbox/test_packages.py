import os
from pathlib import Path

import pytest

from cir_env.errors import OptionError
from cir_env.sandbox import LocalSandbox
from cir_env.sandbox.packages import paths_to_import

ISOLATIONS = ["auto", "without-namespaces"]


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_named_package_is_imported_and_its_dependencies_can_be(isolation: str) -> None:
    with LocalSandbox(slots=1, preload=(), packages=("jinja2",), isolation=isolation) as sandbox:
        loaded = sandbox.run("import sys\n'jinja2' in sys.modules")
        used = sandbox.run("import jinja2, markupsafe\njinja2.Template('{{ x }}').render(x=markupsafe.escape('<'))")
        version = sandbox.run("from importlib.metadata import version\nversion('markupsafe') > ''")
        hidden = sandbox.run("try:\n    import yaml\nexcept ImportError:\n    print('hidden')")
    assert loaded.stdout == "True\n"
    assert (used.stdout, used.error) == ("'&lt;'\n", "")
    assert version.stdout == "True\n" or isolation != "auto"
    assert hidden.stdout == "hidden\n"


@pytest.mark.slow
def test_pandas_works_with_nothing_but_its_name() -> None:
    pytest.importorskip("pandas")
    code = "import pandas as pd\nframe = pd.DataFrame({'a': [1, 2]})\nprint(frame.describe().loc['mean', 'a'])\n"
    for isolation in ISOLATIONS:
        with LocalSandbox(slots=1, packages=("pandas",), isolation=isolation) as sandbox:
            result = sandbox.run(code + "print(pd.Timestamp('2024-01-01', tz='Europe/Berlin').utcoffset())")
        assert (result.stdout, result.error) == ("1.5\n1:00:00\n", "")


def test_a_package_of_the_extra_that_is_not_installed_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir_env.sandbox.packages.package_paths", lambda _: [])
    with pytest.raises(OptionError, match=r"got 'scipy'\. Install it with: pip install -e '\.\[sandbox-packages\]'"):
        LocalSandbox(packages=("scipy",))


def install(folder: Path, name: str, *requires: str) -> None:
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {line}" for line in requires)]
    (metadata / "METADATA").write_text("\n".join(lines))
    (folder / f"{name}.libs").mkdir()
    records = [f"{name}.py", f"{name}-1.0.dist-info/METADATA", f"{name}.libs/libx.so", "../../bin/tool"]
    (metadata / "RECORD").write_text("".join(f"{record},,\n" for record in records))


def test_dependencies_follow_markers_and_the_extras_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "left", "middle[fast]>=1", "old; python_version < '3'", "option; extra == 'more'", "absent_one")
    install(tmp_path, "middle", "right; extra == 'fast'", "left", "not a requirement")
    for name in ("right", "old", "option", "other"):
        install(tmp_path, name)
    monkeypatch.syspath_prepend(tmp_path)
    found = sorted(os.path.basename(path) for path in paths_to_import(["left"]))
    names = ("left", "middle", "right")
    assert found == sorted([f"{name}{end}" for name in names for end in ("-1.0.dist-info", ".libs")])


def test_an_unknown_package_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"got 'jinja'\. Did you mean 'jinja2'\?"):
        LocalSandbox(packages=("jinja",))
