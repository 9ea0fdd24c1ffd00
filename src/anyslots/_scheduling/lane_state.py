"""A node of the tree of lanes, whose root is the executor."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from typing import Any

from .adaptive import Adaptive, AdaptiveLimit
from .gate import Gate
from .job import QUEUED, Job
from .job_queue import JobQueue
from .options import LaneOptions
from .rates import RateWindow
from .ready_queue import Member, ReadyQueue
from .retries import Retry
from .statistics import Statistics
from .wait_queue import Lenders, Putters

NO_LIMIT = 10**9
"""Stands for infinity: comparing an int with a float takes several times as long as with an int."""

NEVER = -math.inf


class Outside:
    """What a root finds around itself, as lanes inside others find their parents: no options."""

    timeout = queue_timeout = retry = None
    path_windows = ()
    has_costs = bounded = constrained = False
    is_direct = True


class LaneState(Member):
    """What the scheduler knows of a lane.

    `held`, `busy` and `pending` count for the lanes inside, too; the other counts are the lane's
    own and those of dropped lanes, and `statistics` adds them up. Holds at all times::

        is_ready  <=>  held < limit, and there's a queue or a lane inside that's ready
        held <= slots, unless slots were made fewer, and but for lenders whose wait was cancelled
        limit == 0 while it's stopped, paused, throttled by a rate or waiting for its gate
        busy == lent jobs + jobs between attempts + lanes inside whose queue isn't empty
        pending == jobs that wait to start, are submitted and never started, if there's a bound
    """

    __slots__ = (
        "adaptive", "backing_off", "backoffs", "bounded", "busy", "cancelled", "children", "closed",
        "constrained", "end_is_watched", "failed", "fast_path", "forgotten", "gate", "handle",
        "has_costs", "held", "idle_waiters", "inherited", "is_attended", "is_direct", "is_keyed",
        "is_observed", "is_plain", "lenders", "lent", "limit", "max_pending", "name", "parent",
        "path_windows", "paused", "paused_until", "pending", "permitted", "putters", "putting",
        "queue", "queue_deadlines", "queue_timeout", "ready", "retry", "runtime", "slots",
        "stopped", "succeeded", "thread", "throttled_until", "timeout", "transaction", "windows",
    )  # fmt: skip

    # In force, as `apply_options` and `update_limit` derive it.

    timeout: float | None
    queue_timeout: float | None
    retry: Retry | None
    # Of the lanes around it, too, and whether one of them has a cost.
    path_windows: tuple[RateWindow, ...]
    has_costs: bool
    # Whether some lane on the path has a bound.
    bounded: bool
    # Whether a job is submitted by just appending it to the queue.
    fast_path: bool
    # Whether nothing decides which of its jobs is next but FIFO, turns and slots; whether, at most,
    # rates without costs do.
    is_plain: bool
    is_direct: bool
    # Whether a worker has to see to something when one of its jobs starts.
    is_attended: bool
    limit: int

    def __init__(self, parent: LaneState | None, name: str | None, options: LaneOptions) -> None:
        slots, priority, self.max_pending, rates, gate, self.inherited = options
        self.priority = priority
        self.is_ready = False
        self.name = name
        self.parent = parent
        self.children: dict[LaneState, None] = {}
        # Of the layer above: what the tree belongs to, and a weak reference to what users hold.
        self.runtime: Any = None
        self.handle: Callable[[], Any] | None = None
        # The `Transaction` of the tree; the thread that may submit, None while none may.
        self.transaction: Any = None
        self.thread: int | None = None
        # Whether it takes no jobs any more; whether instruments observe its jobs.
        self.closed = self.is_observed = False
        # Whether a mapping keeps it by its key; whether its counts have moved to its parent.
        self.is_keyed = self.forgotten = False

        # The options, but for those in `inherited`.
        self.adaptive: AdaptiveLimit | None = None
        if isinstance(slots, Adaptive):
            self.adaptive = AdaptiveLimit(slots)
            slots = self.adaptive.limit
        self.slots: float = slots
        self.windows = tuple([RateWindow(rate) for rate in rates]) if rates else ()
        self.gate = None if gate is None else Gate(gate)

        # Whether nothing starts any more, whatever is resumed.
        self.stopped = self.paused = False
        self.paused_until = self.throttled_until = NEVER

        # Permitted and running jobs.
        self.held = 0
        self.busy = self.pending = 0
        self.permitted = self.lent = self.putting = self.backing_off = 0
        self.succeeded = self.failed = self.cancelled = 0

        self.queue = JobQueue()
        self.ready = ReadyQueue()
        # Made when they're needed: the first waiters, heaps by time.
        self.putters: Putters | None = None
        self.lenders: Lenders | None = None
        self.queue_deadlines: list[tuple[float, int, Job[Any]]] | None = None
        self.backoffs: list[tuple[float, int, Job[Any]]] | None = None
        self.idle_waiters: list[Callable[[], object]] | None = None
        # Whether to look, once its last job has ended, for such waiters, and whether it's dropped.
        self.end_is_watched = False
        # Whether its jobs need an `Attempts` when they start, as some lane on the path has a rate,
        # a gate or adaptive slots, or had: jobs may have waits and charges behind them.
        self.constrained = False

        if parent is not None:
            self.runtime = parent.runtime
            self.transaction = parent.transaction
            self.thread = parent.thread
            self.closed = parent.closed
            self.is_observed = parent.is_observed
        self.apply_options()
        # As `update_limit` has it where nothing stops the lane.
        self.limit = NO_LIMIT if slots == math.inf else int(slots)
        if parent is not None:
            parent.children[self] = None  # at last: another thread may make it

    def catch_up(self) -> None:
        """Follow what has changed in the lane around it while this one wasn't in the tree."""
        parent = self.parent
        assert parent is not None
        if parent.closed:
            self.closed = True
        self.thread = None if self.closed else parent.thread
        self.apply_options()

    def path(self) -> Iterator[LaneState]:
        """This lane and those around it, up to the root."""
        lane: LaneState | None = self
        while lane is not None:
            yield lane
            lane = lane.parent

    def subtree(self) -> Iterator[LaneState]:
        """This lane and those inside it."""
        lanes = [self]
        while lanes:
            lane = lanes.pop()
            yield lane
            lanes.extend(lane.children)

    def is_inside(self, outer: LaneState) -> bool:
        return any(lane is outer for lane in self.path())

    def option(self, name: str) -> Any:
        """An option's value in force: its own, or the nearest one around it; None if it's unset."""
        values = (getattr(lane.inherited, name) for lane in self.path())
        return next((value for value in values if value is not None), None)

    def apply_options(self) -> None:
        """Put the options in force, those of the lanes around it included."""
        around: LaneState | type[Outside] = Outside if self.parent is None else self.parent
        timeout, queue_timeout, retry = self.inherited
        timeout = around.timeout if timeout is None else finite(timeout)
        queue_timeout = around.queue_timeout if queue_timeout is None else finite(queue_timeout)
        self.timeout, self.queue_timeout = timeout, queue_timeout
        self.retry = around.retry if retry is None else retry or None
        self.is_attended = timeout is not None or self.retry is not None

        has_costs = around.has_costs
        self.path_windows = around.path_windows
        if windows := self.windows:
            self.path_windows = windows + around.path_windows
            for window in windows:
                if window.rate.cost is not None:
                    has_costs = True
        self.has_costs = has_costs
        self.bounded = bounded = around.bounded or self.max_pending != math.inf
        needs_care = bounded or has_costs or queue_timeout is not None
        self.fast_path = not (needs_care or self.is_observed)
        is_guarded = self.gate is not None or self.adaptive is not None
        self.is_direct = is_direct = around.is_direct and not (needs_care or is_guarded)
        if around.constrained or windows or is_guarded or queue_timeout is not None:
            self.constrained = True
        self.is_plain = is_direct and not self.constrained

    def is_paused(self) -> bool:
        return self.paused or self.paused_until > NEVER

    def update_limit(self) -> None:
        """Derive `limit` from what it depends on."""
        stopped = (
            self.stopped
            or self.is_paused()
            or self.throttled_until > NEVER
            or (self.gate is not None and self.gate.is_awaited)
        )
        self.limit = 0 if stopped else NO_LIMIT if self.slots == math.inf else int(self.slots)

    def next_deadline(self) -> float:
        """When to look at it again."""
        times = [time for time in (self.paused_until, self.throttled_until) if time > NEVER]
        if self.queue_deadlines:
            times.append(self.queue_deadlines[0][0])
        if self.backoffs:
            times.append(self.backoffs[0][0])
        return min(times, default=math.inf)

    def prune(self) -> None:
        """Forget the deadlines of jobs that don't wait for them any more."""
        backoffs = self.backoffs
        if backoffs and len(backoffs) > 2 * self.backing_off + 32:
            backoffs = self.backoffs = [entry for entry in backoffs if entry[2].status is QUEUED]
            heapq.heapify(backoffs)
        while backoffs and backoffs[0][2].status is not QUEUED:
            heapq.heappop(backoffs)
        deadlines = self.queue_deadlines
        if deadlines and len(deadlines) > 2 * (len(self.queue) + self.permitted) + 32:
            deadlines = self.queue_deadlines = [e for e in deadlines if waits_to_start(e[2])]
            heapq.heapify(deadlines)
        while deadlines and not waits_to_start(deadlines[0][2]):
            heapq.heappop(deadlines)

    def is_idle(self) -> bool:
        """Whether no job of it, or of a lane inside, is queued, running or lent.

        A job whose submitter waits for capacity is none yet.
        """
        if self.held:
            return False
        if not self.busy and len(self.queue) == self.putting:
            return True
        if self.putters is None:
            return False
        # Some queues may have jobs of waiting submitters alone.
        return not any(
            lane.lent or lane.backing_off or len(lane.queue) > lane.putting
            for lane in self.subtree()
        )

    def is_dropped(self) -> bool:
        """Whether users can't reach it any more but by way of its jobs."""
        return self.handle is not None and self.handle() is None and not self.is_keyed

    def is_forgettable(self) -> bool:
        """Whether it's dropped and has no jobs, nor have lanes inside."""
        return (
            self.is_idle()
            and (self.handle is None or self.handle() is None)
            and all(lane.is_forgettable() for lane in self.children)
        )

    def statistics(self) -> Statistics:
        lanes = list(self.subtree())
        permitted = sum(lane.permitted for lane in lanes)
        queued = permitted + sum(
            len(lane.queue) - lane.putting + lane.backing_off for lane in lanes
        )
        running = self.held - permitted
        lent = sum(lane.lent for lane in lanes)
        succeeded = sum(lane.succeeded for lane in lanes)
        failed = sum(lane.failed for lane in lanes)
        cancelled = sum(lane.cancelled for lane in lanes)
        return Statistics(
            slots=self.slots,
            running=running,
            queued=queued,
            lent=lent,
            submitted=queued + running + lent + succeeded + failed + cancelled,
            succeeded=succeeded,
            failed=failed,
            cancelled=cancelled,
        )


def waits_to_start(job: Job[Any]) -> bool:
    """Whether a job is queued and never started."""
    return job.status is QUEUED and (job.attempt is None or not job.attempt.count)


def finite(seconds: float | None) -> float | None:
    return None if seconds == math.inf else seconds
