"""Pausing, and changing the number of slots, while jobs are queued and running."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from jobs import Boom, Crew, Starts, give, ticks
from virtual_time import virtual

from anyslots import Executor, JobCancelled, Lane, QueueTimeout, gather

owners = pytest.mark.parametrize("owner", ["executor", "lane"])


def limited(owner: str, slots: float = math.inf) -> tuple[Executor, Lane]:
    """An executor, and itself or a lane of it; the one that's asked for has the limit."""
    executor = Executor(slots if owner == "executor" else 99)
    return executor, executor if owner == "executor" else executor.lane(slots=slots)


# When they end. What's done when (None: `resume`), and when a job starts that is submitted at 0.

ENDS: dict[str, tuple[list[tuple[float, Any]], float]] = {
    "it ends by itself": ([(0, [5])], 5),
    "a later end extends it": ([(0, [5]), (2, [4])], 6),
    "an earlier end doesn't shorten it": ([(0, [5]), (2, [1])], 5),
    "none of them counts twice": ([(0, [5]), (0, [5])], 5),
    "0 does nothing": ([(0, [0])], 0),
    "0 ends nothing": ([(0, [5]), (2, [0])], 5),
    "resume ends it": ([(0, [5]), (2, None)], 2),
    "resume ends all of them": ([(0, [5]), (1, [20]), (2, []), (3, None)], 3),
    "resume ends a plain one twice": ([(0, []), (1, [None]), (2, None), (2, None)], 2),
    "the plain one outlives it": ([(0, [5]), (0, []), (8, None)], 8),
    "it outlives no plain one that was resumed": ([(0, []), (1, None), (2, [5])], 1),
    "after resume a new one counts": ([(0, [9]), (1, []), (2, None), (2, [3])], 5),
    "resume and pause at once leave it": ([(0, []), *[(1, None), (1, [])] * 3, (2, None)], 2),
    "resume without any does nothing": ([(0, None)], 0),
}


@pytest.mark.parametrize(("deeds", "expected"), ENDS.values(), ids=ENDS)
@owners
@virtual
async def test_when_a_pause_ends(owner, deeds, expected):
    executor, lane = limited(owner)
    starts = Starts()
    async with executor:
        for number, (at, arguments) in enumerate(deeds):
            if at > anyio.current_time():
                await anyio.sleep_until(at)
            if arguments is None:
                lane.resume()
            else:
                lane.pause(*arguments)
            if number == 0:
                lane.submit(starts)
        await lane.join()
    assert starts.times == [expected]


@virtual
async def test_it_is_paused_itself_not_what_is_around_it():
    starts = Starts()
    async with Executor(1) as executor:
        lane = executor.lane(priority=9)
        inside = lane.lane()
        lane.pause(5)
        assert (executor.paused, lane.paused, inside.paused) == (False, True, False)
        for each in (inside, lane, executor):
            each.submit(starts)
        await anyio.sleep(1)
        executor.pause()
        executor.submit(starts)
        await anyio.sleep(4)
        assert (executor.paused, lane.paused) == (True, False)
        await anyio.sleep(1)
        executor.resume()
        assert not executor.paused
    assert starts.times == [0, 6, 6, 6]


@owners
@virtual
async def test_running_jobs_go_on_and_nothing_new_starts(owner):
    executor, lane = limited(owner, 2)
    crew = Crew()
    async with executor:
        first = [lane.submit(crew.job, number) for number in range(2)]
        await ticks(9)
        lane.pause()
        for number in range(2, 5):
            lane.submit(crew.job, number)
        await lane.enqueue(crew.job, 5)
        crew.release()
        assert await gather(*first) == [0, 1]
        await ticks(9)
        assert crew.begun == [0, 1]
        assert (lane.statistics().queued, lane.statistics().running) == (4, 0)
        lane.slots = 3  # counts after the pause
        await ticks(9)
        assert crew.begun == [0, 1]
        lane.resume()
        await ticks(9)
        assert crew.begun == [0, 1, 2, 3, 4]
        executor.cancel()


@owners
@virtual
async def test_jobs_that_lose_their_permit_to_a_pause_keep_their_order(owner):
    executor, lane = limited(owner, 2)
    starts = Starts()
    async with executor:
        for number in range(4):
            lane.submit(starts, number)
        for _ in range(3):
            lane.pause()
            assert lane.statistics().queued == 4
            await ticks(9)
            lane.resume()
        await lane.join()
    assert starts.names == [0, 1, 2, 3]


@virtual
async def test_a_job_may_pause_its_own_lane():
    """What `Retry-After` asks for: one job that's refused holds back the others of its lane."""

    async def job(number: int, seconds: float) -> None:
        await starts(number)
        lane.pause(seconds)

    async def pause_and_resume() -> None:
        lane.pause()
        await anyio.sleep(1)
        lane.resume()

    starts = Starts()
    async with Executor(4) as executor:
        lane = executor.lane(slots=1)
        for number, seconds in enumerate([0, 7, 0, 0]):
            lane.submit(job, number, seconds)
        lane.submit(pause_and_resume)
        lane.submit(starts, "behind")
    assert starts == [(0, 0), (1, 0), (2, 7), (3, 7), ("behind", 8)]


@owners
@virtual
async def test_while_paused_jobs_are_submitted_cancelled_and_time_out(owner):
    executor, lane = limited(owner, 1)
    lane.max_pending, lane.queue_timeout = 2, 3
    async with executor:
        lane.pause()
        futures = [lane.submit(give), await lane.enqueue(give)]
        with pytest.raises(anyio.WouldBlock):
            lane.submit(give)
        async with anyio.create_task_group() as group:
            group.start_soon(lane.join)
            await ticks(9)
            futures[0].cancel()
            lane.cancel()
            assert all(future.cancelled() for future in futures)
        assert lane.paused
        with pytest.raises(QueueTimeout):
            await lane.submit(give)
        assert anyio.current_time() == 3


# At the end.


@owners
@pytest.mark.parametrize("end", ["leave", "shutdown", "shutdown with grace"])
@virtual
async def test_a_plain_pause_ends_once_nothing_runs_that_could_end_it(owner, end):
    executor, lane = limited(owner)
    executor.slots = 2
    starts = Starts()
    async with executor:
        executor.submit(starts, "other", 5)
        lane.submit(starts, "running", 3)
        await anyio.sleep(1)
        lane.pause()
        for name in ("a", "b", "c"):
            lane.submit(starts, name, 1)
        if end != "leave":
            await executor.shutdown(grace=100 if end == "shutdown with grace" else None)
    assert starts == [("other", 0), ("running", 0), ("a", 5), ("b", 5), ("c", 6)]
    assert anyio.current_time() == 7


@owners
@virtual
async def test_a_running_job_may_pause_and_resume_at_the_end(owner):
    async def take_a_break() -> None:
        await anyio.sleep(1)
        lane.pause()
        await anyio.sleep(1)
        lane.submit(starts)
        await anyio.sleep(1)
        lane.resume()
        await anyio.sleep(3)
        lane.pause()  # the last one's, or its callback's, doesn't keep the block from ending
        lane.submit(starts)

    executor, lane = limited(owner)
    starts = Starts()
    async with executor:
        executor.submit(take_a_break).add_done_callback(lambda _: lane.pause())
    assert (starts.times, anyio.current_time()) == ([3, 6], 6)


@virtual
async def test_an_exception_cancels_what_a_pause_held_back():
    crew = Crew()
    with pytest.raises(Boom):
        async with Executor(1) as executor:
            executor.pause()
            future = executor.submit(crew.job)
            raise Boom
    assert future.cancelled()
    assert crew.begun == []


@pytest.mark.parametrize(("grace", "ends"), [(3, 3), (None, 12)])
@owners
@virtual
async def test_a_timed_pause_outlives_the_body_but_no_grace(owner, grace, ends):
    executor, lane = limited(owner, 1)
    starts = Starts()
    async with executor:
        lane.pause()
        lane.pause(10)
        future = lane.submit(starts, None, 2)
        if grace:
            await executor.shutdown(grace)
            with pytest.raises(JobCancelled, match="shut down"):
                future.result()
            assert future.slot is None
    assert starts.times == ([] if grace else [10])
    assert anyio.current_time() == ends


@virtual
async def test_an_empty_or_cancelled_block_ends_in_a_pause():
    async with Executor(1) as executor:
        executor.pause(5)
    assert anyio.current_time() == 0
    with anyio.move_on_after(2):
        async with Executor(1) as executor:
            executor.pause(100)
            executor.submit(give)
    assert anyio.current_time() == 2


@pytest.mark.parametrize("value", [-1, -0.1, math.nan, math.inf, 10**400, "1", True, 1j, [1]])
@owners
@virtual
async def test_bad_pauses(owner, value):
    executor, lane = limited(owner)
    with pytest.raises(RuntimeError, match="async with"):
        lane.pause(5)
    async with executor:
        with pytest.raises((TypeError, ValueError), match="seconds"):
            lane.pause(value)
        assert not lane.paused
        await lane.submit(give)


# Resizing. Numbers of slots, and what has begun by then; the first at once, the others in turn.

SIZES: dict[str, list[tuple[list[float], int]]] = {
    "more": [([2], 2), ([3], 3), ([7], 7), ([math.inf], 10)],
    "fewer, and more again, in one step": [([3], 3), ([1, 3], 3), ([2, 4], 4)],
    "fewer before any has begun": [([4, 1], 1), ([3, 2], 2)],
    "no limit and back": [([1, math.inf, 2, math.inf, 3], 3)],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@owners
@virtual
async def test_resizing_starts_as_many_as_there_are_free_slots(owner, sizes):
    executor, lane = limited(owner, 5)
    crew = Crew()
    lane.slots = sizes[0][0][0]  # before the executor is entered
    async with executor:
        for number in range(10):
            lane.submit(crew.job, number)
        for slots, begun in sizes:
            for lane.slots in slots:
                assert lane.slots == lane.statistics().slots
            await ticks(9)
            assert crew.begun == [*range(begun)]
        executor.cancel()


@owners
@virtual
async def test_fewer_slots_let_running_jobs_finish(owner):
    executor, lane = limited(owner, 3)
    crew = Crew()
    async with executor:
        futures = [lane.lane().submit(crew.job, number) for number in range(6)]
        await ticks(9)
        lane.slots = 2
        for running, begun in [(3, 3), (2, 3), (2, 4)]:
            await ticks(9)
            assert crew.running == lane.statistics().running == running
            assert len(crew.begun) == begun
            futures[6 - running - begun].cancel()
        executor.cancel()


@owners
@virtual
async def test_slots_that_shrink_job_by_job(owner):
    async def job(number: int) -> None:
        nonlocal running
        running += 1
        assert running <= lane.slots
        await anyio.sleep(1)
        running -= 1
        if number % 4 == 3:
            lane.slots -= 1

    running = 0
    executor, lane = limited(owner, 5)
    async with executor:
        for number in range(16):
            lane.submit(job, number)
    assert (lane.slots, anyio.current_time()) == (1, 5)
