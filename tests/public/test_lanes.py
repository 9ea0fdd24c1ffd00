"""Lanes in lanes: whose job starts next, what holds up what, and what a lane's methods reach."""

from __future__ import annotations

import gc
import math
import time
import weakref
from collections.abc import Callable, Sized
from typing import Any

import anyio
import pytest
from jobs import Crew, Starts, all_blocked, counts, fail, give, queue_up, ticks
from virtual_time import virtual

from anyslots import Executor, ExecutorClosed, JobCancelled, Lane, Rate, Retry, gather
from anyslots._scheduling.lane_state import LaneState

run_anywhere = pytest.mark.anyio

EVERY_LIMIT = {
    "slots": 1,
    "priority": 3,
    "max_pending": 5,
    "rate": Rate(2, per=60),
    "timeout": 60,
    "queue_timeout": 60,
}


# The tree.


def test_parent_executor_and_children() -> None:
    executor = Executor(4)
    outer, beside = executor.lane("outer"), executor.lane()
    inner = outer.lane("middle").lane("inner")
    gc.collect()
    (middle,) = outer.children
    assert (executor.name, outer.name, beside.name, middle.name) == (None, "outer", None, "middle")
    assert executor.parent is None
    assert outer.parent is beside.parent is executor
    assert (middle.parent, inner.parent) == (outer, middle)
    assert {lane.executor for lane in (executor, outer, beside, inner)} == {executor}
    assert executor.children == (outer, beside)
    assert inner.children == ()
    del inner, middle
    gc.collect()
    assert outer.children == ()


@run_anywhere
async def test_children_are_those_with_jobs_or_held() -> None:
    crew = Crew()
    async with Executor(4) as executor:
        future = executor.lane("with a job", slots=2, rate=Rate(5)).submit(crew.job)
        executor.lane("of one inside").lane("inside").submit(crew.job)
        executor.lane("dropped")
        held = executor.lane("held")
        gc.collect()
        assert [lane.name for lane in executor.children] == [
            "with a job",
            "of one inside",
            "held",
        ]
        assert executor.children[1].children[0].name == "inside"
        lane = future.lane
        assert (lane, lane.slots, lane.rate) == (executor.children[0], 2, (Rate(5),))
        await ticks(9)
        crew.release()
        await executor.join()
        assert future.lane is lane
        del lane, future
        gc.collect()
        assert executor.children == (held,)
        assert (await held.enqueue(give)).lane is held
        assert executor.submit(give).lane is executor


@run_anywhere
async def test_lanes_are_made_before_the_block_and_take_jobs_inside_it_alone() -> None:
    executor = Executor(4)
    inner = executor.lane(slots=2).lane(timeout=3)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="enter it"):
            inner.submit(give)
        with pytest.raises(RuntimeError, match="enter it"):
            await inner.enqueue(give)
        with pytest.raises(RuntimeError, match="async with"):
            inner.clear()
    async with executor:
        await inner.submit(give)
    with pytest.raises(ExecutorClosed):
        inner.submit(give)
    assert counts(executor) == counts(inner) == (0, 0, 0, 1, 0, 0)


@run_anywhere
async def test_repr_shows_what_a_lane_is_at() -> None:
    crew = Crew()
    async with Executor(3) as executor:
        lane = executor.lane("host", slots=2)
        for _ in range(5):
            lane.submit(crew.job)
        executor.submit(crew.job)
        await all_blocked()
        assert repr(lane) == "<Lane 'host' slots=2 running=2 queued=3>"
        assert "running=3 queued=3" in repr(executor)
        for each in (lane, executor):
            each.pause()
            assert "paused" in repr(each)
        lane.close()
        assert "closed" in repr(lane)
        executor.cancel()


# Whose turn it is: what's submitted together to which lanes, and the order in one slot.

ORDERS: dict[str, tuple[Callable[[Executor], dict[str, Lane]], list[str], list[str]]] = {
    "the highest priority first": (
        lambda executor: {
            "own": executor,
            "last": executor.lane(priority=-1),
            "half": executor.lane(priority=0.5),
            "two": executor.lane(priority=2),
            "inf": executor.lane(priority=math.inf),
        },
        ["half", "own", "half", "two", "last", "inf", "own"],
        ["inf", "two", "half", "half", "own", "own", "last"],
    ),
    "equal ones in turn": (
        lambda executor: {"a": executor.lane(), "b": executor.lane(), "own": executor},
        ["a", "a", "a", "b", "b", "own", "own", "own"],
        ["a", "b", "own", "a", "b", "own", "a", "own"],
    ),
    "at each level": (
        lambda executor: {
            "low": (low := executor.lane(priority=1)),
            "low 9": low.lane(priority=9),
            "low -9": low.lane(priority=-9),
            "high": (high := executor.lane(priority=2)),
            "high -9": high.lane(priority=-9),
            "own": executor,
        },
        ["low 9", "low", "low -9", "high -9", "high", "own"],
        ["high", "high -9", "low 9", "low", "low -9", "own"],
    ),
    "in turn at each level": (
        lambda executor: {
            "b": executor.lane(),
            "a1": (a := executor.lane()).lane(),
            "a2": a.lane(),
        },
        ["a1", "a1", "a2", "a2", "b", "b"],
        ["a1", "b", "a2", "b", "a1", "a2"],
    ),
}


@pytest.mark.parametrize(("make", "submitted", "expected"), ORDERS.values(), ids=ORDERS)
@run_anywhere
async def test_turns(make, submitted, expected) -> None:
    starts = Starts()
    async with queue_up() as executor:
        lanes = make(executor)
        for name in submitted:
            lanes[name].submit(starts, name)
    assert starts.names == expected


@run_anywhere
async def test_priority_interrupts_nothing_and_a_long_queue_starves_no_other() -> None:
    async def note_and_submit(number: int) -> None:
        await starts(number)
        if number == 10:
            short.submit(starts, "short")

    starts, crew = Starts(), Crew()
    async with Executor(1) as executor:
        running = executor.submit(crew.job)
        await all_blocked()
        long, short = executor.lane(), executor.lane()
        for number in range(1000):
            long.submit(note_and_submit, number)
        executor.lane(priority=1).submit(starts, "urgent")
        await all_blocked()
        assert running.running()
        crew.release()
    assert starts.names[0] == "urgent"
    assert starts.names.index("short") in (12, 13)


@run_anywhere
async def test_jobs_of_a_lane_start_in_order_across_slots_and_cancelled_jobs() -> None:
    starts = Starts()
    async with queue_up() as executor:
        lane = executor.lane(slots=2)
        futures = [lane.submit(starts, number) for number in range(20)]
        executor.slots = 4
        for future in futures[::3]:
            future.cancel()
    assert starts.names == [number for number in range(20) if number % 3]


# What holds up what.


@run_anywhere
async def test_a_job_takes_a_slot_of_each_lane_around_it() -> None:
    crew = Crew()
    async with Executor(5) as executor:
        model = executor.lane(slots=3)
        tenant = model.lane(slots=2)
        for most, lane in [(2, tenant), (3, model), (5, executor)]:
            for number in range(most + 3):
                lane.submit(crew.job, number)
            for begun in range(most, most + 4, most):
                await all_blocked()
                assert crew.running == lane.statistics().running == most
                assert crew.begun == [*range(begun)]
                crew.release()
            executor.cancel()
            await executor.join()
            crew.begun.clear()


@pytest.mark.parametrize("obstacle", ["limit", "pause", "rate"])
@run_anywhere
async def test_a_lane_that_cannot_start_holds_up_no_other(obstacle) -> None:
    """And its jobs hold no slot while they wait."""
    crew = Crew()
    async with Executor(3) as executor:
        outer = executor.lane(priority=9, slots=1 if obstacle == "limit" else math.inf)
        lane = outer.lane(rate=Rate(1, per=1000) if obstacle == "rate" else None)
        if obstacle == "pause":
            outer.pause()
        waiting = [lane.submit(crew.job, "held up") for _ in range(5)]
        free = 3 - (obstacle != "pause")
        for number in range(5):
            executor.submit(crew.job, number)
        await all_blocked()
        waiting[3].cancel()
        await all_blocked()
        assert sorted(crew.begun, key=str) == [*range(free), *["held up"] * (3 - free)]
        executor.cancel()


@virtual
async def test_all_bounds_on_the_way_count():
    def fill(lane: Lane) -> int:
        for number in range(9):
            try:
                lane.submit(anyio.sleep, 0)
            except anyio.WouldBlock:
                return number
        raise AssertionError

    async with Executor(1, max_pending=5) as executor:
        outer = executor.lane(max_pending=3)
        inner, other = outer.lane(max_pending=2), outer.lane()
        executor.submit(anyio.sleep, 9)
        await anyio.sleep(0.1)
        assert [fill(lane) for lane in (inner, other, outer, executor)] == [2, 1, 0, 2]
        executor.clear()
        assert [fill(lane) for lane in (executor, inner)] == [5, 0]


@virtual
async def test_submitters_wait_for_bounds_on_the_way_in_fifo_order():
    admitted: list[str] = []

    async def enqueue(lane: Lane, name: str) -> None:
        await lane.enqueue(anyio.sleep, 1)
        admitted.append(name)

    async with Executor(1) as executor, anyio.create_task_group() as group:
        outer = executor.lane(max_pending=1)
        inner = outer.lane()
        outer.submit(anyio.sleep, 1)
        await anyio.sleep(0.1)
        inner.submit(anyio.sleep, 1)
        for lane, name in [(inner, "a"), (outer, "b"), (inner, "c")]:
            group.start_soon(enqueue, lane, name)
            await anyio.sleep(0.1)
        assert admitted == []
        assert counts(outer) == (1, 1, 0, 0, 0, 0)
    assert admitted == ["a", "b", "c"]


# Whole subtrees.


@pytest.mark.parametrize("what", ["cancel", "clear"])
@pytest.mark.parametrize("whose", [0, 1, 2], ids=["executor", "outer", "inner"])
@virtual
async def test_cancel_and_clear_reach_the_lanes_inside_alone_and_leave_them_open(whose, what):
    async with Executor(4) as executor:
        outer = executor.lane(slots=3)
        lanes = [executor, outer, outer.lane()]
        jobs = [[lane.submit(anyio.sleep, 3)] for lane in lanes]
        await anyio.sleep(1)
        lanes[whose].slots = lanes[whose].statistics().running
        for lane, futures in zip(lanes, jobs, strict=True):
            futures.append(lane.submit(anyio.sleep, 3))
        getattr(lanes[whose], what)("for a reason")
        assert [futures[1].done() for futures in jobs] == [at >= whose for at in range(3)]
        assert not any(futures[0].done() for futures in jobs)
        await executor.join()
        for at, futures in enumerate(jobs):
            hit = at >= whose
            assert [each.cancelled() for each in futures] == [hit and what == "cancel", hit]
        with pytest.raises(JobCancelled, match="for a reason"):
            jobs[2][1].result()
        assert [await lane.submit(give, 1) for lane in lanes] == [1, 1, 1]


@virtual
async def test_clear_admits_submitters_and_leaves_them():
    """Their jobs aren't queued yet: they take the place of those cleared."""
    admitted: list[Any] = []

    async def enqueue() -> None:
        admitted.append(await executor.enqueue(anyio.sleep, 0))

    async with Executor(1, max_pending=1) as executor:
        executor.lane().clear()
        executor.submit(anyio.sleep, 5)
        await anyio.sleep(0.1)
        queued = executor.submit(anyio.sleep, 0)
        async with anyio.create_task_group() as group:
            group.start_soon(enqueue)
            await anyio.sleep(1)
            assert admitted == []
            executor.clear()
            assert queued.cancelled()
        assert not admitted[0].done()
        await admitted[0]
        assert anyio.current_time() == 5


@virtual
async def test_clear_cancels_jobs_between_attempts():
    async with Executor(1, retry=Retry(wait=9, jitter=False)) as executor:
        future = executor.submit(fail)
        await anyio.sleep(1)
        assert counts(executor) == (1, 0, 0, 0, 0, 0)
        executor.clear()
        assert future.cancelled()
    assert anyio.current_time() == 1


@pytest.mark.parametrize("whose", [0, 1, 2], ids=["executor", "outer", "inner"])
@run_anywhere
async def test_close_closes_the_lanes_inside_and_lets_queued_jobs_run(whose) -> None:
    async with queue_up() as executor:
        outer = executor.lane("outer")
        lanes = [executor, outer, outer.lane("inner")]
        futures = [lane.submit(give, 1) for lane in lanes]
        for _ in range(2):
            lanes[whose].close()
        for at, lane in enumerate(lanes):
            for each in (lane, lane.lane()):
                if at < whose:
                    futures.append(each.submit(give, 1))
                    continue
                with pytest.raises(ExecutorClosed, match=lane.name if each is lane else None):
                    each.submit(give)
                with pytest.raises(ExecutorClosed):
                    await each.enqueue(give)
                with pytest.raises(ExecutorClosed):
                    await each.map(give, [1])
    assert [future.result() for future in futures] == [1] * (3 + 2 * whose)


@virtual
async def test_join_waits_for_the_subtree_each_time():
    async with Executor(3) as executor:
        outer = executor.lane()
        inner = outer.lane()
        for lane in (inner, outer, executor):
            await lane.join()  # there never was a job
        inner.submit(anyio.sleep, 2)
        outer.submit(anyio.sleep, 1)
        executor.submit(anyio.sleep, 5)
        for lane, time in [(inner, 2), (outer, 2), (executor, 5), (outer, 5)]:
            await lane.join()
            assert anyio.current_time() == time
        inner.submit(anyio.sleep, 1)
        await outer.join()
        assert anyio.current_time() == 6


@virtual
async def test_cancelling_a_join_leaves_the_jobs_and_other_joins_alone():
    joined = []

    async def join() -> None:
        await lane.join()
        joined.append(anyio.current_time())

    async with Executor(1) as executor, anyio.create_task_group() as group:
        lane = executor.lane()
        lane.submit(anyio.sleep, 2)
        group.start_soon(join)
        with anyio.move_on_after(1) as scope:
            await lane.join()
        assert scope.cancelled_caught
        await lane.join()
    assert joined == [2]


@virtual
async def test_a_job_may_join_what_it_is_not_in():
    async def job() -> float:
        for lane in (inner, outer, executor):
            with pytest.raises(RuntimeError, match="wait for itself"):
                await lane.join()
        beside.submit(anyio.sleep, 3)
        await beside.join()
        return anyio.current_time()

    async with Executor(1) as executor:
        outer = executor.lane()
        inner, beside = outer.lane(), outer.lane()
        assert await inner.submit(job) == 3


@virtual
async def test_statistics_are_those_of_the_subtree_at_any_time():
    async with Executor(3, on_error="log") as executor:
        outer = executor.lane(max_pending=2)
        inner = outer.lane()
        outer.submit(anyio.sleep, 5)
        for _ in range(3):
            inner.submit(anyio.sleep, 5)
            assert counts(executor) == counts(outer)
        await anyio.sleep(1)
        inner.submit(anyio.sleep, 5).cancel()
        inner.submit(anyio.sleep, 5)
        with pytest.raises(anyio.WouldBlock):
            inner.submit(anyio.sleep, 5)
        assert counts(inner) == (2, 2, 0, 0, 0, 1)
        assert counts(outer) == counts(executor) == (2, 3, 0, 0, 0, 1)
        outer.cancel()
        await gather(inner.submit(fail), outer.submit(give), return_exceptions=True)
        assert counts(inner) == (0, 0, 0, 0, 1, 5)
        del inner
        gc.collect()
        outer.lane()
        assert counts(outer) == counts(executor) == (0, 0, 0, 1, 1, 6)


@run_anywhere
async def test_deep_trees() -> None:
    async with Executor(2) as executor:
        lane: Lane = executor
        for _ in range(200):
            lane = lane.lane(slots=2, rate=Rate(100))
        assert await gather(*[lane.submit(give, n) for n in range(20)]) == [*range(20)]
        assert counts(executor) == counts(lane) == (0, 0, 0, 20, 0, 0)
        lane.submit(anyio.sleep_forever)
        executor.cancel()


# Lanes come and go.


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("options", [{}, EVERY_LIMIT], ids=["plain", "with every limit"])
@run_anywhere
async def test_a_dropped_lane_without_jobs_is_freed(options) -> None:
    async with Executor(2) as executor:
        unused, used = executor.lane(**options), executor.lane(**options)
        assert await used.submit(give, 1) == 1
        used.submit(give, 2)
        await used.join()
        freed = [weakref.ref(unused), weakref.ref(used)]
        del unused, used
        assert [ref() for ref in freed] == [None, None]


@pytest.mark.unmeasured
@run_anywhere
async def test_a_dropped_lane_leaves_nothing_behind_while_another_waits_for_long() -> None:
    def lanes() -> int:
        gc.collect()
        return sum(isinstance(thing, LaneState) for thing in gc.get_objects())

    before = lanes()
    async with Executor(2) as executor:
        stuck = executor.lane(queue_timeout=60)
        stuck.pause()
        stuck.submit(give, 1)
        for _ in range(300):
            lane = executor.lane(**EVERY_LIMIT)
            ends = [lane.submit(give, 1), lane.submit(give, 1)]
            ends[1].cancel()
            await ends[0]
        del lane, ends
        assert lanes() < before + 100
        stuck.cancel()


@run_anywhere
async def test_a_dropped_lane_with_jobs_runs_them() -> None:
    starts = Starts()
    async with queue_up() as executor:
        for number in range(10):
            executor.lane(**EVERY_LIMIT).submit(starts, number)
        gc.collect()
    assert starts.names == [*range(10)]


async def seconds_per_lane(count: int) -> float:
    """What a lane with a job costs, from making it to dropping it, when there are ``count``."""
    starts = Starts()
    async with Executor(100) as executor:
        executor.pause()
        started = time.process_time()
        for number in range(count):
            lane = executor.lane(slots=1, priority=number % 1000)
            lane.submit(starts)
            lane.submit(starts).cancel()
        executor.resume()
        await executor.join()
        elapsed = time.process_time() - started
        assert len(starts) == count
        scheduler = executor._runtime.scheduler
        for part in (scheduler, scheduler.tree, scheduler.tree.timers, executor._node):
            for name in part.__slots__:
                thing = getattr(part, name)
                assert not isinstance(thing, Sized) or len(thing) <= 100, name
    return elapsed / count


quick = pytest.mark.parametrize(
    ("backend", "options"), [("asyncio", {"debug": False}), ("trio", {})], ids=["asyncio", "trio"]
)


@pytest.mark.unmeasured
@quick
@pytest.mark.real_time
@pytest.mark.usefixtures("no_collector")
def test_many_lanes_cost_no_more_each(backend, options) -> None:
    async def main() -> None:
        few = [await seconds_per_lane(2_000) for _ in range(3)]
        assert await seconds_per_lane(20_000) < 3 * min(few)

    anyio.run(main, backend=backend, backend_options=options)


@pytest.mark.unmeasured
@quick
@pytest.mark.parametrize("order", ["together", "oldest first", "newest first"])
def test_many_jobs_cancelled_at_once(backend, options, order) -> None:
    async def main() -> None:
        crew = Crew()
        async with Executor(1, rate=Rate(2, per=1000)) as executor:
            executor.submit(crew.job)
            lanes = [executor.lane(slots=1, queue_timeout=1000) for _ in range(100)]
            futures = [lane.submit(give, 1) for lane in lanes for _ in range(200)]
            await all_blocked()
            if order == "together":
                executor.cancel()
            for future in futures[:: -1 if order == "newest first" else 1]:
                future.cancel()
            assert all(future.cancelled() for future in futures)
            assert executor.statistics().queued == 0
            crew.release()
            assert await executor.submit(give, 2) == 2

    anyio.run(main, backend=backend, backend_options=options)
