"""The program evaluate.py: what it prints and writes, and what it says to bad input."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents_fakes import byte_tokenizer, tiny_qwen2

import evaluate
from agents.config.evaluation import protocols
from agents.models.tiny import build_tiny
from cir_env.problems.benchmarks import BENCHMARKS
from cir_env.problems.families import GENERATORS
from cir_env.problems.load import DATA_SETS

ROOT = Path(evaluate.__file__).parent
BENCHMARK_FILES = Path(os.environ.get("CIR_BENCHMARKS", ROOT.parent / "shared" / "benchmarks"))
SMALL = ["--num-problems", "2", "--num-samples", "2", "--max-num-seqs", "4", "--dtype", "float32"]
SHORT = ["--max-completion-length", "8", "--max-model-len", "700"]
Fails = Callable[..., str]


def save_model(folder: Path, **tokenizer: Any) -> Path:
    """Write a random model and its tokenizer, of bytes, to a folder."""
    made = byte_tokenizer()
    made.chat_template = tokenizer.get("template", made.chat_template)
    made.save_pretrained(folder)
    tiny_qwen2(len(made), max_position_embeddings=1024).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(tmp_path_factory.mktemp("models") / "random"))


@pytest.fixture
def fails(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs the program on bad input and returns its complaint, which is one line; nothing is left behind."""

    def run(*args: str | Path, model: str | Path = model) -> str:
        output = tmp_path / "new"
        error = complaint(capsys, "--model", model, "--output", output, *SMALL, *SHORT, *args)
        assert not output.exists()
        return error

    return run


def complaint(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """Run the program on bad input; return the one line that it says."""
    capsys.readouterr()  # what making the input printed
    code = evaluate.main([str(arg) for arg in args])
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("evaluate.py: ")
    assert error.count("\n") == 1
    return error.removeprefix("evaluate.py: ").removesuffix("\n")


def evaluated(output: Path, model: str, *args: str, arm: str = "code") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the program; return the summary and the samples of one arm."""
    assert evaluate.main(["--model", model, "--output", str(output), *SMALL, *SHORT, *args]) == 0
    (folder,) = output.glob(f"*/{arm}")
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    rows.sort(key=lambda row: (row["problem_index"], row["sample"]))
    return json.loads((folder / "summary.json").read_text()), rows


# ---------------------------------------------------------------------------------------------------------- it works


def test_tool_calls_are_evaluated_with_a_template_that_presents_tools(tmp_path: Path) -> None:
    build_tiny(tmp_path / "model")
    summary, rows = evaluated(tmp_path / "runs", str(tmp_path / "model"), "--env.dialect", "hermes")
    assert (summary["sets"]["products"]["problems"], len(rows)) == (2, 4)


def test_two_arms_are_evaluated_reported_and_compared(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    summary, rows = evaluated(tmp_path, model, "--arms", "code", "text")
    out = capsys.readouterr().out
    assert f"| {model} (text) | 0.0 [0.0, 84.2] |\n" in out
    assert "| products |        2 |  2 | 0.0 [0.0, 84.2] |" in out
    (code,), (text,) = tmp_path.glob("*/code"), tmp_path.glob("*/text")
    assert f"Run: {code}\nRun: {text}\n" in out
    assert (summary["arm"], summary["sets"]["products"]["problems"]) == ("code", 2)
    assert [(row["problem_index"], row["sample"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    manifest = json.loads((text / "manifest.json").read_text())["run"]
    assert manifest["arguments"]["interaction_budget"] == 0
    assert len(manifest["problems"]["products"]) == len(manifest["prompt"]) == len(manifest["grader"]["sha256"]) == 64
    assert evaluate.main(["compare", str(code), str(text)]) == 0
    assert "   arguments.prompt: cir -> text\n" in capsys.readouterr().out


def test_a_killed_evaluation_goes_on_with_the_same_command_and_ends_the_same(tmp_path: Path, model: str) -> None:
    whole = evaluated(tmp_path, model)
    (path,) = tmp_path.rglob("samples.jsonl")
    path.write_bytes(path.read_bytes()[:-300])
    assert evaluated(tmp_path, model) == whole


def test_greedy_decoding_of_a_single_set_gives_the_same_samples_every_time(tmp_path: Path, model: str) -> None:
    greedy = ["--temperature", "1.0,products:0", "--num-samples", "2,products:1"]
    texts = [[row["turns"][0]["text"] for row in evaluated(tmp_path / n, model, *greedy)[1]] for n in ("a", "b")]
    assert texts[0] == texts[1]
    assert all(texts[0])


def test_a_model_without_a_chat_template_takes_prompts_as_they_are(tmp_path: Path) -> None:
    model = str(save_model(tmp_path / "model", template=None))
    summary, _ = evaluated(tmp_path / "runs", model, "--template", "raw")
    assert summary["sets"]["products"]["unjudged"] == 0


def test_variables_of_the_chat_template_are_used_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = "{% if thinking %}{{ raise_exception('I think') }}{% endif %}{{ messages[0].content }}"
    model = str(save_model(tmp_path / "model", template=template))
    evaluated(tmp_path / "runs", model)
    (manifest,) = (tmp_path / "runs").rglob("manifest.json")
    assert json.loads(manifest.read_text())["run"]["model"]["chat_template_kwargs"] == '{"enable_thinking": false}'
    other = ["--model", model, *SMALL, *SHORT, "--chat-template-kwargs", '{"thinking": true}', "--output"]
    assert "others: model.chat_template_kwargs: " in complaint(capsys, *other, tmp_path / "runs")
    assert evaluate.main([str(arg) for arg in (*other, tmp_path / "more")]) == 2
    assert "the variables {'thinking': True}, got: I think. Use " in capsys.readouterr().err.splitlines()[-1]


TWO_PROBLEMS = (
    '{"problem": "What is 1 + 1?", "answer": "2", "subject": "sums", "level": 1}\n'
    '{"problem": "What is 2 * 3?", "answer": "6", "subject": "products", "level": 2}\n'
)


@pytest.mark.parametrize("flags", [["--names"], ["--env.test-share", "1", "--env.problems"]])
def test_a_file_of_problems_is_evaluated_under_its_name(tmp_path: Path, model: str, flags: list[str]) -> None:
    problems = tmp_path / "mine.jsonl"
    problems.write_text(TWO_PROBLEMS)
    summary, rows = evaluated(tmp_path / "runs", model, *flags, str(problems))
    figures = summary["sets"][str(problems)]
    assert list(figures["by_subject"]) == ["products", "sums"]
    assert list(figures["by_level"]) == ["1", "2"]
    assert {row["answer"] for row in rows} == {"2", "6"}
    assert [row["metadata"] for row in rows[::2]] == [
        {"subject": "sums", "level": 1},
        {"subject": "products", "level": 2},
    ]


def test_a_file_that_is_trained_on_is_evaluated_on_its_held_out_problems(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = tmp_path / "mine.jsonl"
    problems.write_text(TWO_PROBLEMS)
    _, rows = evaluated(tmp_path / "runs", model, "--env.problems", str(problems))
    assert {row["answer"] for row in rows} == {"6"}
    assert "Problems: 1 problems of 'mine/test'; held out of 2.\n" in capsys.readouterr().out


def test_another_environment_is_evaluated_without_problems_of_ours(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.delitem(sys.modules, "another_environment", raising=False)  # so that it is registered
    summary, rows = evaluated(tmp_path, model, "--env.id", "another_environment:Vowels-v0")
    assert summary["sets"]["Vowels-v0"]["problems"] == 2
    assert len(rows) == 4
    assert all(row["terminated"] for row in rows if row["reward"] > 0)


def test_what_the_environment_gets_is_in_the_manifest(tmp_path: Path, model: str) -> None:
    evaluated(tmp_path, model, "--env.stateful", "--env.system-prompt", "Be brief.", "--env.packages", "tqdm")
    (path,) = tmp_path.rglob("manifest.json")
    arguments = json.loads(path.read_text())["run"]["arguments"]
    assert (arguments["stateful"], arguments["system_prompt"], arguments["packages"]) == (True, "Be brief.", ["tqdm"])
    assert (arguments["reward"], arguments["memory_limit_mb"]) == (None, 512)


def test_prompts_that_leave_no_room_are_reported_as_unjudged(tmp_path: Path, model: str) -> None:
    summary, _ = evaluated(tmp_path, model, "--max-model-len", "20")
    assert (summary["sets"]["products"]["unjudged"], summary["mean"]["avg"]) == (4, None)


@pytest.mark.skipif(not BENCHMARK_FILES.is_dir(), reason=f"no benchmark files in {BENCHMARK_FILES}")
def test_benchmarks_have_subjects_levels_and_pinned_problems(tmp_path: Path, model: str) -> None:
    args = [
        "--benchmarks",
        str(BENCHMARK_FILES),
        "--names",
        "MATH500",
        "--num-problems",
        "3",
        "--max-model-len",
        "1024",
    ]
    summary, rows = evaluated(tmp_path, model, *args)
    assert summary["sets"]["MATH500"]["by_level"]
    assert all(row["problem"] and row["subject"] and row["level"] for row in rows)


def test_a_stopped_evaluation_says_how_to_go_on(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agents.evaluation.runner.run", stop)
    assert evaluate.main(["--model", model]) == 130
    assert capsys.readouterr().err == "evaluate.py: stopped; the same command resumes from here.\n"


def test_help_does_not_load_what_is_slow() -> None:
    code = (
        "import contextlib, sys, evaluate\n"
        "with contextlib.suppress(SystemExit): evaluate.main(['quick', '--help'])\n"
        "print(sorted({'torch', 'transformers', 'sympy', 'cir_env'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--benchmarks" in done.stdout
    assert done.stdout.endswith("\n[]\n")


def test_the_list_has_every_name_and_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["list"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for name in (*BENCHMARKS, *protocols, *DATA_SETS, *GENERATORS, "text", "neutral", "hub:OWNER/NAME", ".parquet"):
        assert name in out
    assert "  AIME26                  30  no      AIME26.jsonl\n" in out


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_the_program_without_a_word() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "evaluate.py", "list"]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


# --------------------------------------------------------------------------------------------------------- bad input


def test_a_model_that_is_not_there(fails: Fails, tmp_path: Path) -> None:
    missing = tmp_path / "no" / "model"
    assert fails(model=missing) == (
        f"Expect `model` to be a folder, a GGUF file, 'tiny' or a hub name, got '{missing}': no such folder"
    )


def test_a_model_folder_without_tokenizer(fails: Fails, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_qwen2(64).save_pretrained(folder)
    assert fails(model=folder) == (
        "Expect a folder with config.json, a tokenizer and weights, as `save_pretrained` writes them: "
        f"{folder} has no tokenizer (tokenizer.json)"
    )


def test_a_model_without_a_chat_template(fails: Fails, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", template=None)
    assert fails(model=folder) == "Expect a tokenizer with a chat template, got one without: use `--template raw`."


def test_a_template_without_tools_is_refused_for_tool_calls(fails: Fails) -> None:
    assert fails("--env.dialect", "hermes") == (
        "Expect a chat template that presents tools for `--env.dialect hermes`, got one that drops them."
    )


def test_an_output_that_can_not_be_written_is_told_before_a_model_is_looked_for(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert fails("--output", tmp_path / "file" / "runs", model="missing") == (
        f"Expect `output` where {tmp_path}/file/runs/missing/code/samples.jsonl can be made, got '{tmp_path}/file'."
    )


def test_a_folder_of_benchmarks_that_is_not_there(fails: Fails, tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    assert fails("--benchmarks", folder).startswith(f"Expect a folder with benchmark files, got '{folder}'")


def test_a_benchmark_that_nobody_knows(fails: Fails, tmp_path: Path) -> None:
    assert fails("--benchmarks", tmp_path, "--names", "AIME99") == (
        f"Expect a benchmark's name, one of {', '.join(BENCHMARKS)}; got 'AIME99'."
    )


def test_a_benchmark_whose_file_is_missing(fails: Fails, tmp_path: Path) -> None:
    assert fails("--benchmarks", tmp_path, "--names", "AIME25") == (
        f"Expect AIME25.jsonl in the folder '{tmp_path}' for AIME25, got no .jsonl file."
    )


def test_a_benchmark_whose_file_is_empty(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "AIME25.jsonl").touch()
    assert fails("--benchmarks", tmp_path, "--names", "AIME25") == "Expect at least one problem in 'AIME25', got none."


def test_a_file_of_other_problems_in_place_of_a_benchmark(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "AIME25.jsonl").write_text('{"problem": "What is 1 + 1?", "solution": "\\\\boxed{2}"}\n')
    assert "results would not compare" in fails("--benchmarks", tmp_path, "--names", "AIME25")


def test_a_benchmarks_row_without_an_answer(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "AIME25.jsonl").write_text('{"problem": "What is 1 + 1?"}\n')
    error = fails("--benchmarks", tmp_path, "--names", "AIME25")
    assert error.startswith(f"{tmp_path}/AIME25.jsonl, line 1: Expect the answer in field 'solution', got a row with")


def test_benchmarks_without_their_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("CIR_BENCHMARKS", raising=False)
    error = complaint(capsys, "paper", "--model", "tiny")
    assert error.startswith("Expect a folder with the file of AIME24, or 'hub', got neither: name it (--benchmarks ")


def test_problems_that_nobody_knows(fails: Fails) -> None:
    error = fails("--env.problems", "produts")
    assert error.startswith("Expect `problems` to be ")
    assert error.endswith("'produts'. Did you mean 'products'?")


def test_an_empty_file_of_problems(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").touch()
    assert fails("--env.problems", tmp_path / "mine.jsonl") == "Expect at least one problem in 'mine', got none."


def test_a_bad_row_of_problems(fails: Fails, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"problem": "What is 1 + 1?", "answer": "2"}\n{"problem": "What is 2 + 2?"}\n')
    assert fails("--env.problems", path).startswith(f"{path}, line 2: Expect")


def test_a_prompt_that_nobody_knows(fails: Fails) -> None:
    assert fails("--env.prompt", "ci").endswith("or a function, got 'ci'. Did you mean 'cir'?")


def test_a_number_of_samples_for_a_set_that_is_not_played(fails: Fails) -> None:
    assert fails("--num-samples", "2,sums:4") == "Expect `num_samples` to speak of products, got 'sums'."


def test_other_settings_than_those_of_the_run_that_is_there(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(tmp_path, model)
    (path,) = tmp_path.rglob("samples.jsonl")
    before = path.read_bytes()
    args = ["--model", model, "--output", str(tmp_path), *SMALL, *SHORT, "--seed", "1"]
    assert complaint(capsys, *args) == (
        f"Expect the settings of the run in {path.parent}, got others: sampling.seed: 0 -> 1. Choose another --output."
    )
    assert path.read_bytes() == before


def test_a_line_in_the_middle_that_is_no_sample(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(tmp_path, model)
    (path,) = tmp_path.rglob("samples.jsonl")
    path.write_text("{}\n" + path.read_text())
    before = path.read_bytes()
    args = ["--model", model, "--output", str(tmp_path), *SMALL, *SHORT]
    assert complaint(capsys, *args) == f"{path}, line 1: Expect a sample's JSON object, got b'{{}}'."
    assert path.read_bytes() == before


def test_runs_that_do_not_compare_or_have_too_few_samples(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(tmp_path / "a", model)
    evaluated(tmp_path / "b", model, "--num-problems", "1")
    (one,), (other,) = (tmp_path / "a").glob("*/code"), (tmp_path / "b").glob("*/code")
    assert complaint(capsys, "compare", one, other) == (
        f"Expect two runs on the same problems, got 2 of products in {one} and 1 of products in {other}."
    )
    assert (
        complaint(capsys, "report", one, "--k", "3")
        == "Expect `k` from 1 to 2, the number of samples per problem, got 3."
    )
    (one / "samples.jsonl").write_text("")
    assert "got 0 of 4 samples. Resume with: python evaluate.py --model" in complaint(capsys, "compare", one, other)
    assert complaint(capsys, "report", tmp_path / "none").startswith("Expect a run's folder")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--model"),
        (["--model", "tiny", "--nonsense", "1"], "--nonsense"),
        (["--model", "tiny", "--top-p", "2"], "Expect `top_p` in (0, 1], got 2.0."),
        (["--model", "tiny", "--dtype", "int4"], "--dtype"),
        (["--model", "tiny", "--limit", "3"], "Expect a flag, got `--limit`. Did you mean `--num-problems`?"),
        (["report"], "Expect `runs` to name at least one folder, got ()."),
    ],
)
def test_flags_that_can_not_be_read_are_named(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(args)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
