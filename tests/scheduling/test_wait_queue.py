from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from trees import new_job, new_lane

from anyslots._scheduling.lane_state import LaneState
from anyslots._scheduling.wait_queue import Putters, Waiter

STEPS = st.tuples(st.integers(0, 6), st.sampled_from(["add", "add", "remove", "toggle", "pop"]))


def new_queues() -> list[Putters]:
    """Seven, as a binary tree; each is open."""
    queues: list[Putters] = []
    for n in range(7):
        parent = queues[(n - 1) // 2] if n else None
        lane: LaneState = new_lane(parent and parent.lane, max_pending=1)
        queues.append(Putters(lane, parent))
    return queues


def is_open(queue: Putters | None) -> bool:
    return queue is None or (queue.lane.pending == 0 and is_open(queue.parent))


@given(st.lists(STEPS, min_size=40, max_size=120))
def test_the_longest_waiting_that_may_go_on_is_first(steps) -> None:
    queues = new_queues()
    waiting: list[tuple[Waiter, Putters]] = []
    for ticket, (number, what) in enumerate(steps):
        queue = queues[number]
        first = queues[0].first()
        if what == "add":
            waiter = Waiter(new_job(queue.lane), lambda: None)
            waiting.append((waiter, queue))
            queue.add(waiter, ticket)
            assert waiter.is_waiting()
        elif what == "toggle":
            queue.lane.pending = 1 - queue.lane.pending
            queue.update()
        else:
            mine = [(w, q) for w, q in waiting if (q is queue if what == "remove" else w is first)]
            if mine:
                waiter, home = mine[-1]
                waiting.remove(mine[-1])
                home.remove(waiter)
                assert not waiter.is_waiting()
        able = [waiter for waiter, home in waiting if is_open(home)]
        assert queues[0].first() is (able[0] if able else None)
        for each in queues[1:]:
            inside = [w.ticket for w, q in waiting if is_within(q, each) and opens_up_to(q, each)]
            assert each.ticket == min(inside, default=math.inf)


def is_within(queue: Putters | None, outer: Putters) -> bool:
    return queue is not None and (queue is outer or is_within(queue.parent, outer))


def opens_up_to(queue: Putters, outer: Putters) -> bool:
    return not queue.lane.pending and (queue is outer or opens_up_to(queue.parent, outer))


def test_toggling_piles_up_no_entries() -> None:
    queues = new_queues()
    waiters = [Waiter(new_job(queues[6].lane), lambda: None) for _ in range(3)]
    for ticket, waiter in enumerate(waiters):
        queues[6].add(waiter, ticket)
    for _ in range(1000):
        queues[6].lane.pending ^= 1
        queues[6].update()
    for ticket in range(3, 1000):
        queues[6].remove(waiters[2])
        queues[6].add(waiters[2], ticket)
    assert all(len(queue.heap) <= 2 * 3 + 33 for queue in queues)
    assert queues[0].first() is waiters[0]
