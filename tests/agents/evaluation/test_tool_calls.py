"""An evaluation with tool calls: what is sampled, stored, judged again and shown."""

import json
from pathlib import Path
from typing import Any

from agents_fakes import FakeEngine, scripted
from fakes import FakeGrader, FakeSandbox, make, products
from tool_calls import LENGTH, dialect_of, telling_texts, tool_tokenizer

from agents.config.evaluation import EvalConfig, EvalEnvConfig
from agents.core.chat import Chat
from agents.evaluation.regrade import regrade
from agents.evaluation.run_folder import Run, read_run
from agents.evaluation.runner import run
from agents.report.viewer import Transcripts
from agents.rollout.envs import ThreadedPool
from cir_env.parsing import final_answer

HERMES = dialect_of("hermes")
CALL, BOXED = HERMES.write("print(2 * 3)"), HERMES.write(r"print('\\boxed{7}')")


def evaluated(folder: Path, *turns: str, arms: tuple[str, ...] = ("code",)) -> list[Run]:
    model = folder / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "a.safetensors"):
        (model / name).write_text("{}")
    config = EvalConfig(
        model=(str(model),),
        arms=arms,
        num_samples="1",
        output=folder / "runs",
        max_completion_length=900,
        env=EvalEnvConfig(dialect="hermes"),
    )
    chat = Chat(tool_tokenizer("hermes", telling_texts("hermes")), dialect="hermes")

    def open_envs(num_envs: int, **arguments: Any) -> ThreadedPool:
        parts = {"sandbox": FakeSandbox(), "grader": FakeGrader()}
        return ThreadedPool(lambda: make(**(arguments | parts)), num_envs)

    folders = run(
        config,
        {"products": products(1)},
        open_envs=open_envs,
        load=lambda config, path: (FakeEngine(chat, scripted(*turns), max_model_len=LENGTH), chat),
        log=lambda line: None,
    )
    return [read_run(each) for each in folders]


def test_calls_are_executed_stored_and_shown_as_blocks_of_code(tmp_path: Path) -> None:
    (played,) = evaluated(tmp_path, f"I compute.\n{CALL}", BOXED + "\nand more", r"It is \boxed{6}.")
    ((row,),) = played.samples["products"]
    assert (row["correct"], row["interactions"], [turn["status"] for turn in row["turns"]]) == (
        True,
        2,
        ["ok", "ok", None],
    )
    first, second, last = row["turns"]
    begin = len("I compute.\n")
    assert json.loads(json.dumps(first["calls"])) == [[begin, begin + len(CALL), "print(2 * 3)"]]
    assert (first["feedback"], "calls" in last) == ("6", False)
    (item,) = Transcripts({"run": [row]}).items
    prose, block = item["turns"][0]["parts"]
    assert prose == "I compute.\n"
    assert "".join(block[1::2]) == "python\nprint(2 * 3)\n"
    assert item["turns"][1]["result"] == second["feedback"] == r"\boxed{7}"
    assert played.about["arguments"]["dialect"] == "hermes"


def test_a_box_in_a_call_is_no_answer_when_samples_are_judged_again(tmp_path: Path) -> None:
    (played,) = evaluated(tmp_path, r"Is it \boxed{6}?", arms=("code",))
    ((row,),) = played.samples["products"]
    row["turns"][0]["text"] += BOXED
    row["turns"][0]["calls"] = [(len(row["turns"][0]["text"]) - len(BOXED), len(row["turns"][0]["text"]), "...")]
    grader = FakeGrader()
    regrade([row], grader.submit, final_answer)
    assert grader.graded == [("6", "6")]


def test_the_arm_without_code_offers_no_tool(tmp_path: Path) -> None:
    (played,) = evaluated(tmp_path, CALL, arms=("text",))
    ((row,),) = played.samples["products"]
    assert (row["interactions"], row["reason"]) == (0, r"no \boxed answer")
