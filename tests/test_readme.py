import re
import runpy
import shlex

import pytest
from paths import ROOT

import train
from agents.cli import parse
from agents.config.evaluation import EvalConfig

README = (ROOT / "README.md").read_text()


def commands(text: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


COMMANDS = commands(README)
ROLLOUTS = commands((ROOT / "docs/rollouts.md").read_text())
EVERYWHERE = [*COMMANDS, *(c for page in sorted(ROOT.glob("docs/*.md")) for c in commands(page.read_text()))]
TRAIN = [shlex.split(c)[2:] for c in EVERYWHERE if c.startswith("python train.py") and "--help" not in c]
EVALUATE = [shlex.split(c)[2:] for c in EVERYWHERE if c.startswith("python evaluate.py")]


def test_ci_runs_the_installing_commands_word_for_word() -> None:
    installing = [c for c in COMMANDS if c.startswith("pip install") and "&&" in c]
    patterns = re.findall(r"sed -n 's/\^\\\((.*?)\\\)\$/", (ROOT / ".ci/run").read_text())
    assert len(installing) == 2
    assert len(patterns) == 4
    for pattern, command in zip(patterns, [*installing, *ROLLOUTS[:2]], strict=True):
        assert re.fullmatch(pattern, command)


@pytest.mark.parametrize("args", TRAIN, ids=shlex.join)
def test_a_training_command_is_understood(args: list[str]) -> None:
    config, _ = train.parse(args)
    assert config.max_steps > 0


@pytest.mark.parametrize("args", EVALUATE, ids=shlex.join)
def test_an_evaluation_command_is_understood(args: list[str]) -> None:
    command = parse(args, "")
    assert not isinstance(command, EvalConfig) or command.model


def test_the_plotting_command_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = [shlex.split(c) for c in COMMANDS if "plot_training" in c]
    assert (ROOT / command[1]).exists()
    program = runpy.run_path(str(ROOT / command[1]))
    assert program["main"](command[2:]) == 2
    assert "runs/seed0" in capsys.readouterr().err


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)\n```\n\nObservations", README, re.S)
    exec(compile(example, "README.md", "exec"), {})
    feedback, outcome = capsys.readouterr().out.strip().rsplit("\n", 1)
    assert feedback.strip() == "```output\n42\n```"
    assert outcome.split()[:3] == ["-1.0", "True", "42"]


def test_every_link_leads_to_a_file() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
