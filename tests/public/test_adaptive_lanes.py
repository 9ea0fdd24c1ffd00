"""Adaptive slots on simulated servers, in virtual time, seeded."""

from __future__ import annotations

import math
import random
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Adaptive, Executor, Lane, Retry, amap, gather

pytestmark = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)

WARM_UP = 200


class Overloaded(Exception):
    pass


class Server:
    """Serves so many jobs at once, a second each, and refuses more, a tenth of a second each."""

    def __init__(self, capacity: int, spread: float = 0, later: int | None = None, half: int = 0):
        self.capacity = capacity
        self.spread = spread
        self.later = later
        self.half = half
        self.busy = self.served = self.overloads = self.early_overloads = 0
        self.random = random.Random(1)

    async def __call__(self, *_: object) -> None:
        if self.busy >= self.capacity:
            self.overloads += 1
            await anyio.sleep(0.1)
            raise Overloaded
        self.busy += 1
        try:
            await anyio.sleep(1 + self.spread * self.random.uniform(-1, 1))
        finally:
            self.busy -= 1
        self.served += 1
        if self.served == WARM_UP:
            self.early_overloads = self.overloads
        if self.served == self.half:
            assert self.later is not None
            self.capacity = self.later

    def overload_share(self) -> float:
        return (self.overloads - self.early_overloads) / (self.served - WARM_UP)


RETRY = Retry(1000, on=Overloaded, wait=0.5, most=10)


async def seconds_for(jobs: int, server: Server, slots: Any) -> float:
    async with Executor(math.inf) as executor:
        lane = executor.lane(slots=slots, retry=RETRY)
        await lane.map(server, range(jobs), buffer=jobs)
    assert server.served == jobs
    return anyio.current_time()


@pytest.mark.parametrize("spread", [0, 0.5])
@pytest.mark.parametrize("capacity", [2, 8, 40])
def test_it_finds_the_capacity(backend, capacity, spread) -> None:
    jobs = max(1200, 60 * capacity)

    def run(slots: Any) -> tuple[float, Server]:
        server = Server(capacity, spread)
        return run_in_virtual_time(backend, seconds_for, jobs, server, slots), server

    best, _ = run(capacity)
    seconds, server = run(Adaptive(on=Overloaded))
    assert best / seconds >= 0.92
    assert server.overload_share() <= 0.02


def seconds_with_change(backend: str, first: int, later: int, slots: Any) -> float:
    """With as many jobs before the change as after it; None for the best slots at each time."""
    jobs = max(2000, 60 * max(first, later))
    server = Server(first, 0.3, later, jobs // 2)

    async def main() -> float:
        async with Executor(math.inf) as executor:
            lane = executor.lane(slots=first if slots is None else slots, retry=RETRY)
            futures = [lane.submit(server) for _ in range(jobs)]
            if slots is None:
                await futures[jobs // 2 - 1].wait()
                lane.slots = later
            await gather(*futures)
        return anyio.current_time()

    return run_in_virtual_time(backend, main)


@pytest.mark.parametrize(("first", "later", "least"), [(5, 25, 0.85), (25, 5, 0.95)])
def test_it_follows_a_capacity_that_changes(backend, first, later, least) -> None:
    best = seconds_with_change(backend, first, later, None)
    assert best / seconds_with_change(backend, first, later, Adaptive(on=Overloaded)) >= least


# The limit as an option.


async def fail() -> None:
    await checkpoint()
    raise Overloaded


def test_the_present_number_is_the_lanes_slots(backend) -> None:
    async def main() -> list[float]:
        async with Executor(math.inf, on_error="log") as executor:
            lane = executor.lane(slots=Adaptive(8, on=Overloaded))
            seen = [lane.slots]
            for _ in range(2):
                await lane.submit(fail).wait()
                assert lane.statistics().slots == lane.slots
                seen.append(lane.slots)
            return seen

    assert run_in_virtual_time(backend, main) == [8, 4, 2]


def test_overloads_of_jobs_that_had_started_before_count_once(backend) -> None:
    async def main() -> float:
        async with Executor(math.inf, on_error="log") as executor:
            lane = executor.lane(slots=Adaptive(8, on=Overloaded))
            for _ in range(8):
                lane.submit(fail)
            await lane.join()
            return lane.slots

    # Each of the others takes one off: they tell how far beyond the capacity it was.
    assert 1 <= run_in_virtual_time(backend, main) <= 4


def test_it_doubles_per_round_while_the_limit_holds_jobs_back(backend) -> None:
    async def main() -> list[float]:
        seen = []
        async with Executor(math.inf) as executor:
            lane = executor.lane(slots=Adaptive(2, on=Overloaded))
            for _ in range(200):
                lane.submit(anyio.sleep, 1)
            for _ in range(5):
                await anyio.sleep(0.5)
                seen.append(lane.slots)
                await anyio.sleep(0.5)
            return seen

    assert run_in_virtual_time(backend, main) == [2, 4, 8, 16, 32]


@pytest.mark.parametrize("held_by", ["nothing", "executor", "pause"])
def test_it_grows_only_if_it_is_what_holds_jobs_back(backend, held_by) -> None:
    async def main() -> float:
        async with Executor(1 if held_by == "executor" else math.inf) as executor:
            lane = executor.lane(slots=Adaptive(2, on=Overloaded))
            for _ in range(20):
                if held_by == "pause":
                    lane.pause(0.5)
                future = lane.submit(anyio.sleep, 1)
                if held_by != "executor":
                    await future
            await lane.join()
            return lane.slots

    assert run_in_virtual_time(backend, main) == 2


def test_other_failures_change_nothing(backend) -> None:
    async def other() -> None:
        await anyio.sleep(1)
        raise ValueError

    async def main() -> float:
        async with Executor(math.inf, on_error="log") as executor:
            lane = executor.lane(slots=Adaptive(2, on=Overloaded))
            for _ in range(50):
                lane.submit(other)
            for future in [lane.submit(anyio.sleep, 9) for _ in range(10)]:
                future.cancel()
            await lane.join()
            return lane.slots

    assert run_in_virtual_time(backend, main) == 2


def test_timeouts_may_be_overloads(backend) -> None:
    async def main() -> float:
        async with Executor(math.inf, on_error="log") as executor:
            lane = executor.lane(slots=Adaptive(8, on=TimeoutError), timeout=1)
            await lane.submit(anyio.sleep, 5).wait()
            return lane.slots

    assert run_in_virtual_time(backend, main) == 4


def test_retried_overloads_count(backend) -> None:
    calls: list[float] = []

    async def once() -> None:
        calls.append(anyio.current_time())
        if len(calls) == 1:
            raise Overloaded

    async def main() -> float:
        async with Executor(math.inf, retry=RETRY) as executor:
            lane = executor.lane(slots=Adaptive(8, on=lambda exc: isinstance(exc, Overloaded)))
            await lane.submit(once)
            return lane.slots

    assert run_in_virtual_time(backend, main) == 4
    assert len(calls) == 2


def test_lanes_inside_report_to_it(backend) -> None:
    async def main() -> tuple[float, float]:
        async with Executor(Adaptive(8, on=Overloaded), on_error="log") as executor:
            inner = executor.lane(slots=Adaptive(16, on=Overloaded)).lane()
            await inner.submit(fail).wait()
            return executor.slots, executor.children[0].slots

    assert run_in_virtual_time(backend, main)[0] == 4


@pytest.mark.parametrize("number", [5, math.inf])
def test_setting_a_number_ends_it(backend, number) -> None:
    async def main() -> float:
        async with Executor(math.inf, on_error="log") as executor:
            lane = executor.lane(slots=Adaptive(8, on=Overloaded))
            running = [lane.submit(fail) for _ in range(3)]
            lane.slots = number
            assert lane.slots == number
            await gather(*running, return_exceptions=True)
            await lane.submit(fail).wait()
            return lane.slots

    assert run_in_virtual_time(backend, main) == number


def test_setting_it_begins_one(backend) -> None:
    async def main() -> list[float]:
        async with Executor(math.inf, on_error="log") as executor:
            lane = executor.lane(slots=3)
            lane.slots = Adaptive(10, on=Overloaded)
            seen = [lane.slots]
            await lane.submit(fail).wait()
            seen.append(lane.slots)
            lane.slots = Adaptive(6, on=ValueError)
            seen.append(lane.slots)
            await lane.submit(fail).wait()
            return [*seen, lane.slots]

    assert run_in_virtual_time(backend, main) == [10, 5, 6, 6]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"start": 50, "most": 20}, 20), ({"start": 2, "least": 7}, 7), ({"least": 6}, 6)],
)
def test_start_is_brought_within_the_bounds(backend, options, expected) -> None:
    for make in (Executor, Executor(1).lane):
        lane: Lane = make(slots=Adaptive(**options, on=Overloaded))
        assert lane.slots == expected


def test_it_stays_within_its_bounds(backend) -> None:
    async def main() -> set[float]:
        seen = set()
        async with Executor(math.inf, on_error="log") as executor:
            lane = executor.lane(slots=Adaptive(4, least=3, most=6, on=Overloaded))
            for number in range(60):
                jobs = [lane.submit(fail if number % 7 == 6 else checkpoint) for _ in range(20)]
                await gather(*jobs, return_exceptions=True)
                seen.add(lane.slots)
        return seen

    seen = run_in_virtual_time(backend, main)
    assert min(seen) == 3
    assert max(seen) == 6


def test_amap_takes_one(backend) -> None:
    async def main() -> None:
        server = Server(5)
        await amap(server, range(300), slots=Adaptive(on=Overloaded), retry=RETRY)
        assert server.served == 300

    run_in_virtual_time(backend, main)


@pytest.mark.parametrize(
    "options",
    [
        {"start": 0},
        {"start": 2.5},
        {"start": math.inf},
        {"start": True},
        {"least": 0},
        {"most": 0},
        {"least": 5, "most": 4},
        {"on": 3},
        {"on": [3]},
        {"on": BaseException},
        {"backoff": 0},
        {"backoff": 1},
        {"backoff": "0.5"},
        {"backoff": math.nan},
    ],
)
def test_bad_options(backend, options: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="most|" + next(iter(options))):
        Adaptive(**{"on": Overloaded, **options})


def test_it_is_for_slots_alone(backend) -> None:
    adaptive: Any = Adaptive(on=Overloaded)
    with pytest.raises(TypeError):
        Adaptive()  # type: ignore[call-arg]
    for name in ("max_pending", "rate", "timeout", "retry", "priority"):
        with pytest.raises(TypeError, match=name):
            Executor(1).lane(**{name: adaptive})
