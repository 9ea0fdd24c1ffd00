"""What the schedule knows of each lane, and of those who wait for room in it: data, hardly code."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from ._future import QUEUED
from ._rate import Meter, Rate
from ._statistics import Statistics

if TYPE_CHECKING:
    from ._backend import Parked
    from ._future import Future
    from ._schedule import Schedule


class Event(Protocol):
    """What the schedule needs of an `anyio.Event`."""

    def set(self) -> object: ...

    async def wait(self) -> object: ...


class Waiter(Protocol):
    """Somebody who waits to be woken, and may have given up."""

    def is_waiting(self) -> bool: ...

    def wake(self) -> None: ...


class Application:
    """Somebody waits until there's room for a job, which stands in its line's queue already."""

    __slots__ = ("future", "granted", "number", "waiter")

    def __init__(self, number: int, future: Future[Any], waiter: Waiter) -> None:
        self.number = number
        self.future = future
        # Woken when there's an answer: granted, or refused if the line was closed.
        self.waiter = waiter
        self.granted = False


class Returner:
    """A job that has lent its slot and waits for one to go on with."""

    __slots__ = ("line", "may_go_on", "told")

    def __init__(self, line: Line, told: Parked) -> None:
        self.line = line
        # Woken when it may go on, or when it's cancelled and shall unwind.
        self.told = told
        self.may_go_on = False


class Line:
    """What the schedule knows of a lane.

    Each job is in just one of the counts; the last `applying` ones of those waiting are not
    submitted yet.
    """

    __slots__ = (
        "active",
        "after",
        "alarmed",
        "applicants",
        "applying",
        "asleep",
        "at_door",
        "before",
        "bounded",
        "cancelled",
        "enrolled",
        "expiries",
        "failed",
        "granted",
        "held",
        "idle",
        "lent",
        "limit",
        "max_pending",
        "meters",
        "paused",
        "plain",
        "priority",
        "queue",
        "queue_timeout",
        "running",
        "slots",
        "succeeded",
        "timeout",
        "void",
        "waiting",
    )

    # Counts of jobs.
    waiting: int
    granted: int
    running: int
    lent: int
    applying: int
    succeeded: int
    failed: int
    cancelled: int
    # Whether it's among those that take turns: it has jobs waiting and places for them, and
    # isn't asleep until a rate of its own opens again.
    enrolled: bool
    asleep: bool
    # The enrolled ones of its priority around it; only while it's one of them.
    before: Line
    after: Line
    # Facts that branch its jobs off the plain path: no rate and no time limit; a bound.
    plain: bool
    bounded: bool

    def __init__(
        self,
        slots: float,
        priority: float,
        max_pending: float,
        rates: tuple[Rate, ...],
        timeout: float | None,
        queue_timeout: float | None,
    ) -> None:
        self.slots: float = slots
        self.priority: float = priority
        self.max_pending: float = max_pending
        self.meters: tuple[Meter, ...] = tuple(Meter(rate) for rate in rates)
        # How many seconds a job may run, and may be queued; None for no limit.
        self.timeout: float | None = timeout
        self.queue_timeout: float | None = queue_timeout
        self.waiting = self.granted = self.running = self.lent = self.applying = 0
        self.succeeded = self.failed = self.cancelled = 0
        # The places taken: granted + running <= slots, unless the slots were just made fewer.
        self.held: int = 0
        # How many places may be taken now: none while it's paused.
        self.limit: float = slots
        self.paused: bool = False
        # Holds the `waiting + granted` queued futures, and among them cancelled ones that nobody
        # has come across yet, never more than the queued ones but for a few.
        self.queue: deque[Future[Any]] = deque()
        # Grants that were taken back after somebody had been told of them.
        self.void: int = 0
        self.enrolled = self.asleep = False
        # Whether it's among the schedule's lines: it has unfinished jobs, or jobs applying.
        self.active: bool = False
        # Those who wait for room, in order, and among them some who don't any more.
        self.applicants: deque[Application] = deque()
        # Whether the first of them waits for room among the jobs of all lines.
        self.at_door: bool = False
        # When the queued jobs expire, in order, and among them some that aren't queued any more.
        self.expiries: deque[tuple[float, Future[Any]]] = deque()
        self.alarmed: bool = False
        # Set, and forgotten, when the last unfinished job ends; made by the first who waits for it.
        self.idle: Event | None = None
        self.plain = self.bounded = False

    @property
    def unfinished(self) -> bool:
        return bool(self.waiting - self.applying or self.held or self.lent)

    def pop(self) -> Future[Any]:
        """Take the queued job at the head."""
        future = self.queue.popleft()
        while future._status is not QUEUED:
            future = self.queue.popleft()
        return future

    def statistics(self) -> Statistics:
        return statistics_of(self, self.running)


def statistics_of(counts: Line | Schedule, running: int) -> Statistics:
    """The counts of a line, or of all; a job is in just one of them, so their sum is all jobs."""
    queued = counts.waiting - counts.applying + counts.granted
    done = counts.succeeded + counts.failed + counts.cancelled
    return Statistics(
        slots=counts.slots,
        running=running,
        queued=queued,
        lent=counts.lent,
        submitted=queued + running + counts.lent + done,
        succeeded=counts.succeeded,
        failed=counts.failed,
        cancelled=counts.cancelled,
    )
