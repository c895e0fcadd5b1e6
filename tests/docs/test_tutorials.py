"""The tutorials are followed, word for word but for the sizes of models and runs."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from chat_server import KEY, ChatServer, serving
from pages import TUTORIALS, blocks, commands, name

import evaluate
import train

TRAINING = {
    "--warm-up-steps": "1",
    "--max-steps": "1",
    "--rollout.num-problems": "2",
    "--rollout.num-generations": "2",
    "--rollout.max-num-seqs": "4",
    "--rollout.max-completion-length": "24",
    "--validation.num-problems": "1",
    "--validation.every": "0",
}
EVALUATION = {"--num-problems": "2", "--num-samples": "2", "--max-completion-length": "24"}


def shortened(args: Sequence[str], flags: dict[str, str]) -> list[str]:
    """Return the arguments with those flags that they lack, and names of the checkpoints of a short run."""
    extra = [word for flag, value in flags.items() if flag not in args for word in (flag, value)]
    return [*(arg.replace("checkpoint-20", "checkpoint-1") for arg in args), *extra]


def follow(command: str, url: str) -> int | None:
    """Run a command in this process; None where it needs what is not here: a network, several GPUs."""
    program, *args = shlex.split(command.replace("http://127.0.0.1:8000/v1", url).removeprefix("python "))
    if program == "train.py" and ("tiny" in args or args[0] == "--help"):
        return train.main(shortened(args, TRAINING))
    if program == "evaluate.py" and "openai:NAME" not in args:
        return evaluate.main(args if args[0] in ("report", "compare") else shortened(args, EVALUATION))
    return None


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=name)
def test_a_tutorial_can_be_followed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # export PYTHONPATH=.
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        if block.title:
            (tmp_path / block.title).write_text(block.code)
            monkeypatch.delitem(sys.modules, Path(block.title).stem, raising=False)  # of another test
        elif block.language == "python":
            exec(compile(block.code, name(page), "exec"), names)
    with serving(ChatServer()) as server:
        server.models = ["Qwen/Qwen2.5-1.5B-Instruct"]
        codes = [follow(command, server.url) for command in commands(page)]
    assert set(codes) <= {0, None}
    assert 0 in codes
