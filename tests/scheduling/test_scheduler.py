"""Random walks of the scheduler, against what the contract says of lists of jobs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from trees import Holder, Tree, new_job, new_lane
from virtual_time import tally

from anyslots._scheduling.adaptive import Adaptive
from anyslots._scheduling.admission import Admission
from anyslots._scheduling.job import CANCELLED, FAILED, PERMIT, QUEUED, RUNNING, SUCCEEDED, Job
from anyslots._scheduling.job_queue import JobQueue
from anyslots._scheduling.lane_state import NEVER, NO_LIMIT, LaneState
from anyslots._scheduling.permits import Permits
from anyslots._scheduling.rates import Rate, RateWindow
from anyslots._scheduling.retries import Retry
from anyslots._scheduling.scheduler import Scheduler
from anyslots._scheduling.wait_queue import Waiter

# How often each is taken.
STEPS = (
    {"submit": 4, "put": 2, "occupy": 1, "claim": 3, "finish": 4, "retry": 1, "pass_time": 3}
    | {"lend": 2, "reacquire": 1, "resume_loan": 1, "end_lent": 1, "discard": 2, "charge": 1}
    | {"cancel_queued": 1, "pause": 2, "unpause": 2, "set_slots": 1, "set_max_pending": 1}
    | {"set_priority": 1, "set_queue_timeout": 1, "set_gate": 1, "set_rates": 1, "close": 1}
    | {"answer_gate": 2, "add_lane": 1, "drop": 1, "recall": 1, "join": 1, "shut_down": 1}
)
CONSTRAINING = {"set_queue_timeout", "set_gate", "set_rates", "set_max_pending"}
# What a `__del__` method may call in the middle of a transition.
IN_THE_MIDDLE = {
    "submit": 3,
    "put": 1,
    "occupy": 1,
    "discard": 2,
    "cancel_queued": 1,
    "pause": 1,
} | {"unpause": 1, "set_slots": 1, "set_max_pending": 1, "set_priority": 1, "close": 1}


def cost(*args: object) -> float:
    raise AssertionError("only `submit` calls it")


class CheckedAdmission(Admission):
    __slots__ = ()

    def _admit(self, job: Job[Any]) -> None:
        walk: Walk = self.root.runtime
        if job is not walk.permitting:
            assert walk.able_putters()[0] is self.putters[job], "not the first with capacity"
        super()._admit(job)


class CheckedPermits(Permits):
    __slots__ = ()

    @property
    def walk(self) -> Walk:
        return self.tree.root.runtime

    def grant(self, node: LaneState) -> None:
        walk, job = self.walk, node.queue.head()
        assert node.queue in walk.allowed(), "not the turn of this queue"
        assert not walk.able_lenders(), "a lender goes on first"
        assert job is walk.queued(node)[0], "not FIFO"
        walk.permitting = job
        walk.permits[:] = filter(walk.has_permit, walk.permits)
        walk.permitted_at[job] = len(walk.charged)
        super().grant(node)
        walk.permitting = None
        walk.permitted_jobs += 1
        if job.status is QUEUED:
            walk.permits.append(job)
        walk.check_turn_is_over(node)

    def _start(self, job: Job[Any], slot: int) -> None:
        permits = self.walk.permits
        if job not in self.walk.occupiers:
            permits[:] = [each for each in permits if each is job or self.walk.has_permit(each)]
            assert job is permits.pop(0), "permits aren't claimed in order"
        super()._start(job, slot)
        self.walk.started(job)
        self.walk.count_running()

    def hand_over(self, node: LaneState) -> Job[Any] | None:
        allowed = self.walk.allowed()
        job = super().hand_over(node)
        if job is not None:
            assert job.node.queue in allowed, "not the turn of this queue"
            assert job is self.walk.queued(job.node)[0], "not FIFO"
            assert job not in self.walk.occupiers, "its task isn't told"
            self.walk.permitted_at[job] = 0
            self.walk.check_turn_is_over(job.node)
            self.walk.started(job)
        return job

    def exchange(self, job: Job[Any], ended: Job[Any]) -> Job[Any]:
        walk = self.walk
        job.node.queue.jobs.appendleft(job)  # as it was when it was chosen
        assert job.node.queue in walk.allowed(), "not the turn of this queue"
        assert job is walk.queued(job.node)[0], "not FIFO"
        job.node.queue.jobs.popleft()
        walk.permits[:] = filter(walk.has_permit, walk.permits)
        walk.permitted_at[job] = len(walk.charged)
        walk.permits.append(job)
        first = super().exchange(job, ended)
        walk.check_turn_is_over(job.node)
        return first


class Checked(Scheduler):
    """Asks the model at each decision."""

    @property
    def walk(self) -> Walk:
        return self.root.runtime

    def _enqueue(self, job: Job[Any]) -> None:
        self.walk.entered.add(job)
        super()._enqueue(job)

    def _resume(self, loan: Waiter) -> None:
        walk = self.walk
        if loan is not walk.resuming:
            able = walk.able_lenders()
            assert able, "no lender could go on"
            assert able[0] is loan, "not the first that could go on"
        super()._resume(loan)
        del walk.lent[loan.job]
        walk.count_running()


class Walk:
    def __init__(self, seed: object) -> None:
        self.random = random = Random(seed)
        # Where only FIFO, turns and slots decide, there's a short way from job to job.
        self.is_plain = random.random() < 0.3
        options = self.lane_options()
        self.tree = Tree(Checked, **(options | {"slots": random.choice([1, 2, 3, 5])}))
        self.host, self.control = self.tree.host, self.tree.control
        self.scheduler: Checked = self.tree.scheduler  # type: ignore[assignment]
        self.scheduler.admission.__class__ = CheckedAdmission
        self.scheduler.permits.__class__ = CheckedPermits
        self.tree.root.runtime = self
        self.lanes = [self.tree.root]
        self.forgotten: list[LaneState] = []
        # All jobs by age, and those that aren't done.
        self.ages: dict[Job[Any], int] = {}
        self.alive: list[Job[Any]] = []
        self.settled: Counter[Job[Any]] = Counter()
        self.starts: Counter[Job[Any]] = Counter()
        self.waiters: dict[Job[Any], Waiter] = {}
        # Lenders, and the order in which they asked for their slot.
        self.lent: dict[Job[Any], Waiter] = {}
        self.asked: list[Waiter] = []
        self.resuming: Waiter | None = None
        self.permitting: Job[Any] | None = None
        self.permits: list[Job[Any]] = []
        # Those that have a task of their own.
        self.occupiers: set[Job[Any]] = set()
        self.permitted_jobs = self.claimed_jobs = self.most_running = 0
        # Those whose submission is done, not put off to the end of a transition.
        self.entered: set[Job[Any]] = set()
        self.back_at: dict[Job[Any], float] = {}
        self.expires_at: dict[Job[Any], float] = {}
        self.log: dict[RateWindow, list[tuple[float, list[float]]]] = {}
        # Windows whose charges were raised afterwards; how many when a job was permitted.
        self.charged: list[RateWindow] = []
        self.permitted_at: dict[Job[Any], int] = {}
        self.joining: dict[int, LaneState] = {}
        self.in_callback = self.in_the_middle = self.unsure = False
        self.budget = 0
        for _ in range(random.randrange(7)):
            self.add_lane()

    # The model.

    def has_permit(self, job: Job[Any]) -> bool:
        return job.status is QUEUED and job.holder is PERMIT

    def is_held(self, job: Job[Any]) -> bool:
        return (job.status is RUNNING and job not in self.lent) or self.has_permit(job)

    def waits(self, job: Job[Any]) -> bool:
        """Whether a job's submitter waits."""
        return job in self.waiters and not self.waiters[job].served

    def is_in_queue(self, job: Job[Any]) -> bool:
        return (
            job.status is QUEUED
            and job.holder is not PERMIT
            and job is not self.permitting
            and job in self.entered
            and job not in self.back_at
        )

    def queued(self, lane: LaneState) -> list[Job[Any]]:
        return [job for job in self.alive if job.node is lane and self.is_in_queue(job)]

    def inside(self, lane: LaneState, test: Callable[[Job[Any]], bool]) -> list[Job[Any]]:
        return [job for job in self.alive if job.node.is_inside(lane) and test(job)]

    def held(self, lane: LaneState) -> int:
        return len(self.inside(lane, self.is_held))

    def pending(self, lane: LaneState) -> int:
        return len(
            self.inside(
                lane,
                lambda job: (
                    self.is_in_queue(job)
                    and not self.starts[job]
                    and not self.waits(job)
                    and job.node.bounded
                ),
            )
        )

    def fits(self, lane: LaneState, job: Job[Any]) -> bool:
        costs = (job.attempt and job.attempt.costs) or {}
        now = self.host.now
        return all(window.available_at(now, costs.get(window, 1)) <= now for window in lane.windows)

    def options(self, lane: LaneState, calls: bool = False) -> tuple[set[JobQueue], bool]:
        """The queues that may be chosen in this lane, and whether one of them certainly can.

        ``calls``: whether a gate that isn't called yet counts as open.
        """
        stopped = lane.stopped or lane.paused or lane.paused_until > NEVER
        if stopped or self.held(lane) >= lane.slots:
            return set(), False
        gate = lane.gate
        if gate is not None and not gate.admissions:
            called = any(each is gate for _, each in self.host.calls)
            if called or not calls:
                # One that isn't called may be as it waits for a rate around it.
                self.unsure = self.unsure or not called
                return set(), False
        found: set[JobQueue] = set()
        certain = False
        members: list[LaneState | JobQueue] = [*lane.children, lane.queue]
        for priority in sorted({member.priority for member in members}, reverse=True):
            for member in members:
                if member.priority == priority:
                    if isinstance(member, LaneState):
                        more, sure = self.options(member, calls)
                    else:
                        sure = bool(self.queued(lane))
                        more = {member} if sure else set()
                    found |= more
                    certain |= sure
            if certain:
                break
        fitting = {queue for queue in found if self.fits(lane, next(iter(queue)))}
        return fitting, certain and fitting == found and (calls or not self.unsure)

    def allowed(self) -> set[JobQueue]:
        """The queues whose turn it may be."""
        self.unsure = False
        return self.options(self.tree.root)[0]

    def able_lenders(self) -> list[Waiter]:
        return [
            loan
            for loan in self.asked
            if self.lent.get(loan.job) is loan
            and all(self.held(lane) < lane.slots for lane in loan.job.node.path())
        ]

    def able_putters(self) -> list[Waiter]:
        return [
            putter
            for job, putter in self.waiters.items()
            if job.status is QUEUED
            and not putter.served
            and putter.is_waiting()
            and all(self.pending(lane) < lane.max_pending for lane in job.node.path())
        ]

    def count_running(self) -> None:
        running = [job for job in self.alive if job.status is RUNNING and job not in self.lent]
        self.most_running = max(self.most_running, len(running))

    def started(self, job: Job[Any]) -> None:
        self.starts[job] += 1
        now = self.host.now
        for window, charge in job.attempt.charges if job.attempt else ():
            log = self.log.setdefault(window, [])
            log.append((now, charge))
            used = sum(each[1] for time, each in log if time + window.rate.per > now)
            raised = window in self.charged[self.permitted_at[job] :]
            assert raised or used <= window.rate.limit, "a rate is exceeded"

    def check_turn_is_over(self, node: LaneState) -> None:
        for member in node.queue, *node.path():
            if member.is_ready:
                home = node if member is node.queue else member.parent
                first = home.ready.first
                if first.priority != member.priority:
                    first = home.ready.rings[member.priority]
                assert member.next is first, "others come first now"
        for lane in node.path():
            assert lane.held <= lane.slots

    # What holds whenever no transition is under way.

    def check(self) -> None:
        scheduler, root = self.scheduler, self.tree.root
        assert not scheduler.transaction.busy
        assert not scheduler.permits.unannounced
        self.alive = [job for job in self.alive if not self.settled[job]]
        for job in self.ages:
            done = job.status not in (QUEUED, RUNNING)
            assert self.settled[job] == done
        self.forget()
        for lane in self.lanes:
            self.check_lane(lane)
        assert not self.options(root, calls=True)[1], "a slot is free while a job could start"
        assert not self.able_lenders(), "a lender could go on"
        assert not self.able_putters(), "capacity is free while a submitter waits"
        assert scheduler.loans.waiting == sum(
            self.lent.get(loan.job) is loan for loan in self.asked
        )
        permits = [*filter(self.has_permit, self.permits)]
        assert [*filter(self.has_permit, scheduler.permits.jobs)] == permits
        assert self.host.woken >= len(permits), "a wake-up was lost"
        assert self.host.woken <= self.permitted_jobs - self.claimed_jobs, "woken too often"
        assert scheduler.deadline == scheduler.tree.timers.next_deadline()
        assert scheduler.deadline == self.host.deadline
        at_once = self.host.now in self.back_at.values()
        assert self.host.deadline > self.host.now or at_once
        running = [job for job in self.alive if job.status is RUNNING and job not in self.lent]
        assert all(isinstance(job.holder, Holder) for job in running)
        numbers = [job.slot for job in running]
        assert len(set(numbers)) == len(numbers)
        assert sorted([*scheduler.permits.slots.free, *numbers]) == list(
            range(scheduler.permits.slots.made)
        )
        assert scheduler.permits.slots.made == self.most_running, (
            "numbers are free, and a new one is taken"
        )
        if scheduler.shutting_down and not root.held:
            assert not any(lane.paused for lane in self.lanes)
        for lane in self.joining.values():
            assert self.inside(lane, self.is_submitted), "all has ended, and a task waits for it"

    def is_submitted(self, job: Job[Any]) -> bool:
        return not self.waits(job)

    def check_lane(self, lane: LaneState) -> None:
        now = self.host.now
        own = [job for job in self.alive if job.node is lane]
        queued = self.queued(lane)
        assert list(lane.queue) == queued
        assert len(lane.queue) == len(queued)
        assert lane.held == self.held(lane)
        assert lane.permitted == sum(map(self.has_permit, own))
        assert lane.lent == sum(job in self.lent for job in own)
        assert lane.putting == sum(map(self.waits, own))
        backing_off = [job for job in own if job in self.back_at]
        assert lane.backing_off == len(backing_off)
        assert not any(job.attempt.charges for job in backing_off)
        inner = [each for each in self.lanes if each.is_inside(lane)]
        assert lane.busy == sum(each.lent + each.backing_off for each in inner) + sum(
            len(each.queue) > 0 for each in inner if each is not lane
        )
        assert lane.pending == self.pending(lane)
        self.check_statistics(lane)
        # What's ready, and why not.
        assert lane.queue.is_ready == bool(queued)
        if lane.parent is not None:
            assert lane.is_ready == (lane.held < lane.limit and lane.ready.count > 0)
        members = [member for member in (*lane.children, lane.queue) if member.is_ready]
        assert lane.ready.count == len(members)
        stopped = lane.stopped or lane.paused or max(lane.paused_until, lane.throttled_until) > now
        if lane.gate is not None:
            called = sum(gate is lane.gate for _, gate in self.host.calls)
            assert called == lane.gate.is_called
            assert not lane.gate.is_awaited or (called and not lane.gate.admissions)
            assert lane.gate.admissions >= 0
            stopped = stopped or lane.gate.is_awaited
        assert lane.limit == (0 if stopped else min(lane.slots, NO_LIMIT))
        if lane.adaptive is not None:
            assert lane.slots == lane.adaptive.limit
        # Time.
        assert not NEVER < lane.paused_until <= now
        assert not NEVER < lane.throttled_until <= now
        timers = self.scheduler.tree.timers
        assert timers.deadlines.get(lane, math.inf) == lane.next_deadline()
        times = [self.back_at[job] for job in backing_off]
        waiting = [job for job in own if job.status is QUEUED and not self.starts[job]]
        times += [self.expires_at[job] for job in waiting if job in self.expires_at]
        assert lane.next_deadline() <= min(times, default=math.inf)
        assert all(time > now or time in self.back_at.values() for time in times)
        assert len(lane.backoffs or ()) <= 2 * lane.backing_off + 33
        assert len(lane.queue_deadlines or ()) <= 2 * (len(lane.queue) + lane.permitted) + 33

    def check_statistics(self, lane: LaneState) -> None:
        jobs = [job for job in self.ages if job.node.is_inside(lane) and self.is_submitted(job)]
        found = lane.statistics()
        assert found.submitted == len(jobs)
        statuses = Counter(job.status for job in jobs)
        assert found.queued == statuses[QUEUED]
        assert found.lent == sum(job in self.lent for job in jobs)
        assert found.running == statuses[RUNNING] - found.lent
        assert found.succeeded == statuses[SUCCEEDED]
        assert found.failed == statuses[FAILED]
        assert found.cancelled == statuses[CANCELLED]
        assert lane.is_idle() == (not any(job in self.alive for job in jobs))

    def forget(self) -> None:
        for lane in [each for each in self.lanes if each.forgotten]:
            self.lanes.remove(lane)
            self.forgotten.append(lane)
            assert not self.inside(lane, lambda job: True), "it has jobs"
            assert not lane.children
        for lane in self.lanes:
            if lane.parent is not None:
                assert lane in lane.parent.children
                if self.is_dropped(lane) and not lane.children:
                    assert self.inside(lane, lambda job: True), "it's dropped and has no jobs"

    def is_dropped(self, lane: LaneState) -> bool:
        return lane.handle is not None and lane.handle() is None

    # Notifications, each of which may call back, and listeners.

    def called_back(self) -> None:
        assert not self.in_callback, "notified in the middle of another notification"
        self.in_callback = True
        self.check()
        if self.budget and self.random.random() < 0.5:
            self.budget -= 1
            self.step(STEPS)
        self.in_callback = False

    def notify(self) -> None:
        assert self.scheduler.transaction.busy
        if self.random.random() < 0.5:
            self.scheduler.transaction.notify(self.called_back)

    def on_done(self, job: Job[Any]) -> None:
        assert job.status not in (QUEUED, RUNNING)
        self.settled[job] += 1
        if job.value == "timed out":
            assert self.expires_at[job] <= self.host.now
        self.notify()
        if self.budget and self.random.random() < 0.2:
            self.budget -= 1
            before, self.in_the_middle = self.in_the_middle, True
            self.step(IN_THE_MIDDLE)
            self.in_the_middle = before

    # Steps.

    def step(self, names: dict[str, int]) -> None:
        (name,) = self.random.choices([*names], [*names.values()])
        if not (self.is_plain and name in CONSTRAINING):
            getattr(self, name)()

    def pick(self, several: Iterable[Any]) -> Any:
        several = list(several)
        return self.random.choice(several) if several else None

    def lane(self) -> LaneState:
        return self.pick(lane for lane in self.lanes if not lane.forgotten)

    def new_job(self, occupies: bool) -> Job[Any] | None:
        lane = self.pick(
            each
            for each in self.lanes
            if not (each.closed or each.forgotten or self.is_dropped(each))
        )
        if lane is None:
            return None
        windows = [window for each in lane.path() for window in each.windows]
        costs = {
            w: self.random.choice([0, 0.5, 1, 1]) * w.rate.limit for w in windows if w.rate.cost
        }
        job = new_job(lane, {w: c for w, c in costs.items() if self.random.random() < 0.9})
        if occupies:
            job.holder = Holder()
            self.occupiers.add(job)
        job.add_listener(self.on_done)
        self.ages[job] = len(self.ages)
        self.alive.append(job)
        self.note_expiry(job)
        return job

    def note_expiry(self, job: Job[Any]) -> None:
        if job.node.queue_timeout is not None:
            self.expires_at[job] = self.host.now + job.node.queue_timeout

    def submit(self, occupies: bool = False) -> None:
        job = self.new_job(occupies)
        if job is None:
            return
        if not self.in_the_middle:
            self.alive.remove(job)
            capacity = all(self.pending(lane) < lane.max_pending for lane in job.node.path())
            may = self.scheduler.may_submit(job)
            if capacity:
                assert may
            elif job.node.bounded and self.queued(job.node):
                assert not may
            if not may:
                del self.ages[job]
                return
            self.alive.append(job)
            if not capacity:
                self.scheduler.submit(job)
                assert job in self.permitted_at, "it wasn't to start at once"
                return
            if not (job.node.constrained or job.node.bounded):
                self.append(job)
                return
        self.scheduler.submit(job)

    def append(self, job: Job[Any]) -> None:
        """The short way of a plain job."""
        self.entered.add(job)
        job.node.queue.jobs.append(job)
        if not job.node.queue.is_ready:
            self.scheduler.queue_added(job.node)

    def occupy(self) -> None:
        self.submit(occupies=True)

    def put(self) -> None:
        job = self.new_job(self.random.random() < 0.3)
        if job is not None:
            self.expires_at.pop(job, None)

            def wake() -> None:
                if putter.served:
                    self.note_expiry(job)  # its time in the queue counts from now on
                self.notify()

            putter = self.waiters[job] = Waiter(job, wake)
            self.scheduler.put(putter)

    def claim(self) -> None:
        if self.host.woken:
            self.host.woken -= 1
            self.claimed_jobs += 1
            self.scheduler.claim(Holder())

    def running(self) -> Job[Any] | None:
        return self.pick(
            job for job in self.alive if job.status is RUNNING and job not in self.lent
        )

    def overload(self, job: Job[Any]) -> None:
        if job.attempt is not None and self.random.random() < 0.5:
            job.attempt.overloaded = [lane for lane in job.node.path() if lane.adaptive is not None]

    def finish(self, job: Job[Any] | None = None) -> None:
        job = job or self.running()
        if job is None:
            return
        status = self.random.choice([SUCCEEDED, SUCCEEDED, SUCCEEDED, FAILED, CANCELLED])
        if status is FAILED:
            self.overload(job)
        if job in self.occupiers or self.random.random() < 0.2:
            self.scheduler.finish(job, status, None, goes_on=False)
        elif status is SUCCEEDED and self.random.random() < 0.8:
            self.scheduler.succeed(job)
        else:
            self.scheduler.finish(job, status, None)

    def retry(self) -> None:
        job = self.running()
        if job is not None and job not in self.occupiers and job.attempt is not None:
            self.overload(job)
            delay = self.random.choice([0, 0.5, 1, 3])
            if delay:
                self.back_at[job] = self.host.now + delay
            self.scheduler.retry(job, delay)
            self.expire()

    def lend(self) -> None:
        job = self.running()
        if job is not None:
            loan = Waiter(job, self.notify)
            self.lent[job] = loan
            if self.random.random() < 0.5:
                until = self.pick(each for each in self.alive if each is not job)
                if until is not None:
                    until.add_listener(lambda _: self.ask_for(loan))
            self.scheduler.lend(job)

    def ask_for(self, loan: Waiter) -> None:
        if self.lent.get(loan.job) is loan and loan not in self.asked:
            self.asked.append(loan)
            self.scheduler.reacquire(loan)

    def reacquire(self) -> None:
        loan = self.pick(self.lent.values())
        if loan is not None:
            self.ask_for(loan)

    def resume_loan(self) -> Waiter | None:
        loan = self.pick(self.lent.values())
        if loan is not None:
            self.resuming = loan
            self.scheduler.resume(loan)
            self.resuming = None
        return loan

    def end_lent(self) -> None:
        loan = self.resume_loan()
        if loan is not None and loan.job.status is RUNNING and loan.job not in self.lent:
            self.finish(loan.job)

    def discard(self) -> None:
        job = self.pick(job for job in self.alive if job.status is QUEUED)
        if job is not None:
            self.scheduler.discard(
                job, self.random.choice([CANCELLED, CANCELLED, FAILED]), "reason"
            )

    def cancel_queued(self) -> None:
        if self.random.random() < 0.3:
            lane = self.lane()
            if not self.in_the_middle:
                waiting = self.inside(lane, self.waits)
                self.budget = 0  # nothing is called back
                self.control.cancel_queued(lane, "reason")
                left = self.inside(lane, lambda job: job.status is QUEUED)
                assert set(left) <= set(waiting)
                assert all(job.status in (QUEUED, RUNNING) for job in waiting)
                return
            self.control.cancel_queued(lane, "reason")

    def pause(self) -> None:
        seconds = self.random.choice([None, 0.5, 1, 2])
        until = None if seconds is None else self.host.now + seconds
        self.control.pause(self.lane(), until)

    def unpause(self) -> None:
        self.control.resume(self.pick(x for x in self.lanes if x.is_paused()) or self.lane())

    def set_slots(self) -> None:
        lane = self.lane()
        choices: list[Any] = [1, 1, 2, 3, 6, math.inf]
        if not self.is_plain:
            choices.append(Adaptive(self.random.choice([1, 2, 4]), on=Exception))
        self.control.set_slots(lane, self.random.choice(choices))

    def set_max_pending(self) -> None:
        self.control.set_max_pending(self.lane(), self.random.choice([0, 1, 2, 5, math.inf]))

    def set_priority(self) -> None:
        self.control.set_priority(self.lane(), self.random.choice([0, 0, 1, -1, 2]))

    def set_queue_timeout(self) -> None:
        value = self.random.choice([None, math.inf, 1, 3])
        self.control.set_option(self.lane(), "queue_timeout", value)

    def set_gate(self) -> None:
        lane = self.lane()
        former = self.control.set_gate(lane, self.random.choice([None, lambda: None]))
        if former is not None and self.random.random() < 0.7:  # else its answer comes too late
            self.host.calls = [call for call in self.host.calls if call[1] is not former]

    def set_rates(self) -> None:
        lane, rates = self.lane(), self.rates()
        jobs = self.inside(lane, lambda job: job.status is QUEUED)
        choice = self.random.choice
        costs = {
            job: {n: choice([0, 1]) * rate.limit for n, rate in enumerate(rates) if rate.cost}
            for job in jobs
        }
        self.control.set_rates(lane, rates, costs)

    def pass_time(self) -> None:
        self.host.now += self.random.choice([0.25, 0.5, 1.0])
        self.expire()

    def expire(self) -> None:
        now = self.host.now
        while now >= self.host.deadline:
            self.host.deadline = math.inf
            self.back_at = {job: time for job, time in self.back_at.items() if time > now}
            self.control.expire()

    def answer_gate(self) -> None:
        call = self.pick(self.host.calls)
        if call is not None:
            self.host.calls.remove(call)
            lane, gate = call
            if self.random.random() < 0.8:
                self.control.admit(lane, gate)
            else:
                self.control.gate_failed(lane, gate, lambda job: "refused")

    def charge(self) -> None:
        job = self.pick(job for job in self.alive if job.status is RUNNING and job.attempt)
        if job is not None and job.attempt.charges:
            window, charge = self.pick(job.attempt.charges)
            amount = self.random.choice([0, 0.5, 1, 2]) * window.rate.limit
            if amount > charge[1]:
                self.charged += [window, *window.heirs]
            window.adjust(charge, self.host.now, amount)
            self.scheduler.tree.lift_throttles(job.node)
            self.scheduler.look_again()

    def close(self) -> None:
        if self.random.random() < 0.1:
            self.control.close(self.lane())

    def shut_down(self) -> None:
        if self.random.random() < 0.1:
            self.control.begin_shutdown()

    def rates(self) -> tuple[Rate, ...]:
        choice = self.random.choice
        return tuple(
            Rate(choice([1, 2, 4]), choice([1.0, 2.5]), cost=choice([None, cost]))
            for _ in range(choice([0, 1, 1, 2]))
        )

    def lane_options(self) -> dict[str, Any]:
        choice = self.random.choice
        chances: dict[str, Callable[[], Any]] = {
            "max_pending": lambda: choice([0, 1, 2, 4]),
            "rates": self.rates,
            "gate": lambda: choice([True, False]),
            "queue_timeout": lambda: choice([1, 2, 5]),
            "retry": lambda: choice([Retry(), False]),
        }
        options = {name: make() for name, make in chances.items() if self.random.random() < 0.25}
        return {} if self.is_plain or self.random.random() < 0.2 else options

    def add_lane(self) -> None:
        if len(self.lanes) < 8:
            parent = self.pick(
                lane for lane in self.lanes if len([*lane.path()]) < 4 and not lane.forgotten
            )
            slots, priority = (
                self.random.choice([1, 1, 2, 3, math.inf]),
                self.random.choice([0, 0, 1, -1]),
            )
            self.lanes.append(
                new_lane(parent, slots=slots, priority=priority, **self.lane_options())
            )

    def drop(self) -> None:
        lane = self.lane()
        if lane.parent is not None:
            lane.handle = lambda: None
            lane.end_is_watched = True
            if lane.is_idle():
                self.scheduler.tree.check_idle(lane)
            self.scheduler.look_again()

    def recall(self) -> None:
        lane = self.pick(self.forgotten)
        if lane is not None and lane.forgotten:
            lane.handle = lambda: self
            self.scheduler.tree.recall(lane)
            self.scheduler.look_again()
            back = [each for each in self.forgotten if not each.forgotten]
            self.lanes += back
            self.forgotten = [each for each in self.forgotten if each.forgotten]
            self.expire()

    def join(self) -> None:
        lane = self.lane()
        if not lane.is_idle():
            key = len(self.joining) + self.random.randrange(10**9)
            self.joining[key] = lane
            lane.idle_waiters = [*(lane.idle_waiters or ()), partial(self.joining.pop, key)]
            lane.end_is_watched = True

    # A whole walk.

    def run(self) -> None:
        for _ in range(self.random.randrange(20, 120)):
            self.budget = 4
            self.step(STEPS)
            self.budget = 0
            self.check()
        self.end()

    def end(self) -> None:
        """Whatever has happened: everything that was submitted comes to an end."""
        for lane in self.lanes:
            self.control.resume(lane)
            self.control.set_slots(lane, 3)
        for _ in range(1000):
            if not self.alive:
                break
            for loan in list(self.lent.values()):
                self.ask_for(loan)
            for call in list(self.host.calls):
                self.host.calls.remove(call)
                self.control.admit(*call)
            while self.host.woken:
                self.claim()
            for job in [job for job in self.alive if job.status is RUNNING]:
                if job not in self.lent:
                    self.scheduler.finish(job, SUCCEEDED, None, goes_on=job not in self.occupiers)
            if self.host.deadline < math.inf:
                self.host.now = self.host.deadline
                self.expire()
            self.check()
        assert not self.alive, "something is stuck"
        assert not self.tree.root.held
        assert not self.joining
        assert not any(lane.ready.count or lane.is_ready or lane.busy for lane in self.lanes)


@pytest.mark.soak
@settings(phases=[Phase.explicit, Phase.generate])
@given(st.integers(0, 2**64))
def test_random_walks(seed) -> None:
    for n in range(4):
        Walk(f"{seed} {n}").run()
        tally["walks of the scheduler"] += 1
