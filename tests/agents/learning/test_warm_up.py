import random
import re
from collections.abc import Iterator

import gymnasium
import pytest
import torch

from agents.core.errors import ModelError
from agents.learning.transcripts import Transcript, encode_transcript
from agents.learning.warm_up import arithmetic_code, scripted_solution, warm_up
from agents.models.load import load_model
from cir_env.problems.problem_set import ProblemSet

SUMS = [(f"What is {a} + {b}?", str(a + b)) for a in range(10, 30) for b in range(10, 30)]


def quiet(line: str) -> None:
    """Discards log lines."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("generator", ["arithmetic", "products"])
def test_every_arithmetic_problem_of_the_environment_gets_code_that_solves_it(generator):
    for problem in ProblemSet.generate(generator, split="train", seed=0, size=300):
        code = arithmetic_code(problem.statement)
        assert code is not None, problem.statement
        operands = re.fullmatch(r"print\((-?\d+ [-+*] -?\d+)\)", code)
        assert operands is not None, code
        assert str(eval(operands[1])) == problem.answer


def test_the_last_calculation_of_a_prompt_is_the_problem():
    assert arithmetic_code("What is 127 * 305?\nThe answer is 38735.\nWhat is 6 * 7?") == "print(6 * 7)"


@pytest.mark.parametrize("text", ["", "What is the 12th prime number?", "What is 2 +", "12 and 3"])
def test_other_problems_get_no_code(text):
    assert arithmetic_code(text) is None


@pytest.mark.parametrize(("statement", "answer"), [("What is 12 + 34?", "46"), ("Compute 3 - 34.", "-31")])
def test_a_script_with_code_matches_the_environment(statement, answer, tmp_path):
    problems = tmp_path / "problems.jsonl"
    problems.write_text(f'{{"problem": "{statement}", "answer": "{answer}"}}\n')
    arguments = {"problems": str(problems), "prompt": "question", "observation": "feedback"}
    with gymnasium.make("cir_env:CodeMath-v0", **arguments) as env:
        prompt, _ = env.reset(seed=0)
        code = arithmetic_code(prompt)
        script = scripted_solution(prompt, answer, code=code, rng=random.Random(0))
        feedback, _, terminated, _, _ = env.step(script.turns[0])
        assert (feedback, terminated) == (script.feedback[0], False)
        _, reward, terminated, _, _ = env.step(script.turns[1])
    assert (reward, terminated) == (1.0, True)


def test_guesses_are_boxed_and_mostly_wrong():
    rng = random.Random(0)
    scripts = [scripted_solution(prompt, answer, code=None, rng=rng) for prompt, answer in SUMS]
    assert all(re.fullmatch(r"\\boxed\{[1-9]0*\}", script.turns[0]) and not script.feedback for script in scripts)
    right = [script.turns[0] == rf"\boxed{{{answer}}}" for script, (_, answer) in zip(scripts, SUMS, strict=True)]
    assert sum(right) / len(right) < 0.1


def test_only_the_policys_tokens_are_learned(chat):
    script = Transcript(prompt="What is 2 + 3?", turns=("run\n", "done"), feedback=("result\n",))
    token_ids, mask = encode_transcript(script, chat)
    learned = [token_id for token_id, learn in zip(token_ids, mask, strict=True) if learn]
    assert chat.tokenizer.decode(learned) == "run\ndone<|im_end|>"
    assert chat.tokenizer.decode(token_ids).endswith("assistant\nrun\nresult\ndone<|im_end|>")


@pytest.mark.slow
def test_a_warmed_up_policy_sometimes_writes_code_and_sometimes_guesses(tiny, chat):
    model, lines = load_model(tiny), []
    report = warm_up(model, chat, SUMS, steps=100, batch_size=8, code_fraction=0.4, log=lines.append)
    first = torch.tensor([chat.encode_prompt(prompt) for prompt, _ in SUMS[:20]])
    chances = model(first).logits[:, -1].softmax(-1).mean(0)
    code, guess = (chances[chat.encode_feedback(text)[0]].item() for text in ("`", "\\"))
    assert 0.15 < code < 0.75
    assert code + guess > 0.95
    assert report.loss < 0.8
    assert lines[0] == "warm-up: 100 steps of 8 scripted solutions ..."
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_same_seed_warms_up_to_the_same_weights(tiny, chat):
    weights = []
    for seed in (1, 1, 2):
        model = load_model(tiny)
        warm_up(model, chat, SUMS, seed=seed, steps=2, batch_size=2, log=quiet)
        weights.append(model.get_input_embeddings().weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        ([], "Expect at least one problem for the warm-up, got none."),
        (
            [("How many primes are below 10?", "4")],
            "Expect arithmetic problems with integer answers for the warm-up, such as 'What is 12 + 7?', "
            "got 'How many primes are below 10?' with answer '4'.",
        ),
        (
            [("What is 1 + 1?", "two")],
            "Expect arithmetic problems with integer answers for the warm-up, such as 'What is 12 + 7?', "
            "got 'What is 1 + 1?' with answer 'two'.",
        ),
    ],
)
def test_problems_without_a_script_are_rejected(problems, message, tiny, chat):
    with pytest.raises(ModelError) as caught:
        warm_up(load_model(tiny), chat, problems, log=quiet)
    assert str(caught.value) == message


def test_a_model_that_is_not_float32_is_refused(tiny, chat):
    with pytest.raises(ModelError, match=r"^Expect a float32 model to warm up, got torch\.bfloat16\.$"):
        warm_up(load_model(tiny, "bfloat16"), chat, SUMS, log=quiet)


@pytest.mark.parametrize("change", [{"steps": 0}, {"batch_size": 0}, {"code_fraction": 1.5}])
def test_settings_out_of_range_are_refused(change, tiny, chat):
    with pytest.raises(ModelError, match=r"^Expect `steps` and `batch_size` of at least 1 and `code_fraction` in "):
        warm_up(load_model(tiny), chat, SUMS, log=quiet, **change)
