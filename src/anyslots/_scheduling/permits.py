"""The jobs that hold all they need to start, until workers claim them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from .admission import Admission
from .job import CANCELLED, PERMIT, QUEUED, RUNNING, Holder, Job, Status
from .lane_state import LaneState
from .lane_tree import LaneTree
from .ready_queue import Member
from .slots import Slots
from .start_limits import StartLimits


class Permits:
    """Gives free slots to queued jobs, as steps of a transition.

    Holds after each transition::

        `jobs` has the permitted jobs, in order; others among them were cancelled
        `unannounced == 0`: a worker was woken for each of them that no worker has claimed
        `slots` has a number for each job that runs, but for lenders
    """

    __slots__ = (
        "admission", "drop", "host", "jobs", "limits", "slots", "start_error", "tree",
        "unannounced",
    )  # fmt: skip

    def __init__(
        self,
        tree: LaneTree,
        admission: Admission,
        drop: Callable[[Job[Any], Status, Any], object],
    ) -> None:
        self.tree = tree
        self.host = tree.host
        self.admission = admission
        # Ends a job that is queued.
        self.drop = drop
        self.limits = StartLimits(tree)
        self.jobs: deque[Job[Any]] = deque()
        self.unannounced = 0
        self.slots = Slots()
        # By how much a start may be later than the clock says, in seconds.
        self.start_error = 0.0

    def select(self) -> LaneState | None:
        """The lane whose job starts next; stops those whose rates or gates don't allow it."""
        root = self.tree.root
        while root.held < root.limit and root.ready.count:
            node = root
            while (first := node.ready.first) is not node.queue:
                node = first
            if not node.constrained or self.limits.may_start(node):
                return node
        return None

    def grant(self, node: LaneState) -> None:
        """Take the job at a lane's head, and all that it needs, for the worker that claims it."""
        if self._head_gave_up(node):
            self.drop(node.queue.head(), CANCELLED, None)
            return
        job = self.tree.take(node)
        node.permitted += 1
        if node.bounded and not was_started(job):
            self.admission.leave(job)
        if node.constrained:
            self.limits.reserve(job)
        if job.holder is not None:
            # A task occupies the slot itself: no worker has to come for it.
            self._start(job, self.slots.acquire())
            self.host.occupy(job)
            return
        job.holder = PERMIT
        self.jobs.append(job)
        self.unannounced += 1

    def hand_over(self, node: LaneState) -> Job[Any] | None:
        """Start the next job in the slot of one that has ended; None frees the slot.

        For plain jobs, and those with rates that let them start now.
        """
        tree = self.tree
        root = tree.root
        # Walk up, giving back a slot of each lane. That of the root changes hands.
        lane: Any = node
        while lane is not root:
            lane.held -= 1
            parent = lane.parent
            if not lane.is_ready and lane.ready.count and lane.held < lane.limit:
                parent.ready.add(lane)
            elif not lane.held and lane.end_is_watched:
                tree.check_idle(lane)
            lane = parent
        # Walk down to the lane whose job is next.
        while (first := lane.ready.first) is not lane.queue:
            if first is None:
                break
            lane = first
        queue = lane.queue
        if (
            first is None
            or queue.retried
            or not (lane.is_plain or self.limits.start_at_once(lane, self.start_error))
        ):
            tree.free_slot()
            return None
        jobs = queue.jobs
        job: Job[Any] = queue.pop() if queue.dead else jobs.popleft()
        if job.holder is not None:
            # A task that occupies the slot itself is next: no worker goes on with it.
            jobs.appendleft(job)
            tree.free_slot()
            return None
        stays: object = jobs
        if not jobs and lane is not root:
            tree.count_emptied(lane)
        # Walk up, taking a slot of each lane.
        member: Member = queue
        while True:
            ready = lane.ready
            if not stays:
                ready.remove(member)
            elif (following := member.next) is not member:
                # As in `ReadyQueue.rotate`.
                ready.first = following
            if lane is root:
                return job
            lane.held += 1
            stays = ready.count and lane.held < lane.limit
            member, lane = lane, lane.parent

    def exchange(self, job: Job[Any], ended: Job[Any]) -> Job[Any]:
        """Permit a plain job; start the one permitted first in the slot of one that has ended."""
        assert ended.slot is not None
        jobs = self.jobs
        job.holder = PERMIT
        job.node.permitted += 1
        jobs.append(job)
        first = jobs.popleft()
        while first.status is not QUEUED:
            first = jobs.popleft()
        self._start(first, ended.slot)
        return first

    def _head_gave_up(self, node: LaneState) -> bool:
        """Whether the task that waits for the job at a lane's head has been cancelled."""
        job = node.queue.head()
        if job.holder is not None and job.holder.gave_up():
            return True
        return bool(self.admission.putters) and self.admission.gave_up(job)

    def claim(self, holder: Holder | None) -> Job[Any] | None:
        while self.jobs and self.jobs[0] not in self.admission.unconfirmed:
            job = self.jobs.popleft()
            self.unannounced = min(self.unannounced, len(self.jobs))
            if job.status is QUEUED:
                job.holder = holder
                self._start(job, self.slots.acquire())
                return job
        return None

    def confirm(self, job: Job[Any]) -> None:
        """The submitter of a job has gone on, or won't: the job may start if it's permitted."""
        self.admission.unconfirmed.discard(job)
        self.unannounced = len(self.jobs)

    def _start(self, job: Job[Any], slot: int) -> None:
        node: LaneState = job.node
        job.status = RUNNING
        job.slot = slot
        node.permitted -= 1
        if job.attempt is not None or node.constrained:
            self.limits.count_start(job, self.host.current_time() + self.start_error)

    def give_back(self, job: Job[Any]) -> None:
        """Give back all that a permit holds."""
        node: LaneState = job.node
        node.permitted -= 1
        if job.attempt is not None:
            self.limits.unreserve(job)
        self.tree.release(node)

    def revoke(self, node: LaneState, limit: float | None = None) -> None:
        """Take back the latest permits while more slots of a lane are held than may be."""
        if limit is None:
            limit = 0 if node.stopped or node.is_paused() else node.slots
        if node.held <= limit or not self.jobs:
            return
        for job in reversed(self.jobs):
            if node.held > limit and job.holder is PERMIT and job.node.is_inside(node):
                if job.node.bounded and not was_started(job):
                    self.admission.join(job.node)
                job.holder = None
                self.tree.restore(job)
                self.give_back(job)
        self.jobs = deque(job for job in self.jobs if job.holder is PERMIT)
        self.unannounced = min(self.unannounced, len(self.jobs))


def was_started(job: Job[Any]) -> bool:
    """Whether a queued job has had an attempt already."""
    return job.attempt is not None and job.attempt.count > 0
