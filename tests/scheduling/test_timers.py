from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from anyslots._scheduling.timers import Timers

DEADLINES = st.sampled_from([1, 2, 2, 3, 5, 8, math.inf])
STEPS = st.tuples(st.integers(0, 5), DEADLINES) | st.integers(0, 8)


@given(st.lists(STEPS, min_size=60, max_size=200))
def test_the_earliest_deadline_comes_next(steps) -> None:
    timers: Timers[int] = Timers()
    naive: dict[int, float] = {}
    for step in steps:
        if isinstance(step, int):
            expired = timers.expire(step)
            times = [naive.pop(owner) for owner in expired]
            assert times == sorted(times)
            assert all(time <= step for time in times)
            assert all(time > step for time in naive.values())
        else:
            owner, deadline = step
            timers.set(owner, deadline)
            naive.pop(owner, None)
            if deadline < math.inf:
                naive[owner] = deadline
        assert timers.deadlines == naive
        assert timers.next_deadline() == min(naive.values(), default=math.inf)
        assert len(timers.heap) <= 2 * len(naive) + 32
        live = [(time, owner) for time, _, owner in timers.heap if naive.get(owner) == time]
        assert set(live) == {(time, owner) for owner, time in naive.items()}
