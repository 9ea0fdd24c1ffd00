"""The schedule against an independent model: lists of jobs, and what the contract says of them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from virtual_time import tally

from anyslots import Rate
from anyslots._future import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED
from anyslots._line import Returner
from anyslots._schedule import Schedule

ENDS = ["succeeded", "failed", "cancelled"]


class Job:
    """As much of a future as the schedule touches."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._status = QUEUED
        self._value = None
        self.settled = 0
        # What happens when it's settled, as in a callback.
        self.callback = lambda: None

    def _settle(self, status, value) -> None:
        assert self._status in (QUEUED, RUNNING, CANCELLED)
        self._status = status
        self.settled += 1
        self.callback()

    def __repr__(self) -> str:
        return f"<{self.number} {self._status.value}>"


class Event:
    is_set = False

    def set(self) -> None:
        assert not self.is_set
        self.is_set = True

    def wake(self) -> None:
        self.set()

    def is_waiting(self) -> bool:
        return not self.is_set


class Applicant(Event):
    """Somebody who waits for room, and tells the machine of the answer."""

    def __init__(self, machine, lane: Lane, job: Job) -> None:
        self.machine = machine
        self.lane = lane
        self.job = job
        self.application = None

    def wake(self) -> None:
        self.set()
        # At once, if it's the one who ends a pause by coming.
        if self.application is None or self.application.granted:
            self.machine.admitted(self)


class Lender(Event):
    """A job that has lent its slot; once it's asking for another, what it waits for."""

    def __init__(self, machine, lane: Lane, job: Job) -> None:
        self.machine = machine
        self.lane = lane
        self.job = job
        self.returner = Returner(lane.line, self)

    def wake(self) -> None:
        super().wake()
        assert self.returner.may_go_on
        self.machine.comes_back(self)


@dataclass(eq=False)
class Lane:
    """What the model knows of a line."""

    line: object
    slots: float
    priority: int
    max_pending: float
    rates: tuple[Rate, ...]
    queue_timeout: float | None
    queued: list[Job] = field(default_factory=list)
    # Those with jobs behind the queued ones, that are waiting for room.
    applying: list[Applicant] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)
    # Jobs that have lent their slots, and among them those that ask for another: both in order.
    lent: list[Lender] = field(default_factory=list)
    # Former lenders that have been told to go on, and have not yet.
    back: list[Lender] = field(default_factory=list)
    # Jobs that have ended, in slots that nobody has passed on yet.
    leaving: int = 0
    done: Counter = field(default_factory=Counter)
    idle: Event | None = None
    # Whether it was given fewer places than are taken.
    shrunk: bool = False
    expiries: dict[Job, float] = field(default_factory=dict)
    starts: list[float] = field(default_factory=list)
    grants: int = 0
    paused: bool = False
    # How often each other lane of its rank was chosen since this one could have been.
    passed_by: dict[Lane, int] = field(default_factory=lambda: defaultdict(int))

    def held(self) -> int:
        return self.grants + len(self.running) + len(self.back) + self.leaving

    def pending(self) -> int:
        """How many jobs count as waiting."""
        return len(self.queued) - self.grants

    def unfinished(self) -> bool:
        return bool(self.queued or self.held() or self.lent)


class Watched(Schedule):
    """A schedule that tells the machine of each choice, and of each grant that's taken back."""

    __slots__ = ("machine",)

    def _grant(self, line) -> None:
        self.machine.granted(line)
        super()._grant(line)

    def _revoke(self, line) -> None:
        super()._revoke(line)
        self.machine.lanes[line].grants -= 1

    def _check_stalled(self) -> None:
        self.machine.may_be_stalled()
        super()._check_stalled()


lane_options = st.fixed_dictionaries(
    {
        "slots": st.sampled_from([math.inf, math.inf, 1, 2]),
        "priority": st.sampled_from([0, 0, 1, -1]),
        "max_pending": st.sampled_from([math.inf, math.inf, 0, 1, 3]),
        "rates": st.sampled_from([(), (), (Rate(1, 2),), (Rate(2, 3), Rate(1, 1))]),
        "queue_timeout": st.sampled_from([None, None, 2, 5]),
    }
)


class ScheduleMachine(RuleBasedStateMachine):
    @initialize(
        slots=st.sampled_from([1, 2, 3, math.inf]),
        rates=st.sampled_from([(), (), (Rate(1, 2),), (Rate(2, 1),)]),
        max_pending=st.sampled_from([math.inf, math.inf, 0, 2]),
        lanes=st.lists(lane_options, max_size=3),
    )
    def make(self, slots, rates, max_pending, lanes) -> None:
        self.time = 0.0
        self.alarm = math.inf
        self.rings = 0
        self.choices = 0
        self.slots = slots
        self.paused = self.halted = self.ending = self.shrunk = False
        self.rates = rates
        self.max_pending = max_pending
        self.starts: list[float] = []
        self.jobs: list[Job] = []
        self.numbers: dict[Job, int] = {}
        # Slots of workers that hold a grant by themselves, and whose.
        self.held_grants: list[tuple[int, Lane]] = []
        # Lenders that ask for a slot, in order.
        self.returning: list[Lender] = []
        # Jobs that went on without one, to unwind.
        self.unwinding: set[Job] = set()
        self.idle: Event | None = None
        self.schedule = Watched(
            slots,
            self.ring,
            self.set_alarm,
            lambda: self.time,
            rates=rates,
            max_pending=max_pending,
        )
        self.schedule.machine = self
        self.lanes: dict[object, Lane] = {}
        self.learn(self.schedule.line, {})
        for options in lanes:
            self.learn(self.schedule.add_line(**options), options)

    def learn(self, line, options) -> None:
        defaults = {
            "slots": math.inf,
            "priority": 0,
            "max_pending": math.inf,
            "rates": (),
            "queue_timeout": None,
        }
        self.lanes[line] = Lane(line, **(defaults | options))

    def ring(self) -> None:
        self.rings += 1

    def set_alarm(self, time: float) -> None:
        assert time != self.alarm
        self.alarm = time

    # The model's view.

    def held(self) -> int:
        return sum(lane.held() for lane in self.lanes.values())

    def unfinished(self) -> bool:
        return self.any_lane(Lane.unfinished)

    def may_come_back(self, lender: Lender) -> bool:
        return self.held() < self.slots and lender.lane.held() < lender.lane.slots

    def open_at(self, rates, starts, grants) -> bool:
        """Whether one more start would keep to the rates, now."""
        return all(
            sum(start > self.time - rate.per for start in starts) + grants < rate.limit
            for rate in rates
        )

    def may_start(self, lane: Lane) -> bool:
        grants = sum(other.grants for other in self.lanes.values())
        return (
            len(lane.queued) + len(lane.applying) > lane.grants
            and lane.held() < lane.slots
            and not lane.paused
            and self.open_at(lane.rates, lane.starts, lane.grants)
            and self.open_at(self.rates, self.starts, grants)
        )

    def room(self, lane: Lane) -> bool:
        everywhere = sum(other.pending() for other in self.lanes.values())
        return lane.pending() < lane.max_pending and everywhere < self.max_pending

    def granted(self, line) -> None:
        """The schedule has chosen: whose turn was it?"""
        chosen = self.lanes[line]
        assert not self.paused
        assert not self.halted
        assert self.held() < self.slots
        assert not any(map(self.may_come_back, self.returning))
        assert self.may_start(chosen)
        for lane in self.lanes.values():
            if lane is not chosen and self.may_start(lane):
                assert lane.priority <= chosen.priority
                if lane.priority == chosen.priority:
                    lane.passed_by[chosen] += 1
                    assert lane.passed_by[chosen] <= 1
        chosen.passed_by.clear()
        chosen.grants += 1
        self.choices += 1

    def began(self, lane: Lane, job: Job, number: int) -> None:
        """Whoever starts must be the one that was submitted first."""
        assert job is lane.queued.pop(0)
        job._status = RUNNING
        lane.expiries.pop(job, None)
        lane.grants -= 1
        lane.running.append(job)
        lane.starts.append(self.time)
        self.starts.append(self.time)
        self.numbers[job] = number

    def take_number(self) -> int:
        """The number of a slot: the lowest that no other has."""
        number = self.schedule.take_number()
        taken = {*self.numbers.values(), *(number for number, _ in self.held_grants)}
        assert number == min(set(range(len(taken) + 1)) - taken)
        return number

    def queue(self, lane: Lane, job: Job) -> None:
        self.jobs.append(job)
        lane.queued.append(job)
        lane.expiries[job] = self.time + (lane.queue_timeout or math.inf)

    def admitted(self, applicant: Applicant) -> None:
        """Whoever is let in must be the first in the lane, and have room, or a slot."""
        lane = applicant.lane
        assert applicant is lane.applying.pop(0)
        assert self.room(lane) or lane.pending() < 0
        self.queue(lane, applicant.job)

    def comes_back(self, lender: Lender) -> None:
        """A lender is told to go on: it must be the first of those that may."""
        assert lender is next(filter(self.may_come_back, self.returning))
        self.returning.remove(lender)
        lender.lane.lent.remove(lender)
        lender.lane.back.append(lender)

    def may_be_stalled(self) -> None:
        """While the executor is being left, pauses end when nothing runs."""
        if self.ending and not self.held():
            self.note_idle()  # until those who wait for room in a paused lane are let in
            self.paused = False
            for lane in self.lanes.values():
                if lane.line is self.schedule.line or lane.unfinished() or lane.applying:
                    lane.paused = False

    def note_idle(self) -> None:
        """Those who wait for the last job have been told if it has ended, and not before."""
        for counts, known in ((self.schedule, self), *self.lanes.items()):
            if known.idle is not None:
                assert known.idle.is_set == (not known.unfinished())
                if known.idle.is_set:
                    known.idle = None
            assert counts.idle is known.idle
            assert counts.unfinished == known.unfinished()

    def some_lane(self, data, having) -> Lane:
        return data.draw(st.sampled_from([lane for lane in self.lanes.values() if having(lane)]))

    def any_lane(self, having) -> bool:
        return any(having(lane) for lane in self.lanes.values())

    # What may happen.

    @precondition(lambda self: not self.halted)
    @rule(data=st.data(), jobs=st.integers(1, 4), at_once=st.booleans())
    def submit_some(self, data, jobs, at_once) -> None:
        """Several jobs come; without them, a machine of so many rules would mostly be idle."""
        for _ in range(jobs):
            self.submit(data)
        while at_once and self.rings:
            self.worker_comes()

    def submit(self, data) -> None:
        """Submit where there's room; elsewhere, wait for it."""
        lane = self.some_lane(data, lambda _: True)
        job = Job(len(self.jobs))
        starts_at_once = (
            len(lane.queued) + len(lane.applying) == lane.grants
            and not self.paused
            and self.held() < self.slots
            and lane.held() < lane.slots
            and not lane.paused
            and self.open_at(lane.rates, lane.starts, lane.grants)
            and self.open_at(
                self.rates, self.starts, sum(other.grants for other in self.lanes.values())
            )
        )
        has_room = (self.room(lane) and not lane.applying) or starts_at_once
        assert self.schedule.has_room(lane.line) == has_room
        if has_room:
            self.queue(lane, job)
            self.schedule.submit(lane.line, job)
        else:
            applicant = Applicant(self, lane, job)
            lane.applying.append(applicant)
            applicant.application = self.schedule.apply(lane.line, job, applicant)
            assert applicant.application.granted == applicant.is_set <= self.ending

    @precondition(lambda self: self.any_lane(lambda lane: lane.applying))
    @rule(data=st.data())
    def applicant_goes(self, data) -> None:
        lane = self.some_lane(data, lambda lane: lane.applying)
        applicant = data.draw(st.sampled_from(lane.applying))
        lane.applying.remove(applicant)
        self.schedule.withdraw(lane.line, applicant.application)
        assert not applicant.application.granted

    @precondition(lambda self: self.rings)
    @rule()
    def worker_comes(self) -> None:
        """A worker that was rung for redeems a grant and starts a job, unless it's void."""
        self.rings -= 1
        line = self.schedule.redeem()
        if line is not None:
            self.use_grant(self.lanes[line], self.take_number())

    def use_grant(self, lane: Lane, number: int) -> None:
        job = self.schedule.start(lane.line)
        if job is None:
            self.schedule.return_number(number)
        else:
            self.began(lane, job, number)

    def end_one(self, data, outcome) -> tuple[Lane, int]:
        lane = self.some_lane(data, lambda lane: lane.running)
        job = data.draw(st.sampled_from(lane.running))
        lane.running.remove(job)
        lane.leaving += 1
        lane.done[outcome] += 1
        self.unwinding.discard(job)
        job.callback = lambda: self.call_back(data)
        if outcome is SUCCEEDED:
            self.schedule.succeed(lane.line, job)
        else:
            self.schedule.finish(lane.line, job, outcome, None)
        assert job._status is outcome
        lane.leaving -= 1
        return lane, self.numbers[job]

    def call_back(self, data) -> None:
        """What a job's end makes others do at once, before its slot is passed on."""
        if data.draw(st.booleans()):
            return
        if self.asking():
            self.ask_back(data)
        if not self.halted:
            self.submit(data)

    @precondition(lambda self: self.any_lane(lambda lane: lane.running))
    @rule(data=st.data(), outcome=st.sampled_from([SUCCEEDED, FAILED]))
    def proceed(self, data, outcome) -> None:
        lane, number = self.end_one(data, outcome)
        self.numbers = {job: other for job, other in self.numbers.items() if other != number}
        choices = self.choices
        job = self.schedule.proceed(lane.line)
        if job is None:
            self.schedule.return_number(number)
            return
        (chosen,) = [lane for lane in self.lanes.values() if job in lane.queued]
        if self.choices == choices:  # it went without a grant
            self.granted(chosen.line)
        self.began(chosen, job, number)

    @precondition(lambda self: self.any_lane(lambda lane: lane.running))
    @rule(data=st.data(), outcome=st.sampled_from([SUCCEEDED, FAILED, CANCELLED]))
    def pass_on(self, data, outcome) -> None:
        """The worker looks after the event loop before it starts the next job."""
        lane, number = self.end_one(data, outcome)
        self.numbers = {job: other for job, other in self.numbers.items() if other != number}
        line = self.schedule.pass_on(lane.line)
        if line is None:
            self.schedule.return_number(number)
        else:
            self.held_grants.append((number, self.lanes[line]))

    @precondition(lambda self: self.held_grants)
    @rule(data=st.data())
    def use_held_grant(self, data) -> None:
        number, lane = data.draw(st.sampled_from(self.held_grants))
        self.held_grants.remove((number, lane))
        self.use_grant(lane, number)

    @precondition(lambda self: self.any_lane(lambda lane: lane.running))
    @rule(data=st.data(), jobs=st.integers(1, 3), ask=st.booleans())
    def lend_some(self, data, jobs, ask) -> None:
        """Jobs lend their slots, which others use at once; then they may ask for some again."""
        for _ in range(jobs):
            if self.any_lane(lambda lane: lane.running):
                self.lend(data)
            while self.rings:
                self.worker_comes()
        while ask and self.asking():
            self.ask_back(data)

    def lend(self, data) -> None:
        lane = self.some_lane(data, lambda lane: lane.running)
        job = data.draw(st.sampled_from(lane.running))
        lane.running.remove(job)
        lane.lent.append(Lender(self, lane, job))
        self.unwinding.discard(job)
        self.schedule.return_number(self.numbers.pop(job))
        self.schedule.lend(lane.line)

    def asking(self) -> list[Lender]:
        """The lenders that may ask for a slot: those that don't yet."""
        lenders = [lender for lane in self.lanes.values() for lender in lane.lent]
        return [lender for lender in lenders if lender not in self.returning]

    @precondition(lambda self: self.asking())
    @rule(data=st.data())
    def ask_back(self, data) -> None:
        """A lender asks for a slot, and may go on at once if there's one."""
        lender = data.draw(st.sampled_from(self.asking()))
        self.returning.append(lender)
        may = self.may_come_back(lender)
        self.schedule.reclaim(lender.returner)
        assert lender.returner.may_go_on == lender.is_set == may

    @precondition(lambda self: self.any_lane(lambda lane: lane.back))
    @rule(data=st.data())
    def go_on(self, data) -> None:
        """A lender that was told so goes on."""
        lane = self.some_lane(data, lambda lane: lane.back)
        lender = data.draw(st.sampled_from(lane.back))
        lane.back.remove(lender)
        self.goes_on(lender)

    @precondition(lambda self: self.returning)
    @rule(data=st.data())
    def unwind(self, data) -> None:
        """A lender that waits for a slot goes on without one, since it's cancelled."""
        lender = data.draw(st.sampled_from(self.returning))
        self.returning.remove(lender)
        lender.lane.lent.remove(lender)
        self.schedule.withdraw_return(lender.returner)
        assert not lender.returner.may_go_on
        self.unwinding.add(lender.job)
        self.goes_on(lender)

    @precondition(lambda self: self.asking())
    @rule(data=st.data())
    def tear_down(self, data) -> None:
        """A lender that never asked for a slot goes on without one: its event loop is gone."""
        lender = data.draw(st.sampled_from(self.asking()))
        lender.lane.lent.remove(lender)
        self.schedule.bring_back(lender.lane.line)
        self.unwinding.add(lender.job)
        self.goes_on(lender)

    def goes_on(self, lender: Lender) -> None:
        number = self.take_number()
        lender.lane.running.append(lender.job)
        self.numbers[lender.job] = number

    @rule(data=st.data())
    def wait_until_idle(self, data) -> None:
        """Somebody waits for the last job, of a lane or of all."""
        known = data.draw(st.sampled_from([self, *self.lanes.values()]))
        counts = self.schedule if known is self else known.line
        if known.unfinished() and known.idle is None:
            known.idle = counts.idle = Event()

    @precondition(lambda self: self.any_lane(lambda lane: lane.queued))
    @rule(data=st.data())
    def cancel_queued(self, data) -> None:
        lane = self.some_lane(data, lambda lane: lane.queued)
        job = data.draw(st.sampled_from(lane.queued))
        lane.queued.remove(job)
        lane.expiries.pop(job)
        lane.done[CANCELLED] += 1
        self.schedule.discard(lane.line, job)
        assert job._status is CANCELLED

    @rule(data=st.data())
    def cancel_all_queued(self, data) -> None:
        self.drain(self.some_lane(data, lambda _: True))

    def drain(self, lane: Lane) -> None:
        cancelled, lane.queued = lane.queued, []
        lane.expiries.clear()
        lane.done[CANCELLED] += len(cancelled)
        self.schedule.drain(lane.line, None)
        assert all(job._status is CANCELLED for job in cancelled)

    @rule(data=st.data())
    def pause_or_resume_one(self, data) -> None:
        lane = self.some_lane(data, lambda _: True)
        lane.paused = not lane.paused
        (self.schedule.pause if lane.paused else self.schedule.resume)(lane.line)

    @precondition(lambda self: not self.halted)
    @rule()
    def pause_or_resume_all(self) -> None:
        self.paused = not self.paused
        (self.schedule.pause_all if self.paused else self.schedule.resume_all)()

    @precondition(lambda self: not self.halted)
    @rule(slots=st.sampled_from([1, 2, 4, math.inf]))
    def resize_all(self, slots) -> None:
        self.slots = slots
        self.shrunk = self.held() > slots
        self.schedule.resize_all(slots)

    @rule(data=st.data(), slots=st.sampled_from([1, 2, math.inf]))
    def resize_one(self, data, slots) -> None:
        lane = self.some_lane(data, lambda _: True)
        lane.slots = slots
        lane.shrunk = lane.held() > slots
        self.schedule.resize(lane.line, slots)

    @rule(seconds=st.sampled_from([0.5, 1, 2, 3]))
    def time_passes(self, seconds) -> None:
        """The shell tells the time when it was asked to, and at no other."""
        end = self.time + seconds
        while self.alarm <= end:
            self.time = max(self.time, self.alarm)
            due = [
                job
                for lane in self.lanes.values()
                for job, expiry in lane.expiries.items()
                if expiry <= self.time
            ]
            expired = self.schedule.tick()
            assert sorted(expired, key=id) == sorted(due, key=id)
            for job in expired:
                (lane,) = [lane for lane in self.lanes.values() if job in lane.queued]
                lane.queued.remove(job)
                lane.expiries.pop(job)
                lane.done[FAILED] += 1
                self.schedule.discard(lane.line, job, FAILED)
                self.note_idle()
            self.note_idle()
        self.time = end
        assert not [
            job
            for lane in self.lanes.values()
            for job, expiry in lane.expiries.items()
            if expiry <= self.time
        ]

    @precondition(lambda self: len(self.jobs) > 20)
    @rule(data=st.data())
    def close(self, data) -> None:
        """Refuse those who apply to a lane, or but for some of them."""
        lane = self.some_lane(data, lambda _: True)
        stays = data.draw(st.none() | st.sets(st.sampled_from(lane.applying or [None])))
        refused = [applicant for applicant in lane.applying if applicant not in (stays or ())]
        lane.applying = [applicant for applicant in lane.applying if applicant not in refused]
        self.schedule.refuse(lane.line, None if stays is None else stays.__contains__)
        for applicant in refused:
            assert applicant.is_set
            assert not applicant.application.granted
            assert applicant.job._status is CANCELLED

    @precondition(lambda self: len(self.jobs) > 30)
    @rule()
    def halt(self) -> None:
        self.halted = True
        self.ending = False
        self.schedule.halt()
        for lane in self.lanes.values():
            self.drain(lane)

    @precondition(lambda self: not self.halted and not self.ending and len(self.jobs) > 10)
    @rule()
    def end(self) -> None:
        """The executor is being left."""
        self.ending = True
        self.schedule.end()

    # What always holds.

    @invariant()
    def a_model_that_lags_is_brought_up(self) -> None:
        tally["steps of the schedule"] += 1
        self.shrunk = self.shrunk and self.held() > self.slots
        for lane in self.lanes.values():
            lane.shrunk = lane.shrunk and lane.held() > lane.slots
            if not self.may_start(lane):
                lane.passed_by.clear()

    @invariant()
    def counts_are_the_models(self) -> None:
        for line, lane in self.lanes.items():
            assert line.waiting == lane.pending() + len(lane.applying)
            assert line.applying == len(lane.applying)
            assert line.granted == lane.grants
            assert line.running == len(lane.running) + len(lane.back)
            assert line.lent == len(lane.lent)
            assert line.held == lane.held()
            assert {name: getattr(line, name) for name in ENDS} == {
                status.value: lane.done[status] for status in (SUCCEEDED, FAILED, CANCELLED)
            }
        for name in ["waiting", "applying", "granted", "lent", "held", *ENDS]:
            assert getattr(self.schedule, name) == sum(getattr(line, name) for line in self.lanes)

    @invariant()
    def limits_hold(self) -> None:
        assert self.shrunk or self.held() <= self.slots + len(self.unwinding)
        for line, lane in self.lanes.items():
            unwinding = self.unwinding.intersection(lane.running)
            assert lane.shrunk or lane.held() <= lane.slots + len(unwinding)
            assert line.enrolled <= (line.waiting > 0 and line.held < line.limit)

    @invariant()
    def lenders_come_back_as_soon_as_there_is_a_slot(self) -> None:
        assert not any(map(self.may_come_back, self.returning))
        assert list(self.schedule._returning) == [lender.returner for lender in self.returning]

    @invariant()
    def idle_is_told_when_the_last_job_has_ended(self) -> None:
        self.note_idle()

    @invariant()
    def nothing_waits_for_a_pause_to_end_that_nobody_can_end(self) -> None:
        if self.ending and not self.held():
            assert not self.paused
            assert not self.any_lane(lambda lane: lane.paused and lane.queued)

    @invariant()
    def free_slot_means_nothing_may_start(self) -> None:
        if self.held() < self.slots and not self.paused and not self.halted:
            assert not self.any_lane(self.may_start)

    @invariant()
    def nobody_applies_where_there_is_room(self) -> None:
        for lane in self.lanes.values():
            assert not (lane.applying and self.room(lane))

    @invariant()
    def a_timer_runs_only_for_somebody_who_waits(self) -> None:
        if not self.any_lane(lambda lane: lane.queued or lane.applying):
            assert self.alarm == math.inf

    @invariant()
    def each_grant_is_known_to_somebody(self) -> None:
        for line, lane in self.lanes.items():
            known = self.schedule.grants.count(line)
            known += sum(holder is lane for _, holder in self.held_grants)
            assert line.granted + line.void == known
        assert self.rings >= len(self.schedule.grants)

    @invariant()
    def counts_add_up(self) -> None:
        both = [self.schedule.statistics()]
        both += [line.statistics() for line in self.lanes]
        for counts in both:
            assert counts.submitted == (
                counts.queued
                + counts.running
                + counts.lent
                + counts.succeeded
                + counts.failed
                + counts.cancelled
            )
        by_status = [job._status for job in self.jobs]
        assert both[0].submitted == len(self.jobs)
        assert both[0].queued == by_status.count(QUEUED)
        assert both[0].running + both[0].lent == by_status.count(RUNNING)
        assert both[0].succeeded == by_status.count(SUCCEEDED)
        assert both[0].failed == by_status.count(FAILED)
        assert both[0].cancelled == by_status.count(CANCELLED)

    @invariant()
    def each_job_is_settled_once(self) -> None:
        for job in self.jobs:
            assert job.settled == (job._status not in (QUEUED, RUNNING))

    @invariant()
    def only_lines_with_jobs_are_kept(self) -> None:
        for line, lane in self.lanes.items():
            busy = lane.unfinished() or lane.applying
            assert (line in self.schedule.lines) == bool(busy or line is self.schedule.line)
            assert len(line.queue) <= 2 * (len(lane.queued) + len(lane.applying)) + 33
            if not busy:
                assert not line.enrolled
                assert not line.expiries


TestSchedule = ScheduleMachine.TestCase
TestSchedule.settings = settings(max_examples=3 * settings().max_examples)


def plain_schedule(slots: int) -> Schedule:
    return Schedule(slots, lambda: None, lambda _: None, lambda: 0.0)


@pytest.mark.parametrize("slots", [1, 7])
def test_cancelled_heads_are_passed_over_in_one_step_each(slots) -> None:
    """Cancelling most of a long queue leaves no long way to the next job."""
    schedule = plain_schedule(slots)
    jobs = [Job(n) for n in range(10_000)]
    for job in jobs:
        schedule.submit(schedule.line, job)
    for job in jobs[:-slots]:
        schedule.discard(schedule.line, job)
    assert len(schedule.line.queue) < 100
    assert [schedule.start(schedule.line) for _ in range(slots)] == jobs[-slots:]


def test_idle_is_told_once_when_the_last_job_has_ended() -> None:
    """Whoever waits for the last job learns of it when no job is left, however it went."""
    schedule = plain_schedule(1)
    first, second = Job(1), Job(2)
    schedule.submit(schedule.line, first)
    schedule.submit(schedule.line, second)
    event = schedule.idle = Event()
    assert schedule.start(schedule.line) is first
    schedule.discard(schedule.line, second)
    assert not event.is_set
    schedule.succeed(schedule.line, first)
    assert schedule.proceed(schedule.line) is None
    assert event.is_set
    assert schedule.idle is None


def test_a_cancelled_jobs_grant_passes_over_those_who_have_given_up() -> None:
    """The second who waits for room gets the grant of a cancelled job if the first has gone."""
    schedule = Schedule(1, lambda: None, lambda _: None, lambda: 0.0, max_pending=0)
    line = schedule.line
    granted, gone, waits = Job(0), Job(1), Job(2)
    schedule.submit(line, granted)
    applications = [schedule.apply(line, job, Event()) for job in (gone, waits)]
    schedule.withdraw(line, applications[0])
    schedule.discard(line, granted)
    assert [application.granted for application in applications] == [False, True]
    assert schedule.start(line) is waits
    assert schedule.statistics().submitted == 2


def test_those_who_gave_up_waiting_for_room_are_not_kept() -> None:
    """However many give up, and whoever waits still, their line keeps a few dozen at most."""
    schedule = Schedule(1, lambda: None, lambda _: None, lambda: 0.0, max_pending=0)
    line = schedule.line
    granted, waits = Job(0), Job(1)
    schedule.submit(line, granted)
    application = schedule.apply(line, waits, Event())
    for number in range(100):
        schedule.withdraw(line, schedule.apply(line, Job(2 + number), Event()))
        assert len(line.applicants) <= 2 * line.applying + 33
    schedule.discard(line, granted)
    assert application.granted
    assert schedule.start(line) is waits


def test_a_tick_tells_only_of_jobs_that_wait_still() -> None:
    """Of the jobs whose time is up, those that began or were cancelled meanwhile are left alone."""
    times = [0.0]
    schedule = Schedule(1, lambda: None, lambda _: None, lambda: times[0])
    line = schedule.add_line(queue_timeout=1)
    jobs = [Job(number) for number in range(4)]
    for job in jobs:
        schedule.submit(line, job)
    assert schedule.redeem() is line
    assert schedule.start(line) is jobs[0]
    schedule.discard(line, jobs[2])
    times[0] = 1.0
    assert schedule.tick() == [jobs[1], jobs[3]]


def test_what_comes_to_a_paused_line_of_an_idle_executor_that_is_left_may_run() -> None:
    """A pause that nobody is left to end doesn't hold up jobs that are submitted afterwards."""
    schedule = plain_schedule(1)
    line = schedule.add_line()
    schedule.pause(line)
    schedule.end()
    schedule.submit(line, Job(1))
    assert not line.paused
    assert schedule.redeem() is line


def test_a_grant_that_a_pause_takes_back_fills_its_lines_queue() -> None:
    """Who waits for room among all jobs is let in only if there's still room in the lane, too."""
    schedule = Schedule(1, lambda: None, lambda _: None, lambda: 0.0, max_pending=2)
    line = schedule.add_line(max_pending=1)
    jobs = [Job(number) for number in range(4)]
    schedule.submit(line, jobs[0])
    schedule.submit(schedule.line, jobs[1])
    schedule.submit(schedule.line, jobs[2])
    applicant = Applicant(None, Lane(line, 1, 0, 1, (), None), jobs[3])
    applicant.application = schedule.apply(line, jobs[3], applicant)
    assert line.at_door
    schedule.pause(line)
    assert schedule.start(schedule.line) is jobs[1]
    schedule.succeed(schedule.line, jobs[1])
    assert schedule.proceed(schedule.line) is jobs[2]
    assert schedule.waiting - schedule.applying == 1
    assert not applicant.application.granted


def lenders(schedule: Schedule, *lines: Any) -> list[Returner]:
    """Jobs of these lines that have lent their slots."""
    for line in lines:
        schedule.submit(line, Job(0))
        assert schedule.redeem() is line
        schedule.start(line)._status = RUNNING
        schedule.lend(line)
    return [Returner(line, Event()) for line in lines]


def test_lenders_come_back_in_order_but_for_those_whose_line_has_no_place() -> None:
    """A slot goes to the first lender that asked for one, paused or not, and has a place."""
    schedule = plain_schedule(1)
    narrow = schedule.add_line(slots=1)
    other = schedule.add_line()
    returners = lenders(schedule, narrow, narrow, other, other)
    schedule.resize_all(2)
    running = [Job(1), Job(2)]
    for line, job in zip((narrow, other), running, strict=True):
        schedule.submit(line, job)
        assert schedule.redeem() is line
        assert schedule.start(line) is job
    for returner in returners:
        schedule.reclaim(returner)
    schedule.pause_all()
    assert not any(returner.may_go_on for returner in returners)
    schedule.succeed(other, running[1])
    assert schedule.pass_on(other) is None
    assert [returner.may_go_on for returner in returners] == [False, False, True, False]
    schedule.succeed(narrow, running[0])
    assert schedule.pass_on(narrow) is None
    assert [returner.may_go_on for returner in returners] == [True, False, True, False]


@pytest.mark.parametrize("first", [0, 1])
def test_pauses_that_end_together_leave_the_first_turn_to_the_highest_priority(first) -> None:
    """When nothing runs any more in an executor that is left, no pause ends before another."""
    schedule = plain_schedule(1)
    lines = [schedule.add_line(priority=priority) for priority in (first, 1 - first)]
    for line in lines:
        schedule.pause(line)
        schedule.submit(line, Job(0))
    schedule.end()
    assert schedule.redeem() is lines[1 - first]


@pytest.mark.parametrize("whose", ["the executor's", "the line's"])
@pytest.mark.parametrize("paused", [False, True])
def test_more_slots_are_for_lenders_first(whose, paused) -> None:
    """A lender that waits for a slot, or for a place, has the first that's added, paused or not."""
    schedule = plain_schedule(1 if whose == "the executor's" else 3)
    line = schedule.add_line(slots=1)
    (returner,) = lenders(schedule, line)
    for _ in range(2):
        schedule.submit(line, Job(1))
    assert schedule.redeem() is line
    schedule.start(line)
    schedule.reclaim(returner)
    assert not returner.may_go_on
    if paused:
        schedule.pause(line)
        schedule.pause_all()
    schedule.resize(line, 2)
    schedule.resize_all(2)
    assert returner.may_go_on
    assert schedule.redeem() is None


def test_a_lender_that_unwinds_in_its_lines_last_place_leaves_none_to_queued_jobs() -> None:
    """A job that went on beyond the limits counts against them as any other does."""
    schedule = plain_schedule(1)
    line = schedule.add_line(slots=1)
    (returner,) = lenders(schedule, line)
    schedule.submit(schedule.line, Job(1))
    schedule.submit(line, Job(2))
    assert line.enrolled
    schedule.reclaim(returner)
    schedule.withdraw_return(returner)
    assert schedule.held == 2
    assert not line.enrolled
    schedule.resize_all(3)
    schedule.resize(line, 3)
    assert not returner.may_go_on
    assert (line.lent, line.running) == (0, 1)


def test_nothing_begins_after_a_halt_even_if_the_executor_was_being_left() -> None:
    """A halt is no pause, which would end when nothing runs."""
    schedule = plain_schedule(1)
    schedule.submit(schedule.line, Job(1))
    first = schedule.start(schedule.line)
    schedule.end()
    schedule.submit(schedule.line, Job(2))
    schedule.halt()
    schedule.succeed(schedule.line, first)
    assert schedule.pass_on(schedule.line) is None
    assert schedule.line.granted == 0
