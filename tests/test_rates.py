"""Rates: when jobs may start, to the instant, in virtual time.

test_start_times.py compares random lanes and rates with a model; here is each rule by itself.
"""

from __future__ import annotations

import asyncio
import math
from itertools import accumulate, pairwise, repeat

import anyio
import pytest
import trio
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, JobCancelled, QueueTimeout, Rate, gather

pytestmark = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


class Starts(list[float]):
    """A job that notes when it starts, and takes as many seconds as it's told."""

    async def __call__(self, seconds: float = 0) -> None:
        self.append(anyio.current_time())
        if seconds:
            await anyio.sleep(seconds)


async def fail() -> None:
    raise ValueError("failed")


# One queue. Each case: rates, when jobs are submitted, when they start.

ONE_QUEUE = {
    "at most the limit at once": ([Rate(3, 1)], [0, 0, 0], [0, 0, 0]),
    "the next when the first start leaves the window": (
        [Rate(2, 10)],
        [0, 4, 5, 6, 7],
        [0, 4, 10, 14, 20],
    ),
    "no burst where two fixed windows would meet": (
        [Rate(2, 10)],
        [0, 9, 9, 9],
        [0, 9, 10, 19],
    ),
    "evenly spaced": ([Rate(1, 0.125)], [0, 0, 0, 0], [0, 0.125, 0.25, 0.375]),
    "several, which all hold": (
        [Rate(2, 1), Rate(3, 10)],
        [0] * 8,
        [0, 0, 1, 10, 10, 11, 20, 20],
    ),
    "several, the long one first": (
        [Rate(3, 10), Rate(2, 1)],
        [0] * 8,
        [0, 0, 1, 10, 10, 11, 20, 20],
    ),
    "an idle time earns no burst": (
        [Rate(2, 1)],
        [0, 100, 100, 100, 100, 100],
        [0, 100, 100, 101, 101, 102],
    ),
    "an idle time forgets nothing": ([Rate(2, 1)], [0, 0.25, 0.25], [0, 0.25, 1]),
    "a window that has passed delays nothing": ([Rate(2, 1)], [0, 0, 1.5, 1.5], [0, 0, 1.5, 1.5]),
    "a window that has just passed delays nothing": ([Rate(2, 1)], [0, 0, 1, 1], [0, 0, 1, 1]),
    "many": ([Rate(100, 1)], [0] * 450, [number // 100 for number in range(450)]),
}


@pytest.mark.parametrize("owner", ["executor", "lane"])
@pytest.mark.parametrize(("rates", "submissions", "expected"), ONE_QUEUE.values(), ids=ONE_QUEUE)
def test_starts_in_any_window_stay_within_the_rate(
    backend, owner, rates, submissions, expected
) -> None:
    """Each job starts as soon as every rolling window allows it, no earlier and no later."""

    async def main() -> list[float]:
        starts = Starts()
        async with Executor(math.inf, rate=rates if owner == "executor" else None) as executor:
            lane = executor.lane(rate=rates if owner == "lane" else None)
            for time in submissions:
                await anyio.sleep_until(time)
                lane.submit(starts)
        return starts

    assert run_in_virtual_time(backend, main) == expected


def test_one_start_a_window_is_evenly_spaced(backend) -> None:
    """With `Rate(1, 0.1)` jobs start a tenth of a second apart, never a hair sooner."""

    async def main() -> list[float]:
        starts = Starts()
        async with Executor(math.inf, rate=Rate(1, 0.1)) as executor:
            for _ in range(50):
                executor.submit(starts)
        return starts

    starts = run_in_virtual_time(backend, main)
    assert starts == pytest.approx([0, *accumulate(repeat(0.1, 49))])
    assert all(later >= earlier + 0.1 for earlier, later in pairwise(starts))


@pytest.mark.parametrize(
    ("slots", "rate", "seconds", "expected"),
    [
        (5, Rate(10, 1), 0.25, [0] * 5 + [0.25] * 5 + [1] * 3),
        (2, Rate(2, 1), 1.5, [0, 0, 1.5, 1.5, 3]),
        (1, Rate(3, 1), 0.125, [0, 0.125, 0.25, 1, 1.125, 1.25]),
    ],
)
def test_slots_and_rate_both_hold(backend, slots, rate, seconds, expected) -> None:
    """A job starts once a slot is free and the rate allows it; slow jobs take up one start each."""

    async def main() -> list[float]:
        starts = Starts()
        async with Executor(slots, rate=rate) as executor:
            for _ in expected:
                executor.submit(starts, seconds)
        return starts

    assert run_in_virtual_time(backend, main) == expected


def test_jobs_awaited_one_by_one_keep_to_the_rate(backend) -> None:
    """Whether jobs are submitted together or each after the one before makes no difference."""

    async def main() -> list[float]:
        starts = Starts()
        async with Executor(1, rate=Rate(1, 1)) as executor:
            for _ in range(3):
                await executor.submit(starts)
            await executor.join()
            executor.submit(starts)
            await executor.submit(starts)
        return starts

    assert run_in_virtual_time(backend, main) == [0, 1, 2, 3, 4]


def test_jobs_that_submit_jobs_keep_to_the_rate(backend) -> None:
    """A job that is submitted while another starts takes a start of its own."""

    async def main() -> list[float]:
        starts = Starts()

        async def chain(left: int) -> None:
            await starts()
            if left:
                executor.submit(chain, left - 1)

        async with Executor(math.inf, rate=Rate(2, 1)) as executor:
            executor.submit(chain, 4)
        return starts

    assert run_in_virtual_time(backend, main) == [0, 0, 1, 1, 2]


def test_jobs_that_fail_or_are_cancelled_running_have_started(backend) -> None:
    """What becomes of a job once it has begun gives no start back."""

    async def main() -> list[float]:
        starts = Starts()
        async with Executor(math.inf, rate=Rate(2, 1), on_error="log") as executor:
            executor.submit(fail)
            running = executor.submit(starts, 9)
            executor.submit(starts)
            await anyio.sleep(0.5)
            running.cancel()
        return starts

    assert run_in_virtual_time(backend, main) == [0, 1]


# Rates of several queues.


def test_rates_of_executor_and_lane_hold_together(backend) -> None:
    """A lane's job needs a start of its lane and one of the executor, and takes both at once."""

    async def main() -> tuple[Starts, Starts]:
        own, lanes = Starts(), Starts()
        async with Executor(math.inf, rate=Rate(3, 10)) as executor:
            lane = executor.lane(rate=Rate(1, 1))
            for _ in range(4):
                lane.submit(lanes)
            for _ in range(2):
                executor.submit(own)
        return own, lanes

    assert run_in_virtual_time(backend, main) == ([0, 0], [0, 10, 11, 12])


def test_a_job_that_waits_takes_no_start(backend) -> None:
    """A job that waits for its lane's place or rate takes none of the executor's starts."""

    async def main() -> tuple[Starts, Starts]:
        own, lanes = Starts(), Starts()
        async with Executor(math.inf, rate=Rate(3, 10)) as executor:
            slow = executor.lane(priority=1, slots=1)
            rare = executor.lane(priority=1, rate=Rate(1, 5))
            for _ in range(2):
                slow.submit(lanes, 20)
                rare.submit(lanes)
            executor.submit(own)
        return own, lanes

    assert run_in_virtual_time(backend, main) == ([0], [0, 0, 10, 20])


def test_a_lane_that_waits_for_its_rate_delays_no_other(backend) -> None:
    """Lanes of lower rank start at once while one of higher rank waits for its rate."""

    async def main() -> list[Starts]:
        groups = [Starts(), Starts(), Starts()]
        async with Executor(slots=2) as executor:
            lanes = [executor.lane(priority=9, rate=Rate(1, 4)), executor.lane(), executor]
            for lane, starts in zip(lanes, groups, strict=True):
                for _ in range(3):
                    lane.submit(starts, 1)
        return groups

    assert run_in_virtual_time(backend, main) == [[0, 4, 8], [0, 1, 2], [1, 2, 3]]


def test_the_highest_priority_gets_the_next_start(backend) -> None:
    """While the executor waits for its rate, the next start is anybody's: the highest rank's."""

    async def main() -> list[str]:
        order: list[str] = []

        async def note(name: str) -> None:
            order.append(f"{name} at {anyio.current_time():g}")

        async with Executor(math.inf, rate=Rate(1, 1)) as executor:
            urgent = executor.lane(priority=1)
            for name in ("a", "b", "c"):
                executor.submit(note, name)
            await anyio.sleep(0.5)
            urgent.submit(note, "urgent")
        return order

    assert run_in_virtual_time(backend, main) == ["a at 0", "urgent at 1", "b at 2", "c at 3"]


# Jobs that never start.


@pytest.mark.parametrize("how", ["future", "lane", "executor", "expired"])
@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_a_job_that_never_runs_uses_up_no_start(backend, owner, how) -> None:
    """Whichever way queued jobs were dropped, the next job has their starts."""

    async def main() -> list[float]:
        starts, rate = Starts(), Rate(2, 10)
        async with Executor(math.inf, rate=rate if owner == "executor" else None) as executor:
            lane = executor.lane(
                rate=rate if owner == "lane" else None,
                queue_timeout=5 if how == "expired" else None,
            )
            lane.submit(starts)
            lane.submit(starts)
            dropped = [lane.submit(starts) for _ in range(5)]
            await anyio.sleep(5)
            if how == "future":
                for future in dropped:
                    future.cancel()
            elif how != "expired":
                (lane if how == "lane" else executor).cancel()
            with pytest.raises(QueueTimeout if how == "expired" else JobCancelled):
                await dropped[-1]
            await gather(*dropped, return_exceptions=True)
            await anyio.sleep(4)
            for _ in range(2):
                lane.submit(starts)
        return starts

    assert run_in_virtual_time(backend, main) == [0, 0, 10, 10]


@pytest.mark.parametrize("owner", ["executor", "lane"])
@pytest.mark.parametrize("how", ["future", "lane", "pause"])
def test_a_start_that_was_granted_and_not_used_is_given_back(backend, owner, how) -> None:
    """A job that lost its slot in the tick in which it got it has used up no start either."""

    async def main() -> list[float]:
        starts, rate = Starts(), Rate(1, 10)
        async with Executor(math.inf, rate=rate if owner == "executor" else None) as executor:
            lane = executor.lane(rate=rate if owner == "lane" else None)
            future = lane.submit(starts)
            if how == "future":
                future.cancel()
                lane.submit(starts)
            elif how == "lane":
                lane.cancel()
                lane.submit(starts)
            else:
                lane.pause()
                await anyio.sleep(1)
                lane.resume()
            await anyio.sleep(2)
            lane.submit(starts)
        return starts

    first = 1 if how == "pause" else 0
    assert run_in_virtual_time(backend, main) == [first, first + 10]


def test_cancelling_all_jobs_forgets_no_start(backend) -> None:
    """Starts that have happened count, though their lane was emptied since."""

    async def main() -> list[float]:
        starts = Starts()
        async with Executor(math.inf, rate=Rate(1, 10)) as executor:
            executor.submit(starts)
            executor.submit(starts)
            await anyio.sleep(1)
            executor.cancel()
            executor.submit(starts)
        return starts

    assert run_in_virtual_time(backend, main) == [0, 10]


# Pauses and resizes.


@pytest.mark.parametrize("owner", ["executor", "lane"])
@pytest.mark.parametrize(
    ("pauses", "expected"),
    [
        ([(0.25, 0.5)], [0, 1, 2]),
        ([(0.5, 5)], [0, 5, 6]),
        ([(0.125, 0.25), (0.5, 0.75), (0.875, 1.5), (2, 2.75)], [0, 1.5, 2.75]),
    ],
)
def test_pausing_while_a_rate_holds_jobs_back(backend, owner, pauses, expected) -> None:
    """A pause stops no clock: what the rate allows by its end starts then, the rest in its time."""

    async def main() -> list[float]:
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
        return starts

    assert run_in_virtual_time(backend, main) == expected


def test_a_job_may_pause_its_executor_for_good(backend) -> None:
    """What the rate holds back stays queued, when it opens, while the executor is paused."""

    async def main() -> tuple[list[float], int]:
        starts = Starts()

        async def pause() -> None:
            executor.pause()

        async with Executor(math.inf, rate=Rate(1, 1)) as executor:
            executor.submit(pause)
            executor.submit(starts)
            await anyio.sleep(10)
            queued = executor.statistics().queued
            executor.cancel()
        return starts, queued

    assert run_in_virtual_time(backend, main) == ([], 1)


def test_more_slots_give_no_more_starts(backend) -> None:
    """Raising the slots while the rate holds jobs back starts none."""

    async def main() -> list[float]:
        starts = Starts()
        async with Executor(1, rate=Rate(2, 4)) as executor:
            for _ in range(5):
                executor.submit(starts, 0.5)
            await anyio.sleep(1)
            executor.slots = 5
        return starts

    assert run_in_virtual_time(backend, main) == [0, 0.5, 4, 4.5, 8]


# No timer without somebody who waits for it.


def next_deadline() -> float:
    """In how many seconds the event loop would wake up by itself."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return trio.lowlevel.current_statistics().seconds_to_next_deadline
    timers = [timer for timer in loop._scheduled if not timer.cancelled()]
    return min((timer.when() - loop.time() for timer in timers), default=math.inf)


@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_the_block_waits_for_jobs_and_for_no_window(backend, owner) -> None:
    """Once the last job has ended no timer runs, and the block ends at that instant."""

    async def main() -> tuple[list[float], float]:
        starts, rates = Starts(), [Rate(1, 2), Rate(100, 1000)]
        async with Executor(2, rate=rates if owner == "executor" else None) as executor:
            lane = executor.lane(rate=rates if owner == "lane" else None)
            for _ in range(3):
                lane.submit(starts)
            assert next_deadline() == math.inf
            await anyio.sleep(1)
            assert next_deadline() == 1
            await lane.join()
            assert next_deadline() == math.inf
        return starts, anyio.current_time()

    assert run_in_virtual_time(backend, main) == ([0, 2, 4], 4)


@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_a_timer_ends_with_the_last_who_waits_for_it(backend, owner) -> None:
    """When the jobs that a rate held back are cancelled, nothing wakes the loop any more."""

    async def main() -> float:
        starts, rate = Starts(), Rate(1, 1000)
        async with Executor(2, rate=rate if owner == "executor" else None) as executor:
            lane = executor.lane(rate=rate if owner == "lane" else None)
            futures = [lane.submit(starts) for _ in range(3)]
            await anyio.sleep(1)
            futures[1].cancel()
            assert next_deadline() == 999
            futures[2].cancel()
            assert next_deadline() == math.inf
        return anyio.current_time()

    assert run_in_virtual_time(backend, main) == 1


def test_a_rate_of_all_holds_for_the_next_job_of_a_lane_with_one_place(backend) -> None:
    """A job that ends gives its lane's place to the next one, but not a start of the executor's."""
    starts = Starts()

    async def main() -> None:
        async with Executor(2, rate=Rate(1, per=10)) as executor:
            lane = executor.lane(slots=1)
            for _ in range(3):
                lane.submit(starts, 1)

    run_in_virtual_time(backend, main)
    assert starts == [0, 10, 20]
