"""Whose turn it is: the highest priority first, and equal ones one after the other."""

from __future__ import annotations

import heapq
from typing import Any


class Member:
    """What can be in one ReadyQueue at a time: a lane, or the queue of a lane's own jobs."""

    __slots__ = ("is_ready", "next", "prev", "priority")

    priority: float
    is_ready: bool
    # Its neighbours in the ring of its priority, while it's ready.
    next: Any
    prev: Any


class ReadyQueue:
    """The members of one lane that have a job to start.

    Those of one priority form a ring, so that a turn is a pointer that moves on, and any member
    leaves in one step. Holds at all times::

        a member is in a ring  <=>  its `is_ready` is set
        first is the member whose turn it is, of the highest priority; None  <=>  count == 0
        each priority in `rings` has just one entry in the heap `priorities`, and the other way
        there are at most `2 * count + 33` rings when one is added
    """

    # No slots: CPython makes an object with a constructor in fewer steps without them.
    def __init__(self) -> None:
        self.count = 0
        self.first: Any = None
        # The member of each ring whose turn it is, but any member of the ring that `first` is in;
        # None while the ring is empty.
        self.rings: dict[float, Member | None] = {}
        self.priorities: list[float] = []

    def add(self, member: Member) -> None:
        """Append a member to the ring of its priority, behind the others."""
        member.is_ready = True
        if not self.count and not self.rings:
            # The same as below, for the first one ever.
            self.rings[member.priority] = self.first = member.prev = member.next = member
            self.priorities.append(-member.priority)
            self.count = 1
            return
        priority = member.priority
        head = self.rings.get(priority)
        first = self.first
        if head is not None:
            if first.priority == priority:
                head = first
            member.prev, member.next = head.prev, head
            member.prev.next = head.prev = member
        else:
            if priority not in self.rings:
                if len(self.rings) > 2 * self.count + 32:
                    self._compact()
                heapq.heappush(self.priorities, -priority)
            self.rings[priority] = member.prev = member.next = member
            if first is None:
                self.first = member
            elif priority > first.priority:
                self.rings[first.priority] = first
                self.first = member
        self.count += 1

    def remove(self, member: Member) -> None:
        """Take a member out of its ring."""
        after = member.next
        if after is not member:
            member.prev.next, after.prev = after, member.prev
            if self.rings[member.priority] is member:
                self.rings[member.priority] = after
            if self.first is member:
                self.first = after
        else:
            self.rings[member.priority] = None
            if self.first is member:
                self.first = self._highest() if self.count > 1 else None
        member.prev = member.next = None
        member.is_ready = False
        self.count -= 1

    def rotate(self) -> None:
        """End the turn of the first member: its next one comes after all of its priority."""
        self.first = self.first.next

    def _highest(self) -> Member:
        while (first := self.rings[-self.priorities[0]]) is None:
            del self.rings[-heapq.heappop(self.priorities)]
        return first

    def _compact(self) -> None:
        self.rings = {priority: ring for priority, ring in self.rings.items() if ring is not None}
        self.priorities = [-priority for priority in self.rings]
        heapq.heapify(self.priorities)
