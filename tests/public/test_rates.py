"""Rates: when jobs may start, to the instant; what they cost; what's charged afterwards."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import accumulate, pairwise, repeat
from typing import Any, TypeAlias

import anyio
import pytest
import trio
from hypothesis import given, reject
from hypothesis import strategies as st
from jobs import Starts, fail, give
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time, virtual

from anyslots import Executor, JobCancelled, Lane, QueueTimeout, Rate, charge, gather

owners = pytest.mark.parametrize("owner", ["executor", "lane"])


def first(cost: float, *args: object) -> float:
    return cost


TOKENS = Rate(10, per=8, cost=first)


def rated(owner: str, rate: Any, slots: float = math.inf) -> tuple[Executor, Lane]:
    """An executor, and a lane of it; one of them has the rate."""
    executor = Executor(slots, rate=rate if owner == "executor" else None)
    return executor, executor.lane(rate=rate if owner == "lane" else None)


# One queue: rates, when jobs are submitted, when they start.

ONE_QUEUE: dict[str, tuple[Any, list[float], list[float]]] = {
    "at most the limit at once": (Rate(3, 1), [0, 0, 0], [0, 0, 0]),
    "until the first leaves the window": (Rate(2, 10), [0, 4, 5, 6, 7], [0, 4, 10, 14, 20]),
    "no burst where fixed windows would meet": (Rate(2, 10), [0, 9, 9, 9], [0, 9, 10, 19]),
    "evenly spaced": (Rate(1, 0.125), [0, 0, 0, 0], [0, 0.125, 0.25, 0.375]),
    "several": ([Rate(2, 1), Rate(3, 10)], [0] * 8, [0, 0, 1, 10, 10, 11, 20, 20]),
    "the long one first": ([Rate(3, 10), Rate(2, 1)], [0] * 8, [0, 0, 1, 10, 10, 11, 20, 20]),
    "idle time earns no burst": (Rate(2, 1), [0, *[100] * 5], [0, 100, 100, 101, 101, 102]),
    "idle time forgets nothing": (Rate(2, 1), [0, 0.25, 0.25], [0, 0.25, 1]),
    "a window that has passed": (Rate(2, 1), [0, 0, 1.5, 1.5], [0, 0, 1.5, 1.5]),
    "a window that has just passed": (Rate(2, 1), [0, 0, 1, 1], [0, 0, 1, 1]),
    "many": (Rate(100, 1), [0] * 450, [number // 100 for number in range(450)]),
}


@owners
@pytest.mark.parametrize(("rates", "submissions", "expected"), ONE_QUEUE.values(), ids=ONE_QUEUE)
@virtual
async def test_starts_in_any_window_stay_within_the_rate(owner, rates, submissions, expected):
    executor, lane = rated(owner, rates)
    starts = Starts()
    async with executor:
        for time in submissions:
            await anyio.sleep_until(time)
            lane.submit(starts)
    assert starts.times == expected


@virtual
async def test_one_start_a_window_is_never_a_hair_too_soon():
    starts = Starts()
    async with Executor(math.inf, rate=Rate(1, 0.1)) as executor:
        for _ in range(50):
            executor.submit(starts)
    assert starts.times == pytest.approx([0, *accumulate(repeat(0.1, 49))])
    assert all(later >= earlier + 0.1 for earlier, later in pairwise(starts.times))


@virtual
async def test_what_becomes_of_a_started_job_gives_no_start_back():
    starts = Starts()
    async with Executor(math.inf, rate=Rate(2, 10), on_error="log") as executor:
        executor.submit(fail)
        running = executor.submit(starts, None, 9)
        executor.submit(starts)
        await anyio.sleep(0.5)
        running.cancel()
        executor.cancel()
        executor.submit(starts)
    assert starts.times == [0, 10]


# Several queues.


@virtual
async def test_the_highest_priority_gets_the_next_start():
    starts = Starts()
    async with Executor(math.inf, rate=Rate(1, 1)) as executor:
        for name in "abc":
            executor.submit(starts, name)
        await anyio.sleep(0.5)
        executor.lane(priority=1).submit(starts, "urgent")
    assert starts == [("a", 0), ("urgent", 1), ("b", 2), ("c", 3)]


# Jobs that never start.


@owners
@pytest.mark.parametrize("how", ["future", "lane", "executor", "expired"])
@virtual
async def test_a_job_that_never_runs_uses_up_no_start(owner, how):
    starts = Starts()
    executor, lane = rated(owner, Rate(2, 10))
    async with executor:
        lane.submit(starts)
        lane.submit(starts)
        lane.queue_timeout = 5 if how == "expired" else None
        dropped = [lane.submit(starts) for _ in range(5)]
        await anyio.sleep(5)
        if how == "future":
            for future in dropped:
                future.cancel()
        elif how != "expired":
            (lane if how == "lane" else executor).cancel()
        results = await gather(*dropped, return_exceptions=True)
        assert {*map(type, results)} == {QueueTimeout if how == "expired" else JobCancelled}
        await anyio.sleep(4)
        for _ in range(2):
            lane.submit(starts)
    assert starts.times == [0, 0, 10, 10]


@owners
@pytest.mark.parametrize("how", ["future", "lane", "pause"])
@virtual
async def test_a_permit_that_was_not_used_gives_its_start_back(owner, how):
    starts, begin = Starts(), 1 if how == "pause" else 0
    executor, lane = rated(owner, Rate(1, 10))
    async with executor:
        future = lane.submit(starts)
        if how == "pause":
            lane.pause()
            await anyio.sleep(1)
            lane.resume()
        else:
            (future if how == "future" else lane).cancel()
            lane.submit(starts)
        await anyio.sleep(2)
        lane.submit(starts)
    assert starts.times == [begin, begin + 10]


@pytest.mark.parametrize("owner", ["executor", "lane"])
@pytest.mark.parametrize(
    ("pauses", "expected"),
    [
        ([(0.25, 0.5)], [0, 1, 2]),
        ([(0.5, 5)], [0, 5, 6]),
        ([(0.125, 0.25), (0.5, 0.75), (0.875, 1.5), (2, 2.75)], [0, 1.5, 2.75]),
    ],
)
@virtual
async def test_a_pause_stops_no_clock_of_a_rate(owner, pauses, expected):
    starts = Starts()
    async with Executor(math.inf, rate=Rate(1, 1)) as executor:
        lane = executor if owner == "executor" else executor.lane()
        for _ in expected:
            lane.submit(starts)
        for pause, resume in pauses:
            await anyio.sleep_until(pause)
            lane.pause()
            await anyio.sleep_until(resume)
            lane.resume()
    assert starts.times == expected


@virtual
async def test_neither_more_slots_nor_the_open_rate_of_a_paused_executor_start_a_job():
    starts = Starts()
    async with Executor(1, rate=Rate(2, 4)) as executor:
        for _ in range(5):
            executor.submit(starts, None, 0.5)
        await anyio.sleep(1)
        executor.slots = 5
        await anyio.sleep(6)
        executor.pause()
        await anyio.sleep(10)
        assert executor.statistics().queued == 1
        executor.cancel()
    assert starts.times == [0, 0.5, 4, 4.5]


def next_deadline() -> float:
    """In how many seconds the event loop would wake up by itself."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return trio.lowlevel.current_statistics().seconds_to_next_deadline
    timers = [timer for timer in loop._scheduled if not timer.cancelled()]
    return min((timer.when() - loop.time() for timer in timers), default=math.inf)


@owners
@virtual
async def test_a_timer_runs_only_while_a_job_waits_for_it(owner):
    starts = Starts()
    executor, lane = rated(owner, [Rate(1, 2), Rate(100, 1000)], 2)
    async with executor:
        futures = [lane.submit(starts) for _ in range(3)]
        assert next_deadline() == math.inf
        await anyio.sleep(1)
        assert next_deadline() == 1
        await anyio.sleep(2)
        futures.append(lane.submit(starts))
        futures[3].cancel()
        assert next_deadline() == 1
        await lane.join()
        assert next_deadline() == math.inf
        future = lane.submit(starts)
        await anyio.sleep(1)
        future.cancel()
        assert next_deadline() == math.inf
    assert (starts.times, anyio.current_time()) == ([0, 2, 4], 5)


@pytest.mark.parametrize("dear", [0, 1])
@virtual
async def test_no_cheaper_job_overtakes_unless_it_is_more_important(dear):
    """At the rate of a lane around both; within a lane, none overtakes."""
    starts = Starts()
    async with Executor(math.inf) as executor:
        model = executor.lane(rate=TOKENS)
        first, other = model.lane(), model.lane(priority=dear)
        for cost in (6, 9, 0):
            first.submit(starts, cost)
        await anyio.sleep(1)
        other.submit(starts, 3)
    expected = [(6, 0), (3, 1), (9, 9), (0, 9)] if dear else [(6, 0), (9, 8), (3, 16), (0, 16)]
    assert starts == expected


@virtual
async def test_cost_gets_the_arguments_once():
    calls: list[Any] = []

    def cost(*args: Any, **kwargs: Any) -> int:
        calls.append((args, kwargs))
        return 1

    async def job(*args: Any, **kwargs: Any) -> None: ...

    async with Executor(1, rate=Rate(1, per=1, cost=cost)) as executor:
        lane = executor.lane()
        executor.submit(job, 1, a=2)
        await lane.enqueue(job, fn=3)
        async with lane.slot("slot", seconds=4):
            pass
        await lane.map(job, [5], [6])
    assert calls == [((1,), {"a": 2}), ((), {"fn": 3}), (("slot",), {"seconds": 4}), ((5, 6), {})]


ERROR = LookupError("no price")
NO_COSTS = [-1, -0.5, math.nan, math.inf, 10.5, 11, True, "1", None, 1j, ERROR]


@pytest.mark.parametrize("value", NO_COSTS, ids=repr)
@virtual
async def test_a_cost_that_cannot_be_queues_nothing(value):
    def cost(*_: object) -> Any:
        if value is ERROR:
            raise ERROR
        return value

    refused = pytest.raises((ValueError, LookupError), match=r"cost must|price")
    async with Executor(2, rate=Rate(10, per=8, cost=cost)) as executor:
        lane = executor.lane()
        for each in (executor, lane):
            with refused as caught:
                each.submit(give)
            assert value is not ERROR or caught.value is ERROR
            with refused:
                await each.enqueue(give)
            with refused:
                async with each.slot():
                    raise AssertionError
            with refused:
                await each.map(give, [0])
            assert each.statistics().submitted == 0


@pytest.mark.parametrize(
    ("deed", "expected"),
    [
        (lambda lane, _: lane.close(), [(0, 0)]),
        (lambda lane, _: lane.pause(3), [(0, 3), (1, 4)]),
        (lambda lane, starts: lane.submit(starts, 0), [(0, 0), (0, 1), (1, 1)]),
        (lambda lane, _: lane.cancel(), [(1, 0)]),
        (lambda lane, _: setattr(lane, "slots", 2), [(0, 0), (1, 0)]),
    ],
    ids=["close", "pause", "submit", "cancel", "resize"],
)
@virtual
async def test_what_cost_does_comes_before_the_submission(deed, expected):
    calls = iter([None, deed])

    def cost(*args: object) -> float:
        if do := next(calls, None):
            do(lane, starts)
        return 1

    starts = Starts()
    async with Executor(8) as executor:
        lane = executor.lane(slots=1, rate=Rate(9, per=8, cost=cost))
        lane.submit(starts, 0, 1)
        if len(expected) == 1 and expected[0][0] == 0:
            with pytest.raises(RuntimeError):
                lane.submit(starts, 1, 1)
        else:
            lane.submit(starts, 1, 1)
        await lane.join()
        counts = lane.statistics()
        assert counts.submitted == counts.succeeded + counts.cancelled
    assert starts == expected


@virtual
async def test_slots_and_tasks_of_jobs_are_charged_by_equal_rates_the_last_amount_counts():
    same = Rate(10, per=8, cost=first)

    async def charge_soon() -> None:
        for amount in (9, 2.5, 3):
            charge(same, amount)

    async def job(_: int) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(charge_soon)

    starts = Starts()
    async with Executor(math.inf, rate=TOKENS) as executor:
        lane = executor.lane()
        async with lane.slot(10):
            charge(same, 2)
        await lane.submit(job, 6)
        executor.submit(starts, 5)
        executor.submit(starts, 1)
    assert starts == [(5, 0), (1, 8)]


@virtual
async def test_bad_charges():
    async def job(*_: object) -> None:
        with pytest.raises(ValueError, match="rate"):
            charge(Rate(3), 1)
        for rate in (None, 3, "tokens"):
            with pytest.raises(TypeError, match="rate"):
                charge(rate, 1)  # type: ignore[arg-type]
        for amount in (None, "1", True, 1j):
            with pytest.raises(TypeError, match="amount"):
                charge(TOKENS, amount)  # type: ignore[arg-type]
        for amount in (-1, math.nan, math.inf):
            with pytest.raises(ValueError, match="amount"):
                charge(TOKENS, amount)

    starts = Starts()
    with pytest.raises(RuntimeError, match="inside a job"):
        charge(TOKENS, 1)
    async with Executor(math.inf, rate=TOKENS) as executor:
        with pytest.raises(RuntimeError, match="inside a job"):
            charge(TOKENS, 1)
        await executor.submit(job, 4)
        executor.submit(starts, 6)
        executor.submit(starts, 1)
    assert starts == [(6, 0), (1, 8)]


# A rate that's set at run time; the random programs below set some, too.


@virtual
async def test_queued_jobs_cost_what_a_new_rate_says_or_nothing_changes():
    def bad(cost: float, *args: object) -> float:
        if cost == 4:
            raise LookupError("no price")
        return 0

    starts = Starts()
    async with Executor(math.inf, rate=TOKENS) as executor:
        for cost in (8, 4, 1, 1):
            executor.lane().submit(starts, cost)
        await anyio.sleep(1)
        with pytest.raises(LookupError):
            executor.rate = [Rate(9, per=1, cost=bad)]
        with pytest.raises(ValueError, match="cost"):
            executor.rate = Rate(2, per=1, cost=first)
        assert executor.rate == (TOKENS,)
        # There are 8 of 18 used: the next uses 8 more, then 2.
        executor.rate = Rate(18, per=8, cost=lambda cost, *_: 2 * cost)
    assert starts == [(8, 0), (4, 1), (1, 1), (1, 8)]


# Random programs, compared with a model that looks at everything anew at each instant.


@dataclass(eq=False)
class PlannedJob:
    number: int
    lane: int
    cost: Fraction
    seconds: Fraction
    # After how long one of its lane's rates is charged what.
    charge: tuple[Fraction, int, Fraction] | None


@dataclass
class PlannedLane:
    parent: int | None
    priority: int
    slots: float
    rates: list[tuple[int, int, int | None]]
    """Limit, seconds, and by what the cost is multiplied: None if all starts cost 1."""


Event: TypeAlias = tuple[Fraction, str, Any]


class Ambiguous(Exception):
    """Two things happen at one instant, whose order isn't laid down."""


class Model:
    def __init__(self, lanes: list[PlannedLane]) -> None:
        self.lanes = lanes
        self.slots = [lane.slots for lane in lanes]
        self.rates = [lane.rates for lane in lanes]
        self.charges: list[list[Any]] = [[[] for _ in lane.rates] for lane in lanes]
        self.queues: list[list[PlannedJob]] = [[] for _ in lanes]
        self.held = [0 for _ in lanes]
        self.charged: dict[PlannedJob, list[Any]] = {}
        self.starts: list[tuple[int, float]] = []
        self.now = Fraction(-1)

    def path(self, lane: int | None) -> Iterator[int]:
        while lane is not None:
            yield lane
            lane = self.lanes[lane].parent

    def run(self, events: list[Event]) -> list[tuple[int, float]]:
        self.events = [*events]
        while True:
            windows = {
                time + per
                for rates, charges in zip(self.rates, self.charges, strict=True)
                for (_, per, _), charged in zip(rates, charges, strict=True)
                for time, amount in charged
                if time + per > self.now and amount
            }
            times = [time for time, *_ in self.events]
            if len({*times}) < len(times) or windows & {*times}:
                raise Ambiguous
            if not times and not (windows and any(self.queues)):
                return self.starts
            self.now = min([*times, *windows])
            for event in [event for event in self.events if event[0] == self.now]:
                self.events.remove(event)
                getattr(self, event[1])(*event[2])
            self.start()

    def submit(self, job: PlannedJob) -> None:
        self.queues[job.lane].append(job)

    def cancel(self, job: PlannedJob) -> None:
        if job in self.queues[job.lane]:
            self.queues[job.lane].remove(job)

    def set_slots(self, lane: int, slots: float) -> None:
        self.slots[lane] = slots

    def set_rates(self, lane: int, limits: list[tuple[int, int]]) -> None:
        for place, (_, per, factor) in enumerate(self.rates[lane]):
            recent = [each for each in self.charges[lane][place] if each[0] + per > self.now]
            self.charges[lane][place] = recent
            self.rates[lane] = [*self.rates[lane]]
            self.rates[lane][place] = (*limits[place], factor)

    def end(self, job: PlannedJob) -> None:
        for lane in self.path(job.lane):
            self.held[lane] -= 1

    def charge(self, job: PlannedJob, amount: Fraction) -> None:
        self.charged[job][1] = amount

    def costs(self, job: PlannedJob) -> Iterator[tuple[int, int, Fraction]]:
        for lane in self.path(job.lane):
            for place, (_, _, factor) in enumerate(self.rates[lane]):
                yield lane, place, Fraction(1) if factor is None else job.cost * factor

    def fits(self, lane: int, place: int, cost: Fraction) -> bool:
        limit, per, _ = self.rates[lane][place]
        charges = self.charges[lane][place]
        return cost + sum(amount for time, amount in charges if time + per > self.now) <= limit

    def head(self, lane: int) -> PlannedJob | None:
        if lane in self.stopped or self.held[lane] >= self.slots[lane]:
            return None
        members = [(-each.priority, n) for n, each in enumerate(self.lanes) if each.parent == lane]
        for _, member in sorted([*members, (0, lane)]):
            if member != lane and (job := self.head(member)):
                return job
            if member == lane and self.queues[lane]:
                return self.queues[lane][0]
        return None

    def start(self) -> None:
        self.stopped: set[int] = set()
        while job := self.head(0):
            full = [
                lane for lane, place, cost in self.costs(job) if not self.fits(lane, place, cost)
            ]
            if full:
                self.stopped.add(full[0])
                continue
            self.queues[job.lane].remove(job)
            self.starts.append((job.number, float(self.now)))
            for lane in self.path(job.lane):
                self.held[lane] += 1
            for lane, place, cost in self.costs(job):
                self.charges[lane][place].append(charge := [self.now, cost])
                if job.charge and (lane, place) == (job.lane, job.charge[1]):
                    self.charged[job] = charge
            self.events.append((self.now + job.seconds, "end", (job,)))
            if job.charge:
                after, _, amount = job.charge
                self.events.append((self.now + after, "charge", (job, amount)))


class Real:
    """The same by an executor."""

    def __init__(self, lanes: list[PlannedLane]) -> None:
        self.plans = lanes
        self.starts: list[tuple[int, float]] = []
        self.futures: dict[PlannedJob, Any] = {}
        self.lanes: list[Lane] = []
        for number, plan in enumerate(lanes):
            make: Any = Executor if plan.parent is None else self.lanes[plan.parent].lane
            options = {} if plan.parent is None else {"priority": plan.priority}
            self.lanes.append(make(slots=plan.slots, **options))
            self.set_rates(number, [(limit, per) for limit, per, _ in plan.rates])

    @cache  # noqa: B019
    def cost_of(self, lane: int, place: int, factor: int) -> Callable[..., float]:
        """A function for each rate, so that no two are equal."""
        return lambda job: float(job.cost * factor)

    def set_rates(self, lane: int, limits: list[tuple[int, int]]) -> None:
        rates = []
        for place, (limit, per) in enumerate(limits):
            factor = self.plans[lane].rates[place][2]
            cost = None if factor is None else self.cost_of(lane, place, factor)
            rates.append(Rate(limit, per, cost=cost))
        self.lanes[lane].rate = rates or None

    def submit(self, job: PlannedJob) -> None:
        self.futures[job] = self.lanes[job.lane].submit(self.job, job)

    def cancel(self, job: PlannedJob) -> None:
        if job in self.futures and not self.futures[job].running():
            self.futures[job].cancel()

    def set_slots(self, lane: int, slots: float) -> None:
        self.lanes[lane].slots = slots

    async def job(self, job: PlannedJob) -> None:
        begin = anyio.current_time()
        self.starts.append((job.number, begin))
        if job.charge:
            after, place, amount = job.charge
            rate = self.lanes[job.lane].rate[place]  # that by which it has started
            await anyio.sleep_until(begin + float(after))
            charge(rate, float(amount))
        await anyio.sleep_until(begin + float(job.seconds))

    async def run(self, events: list[Event]) -> list[tuple[int, float]]:
        executor: Any = self.lanes[0]
        async with executor:
            for at, name, args in sorted(events, key=lambda event: event[0]):
                await anyio.sleep_until(float(at))
                getattr(self, name)(*args)
            with anyio.move_on_after(10_000):
                await executor.join()
            executor.cancel()
            await gather(*self.futures.values(), return_exceptions=True)
        return self.starts


def make_program(seed: int) -> tuple[list[PlannedLane], list[Event]]:
    chosen = random.Random(seed)
    serial = iter(range(1, 4000))

    def time(most: int) -> Fraction:
        """Never twice the same part of a second."""
        return chosen.randrange(most) + Fraction(next(serial), 4096)

    lanes = [
        PlannedLane(
            parent=chosen.randrange(number) if number else None,
            priority=number * chosen.choice([-1, 1]),
            slots=chosen.choice([1, 2, 5, math.inf]),
            rates=[
                (chosen.randrange(8, 13), chosen.randrange(1, 17), chosen.choice([1, 2, 0, factor]))
                for factor in chosen.choice([[], [1], [None], [1, None]])
            ],
        )
        for number in range(5)
    ]
    jobs = []
    for number in range(chosen.randrange(5, 25)):
        lane, seconds, amount = chosen.randrange(5), time(4), Fraction(chosen.randrange(25), 2)
        after, rates = seconds * Fraction(chosen.randrange(1, 8), 8), lanes[lane].rates
        charged = (after, chosen.randrange(len(rates)), amount) if rates and number % 2 else None
        jobs.append(PlannedJob(number, lane, Fraction(chosen.randrange(9), 2), seconds, charged))
    events: list[Event] = [(time(16), "submit", (job,)) for job in jobs]
    for _ in range(chosen.randrange(6)):
        lane, at = chosen.randrange(5), time(20)
        limits = [(chosen.randrange(8, 16), chosen.randrange(1, 17)) for _ in lanes[lane].rates]
        deeds = [("set_rates", (lane, limits)), ("cancel", (chosen.choice(jobs),))]
        deeds.append(("set_slots", (lane, chosen.choice([1, 2, 4, math.inf]))))
        events.append((at, *chosen.choice(deeds)))
    return lanes, events


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
@given(st.integers(0, 2**32))
def test_random_programs_start_as_the_model_says(backend, seed) -> None:
    lanes, events = make_program(seed)
    try:
        expected = Model(lanes).run(events)
    except Ambiguous:
        reject()
    assert run_in_virtual_time(backend, Real(lanes).run, events) == expected
