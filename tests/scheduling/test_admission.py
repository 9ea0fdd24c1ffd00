from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import Tree, new_job, new_lane

from anyslots._scheduling.job import CANCELLED, FAILED, QUEUED, RUNNING, Job
from anyslots._scheduling.wait_queue import Waiter

STEPS = st.tuples(
    st.sampled_from(["put", "put", "put", "leave", "leave", "remove", "bound"]),
    st.integers(0, 100),
    st.sampled_from([0, 1, 2, 3, math.inf]),
)


@given(
    st.lists(st.sampled_from([0, 1, 2, 3]), min_size=4, max_size=4),
    st.lists(STEPS, min_size=20, max_size=60),
)
def test_putters_are_admitted_in_order_while_there_is_capacity(bounds, steps) -> None:
    tree = Tree(max_pending=bounds[0])
    lanes = [tree.root]
    for n in (1, 2, 3):
        lanes.append(new_lane(lanes[n // 2], max_pending=bounds[n]))
    admission = tree.scheduler.admission
    # What waits to start, by age; and the rest, by the order in which they asked.
    pending: list[Job] = []
    waiting: list[Job] = []

    def admit() -> None:
        while True:
            able = [job for job in waiting if has_capacity(job)]
            if not able:
                return
            waiting.remove(able[0])
            pending.append(able[0])

    def has_capacity(job: Job) -> bool:
        return all(
            sum(each.node.is_inside(lane) for each in pending) < lane.max_pending
            for lane in job.node.path()
        )

    for what, at, bound in steps:
        jobs = {"leave": [*pending, *waiting], "remove": waiting}.get(what, lanes)
        chosen = jobs[at % len(jobs)] if jobs else None
        if what == "put":
            job = new_job(chosen)
            assert admission.has_capacity(chosen) == has_capacity(job)
            if admission.has_capacity(chosen):
                pending.append(job)
                if chosen.bounded:
                    admission.join(chosen)
            else:
                waiting.append(job)
                admission.add(Waiter(job, lambda: None))
            chosen.queue.jobs.append(job)
        elif what == "bound":
            chosen.max_pending = bound
            for lane in lanes:
                lane.apply_options()
            admission.recount()
        elif chosen is not None:
            chosen.status = RUNNING if what == "leave" else CANCELLED
            chosen.node.queue.discard()
            (pending if chosen in pending else waiting).remove(chosen)
            if what == "remove":
                admission.remove(chosen)
            elif chosen.node.bounded:
                admission.leave(chosen)
        admit()
        assert list(admission.putters) == waiting
        for lane in lanes:
            inside = [job for job in pending if job.node.is_inside(lane) and job.node.bounded]
            assert lane.pending == len(inside)
            assert lane.putting == sum(job.node is lane for job in waiting)


def put(tree: Tree, node) -> tuple[Job, Waiter, list[Job]]:
    job, woken = new_job(node), []
    putter = Waiter(job, lambda: woken.append(job))
    tree.scheduler.put(putter)
    return job, putter, woken


def test_the_time_in_the_queue_counts_from_admission() -> None:
    tree = Tree(slots=1, max_pending=1, queue_timeout=2)
    tree.submit(tree.root)
    tree.claim()
    first = tree.submit(tree.root)
    job, putter, woken = put(tree, tree.root)
    tree.run(2)
    assert first.status is FAILED
    assert (job.status, putter.served, woken) == (QUEUED, True, [job])
    tree.run(2)
    assert job.status is FAILED
    assert (tree.root.statistics().submitted, tree.root.statistics().failed) == (3, 2)
    assert tree.root.pending == 0


def test_closing_rejects_putters_inside() -> None:
    tree = Tree(slots=1, max_pending=0)
    lane = tree.lane()
    running = tree.submit(tree.root)
    inside, outside = put(tree, lane), put(tree, tree.root)
    tree.control.close(lane)
    assert (inside[0].status, inside[1].served, len(inside[2])) == (CANCELLED, False, 1)
    assert not outside[2]
    assert tree.claim() == [running]
    assert tree.scheduler.succeed(running) is outside[0]
    assert tree.root.statistics().submitted == 2


class Confirming(Waiter):
    def confirms(self) -> bool:
        return True


@pytest.mark.parametrize("ends", ["goes on", "was cancelled"])
@pytest.mark.parametrize("max_pending", [0, 1])
def test_a_job_starts_once_its_submitter_has_gone_on(max_pending: int, ends: str) -> None:
    """Else a native cancellation before that would come too late. Nothing overtakes it."""
    tree = Tree(slots=1, max_pending=max_pending)
    running = tree.submit(tree.root)
    assert tree.claim() == [running]
    before = [tree.submit(tree.root) for _ in range(max_pending)]
    job = new_job(tree.root)
    putter = Confirming(job, lambda: None)
    tree.scheduler.put(putter)
    for following in before:
        assert tree.scheduler.succeed(running) is following
        running = following
    # A plain lane's jobs would be handed over without a look at who has submitted them.
    tree.control.set_max_pending(tree.root, math.inf)
    assert putter.served
    assert tree.scheduler.succeed(running) is None
    later = tree.submit(tree.root)
    tree.control.set_slots(tree.root, 2)
    assert tree.claim() == []
    if ends == "was cancelled":
        tree.scheduler.cancel(job, None)
        assert tree.claim() == []
    tree.scheduler.confirm(job)
    assert tree.claim() == ([job, later] if ends == "goes on" else [later])
    assert tree.scheduler.is_simple


def test_a_job_whose_submitter_need_not_wait_starts_once_that_has_gone_on_too() -> None:
    """It had asked for capacity a moment before, when there was none."""
    tree = Tree(slots=1, max_pending=0)
    job = new_job(tree.root)
    putter = Confirming(job, lambda: None)
    tree.scheduler.put(putter)
    assert putter.served
    assert tree.claim() == []
    tree.scheduler.confirm(job)
    assert tree.claim() == [job]
