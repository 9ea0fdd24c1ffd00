"""The numbers of slots."""

from __future__ import annotations

import heapq


class Slots:
    """Numbers slots from 0; the lowest free number is acquired first.

    Holds at all times: the numbers below `made` are either in the heap `free` or acquired.
    """

    __slots__ = ("free", "made")

    def __init__(self) -> None:
        self.free: list[int] = []
        self.made = 0

    def acquire(self) -> int:
        if self.free:
            return heapq.heappop(self.free)
        self.made += 1
        return self.made - 1

    def release(self, number: int) -> None:
        heapq.heappush(self.free, number)
