"""Pauses that end by themselves, and those that don't; in virtual time."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, JobCancelled, Lane, Rate, gather

pytestmark = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


class Starts(list[float]):
    async def __call__(self, seconds: float = 0) -> None:
        self.append(anyio.current_time())
        await anyio.sleep(seconds)


def lane_of(executor: Executor, owner: str) -> Lane:
    return executor if owner == "executor" else executor.lane()


# Each case: what's done at which times, and when a job starts that is submitted at 0.

CASES: dict[str, tuple[list[tuple[float, str, float | None]], float]] = {
    "it ends by itself": ([(0, "pause", 5)], 5),
    "a later end extends it": ([(0, "pause", 5), (2, "pause", 4)], 6),
    "an earlier end doesn't shorten it": ([(0, "pause", 5), (2, "pause", 1)], 5),
    "none of them counts twice": ([(0, "pause", 5), (0, "pause", 5)], 5),
    "0 does nothing": ([(0, "pause", 0)], 0),
    "0 ends nothing": ([(0, "pause", 5), (2, "pause", 0)], 5),
    "resume ends it": ([(0, "pause", 5), (2, "resume", None)], 2),
    "resume ends all of them": (
        [(0, "pause", 5), (1, "pause", 20), (2, "pause", None), (3, "resume", None)],
        3,
    ),
    "the plain one outlives it": ([(0, "pause", 5), (0, "pause", None), (8, "resume", None)], 8),
    "it outlives no plain one that was resumed": (
        [(0, "pause", None), (1, "resume", None), (2, "pause", 5)],
        1,
    ),
    "after resume a new one counts": (
        [(0, "pause", 9), (1, "pause", None), (2, "resume", None), (2, "pause", 3)],
        5,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_when_a_pause_ends(backend, owner, case) -> None:
    deeds, expected = CASES[case]

    async def main() -> Starts:
        starts = Starts()
        async with Executor(1) as executor:
            lane = lane_of(executor, owner)
            at, what, argument = deeds[0]
            assert at == 0
            getattr(lane, what)(argument)
            lane.submit(starts)
            for at, what, argument in deeds[1:]:
                if at > anyio.current_time():
                    await anyio.sleep_until(at)
                getattr(lane, what)(*([] if what == "resume" else [argument]))
            await lane.join()
        return starts

    assert run_in_virtual_time(backend, main) == [expected]


def test_whether_it_is_paused_is_its_own(backend) -> None:
    async def main() -> None:
        async with Executor(1) as executor:
            lane = executor.lane()
            inside = lane.lane()
            lane.pause(5)
            assert (executor.paused, lane.paused, inside.paused) == (False, True, False)
            executor.pause()
            assert (executor.paused, lane.paused, inside.paused) == (True, True, False)
            await anyio.sleep(5)
            assert (executor.paused, lane.paused) == (True, False)
            executor.resume()
            assert not executor.paused

    run_in_virtual_time(backend, main)


def test_a_pause_of_an_outer_lane_holds_and_lanes_beside_go_on(backend) -> None:
    async def main() -> list[Starts]:
        starts = [Starts(), Starts(), Starts()]
        async with Executor(1) as executor:
            lane = executor.lane()
            lane.pause(4)
            for each, note in zip((lane.lane(), lane, executor), starts, strict=True):
                each.submit(note)
            await executor.join()
        return starts

    assert run_in_virtual_time(backend, main) == [[4], [4], [0]]


@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_a_pause_outlives_the_body(backend, owner) -> None:
    """The block waits for its end, and then for what was queued."""

    async def main() -> tuple[Starts, float]:
        starts = Starts()
        async with Executor(1) as executor:
            lane = lane_of(executor, owner)
            lane.pause(5)
            lane.submit(starts, 1)
            lane.submit(starts, 1)
        return starts, anyio.current_time()

    assert run_in_virtual_time(backend, main) == ([5, 6], 7)


def test_a_pause_delays_the_end_of_no_empty_block(backend) -> None:
    async def main() -> float:
        async with Executor(1) as executor:
            executor.pause(5)
        return anyio.current_time()

    assert run_in_virtual_time(backend, main) == 0


def test_a_plain_pause_ends_with_the_body_if_nothing_can_end_it(backend) -> None:
    async def main() -> tuple[Starts, Starts]:
        plain, timed = Starts(), Starts()
        async with Executor(2) as executor:
            first, second = executor.lane(), executor.lane()
            first.pause()
            second.pause(3)
            executor.submit(anyio.sleep, 1)
            first.submit(plain)
            second.submit(timed)
        return plain, timed

    assert run_in_virtual_time(backend, main) == ([1], [3])


def test_both_pauses_at_the_end_of_the_block(backend) -> None:
    """The plain one ends, as nothing runs; the other one still holds."""

    async def main() -> Starts:
        starts = Starts()
        async with Executor(1) as executor:
            executor.pause()
            executor.pause(4)
            executor.submit(starts)
        return starts

    assert run_in_virtual_time(backend, main) == [4]


def test_the_grace_of_shutdown_is_not_longer_for_a_pause(backend) -> None:
    async def main() -> tuple[Starts, float]:
        starts = Starts()
        async with Executor(1) as executor:
            executor.pause(10)
            future = executor.submit(starts)
            await executor.shutdown(grace=3)
            with pytest.raises(JobCancelled):
                await future
        return starts, anyio.current_time()

    assert run_in_virtual_time(backend, main) == ([], 3)


def test_shutdown_without_grace_waits_for_the_end_of_a_pause(backend) -> None:
    async def main() -> tuple[Starts, float]:
        starts = Starts()
        async with Executor(1) as executor:
            executor.pause(10)
            executor.submit(starts, 2)
            await executor.shutdown()
            assert anyio.current_time() == 12
        return starts, anyio.current_time()

    assert run_in_virtual_time(backend, main) == ([10], 12)


def test_cancelling_ends_a_paused_block_at_once(backend) -> None:
    async def main() -> float:
        with anyio.move_on_after(2):
            async with Executor(1) as executor:
                executor.pause(100)
                executor.submit(anyio.sleep, 1)
        return anyio.current_time()

    assert run_in_virtual_time(backend, main) == 2


def test_a_job_may_pause_its_own_lane(backend) -> None:
    """What `Retry-After` asks for: one job that's refused holds back the others of its lane."""

    class Server(list[tuple[int, float]]):
        async def __call__(self, number: int) -> None:
            self.append((number, anyio.current_time()))
            if number == 1:
                lane.pause(7)

    async def main() -> list[tuple[int, float]]:
        nonlocal lane
        server = Server()
        async with Executor(4) as executor:
            lane = executor.lane(slots=1)
            for number in range(4):
                lane.submit(server, number)
        return server

    lane: Any = None
    assert run_in_virtual_time(backend, main) == [(0, 0), (1, 0), (2, 7), (3, 7)]


def test_pauses_of_many_jobs_add_up_to_the_latest_end(backend) -> None:
    async def refused(seconds: float) -> None:
        lane.pause(seconds)
        await anyio.sleep(0.5)

    async def main() -> Starts:
        nonlocal lane
        starts = Starts()
        async with Executor(4) as executor:
            lane = executor.lane()
            for seconds in (3, 9, 2):
                lane.submit(refused, seconds)
                await anyio.lowlevel.checkpoint()
            await anyio.sleep(0.1)
            lane.submit(starts)
        return starts

    lane: Any = None
    (start,) = run_in_virtual_time(backend, main)
    assert start >= 3  # the first one's end, at least: it's what kept the others from starting


def test_running_jobs_go_on_and_lenders_come_back(backend) -> None:
    """A job that waits for another one goes on with its slot, whatever is paused."""

    async def parent() -> float:
        child = lane.submit(anyio.sleep, 2)
        await anyio.sleep(1)
        lane.pause(50)
        executor.pause(50)
        await child
        return anyio.current_time()

    async def main() -> float:
        nonlocal executor, lane
        async with Executor(2) as executor:
            lane = executor.lane()
            return await lane.submit(parent)

    executor: Any = None
    lane: Any = None
    assert run_in_virtual_time(backend, main) == 2


def test_submitting_goes_on_while_paused(backend) -> None:
    async def main() -> None:
        async with Executor(1) as executor:
            lane = executor.lane(max_pending=2)
            lane.pause(5)
            lane.submit(anyio.sleep, 0)
            await lane.enqueue(anyio.sleep, 0)
            with pytest.raises(anyio.WouldBlock):
                lane.submit(anyio.sleep, 0)
            await lane.enqueue(anyio.sleep, 0)
            assert anyio.current_time() == 5

    run_in_virtual_time(backend, main)


def test_cancelling_and_timing_out_go_on_while_paused(backend) -> None:
    async def main() -> list[type[BaseException]]:
        async with Executor(1, queue_timeout=3) as executor:
            executor.pause(5)
            futures = [executor.submit(anyio.sleep, 0) for _ in range(2)]
            await anyio.sleep(1)
            assert futures[0].cancel()
            assert futures[0].cancelled()
            results = await gather(*futures, return_exceptions=True)
            assert anyio.current_time() == 3
            return [type(result).__name__ for result in results]

    assert run_in_virtual_time(backend, main) == ["JobCancelled", "QueueTimeout"]


def test_a_pause_and_a_rate(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf, rate=Rate(1, per=4)) as executor:
            for _ in range(3):
                executor.submit(starts)
            await anyio.sleep(1)
            executor.pause(6)
        return starts

    assert run_in_virtual_time(backend, main) == [0, 7, 11]


@pytest.mark.parametrize("value", [-1, -0.1, math.nan, math.inf, 10**400, "1", True, 1j, [1]])
@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_bad_pauses(backend, owner, value) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(1) as executor:
            lane = lane_of(executor, owner)
            with pytest.raises((TypeError, ValueError), match="seconds"):
                lane.pause(value)
            assert not lane.paused
            lane.submit(starts)
        return starts

    assert run_in_virtual_time(backend, main) == [0]


def test_before_the_block_it_cannot_be_paused(backend) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        Executor(1).pause(5)


# The faults that a pause of one's own, by a task that sleeps and then resumes, used to have.


def test_a_second_refusal_is_not_cut_short_by_the_end_of_the_first(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(1) as executor:
            executor.pause(2)
            await anyio.sleep(1)
            executor.pause(10)
            executor.submit(starts)
            await anyio.sleep(1.5)
            assert executor.paused
        return starts

    assert run_in_virtual_time(backend, main) == [11]


def test_the_end_of_a_pause_does_not_resume_what_was_paused_by_hand(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(1) as executor:
            executor.pause()
            executor.pause(2)
            executor.submit(starts)
            await anyio.sleep(5)
            assert executor.paused
            executor.resume()
        return starts

    assert run_in_virtual_time(backend, main) == [5]
