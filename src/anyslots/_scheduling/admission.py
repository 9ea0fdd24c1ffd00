"""Capacity of queues, and the submitters that wait for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from .job import CANCELLED, Job, Status
from .lane_state import LaneState, waits_to_start
from .wait_queue import Putters, Waiter


class Admission:
    """Admits jobs to bounded queues.

    The job of a submitter that waits, a putter, is in the queue already, as the tail beyond
    ``max_pending``. Holds after each transition::

        while there's capacity on a path, no putter waits there; putters are admitted in FIFO order
        jobs in `unconfirmed` are submitted, and aren't claimed until their submitters have gone on
        `pending` of a bounded lane counts the jobs of its subtree that are queued for their first
        start and not permitted, without those of putters
    """

    __slots__ = ("admitted", "drop", "putters", "root", "tickets", "unconfirmed")

    def __init__(
        self,
        root: LaneState,
        drop: Callable[[Job[Any], Status, Any], object],
        admitted: Callable[[Job[Any]], object],
    ) -> None:
        self.root = root
        # Takes the job of a submitter that has given up out of its queue.
        self.drop = drop
        # Is called with the job of a putter that waits no more: it's submitted now.
        self.admitted = admitted
        # The submitters that wait, by job.
        self.putters: dict[Job[Any], Waiter] = {}
        # Jobs whose submitters have been served and will say that they go on, or don't.
        self.unconfirmed: set[Job[Any]] = set()
        self.tickets = itertools.count()

    def has_capacity(self, node: LaneState) -> bool:
        """Whether there's capacity on the path for one more queued job."""
        lane: LaneState | None = node
        while lane is not None:
            if lane.pending >= lane.max_pending:
                return False
            lane = lane.parent
        return True

    def join(self, node: LaneState) -> None:
        """A submitted job is queued."""
        for lane in node.path():
            lane.pending += 1

    def leave(self, job: Job[Any]) -> None:
        """A job leaves the queue before its first start: admit others; or itself, if it waited."""
        node: LaneState = job.node
        if job in self.putters:
            self._admit(job)
            return
        for lane in node.path():
            lane.pending -= 1
        if self.putters:
            self.changed(node)

    def changed(self, node: LaneState) -> None:
        """Admit the putters that there's capacity for, now that counts or bounds have changed."""
        while node.putters is None and node.parent is not None:
            node = node.parent
        if node.putters is None:
            return
        node.putters.update()
        assert self.root.putters is not None
        while (putter := self.root.putters.first()) is not None:
            if putter.gave_up():
                self.drop(putter.job, CANCELLED, None)
                continue
            if putter.job.node.bounded:
                self.join(putter.job.node)
            self._admit(putter.job)

    def recount(self) -> None:
        """Bounds have changed: count the queued jobs of bounded lanes anew, and admit others."""
        lanes = list(self.root.subtree())
        for lane in lanes:
            lane.pending = 0
        for lane in lanes:
            if lane.bounded:
                jobs = (job for job in lane.queue if waits_to_start(job))
                pending = sum(job not in self.putters for job in jobs)
                for outer in lane.path():
                    outer.pending += pending
        for lane in lanes:
            self.changed(lane)

    def add(self, putter: Waiter) -> None:
        """Have a submitter wait, whose job joins the tail of its lane's queue."""
        node: LaneState = putter.job.node
        self.putters[putter.job] = putter
        node.putting += 1
        self._putters_of(node).add(putter, next(self.tickets))

    def gave_up(self, job: Job[Any]) -> bool:
        """Whether the submitter of a job has waited for capacity, and doesn't any more."""
        putter = self.putters.get(job)
        return putter is not None and putter.gave_up()

    def remove(self, job: Job[Any]) -> Waiter | None:
        """Have a job's submitter wait no more, if it did."""
        putter = self.putters.pop(job, None)
        if putter is not None:
            node: LaneState = job.node
            node.putting -= 1
            assert node.putters is not None
            node.putters.remove(putter)
        return putter

    def _admit(self, job: Job[Any]) -> None:
        putter = self.remove(job)
        assert putter is not None
        self.admitted(job)
        self.serve(putter)

    def serve(self, putter: Waiter) -> None:
        """Have a submitter know that its job is submitted."""
        putter.served = True
        if putter.confirms():
            self.unconfirmed.add(putter.job)
        putter.wake()

    def _putters_of(self, node: LaneState) -> Putters:
        if node.putters is None:
            parent = node.parent
            node.putters = Putters(node, None if parent is None else self._putters_of(parent))
        return node.putters
