"""Who may start next: every count of an executor, and every decision that depends on one.

Plain synchronous code: no await, no event loop; the clock is handed in. The executor's shell calls
a method for each thing that happens; the schedule moves its counts, rings for a worker when it has
granted a slot, and says when it must be told the time.

A job goes through these places, and each transition has one method:

    submit:  -> waiting               _grant:  waiting -> granted
    start:   granted -> running       proceed: waiting -> running, in the slot of the job before
    finish:  running -> succeeded | failed | cancelled
    lend:    running -> lent          reclaim, bring_back: lent -> running
    discard, drain: waiting, granted -> cancelled | failed

A grant is a line's right to start one job, whichever is at its head when a worker comes to take
it. It holds all that the job needs (a slot, a place of the line, a start of each rate) from the
moment that it's given, and what's waiting holds nothing.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ._future import CANCELLED, FAILED, QUEUED, SUCCEEDED, Status
from ._line import Application, Event, Line, Returner, Waiter, statistics_of
from ._rate import Meter, Rate
from ._statistics import Statistics
from ._turns import Turns

if TYPE_CHECKING:
    from ._future import Future
    from ._worker import Worker


class _Alarm(NamedTuple):
    """When to look at a line: whether its rates are open, or else whether its jobs have expired."""

    time: float
    number: int
    line: Line | None
    """None: the rates of the executor."""
    rates: bool


class Schedule:
    """Gives an executor's slots to its lines.

    Its counts are those of all lines together, dropped ones included. Holds at all times::

        held == granted + running <= slots   (unless the slots were just made fewer, and but for
                                              jobs that were cancelled while lending, and unwind)
        a slot is free  =>  no line may start a job
        a line is enrolled  <=>  it has jobs waiting and free places, and isn't asleep
    """

    __slots__ = (
        "__weakref__",
        "_alarm",
        "_alarms",
        "_asleep",
        "_doors",
        "_meters",
        "_numbers",
        "_numbers_made",
        "_returning",
        "_ring",
        "_serial",
        "_set_alarm",
        "_turns",
        "applying",
        "cancelled",
        "ending",
        "failed",
        "granted",
        "grants",
        "held",
        "idle",
        "lent",
        "limit",
        "line",
        "lines",
        "max_pending",
        "now",
        "paused",
        "slots",
        "stepping",
        "succeeded",
        "waiting",
    )

    def __init__(
        self,
        slots: float,
        ring: Callable[[], object],
        set_alarm: Callable[[float], object],
        now: Callable[[], float],
        *,
        max_pending: float = math.inf,
        rates: tuple[Rate, ...] = (),
        timeout: float | None = None,
        queue_timeout: float | None = None,
    ) -> None:
        self.slots = slots
        self.max_pending = max_pending
        self.now = now
        self._meters = tuple(Meter(rate) for rate in rates)
        self._ring = ring
        self._set_alarm = set_alarm
        self.waiting = self.granted = self.lent = self.applying = self.held = 0
        self.succeeded = self.failed = self.cancelled = 0
        # How many slots may be held now: none while it's paused, or once all is to end.
        self.limit = slots
        self.paused = False
        # Whether the executor is being left, which no pause shall hold up for ever.
        self.ending = False
        self.idle: Event | None = None
        # The job whose own code runs at this moment, not that of a task that it started.
        self.stepping: Future[Any] | None = None
        # The lenders that wait for a slot to go on with. A dict whose first keys were taken out one
        # by one has a long way to its first one; this has not.
        self._returning: OrderedDict[Returner, None] = OrderedDict()
        # The lines that were granted a slot, for the workers that were rung for.
        self.grants: deque[Line] = deque()
        # Slots are numbered from 0. The free ones among those made so far:
        self._numbers: list[int] = []
        self._numbers_made = 0
        self._turns = Turns()
        # The lines that have room, but for the bound of all, for the first who applies.
        self._doors: list[tuple[int, int, Line]] = []
        self._serial = itertools.count()
        # When to look at what, and when the shell was asked for the first of it.
        self._alarms: list[_Alarm] = []
        self._alarm = math.inf
        self._asleep = False
        # The lines with unfinished jobs, and always the executor's own; a dict for its order.
        self.line = self.add_line(timeout=timeout, queue_timeout=queue_timeout)
        self.line.active = True
        self.lines = {self.line: None}

    @property
    def unfinished(self) -> bool:
        return bool(self.waiting - self.applying or self.held or self.lent)

    def statistics(self) -> Statistics:
        return statistics_of(self, sum(line.running for line in list(self.lines)))

    def lender(self) -> Worker | None:
        """The worker whose job's own task this code runs in, if it's one of this schedule's."""
        worker = None if self.stepping is None else self.stepping._worker
        # A task that starts eagerly takes its first step inside that of the job that starts it.
        return worker if worker is not None and worker.is_current() else None

    def add_line(
        self,
        *,
        slots: float = math.inf,
        priority: float = 0,
        max_pending: float = math.inf,
        rates: tuple[Rate, ...] = (),
        timeout: float | None = None,
        queue_timeout: float | None = None,
    ) -> Line:
        line = Line(slots, priority, max_pending, rates, timeout, queue_timeout)
        line.bounded = min(max_pending, self.max_pending) != math.inf
        line.plain = self._is_plain(line)
        return line

    # What happens to one job.

    def has_room(self, line: Line) -> bool:
        """Whether a job may be submitted: there's room for it to wait, or no need of that."""
        if line.waiting < line.max_pending and self.waiting - self.applying < self.max_pending:
            return True  # nobody applies where there's room
        return (
            not line.waiting
            and self.held < self.limit
            and line.held < line.limit
            and self._opens_at(line.meters) <= self.now()
            and self._opens_at(self._meters) <= self.now()
        )

    def submit(self, line: Line, future: Future[Any]) -> None:
        """Queue a new job."""
        line.queue.append(future)
        line.waiting += 1
        self.waiting += 1
        if not line.enrolled:
            self._contend(line)
        if line.queue_timeout is not None:
            self._note_expiry(line, future)

    def apply(self, line: Line, future: Future[Any], waiter: Waiter) -> Application:
        """Queue a job that there's no room for; whoever submits it waits for the answer.

        It takes its turn like any other. It counts as submitted once there's room for it, or when
        it's granted all that it needs to run, whichever comes first.
        """
        application = Application(next(self._serial), future, waiter)
        line.applicants.append(application)
        line.applying += 1
        self.applying += 1
        line.queue.append(future)
        line.waiting += 1
        self.waiting += 1
        self._contend(line)
        return application

    def withdraw(self, line: Line, application: Application) -> None:
        """The applicant has gone: its job never was."""
        if application.future._status is QUEUED:
            self._turn_away(line, application)
            self._tidy(line)

    def redeem(self) -> Line | None:
        """Hand a grant to a worker that was rung for."""
        return self.grants.popleft() if self.grants else None

    def start(self, line: Line) -> Future[Any] | None:
        """Take the job that a grant entitles to; None if the grant is void by now."""
        if line.void:
            line.void -= 1
            return None
        line.granted -= 1
        self.granted -= 1
        line.running += 1
        future = line.queue.popleft()
        if future._status is not QUEUED:
            future = line.pop()
        if not line.plain:
            self._take_starts(line, future)
        return future

    def succeed(self, line: Line, future: Future[Any]) -> None:
        """A running job has returned a value. Its slot stays held, for `proceed` or `pass_on`."""
        line.running -= 1
        line.succeeded += 1
        self.succeeded += 1
        future._settle(SUCCEEDED, future._value)

    def finish(self, line: Line, future: Future[Any], outcome: Status, value: Any) -> None:
        """A running job has ended otherwise."""
        line.running -= 1
        self._count(line, outcome)
        future._settle(outcome, value)

    def proceed(self, line: Line) -> Future[Any] | None:
        """The job that starts at once in the slot that one of `line` has left, if any does."""
        turns = self._turns
        if self.applying or self._returning or self.held > self.limit:
            return self._start_any(line)
        if line is turns.sole:
            # There's nothing to choose: the line keeps slot and place.
            if line.waiting == 1:
                turns.step_back(line)
        elif turns.special or not line.plain:
            return self._start_any(line)
        else:
            # Turns alone say who is next.
            line.held -= 1
            if line.waiting and not line.enrolled:
                self._compete(line)
            chosen = turns.next()
            if chosen is None:
                self.held -= 1
                self._check_idle(line)
                return None
            chosen.held += 1
            if not line.held:
                self._check_idle(line)
            if chosen.waiting == 1 or chosen.held >= chosen.limit:
                turns.step_back(chosen)
            line = chosen
        line.waiting -= 1
        self.waiting -= 1
        line.running += 1
        future = line.queue.popleft()
        return future if future._status is QUEUED else line.pop()

    def _start_any(self, line: Line) -> Future[Any] | None:
        """The same by way of a grant, where more has to be looked at than turns."""
        granted = self.pass_on(line)
        return None if granted is None else self.start(granted)

    def pass_on(self, line: Line) -> Line | None:
        """Grant the slot that a job of `line` has left; or free it."""
        chosen = self._leave(line)
        if chosen is not None:
            self._grant(chosen)
        if not line.held:
            self._check_idle(line)
        return chosen

    def _leave(self, line: Line) -> Line | None:
        """A job of `line` has left its slot: choose the line that gets it."""
        line.held -= 1
        self.held -= 1
        if self._returning:
            self._welcome_back()
        if line.waiting and not line.enrolled:
            self._compete(line)
        return self._choose() if self.held < self.limit else None

    def lend(self, line: Line) -> None:
        """A running job waits for others: its slot and its place are free meanwhile."""
        line.running -= 1
        line.lent += 1
        self.lent += 1
        line.held -= 1
        self.held -= 1
        self._compete(line)
        self._offer()
        self._check_stalled()

    def reclaim(self, returner: Returner) -> None:
        """A lender wants to go on: it may at once, or is told when, ahead of all jobs.

        A pause doesn't hold it up: it isn't new.
        """
        self._returning[returner] = None
        self._welcome_back()

    def withdraw_return(self, returner: Returner) -> None:
        """A lender that was going to be told goes on all the same: it's cancelled and unwinds."""
        del self._returning[returner]
        self.bring_back(returner.line)

    def bring_back(self, line: Line) -> None:
        """A lender runs again, whether there's a slot for it or not."""
        line.lent -= 1
        self.lent -= 1
        line.running += 1
        line.held += 1
        self.held += 1
        if line.held >= line.limit:
            self._turns.step_back(line)

    def discard(
        self, line: Line, future: Future[Any], outcome: Status = CANCELLED, value: Any = None
    ) -> None:
        """A queued job is settled without having run."""
        self._forget(line)
        self._count(line, outcome)
        future._settle(outcome, value)
        self._tidy(line)

    def tell(self, *events: tuple[str, Future[Any]]) -> None:
        """Tell instruments, if there are any, of these events and of what's left to be told."""

    # What happens to a line, or to all.

    def drain(self, line: Line, reason: str | None) -> None:
        """Cancel all queued jobs of a line, but not those that this makes somebody submit."""
        while line.granted:
            self._revoke(line)
        applying = {application.future for application in line.applicants}
        queued = [future for future in line.queue if future._status is QUEUED]
        line.queue = deque(future for future in queued if future in applying)
        futures = [future for future in queued if future not in applying]
        line.waiting -= len(futures)
        self.waiting -= len(futures)
        line.cancelled += len(futures)
        self.cancelled += len(futures)
        if not line.waiting:
            self._turns.step_back(line)
        for future in futures:
            future._status = CANCELLED
        for future in futures:
            future._settle(CANCELLED, reason)
        self._tidy(line)

    def refuse(self, line: Line, stays: Callable[[Any], bool] | None = None) -> None:
        """No more jobs for this line: who applies to it is refused, but for those who may stay."""
        applicants, line.applicants = line.applicants, deque()
        for application in applicants:
            if application.future._status is not QUEUED:
                continue
            if stays is not None and stays(application.waiter):
                line.applicants.append(application)
            else:
                self._turn_away(line, application)
                application.waiter.wake()
        self._tidy(line)

    def pause(self, line: Line) -> None:
        line.paused = True
        self._limit_line(line, 0)

    def resume(self, line: Line) -> None:
        line.paused = False
        self._limit_line(line, line.slots)

    def resize(self, line: Line, slots: float) -> None:
        line.slots = slots
        # A pause holds up no lender: there may be a place for one now.
        self._limit_line(line, 0 if line.paused else slots)

    def pause_all(self) -> None:
        self.paused = True
        self._limit_all(0)

    def resume_all(self) -> None:
        self.paused = False
        self._limit_all(self.slots)

    def resize_all(self, slots: float) -> None:
        self.slots = slots
        self._limit_all(0 if self.paused else slots)

    def end(self) -> None:
        """The executor is being left: a pause lasts only as long as something runs."""
        self.ending = True
        self._check_stalled()

    def halt(self) -> None:
        """Start nothing any more."""
        self.paused = True
        self.ending = False
        self._limit_all(0)

    def tick(self) -> list[Future[Any]]:
        """The time asked for has come: the jobs that have waited too long, for `discard`."""
        now = self.now()
        expired: list[Future[Any]] = []
        while self._alarms and self._alarms[0].time <= now:
            _, _, line, rates = heapq.heappop(self._alarms)
            if line is None:
                self._asleep = False
            elif rates:
                self._wake(line)
            else:
                while line.expiries and line.expiries[0][0] <= now:
                    future = line.expiries.popleft()[1]
                    if future._status is QUEUED:
                        expired.append(future)
                line.alarmed = False
                self._watch_expiries(line)
        self._offer()
        self._arm()
        return expired

    # The numbers of slots.

    def take_number(self) -> int:
        """The lowest number that no held slot has."""
        if self._numbers:
            return heapq.heappop(self._numbers)
        self._numbers_made += 1
        return self._numbers_made - 1

    def return_number(self, number: int) -> None:
        heapq.heappush(self._numbers, number)

    # Choosing.

    def _contend(self, line: Line) -> None:
        """A line that isn't enrolled has a new job: start it, or have the line take turns."""
        if not line.active:
            line.active = True
            self.lines[line] = None
        if line.held < line.limit:
            if line.plain and not self._turns and self.held < self.limit:
                self._grant(line)
                self.grants.append(line)
                self._ring()
            else:
                self._compete(line)
                self._offer()
        elif line.paused:
            self._check_stalled()
        if self.applying:
            self._answer(line)

    def _compete(self, line: Line) -> None:
        """Have a line take turns if it has jobs that may start as far as it is concerned."""
        if line.waiting and line.held < line.limit and not line.enrolled and not line.asleep:
            self._turns.enrol(line)

    def _choose(self) -> Line | None:
        """The line whose turn it is: it may start a job now."""
        if self._meters and self._turns and self._opens_at(self._meters) > self.now():
            self._sleep(None, self._opens_at(self._meters))
            return None
        while (line := self._turns.next()) is not None:
            if line.applying and line.applying == line.waiting and not self._has_applicant(line):
                continue  # it has stepped back
            if not line.meters or self._opens_at(line.meters) <= self.now():
                return line
            self._turns.step_back(line)
            self._sleep(line, self._opens_at(line.meters))
        return None

    def _offer(self) -> None:
        """Grant the free slots to the lines whose turn it is, after those who come back."""
        self._welcome_back()
        while self.held < self.limit and (line := self._choose()) is not None:
            self._grant(line)
            self.grants.append(line)
            self._ring()

    def _welcome_back(self) -> None:
        """Tell the lenders that may go on now, the first to come first."""
        told: list[Returner] = []
        for returner in self._returning if self.held < self.slots else ():
            if returner.line.held < returner.line.slots:
                self.bring_back(returner.line)
                told.append(returner)
                if self.held >= self.slots:
                    break
        for returner in told:
            del self._returning[returner]
            returner.may_go_on = True
            returner.told.wake()

    def _grant(self, line: Line) -> None:
        line.waiting -= 1
        self.waiting -= 1
        line.granted += 1
        self.granted += 1
        line.held += 1
        self.held += 1
        if not line.plain:
            for meter in line.meters + self._meters:
                meter.reserved += 1
        if not line.waiting or line.held >= line.limit:
            self._turns.step_back(line)
        if self.applying:
            self._answer(line)

    def _revoke(self, line: Line) -> None:
        """Take back a grant, and all that it holds; its job waits again."""
        line.granted -= 1
        self.granted -= 1
        line.held -= 1
        self.held -= 1
        line.void += 1
        line.waiting += 1
        self.waiting += 1
        if not line.plain:
            for meter in line.meters + self._meters:
                meter.reserved -= 1
            self._wake(line)

    # Leaving the queue.

    def _forget(self, line: Line) -> None:
        """A queued job leaves its line other than by starting."""
        if not line.waiting:
            self._revoke(line)
        line.waiting -= 1
        self.waiting -= 1
        if not line.waiting:
            self._turns.step_back(line)

    def _tidy(self, line: Line) -> None:
        """Jobs have left a line's queue: look at what depends on it."""
        if len(line.queue) > 2 * (line.waiting + line.granted) + 32:
            line.queue = deque(future for future in line.queue if future._status is QUEUED)
        if len(line.applicants) > 2 * line.applying + 32:
            line.applicants = deque(a for a in line.applicants if a.future._status is QUEUED)
        if len(line.expiries) > 2 * (line.waiting + line.granted) + 32:
            line.expiries = deque(e for e in line.expiries if e[1]._status is QUEUED)
        self._watch_expiries(line)
        self._compete(line)
        self._offer()
        if self.applying:
            self._answer(line)
        self._arm()
        self._check_idle(line)

    def _count(self, line: Line, outcome: Status) -> None:
        if outcome is FAILED:
            line.failed += 1
            self.failed += 1
        else:
            line.cancelled += 1
            self.cancelled += 1

    # Room for those who apply.

    def _answer(self, line: Line) -> None:
        """Grant the applications that there's room for now, the first to come first."""
        while line.applying > line.waiting:
            self._admit(line)  # its job was granted a slot, room or not
        self._come_to_door(line)
        while self._doors and self.waiting - self.applying < self.max_pending:
            number, _, first = heapq.heappop(self._doors)
            first.at_door = False
            if (
                self._has_own_room(first)
                and self._has_applicant(first)
                and first.applicants[0].number == number  # or else the one before has given up
            ):
                self._admit(first)
            self._come_to_door(first)

    def _has_own_room(self, line: Line) -> bool:
        return line.waiting - line.applying < line.max_pending

    def _has_applicant(self, line: Line) -> bool:
        """Whether somebody applies; those who have given up without having left are taken out."""
        while line.applying:
            application = line.applicants[0]
            if application.future._status is not QUEUED:
                line.applicants.popleft()
            elif application.waiter.is_waiting():
                return True
            else:
                self._turn_away(line, line.applicants.popleft())
        return False

    def _admit(self, line: Line) -> Future[Any]:
        application = line.applicants.popleft()
        while application.future._status is not QUEUED:
            application = line.applicants.popleft()
        application.granted = True
        line.applying -= 1
        self.applying -= 1
        if line.queue_timeout is not None:
            self._note_expiry(line, application.future)
        application.waiter.wake()
        return application.future

    def _come_to_door(self, line: Line) -> None:
        if not line.at_door and self._has_own_room(line) and self._has_applicant(line):
            line.at_door = True
            heapq.heappush(self._doors, (line.applicants[0].number, next(self._serial), line))

    def _turn_away(self, line: Line, application: Application) -> None:
        """An application comes to nothing."""
        application.future._settle(CANCELLED, None)
        line.applying -= 1
        self.applying -= 1
        self._forget(line)

    # Rates and time.

    def _opens_at(self, meters: tuple[Meter, ...]) -> float:
        """When all of some rates allow a start: in the past, or later."""
        now = self.now() if meters else 0
        return max((meter.opens_at(now) for meter in meters), default=-math.inf)

    def _take_starts(self, line: Line, future: Future[Any]) -> None:
        """A job of a line that isn't plain starts: rates count it, and it can't expire any more."""
        while line.expiries and (
            line.expiries[0][1] is future or line.expiries[0][1]._status is not QUEUED
        ):
            line.expiries.popleft()
        meters = line.meters + self._meters
        if meters:
            now = self.now()
            for meter in meters:
                meter.start(now)
            # Until now, nobody could say when they open again.
            self._wake(line)
            self._offer()
        self._arm()

    def _sleep(self, line: Line | None, until: float) -> None:
        """The rates of a line, or of the executor, allow no start before ``until``."""
        if line is not None:
            line.asleep = True
        elif self._asleep:
            return
        if until < math.inf:
            self._asleep = self._asleep or line is None
            heapq.heappush(self._alarms, _Alarm(until, next(self._serial), line, True))
            self._arm()

    def _wake(self, line: Line) -> None:
        line.asleep = False
        self._compete(line)

    def _note_expiry(self, line: Line, future: Future[Any]) -> None:
        assert line.queue_timeout is not None
        line.expiries.append((self.now() + line.queue_timeout, future))
        self._watch_expiries(line)

    def _watch_expiries(self, line: Line) -> None:
        """Have somebody look when the first of the queued jobs expires."""
        while line.expiries and line.expiries[0][1]._status is not QUEUED:
            line.expiries.popleft()
        if line.expiries and not line.alarmed:
            line.alarmed = True
            alarm = _Alarm(line.expiries[0][0], next(self._serial), line, False)
            heapq.heappush(self._alarms, alarm)
            self._arm()

    def _arm(self) -> None:
        """Ask for the time of the first alarm that somebody waits for."""
        while self._alarms and not self._is_wanted(self._alarms[0]):
            heapq.heappop(self._alarms)
        if len(self._alarms) > 4 * len(self.lines) + 32:
            self._alarms = [alarm for alarm in self._alarms if self._is_wanted(alarm)]
            heapq.heapify(self._alarms)
        first = self._alarms[0].time if self._alarms else math.inf
        if first != self._alarm:
            self._alarm = first
            self._set_alarm(first)

    def _is_wanted(self, alarm: _Alarm) -> bool:
        """Whether anybody waits for an alarm still; if not, it's as if it had never been."""
        line = alarm.line
        if line is None:
            wanted = self._asleep = bool(self._turns)
        elif alarm.rates:
            wanted = line.asleep = line.asleep and line.waiting > 0
        else:
            wanted = line.alarmed = bool(line.expiries)
        return wanted

    # Limits and ends.

    def _is_plain(self, line: Line) -> bool:
        return not (line.meters or self._meters or line.queue_timeout is not None)

    def _limit_line(self, line: Line, limit: float) -> None:
        line.limit = limit
        while line.granted and line.held > limit:
            self._revoke(line)
        if line.held >= limit:
            self._turns.step_back(line)
        self._compete(line)
        self._offer()
        self._check_stalled()

    def _limit_all(self, limit: float) -> None:
        self.limit = limit
        for line in list(self.lines) if self.held > limit else ():
            while line.granted and self.held > limit:
                self._revoke(line)
            self._compete(line)
        self._offer()
        self._check_stalled()

    def _check_idle(self, line: Line) -> None:
        """Tell those who wait for the last unfinished job, once it has ended."""
        if not line.unfinished:
            if line.idle is not None:
                line.idle.set()
                line.idle = None
            if not line.applying and line is not self.line:
                line.active = False
                self.lines.pop(line, None)
            if self.idle is not None and not self.unfinished:
                self.idle.set()
                self.idle = None
        self._check_stalled()

    def _check_stalled(self) -> None:
        """End all pauses if the executor is being left and nothing runs that could end them."""
        if self.ending and not self.held:
            # All at once, so that the highest priority goes first.
            for line in self.lines:
                if line.paused:
                    line.paused = False
                    line.limit = line.slots
                    self._compete(line)
            self.paused = False
            self.limit = self.slots
            self._offer()
