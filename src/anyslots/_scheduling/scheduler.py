"""Which job of which lane starts next: a method for each transition of a job.

    submit, put:     -> queued                    retry:     running -> queued, after a delay
    granted:  queued -> permitted                 lend:      running -> lent
    claim:    permitted -> running                reacquire: lent -> running, when there's a slot
    finish:   running -> succeeded, failed,       resume:    lent -> running at once
              cancelled; and queued -> running,   discard:   queued, permitted -> failed,
              in the same slot                               cancelled

A job takes all that it needs (a slot of each lane on its path to the root, a start of each rate, an
admission of each gate) in one step when it's permitted, and what is queued holds nothing. Permitted
jobs are queued for users; they start in order as workers claim them. What is done with lanes is in
`lane_control`.
"""

from __future__ import annotations

import math
from typing import Any

from .admission import Admission
from .job import (
    CANCELLED,
    FAILED,
    PERMIT,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Attempts,
    Holder,
    Job,
    Status,
    function_name,
)
from .lane_state import LaneState
from .lane_tree import Host, LaneTree
from .permits import Permits, was_started
from .rates import Charge, RateWindow
from .transaction import Transaction, transition
from .wait_queue import Waiter


class Scheduler:
    """Gives the slots of a tree of lanes to its jobs.

    Holds after each transition::

        no slot is free while a job could start in it
        no capacity is free while a submitter waits for it
        no lender waits that could go on
    """

    __slots__ = (
        "__weakref__", "admission", "deadline", "host", "is_calm", "is_simple", "loans", "permits",
        "plain_root", "root", "shutting_down", "transaction", "tree",
    )  # fmt: skip

    def __init__(self, root: LaneState, host: Host) -> None:
        self.root = root
        self.host = host
        self.tree = LaneTree(root, host)
        self.loans = self.tree.loans
        self.admission = Admission(root, self.drop, self._note_deadline)
        self.transaction = root.transaction = Transaction()
        self.permits = Permits(self.tree, self.admission, self.drop)
        # Whether only FIFO and turns decide what is next, as far as the whole tree is concerned;
        # and whether they do but for jobs that are permitted already.
        self.is_simple = self.is_calm = True
        self.plain_root: LaneState | None = root if root.is_plain else None
        self.deadline = math.inf  # what the host was asked for
        # Whether pauses without an end are to end once nothing runs that could end them.
        self.shutting_down = False

    # Submitting.

    @transition
    def submit(self, job: Job[Any]) -> None:
        """Queue a job, whether there's capacity for it or not."""
        node: LaneState = job.node
        if node.bounded:
            self.admission.join(node)
        self._enqueue(job)

    @transition
    def queue_added(self, node: LaneState) -> None:
        """A plain job was appended to a queue that wasn't ready."""
        if node.queue.jobs and not node.queue.is_ready:
            self.tree.queue_filled(node)

    @transition
    def put(self, putter: Waiter) -> None:
        """Queue a job; if there's no capacity for it, its submitter waits.

        The job takes its turn at once. It counts as submitted when there's capacity for it or when
        it's permitted, whichever comes first. `discard` takes it out.
        """
        job = putter.job
        if self.may_submit(job):
            if job.node.bounded:
                self.admission.join(job.node)
            self.admission.serve(putter)
        else:
            self.admission.add(putter)
        self._enqueue(job)

    def may_submit(self, job: Job[Any]) -> bool:
        """Whether there's capacity for one more queued job, or it would start at once."""
        node: LaneState = job.node
        if not node.bounded or self.admission.has_capacity(node):
            return True
        return (
            not len(node.queue)
            and all(lane.held < lane.limit for lane in node.path())
            and (not node.constrained or self.permits.limits.could_start(job))
        )

    def _enqueue(self, job: Job[Any]) -> None:
        node: LaneState = job.node
        queue = node.queue
        queue.jobs.append(job)
        if job not in self.admission.putters:
            self._note_deadline(job)
        if not queue.is_ready:
            self.tree.queue_filled(node)

    def _note_deadline(self, job: Job[Any]) -> None:
        """A job is submitted: its time in the queue counts from now on."""
        if job.node.queue_timeout is not None:
            self.tree.note_deadline(job)

    # Starting and ending.

    @transition
    def claim(self, holder: Holder | None = None) -> Job[Any] | None:
        """Start the job that was permitted first, held by what claims it; None if there's none."""
        return self.permits.claim(holder)

    def succeed(self, job: Job[Any]) -> Job[Any] | None:
        """End a running job that has returned a value, and start the next one in its slot.

        The same as `finish`, in few steps where only FIFO and turns decide what is next.
        """
        node: LaneState = job.node
        root = self.root
        if not (self.is_simple and node.is_direct) and not (
            self.is_calm and node is self.plain_root
        ):
            return self.finish(job, SUCCEEDED, job.value)
        transaction = self.transaction
        transaction.busy = True
        node.succeeded += 1
        # As in `Job.settle`.
        job.status = SUCCEEDED
        try:
            job.fn = job.fn.__qualname__  # type: ignore[union-attr]
        except Exception:
            job.fn = function_name(job.fn)
        holder = job.holder
        job.args = job.context = job.holder = None
        if job.listeners is not None:
            job.call_listeners()
            if self.loans.waiting:
                # A listener was a lender, which goes on first.
                self.tree.release(node)
                return self._succeed_freely(job, holder)
        following: Job[Any] | None
        if (
            node is self.plain_root
            and root.ready.first is (queue := root.queue)
            and not (queue.dead or queue.retried)
        ):
            # The slot stays with the root's own jobs.
            jobs = queue.jobs
            following = jobs.popleft()
            if following.holder is not None:
                # A task that occupies the slot itself is next: no worker goes on with it.
                jobs.appendleft(following)
                self.tree.free_slot()
                following = None
            elif not jobs:
                root.ready.remove(queue)
            elif queue.next is not queue:
                root.ready.rotate()
            if not self.is_simple and following is not None:
                following = self.permits.exchange(following, job)
        elif not self.is_simple:
            # Jobs that are permitted already go first.
            self.tree.free_slot()
            following = None
        else:
            following = self.permits.hand_over(node)
        if following is None:
            return self._succeed_freely(job, holder)
        following.status = RUNNING
        following.holder = holder
        following.slot = job.slot
        if transaction.is_pending:
            self.close_transition()  # who is notified sees timers, too, as they are
        else:
            transaction.busy = False
        return following

    def _succeed_freely(self, job: Job[Any], holder: Holder | None) -> Job[Any] | None:
        """The slot of a job that has succeeded is free: start what may be next, if anything."""
        try:
            assert job.slot is not None
            self.permits.slots.release(job.slot)
            return self._claim_next(holder)
        finally:
            self.close_transition()

    @transition
    def finish(
        self, job: Job[Any], status: Status, value: Any, *, goes_on: bool = True
    ) -> Job[Any] | None:
        """End a running job and, if its worker ``goes_on``, start the next one in its slot."""
        node: LaneState = job.node
        if status is SUCCEEDED:
            node.succeeded += 1
        elif status is FAILED:
            node.failed += 1
        else:
            node.cancelled += 1
        if node.constrained:
            self._feed_back(job, status)
        holder = job.holder
        job.settle(status, value)
        self.tree.release(node)
        assert job.slot is not None
        self.permits.slots.release(job.slot)
        return self._claim_next(holder) if goes_on else None

    @transition
    def retry(self, job: Job[Any], delay: float, started: float | None = None) -> None:
        """End an attempt of a running job; it's queued again once ``delay`` seconds have passed.

        ``started``: when the first attempt did, if that's known and not noted in the job.
        """
        node: LaneState = job.node
        if job.attempt is None:
            job.attempt = attempt = Attempts()
            attempt.count = 1
            attempt.number = next(self.tree.numbers) if job.value is None else job.value
            attempt.first_start = self.host.current_time() if started is None else started
        assert job.slot is not None
        self._feed_back(job, FAILED)
        self.permits.slots.release(job.slot)
        job.status = QUEUED
        job.slot = job.holder = job.value = None
        if delay:
            self.tree.back_off(job, self.host.current_time() + delay)
        else:
            job.attempt.charges = ()  # of a start that's over
            self.tree.restore(job)
        self.tree.release(node)

    @transition
    def confirm(self, job: Job[Any]) -> None:
        """The submitter of a job, which waited, has learned that it's submitted."""
        self.permits.confirm(job)

    def cancel(self, job: Job[Any], reason: str | None) -> bool:
        """Cancel a job that is queued for users; False if it isn't."""
        if job.status is not QUEUED:
            return False
        self.discard(job, CANCELLED, reason)
        return True

    @transition
    def discard(self, job: Job[Any], status: Status, value: Any) -> None:
        """End a job that is queued, or permitted, or between two attempts."""
        if job.status is QUEUED:
            self.drop(job, status, value)

    def drop(self, job: Job[Any], status: Status, value: Any) -> None:
        """The same as a step of another transition."""
        node: LaneState = job.node
        permitted = job.holder is PERMIT
        backs_off = job.attempt is not None and job.attempt.backs_off
        putter = self.admission.remove(job)
        if status is FAILED:
            node.failed += 1
            if putter is not None:
                # It's submitted with that: the submitter gets the job that has failed.
                putter.served = True
                putter.wake()
        elif putter is None:
            node.cancelled += 1
        if permitted:
            self.permits.give_back(job)
        elif backs_off:
            self.tree.end_back_off(job)
        job.settle(status, value)
        if not (permitted or backs_off):
            self.tree.discard(node)
            if putter is None and node.bounded and not was_started(job):
                self.admission.leave(job)
        self.tree.check_path_idle(node)

    # Lending.

    @transition
    def lend(self, job: Job[Any]) -> None:
        """Free the slot of a running job while it waits for something."""
        node: LaneState = job.node
        assert job.slot is not None
        node.lent += 1
        self.tree.count_busy(node, 1)
        self.permits.slots.release(job.slot)
        self.tree.release(node)

    def reacquire(self, loan: Waiter) -> None:
        """Have a lender go on as soon as there's a slot for it, ahead of all queued jobs.

        Listeners call it in the middle of the transition that ends what the lender waits for.
        """
        if not (loan.served or loan.is_waiting()):
            self.loans.add(loan)
            if not self.transaction.busy:
                self.look_again()

    @transition
    def charge(self, job: Job[Any], window: RateWindow, entry: Charge, amount: float) -> None:
        """Correct what a job's last start was charged."""
        window.adjust(entry, self.host.current_time(), amount)
        self.tree.lift_throttles(job.node)

    @transition
    def look_again(self) -> None:
        """Do what may be done, since something has changed outside of a transition."""

    @transition
    def resume(self, loan: Waiter) -> None:
        """Have a lender go on at once, beyond the limit if it must."""
        if not loan.served:
            self._resume(loan)
            for lane in loan.job.node.path():
                self.permits.revoke(lane)

    def _resume(self, loan: Waiter) -> None:
        job = loan.job
        node: LaneState = job.node
        self.loans.remove(loan)
        loan.served = True
        node.lent -= 1
        self.tree.hold(node)
        self.tree.count_busy(node, -1)
        job.slot = self.permits.slots.acquire()

    # What instruments are notified of, where there are any.

    def started(self, job: Job[Any]) -> None: ...

    def resumed(self, job: Job[Any]) -> None: ...

    def retried(self, job: Job[Any], exception: BaseException, delay: float) -> None: ...

    # Permits.

    def commit(self) -> None:
        """Give away the slots that are free, to lenders and then to jobs; and have that seen to."""
        while True:
            if self.loans.waiting and (loan := self.loans.first()) is not None:
                self._resume(loan)
                loan.wake()
            elif (node := self.permits.select()) is not None:
                self.permits.grant(node)
            elif not (self.shutting_down and not self.root.held and self.tree.end_pauses()):
                break
        self.is_calm = not (
            self.loans.waiting or self.root.held > self.root.limit or self.admission.unconfirmed
        )
        self.is_simple = self.is_calm and not self.permits.jobs
        self.plain_root = self.root if self.root.is_plain else None
        deadline = self.tree.timers.next_deadline() if self.tree.timers.heap else math.inf
        if deadline != self.deadline:
            self.deadline = deadline
            self.host.set_deadline(deadline)
        while self.permits.unannounced:
            self.permits.unannounced -= 1
            self.host.wake_worker()

    def close_transition(self) -> None:
        transaction = self.transaction
        try:
            self.commit()
        finally:
            transaction.busy = False
        if transaction.is_pending:
            transaction.deliver()

    def _claim_next(self, holder: Holder | None) -> Job[Any] | None:
        """Start a job in the slot that a worker has just given back."""
        # Before others are woken: this worker needs no waking.
        permits = self.permits
        while self.loans.waiting and (loan := self.loans.first()) is not None:
            self._resume(loan)
            loan.wake()
        while not permits.jobs and (node := permits.select()) is not None:
            permits.grant(node)
        return permits.claim(holder)

    def _feed_back(self, job: Job[Any], status: Status) -> None:
        """Tell adaptive limits how an attempt has ended, before its slots are given back."""
        attempt = job.attempt
        if attempt is None:
            return  # it began when its lane wasn't constrained yet
        for node, epoch in attempt.epochs:
            adaptive = node.adaptive
            if adaptive is None:
                continue
            if node in attempt.overloaded:
                adaptive.overloaded(epoch)
            elif status is SUCCEEDED:
                adaptive.succeeded(node.held >= node.slots and node.ready.count > 0)
            if adaptive.limit != node.slots:
                node.slots = adaptive.limit
                self.tree.update_limit(node)
                self.permits.revoke(node)
        attempt.overloaded = ()
