"""What a job costs doesn't grow with how many lanes, lenders, submitters or starts there are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from trees import Tree, new_job

from anyslots._scheduling.job import CANCELLED, SUCCEEDED
from anyslots._scheduling.rates import Rate
from anyslots._scheduling.wait_queue import Waiter

pytestmark = pytest.mark.unmeasured  # it traces, as the coverage does
JOBS = 8


def steps_of(call: Callable[[], object]) -> int:
    """How many bytecodes a call takes."""
    steps = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return steps


def run_jobs(tree: Tree) -> None:
    """End some jobs, each of which has another one start."""
    running = tree.claim()
    for _ in range(JOBS):
        job = running.pop(0)
        following = tree.scheduler.succeed(job)
        running += [following] if following is not None else tree.claim()


def lanes(width: int) -> Callable[[], object]:
    tree = Tree(slots=3)
    for lane in [tree.lane() for _ in range(width)]:
        for _ in range(2):
            tree.submit(lane)
    return lambda: run_jobs(tree)


def lanes_at_their_limit(width: int) -> Callable[[], object]:
    tree = Tree(slots=width)
    for lane in [tree.lane(slots=1) for _ in range(width)]:
        for _ in range(3):
            tree.submit(lane)
    tree.host.woken, woken = JOBS, tree.host.woken
    assert woken == width
    return lambda: run_jobs(tree)


def lanes_with_rates(width: int) -> Callable[[], object]:
    """Each waits for its rate, and all for one of the executor's."""
    tree = Tree(rates=(Rate(width + JOBS, 1000),))
    for n in range(width):
        lane = tree.lane(rates=(Rate(1, 10 + n),))
        for _ in range(3):
            tree.submit(lane)
    for job in tree.claim():
        tree.scheduler.finish(job, SUCCEEDED, None)

    def expire() -> None:
        for _ in range(JOBS):
            (job,) = tree.run(100)
            tree.scheduler.finish(job, SUCCEEDED, None)

    return expire


def lenders(width: int) -> Callable[[], object]:
    tree = Tree(slots=1)
    lanes = [tree.root, tree.lane(), tree.lane(slots=1)]
    loans: list[Waiter] = []
    for n in range(width):
        job = tree.submit(lanes[n % 3])
        tree.claim()
        tree.scheduler.lend(job)
        loans.append(Waiter(job, lambda: None))
    busy = tree.submit(tree.root)
    tree.claim()
    for loan in loans:
        tree.scheduler.reacquire(loan)

    def end() -> None:
        tree.scheduler.finish(busy, SUCCEEDED, None)
        for loan in loans[:JOBS]:
            assert loan.served
            tree.scheduler.finish(loan.job, SUCCEEDED, None)

    return end


def putters(width: int) -> Callable[[], object]:
    tree = Tree(slots=3, max_pending=2)
    for lane in [tree.lane(max_pending=1), tree.root]:
        for _ in range(width):
            tree.scheduler.put(Waiter(new_job(lane), lambda: None))
    return lambda: run_jobs(tree)


def starts_of_a_rate(width: int) -> Callable[[], object]:
    tree = Tree(slots=10, rates=(Rate(width, 3600), Rate(width, 3600, cost=lambda: 1)))
    for n in range(width):
        tree.host.now = n / 1000
        tree.submit(tree.root)
        for job in tree.claim():
            tree.scheduler.finish(job, SUCCEEDED, None)
    queued = [tree.submit(tree.root) for _ in range(JOBS)]

    def expire() -> None:
        for job in queued:
            assert tree.run(3600) == [job]
            tree.scheduler.finish(job, SUCCEEDED, None)

    return expire


def cancelled_jobs(width: int) -> Callable[[], object]:
    """In many lanes of a paused executor, while a task waits for them to end."""
    tree = Tree(slots=1)
    tree.control.pause(tree.root)
    jobs = [tree.submit(tree.lane()) for _ in range(width)]
    for job in jobs[JOBS + 1 :]:
        tree.scheduler.discard(job, CANCELLED, None)
    tree.root.idle_waiters, tree.root.end_is_watched = [list], True

    def cancel() -> None:
        for job in jobs[:JOBS]:
            tree.scheduler.discard(job, CANCELLED, None)

    return cancel


def permits(width: int) -> Callable[[], object]:
    tree = Tree(slots=width)
    jobs = [tree.submit(tree.root) for _ in range(width)]

    def cancel() -> None:
        for job in jobs[:JOBS]:
            tree.scheduler.discard(job, CANCELLED, None)
        assert tree.scheduler.claim() is jobs[JOBS]

    return cancel


@pytest.mark.parametrize(
    "make",
    [
        lanes,
        lanes_at_their_limit,
        lanes_with_rates,
        lenders,
        putters,
        starts_of_a_rate,
        cancelled_jobs,
        permits,
    ],
)
def test_steps_do_not_grow(make) -> None:
    few, many = steps_of(make(20)), steps_of(make(5000))
    assert few > 0
    assert many <= few * 1.2
