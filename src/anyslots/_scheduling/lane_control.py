"""What is done with whole lanes: pauses, limits, ends, and what comes with time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from typing import Any

from .adaptive import Adaptive, AdaptiveLimit
from .gate import Gate
from .job import CANCELLED, FAILED, QUEUED, Attempts, Job
from .lane_state import NEVER, LaneState, waits_to_start
from .rates import Rate, RateWindow
from .scheduler import Scheduler
from .transaction import Transaction, transition
from .wait_queue import Waiter


class LaneControl:
    """The transitions of lanes; any of them may be the root. Keeps no state of its own."""

    __slots__ = ("scheduler", "tree")

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.tree = scheduler.tree

    @property
    def transaction(self) -> Transaction:
        return self.scheduler.transaction

    def close_transition(self) -> None:
        self.scheduler.close_transition()

    # Pauses.

    @transition
    def pause(self, node: LaneState, until: float | None = None) -> None:
        """Start nothing new: until a time, the latest one counts; None: until `resume`."""
        if until is None:
            node.paused = True
        else:
            node.paused_until = max(node.paused_until, until)
        self.tree.update_limit(node)
        self.scheduler.permits.revoke(node)

    @transition
    def resume(self, node: LaneState) -> None:
        node.paused = False
        node.paused_until = NEVER
        self.tree.update_limit(node)

    @transition
    def begin_shutdown(self) -> None:
        """Let pauses without an end last only as long as something runs."""
        self.scheduler.shutting_down = True

    @transition
    def stop_dispatch(self) -> None:
        """Start nothing any more."""
        root = self.scheduler.root
        self.scheduler.shutting_down = False
        root.stopped = True
        self.tree.update_limit(root)
        self.scheduler.permits.revoke(root)

    # Options.

    @transition
    def set_slots(self, node: LaneState, slots: float | Adaptive) -> None:
        if isinstance(slots, Adaptive):
            node.adaptive = AdaptiveLimit(slots)
            node.slots = node.adaptive.limit
        else:
            node.adaptive = None
            node.slots = slots
        self._apply_options(node)
        self.tree.update_limit(node)
        self.scheduler.permits.revoke(node)
        self.tree.loans.changed(node)

    @transition
    def set_max_pending(self, node: LaneState, max_pending: float) -> None:
        node.max_pending = max_pending
        self._apply_options(node)
        self.scheduler.admission.recount()

    @transition
    def set_priority(self, node: LaneState, priority: float) -> None:
        parent = node.parent
        if parent is not None and node.is_ready:
            parent.ready.remove(node)
        node.priority = priority
        self.tree.update_ready(node)
        self.tree.lift_throttles(node)

    @transition
    def set_option(self, node: LaneState, name: str, value: Any) -> None:
        """Set what lanes inside inherit, or inherit it with None: time limits and retries."""
        node.inherited = node.inherited._replace(**{name: value})
        self._apply_options(node)

    @transition
    def set_gate(self, node: LaneState, fn: Callable[[], Any] | None) -> Gate | None:
        """Replace the gate of a lane; return the one whose call is under way, to be cancelled."""
        self.scheduler.permits.revoke(node, 0)
        former, node.gate = node.gate, None if fn is None else Gate(fn)
        self._apply_options(node)
        self.tree.update_limit(node)
        return former if former is not None and former.is_called else None

    @transition
    def set_rates(
        self,
        node: LaneState,
        rates: Sequence[Rate],
        costs: dict[Job[Any], dict[int, float]],
    ) -> None:
        """Replace the rates of a lane; they count what the former ones still remember.

        ``costs``: what the queued jobs of its subtree cost, by the place of the rate.
        """
        self.scheduler.permits.revoke(node, 0)
        former = node.windows
        for window in former:
            if window.charges:
                window.forget(self.scheduler.host.current_time())
        windows = tuple(inherit_window(rate, n, former) for n, rate in enumerate(rates))
        node.windows = windows
        self._apply_options(node)
        for job, by_place in costs.items():
            attempt = job.attempt = job.attempt or Attempts()
            known = {w: c for w, c in (attempt.costs or {}).items() if w not in former}
            attempt.costs = known | {windows[place]: cost for place, cost in by_place.items()}
        self.tree.lift_throttles(node)
        self.tree.update_limit(node)

    def _apply_options(self, node: LaneState) -> None:
        """Options of a lane have changed: put them in force in it and the lanes inside."""
        for lane in node.subtree():
            lane.apply_options()

    # Ends.

    @transition
    def close(self, node: LaneState) -> None:
        """Take no more jobs in a lane and those inside; turn away the submitters that wait."""
        for lane in node.subtree():
            lane.closed = True
            lane.thread = None
        self._reject_putters(node, None)

    @transition
    def stop_submissions(self, keeps: Callable[[Waiter], bool] | None) -> None:
        """Take jobs from nowhere but from other jobs; turn away submitters but those to keep."""
        root = self.scheduler.root
        for lane in root.subtree():
            lane.thread = None
        self._reject_putters(root, keeps)

    def _reject_putters(self, node: LaneState, keeps: Callable[[Waiter], bool] | None) -> None:
        for job, putter in list(self.scheduler.admission.putters.items()):
            if job.node.is_inside(node) and not (keeps is not None and keeps(putter)):
                self.scheduler.drop(job, CANCELLED, None)
                putter.wake()

    @transition
    def cancel_queued(self, node: LaneState, reason: str | None) -> None:
        """Cancel the queued jobs of a lane and those inside; not those of waiting submitters."""
        putters = self.scheduler.admission.putters
        jobs = [job for job in self.scheduler.permits.jobs if job.node.is_inside(node)]
        for lane in node.subtree():
            jobs += [job for job in lane.queue if job not in putters]
            jobs += [entry[2] for entry in lane.backoffs or ()]
        for job in jobs:
            if job.status is QUEUED:
                self.scheduler.drop(job, CANCELLED, reason)

    # Time, and what gates say.

    @transition
    def expire(self) -> None:
        """The deadline that was set has come."""
        now = self.scheduler.host.current_time()
        self.scheduler.deadline = math.inf
        for node in self.tree.timers.expire(now):
            if node.paused_until <= now:
                node.paused_until = NEVER
            if node.throttled_until <= now:
                node.throttled_until = NEVER
            deadlines, backoffs = node.queue_deadlines, node.backoffs
            while deadlines and deadlines[0][0] <= now:
                job = heapq.heappop(deadlines)[2]
                if waits_to_start(job):
                    self.scheduler.drop(job, FAILED, self.scheduler.host.queue_timeout(job))
            while backoffs and backoffs[0][0] <= now:
                job = heapq.heappop(backoffs)[2]
                if job.status is QUEUED:
                    self.tree.end_back_off(job)
                    self.tree.restore(job)
            self.tree.update_limit(node)

    @transition
    def admit(self, node: LaneState, gate: Gate) -> None:
        """A gate's call has returned: one job more may start."""
        gate.is_called = gate.is_awaited = False
        gate.admissions += 1
        self.tree.update_limit(node)

    @transition
    def gate_failed(self, node: LaneState, gate: Gate, failure: Callable[[Job[Any]], Any]) -> bool:
        """A gate's call has raised: the job at the head fails; False if there's none.

        Neither does one if the gate was replaced.
        """
        gate.is_called = gate.is_awaited = False
        head = self.tree.head(node) if gate is node.gate else None
        if head is not None:
            self.scheduler.drop(head, FAILED, failure(head))
        self.tree.update_limit(node)
        return head is not None


def inherit_window(rate: Rate, place: int, former: Sequence[RateWindow]) -> RateWindow:
    """A window that remembers what the one it replaces does: of the same cost, or at its place."""
    window = RateWindow(rate)
    same = [each for each in former if each.rate.cost is rate.cost]
    same = same or list(former[place : place + 1]) or list(former)
    if same:
        longest = max(same, key=lambda each: each.rate.per)
        longest.heirs += (window,)
        window.charges.extend(longest.charges)
        charged = [charge[1] for charge in window.charges]
        exact = all(isinstance(each, int) for each in charged)
        window.used = sum(charged) if exact else math.fsum(charged)
    return window
