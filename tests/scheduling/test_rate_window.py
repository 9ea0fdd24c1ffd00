from __future__ import annotations

import math
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyslots._scheduling.lane_control import inherit_window
from anyslots._scheduling.rates import Rate, RateWindow


def cost(*args: object) -> float:
    raise AssertionError("only `submit` calls it")


class Exact:
    """The same as a list of (time, charge), in exact numbers; reserved starts have no time.

    A sum is rounded once: 0.1 + 0.2 + 0.2 is 0.5 then.
    """

    def __init__(self, limit: float, per: float) -> None:
        self.limit = limit
        self.per = per
        self.starts: list[list] = []

    def used(self, now: float) -> Fraction:
        charges = (c for t, c in self.starts if t is None or t + self.per > now)
        return sum(map(Fraction, charges), Fraction(0))

    def available_at(self, now: float, cost: float) -> float:
        ends = sorted(
            {t + self.per for t, _ in self.starts if t is not None and t + self.per > now}
        )
        for time in [now, *ends]:
            if float(self.used(time) + Fraction(cost)) <= self.limit:
                return time
        return math.inf


WHOLE = st.integers(0, 5)
FLOATS = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.7, 1 / 3, 1.0, 2.5])
STEPS = st.tuples(
    st.sampled_from(["reserve", "reserve", "reserve", "start", "start", "release", "adjust"]),
    st.sampled_from([0, 0, 0.1, 0.25, 1]),
    st.integers(0, 50),
)


@pytest.mark.parametrize("amounts", [WHOLE, FLOATS, WHOLE | FLOATS], ids=["ints", "floats", "both"])
@given(st.data())
def test_starts_fit_exactly(amounts, data) -> None:
    limit = data.draw(st.sampled_from([5, 5.0, 2.5, 6]))
    window, exact = RateWindow(Rate(limit, 1, cost=cost)), Exact(limit, 1)
    pairs: list[tuple[list, list]] = []
    now = 0.0
    for what, seconds, at in data.draw(st.lists(STEPS, min_size=30, max_size=80)):
        now += seconds
        if what == "adjust" and pairs:
            charge, start = pairs[at % len(pairs)]
            if start[0] is not None:
                start[1] = data.draw(amounts) * data.draw(st.sampled_from([0, 1, 2]))
                window.adjust(charge, now, start[1])
        amount = min(data.draw(amounts), limit)
        until, expected = window.available_at(now, amount), exact.available_at(now, amount)
        assert (until <= now) == (expected <= now)
        # To look again a little too early is fine: the answer is exact then.
        assert until == expected or now < until <= expected
        reserved = [pair for pair in pairs if pair[1][0] is None]
        if what == "reserve" and until <= now:
            pairs.append((window.reserve(amount), [None, amount]))
            exact.starts.append(pairs[-1][1])
        elif what == "start" and reserved:
            charge, start = reserved[at % len(reserved)]  # not always in the order of the permits
            window.start(charge, now)
            start[0] = now
        elif what == "release" and reserved:
            charge, start = reserved[at % len(reserved)]
            window.release(charge)
            exact.starts = [each for each in exact.starts if each is not start]
            pairs = [pair for pair in pairs if pair[1] is not start]
        window.available_at(now, 0)
        assert window.used == pytest.approx(float(exact.used(now)), abs=1e-12)


@given(st.sampled_from([1, 2, 3]), st.lists(st.sampled_from([0, 0.1, 0.25, 0.5, 1.7]), max_size=40))
def test_a_rate_without_costs_counts_starts(limit, pauses) -> None:
    window, starts, now = RateWindow(Rate(limit, 1)), [], 0.0
    for pause in pauses:
        now += pause
        recent = [time for time in starts if time + 1 > now]
        until = window.available_at(now, 1)
        assert until == (now if len(recent) < limit else recent[-limit] + 1)
        if until <= now:
            window.start(window.reserve(1), now)
            starts.append(now)
    assert type(window.used) is int


@pytest.mark.unmeasured
@pytest.mark.parametrize("whole", [True, False], ids=["ints", "floats"])
def test_a_million_starts_do_not_drift(whole) -> None:
    """The window is never empty, which would hide it."""
    random = Random(1)
    window = RateWindow(Rate(100, 1, cost=cost))
    now, starts = 0.0, 0
    costs = [random.randrange(5) if whole else random.random() * 5 for _ in range(997)]
    while starts < 10**6 // (1 if whole else 2):
        amount = costs[starts % 997]
        until = window.available_at(now, amount)
        if until > now:
            now = until
            continue
        window.start(window.reserve(amount), now)
        starts += 1
        now += 0.001
    exact = math.fsum(charge[1] for charge in window.charges)
    assert len(window.charges) > 10
    assert window.used == (exact if whole else pytest.approx(exact, rel=1e-11))


@pytest.mark.parametrize("part", [0.1, 0.7, 1 / 3])
def test_a_cost_equal_to_the_limit_starts_after_the_others(part) -> None:
    """Rounding errors leave nothing that blocks it."""
    window = RateWindow(Rate(1.0, 1, cost=cost))
    for n in range(10):
        assert window.available_at(n / 16, part / 10) == n / 16
        window.start(window.reserve(part / 10), n / 16)
    assert window.available_at(9 / 16, 1.0) == 9 / 16 + 1
    assert window.available_at(9 / 16 + 1, 1.0) == 9 / 16 + 1


class TestInheriting:
    def window(self, *rates: Rate) -> list[RateWindow]:
        return [RateWindow(rate) for rate in rates]

    def test_it_takes_what_has_the_same_cost_and_lasts_longest(self) -> None:
        former = self.window(Rate(9, 1), Rate(9, 5), Rate(9.5, 9, cost=cost))
        for n, window in enumerate(former):
            for _ in range(n + 1):
                window.start(window.reserve(1), 0.0)
        assert inherit_window(Rate(9, 7), 0, former).used == 2
        assert inherit_window(Rate(9, 7, cost=cost), 0, former).used == 3
        assert inherit_window(Rate(9, 7, cost=float), 0, former).used == 1
        assert inherit_window(Rate(9, 7, cost=float), 5, former).used == 3
        assert inherit_window(Rate(9, 7), 0, []).used == 0

    def test_ints_stay_exact_and_released_ones_are_left_out(self) -> None:
        (former,) = self.window(Rate(10**18, 1, cost=cost))
        former.start(former.reserve(10**17 + 1), 0.0)
        former.release(former.reserve(3))
        window = inherit_window(former.rate, 0, [former])
        assert window.used == 10**17 + 1
        assert type(window.used) is int
        assert len(window.charges) == 1

    @pytest.mark.parametrize("generations", [1, 2])
    def test_what_is_charged_afterwards_counts_in_the_new_window(self, generations) -> None:
        former = window = RateWindow(Rate(10, 1, cost=cost))
        charge = former.reserve(6)
        former.start(charge, 0.0)
        for _ in range(generations):
            window = inherit_window(Rate(10, 5, cost=cost), 0, [window])
        former.adjust(charge, 0.5, 1)
        assert window.used == 1
        former.adjust(charge, 2, 3)  # the first has forgotten it, the new one has not
        assert window.used == 3
        assert window.available_at(2, 7) == 2
        assert window.available_at(2, 8) == 5
        assert window.available_at(5, 10) == 5
        former.adjust(charge, 6, 9)
        assert window.used == 0


def test_costs_that_add_up_to_the_limit_fit_whatever_their_order() -> None:
    window = RateWindow(Rate(1, 10, cost=float))
    for cost in (0.2, 0.4, 0.3):
        window.start(window.reserve(cost), 0)
    assert 0.2 + 0.4 + 0.3 + 0.1 > 1
    assert window.available_at(0, 0.1) == 0
    assert window.available_at(0, 0.11) == 10
