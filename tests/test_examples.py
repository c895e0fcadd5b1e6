"""The programs in examples/ do what they say."""

import importlib
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml
from paths import ROOT
from trl_fakes import WARNINGS_OF_TRL, tool_model, tool_tokenizer

from cir_env import ProblemSet

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
@pytest.mark.thorough
def test_stable_baselines_learns_token_by_token() -> None:
    assert run("stable_baselines", algorithm="ppo", steps=30_000) > -0.6  # -0.9 where nothing is learnt


@pytest.mark.slow
def test_a_recurrent_policy_trains_too() -> None:
    assert -1 <= run("stable_baselines", algorithm="recurrent-ppo", steps=1) <= 1


@pytest.mark.slow
def test_a_loop_in_the_style_of_cleanrl_learns() -> None:
    mean = run("cleanrl_ppo", steps=24_000, interaction_budget=0)
    assert mean > -0.75  # -0.9 where nothing is learnt


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
def test_tianshou_trains_on_it() -> None:  # 2.0.1
    pytest.importorskip("tianshou", "2.0")
    assert -1 <= run("tianshou_ppo", epochs=1, epoch_num_steps=64, num_envs=2) <= 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torchrl_trains_on_it() -> None:  # 0.14.1
    pytest.importorskip("torchrl", "0.14")
    assert -1 <= run("torchrl_ppo", steps=64, num_envs=2, batch=64, epochs=1) <= 1


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
def test_rllib_trains_on_it() -> None:  # 2.60.0
    for library in ("ray", "tree", "lz4", "scipy", "ormsgpack"):  # of the extra rllib
        pytest.importorskip(library, reason="needs the extra rllib, which pins an older gymnasium")
    assert -1 <= run("rllib_ppo", iterations=1, batch=128) <= 1


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


@pytest.fixture
def csv_questions() -> Any:
    yield importlib.import_module("csv_questions")
    del sys.modules["csv_questions"]


@pytest.mark.slow
def test_pandas_answers_each_question_about_a_file(csv_questions: Any) -> None:
    reads = 'import glob, pandas\nt = pandas.read_csv(glob.glob("*.csv")[0])\nt["cost"] = t.units * t.unit_price\n'
    solutions = {
        "How many .* the (.*)\\?": 'print((t.region == "{}").sum())',
        ".* the product (.*) cost": 'print(t[t["product"] == "{}"].cost.sum())',
        ".* the (.*) order most": 'print(t[t.region == "{}"].groupby("product").units.sum().idxmax())',
    }
    with gymnasium.make(
        "CodeMath-v0",
        problems=ProblemSet.from_rows(csv_questions.rows(6)),
        prompt=csv_questions.prompt,
        answer_type="csv_questions:same_value",
        packages=("pandas",),
        observation="feedback",
    ) as env:
        for index in range(6):
            prompt, info = env.reset(options={"problem_index": index})
            assert info["files"][0] in prompt
            ((names, code),) = [(m.groups(), c) for p, c in solutions.items() if (m := re.match(p, info["statement"]))]
            output = env.step(f"```python\n{reads}{code.format(*names)}\n```\n")[0].splitlines()[1]
            assert env.step(rf"\boxed{{{output}}}")[1] == 1.0, (info["statement"], output)


def test_a_verifier_of_words_and_amounts_is_no_mathematics(csv_questions: Any) -> None:
    same = csv_questions.same_value
    right = [("lamp", r" \text{Lamp}"), ("1234.50", "1,234.5"), ("7", "7.0")]
    wrong = [("lamp", "desk"), ("7", "lamp"), ("1234.50", "1234.51")]
    assert [same(*pair) for pair in right + wrong] == [True] * 3 + [False] * 3


@pytest.mark.slow
def test_the_tiny_model_trains_on_questions_about_files(tmp_path: Path, csv_questions: Any) -> None:
    assert csv_questions.main(steps=1, size=40, output_dir=tmp_path) == -1.0  # it knows nothing
    row = json.loads((tmp_path / "questions.jsonl").read_text().splitlines()[0])
    (text,) = row["files"].values()
    assert text.startswith("region,product,units,unit_price\n")


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
