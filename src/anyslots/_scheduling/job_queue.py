"""The FIFO of the jobs of one lane."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Any

from .job import QUEUED, Job
from .ready_queue import Member


class JobQueue(Member):
    """The jobs of a lane that wait to start, in FIFO order.

    It competes with the lanes inside its lane as one of priority 0. Jobs that are cancelled stay
    until they come to the head, or are too many. Holds at all times::

        `dead` entries belong to jobs that aren't queued any more, at most `live + 32` of them
        the first of `jobs`, and of the heap `retried`, is queued
        jobs in `retried` are older than those in `jobs`
    """

    __slots__ = ("dead", "jobs", "retried")

    def __init__(self) -> None:
        self.priority = 0
        self.is_ready = False
        self.jobs: deque[Job[Any]] = deque()
        # Jobs that have failed and may start again, by age.
        self.retried: list[tuple[int, Job[Any]]] = []
        self.dead = 0

    def __len__(self) -> int:
        return len(self.jobs) + len(self.retried) - self.dead

    def __iter__(self) -> Iterator[Job[Any]]:
        yield from (job for _, job in sorted(self.retried) if job.status is QUEUED)
        yield from (job for job in self.jobs if job.status is QUEUED)

    def head(self) -> Job[Any]:
        return self.retried[0][1] if self.retried else self.jobs[0]

    def pop(self) -> Job[Any]:
        """Take out the job at the head."""
        job = heapq.heappop(self.retried)[1] if self.retried else self.jobs.popleft()
        if self.dead:
            self._prune()
        return job

    def restore(self, job: Job[Any]) -> None:
        """Put back a job that was at the head before, at its place by age."""
        attempt = job.attempt
        if attempt is not None and attempt.count:
            heapq.heappush(self.retried, (attempt.number, job))
        else:
            self.jobs.appendleft(job)

    def discard(self) -> None:
        """Forget a job that isn't queued any more, as its status says."""
        self.dead += 1
        self._prune()
        if self.dead > len(self) + 32:
            self.jobs = deque(job for job in self.jobs if job.status is QUEUED)
            self.retried = sorted(entry for entry in self.retried if entry[1].status is QUEUED)
            self.dead = 0

    def _prune(self) -> None:
        jobs, retried = self.jobs, self.retried
        while jobs and jobs[0].status is not QUEUED:
            jobs.popleft()
            self.dead -= 1
        while retried and retried[0][1].status is not QUEUED:
            heapq.heappop(retried)
            self.dead -= 1
