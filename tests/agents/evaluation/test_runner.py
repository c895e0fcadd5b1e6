"""Episodes of an evaluation, runs of several models, arms and sets, and how a killed run resumes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from agents_fakes import CallEnv, FakeEngine, byte_tokenizer, pool, scripted, small_chat, trajectory
from eval_fakes import open_fakes
from fakes import CODE, FEEDBACK, fakes, products

from agents.config.evaluation import EvalConfig, EvalEnvConfig
from agents.core.chat import Chat
from agents.core.errors import ConfigError, RunError
from agents.core.samples import Sample, SampleFile, transcript
from agents.core.types import Trajectory, Turn
from agents.engines.base import Sampling
from agents.evaluation.metrics import summarise
from agents.evaluation.run_folder import Run, read_run
from agents.evaluation.runner import _Record, run, run_own_problems
from agents.rollout.evaluate import Evaluation, evaluate
from agents.rollout.source import LocalSource
from cir_env.episode.prompts import PROMPTS, QUESTION

Write = Callable[[int, int, int], str]


def sampled(group_id: int, *outcomes: bool | None, **info: str) -> list[Trajectory]:
    """Trajectories of one problem: right, wrong, or (None) invalid."""
    return [
        trajectory(
            group_id=group_id,
            reward=0.0 if outcome is None else 1.0 if outcome else -1.0,
            reward_valid=outcome is not None,
            turns=(Turn(text="text", feedback="", finish_reason="stop", info=info),),
        )
        for outcome in outcomes
    ]


def scores(write: Write, **changes: Any) -> Evaluation:
    """Evaluate a scripted policy in the environment of calls."""
    chat = small_chat()
    arguments = {"num_problems": 3, "num_samples": 2} | changes
    with pool() as envs:
        return evaluate(envs, LocalSource(FakeEngine(chat, write), chat), Sampling(max_tokens=60), **arguments)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder that looks like a model folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "a.safetensors"):
        (folder / name).write_text("{}")
    return str(folder)


@pytest.fixture
def play(tmp_path: Path, model: str) -> Callable[..., list[Run]]:
    """Evaluates a scripted policy in `tmp_path / "runs"` and returns the runs."""

    def played(write: Write, **changes: Any) -> list[Run]:
        chat = Chat(byte_tokenizer(), "raw")
        values: dict[str, Any] = {"model": (model,), "num_samples": "2", "max_num_seqs": 4}
        values |= {"max_completion_length": 200, "output": tmp_path / "runs"}
        sets = changes.pop("sets", {"products": products()})
        open_envs = changes.pop("open_envs", open_fakes())
        folders = run(
            EvalConfig(**(values | changes)),
            sets,
            command="again",
            open_envs=open_envs,
            load=lambda config, path: (FakeEngine(chat, write, max_model_len=2000), chat),
            log=lambda line: None,
        )
        return [read_run(folder) for folder in folders]

    return played


def rows_of(run: Run, name: str = "products") -> list[Sample]:
    return [each for problem in run.samples[name] for each in problem]


def test_accuracy_by_subject_is_over_judged_samples() -> None:
    trajectories = [*sampled(0, True, None, subject="gcd"), *sampled(1, True, False, subject="primes")]
    assert Evaluation(trajectories=tuple(trajectories)).accuracy_by("subject") == {"gcd": 1.0, "primes": 0.5}


def test_a_transcript_of_any_environment_is_json_serializable() -> None:
    (plain,) = sampled(0, True)
    assert json.loads(json.dumps(transcript(plain)))["correct"] is True


# ---------------------------------------------------------------------------------------------------------- episodes


def test_every_problem_gets_the_same_number_of_episodes() -> None:
    outcome = scores(lambda request, turn, seed: "a" * (1 + 40 * (request % 2)))  # some are much longer
    assert [t.group_id for t in outcome.trajectories] == [0, 0, 1, 1, 2, 2]
    assert [t.problem_id for t in outcome.trajectories] == ["0", "0", "1", "1", "2", "2"]


def test_the_same_seed_gives_the_same_samples_and_another_seed_others() -> None:
    def texts(seed: int) -> list[str]:
        return [t.text for t in scores(lambda request, turn, stream: f"{stream % 10**9}", seed=seed).trajectories]

    assert texts(0) == texts(0)
    assert len({*texts(0), *texts(1)}) == 12


def test_the_samples_of_a_problem_do_not_depend_on_how_many_there_are() -> None:
    def texts(num_samples: int) -> list[str]:
        outcome = scores(lambda request, turn, stream: f"{stream % 10**9}", num_samples=num_samples)
        return [t.text for t in outcome.trajectories]

    assert texts(1) == texts(3)[::3]


def test_reset_options_reach_the_environment() -> None:
    calls = [len(scores(scripted("`\n"), options={"interaction_budget": n}).trajectories[0].turns) - 1 for n in (0, 2)]
    assert calls == [0, 2]


def test_every_trajectory_is_handed_over_as_it_ends() -> None:
    seen: list[Trajectory] = []
    outcome = scores(scripted("a"), on_end=seen.append)
    assert sorted(seen, key=lambda t: (t.group_id, t.sample)) == list(outcome.trajectories)


def test_too_many_problems_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"Expect at most 8 problems, got num_problems=9."):
        scores(scripted("a"), num_problems=1 + len(CallEnv.problems))


def test_only_the_wanted_episodes_are_played_and_they_stay_the_same() -> None:
    def write(request: int, turn: int, stream: int) -> str:
        return f"{stream % 10**9}"

    whole = scores(write).trajectories
    part = scores(write, wanted={(0, 1), (2, 0)}.__contains__).trajectories
    assert [(t.group_id, t.sample, t.text) for t in part] == [
        (t.group_id, t.sample, t.text) for t in whole if (t.group_id, t.sample) in {(0, 1), (2, 0)}
    ]


# -------------------------------------------------------------------------------------------------------------- runs

Play = Callable[..., list[Run]]


def test_code_that_gives_the_answer_scores_and_a_wrong_answer_does_not(play: Play) -> None:
    (outcome,) = play(scripted(CODE, r"\boxed{6}"))  # right for the first of five problems
    metrics = summarise(outcome)["sets"]["products"]
    assert (metrics["avg"]["value"], metrics["pass_at_k"]["2"]["value"]) == (0.2, 0.2)
    assert metrics["rates"]["used_code"]["value"] == 1.0


def test_every_set_has_its_own_number_of_samples_and_temperature(play: Play) -> None:
    sets = {"one": products(2), "two": products(3)}
    (outcome,) = play(scripted(r"\boxed{6}"), sets=sets, num_samples="3,two:1", temperature="0.7,two:0")
    assert {name: [len(rows) for rows in problems] for name, problems in outcome.samples.items()} == {
        "one": [3, 3],
        "two": [1, 1, 1],
    }
    assert [each["temperature"] for each in outcome.about["sets"].values()] == [0.7, 0.0]


def test_each_sample_is_written_with_all_fields(play: Play) -> None:
    (outcome,) = play(scripted(CODE, r"It is \boxed{6}."), sets={"products": products(1)}, num_samples="1")
    assert rows_of(outcome) == [
        {
            "set": "products",
            "problem_index": 0,
            "sample": 0,
            "problem_id": "product-2",
            "subject": "products",
            "level": None,
            "metadata": {},
            "files": [],
            "problem": "What is 2 * 3?",
            "turns": [
                {"text": CODE, "feedback": FEEDBACK, "status": "ok", "finish_reason": "boundary"},
                {"text": r"It is \boxed{6}.", "feedback": "", "status": None, "finish_reason": "stop"},
            ],
            "predicted": "6",
            "answer": "6",
            "reason": "compared as strings",
            "reward": 1.0,
            "reward_valid": True,
            "correct": True,
            "terminated": True,
            "truncated": False,
            "void": False,
            "interactions": 1,
            "sampled_tokens": len(CODE + r"It is \boxed{6}.") + 1,
            "feedback_tokens": len(FEEDBACK),
            "boundary_cuts": 0,
            "prompt": PROMPTS["cir"].text.replace(QUESTION, "What is 2 * 3?"),
        }
    ]


@pytest.mark.parametrize(
    ("arm", "error", "calls"),
    [
        ("code", "ZeroDivisionError: division by zero", 2),
        ("neutral", "The code did not run to its end.", 2),
        ("code:1", "ZeroDivisionError: division by zero", 1),
        ("neutral:1", "The code did not run to its end.", 1),
        ("text", "", 0),
    ],
)
def test_an_arm_restricts_the_use_of_code(play: Play, arm: str, error: str, calls: int) -> None:
    failing = "```python\n1 / 0\n```\n"
    (outcome,) = play(scripted(failing, failing, r"\boxed{6}"), sets={"products": products(1)}, arms=(arm,))
    feedbacks = [turn["feedback"] for turn in rows_of(outcome)[0]["turns"]]
    assert feedbacks == [f"```output\n{error}\n```\n"] * calls + [""]
    assert outcome.about["arguments"]["prompt"] == ("text" if arm == "text" else "cir")


def test_each_arm_is_a_separate_run(play: Play) -> None:
    runs = play(scripted("a"), arms=("code", "text", "code:8"))
    assert [run.folder.name for run in runs] == ["code", "text", "code-8"]
    assert [run.about["arguments"]["interaction_budget"] for run in runs] == [5, 0, 8]


def test_each_model_is_a_separate_named_run(play: Play, model: str, tmp_path: Path) -> None:
    other = tmp_path / "trained"
    other.mkdir()
    for path in Path(model).iterdir():
        (other / path.name).write_bytes(path.read_bytes() + b" ")
    base, trained = play(scripted("a"), model=(model, str(other)), num_samples="1")
    assert base.about["model"]["revision"] != trained.about["model"]["revision"]
    assert base.folder != trained.folder
    assert trained.name == f"{other} (code)"


def test_the_same_model_twice_is_refused(play: Play, model: str) -> None:
    with pytest.raises(ConfigError, match=r"a folder of its own, got \['.* code', '.* code'\]"):
        play(scripted("a"), arms=("code", "code"))


def test_a_policy_that_writes_only_backticks_is_evaluated(play: Play) -> None:
    (outcome,) = play(scripted("`" * 300))
    assert all(each["truncated"] and not each["correct"] for each in rows_of(outcome))


def test_a_failing_sandbox_makes_samples_invalid(play: Play) -> None:
    broken = fakes()
    broken["sandbox"].broken = True
    (outcome,) = play(scripted(CODE), open_envs=open_fakes(**broken))
    metrics = summarise(outcome)["sets"]["products"]
    assert (metrics["unjudged"], metrics["avg"], metrics["rates"]["invalid"]["value"]) == (10, None, 1.0)


@pytest.mark.parametrize("what", ["num_samples", "temperature"])
def test_settings_for_an_unknown_set_are_rejected(play: Play, what: str) -> None:
    with pytest.raises(ConfigError, match=f"Expect `{what}` to speak of products, got 'sums'."):
        play(scripted("a"), **{what: "1,sums:1"})


# ------------------------------------------------------------------------------------------------ other environments


class Endless(gymnasium.Env[str, str]):
    """A text environment without a problem set: every answer is right."""

    action_space = observation_space = gymnasium.spaces.Text(10_000)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        return f"{seed}: ", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", 1.0, True, False, {}


PlayOwn = Callable[..., Run]


@pytest.fixture
def play_own(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlayOwn:
    """Evaluates a scripted policy in an environment that is not CodeMath and returns the run."""
    for name, made in (("Call-v0", CallEnv), ("Endless-v0", Endless)):
        spec = gymnasium.envs.registration.EnvSpec(name, made, disable_env_checker=True)
        monkeypatch.setitem(gymnasium.registry, name, spec)

    def played(env_id: str, write: Write, **changes: Any) -> Run:
        chat = small_chat()
        values: dict[str, Any] = {"model": (model,), "num_samples": "2", "max_num_seqs": 4, "max_model_len": 96}
        values |= {"max_completion_length": 60, "output": tmp_path / "runs", "template": "raw"}
        values["env"] = EvalEnvConfig(id=env_id, **changes.pop("env", {}))
        (folder,) = run_own_problems(
            EvalConfig(**(values | changes)),
            load=lambda config, path: (FakeEngine(chat, write), chat),
            log=lambda line: None,
        )
        return read_run(folder)

    return played


def test_another_environment_plays_its_own_problems(play_own: PlayOwn) -> None:
    outcome = play_own("Call-v0", scripted("a"), num_problems=3)
    assert [row["problem_id"] for row in rows_of(outcome, "Call-v0")] == ["0", "0", "1", "1", "2", "2"]
    assert summarise(outcome)["sets"]["Call-v0"]["avg"]["value"] == 1.0
    assert outcome.about["environment"] == {"id": "Call-v0", "problems": "products"}


@pytest.mark.parametrize("num_problems", [None, 50])
def test_there_are_no_more_of_them_than_it_has(play_own: PlayOwn, num_problems: int | None) -> None:
    outcome = play_own("Call-v0", scripted("a"), num_problems=num_problems)
    assert outcome.about["sets"]["Call-v0"]["problems"] == len(CallEnv.problems)


@pytest.mark.parametrize(("arm", "calls"), [("code", 1), ("code:2", 2), ("text", 0)])
def test_the_budget_of_an_arm_reaches_another_environment(play_own: PlayOwn, arm: str, calls: int) -> None:
    outcome = play_own("Call-v0", scripted("`\n"), env={"interaction_budget": 1}, arms=(arm,), num_problems=1)
    assert [len(row["turns"]) - 1 for row in rows_of(outcome, "Call-v0")] == [calls, calls]


def test_an_environment_without_a_problem_set_plays_one_problem_for_each_seed(play_own: PlayOwn) -> None:
    outcome = play_own("Endless-v0", scripted("a"), num_problems=3)
    assert len(outcome.samples["Endless-v0"]) == 3
    with pytest.raises(ConfigError) as caught:
        play_own("Endless-v0", scripted("a"))
    assert str(caught.value) == (
        "Expect `num_problems` for 'Endless-v0', which has no problem set: add --num-problems."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("AIME24",)}, "Expect `names` unset beside the environment 'Call-v0', got ('AIME24',)."),
        (
            {"arms": ("neutral",)},
            "Expect `arms` of an environment with the argument `error_format`, which 'Call-v0' lacks, got 'neutral'.",
        ),
        (
            {"arms": ("text",), "text_prompt": "text_one_shot"},
            "Expect `arms` of an environment with the argument `prompt`, which 'Call-v0' lacks, got 'text'.",
        ),
        (
            {"env": {"stateful": True}},
            "Expect only arguments that the environment 'Call-v0' accepts, got `env.stateful`.",
        ),
    ],
)
def test_what_another_environment_lacks_is_refused(play_own: PlayOwn, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        play_own("Call-v0", scripted("a"), **changes)
    assert str(caught.value) == message


# ------------------------------------------------------------------------------------------- stopped, killed, gone on


def write_by_seed(request: int, turn: int, seed: int) -> str:
    return rf"{seed} \boxed{{{6 if seed % 3 else 7}}}"


def stop_at(count: int) -> Write:
    """Samples by the seed, and stops the evaluation at a given request."""

    def write(request: int, turn: int, seed: int) -> str:
        if request == count:
            raise KeyboardInterrupt
        return write_by_seed(request, turn, seed)

    return write


def test_a_resumed_run_ends_with_the_same_samples_and_metrics(play: Play, tmp_path: Path) -> None:
    (whole,) = play(write_by_seed, output=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        play(stop_at(7))
    (path,) = (tmp_path / "runs").rglob("samples.jsonl")
    before = path.read_text()
    assert 0 < before.count("\n") < 10
    (gone_on,) = play(write_by_seed)
    assert path.read_text().startswith(before)
    assert gone_on.samples == whole.samples
    assert summarise(gone_on) == summarise(whole)
    assert len(json.loads((path.parent / "manifest.json").read_text())["sessions"]) == 2


@pytest.mark.parametrize("cut", [1, 40, 700])
def test_an_incomplete_line_of_a_killed_run_is_dropped_and_played_again(play: Play, tmp_path: Path, cut: int) -> None:
    (whole,) = play(write_by_seed)
    (path,) = (tmp_path / "runs").rglob("samples.jsonl")
    path.write_bytes(path.read_bytes()[:-cut])
    (again,) = play(write_by_seed)
    assert again.samples == whole.samples
    assert path.read_text().count("\n") == 10


def test_every_sampling_parameter_reaches_the_engine(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sampling] = []
    submit = FakeEngine.submit

    def watched(self: FakeEngine, request_id: int, token_ids: Any, sampling: Sampling, *args: Any, **more: Any) -> None:
        seen.append(sampling)
        submit(self, request_id, token_ids, sampling, *args, **more)

    monkeypatch.setattr(FakeEngine, "submit", watched)
    play(write_by_seed, temperature="0.5", top_p=0.9, top_k=20, min_p=0.1)
    assert {(each.temperature, each.top_p, each.top_k, each.min_p) for each in seen} == {(0.5, 0.9, 20, 0.1)}


def test_a_complete_run_loads_no_model(play: Play) -> None:
    (whole,) = play(write_by_seed)
    (again,) = play(stop_at(0))
    assert again.samples == whole.samples


def test_a_run_with_other_settings_is_not_resumed(play: Play, tmp_path: Path, model: str) -> None:
    play(write_by_seed)
    (path,) = (tmp_path / "runs").rglob("samples.jsonl")
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"got others: sampling.top_p: 0.95 -> 1.0; sampling.seed: 0 -> 1. Ch"):
        play(write_by_seed, seed=1, top_p=1.0)
    with pytest.raises(RunError, match=r"got others: sampling.top_k: 0 -> 20; sampling.min_p: 0.0 -> 0.1; sampling.te"):
        play(write_by_seed, top_k=20, min_p=0.1, tensor_parallel_size=2)
    (Path(model) / "a.safetensors").write_text("other weights")
    with pytest.raises(RunError, match=r"got others: model.revision: sha256 .* -> sha256"):
        play(write_by_seed)
    assert path.read_bytes() == before


def test_a_run_of_an_earlier_version_is_not_gone_on_with(play: Play, tmp_path: Path) -> None:
    play(write_by_seed)
    (path,) = (tmp_path / "runs").rglob("manifest.json")
    manifest = json.loads(path.read_text())
    earlier = ("prompt", "interaction_budget", "time_limit_s", "max_output_chars", "error_format", "observation")
    arguments = manifest["run"]["arguments"]
    manifest["run"]["arguments"] = {name: arguments[name] for name in (*earlier, "max_transcript_chars")}
    path.write_text(json.dumps(manifest))
    with pytest.raises(RunError) as caught:
        play(write_by_seed)
    assert str(caught.value) == (
        f"The run in {path.parent} was begun by an earlier version, whose manifest has other fields: finish it with "
        "that version, or choose another --output."
    )


def test_two_processes_do_not_write_to_one_run(play: Play) -> None:
    def again(request: int, turn: int, seed: int) -> str:
        return play(write_by_seed)[0].name

    with pytest.raises(RunError, match="to be unused, but another evaluation is writing to it"):
        play(again)


def test_progress_is_finished_problems_and_accuracy_and_without_a_terminal_some_lines(tmp_path: Path) -> None:
    lines: list[str] = []
    places = [("set", problem, sample) for problem in range(3) for sample in range(2)]
    with SampleFile(tmp_path / "samples.jsonl") as file:
        record = _Record(file, places)
        assert record.progress() == "0/3 problems"
        with record.bar("set", lines.append):
            for problem, outcomes in enumerate([(True, True), (False, None), (True,)]):
                for played in sampled(problem, *outcomes):
                    record.add("set", played)
        assert record.progress() == "2/3 problems, accuracy 66.7% [20.8, 93.9]"
    assert lines[-1].endswith(" of 6 samples, 2/3 problems, accuracy 66.7% [20.8, 93.9]")
