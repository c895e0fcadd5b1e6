"""Groups are played exactly once and come back in order, whatever becomes of the workers."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from agents_fakes import episodes, trajectory
from hypothesis import given
from hypothesis import strategies as st

from agents.cluster.queue import GroupQueue
from agents.core.types import EpisodeSpec, Trajectory


def played(dealt: Sequence[EpisodeSpec]) -> dict[int, list[Trajectory]]:
    """What a worker makes of the episodes that it was dealt, by group."""
    groups: dict[int, list[Trajectory]] = {}
    for each in dealt:
        groups.setdefault(each.group_id, []).append(trajectory(group_id=each.group_id))
    return groups


def ids(trajectories: Sequence[Trajectory]) -> list[int]:
    return [each.group_id for each in trajectories]


def size_of(dealt: dict[int, list[EpisodeSpec]]) -> dict[int, int]:
    return {worker: len(each) for worker, each in dealt.items()}


def test_workers_are_filled_evenly_up_to_their_capacity() -> None:
    queue = GroupQueue(episodes(24), capacity=6)
    assert size_of(queue.deal({0: 0, 1: 0})) == {0: 6, 1: 6}
    assert queue.deal({0: 6, 1: 6}) == {}
    assert size_of(queue.deal({0: 5, 1: 2})) == {0: 2, 1: 4}  # no row stays empty while a group waits


def test_few_groups_are_shared_evenly_among_workers_with_room_for_all() -> None:
    assert size_of(GroupQueue(episodes(8), capacity=64).deal({3: 0, 4: 0})) == {3: 4, 4: 4}


def test_the_groups_of_a_lost_worker_are_dealt_again_before_later_ones() -> None:
    queue = GroupQueue(episodes(12), capacity=4)
    assert sorted(played(queue.deal({0: 0})[0])) == [0, 1]
    assert sorted(played(queue.deal({1: 0})[1])) == [2, 3]
    queue.lose(0)
    assert sorted(played(queue.deal({2: 0})[2])) == [0, 1]


def test_the_late_answer_of_a_lost_worker_is_dropped() -> None:
    queue = GroupQueue(episodes(2), capacity=4)
    late = played(queue.deal({0: 0})[0])[0]
    queue.lose(0)
    again = played(queue.deal({1: 0})[1])[0]
    assert (queue.put(0, late), queue.put(1, again), queue.put(1, again)) == (False, True, False)
    assert queue.is_done
    assert queue.trajectories() == tuple(again)


def test_enough_counts_the_first_groups_of_the_whole_request_whoever_plays_them() -> None:
    asked: list[list[int]] = []

    def two(groups: Sequence[Sequence[Trajectory]]) -> bool:
        asked.append([group[0].group_id for group in groups])
        return len(groups) == 2

    queue = GroupQueue(episodes(8), capacity=4, enough=two)
    dealt = {worker: played(each) for worker, each in queue.deal({0: 0, 1: 0}).items()}
    for worker, group_id in ((1, 3), (1, 1), (0, 0)):
        assert not queue.is_done
        queue.put(worker, dealt[worker][group_id])
    assert queue.is_done
    assert ids(queue.trajectories()) == [0, 0, 1, 1]
    assert asked == [[0], [0, 1]]


@given(st.data())
def test_every_group_is_played_exactly_once_and_in_order(data: Any) -> None:
    """Workers are dealt groups, answer in any order, twice or too late, and are lost and replaced at any time."""
    sizes = data.draw(st.lists(st.integers(1, 3), max_size=12))
    asked = [
        EpisodeSpec(group_id=group, env_seed=0, sampling_seed=n)
        for group, size in enumerate(sizes)
        for n in range(size)
    ]
    queue = GroupQueue(asked, capacity=data.draw(st.integers(1, 5)))
    alive, hands = [0, 1], {0: {}, 1: {}}  # what each worker, lost ones included, has been dealt and may answer
    taken: Counter[int] = Counter()
    for act in data.draw(st.lists(st.sampled_from(["deal", "put", "lose"]), max_size=40)):
        if act == "deal":
            chosen = data.draw(st.sets(st.sampled_from(alive)))
            for worker, dealt in queue.deal(dict.fromkeys(chosen, 0)).items():
                hands[worker].update(played(dealt))
        elif act == "lose":
            queue.lose(alive.pop(data.draw(st.integers(0, 1))))
            alive.append(len(hands))
            hands[len(hands)] = {}
        elif answers := [(worker, group) for worker, hand in hands.items() for group in hand.values()]:
            worker, group = data.draw(st.sampled_from(answers))
            taken[group[0].group_id] += queue.put(worker, group)
    for worker in alive:
        queue.lose(worker)
    while not queue.is_done:
        for group in played(queue.deal({-1: 0})[-1]).values():
            taken[group[0].group_id] += queue.put(-1, group)
    assert taken == Counter(range(len(sizes)))
    assert ids(queue.trajectories()) == [group for group, size in enumerate(sizes) for _ in range(size)]
