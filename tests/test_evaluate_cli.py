"""The program evaluate.py: what it prints and writes, and what it says to bad input."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents_fakes import byte_tokenizer, tiny_qwen2

import evaluate
from cir_env.benchmarks import BENCHMARKS

ROOT = Path(evaluate.__file__).parent
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
        capsys.readouterr()  # what making the input printed
        output = tmp_path / "new" / "report.json"
        code = evaluate.main(["--model", str(model), "--output", str(output), *SMALL, *SHORT, *map(str, args)])
        error = capsys.readouterr().err
        assert code == 2
        assert error.startswith("evaluate.py: ")
        assert error.count("\n") == 1
        assert not output.parent.exists()
        return error.removeprefix("evaluate.py: ").removesuffix("\n")

    return run


def evaluated(output: Path, model: str, *args: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the program; return its report and its samples."""
    assert evaluate.main(["--model", model, "--output", str(output), *SMALL, *SHORT, *args]) == 0
    samples = output.with_suffix(".samples.jsonl").read_text().splitlines()
    return json.loads(output.read_text()), [json.loads(line) for line in samples]


# ---------------------------------------------------------------------------------------------------------- it works


def test_held_out_problems_are_evaluated_with_a_table_a_report_and_samples(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report, samples = evaluated(tmp_path / "report.json", model)
    out = capsys.readouterr().out
    assert "| set      | problems |  k | avg@k | pass@k |" in out
    assert "| products |        2 |  2 |   0.0 |    0.0 |" in out
    assert f"Report: {tmp_path}/report.json\nSamples: {tmp_path}/report.samples.jsonl\n" in out
    assert {"avg@2", "pass@1", "pass@2", "accuracy"} <= report["sets"]["products"]["figures"].keys()
    assert report["config"]["model"] == model
    assert sorted(row["problem_index"] for row in samples) == [0, 0, 1, 1]


def test_greedy_decoding_gives_the_same_samples_every_time(tmp_path: Path, model: str) -> None:
    greedy = ["--temperature", "0", "--num-samples", "1"]
    texts = [
        [
            row["turns"][0]["text"]
            for row in sorted(evaluated(tmp_path / name, model, *greedy)[1], key=lambda r: r["problem_index"])
        ]
        for name in ("a.json", "b.json")
    ]
    assert texts[0] == texts[1]
    assert all(texts[0])


def test_the_chain_of_thought_arm_needs_two_flags(tmp_path: Path, model: str) -> None:
    report, _ = evaluated(tmp_path / "report.json", model, "--prompt", "text", "--interaction-budget", "0")
    assert (report["config"]["prompt"], report["config"]["interaction_budget"]) == ("text", 0)
    assert report["sets"]["products"]["figures"]["tools/call_frequency"] == 0


def test_a_model_without_a_chat_template_takes_prompts_as_they_are(tmp_path: Path) -> None:
    model = str(save_model(tmp_path / "model", template=None))
    report, _ = evaluated(tmp_path / "report.json", model, "--template", "raw")
    assert report["sets"]["products"]["unjudged"] == 0


def test_a_file_of_problems_is_evaluated_under_its_name(tmp_path: Path, model: str) -> None:
    problems = tmp_path / "mine.jsonl"
    problems.write_text(
        '{"problem": "What is 1 + 1?", "answer": "2", "subject": "sums"}\n'
        '{"problem": "What is 2 * 3?", "answer": "6", "subject": "products"}\n'
    )
    report, samples = evaluated(tmp_path / "report.json", model, "--problems", str(problems))
    assert report["sets"][str(problems)]["accuracy_by_subject"] == {"products": 0.0, "sums": 0.0}
    assert {row["answer"] for row in samples} == {"2", "6"}


def test_prompts_that_leave_no_room_are_reported_as_unjudged(tmp_path: Path, model: str) -> None:
    report, _ = evaluated(tmp_path / "report.json", model, "--max-model-len", "20")
    assert report["sets"]["products"]["unjudged"] == 4
    assert report["mean"] == {}


def test_a_stopped_evaluation_says_where_its_samples_are(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "run", stop)
    assert evaluate.main(["--model", model, "--output", str(tmp_path / "report.json")]) == 130
    assert (
        capsys.readouterr().err == f"evaluate.py: stopped; the samples so far are in {tmp_path}/report.samples.jsonl.\n"
    )


def test_help_does_not_load_what_is_slow() -> None:
    code = (
        "import contextlib, sys, evaluate\n"
        "with contextlib.suppress(SystemExit): evaluate.main(['--help'])\n"
        "print(sorted({'torch', 'transformers', 'sympy', 'cir_env'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--benchmarks" in done.stdout
    assert done.stdout.endswith("\n[]\n")


# --------------------------------------------------------------------------------------------------------- bad input


def test_a_model_that_is_not_there(fails: Fails, tmp_path: Path) -> None:
    missing = tmp_path / "no" / "model"
    assert fails(model=missing) == (
        f"Expect `model` to be a folder, 'tiny' or a hub name, got '{missing}': no such folder"
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


def test_a_folder_of_benchmarks_that_is_not_there(fails: Fails, tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    assert fails("--benchmarks", folder) == f"Expect a folder with benchmark files, got '{folder}', which is none."


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


@pytest.mark.parametrize("flags", [("--names", "AIME24"), ("--limit", "3")])
def test_flags_for_benchmarks_without_benchmarks(fails: Fails, flags: tuple[str, str]) -> None:
    assert fails(*flags) == "Expect `names` and `limit` beside `benchmarks`: add --benchmarks FOLDER."


def test_problems_that_nobody_knows(fails: Fails) -> None:
    error = fails("--problems", "produts")
    assert error.startswith("Expect `problems` to be ")
    assert error.endswith("'produts'.")


def test_an_empty_file_of_problems(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").touch()
    assert fails("--problems", tmp_path / "mine.jsonl") == "Expect at least one problem in 'mine', got none."


def test_a_bad_row_of_problems(fails: Fails, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"problem": "What is 1 + 1?", "answer": "2"}\n{"problem": "What is 2 + 2?"}\n')
    assert fails("--problems", path).startswith(f"{path}, line 2: Expect")


def test_a_prompt_that_nobody_knows(fails: Fails) -> None:
    assert fails("--prompt", "ci").endswith("or a function, got 'ci'. Did you mean 'cir'?")


def test_a_number_of_samples_for_a_set_that_is_not_played(fails: Fails) -> None:
    assert fails("--num-samples", "2,AIME24:4") == "Expect `num_samples` to speak of products, got 'AIME24'."


def test_a_report_that_is_there_already(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "report.json"
    output.write_text("precious")
    assert evaluate.main(["--model", model, "--output", str(output)]) == 2
    assert capsys.readouterr().err == (
        f"evaluate.py: Expect `output` to be a new file, but {output} is there: choose another --output.\n"
    )
    assert output.read_text() == "precious"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--model"),
        (["--model", "tiny", "--nonsense", "1"], "--nonsense"),
        (["--model", "tiny", "--top-p", "2"], "Expect `top_p` in (0, 1], got 2.0."),
        (["--model", "tiny", "--dtype", "int4"], "--dtype"),
    ],
)
def test_flags_that_can_not_be_read_are_named(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(args)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
