"""Groups in the order in which they were requested, whichever ends first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from agents.core.types import Trajectory

Group: TypeAlias = Sequence[Trajectory]
"""The finished episodes of one group."""

Enough: TypeAlias = Callable[[Sequence[Group]], bool]
"""Called with the first group when it is complete, with the first two when both are, and so on; once it returns True,
these groups are all that is wanted. It may be asked again about the same groups."""


def never(groups: Sequence[Group]) -> bool:
    """Return False: every group is wanted."""
    return False


class InOrder:
    """Takes groups as they end, and asks as the first ones become complete whether they are enough.

    Args:
        group_ids: The groups that were requested, in order.
        enough: See `Enough`.

    Attributes:
        is_enough: Whether no other group is wanted.
    """

    def __init__(self, group_ids: Iterable[int], enough: Enough = never) -> None:
        self.is_enough = False
        self._group_ids, self._enough = list(group_ids), enough
        self._ended: dict[int, Group] = {}
        self._leading: list[Group] = []

    def put(self, group: Group) -> None:
        """Take a group that has ended."""
        self._ended[group[0].group_id] = group
        for group_id in self._group_ids[len(self._leading) :]:
            if self.is_enough or group_id not in self._ended:
                return
            self._leading.append(self._ended[group_id])
            self.ask()

    def ask(self) -> None:
        """Ask about the first groups that are complete; what others play may be enough meanwhile."""
        self.is_enough = self._enough(self._leading)

    def trajectories(self) -> tuple[Trajectory, ...]:
        """Return the trajectories of the groups that are enough; if none are, of all that have ended."""
        ended = (self._ended[group_id] for group_id in self._group_ids if group_id in self._ended)
        return tuple(trajectory for group in (self._leading if self.is_enough else ended) for trajectory in group)
