"""Whose turn it is: the highest priority first, and equals one after the other."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._line import Line


class _Rank:
    """The enrolled lines of one priority: a ring, by their `before` and `after`.

    So a turn is a pointer that moves on, and any line leaves in one step.
    """

    __slots__ = ("first",)

    def __init__(self) -> None:
        # The one whose turn it is; the one before it had its turn last.
        self.first: Line | None = None

    def add(self, line: Line) -> None:
        """Put a line behind all others."""
        first = self.first
        if first is None:
            self.first = line.before = line.after = line
        else:
            line.before, line.after = first.before, first
            line.before.after = first.before = line

    def remove(self, line: Line) -> None:
        if line.after is line:
            self.first = None
        else:
            line.before.after, line.after.before = line.after, line.before
            if self.first is line:
                self.first = line.after
        del line.before, line.after


class Turns:
    """The enrolled lines. True if there are any."""

    __slots__ = ("_count", "_order", "_ranks", "sole", "special")

    def __init__(self) -> None:
        # The ranks by priority; and the same ones as a heap, the highest first.
        self._ranks: dict[float, _Rank] = {}
        self._order: list[tuple[float, _Rank]] = []
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
            rank = self._ranks[line.priority] = _Rank()
            heapq.heappush(self._order, (-line.priority, rank))
        rank.add(line)
        line.enrolled = True
        self._count += 1
        self.special += not line.plain
        self.sole = line if self._count == 1 and line.plain else None

    def step_back(self, line: Line) -> None:
        """Have a line take no more turns."""
        if line.enrolled:
            self._ranks[line.priority].remove(line)
            line.enrolled = False
            self._count -= 1
            self.special -= not line.plain
            self.sole = None

    def next(self) -> Line | None:
        """The line whose turn it is; its next turn comes after all others of its rank."""
        while self._order:
            rank = self._order[0][1]
            line = rank.first
            if line is not None:
                rank.first = line.after
                return line
            del self._ranks[-heapq.heappop(self._order)[0]]
        return None
