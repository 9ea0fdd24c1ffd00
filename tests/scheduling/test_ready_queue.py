from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anyslots._scheduling.ready_queue import Member, ReadyQueue

PRIORITIES = st.lists(st.sampled_from([0, 0, 0, 1, -1, 0.5]), min_size=1, max_size=6)


def new_member(priority: float) -> Member:
    member = Member()
    member.priority, member.is_ready = priority, False
    return member


def ring(queue: ReadyQueue, priority: float) -> list[Member]:
    members, member = [], queue.rings.get(priority)
    if queue.first is not None and queue.first.priority == priority:
        member = queue.first
    while member is not None:
        assert member.next.prev is member
        members.append(member)
        member = member.next if member.next is not members[0] else None
    return members


@given(PRIORITIES, st.data())
def test_equal_priorities_take_turns(priorities, data) -> None:
    queue, members = ReadyQueue(), [new_member(p) for p in priorities]
    naive: list[Member] = []
    for step in data.draw(st.lists(st.integers(0, len(members)), min_size=20, max_size=60)):
        if step == len(members):
            if naive:
                first = next(m for m in naive if m.priority == max(m.priority for m in naive))
                queue.rotate()
                naive.remove(first)
                naive.append(first)
        elif (member := members[step]).is_ready:
            queue.remove(member)
            naive.remove(member)
        else:
            queue.add(member)
            naive.append(member)
        assert [m for m in members if m.is_ready] == [m for m in members if m in naive]
        assert queue.count == len(naive)
        assert sorted(-p for p in queue.priorities) == sorted(queue.rings)
        for priority in priorities:
            assert ring(queue, priority) == [m for m in naive if m.priority == priority]
        highest = max((m.priority for m in naive), default=None)
        assert queue.first is next((m for m in naive if m.priority == highest), None)


def test_priorities_that_are_not_used_any_more_are_forgotten() -> None:
    """As of a lane for each request, with the time as its priority."""
    queue, always = ReadyQueue(), new_member(10**6)
    for priority in range(1000):
        member = new_member(priority)
        queue.add(member)
        queue.remove(member)
    assert len(queue.rings) <= 33
    queue.add(always)
    for priority in range(1000):
        member = new_member(-priority)
        queue.add(member)
        queue.remove(member)
        assert queue.first is always
    assert len(queue.rings) == len(queue.priorities) <= 35
