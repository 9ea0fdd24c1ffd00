"""Walks over the tree of lanes: down to choose a job, up to take slots and to give them back."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from typing import Any, Protocol

from .job import Job
from .lane_state import NEVER, LaneState
from .loans import Loans
from .ready_queue import Member
from .timers import Timers


class Host(Protocol):
    """What's asked of the layer above, in the middle of transitions: no code of users runs here."""

    def current_time(self) -> float: ...

    def wake_worker(self) -> object:
        """Have a worker come to claim a job; once for each that's permitted."""

    def set_deadline(self, time: float, /) -> object:
        """Have `LaneControl.expire` called at this time, instead of the one before."""

    def call_gate(self, lane: LaneState, /) -> object:
        """Have a gate's function called, and `LaneControl.admit` or `gate_failed` after that."""

    def occupy(self, job: Job[Any], /) -> object:
        """A job without a function has started: wake the task that occupies its slot."""

    def queue_timeout(self, job: Job[Any], /) -> object:
        """The value of a job that fails as it was queued for too long."""


class LaneTree:
    """The lanes of one executor, and what is kept for all of them.

    Its methods keep what `LaneState` says of a lane true on a whole path. They are steps of a
    transition, and call nothing that users wrote.
    """

    __slots__ = (
        "dropped", "host", "loans", "numbers", "root", "timers",
    )  # fmt: skip

    def __init__(self, root: LaneState, host: Host) -> None:
        self.root = root
        self.host = host
        self.timers: Timers[LaneState] = Timers()
        self.loans = Loans(root)
        # Numbers jobs by age, in the order of first starts, should they be retried.
        self.numbers = itertools.count()
        # Lanes whose handle is gone: appended to by finalizers, in any thread.
        self.dropped: deque[LaneState] = deque()

    # Queues.

    def queue_filled(self, node: LaneState) -> None:
        """The queue of a lane isn't empty any more."""
        node.ready.add(node.queue)
        parent = node.parent
        while parent is not None:
            parent.busy += 1
            parent = parent.parent
        self.update_ready(node)
        if node.constrained:
            self.lift_throttles(node)

    def count_emptied(self, node: LaneState) -> None:
        """The queue of a lane has become empty."""
        parent = node.parent
        while parent is not None:
            parent.busy -= 1
            parent = parent.parent

    def discard(self, node: LaneState) -> None:
        """A job in the queue of a lane has left it otherwise than by being permitted."""
        queue = node.queue
        queue.discard()
        if queue.is_ready and not (queue.jobs or queue.retried):
            node.ready.remove(queue)
            self.count_emptied(node)
            self.update_ready(node)
        if node.constrained:
            self.lift_throttles(node)

    def restore(self, job: Job[Any]) -> None:
        """Put a job back into its queue, at its place by age."""
        node: LaneState = job.node
        node.queue.restore(job)
        if not node.queue.is_ready:
            self.queue_filled(node)
        elif node.constrained:
            self.lift_throttles(node)

    def back_off(self, job: Job[Any], until: float) -> None:
        """Have a job wait, outside of its queue, for the time of its next attempt."""
        node: LaneState = job.node
        assert job.attempt is not None
        job.attempt.backs_off = True
        job.attempt.charges = ()  # of a start that's over
        node.backing_off += 1
        self.count_busy(node, 1)
        if node.backoffs is None:
            node.backoffs = []
        heapq.heappush(node.backoffs, (until, job.attempt.number, job))
        self.update_timer(node)

    def end_back_off(self, job: Job[Any]) -> None:
        assert job.attempt is not None
        job.attempt.backs_off = False
        job.node.backing_off -= 1
        self.count_busy(job.node, -1)

    def note_deadline(self, job: Job[Any]) -> None:
        """Note when a job has been queued for too long."""
        node: LaneState = job.node
        assert node.queue_timeout is not None
        if node.queue_deadlines is None:
            node.queue_deadlines = []
        deadline = self.host.current_time() + node.queue_timeout
        heapq.heappush(node.queue_deadlines, (deadline, next(self.numbers), job))
        self.update_timer(node)

    def update_ready(self, node: LaneState) -> None:
        """Have lanes take turns in the lanes around them, or not, from this one up."""
        while (parent := node.parent) is not None:
            may_start = node.held < node.limit and node.ready.count > 0
            if may_start is not node.is_ready:
                (parent.ready.add if may_start else parent.ready.remove)(node)
            node = parent

    def count_busy(self, node: LaneState, change: int) -> None:
        """A job of the lane begins, or ceases, to be neither held nor in the queue."""
        for lane in node.path():
            lane.busy += change

    # Slots.

    def take(self, node: LaneState) -> Job[Any]:
        """Take the job at the head of the lane whose turn it is and, walking up, the slots."""
        queue = node.queue
        job = queue.pop()
        member: Member = queue
        stays: object = queue.jobs or queue.retried
        if not stays:
            self.count_emptied(node)
        lane: LaneState | None = node
        while lane is not None:
            lane.held += 1
            ready = lane.ready
            if not stays:
                ready.remove(member)
            elif member.next is not member:
                ready.rotate()
            stays = ready.count and lane.held < lane.limit
            member, lane = lane, lane.parent
        self.loans.changed(node)
        return job

    def hold(self, node: LaneState) -> None:
        """Take a slot of each lane on the path, whether there's one or not."""
        for lane in node.path():
            lane.held += 1
        self.update_ready(node)
        if node.constrained:
            self.lift_throttles(node)
        self.loans.changed(node)

    def release(self, node: LaneState) -> None:
        """Give back a slot of each lane on the path."""
        for lane in node.path():
            lane.held -= 1
            if not lane.held and lane.end_is_watched:
                self.check_idle(lane)
        self.update_ready(node)
        if node.constrained:
            self.lift_throttles(node)
        self.loans.changed(node)

    def free_slot(self) -> None:
        """Give back a slot of the root, after those of the lanes inside."""
        root = self.root
        root.held -= 1
        if not root.held and root.end_is_watched:
            self.check_idle(root)

    def head(self, node: LaneState) -> Job[Any] | None:
        """The job of a lane, or of the lanes inside, that is next in turn."""
        while (first := node.ready.first) is not node.queue:
            if first is None:
                return None
            node = first
        head: Job[Any] = node.queue.head()
        return head

    # Ends.

    def check_idle(self, node: LaneState) -> None:
        """If a lane has no job left, wake the tasks that wait for that; forget it if it's dropped.

        Asked only where `end_is_watched`.
        """
        if not node.is_idle():
            return
        waiters, node.idle_waiters = node.idle_waiters, None
        for wake in waiters or ():
            wake()
        if not node.is_dropped():
            node.end_is_watched = False
        elif not (node.children or node.putting):
            self.forget(node)
            if node.parent is not None and node.parent.end_is_watched:
                self.check_idle(node.parent)

    def check_path_idle(self, node: LaneState) -> None:
        """A job has left other than by giving back a slot."""
        for lane in node.path():
            if lane.end_is_watched:
                self.check_idle(lane)

    def sweep(self) -> None:
        """Forget the lanes that were dropped, or do so once they are idle."""
        dropped = self.dropped
        while dropped:
            node = dropped.popleft()
            node.end_is_watched = True
            self.check_idle(node)

    def forget(self, node: LaneState) -> None:
        """Move the counts of a lane that nothing refers to any more to the lane around it."""
        parent = node.parent
        if parent is not None and not node.forgotten:
            node.forgotten = True
            del parent.children[node]
            self.timers.set(node, math.inf)
            parent.succeeded += node.succeeded
            parent.failed += node.failed
            parent.cancelled += node.cancelled

    def recall(self, node: LaneState) -> None:
        """A lane that was forgotten is held again: by way of a future of one of its jobs."""
        parent = node.parent
        if parent is not None and node.forgotten:
            self.recall(parent)
            node.forgotten = False
            parent.children[node] = None
            parent.succeeded -= node.succeeded
            parent.failed -= node.failed
            parent.cancelled -= node.cancelled
            node.is_keyed = False  # its mapping has let go of it
            node.catch_up()
            self.update_timer(node)

    # Rates, gates and time.

    def end_pauses(self) -> bool:
        """End all pauses that have no end of their own; False if there's none."""
        paused = [lane for lane in self.root.subtree() if lane.paused]
        for lane in paused:
            lane.paused = False
            self.update_limit(lane)
        return bool(paused)

    def update_limit(self, node: LaneState) -> None:
        """What the limit of a lane depends on has changed."""
        node.update_limit()
        self.update_timer(node)
        self.update_ready(node)
        if node.parent is not None and node.parent.constrained:
            self.lift_throttles(node.parent)

    def lift_throttles(self, node: LaneState) -> None:
        """Look again at the lanes on a path: what's chosen may cost less, or rates have room."""
        for lane in node.path():
            if lane.throttled_until > NEVER:
                lane.throttled_until = NEVER
                self.update_limit(lane)

    def update_timer(self, node: LaneState) -> None:
        if node.queue_deadlines or node.backoffs:
            node.prune()
        # What's forgotten may still hear of its gate.
        self.timers.set(node, math.inf if node.forgotten else node.next_deadline())
