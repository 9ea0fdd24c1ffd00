"""Tasks that wait, in the tree of lanes: for capacity in a queue, or for a slot that was lent."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, Protocol

from .job import Job


class Counts(Protocol):
    """What a wait queue needs to know of its lane."""

    held: int
    slots: float
    pending: int
    max_pending: float


class Waiter:
    """A task that waits for something for its job; FIFO by ticket.

    Waits  <=>  `ticket` is finite. ``wake`` is called in the middle of a transition, once: it may
    not raise, nor run code of users.
    """

    __slots__ = ("job", "served", "ticket", "wake")

    def __init__(self, job: Job[Any], wake: Callable[[], object]) -> None:
        self.job = job
        self.wake = wake
        self.ticket: float = math.inf
        # Whether it has got what it waited for.
        self.served = False

    def is_waiting(self) -> bool:
        return self.ticket < math.inf

    def gave_up(self) -> bool:
        """Whether the task has been cancelled, though it has had no time to say so."""
        return False

    def confirms(self) -> bool:
        """Whether the job may start only once the task, which was served, has gone on."""
        return False


class WaitQueue:
    """The waiters of one lane and of the lanes inside, the longest waiting first.

    A walk down by age, as that of the ready queues is by turns. Holds at all times, of a queue that
    isn't the root's::

        `ticket` is that of its first waiter while `is_open`, else infinity
        the parent's heap has an entry with each finite ticket; entries that don't match are dead
    """

    __slots__ = ("compact_at", "heap", "lane", "parent", "ticket")

    def __init__(self, lane: Counts, parent: WaitQueue | None) -> None:
        self.lane = lane
        self.parent = parent
        self.heap: list[tuple[float, Waiter | WaitQueue]] = []
        self.compact_at = 32
        self.ticket: float = math.inf

    def is_open(self) -> bool:
        """Whether the lane itself has what its waiters wait for."""
        raise NotImplementedError

    def add(self, waiter: Waiter, ticket: float) -> None:
        waiter.ticket = ticket
        self.push(waiter)
        self.update()

    def remove(self, waiter: Waiter) -> None:
        waiter.ticket = math.inf
        self.update()

    def update(self) -> None:
        """Offer the right ticket to the parent, and so on up: counts on this path have changed."""
        queue = self
        while queue.parent is not None:
            ticket = queue.oldest() if queue.is_open() else math.inf
            if ticket != queue.ticket:
                queue.ticket = ticket
                if ticket < math.inf:
                    queue.parent.push(queue)
            queue = queue.parent

    def first(self) -> Waiter | None:
        """The waiter of the whole tree that's served next; asked of the root's queue."""
        member: Waiter | WaitQueue = self
        while isinstance(member, WaitQueue):
            if not member.is_open() or member.oldest() == math.inf:
                return None
            member = member.heap[0][1]
        return member

    def push(self, member: Waiter | WaitQueue) -> None:
        heapq.heappush(self.heap, (member.ticket, member))
        if len(self.heap) > self.compact_at:
            self.heap = sorted({entry for entry in self.heap if entry[1].ticket == entry[0]})
            self.compact_at = 2 * len(self.heap) + 32

    def oldest(self) -> float:
        heap = self.heap
        while heap and heap[0][1].ticket != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf


class Putters(WaitQueue):
    """Submitters that wait for capacity. Their jobs are the tail of their lane's queue."""

    __slots__ = ()

    def is_open(self) -> bool:
        return self.lane.pending < self.lane.max_pending


class Lenders(WaitQueue):
    """Jobs that wait for their lent slot. A pause doesn't hold them up: they aren't new."""

    __slots__ = ()

    def is_open(self) -> bool:
        return self.lane.held < self.lane.slots
