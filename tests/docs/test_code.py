"""The code on the pages runs, and its commands are understood."""

import doctest
import glob
import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro
import yaml
from pages import PAGES, ROOT, TUTORIALS, Block, blocks, commands, name, text
from runs import small

import agents
import train
from agents.cli import parse
from agents.config.evaluation import EvalConfig
from cir_env import Problem, ProblemSet
from experiments import claims, cold_start, recipe

COMMANDS = sorted({command for page in PAGES for command in commands(page)})
WORDS = [
    [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    for line in COMMANDS
    for command in line.split(" && ")
]
TRAIN = [words[words.index("train.py") + 1 :] for words in WORDS if "train.py" in words and "--help" not in words]
EVALUATE = [words[2:] for words in WORDS if words[:2] == ["python", "evaluate.py"]]
PROGRAMS: dict[str, set[str]] = {}
"""The other programs, with the flags that commands give them."""
for words in WORDS:
    if words[0] == "python" and words[1] not in ("train.py", "evaluate.py"):
        program = shlex.join(words[1 : 2 + (words[1] == "-m") + ("serve" in words)])
        if program == "experiments/cold_start.py":
            arguments, rest = tyro.cli(cold_start.Arguments, args=words[2:], return_unknown_args=True)
            flags = cold_start.by_stage(rest)
            EVALUATE += [stage(arguments, flags)[1:] for stage in (cold_start.sample, cold_start.select)]
            TRAIN += [cold_start.sft(arguments, flags)[1:], [arguments.preset, *flags["env"], *flags["train"]]]
        elif program == "experiments/recipe.py":
            config, rest = tyro.cli(recipe.Config, args=words[2:], return_unknown_args=True)
            TRAIN.append([config.preset, *rest])
        elif program == "experiments/claims.py":
            asked, rest = tyro.cli(claims.Arguments, args=words[2:], return_unknown_args=True)
            EVALUATE.append(["--model", asked.before, asked.after, *rest])
        else:
            rest = []
        PROGRAMS.setdefault(program, set()).update(w for w in words if w.startswith("--") and w not in rest)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for block in (block for page in PAGES for block in blocks(page) if block.title):
        (tmp_path / block.title).write_text(block.code)
    monkeypatch.setattr(agents, "presets", {"tiny": lambda: small(tmp_path / "run", max_steps=1, warm_up_steps=1)})


def of(language: str) -> Iterator[tuple[Path, Block]]:
    return ((page, block) for page in PAGES for block in blocks(page) if block.language == language)


def test_every_block_is_in_a_language_that_is_tested() -> None:
    tested = {"python", "bash", "json", "yaml"}
    assert {block.language for page in PAGES for block in blocks(page)} == {*tested, "text"}
    assert [name(page) for page in PAGES if re.search(r"^    (python|pip|torchrun) ", text(page), re.MULTILINE)] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in TUTORIALS], ids=name)
def test_the_python_of_a_page_runs(page: Path) -> None:
    code = [block.code for block in blocks(page) if block.language == "python"]
    names: dict[str, object] = {"__name__": "page"}
    for each in code:
        if each.startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(each, names, name(page), None, 0)
            assert doctest.DocTestRunner().run(test, clear_globs=False).failed == 0
            names |= test.globs
        else:
            exec(compile(each, name(page), "exec"), names)


@pytest.mark.parametrize("code", [block.code for _, block in of("bash")])
def test_bash_can_be_parsed(code: str) -> None:
    subprocess.run(["bash", "-n"], input=code, text=True, check=True, timeout=10)


@pytest.mark.parametrize("args", TRAIN, ids=shlex.join)
def test_a_training_command_is_understood(args: list[str]) -> None:
    config, _ = train.parse(args)
    assert config.save_every > 0


@pytest.mark.parametrize("args", EVALUATE, ids=shlex.join)
def test_an_evaluation_command_is_understood(args: list[str]) -> None:
    command = parse(args, "")
    assert not isinstance(command, EvalConfig) or command.model


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_help_of_another_program_has_the_flags_of_commands_and_shows_each_on_a_line(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    first, *rest = shlex.split(program)
    words, run = (rest, runpy.run_module) if first == "-m" else ([first], runpy.run_path)
    monkeypatch.setattr(sys, "argv", [*words, "--help"])
    monkeypatch.delitem(sys.modules, f"{words[0]}.__main__", raising=False)  # another test may have imported it
    with pytest.raises(SystemExit, match="0"):
        run(words[0], run_name="__main__")
    shown = capsys.readouterr().out
    assert PROGRAMS[program] <= set(re.findall(r"--[\w.-]+", shown))
    assert [line for line in shown.splitlines() if line.count("python ") > 1] == []


def test_what_other_commands_name_is_there() -> None:
    others = [words for words in WORDS if words[0] not in ("python", "torchrun", "export", "ssh")]
    targets = re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in others:
        if words[:2] == ["pip", "install"]:
            extras = {extra for word in words for extra in re.findall(r"[\w-]+", word.partition("[")[2])}
            assert extras <= set(EXTRAS), words
        elif words[0] == "make":
            assert words[1] in targets
        elif words[0] == "pytest":
            assert all(glob.glob(str(ROOT / word)) for word in words if "/" in word), words
        elif words[:2] == ["docker", "build"]:
            targets_of_image = re.findall(r" AS (\w+)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
            assert "--target" not in words or words[words.index("--target") + 1] in targets_of_image
        else:
            assert words[0] in ("docker", "ray", "curl") or words[:2] == ["pip", "uninstall"], words


@pytest.mark.parametrize("code", [block.code for _, block in of("yaml")])
def test_a_yaml_block_is_a_file_of_flags(code: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(code)
    config, _ = train.parse(["--config", str(tmp_path / "run.yaml")])
    assert (config.model, config.max_steps) == ("tiny", yaml.safe_load(code)["max_steps"])


@pytest.mark.parametrize("code", [block.code for _, block in of("json")])
def test_a_json_block_is_a_row_of_a_problem(code: str) -> None:
    (problem,) = ProblemSet.from_rows([json.loads(code)])
    assert isinstance(problem, Problem)
