"""The same ten episodes through every client: the same prompts, the same feedback, the same rewards."""

import tomllib
from functools import cache

import pytest
from clients import CLIENTS, OUTSIDE, WARNINGS_OF_INSPECT, Client, play_environment, play_tool_episode, table
from packaging.requirements import Requirement
from paths import ROOT
from scripts import REWARDS, SCRIPTS
from trl_fakes import WARNINGS_OF_TRL

REFERENCES = {"blocks": cache(play_environment), "calls": cache(play_tool_episode)}
pytestmark = pytest.mark.filterwarnings(*WARNINGS_OF_TRL, *WARNINGS_OF_INSPECT)

each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.extra)


@each_client
@pytest.mark.slow
def test_each_episode_is_the_same_as_in_the_environment(client: Client) -> None:
    pytest.importorskip(client.module, reason=OUTSIDE.get(client.extra))
    for script, played, expected in zip(SCRIPTS, client.play(), REFERENCES[client.writes](), strict=True):
        assert (played.prompt, played.reward) == (expected.prompt, expected.reward), script
        if expected.reward is not None:  # what a policy sees after an infrastructure error does not matter
            assert len(played.feedback) == len(expected.feedback), script
            assert (played.feedback == expected.feedback) == (script not in client.differs), script


@pytest.mark.parametrize("kind", REFERENCES)
def test_the_environment_gives_the_rewards_that_the_episodes_deserve(kind: str) -> None:
    assert tuple(played.reward for played in REFERENCES[kind]()) == REWARDS[kind]


def test_code_has_the_same_output_in_a_block_and_in_a_call() -> None:
    blocks, calls = (REFERENCES[kind]() for kind in ("blocks", "calls"))
    for number in (3, 4, 8):
        fenced = [f"```output\n{text}\n```\n" for text in calls[number].feedback]
        assert list(blocks[number].feedback) == fenced
    assert "TimeoutError" in calls[8].feedback[0]


@each_client
def test_the_extra_installs_the_version_that_was_tested(client: Client) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    requirement = Requirement(extras[client.extra][0])
    assert requirement.name == client.distribution
    assert client.version in requirement.specifier


def test_the_page_has_the_table_of_the_tests() -> None:
    assert table() in (ROOT / "docs/reference/clients.md").read_text()
