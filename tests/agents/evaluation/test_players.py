"""Evaluations of a model behind an API: the same files as of a local one, and runs that resume."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import chat_server as api
import pytest
from chat_server import KEY, serving, status
from eval_fakes import open_fakes, row
from fakes import products
from processes import no_file_above

import evaluate
from agents.config.evaluation import EvalConfig, EvalEnvConfig
from agents.core.errors import EngineError, EngineFault, RunError
from agents.core.samples import Sample, SampleFile, read_samples
from agents.engines import chat_api
from agents.evaluation.metrics import summarise
from agents.evaluation.run_folder import Run, read_run
from agents.evaluation.runner import run

Serve = Callable[..., api.ChatServer]
Play = Callable[..., Run]


@pytest.fixture(autouse=True)
def _a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_api, "_KEYS", {})
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(chat_api.random, "uniform", lambda low, high: 0.05)


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda **kinds: stack.enter_context(serving(api.ChatServer(**kinds)))


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Evaluates a model of an API on five products, and returns the run."""

    def played(server: api.ChatServer, **changes: Any) -> Run:
        values: dict[str, Any] = {"model": ("openai:scripted",), "base_url": server.url, "num_samples": "2"}
        values |= {"output": tmp_path / "runs", "env": EvalEnvConfig(prompt="question"), "concurrency": 4}
        sets, envs = {"products": products()}, open_fakes()
        (folder,) = run(EvalConfig(**(values | changes)), sets, command="again", open_envs=envs, log=lambda line: None)
        return read_run(folder)

    return played


def rows_of(played: Run) -> list[Sample]:
    return [each for problem in played.samples["products"] for each in problem]


def without_counts(rows: list[Sample]) -> list[dict[str, Any]]:
    counts = ("prompt_tokens", "cost", "usage_estimated", "sampled_tokens", "feedback_tokens")
    return [{key: value for key, value in each.items() if key not in counts} for each in rows]


# -------------------------------------------------------------------------------------------------------- it plays


@pytest.mark.parametrize(
    ("kinds", "turns", "roles"),
    [
        ({}, "prefix", ["user", "assistant"]),
        ({"continues": False}, "message", ["user", "assistant", "user"]),
        ({"extra": False, "counts": "end"}, "message", ["user", "assistant", "user"]),
    ],
)
def test_code_runs_and_its_output_goes_back(
    serve: Serve, play: Play, kinds: dict[str, Any], turns: str, roles: list[str]
) -> None:
    server = serve(**kinds)
    played = play(server)
    assert (played.about["model"]["turns"], played.about["model"]["base_url"]) == (turns, server.url)
    for each in rows_of(played):
        assert each["correct"]
        assert each["turns"][0]["text"] == f"```python\nprint({each['problem'][8:-1]})\n```\n"
        assert each["turns"][0]["feedback"] == f"```output\n{each['answer']}\n```\n"
        assert [turn["finish_reason"] for turn in each["turns"]] == ["boundary", "stop"]
    last = server.requests[-1]["messages"]
    assert [message["role"] for message in last] == roles
    assert last[-1]["content"].endswith("\n```\n")
    assert last[-1]["content"].count("```output\n") == 1  # what the model wrote behind its block is not sent back


def test_tokens_are_those_of_the_server_and_cost_what_they_cost(serve: Serve, play: Play) -> None:
    played = play(serve(), price=(1.0, 3.0))
    first = rows_of(played)[0]
    prompt = len("What is 2 * 3?") + api.CLOSING
    block, output = "```python\nprint(2 * 3)\n```\n", "```output\n6\n```\n"
    answer = len("The answer is \\boxed{6}.")
    assert first["sampled_tokens"] == 9 + answer // 3
    assert first["prompt_tokens"] == prompt + prompt + len(block + output)
    assert first["feedback_tokens"] == len(block + output) - 9
    assert first["cost"] == pytest.approx((first["prompt_tokens"] + 3 * first["sampled_tokens"]) / 1e6)
    usage = summarise(played)["sets"]["products"]["usage"]
    assert usage["cost"] == pytest.approx(sum(each["cost"] or 0 for each in rows_of(played)))
    assert usage["prompt_tokens"] == sum(each["prompt_tokens"] for each in rows_of(played))


@pytest.mark.parametrize(("arm", "interactions"), [("code", 1), ("text", 0), ("neutral", 1)])
@pytest.mark.slow
def test_every_arm_plays(serve: Serve, play: Play, arm: str, interactions: int) -> None:
    rows = rows_of(play(serve(), arms=(arm,), text_prompt="question"))
    assert {each["interactions"] for each in rows} == {interactions}


def test_an_episode_without_tokens_left_is_cut_off(serve: Serve, play: Play) -> None:
    rows = rows_of(play(serve(), max_completion_length=12))
    assert {(each["truncated"], each["terminated"], len(each["turns"])) for each in rows} == {(True, False, 2)}
    assert {each["turns"][1]["finish_reason"] for each in rows} == {"length"}


def test_a_full_context_shortens_the_last_turn(serve: Serve, play: Play) -> None:
    def fails(body: dict[str, Any]) -> api.Fault | None:
        is_too_long = len(body["messages"]) > 1 and body["max_tokens"] > 940
        return status(400, "This model's maximum context length is 1000 tokens.") if is_too_long else None

    server = serve()
    server.fails = fails
    assert all(each["correct"] for each in rows_of(play(server)))


def test_each_sample_has_a_seed_of_its_own(serve: Serve, play: Play) -> None:
    server = serve()
    play(server, seed=7)
    seeds = {body["seed"] for body in server.requests if body["max_tokens"] > 16}
    assert len(seeds) == 20
    assert max(seeds) < 2**31


# ------------------------------------------------------------------------------------------------------------ resuming


def fails_after(number: int) -> Callable[[dict[str, Any]], api.Fault | None]:
    """A server that breaks down after so many requests."""
    left = iter(range(number))
    return lambda body: None if next(left, None) is not None else status(503, "no capacity")


def test_what_was_sampled_is_kept_and_the_same_command_resumes(serve: Serve, play: Play, tmp_path: Path) -> None:
    server = serve()
    server.fails = fails_after(15)
    with pytest.raises(EngineFault, match=r"to answer within --retry-s 0.2, got: 503 no capacity\. What was sampled"):
        play(server, retry_s=0.2, concurrency=2)
    (path,) = tmp_path.rglob("samples.jsonl")
    assert 0 < len(read_samples(path)[0]) < 10
    server.fails = lambda body: None
    resumed = play(server, concurrency=2)
    assert without_counts(rows_of(resumed)) == without_counts(rows_of(play(server, output=tmp_path / "whole")))


def test_a_resumed_run_keeps_the_kind_of_its_turns(serve: Serve, play: Play) -> None:
    server = serve(continues=False)
    server.fails = fails_after(15)
    with pytest.raises(EngineFault):
        play(server, retry_s=0.2)
    server.fails, server.continues = lambda body: None, True
    assert play(server).about["model"]["turns"] == "message"


def test_a_run_is_not_mixed_from_two_kinds_of_turns(serve: Serve, play: Play) -> None:
    server = serve()
    server.fails = fails_after(15)
    with pytest.raises(EngineFault):
        play(server, retry_s=0.2)
    server.fails = lambda body: None
    with pytest.raises(RunError, match=r"got others: model.turns: prefix -> message\."):
        play(server, turns="message")
    server.continues = False
    with pytest.raises(EngineError, match="Expect an API that can do what it could when the run began"):
        play(server)


def test_a_whole_run_needs_no_server(play: Play) -> None:
    with serving(api.ChatServer()) as server:
        whole = play(server)
    assert play(server) == whole


def test_a_sample_whose_request_fails_for_good_is_not_recorded(serve: Serve, play: Play, tmp_path: Path) -> None:
    server = serve()
    server.fails = lambda body: status(500, "bad luck") if "What is 2 * 3?" in str(body["messages"]) else None
    with pytest.raises(EngineFault, match=r"got none for 2 samples: 500 bad luck\. All others are kept"):
        play(server, retry_s=0.5)
    (path,) = tmp_path.rglob("samples.jsonl")
    assert {each["problem_index"] for each in read_samples(path)[0]} == {1, 2, 3, 4}
    server.fails = lambda body: None
    assert all(each["correct"] for each in rows_of(play(server)))


def test_a_sample_whose_request_is_rejected_is_invalid(serve: Serve, play: Play) -> None:
    server = serve()
    server.fails = lambda body: status(400, "filtered") if "What is 3 * 4?" in str(body["messages"]) else None
    played = play(server, concurrency=1)
    assert [each["reward_valid"] for each in rows_of(played)] == [True] * 2 + [False] * 2 + [True] * 6
    assert summarise(played)["sets"]["products"]["avg"]["value"] == 1.0


def test_requests_that_are_rejected_from_the_first_one_end_the_run(serve: Serve, play: Play) -> None:
    server = serve()
    server.fails = lambda body: status(400, "top_p must be 1") if body["top_p"] < 1 else None
    with pytest.raises(EngineError, match=r"Expect requests to be accepted at .*, got 400 top_p must be 1\."):
        play(server)


def test_a_full_disk_ends_the_run_and_keeps_what_was_sampled(serve: Serve, play: Play, tmp_path: Path) -> None:
    server = serve()
    with no_file_above(5_000), pytest.raises(OSError, match=r"File too large: '.*samples\.jsonl'"):
        play(server)
    (path,) = tmp_path.rglob("samples.jsonl")
    assert 0 < len(read_samples(path)[0]) < 10
    assert len(rows_of(play(server))) == 10


def test_a_row_that_does_not_fit_is_dropped_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    with no_file_above(100), pytest.raises(OSError, match="File too large"), SampleFile(path) as file:
        file.append(row())
    assert path.stat().st_size == 100
    with SampleFile(path) as file:
        assert (file.rows, file.dropped) == ([], True)


# --------------------------------------------------------------------------------------------------------- the program


def looks_for_the_key(text: str) -> str:
    """Print what a block can see of the environment, then answer."""
    if "```output" in text:
        return "\\boxed{1}"
    code = "import os\nprint(dict(os.environ))\nprint(open(f'/proc/{os.getppid()}/environ').read())"
    return f"```python\n{code}\n```\n"


def test_the_program_evaluates_and_writes_the_key_nowhere(
    serve: Serve, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve(policy=looks_for_the_key)
    args = ["--model", "openai:scripted", "--base-url", server.url, "--output", str(tmp_path / "runs")]
    args += ["--num-problems", "2", "--num-samples", "2", "--concurrency", "4", "--price", "1", "2"]
    assert evaluate.main(args) == 0
    assert evaluate.main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "page.html")]) == 0
    said = capfd.readouterr()
    assert "| API usage |" in said.out
    texts = {path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"samples.jsonl", "manifest.json", "summary.json", "page.html"} <= texts.keys()
    assert not [name for name, text in {**texts, "out": said.out, "err": said.err}.items() if KEY in text]
    assert server.url in json.loads(texts["manifest.json"])["run"]["model"]["base_url"]


def test_the_program_says_what_is_wrong_in_one_line(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--base-url", serve(key="another").url, "--output", str(tmp_path / "runs")]
    assert evaluate.main(["--model", "openai:scripted", *args]) == 2
    assert re.fullmatch(r"evaluate.py: Expect a key for .*, got 401 .*\n", capsys.readouterr().err)
    assert not (tmp_path / "runs").exists()
