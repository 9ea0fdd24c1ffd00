"""When to look at which lane again."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Generic, TypeVar

Owner = TypeVar("Owner")


class Timers(Generic[Owner]):
    """At most one deadline for each owner.

    Holds at all times: `deadlines` has the finite ones, each in the heap; entries of the heap that
    don't match it are dead, and at most as many as the others, and 32.
    """

    __slots__ = ("deadlines", "heap", "serial")

    def __init__(self) -> None:
        self.deadlines: dict[Owner, float] = {}
        self.heap: list[tuple[float, int, Owner]] = []
        self.serial = itertools.count()

    def set(self, owner: Owner, deadline: float) -> None:
        """Replace the owner's deadline; infinity for none."""
        if deadline == self.deadlines.get(owner, math.inf):
            return
        if deadline == math.inf:
            del self.deadlines[owner]
        else:
            self.deadlines[owner] = deadline
            heapq.heappush(self.heap, (deadline, next(self.serial), owner))
        if len(self.heap) > 2 * len(self.deadlines) + 32:
            self.heap = [(time, next(self.serial), each) for each, time in self.deadlines.items()]
            heapq.heapify(self.heap)

    def next_deadline(self) -> float:
        """The earliest deadline; infinity if there's none."""
        while self.heap:
            deadline, _, owner = self.heap[0]
            if self.deadlines.get(owner) == deadline:
                return deadline
            heapq.heappop(self.heap)
        return math.inf

    def expire(self, now: float) -> list[Owner]:
        """Remove the owners whose deadline has come, and return them, the earliest first."""
        expired = []
        while self.next_deadline() <= now:
            owner = heapq.heappop(self.heap)[2]
            del self.deadlines[owner]
            expired.append(owner)
        return expired
