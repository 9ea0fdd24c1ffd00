"""Whose turn it is: the highest priority first, and equals one after the other."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._line import Line


class Turns:
    """The enrolled lines. True if there are any."""

    __slots__ = ("_count", "_order", "_ranks", "sole", "special")

    def __init__(self) -> None:
        # Each rank's lines in the order of their turns, by priority; and the same ranks as a heap,
        # the highest first.
        self._ranks: dict[float, OrderedDict[Line, None]] = {}
        self._order: list[tuple[float, OrderedDict[Line, None]]] = []
        self._count = 0
        # How many of them aren't plain: whether they may start a job isn't said by the turns alone.
        self.special = 0
        # The only enrolled line, if it's known to be that and is plain: there's nothing to choose.
        self.sole: Line | None = None

    def __bool__(self) -> bool:
        return self._count > 0

    def enrol(self, line: Line) -> None:
        """Have a line take turns, after all others of its rank."""
        rank = self._ranks.get(line.priority)
        if rank is None:
            rank = self._ranks[line.priority] = OrderedDict()
            heapq.heappush(self._order, (-line.priority, rank))
        rank[line] = None
        line.enrolled = True
        self._count += 1
        self.special += not line.plain
        self.sole = line if self._count == 1 and line.plain else None

    def step_back(self, line: Line) -> None:
        """Have a line take no more turns."""
        if line.enrolled:
            del self._ranks[line.priority][line]
            line.enrolled = False
            self._count -= 1
            self.special -= not line.plain
            self.sole = None

    def next(self) -> Line | None:
        """The line whose turn it is; its next turn comes after all others of its rank."""
        while self._order:
            rank = self._order[0][1]
            if rank:
                line = next(iter(rank))
                rank.move_to_end(line)
                return line
            del self._ranks[-heapq.heappop(self._order)[0]]
        return None
