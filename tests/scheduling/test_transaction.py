from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from trees import Tree, new_job

from anyslots._scheduling.job import CANCELLED
from anyslots._scheduling.transaction import Transaction, transition


class Log:
    """Each change notes itself, asks for others in its middle, and notifies of others."""

    def __init__(self, plan: list[tuple[list[int], list[int]]]) -> None:
        self.transaction = Transaction()
        self.plan = plan
        self.log: list[tuple[str, int]] = []
        self.depth = self.notified = 0

    def close_transition(self) -> None:
        self.transaction.busy = False
        self.transaction.deliver()

    @transition
    def change(self, number: int) -> int:
        self.depth += 1
        assert self.depth == 1, "in the middle of another"
        self.log.append(("change", number))
        inside, after = self.plan[number]
        for each in after:
            self.transaction.notify(self.notification, each)
        for each in inside:
            assert self.change(each) is None
        self.depth -= 1
        return number

    def notification(self, number: int) -> None:
        assert not self.transaction.busy
        assert not self.transaction.deferred
        assert not self.notified, "nested"
        self.notified += 1
        self.log.append(("notification", number))
        assert self.change(number) == number
        self.notified -= 1


def expected(plan: list[tuple[list[int], list[int]]]) -> list[tuple[str, int]]:
    log: list[tuple[str, int]] = []
    changes, notifications = [0], []
    while changes or notifications:
        if not changes:
            changes.append(notifications.pop(0))
            log.append(("notification", changes[0]))
        number = changes.pop(0)
        log.append(("change", number))
        changes += plan[number][0]
        notifications += plan[number][1]
    return log


@given(st.data())
def test_changes_are_never_nested_and_come_before_notifications(data) -> None:
    count = data.draw(st.integers(1, 8))
    plan: list[tuple[list[int], list[int]]] = [([], []) for _ in range(count)]
    for number in range(1, count):
        cause = data.draw(st.integers(0, number - 1))
        plan[cause][data.draw(st.integers(0, 1))].append(number)
    log = Log(plan)
    assert log.change(0) == 0
    assert log.log == expected(plan)
    assert sorted(log.log) == sorted(set(log.log))


def test_long_chains_do_not_recurse() -> None:
    count = 10_000
    for kind in (0, 1):
        plan: list[tuple[list[int], list[int]]] = [([], []) for _ in range(count)]
        for number in range(1, count):
            plan[number - 1][kind].append(number)
        log = Log(plan)
        log.change(0)
        assert len(log.log) == count * (kind + 1) - kind


def test_a_job_that_was_submitted_in_the_middle_may_be_cancelled_by_a_callback() -> None:
    tree = Tree(slots=2)
    late = new_job(tree.root)

    def listener(_: object) -> None:
        tree.scheduler.transaction.notify(tree.scheduler.discard, late, CANCELLED, None)
        tree.scheduler.submit(late)

    job = tree.submit(tree.root)
    job.add_listener(listener)
    tree.scheduler.discard(job, CANCELLED, None)
    assert late.status is CANCELLED
    assert not tree.claim()
    assert (tree.root.held, tree.root.statistics().submitted) == (0, 2)


def test_a_callback_finds_the_next_job_held_by_the_worker() -> None:
    tree, holders = Tree(slots=1), []
    jobs = [tree.submit(tree.root) for _ in range(3)]
    for job, following in pairwise(jobs):

        def listener(_: object, following=following) -> None:
            tree.scheduler.transaction.notify(lambda: holders.append(following.holder))

        job.add_listener(listener)
    worker: object = object()
    assert tree.scheduler.claim(worker) is jobs[0]
    assert tree.scheduler.succeed(jobs[0]) is jobs[1]
    assert tree.scheduler.finish(jobs[1], CANCELLED, None) is jobs[2]
    assert holders == [worker, worker]
