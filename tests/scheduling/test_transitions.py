"""Single transitions whose effects a random walk seldom shows."""

from __future__ import annotations

import math

import pytest
from trees import Holder, Tree, new_job

from anyslots._scheduling.adaptive import Adaptive
from anyslots._scheduling.gate import Gate
from anyslots._scheduling.job import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, Cancellation
from anyslots._scheduling.rates import Rate
from anyslots._scheduling.retries import Retry
from anyslots._scheduling.scheduler import Scheduler
from anyslots._scheduling.wait_queue import Waiter


def cost(*args: object) -> float:
    raise AssertionError("only `submit` calls it")


class TestWaitingForASharedRate:
    """4 may start in 10 seconds, 3 have, and the job whose turn it is costs 4."""

    def setup_method(self) -> None:
        self.tree = Tree(rates=(Rate(4, 10, cost=cost),))
        self.first = self.submit(self.tree.root, 3)
        assert self.tree.claim() == [self.first]
        self.blocking = self.tree.lane(slots=1)
        self.lent = self.submit(self.blocking, 0)
        assert self.tree.claim() == [self.lent]
        self.tree.scheduler.lend(self.lent)
        self.submit(self.blocking, 4)
        assert not self.tree.claim()

    def submit(self, node, cost: float):
        return self.tree.submit(node, {self.tree.root.windows[0]: cost})

    @pytest.mark.parametrize(
        "unblock",
        [
            lambda tree, lane, _: tree.control.pause(lane),
            lambda tree, lane, _: tree.control.set_priority(lane, -1),
            lambda tree, lane, loan: tree.scheduler.resume(loan),
            lambda tree, lane, _: tree.control.cancel_queued(lane, None),
        ],
        ids=["paused", "less important", "full", "cancelled"],
    )
    def test_an_equal_lane_starts_once_the_turn_is_its_own(self, unblock) -> None:
        job = self.submit(self.tree.lane(), 1)
        assert not self.tree.claim()
        unblock(self.tree, self.blocking, Waiter(self.lent, lambda: None))
        assert self.tree.claim() == [job]

    @pytest.mark.parametrize(
        ("block", "unblock"),
        [
            (lambda control, lane: control.pause(lane), lambda control, lane: control.resume(lane)),
            (
                lambda control, lane: control.set_priority(lane, 0),
                lambda control, lane: control.set_priority(lane, 1),
            ),
            (
                lambda control, lane: control.set_slots(lane, 0),
                lambda control, lane: control.set_slots(lane, 1),
            ),
            (lambda control, lane: control.pause(lane, 5), lambda *_: None),
        ],
        ids=["paused", "as important", "full", "paused for a time"],
    )
    def test_a_more_important_lane_starts_once_it_can(self, block, unblock) -> None:
        lane = self.tree.lane(priority=1)
        block(self.tree.control, lane)
        job = self.submit(lane, 1)
        assert not self.tree.claim()
        unblock(self.tree.control, lane)
        assert self.tree.run(5) == [job]


def test_a_replaced_rate_counts_permits_of_the_former() -> None:
    tree = Tree(rates=(Rate(2, 10),))
    jobs = [tree.submit(tree.root) for _ in range(3)]
    assert tree.root.permitted == 2
    tree.control.set_rates(tree.root, (Rate(1, 10),), {})
    assert tree.claim() == [jobs[0]]
    assert tree.run(5) == []
    tree.control.set_rates(tree.root, (Rate(2, 10),), {})
    assert tree.claim() == [jobs[1]]
    assert tree.run(5) == [jobs[2]]


def test_a_new_gate_is_asked_for_what_the_former_has_admitted() -> None:
    tree = Tree(gate=True)
    job = tree.submit(tree.root)
    ((lane, former),) = tree.host.calls
    tree.control.admit(lane, former)
    assert tree.root.permitted == 1
    tree.control.set_gate(tree.root, lambda: None)
    assert not tree.claim()
    lane, gate = tree.host.calls[-1]
    assert gate is tree.root.gate is not former
    # The former one's answers come too late.
    tree.control.admit(lane, former)
    assert tree.control.gate_failed(lane, former, str) is False
    assert job.status is QUEUED
    tree.control.admit(lane, gate)
    assert tree.claim() == [job]


def test_replacing_a_gate_returns_the_one_to_cancel() -> None:
    tree = Tree(gate=True)
    gate = tree.root.gate
    assert tree.control.set_gate(tree.root, lambda: None) is None
    job = tree.submit(tree.root)
    former = tree.root.gate
    assert isinstance(former, Gate)
    assert former is not gate
    assert tree.control.set_gate(tree.root, None) is former
    assert tree.claim() == [job]


def test_pauses_extend_each_other_and_resume_ends_all() -> None:
    tree = Tree()
    tree.control.pause(tree.root, 3)
    tree.control.pause(tree.root, 1)
    job = tree.submit(tree.root)
    assert tree.run(2) == []
    assert tree.run(1) == [job]
    tree.control.pause(tree.root, 9)
    tree.control.pause(tree.root)
    other = tree.submit(tree.root)
    assert tree.run(9) == []
    tree.control.pause(tree.root, 99)
    tree.control.resume(tree.root)
    assert tree.claim() == [other]
    assert tree.host.deadline == math.inf


def test_a_queue_timeout_ends_with_the_first_start() -> None:
    tree = Tree(queue_timeout=9, retry=object())
    started, running = tree.submit(tree.root), tree.submit(tree.root)
    tree.claim()
    tree.control.set_option(tree.root, "queue_timeout", 2)
    late = tree.submit(tree.root)
    tree.control.pause(tree.root)
    tree.scheduler.retry(started, 1)
    tree.run(1)
    assert list(tree.root.queue) == [started, late]
    tree.host.now = 10  # the timer comes late
    tree.run()
    assert [job.status for job in (started, running, late)] == [QUEUED, RUNNING, FAILED]
    assert list(tree.root.queue) == [started]


def test_deadlines_of_cancelled_jobs_do_not_pile_up() -> None:
    tree = Tree(queue_timeout=9, retry=object())
    jobs = [tree.submit(tree.root) for _ in range(200)]
    for job in tree.claim():
        tree.scheduler.retry(job, 5)
    tree.control.pause(tree.root)
    jobs += [tree.submit(tree.root) for _ in range(200)]
    for job in jobs[1:200] + jobs[201:]:
        tree.scheduler.discard(job, CANCELLED, None)
    tree.control.pause(tree.root)
    assert len(tree.root.backoffs) <= 2 + 32
    assert len(tree.root.queue_deadlines) <= 2 + 32
    assert len(tree.root.queue.jobs) <= 2 + 32
    tree.control.resume(tree.root)
    assert tree.claim() == [jobs[200]]
    assert tree.run(5) == [jobs[0]]


def test_nothing_starts_once_dispatch_is_stopped() -> None:
    tree = Tree(slots=2)
    lane = tree.lane()
    running, permitted, queued = (tree.submit(lane) for _ in range(3))
    assert tree.scheduler.claim() is running
    tree.control.begin_shutdown()
    tree.control.stop_dispatch()
    tree.control.pause(lane)
    tree.control.resume(tree.root)
    assert tree.scheduler.succeed(running) is None
    assert tree.claim() == []
    assert lane.paused
    tree.control.cancel_queued(tree.root, "over")
    assert [permitted.value, queued.value] == ["over"] * 2
    assert tree.root.is_idle()


def test_a_permitted_job_may_time_out_too() -> None:
    tree = Tree(slots=1, queue_timeout=2, rates=(Rate(1, 1000),))
    jobs = [tree.submit(tree.root)]
    tree.host.now = 1
    jobs.append(tree.submit(tree.root))
    assert tree.run(1) == [jobs[1]]
    assert jobs[0].value == "timed out"


def test_a_job_that_runs_as_its_lane_gets_retries_has_started() -> None:
    tree = Tree(slots=1, max_pending=1)
    job = tree.submit(tree.root)
    tree.claim()
    tree.control.set_option(tree.root, "retry", object())
    tree.scheduler.retry(job, 1)
    assert tree.run(1) == [job]
    assert tree.root.pending == 0
    assert job.attempt.count == 2


def test_a_deferred_job_has_what_its_lane_needs_by_then() -> None:
    tree = Tree()
    job, late = tree.submit(tree.root), new_job(tree.root)

    def listener(_: object) -> None:
        tree.control.set_rates(tree.root, (Rate(1),), {})
        tree.scheduler.submit(late)

    job.add_listener(listener)
    tree.scheduler.discard(job, CANCELLED, None)
    assert tree.claim() == [late]
    assert tree.root.windows[0].used == 1


def test_a_lane_that_comes_back_is_told_what_it_has_missed() -> None:
    tree = Tree()
    lane, inner = tree.lane(), tree.lane(tree.lane())
    for each in (lane, inner, inner.parent):
        each.handle = lambda: None
        each.end_is_watched = True
    tree.control.pause(inner, 5)
    tree.control.pause(lane, 1)
    tree.scheduler.tree.check_idle(inner)
    tree.scheduler.tree.check_idle(lane)
    assert not tree.root.children
    tree.control.set_rates(tree.root, (Rate(1),), {})
    tree.scheduler.tree.recall(inner)
    job = tree.submit(inner)
    assert tree.run(5) == [job]
    assert tree.root.windows[0].used == 1
    tree.control.close(tree.root)
    tree.scheduler.tree.recall(lane)
    assert lane.closed
    assert lane.thread is None
    tree.submit(lane)
    assert tree.host.deadline <= tree.host.now


def test_a_worker_that_goes_on_needs_no_waking() -> None:
    tree = Tree(slots=1, rates=(Rate(9),))
    jobs = [tree.submit(tree.root) for _ in range(3)]
    assert tree.claim() == jobs[:1]
    assert tree.scheduler.succeed(jobs[0]) is jobs[1]
    assert tree.scheduler.finish(jobs[1], FAILED, None) is jobs[2]
    assert tree.host.woken == 0


def test_adaptive_slots_hear_of_successes_and_overloads() -> None:
    tree = Tree()
    lane = tree.lane()
    tree.control.set_slots(lane, Adaptive(8, on=Exception))
    jobs = [tree.submit(lane) for _ in range(12)]
    running = tree.claim()
    assert running == jobs[:8]
    running.append(tree.scheduler.succeed(running.pop()))
    assert lane.slots == 9
    running += tree.claim()
    for _ in range(2):  # one cut for all that have started before
        job = running.pop(0)
        job.attempt.overloaded = [lane]
        tree.scheduler.finish(job, FAILED, None)
        assert lane.slots == 4
    job = running.pop(0)
    tree.scheduler.finish(job, FAILED, None)  # no overload
    assert lane.slots == 4
    while running:
        tree.scheduler.finish(running.pop(), CANCELLED, None, goes_on=False)
    running = tree.claim()
    assert len(running) == 2
    tree.scheduler.finish(running.pop(), SUCCEEDED, None)
    assert lane.slots == 4, "it's not what holds jobs back"
    running[0].attempt.overloaded = [lane]
    tree.scheduler.retry(running[0], 1)
    assert lane.slots == 2
    tree.run(1)
    tree.scheduler.finish(running[0], FAILED, None)
    assert lane.slots == 2, "this attempt was no overload"
    tree.control.set_slots(lane, 5)
    assert (lane.slots, lane.adaptive) == (5, None)


def test_a_plain_job_hands_its_slot_over_in_few_steps(monkeypatch) -> None:
    tree = Tree(slots=1)
    first, second = tree.submit(tree.root), tree.submit(tree.root)
    assert tree.claim() == [first]
    monkeypatch.setattr(Scheduler, "finish", None)
    assert tree.scheduler.succeed(first) is second


@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_a_slot_passes_over_jobs_that_were_cancelled(owner) -> None:
    tree = Tree(slots=1)
    lane = tree.root if owner == "executor" else tree.lane()
    jobs = [tree.submit(lane) for _ in range(4)]
    assert tree.claim() == jobs[:1]
    tree.scheduler.cancel(jobs[2], None)
    assert tree.scheduler.succeed(jobs[0]) is jobs[1]
    assert tree.scheduler.succeed(jobs[1]) is jobs[3]
    assert tree.scheduler.succeed(jobs[3]) is None


@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_a_lender_goes_on_in_the_slot_of_the_job_that_it_waited_for(owner) -> None:
    tree = Tree(slots=1)
    lane = tree.root if owner == "executor" else tree.lane()
    outer, inner, other = (tree.submit(lane) for _ in range(3))
    assert tree.claim() == [outer]
    tree.scheduler.lend(outer)
    assert tree.claim() == [inner]
    loan = Waiter(outer, lambda: None)
    inner.add_listener(lambda _: tree.scheduler.reacquire(loan))
    assert tree.scheduler.succeed(inner) is None
    assert loan.served
    assert tree.scheduler.succeed(outer) is other


@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_a_lender_goes_on_in_a_slot_that_is_added(owner) -> None:
    tree = Tree(slots=1 if owner == "executor" else 9)
    lane = tree.root if owner == "executor" else tree.lane(slots=1)
    lender, other = tree.submit(lane), tree.submit(lane)
    assert tree.claim() == [lender]
    tree.scheduler.lend(lender)
    assert tree.claim() == [other]
    loan = Waiter(lender, lambda: None)
    tree.scheduler.reacquire(loan)
    assert not loan.served
    tree.control.set_slots(lane, 2)
    assert loan.served


def test_a_block_at_the_head_uses_one_start_of_a_rate() -> None:
    tree = Tree(slots=1, rates=(Rate(9),))
    first, block = tree.submit(tree.root), new_job(tree.root)
    block.holder = Holder()
    tree.scheduler.submit(block)
    assert tree.claim() == [first]
    assert tree.scheduler.succeed(first) is None
    assert block.status is RUNNING
    assert tree.root.windows[0].used == 2


def test_a_call_of_a_gate_that_was_replaced_fails_no_job() -> None:
    tree = Tree(gate=True)
    job = tree.submit(tree.root)
    ((lane, gate),) = tree.host.calls
    assert tree.control.set_gate(lane, lambda: None) is gate
    assert tree.control.gate_failed(lane, gate, lambda _: "failed") is False
    assert job.status is QUEUED


def test_a_listener_that_was_removed_leaves_another_one_alone() -> None:
    told: list[str] = []
    job = new_job(Tree().root)
    job.add_listener(first := lambda _: told.append("first"))
    job.remove_listener(lambda _: told.append("second"))
    job.settle(SUCCEEDED, None)
    assert told == ["first"]
    job.remove_listener(first)


def test_retried_jobs_start_by_age_though_retries_were_set_later() -> None:
    tree = Tree(slots=2)
    first, second, third, fourth = (tree.submit(tree.root) for _ in range(4))
    tree.control.set_option(tree.root, "retry", Retry())
    assert tree.claim() == [first, second]
    tree.scheduler.retry(second, 1)
    tree.scheduler.retry(first, 1)
    assert tree.claim() == [third, fourth]
    assert tree.run(1) == []
    assert tree.scheduler.succeed(third) is first
    assert tree.scheduler.succeed(fourth) is second


def test_a_cancellation_says_why_from_inside_of_groups() -> None:
    cause = ValueError()
    cancelled = BaseException("why")
    cancelled.__cause__ = cause
    group = BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [cancelled])])
    found = Cancellation.of(group)
    assert (found.message, found.cause) == ("why", cause)


def test_a_job_made_before_retries_were_set_starts_as_a_first_attempt() -> None:
    tree = Tree()
    job = new_job(tree.root)
    tree.control.set_option(tree.root, "retry", Retry())
    tree.scheduler.submit(job)
    assert tree.claim() == [job]
    tree.scheduler.retry(job, 1)
    assert job.attempt is not None
    assert job.attempt.count == 1


def test_a_job_that_would_start_at_once_needs_no_capacity() -> None:
    tree = Tree(slots=1, max_pending=0)
    assert tree.scheduler.may_submit(new_job(tree.root))
    tree.submit(tree.root)
    assert not tree.scheduler.may_submit(new_job(tree.root))
    assert tree.claim()
    assert not tree.scheduler.may_submit(new_job(tree.root))


def test_a_rate_stops_no_others_for_a_lane_whose_gate_is_being_called() -> None:
    """Its head doesn't fit into the rate around, and couldn't start if it did."""
    tree = Tree()
    inner = tree.lane(gate=True, priority=1)
    first, second = tree.submit(inner), tree.submit(inner)
    tree.control.admit(inner, inner.gate)
    free = tree.submit(tree.root)
    rate = Rate(1, per=10, cost=lambda: 1)
    tree.control.set_rates(tree.root, [rate], {first: {0: 1}, second: {0: 1}, free: {0: 0}})
    assert tree.claim() == [first, free]
    assert (second.status, tree.root.limit > 0) == (QUEUED, True)


def test_who_is_notified_of_a_job_that_is_handed_over_sees_timers_as_they_are() -> None:
    """A lane inside ends with the job, and its timer with the lane."""
    seen = []
    tree = Tree(slots=1)
    ended = tree.submit(tree.lane())
    following = tree.submit(tree.lane())
    tree.claim()
    scheduler = tree.scheduler

    def look() -> None:
        seen.append((following.status, scheduler.deadline, scheduler.tree.timers.next_deadline()))

    ended.add_listener(lambda _: scheduler.transaction.notify(look))
    scheduler.tree.timers.set(ended.node, 5)
    scheduler.succeed(ended)
    assert seen == [(RUNNING, 5, 5)]


def test_a_slot_goes_to_the_job_that_was_permitted_first() -> None:
    """One that was cancelled meanwhile is passed over; the next queued job is permitted for it."""
    tree = Tree(slots=2)
    running = tree.submit(tree.root)
    assert tree.claim() == [running]
    cancelled, first, second = (tree.submit(tree.root) for _ in range(3))
    tree.scheduler.cancel(cancelled, None)
    assert tree.scheduler.succeed(running) is first
    assert (first.status, second.status) == (RUNNING, QUEUED)
    assert tree.claim() == [second]
