"""What results depend on beside the policy."""

from fakes import products

from cir_env.fingerprint import fingerprint


def test_other_problems_and_other_prompts_have_other_hashes() -> None:
    one, other = fingerprint({"a": products(2)}, "cir"), fingerprint({"a": products(3)}, "text")
    assert one["problems"] != other["problems"]
    assert one["prompt"] != other["prompt"]
    assert (one["grader"], one["environment"]) == (other["grader"], other["environment"])


def test_environment_and_grader_are_told_by_their_sources_and_libraries() -> None:
    made = fingerprint({}, "cir")
    assert made["grader"]["sha256"] != made["environment"]["sha256"]
    assert made["grader"]["math-verify"]
    assert made["grader"]["sympy"]
