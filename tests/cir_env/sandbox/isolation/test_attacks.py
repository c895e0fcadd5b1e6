"""Runs each attack of attacks.json with all layers and without namespaces, as this user and as an ordinary one."""

import os
from collections.abc import Iterator

import pytest
from attacks import ATTACKS, Attack, Driver, why_not_here
from ordinary_user import NoInterpreter

COMBINATIONS = [
    pytest.param(("own", "auto"), id="own-auto"),
    pytest.param(("own", "without-namespaces"), id="own-without-namespaces", marks=pytest.mark.slow),
    pytest.param(("ordinary", "auto"), id="ordinary-auto", marks=pytest.mark.slow),
    pytest.param(("ordinary", "without-namespaces"), id="ordinary-without-namespaces", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=COMBINATIONS)
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    user, isolation = request.param
    if user == "ordinary" and os.geteuid() != 0:
        pytest.skip("this is an ordinary user already")
    try:
        started = Driver(isolation, ordinary_user=user == "ordinary")
    except NoInterpreter as error:
        pytest.skip(str(error))
    with started:
        if isolation == "auto" and started.layers["namespaces"] != "on":
            pytest.skip("this machine forbids namespaces: " + started.layers["namespaces"])
        yield started


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack["name"] for attack in ATTACKS])
def test_the_attack_is_contained(driver: Driver, attack: Attack) -> None:
    if (why := why_not_here(attack)) is not None:
        pytest.skip(why)
    assert driver.judge(attack) == []


@pytest.mark.slow
def test_the_driver_tells_what_was_not_contained() -> None:
    code = "print(open('/tmp/sbx_canary/answer.txt').read(), open('/tmp/sbx_canary/b', 'w'), 'ESCAPED')"
    expect = {
        "status": ["error", "timeout"],
        "lacks": ["TextIO"],
        "out_has": ["no such text"],
        "max_out": 5,
        "max_wall": 0,
    }
    with Driver("unsafe") as unsafe:
        problems = unsafe.judge({"name": "control", "code": code, "expect": expect})
    wanted = [
        "no 'ESCAPED'",
        "no 'SECRET_",
        "no 'TextIO'",
        "'no such text'",
        "the status",
        "at most 5",
        "after 0 s",
        "no file",
    ]
    assert [text in problem for text, problem in zip(wanted, problems, strict=True)] == [True] * len(wanted)


def test_the_attacks_have_distinct_names() -> None:
    assert len({attack["name"] for attack in ATTACKS}) == len(ATTACKS)
