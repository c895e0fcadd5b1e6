import ast
import importlib
import re
import runpy
import shlex

import pytest
from pages import ROOT, commands

README = (ROOT / "README.md").read_text()


COMMANDS = commands(ROOT / "README.md")
ROLLOUTS = commands(ROOT / "docs/concepts/rollouts.md")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_ci_runs_the_installing_commands_word_for_word() -> None:
    installing = [c for c in COMMANDS if c.startswith("pip install") and "&&" in c]
    patterns = re.findall(r"sed -n 's/\^\\\((.*?)\\\)\$/", (ROOT / ".ci/run").read_text())
    assert len(installing) == 2
    assert len(patterns) == 4
    for pattern, command in zip(patterns, [*installing, *ROLLOUTS[:2]], strict=True):
        assert re.fullmatch(pattern, command)


def test_the_plotting_command_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = [
        shlex.split(c)
        for c in commands(ROOT / "docs/results.md")
        if "plot_training" in c and "docs/images/quickstart.png" in c
    ]
    program = runpy.run_path(str(ROOT / command[1]))
    assert program["main"](command[2:]) == 2
    assert "runs/seed0" in capsys.readouterr().err


def test_the_example_of_an_episode_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(EXAMPLES[0], "README.md", "exec"), {})
    feedback, outcome = capsys.readouterr().out.strip().rsplit("\n", 1)
    assert feedback.strip() == "```output\n42\n```"
    assert outcome == "1.0 True 42 42"


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_import_public_names_alone(example: str) -> None:
    imports = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        assert node.module in ("agents", "cir_env")
        assert {name.name for name in node.names} <= set(importlib.import_module(node.module).__all__)


def test_each_folder_of_the_packages_stands_in_the_tree() -> None:
    (tree,) = re.findall(r"^```text\n(train\.py.*?)^```$", README, re.DOTALL | re.MULTILINE)
    for package in ("agents", "cir_env"):
        part = tree.partition(f"{package}/")[2].partition("\n\n")[0]
        folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert set(re.findall(r"^  (\w+)/", part, re.MULTILINE)) == folders


def test_the_picture_fits_a_terminal() -> None:
    blocks = re.findall(r"^```text\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 80
