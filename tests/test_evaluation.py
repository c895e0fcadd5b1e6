"""Scores of a set of problems, evaluations of several sets, and how they are put into words."""

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from agents_fakes import CallEnv, FakeEngine, byte_tokenizer, pool, scripted, small_chat, trajectory
from fakes import CODE, FEEDBACK, fakes, make, products

from agents import report
from agents.chat import Chat
from agents.config import ConfigError
from agents.engines.base import Sampling
from agents.envs import EnvPool, ThreadedPool
from agents.evaluation import EvalConfig, Evaluation, evaluate, pass_at_k, run
from agents.samples import best_and_worst, transcript
from agents.types import Trajectory, Turn

Write = Callable[[int, int, int], str]
ANSWERS = [r"\boxed{6}", r"\boxed{12}", r"\boxed{20}", r"\boxed{30}", r"\boxed{42}"]


def sampled(group_id: int, *outcomes: bool | None, **info: str) -> list[Trajectory]:
    """Trajectories of one problem: right, wrong, or (None) spoilt by a fault of ours."""
    return [
        trajectory(
            group_id=group_id,
            reward=0.0 if outcome is None else 1.0 if outcome else -1.0,
            reward_valid=outcome is not None,
            turns=(Turn(text="text", feedback="", finish_reason="stop", info=info),),
        )
        for outcome in outcomes
    ]


def evaluation(*problems: list[Trajectory]) -> Evaluation:
    return Evaluation(num_samples=max(map(len, problems)), trajectories=tuple(t for p in problems for t in p))


def scores(write: Write, **changes: Any) -> Evaluation:
    """The evaluation of a scripted policy in the environment of calls."""
    chat = small_chat()
    arguments = {"num_problems": 3, "num_samples": 2} | changes
    with pool() as envs:
        return evaluate(envs, FakeEngine(chat, write), chat, Sampling(max_tokens=60), **arguments)


def open_fakes(**fake: Any) -> Callable[..., EnvPool]:
    """What opens environments that start no process."""
    fake = fake or fakes()

    def open_envs(num_envs: int, **arguments: Any) -> EnvPool:
        return ThreadedPool(lambda: make(**(fake | arguments | {"sandbox": fake["sandbox"]})), num_envs)

    return open_envs


def played(tmp_path: Path, write: Write, **changes: Any) -> tuple[dict[str, Evaluation], list[dict[str, Any]]]:
    """What an evaluation of one or more sets returns, and the samples that it wrote."""
    chat = Chat(byte_tokenizer(), "raw")
    values: dict[str, Any] = {"model": "none", "num_samples": "2", "max_num_seqs": 4, "max_completion_length": 200}
    sets = changes.pop("sets", {"products": products()})
    engine = FakeEngine(chat, write, max_model_len=2000)
    samples = tmp_path / "folder" / "samples.jsonl"

    outcome = run(
        EvalConfig(**(values | changes)), sets, samples=samples, open_envs=open_fakes(), load=lambda _: (engine, chat)
    )
    return outcome, [json.loads(line) for line in samples.read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------------ scores


@pytest.mark.parametrize(("n", "c"), [(1, 0), (1, 1), (4, 1), (6, 2), (6, 6), (7, 3)])
def test_pass_at_k_is_the_share_of_k_subsets_that_hold_a_correct_sample(n: int, c: int) -> None:
    outcomes = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        share = fmean(any(subset) for subset in itertools.combinations(outcomes, k))
        assert pass_at_k(n, c, k) == pytest.approx(share)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 5, 2), (4, 1, 0), (4, -1, 2)])
def test_pass_at_k_refuses_numbers_that_make_no_sense(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"Expect 1 <= k <= n and 0 <= c <= n, got n={n}, c={c}, k={k}."):
        pass_at_k(n, c, k)


def test_the_figures_average_over_problems() -> None:
    figures = evaluation(sampled(0, True, True, False, False), sampled(1, False, False, False, False)).figures()
    assert (figures["avg@4"], figures["pass@1"]) == (0.25, 0.25)
    assert figures["pass@2"] == pytest.approx((5 / 6 + 0) / 2)
    assert figures["pass@4"] == 0.5


def test_pass_at_k_is_given_for_powers_of_two_and_the_number_of_samples() -> None:
    figures = evaluation(sampled(0, *[True] * 6)).figures()
    assert [name for name in figures if name.startswith("pass@")] == ["pass@1", "pass@2", "pass@4", "pass@6"]


def test_samples_that_we_spoilt_count_neither_way() -> None:
    spoilt = evaluation(sampled(0, True, None), sampled(1, False, False), sampled(2, None, None))
    assert spoilt.correct_by_problem() == [(1, 1), (2, 0), (0, 0)]
    figures = spoilt.figures()
    assert figures["avg@2"] == 0.5
    assert figures["pass@2"] == 0.0  # of the second problem alone: the first has one sample only
    assert figures["episodes/invalid_ratio"] == 0.5


def test_nothing_but_spoilt_samples_has_no_scores() -> None:
    figures = evaluation(sampled(0, None, None)).figures()
    assert not [name for name in figures if "@" in name or name == "accuracy"]


def test_accuracy_by_subject_is_over_the_samples_that_could_be_judged() -> None:
    by_subject = evaluation(
        sampled(0, True, None, subject="gcd"), sampled(1, True, False, subject="primes")
    ).accuracy_by("subject")
    assert by_subject == {"gcd": 1.0, "primes": 0.5}


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


def test_more_problems_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expect at most 8 problems, got num_problems=9."):
        scores(scripted("a"), num_problems=1 + len(CallEnv.problems))


# ------------------------------------------------------------------------------------------------------ several sets


def test_code_that_gives_the_answer_scores_and_a_wrong_answer_does_not(tmp_path: Path) -> None:
    outcome, _ = played(tmp_path, scripted(CODE, r"\boxed{6}"))  # right for the first of five problems
    figures = outcome["products"].figures()
    assert (figures["avg@2"], figures["pass@2"], figures["tools/use_ratio"]) == (0.2, 0.2, 1.0)


def test_every_set_has_its_own_number_of_samples(tmp_path: Path) -> None:
    sets = {"one": products(2), "two": products(3)}
    outcome, rows = played(tmp_path, scripted(r"\boxed{6}"), sets=sets, num_samples="3,two:1")
    assert [(e.num_samples, len(e.trajectories)) for e in outcome.values()] == [(3, 6), (1, 3)]
    assert [row["set"] for row in rows] == ["one"] * 6 + ["two"] * 3


def test_each_sample_is_written_with_all_that_a_reader_wants(tmp_path: Path) -> None:
    _, rows = played(tmp_path, scripted(CODE, r"It is \boxed{6}."), sets={"products": products(1)}, num_samples="1")
    assert rows == [
        {
            "set": "products",
            "problem_index": 0,
            "sample": 0,
            "problem_id": "product-2",
            "subject": "products",
            "level": None,
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
        }
    ]


def test_samples_are_on_disk_while_the_evaluation_goes_on(tmp_path: Path) -> None:
    def stop(request_id: int, turn: int, seed: int) -> str:
        if request_id == 8:  # the last of two in flight
            raise KeyboardInterrupt
        return r"\boxed{6}"

    with pytest.raises(KeyboardInterrupt):
        played(tmp_path, stop, max_num_seqs=2)
    lines = (tmp_path / "folder" / "samples.jsonl").read_text().splitlines()
    assert 6 <= len([json.loads(line) for line in lines]) < 10


def test_without_a_budget_no_code_runs(tmp_path: Path) -> None:
    outcome, _ = played(tmp_path, scripted(CODE + r"\boxed{6}"), prompt="text", interaction_budget=0)
    first = outcome["products"].trajectories[0]
    assert [turn.feedback for turn in first.turns] == [""]
    assert first.info["interactions_left"] == 0


def test_a_policy_that_writes_nothing_but_backticks_ends_no_evaluation(tmp_path: Path) -> None:
    outcome, rows = played(tmp_path, scripted("`" * 300))
    assert outcome["products"].figures()["avg@2"] == 0
    assert all(row["truncated"] for row in rows)


def test_a_sandbox_that_fails_spoils_samples_and_says_so(tmp_path: Path) -> None:
    broken = fakes()
    broken["sandbox"].broken = True
    chat = Chat(byte_tokenizer(), "raw")
    engine = FakeEngine(chat, scripted(CODE), max_model_len=2000)
    outcome = run(
        EvalConfig(model="none", num_samples="1"),
        {"products": products(2)},
        samples=tmp_path / "samples.jsonl",
        open_envs=open_fakes(**broken),
        load=lambda _: (engine, chat),
    )
    assert report.summary(outcome).splitlines()[-1] == (
        f"| products |        2 |  1 |     - |      - |    100.0 |     {len(CODE)} |   100.0 |        2 |"
    )


def test_samples_of_an_earlier_evaluation_are_never_mixed_with_new_ones(tmp_path: Path) -> None:
    played(tmp_path, scripted("a"))
    with pytest.raises(ConfigError, match=r"samples.jsonl is there: choose another --output"):
        played(tmp_path, scripted("a"))


def test_the_number_of_samples_of_a_set_that_is_not_played_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Expect `num_samples` to speak of products, got 'AIME24'."):
        played(tmp_path, scripted("a"), num_samples="4,AIME24:1")


# ----------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": "many"}, "Expect `num_samples` like '16' or '16,MATH500:1', got 'many'."),
        ({"num_samples": "MATH500:1"}, "Expect `num_samples` like '16' or '16,MATH500:1', got 'MATH500:1'."),
        ({"num_samples": "0"}, "Expect `num_samples` like '16' or '16,MATH500:1', got '0'."),
        ({"num_samples": "4,a:1,a:2"}, "Expect `num_samples` like '16' or '16,MATH500:1', got '4,a:1,a:2'."),
        ({"temperature": 0.0}, "Expect `num_samples` 1 with temperature 0 (all would be the same), got '16'."),
        ({"temperature": -1.0}, "Expect `temperature` of at least 0, got -1.0."),
        ({"top_p": 0.0}, "Expect `top_p` in (0, 1], got 0.0."),
        ({"limit": 0}, "Expect `limit` of at least 1, got 0."),
        ({"num_problems": 0}, "Expect `num_problems` of at least 1, got 0."),
        ({"interaction_budget": -1}, "Expect `interaction_budget` of at least 0, got -1."),
        ({"max_completion_length": 0}, "Expect `max_completion_length` of at least 1, got 0."),
        ({"max_num_seqs": 0}, "Expect `max_num_seqs` of at least 1, got 0."),
        ({"seed": -1}, "Expect `seed` of at least 0, got -1."),
        ({"max_model_len": 1024}, "Expect `max_model_len` above max_completion_length (1024), got 1024."),
    ],
)
def test_a_value_out_of_its_range_is_named(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        EvalConfig(model="tiny", **changes)
    assert str(raised.value) == message


def test_a_set_whose_name_has_a_colon_can_have_its_own_number_of_samples() -> None:
    config = EvalConfig(model="tiny", num_samples="8, reasoning_gym:gcd:2")
    assert config.samples_of(["reasoning_gym:gcd", "x"]) == {"reasoning_gym:gcd": 2, "x": 8}


# ------------------------------------------------------------------------------------------------------------- words


def test_the_summary_shows_each_set_and_their_mean() -> None:
    sets = {
        "AIME24": evaluation(sampled(0, True, False), sampled(1, False, False)),
        "AMC": evaluation(sampled(0, True)),
    }
    assert report.summary(sets).splitlines() == [
        "| set    | problems |  k | avg@k | pass@k | code use | tokens | cut off | unjudged |",
        "| :----- | -------: | -: | ----: | -----: | -------: | -----: | ------: | -------: |",
        "| AIME24 |        2 |  2 |  25.0 |   50.0 |      0.0 |      3 |     0.0 |        0 |",
        "| AMC    |        1 |  1 | 100.0 |  100.0 |      0.0 |      3 |     0.0 |        0 |",
        "| mean   |          |    |  62.5 |   75.0 |          |        |         |          |",
    ]


def test_a_single_set_has_no_mean() -> None:
    assert "mean" not in report.summary({"AMC": evaluation(sampled(0, True))})


def test_a_mean_over_a_set_without_a_score_is_not_given() -> None:
    sets = {"one": evaluation(sampled(0, True)), "two": evaluation(sampled(0, None))}
    assert report.mean(sets) == {}
    assert report.summary(sets).splitlines()[-1].split("|")[4].strip() == "-"


def test_accuracy_by_subject_is_shown_for_sets_with_several() -> None:
    mixed = evaluation(sampled(0, True, subject="gcd"), sampled(1, False, subject="primes"))
    single = evaluation(sampled(0, True, subject="gcd"))
    assert report.by_subject({"mixed": mixed, "single": single}).splitlines()[2:] == [
        "| gcd     | mixed |    100.0 |",
        "| primes  | mixed |      0.0 |",
    ]
    assert report.by_subject({"single": single}) == ""


def test_the_json_holds_every_figure_and_is_written_whole(tmp_path: Path) -> None:
    sets = {"mixed": evaluation(sampled(0, True, None, subject="gcd"), sampled(1, False, True, subject="primes"))}
    path = tmp_path / "folder" / "report.json"
    report.write_json(path, {"samples": path} | report.as_json(sets))
    read = json.loads(path.read_text())
    assert read["samples"] == str(path)
    assert {k: v for k, v in read["sets"]["mixed"].items() if k != "figures"} == {
        "problems": 2,
        "num_samples": 2,
        "unjudged": 1,
        "accuracy_by_subject": {"gcd": 1.0, "primes": 0.5},
    }
    assert read["sets"]["mixed"]["figures"]["avg@2"] == read["mean"]["avg@k"] == 0.75
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


@pytest.mark.parametrize("model", ["tiny", "Qwen/Qwen2.5-Math-7B", "/a/b/checkpoint-24/", "../runs/x", "x" * 300])
def test_a_report_gets_a_name_that_every_file_system_takes(model: str) -> None:
    path = report.new_path(model)
    assert path.parent == Path("runs/evaluation")
    assert not path.name.startswith(("-", "."))
    assert len(path.name) < 100


def test_a_transcript_of_any_environment_is_ready_for_json() -> None:
    (plain,) = sampled(0, True)
    assert json.loads(json.dumps(transcript(plain)))["correct"] is True
