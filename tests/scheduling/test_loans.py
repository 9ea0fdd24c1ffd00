from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from trees import Tree, new_job, new_lane

from anyslots._scheduling.job import Job
from anyslots._scheduling.loans import Loans
from anyslots._scheduling.wait_queue import Waiter

STEPS = st.tuples(
    st.sampled_from(["ask", "ask", "give_up", "hold", "release", "release", "resize", "serve"]),
    st.integers(0, 3),
    st.integers(1, 3),
)


@given(st.lists(STEPS, min_size=30, max_size=80))
def test_lenders_go_on_in_order_where_there_is_a_slot(steps) -> None:
    lanes = [new_lane(slots=2)]
    for n in (1, 2, 3):
        lanes.append(new_lane(lanes[n // 2], slots=1))
    loans = Loans(lanes[0])
    waiting: list[Waiter] = []

    def hold(node, change: int) -> None:
        for lane in node.path():
            lane.held += change
        loans.changed(node)

    for what, at, slots in steps:
        node = lanes[at]
        mine = [loan for loan in waiting if loan.job.node is node]
        if what == "ask":
            waiting.append(Waiter(new_job(node), lambda: None))
            loans.add(waiting[-1])
        elif what == "give_up" and mine:
            waiting.remove(mine[-1])
            loans.remove(mine[-1])
            loans.remove(mine[-1])  # once is enough
        elif what == "hold":
            hold(node, 1)
        elif what == "release" and node.held > sum(lane.held for lane in node.children):
            hold(node, -1)
        elif what == "resize":
            node.slots = slots
            loans.changed(node)
        elif what == "serve" and (loan := loans.first()) is not None:
            waiting.remove(loan)
            loans.remove(loan)
            hold(loan.job.node, 1)
        assert loans.waiting == len(waiting)
        free = [w for w in waiting if all(x.held < x.slots for x in w.job.node.path())]
        assert loans.first() is (free[0] if free else None)


def lend(tree: Tree, job: Job) -> tuple[Waiter, list[Job]]:
    woken: list[Job] = []
    tree.scheduler.lend(job)
    return Waiter(job, lambda: woken.append(job)), woken


def test_a_lender_goes_on_in_the_slot_of_the_job_it_waits_for() -> None:
    """Ahead of what is queued, even though that job's worker would go on with it."""
    tree = Tree(slots=1)
    outer = tree.submit(tree.root)
    tree.claim()
    loan, woken = lend(tree, outer)
    inner, queued = tree.submit(tree.root), tree.submit(tree.root)
    inner.add_listener(lambda _: tree.scheduler.reacquire(loan))
    assert tree.claim() == [inner]
    assert inner.slot == 0
    assert tree.scheduler.succeed(inner) is None
    assert woken == [outer]
    assert outer.slot == 0
    assert tree.root.statistics().running == 1
    assert tree.scheduler.succeed(outer) is queued


def test_resuming_goes_beyond_the_limit_and_revokes_a_permit() -> None:
    tree = Tree(slots=2)
    lane = tree.lane(slots=1)
    outer = tree.submit(lane)
    other = tree.submit(tree.root)
    assert tree.claim() == [outer, other]
    loan, woken = lend(tree, outer)
    inner = tree.submit(lane)
    assert lane.permitted == 1
    tree.scheduler.resume(loan)
    assert (lane.permitted, lane.held, tree.root.held) == (0, 1, 2)
    assert tree.claim() == []
    loan, _ = lend(tree, outer)
    assert tree.claim() == [inner]
    tree.scheduler.resume(loan)
    assert (lane.held, tree.root.held) == (2, 3)
    third = tree.submit(lane)
    assert tree.scheduler.succeed(inner) is None
    assert tree.scheduler.succeed(outer) is third
    assert not woken
