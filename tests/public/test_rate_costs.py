"""Rates with costs: what jobs use of them, to the instant, in virtual time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import anyio
import pytest
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, JobCancelled, Lane, Rate, charge, gather

pytestmark = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


def first(cost: float, *args: object, **kwargs: object) -> float:
    return cost


class Starts(list[Any]):
    """Jobs that note what they cost and when they start."""

    async def __call__(self, cost: float, seconds: float = 0, amount: float | None = None) -> None:
        self.append((cost, anyio.current_time()))
        if amount is not None:
            await anyio.sleep(seconds / 2)
            charge(TOKENS, amount)
            seconds /= 2
        await anyio.sleep(seconds)


TOKENS = Rate(10, per=8, cost=first)


def test_starts_use_what_they_cost(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=TOKENS) as executor:
            for cost in (4, 6, 0, 3, 7, 1):
                executor.submit(starts, cost)
        return starts

    expected = [(4, 0), (6, 0), (0, 0), (3, 8), (7, 8), (1, 16)]
    assert run_in_virtual_time(backend, main) == expected


def test_no_cheaper_job_overtakes_the_head_of_its_lane(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=TOKENS) as executor:
            executor.submit(starts, 5)
            await anyio.sleep(2)
            executor.submit(starts, 4)
            executor.submit(starts, 8)
            executor.submit(starts, 0)
            executor.submit(starts, 1)
        return starts

    # 9 are used until 8, and then 4 until 10.
    assert run_in_virtual_time(backend, main) == [(5, 0), (4, 2), (8, 10), (0, 10), (1, 10)]


def test_a_dear_head_of_a_lane_holds_up_no_other_lane(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf) as executor:
            dear, cheap = executor.lane(rate=TOKENS, priority=1), executor.lane(rate=TOKENS)
            for cost in (6, 9):
                dear.submit(starts, cost)
            for cost in (2, 3):
                cheap.submit(starts, cost)
        return starts

    assert run_in_virtual_time(backend, main) == [(6, 0), (2, 0), (3, 0), (9, 8)]


@pytest.mark.parametrize("priority", [0, 1])
def test_only_higher_priorities_overtake_at_an_outer_rate(backend, priority) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf) as executor:
            model = executor.lane(rate=TOKENS)
            dear, cheap = model.lane(), model.lane(priority=priority)
            for cost in (6, 9):
                dear.submit(starts, cost)
            await anyio.sleep(1)
            cheap.submit(starts, 3)
        return starts

    expected = [(6, 0), (3, 1), (9, 9)] if priority else [(6, 0), (9, 8), (3, 16)]
    assert run_in_virtual_time(backend, main) == expected


def test_rates_of_all_lanes_on_the_way_hold_together(backend) -> None:
    requests = Rate(2, per=4)

    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=[TOKENS, requests]) as executor:
            lane = executor.lane().lane(rate=Rate(3, per=2, cost=first))
            for cost in (3, 1, 2, 3):
                lane.submit(starts, cost)
        return starts

    assert run_in_virtual_time(backend, main) == [(3, 0), (1, 2), (2, 4), (3, 6)]


def test_cost_gets_the_arguments_once(backend) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def cost(*args: Any, **kwargs: Any) -> int:
        calls.append((args, kwargs))
        return 1

    async def job(*args: Any, **kwargs: Any) -> None: ...

    async def main() -> None:
        async with Executor(1, rate=Rate(1, per=1, cost=cost)) as executor:
            lane = executor.lane()
            executor.submit(job, 1, a=2)
            await lane.enqueue(job, fn=3)
            async with lane.slot("slot", seconds=4):
                pass
            await lane.map(job, [5], [6])

    run_in_virtual_time(backend, main)
    assert calls == [((1,), {"a": 2}), ((), {"fn": 3}), (("slot",), {"seconds": 4}), ((5, 6), {})]


@pytest.mark.parametrize("value", [-1, -0.5, math.nan, math.inf, 10.5, 11, True, "1", None, 1j])
@pytest.mark.parametrize("inside", [False, True])
def test_a_cost_that_cannot_be_queues_nothing(backend, value, inside) -> None:
    async def main() -> None:
        async with Executor(2, rate=Rate(10, per=8, cost=lambda *_: value)) as executor:
            lane: Lane = executor.lane() if inside else executor
            with pytest.raises(ValueError, match="cost"):
                lane.submit(anyio.sleep, 0)
            with pytest.raises(ValueError, match="cost"):
                await lane.enqueue(anyio.sleep, 0)
            with pytest.raises(ValueError, match="cost"):
                async with lane.slot():
                    raise AssertionError
            assert executor.statistics().submitted == lane.statistics().submitted == 0

    run_in_virtual_time(backend, main)


def test_an_exception_of_cost_comes_out_of_submit(backend) -> None:
    error = LookupError("no price")

    def cost(*args: object) -> float:
        raise error

    async def main() -> None:
        async with Executor(2, rate=Rate(10, per=8, cost=cost)) as executor:
            with pytest.raises(LookupError) as caught:
                executor.submit(anyio.sleep, 0)
            assert caught.value is error
            with pytest.raises(LookupError):
                await executor.map(anyio.sleep, [0])
            assert executor.statistics().submitted == 0

    run_in_virtual_time(backend, main)


@pytest.mark.parametrize("deed", ["close", "pause", "submit", "cancel", "resize"])
def test_cost_may_do_anything(backend, deed) -> None:
    """It's code of users: whatever it does to the lane comes before the submission."""
    calls = 0

    def cost(*args: object) -> float:
        nonlocal calls
        calls += 1
        if calls == 2:
            if deed == "close":
                lane.close()
            elif deed == "pause":
                lane.pause(3)
            elif deed == "submit":
                futures.append(lane.submit(starts, 0))
            elif deed == "cancel":
                lane.cancel()
            else:
                lane.slots = 2
        return 1

    async def main() -> None:
        nonlocal lane
        async with Executor(8) as executor:
            lane = executor.lane(slots=1, rate=Rate(9, per=8, cost=cost))
            futures.append(lane.submit(starts, 0, 1))
            try:
                futures.append(lane.submit(starts, 1, 1))
            except RuntimeError:
                assert deed == "close"
            await gather(*futures, return_exceptions=True)
            counts = lane.statistics()
            assert counts.submitted == counts.succeeded + counts.cancelled == len(futures)

    lane: Any = None
    futures: list[Any] = []
    starts = Starts()
    run_in_virtual_time(backend, main)
    expected = {
        "close": [(0, 0)],
        "pause": [(0, 3), (1, 4)],
        "submit": [(0, 0), (0, 1), (1, 1)],
        "cancel": [(1, 0)],
        "resize": [(0, 0), (1, 0)],
    }
    assert starts == expected[deed]


# Charging afterwards.


def test_a_refund_lets_others_start_at_once(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=TOKENS) as executor:
            executor.submit(starts, 10, 4, 3)
            executor.submit(starts, 7)
            executor.submit(starts, 1)
        return starts

    assert run_in_virtual_time(backend, main) == [(10, 0), (7, 2), (1, 8)]


def test_a_charge_may_exceed_the_limit(backend) -> None:
    """Nothing starts while more than the limit is in the window."""

    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=TOKENS) as executor:
            executor.submit(starts, 1, 2, 25)
            await anyio.sleep(1.5)
            executor.submit(starts, 1)
            executor.submit(starts, 0)
        return starts

    assert run_in_virtual_time(backend, main) == [(1, 0), (1, 8), (0, 8)]


def test_a_charge_replaces_the_one_before(backend) -> None:
    async def job() -> None:
        for amount in (9, 2.5, 4):
            charge(TOKENS, amount)

    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=[Rate(5), TOKENS]) as executor:
            await executor.submit(lambda *_: job(), 5)
            executor.submit(starts, 6)
            executor.submit(starts, 1)
        return starts

    assert run_in_virtual_time(backend, main) == [(6, 0), (1, 8)]


def test_a_slot_and_the_tasks_of_a_job_are_charged(backend) -> None:
    """Rates compare by equality; the innermost job's start is charged, on an outer rate, too."""
    same = Rate(10, per=8, cost=first)

    async def job(_: int) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(charge_soon)

    async def charge_soon() -> None:
        charge(same, 3)

    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=TOKENS) as executor:
            lane = executor.lane()
            async with lane.slot(10):
                charge(same, 2)
            await lane.submit(job, 6)
            executor.submit(starts, 5)
            executor.submit(starts, 1)
        return starts

    assert run_in_virtual_time(backend, main) == [(5, 0), (1, 8)]


def test_a_charge_after_the_window_has_no_effect(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=TOKENS) as executor:
            executor.submit(starts, 1, 20, 10)
            await anyio.sleep(11)
            executor.submit(starts, 10)
        return starts

    assert run_in_virtual_time(backend, main) == [(1, 0), (10, 11)]


def test_bad_charges(backend) -> None:
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

    async def main() -> Starts:
        starts = Starts()
        with pytest.raises(RuntimeError, match="inside a job"):
            charge(TOKENS, 1)
        async with Executor(math.inf, rate=TOKENS) as executor:
            with pytest.raises(RuntimeError, match="inside a job"):
                charge(TOKENS, 1)
            await executor.submit(job, 4)
            executor.submit(starts, 6)
            executor.submit(starts, 1)
        return starts

    assert run_in_virtual_time(backend, main) == [(6, 0), (1, 8)]


# Floats.


def test_floats_leave_no_residue(backend) -> None:
    """After many starts of odd costs the whole limit can be used again, and not a bit more."""
    limit = 1.0
    shuffled = random.Random(0)
    costs = [shuffled.choice([0.1, 0.2, 0.3, 1 / 3, 1e-17, 0.7]) for _ in range(3000)]

    async def main() -> list[float]:
        starts = Starts()
        async with Executor(math.inf, rate=Rate(limit, per=1, cost=first)) as executor:
            for cost in costs:
                executor.submit(starts, cost)
            await executor.join()
            await anyio.sleep(1)
            before = anyio.current_time()
            await executor.submit(starts, limit)
            assert anyio.current_time() == before
        by_time: dict[float, list[float]] = {}
        for cost, time in starts:
            by_time.setdefault(time, []).append(cost)
        return [math.fsum(group) for group in by_time.values()]

    sums = run_in_virtual_time(backend, main)
    assert max(sums) == limit
    assert len(sums) < 1.5 * sum(costs)


def test_tenths_add_up_to_the_limit(backend) -> None:
    async def main() -> list[float]:
        starts = Starts()
        async with Executor(math.inf, rate=Rate(1, per=1, cost=first)) as executor:
            for _ in range(40):
                executor.submit(starts, 0.1)
        return [time for _, time in starts]

    assert run_in_virtual_time(backend, main) == [number // 10 for number in range(40)]


# A rate that's set at run time.


def test_queued_jobs_are_charged_by_a_new_cost(backend) -> None:
    def double(cost: float, *args: object) -> float:
        return 2 * cost

    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=TOKENS) as executor:
            for cost in (8, 4, 1, 1):
                executor.submit(starts, cost)
            await anyio.sleep(1)
            executor.rate = Rate(18, per=8, cost=double)
        return starts

    # At 1 there are 8 of 18 used: the next uses 8 more, then 2.
    assert run_in_virtual_time(backend, main) == [(8, 0), (4, 1), (1, 1), (1, 8)]


def test_an_exception_of_a_new_cost_leaves_all_unchanged(backend) -> None:
    def bad(cost: float, *args: object) -> float:
        if cost == 4:
            raise LookupError("no price")
        return 0

    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=TOKENS) as executor:
            for cost in (8, 3, 4):
                executor.lane().submit(starts, cost)
            await anyio.sleep(1)
            with pytest.raises(LookupError):
                executor.rate = [Rate(9, per=1, cost=bad)]
            with pytest.raises(ValueError, match="cost"):
                executor.rate = Rate(2, per=1, cost=first)
            assert executor.rate == (TOKENS,)
        return starts

    assert run_in_virtual_time(backend, main) == [(8, 0), (3, 8), (4, 8)]


def test_a_new_rate_counts_what_the_old_one_remembers(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=Rate(5, per=4)) as executor:
            executor.submit(starts, 0)
            await anyio.sleep(5)
            for number in (1, 2, 3):
                executor.submit(starts, number)
            await anyio.sleep(1)
            executor.rate = Rate(3, per=10)  # three started at 5; that of 0 is forgotten
            executor.submit(starts, 4)
            await anyio.sleep(1)
            executor.rate = Rate(4, per=10)
            executor.submit(starts, 5)
        return starts

    expected = [(0, 0), (1, 5), (2, 5), (3, 5), (4, 7), (5, 15)]
    assert run_in_virtual_time(backend, main) == expected


def test_no_rate_starts_all_at_once(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=TOKENS) as executor:
            for cost in (8, 8, 8):
                executor.submit(starts, cost)
            await anyio.sleep(1)
            executor.rate = None
            assert executor.rate == ()
        return starts

    assert run_in_virtual_time(backend, main) == [(8, 0), (8, 1), (8, 1)]


def test_a_charge_after_the_rate_was_replaced(backend) -> None:
    """The start is charged where it's remembered now; equal rates are one."""

    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=TOKENS) as executor:
            executor.submit(starts, 10, 4, 2)
            await anyio.sleep(1)
            executor.rate = Rate(10, per=8, cost=first)
            executor.submit(starts, 8)
        return starts

    assert run_in_virtual_time(backend, main) == [(10, 0), (8, 2)]


# Random programs, compared with a model that looks at everything anew at each instant.


class ModelLane:
    def __init__(self, parent: ModelLane | None, priority: float, slots: float, rates: list[Any]):
        self.parent = parent
        self.children: list[ModelLane] = []
        self.priority, self.slots = priority, slots
        # Of each rate: limit, per, factor of the cost, and the charges [time, amount].
        self.rates = [[*rate, []] for rate in rates]
        self.queue: list[Any] = []
        self.held = 0
        if parent is not None:
            parent.children.append(self)

    def path(self) -> list[ModelLane]:
        return [self, *(self.parent.path() if self.parent else [])]


class Ambiguous(Exception):
    """Two things happen at one instant, whose order isn't laid down."""


class Model:
    def __init__(self, lanes: list[ModelLane]) -> None:
        self.lanes = lanes
        self.starts: list[tuple[int, Fraction]] = []
        self.charges: dict[tuple[int, int], list[Any]] = {}
        self.events: list[tuple[Fraction, Callable[[], None]]] = []

    def run(self) -> list[tuple[int, Fraction]]:
        while True:
            windows = {
                charge[0] + rate[1]
                for lane in self.lanes
                for rate in lane.rates
                for charge in rate[3]
                if charge[0] + rate[1] > self.now_or(-1) and charge[1]
            }
            times = [time for time, _ in self.events]
            if len(set(times)) < len(times) or windows & set(times):
                raise Ambiguous
            if not times and not (windows and any(lane.queue for lane in self.lanes)):
                return self.starts
            self.now = min([*times, *windows])
            for event in [event for event in self.events if event[0] == self.now]:
                self.events.remove(event)
                event[1]()
            self.start()

    now: Any = None

    def now_or(self, value: int) -> Any:
        return value if self.now is None else self.now

    def start(self) -> None:
        stopped: set[ModelLane] = set()

        def head(lane: ModelLane) -> Any:
            if lane in stopped or lane.held >= lane.slots:
                return None
            members = [(-child.priority, child) for child in lane.children]
            members.append((0, None))
            for _, child in sorted(members, key=lambda member: member[0]):
                job = head(child) if child else (lane.queue[0] if lane.queue else None)
                if job:
                    return job
            return None

        while job := head(self.lanes[0]):
            lane = job["lane"]
            for outer in lane.path():
                if any(self.used(rate) + job["cost"] * rate[2] > rate[0] for rate in outer.rates):
                    stopped.add(outer)
                    break
            else:
                lane.queue.pop(0)
                self.starts.append((job["number"], self.now))
                for outer in lane.path():
                    outer.held += 1
                    for place, rate in enumerate(outer.rates):
                        entry = [self.now, job["cost"] * rate[2]]
                        rate[3].append(entry)
                        self.charges[job["number"], self.lanes.index(outer) * 9 + place] = entry
                self.at(job["seconds"], partial(self.end, job))
                if job["charge"]:
                    after, where, amount = job["charge"]
                    self.at(after, partial(self.adjust, job["number"], where, amount))

    def at(self, seconds: Fraction, event: Callable[[], None]) -> None:
        self.events.append((self.now + seconds, event))

    def used(self, rate: list[Any]) -> Fraction:
        return sum((c[1] for c in rate[3] if c[0] + rate[1] > self.now), Fraction(0))

    def end(self, job: Any) -> None:
        for lane in job["lane"].path():
            lane.held -= 1

    def adjust(self, number: int, where: int, amount: Fraction) -> None:
        entry = self.charges.get((number, where))
        if entry is not None:
            entry[1] = amount


COSTS = {1: lambda cost, *_: cost, 2: lambda cost, *_: 2 * cost, 0: lambda cost, *_: 0}


def make_program(seed: int) -> dict[str, Any]:
    chosen = random.Random(seed)
    serial = iter(range(1, 4000))

    def time(most: int) -> Fraction:
        """Never twice the same part of a second."""
        return chosen.randrange(most) + Fraction(next(serial), 4096)

    def rates() -> list[tuple[int, int, int]]:
        return [
            (chosen.randrange(8, 13), chosen.randrange(1, 17), chosen.choice([1, 1, 2, 0]))
            for _ in range(chosen.choice([0, 1, 1, 2]))
        ]

    lanes: list[Any] = [(None, 0, chosen.choice([1, 2, 5, math.inf]), rates())]
    for number in range(1, 5):
        priority = number * chosen.choice([-1, 1])
        lanes.append((chosen.randrange(number), priority, chosen.choice([1, 2, math.inf]), rates()))
    jobs = []
    for number in range(chosen.randrange(5, 25)):
        lane = chosen.randrange(5)
        seconds = time(4)
        job: dict[str, Any] = {
            "number": number,
            "lane": lane,
            "at": time(16),
            "cost": Fraction(chosen.randrange(9), 2),
            "seconds": seconds,
            "charge": None,
        }
        owner = lane
        if lanes[owner][3] and chosen.random() < 0.5:
            place = chosen.randrange(len(lanes[owner][3]))
            after = seconds * Fraction(chosen.randrange(1, 8), 8)
            job["charge"] = after, owner * 9 + place, Fraction(chosen.randrange(25), 2)
        jobs.append(job)
    deeds = []
    for _ in range(chosen.randrange(6)):
        lane = chosen.randrange(5)
        kind = chosen.choice(["slots", "rate", "cancel"])
        if kind == "slots":
            what: Any = chosen.choice([1, 2, 4, math.inf])
        elif kind == "rate":
            what = [(chosen.randrange(8, 16), chosen.randrange(1, 17)) for _ in lanes[lane][3]]
        else:
            what = chosen.randrange(len(jobs))
        deeds.append((time(20), kind, lane, what))
    return {"lanes": lanes, "jobs": jobs, "deeds": deeds}


def model_starts(program: dict[str, Any]) -> list[tuple[int, Fraction]]:
    lanes: list[ModelLane] = []
    for parent, *options in program["lanes"]:
        lanes.append(ModelLane(None if parent is None else lanes[parent], *options))
    model = Model(lanes)
    jobs = [{**job, "lane": lanes[job["lane"]]} for job in program["jobs"]]

    def do(kind: str, lane: ModelLane, what: Any) -> None:
        if kind == "slots":
            lane.slots = what
        elif kind == "cancel":
            job = jobs[what]
            if job in job["lane"].queue:
                job["lane"].queue.remove(job)
        else:
            for rate, (limit, per) in zip(lane.rates, what, strict=True):
                rate[3] = [charge for charge in rate[3] if charge[0] + rate[1] > model.now]
                rate[:2] = limit, per

    for job in jobs:
        model.events.append((job["at"], lambda job=job: job["lane"].queue.append(job)))
    for at, kind, lane, what in program["deeds"]:
        deed = kind, lanes[lane], what
        model.events.append((at, lambda deed=deed: do(*deed)))
    return model.run()


async def real_starts(program: dict[str, Any]) -> list[tuple[int, float]]:
    starts: list[tuple[int, float]] = []
    rates: dict[int, Rate] = {}
    tagged: dict[tuple[int, int], Callable[..., Any]] = {}

    def cost_of(lane: int, place: int, factor: int) -> Callable[..., Any]:
        """A function for each rate, so that no two are equal."""
        cost = COSTS[factor]
        return tagged.setdefault((lane, place), lambda *args: float(cost(*args)))

    async def run(cost: Fraction, job: dict[str, Any]) -> None:
        starts.append((job["number"], anyio.current_time()))
        begin = anyio.current_time()
        if job["charge"]:
            after, where, amount = job["charge"]
            rate = rates[where]  # that by which it has started
            await anyio.sleep_until(begin + float(after))
            charge(rate, float(amount))
        await anyio.sleep_until(begin + float(job["seconds"]))

    lanes: list[Lane] = []
    executor: Executor | None = None
    for n, (parent, priority, slots, limits) in enumerate(program["lanes"]):
        made = []
        for place, (limit, per, factor) in enumerate(limits):
            rates[n * 9 + place] = Rate(limit, per, cost=cost_of(n, place, factor))
            made.append(rates[n * 9 + place])
        if parent is None:
            executor = Executor(slots, rate=made or None)
            lanes.append(executor)
        else:
            lanes.append(lanes[parent].lane(slots=slots, priority=priority, rate=made or None))
    futures: dict[int, Any] = {}

    def do(kind: str, lane: int, what: Any) -> None:
        if kind == "slots":
            lanes[lane].slots = what
        elif kind == "cancel":
            if what in futures and not futures[what].running():
                futures[what].cancel()
        elif what:
            new = [
                Rate(limit, per, cost=cost_of(lane, place, program["lanes"][lane][3][place][2]))
                for place, (limit, per) in enumerate(what)
            ]
            lanes[lane].rate = new
            rates.update({lane * 9 + place: rate for place, rate in enumerate(new)})

    def submit(job: dict[str, Any]) -> None:
        futures[job["number"]] = lanes[job["lane"]].submit(run, job["cost"], job)

    events = [(job["at"], submit, (job,)) for job in program["jobs"]]
    events += [(at, do, (kind, lane, what)) for at, kind, lane, what in program["deeds"]]
    assert executor is not None
    async with executor:
        for at, fn, args in sorted(events, key=lambda event: event[0]):
            await anyio.sleep_until(float(at))
            fn(*args)  # type: ignore[operator]
        while any(not future.done() for future in futures.values()):
            if anyio.current_time() > 10_000:
                break
            await anyio.sleep(50)
        executor.cancel()
        await gather(*futures.values(), return_exceptions=True)
    return starts


def test_random_programs_start_as_the_model_says(backend) -> None:
    programs = 0
    for seed in range(120):
        program = make_program(seed)
        try:
            expected = model_starts(program)
        except Ambiguous:
            continue
        programs += 1
        starts = run_in_virtual_time(backend, real_starts, program)
        assert starts == [(number, float(time)) for number, time in expected], seed
    assert programs > 60


def test_a_cancelled_job_in_the_queue_costs_nothing(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=TOKENS) as executor:
            executor.submit(starts, 6)
            dear = executor.submit(starts, 9)
            executor.submit(starts, 4)
            await anyio.sleep(3)
            dear.cancel()
            with pytest.raises(JobCancelled):
                await dear
        return starts

    assert run_in_virtual_time(backend, main) == [(6, 0), (4, 3)]
