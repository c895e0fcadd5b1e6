"""Which worker plays which groups: each group exactly once, however workers answer, fail and come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

from agents.core.types import EpisodeSpec, Trajectory
from agents.rollout.in_order import Enough, Group, InOrder, never


class GroupQueue:
    """Deals the groups of one request to workers, and takes each of them back once.

    Groups are dealt in the order of the request. What comes back is in this order too, whoever played it and whenever.
    The groups of a lost worker are dealt again, before all later ones. If the lost worker answers after all, its answer
    is dropped: a worker that takes its place has another number.

    Args:
        episodes: The request, in whole groups.
        capacity: Episodes that a worker plays at once.
        enough: Stops the whole request, not each worker's part of it; see `Enough`.
    """

    def __init__(self, episodes: Sequence[EpisodeSpec], *, capacity: int, enough: Enough = never) -> None:
        self._groups: dict[int, list[EpisodeSpec]] = {}
        for episode in episodes:
            self._groups.setdefault(episode.group_id, []).append(episode)
        self._place = {group_id: place for place, group_id in enumerate(self._groups)}
        self._waiting = [(place, group_id) for group_id, place in self._place.items()]  # a heap
        self._worker: dict[int, int] = {}  # that plays a group
        self._capacity = capacity
        self._played = InOrder(self._groups, enough)

    @property
    def is_done(self) -> bool:
        """Whether every group has been played, or enough of them."""
        return self._played.is_enough or not (self._waiting or self._worker)

    def deal(self, unfinished: Mapping[int, int]) -> dict[int, list[EpisodeSpec]]:
        """Return the episodes that each worker is to play next: a group at a time to the one with the fewest.

        Args:
            unfinished: How many episodes each worker still has to end. One below its capacity gets another group.
        """
        loads = [(count, worker) for worker, count in unfinished.items() if count < self._capacity]
        heapify(loads)
        dealt: dict[int, list[EpisodeSpec]] = {}
        while self._waiting and loads:
            _, group_id = heappop(self._waiting)
            count, worker = heappop(loads)
            group = self._groups[group_id]
            self._worker[group_id] = worker
            dealt.setdefault(worker, []).extend(group)
            if count + len(group) < self._capacity:
                heappush(loads, (count + len(group), worker))
        return dealt

    def put(self, worker: int, group: Group) -> bool:
        """Take a group that a worker has played; return False if it is not this worker's, and drop it."""
        group_id = group[0].group_id
        if self._worker.get(group_id) != worker:
            return False
        del self._worker[group_id]
        self._played.put(group)
        return True

    def lose(self, worker: int) -> None:
        """Let other workers play the groups of one that is lost."""
        for group_id in [each for each, player in self._worker.items() if player == worker]:
            del self._worker[group_id]
            heappush(self._waiting, (self._place[group_id], group_id))

    def trajectories(self) -> tuple[Trajectory, ...]:
        """Return what was played, in the order of the request; see :meth:`InOrder.trajectories`."""
        return self._played.trajectories()
