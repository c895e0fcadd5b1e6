"""A node is cut off while its engine samples, and comes back when that is lost: what it says then is dropped."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from cluster_fakes import NoWeights
from cluster_requests import at_first, content, play, recipe
from namespaces import Namespace, namespace, node_behind
from ray_processes import NODE
from runs import wait_for

from agents.cluster.source import ClusterSource
from agents.core.types import Trajectory
from agents.engines.base import Weights
from agents.rollout.envs import EnvPool

pytestmark = pytest.mark.slow


@pytest.fixture
def there(nodes: Any) -> Iterator[Namespace]:
    with namespace() as made, node_behind(made, nodes.address, NODE):
        yield made


def test_the_late_answer_of_an_engine_that_was_cut_off_is_dropped(
    there: Namespace, envs: EnvPool, expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    wait_for(lambda: ray.cluster_resources()["CPU"] == 3 * NODE["num_cpus"])
    lines: list[str] = []
    heal = at_first(there.heal)
    made = ClusterSource(
        recipe(engines=3, engine_cpus=2, max_restarts=20),
        channel=NoWeights(),
        log=lambda line: (lines.append(line), heal(line)),
    )
    with closing(made) as source:
        source.load_weights(3, Weights.of({}))
        player = source.player(envs)
        wait_for(lambda: len(source.probe([1], temperature=1.0)) == 12)
        assert play(player) == expected  # all engines have opened their environments, which takes seconds
        (cut_off,) = there.processes("RolloutActor")
        monkeypatch.setattr(source._fleet, "_cluster", replace(source._fleet._cluster, patience_s=5.0))

        ended: list[Trajectory] = []
        cut = at_first(there.cut)
        assert play(player, on_end=lambda each: (ended.append(each), cut(each))) == expected
        assert sorted(content(ended)) == sorted(expected)  # each once
        assert any("no answer for" in line for line in lines)

        assert play(player) == expected
        wait_for(lambda: cut_off not in there.processes("RolloutActor"))
        wait_for(lambda: len(source.probe([1], temperature=1.0)) == 12)
        assert play(player) == expected
