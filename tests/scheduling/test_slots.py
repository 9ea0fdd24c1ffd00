from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anyslots._scheduling.slots import Slots


@given(st.lists(st.none() | st.integers(0, 20), min_size=30, max_size=80))
def test_the_lowest_free_number_is_acquired(steps) -> None:
    slots, held = Slots(), set()
    for step in steps:
        if step is None:
            number = slots.acquire()
            assert number == min(set(range(len(held) + 1)) - held)
            held.add(number)
        elif held:
            number = sorted(held)[step % len(held)]
            held.remove(number)
            slots.release(number)
        assert sorted([*slots.free, *held]) == list(range(slots.made))
