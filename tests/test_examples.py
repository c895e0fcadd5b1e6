"""The programs in examples/ do what they say."""

import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import ROOT
from trl_fakes import WARNINGS_OF_TRL, tool_model, tool_tokenizer

EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def _in_the_examples_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))  # as `python examples/...` does


def run(name: str, **arguments: Any) -> Any:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](**arguments)


def test_a_random_agent_is_never_right() -> None:
    assert run("random_agent", episodes=3) == -1.0


def test_a_scripted_agent_is_always_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("scripted_agent", episodes=3) == 1.0
    assert "```output\n" in capsys.readouterr().out


def test_many_scripted_episodes_run_at_once() -> None:
    assert run("async_vector", num_envs=8, episodes=40) == 1.0


@pytest.mark.slow
def test_stable_baselines_learns_token_by_token() -> None:
    assert run("stable_baselines", algorithm="ppo", steps=30_000) > -0.6  # -0.9 where nothing is learnt


@pytest.mark.slow
def test_a_recurrent_policy_trains_too() -> None:
    assert -1 <= run("stable_baselines", algorithm="recurrent-ppo", steps=1) <= 1


@pytest.mark.slow
def test_the_trainer_trains_on_an_environment_that_it_has_never_heard_of(tmp_path: Path) -> None:
    first, last = run("another_environment", steps=8, output_dir=tmp_path / "run")
    assert last > 3 * first


@pytest.mark.slow
@pytest.mark.filterwarnings(*WARNINGS_OF_TRL)
def test_trl_trains_a_model_on_it(tmp_path: Path) -> None:
    tokenizer = tool_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tiny")
    tool_model(tokenizer).save_pretrained(tmp_path / "tiny")
    arguments = {"model": str(tmp_path / "tiny"), "problems": "arithmetic", "steps": 1, "max_completion_length": 32}
    assert run("trl_grpo", output_dir=str(tmp_path / "run"), **arguments) == -1.0  # it knows nothing
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_each_example_says_how_to_run_it(path: Path) -> None:
    assert re.search(rf"^python examples/{path.name}", path.read_text(), re.MULTILINE)


def launched(name: str) -> tuple[str, str]:
    """The shell script in a launcher's file, and the command that trains."""
    text = (EXAMPLES / "launch" / name).read_text()
    if name == "kuberay.yaml":
        job = yaml.safe_load(text)
        assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
        groups = [job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
        for group in groups:
            (container,) = group["template"]["spec"]["containers"]
            assert group["rayStartParams"]["num-gpus"] == container["resources"]["limits"]["nvidia.com/gpu"]
        text = job["spec"]["entrypoint"]
    elif name == "skypilot.yaml":
        task = yaml.safe_load(text)
        assert task["num_nodes"] == 2
        text = task["run"]
    script = text.replace("\\\n", " ")
    return script, next(line for line in script.splitlines() if "train.py" in line and not line.startswith("#"))


@pytest.mark.parametrize("name", ["slurm.sh", "kuberay.yaml", "skypilot.yaml"])
def test_each_launcher_gives_all_gpus_of_two_nodes_to_a_run_that_resumes(name: str) -> None:
    script, command = launched(name)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    count = {flag: int(value) for flag, value in re.findall(r"--cluster\.([a-z-]+) (\d+)", command)}
    assert count["engines"] * count["engine-gpus"] + count["trainers"] == 2 * 8
    assert "--resume auto" in command
    if name != "kuberay.yaml":  # which starts Ray by itself
        assert "ray start --head --port=6379" in script
        assert re.search(r'ray start --address="\$(address|head:6379)"', script)
