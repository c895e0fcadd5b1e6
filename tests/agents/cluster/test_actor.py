"""A rollout actor without a cluster: groups as they come, and one job after the other."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from cluster_fakes import NoWeights
from cluster_requests import ASKED, SAMPLING, content, recipe

from agents.cluster.actor import Job, RolloutActor
from agents.core.types import EpisodeSpec
from agents.rollout.envs import EnvPool


@pytest.fixture(scope="module")
def actor() -> RolloutActor:
    made = RolloutActor(recipe(engines=1), 0)
    made.start()
    made.open()
    made.load(NoWeights(3))
    return made


@pytest.fixture(scope="module")
def jobs(envs: EnvPool) -> Iterator[Job]:
    """One new job after the other."""
    numbers = iter(range(100))
    return (Job(number=n, envs=0, open_envs=envs.open_others, needed={0}, sampling=SAMPLING) for n in numbers)


def play_in_parts(actor: RolloutActor, job: Job, parts: Sequence[Sequence[EpisodeSpec]]) -> list[Any]:
    """Add a part with each call, and call until all have ended."""
    waiting, unfinished, made = list(parts), 0, []
    while waiting or unfinished:
        report = actor.play(job, waiting.pop(0) if waiting else [])
        unfinished = report.unfinished
        made += [each for group in report.groups for each in group]
    return content(sorted(made, key=lambda each: (each.group_id, each.sample)))


def test_groups_that_come_one_by_one_are_played_as_all_at_once(
    actor: RolloutActor, jobs: Iterator[Job], expected: list[Any]
) -> None:
    assert play_in_parts(actor, next(jobs), [ASKED[n : n + 2] for n in range(0, len(ASKED), 2)]) == expected


def test_a_new_job_drops_what_is_left_of_the_last(
    actor: RolloutActor, jobs: Iterator[Job], expected: list[Any]
) -> None:
    assert actor.play(next(jobs), ASKED).unfinished > 0
    assert play_in_parts(actor, next(jobs), [ASKED[:4]]) == expected[:4]


def test_new_weights_drop_what_is_left_and_mark_later_tokens(actor: RolloutActor, jobs: Iterator[Job]) -> None:
    actor.play(next(jobs), ASKED)
    actor.load(NoWeights(4))
    versions = {version for each in play_in_parts(actor, next(jobs), [ASKED[:2]]) for version in each[4]}
    assert versions == {-1, 4}
    actor.load(NoWeights(3))
