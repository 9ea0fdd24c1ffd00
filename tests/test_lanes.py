"""Lanes: whose job starts next, what holds up what, and whom a lane's methods are about.

Rates, room, pauses and deadlines have files of their own.
"""

from __future__ import annotations

import gc
import math
import time
import weakref
from collections.abc import AsyncIterator, Sized
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyslots import Executor, ExecutorClosed, JobCancelled, Lane, Rate, Statistics, gather
from anyslots._scheduling.lane_state import LaneState

pytestmark = pytest.mark.anyio


async def all_blocked() -> None:
    """Wait until every other task waits for something."""
    # On asyncio `wait_all_tasks_blocked` looks ten times a second: help it to be right at once.
    for _ in range(10):
        await checkpoint()
    await anyio.wait_all_tasks_blocked()


class Crew:
    """Jobs that note when they begin, and run until they're released."""

    def __init__(self) -> None:
        self.begun: list[object] = []
        self.running = self.most = 0
        self.released = anyio.Event()

    async def job(self, name: object = None) -> object:
        self.begun.append(name)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.released.wait()
        finally:
            self.running -= 1
        return name

    def release(self) -> None:
        """Let the jobs that run now end."""
        self.released.set()
        self.released = anyio.Event()


async def note(order: list[object], name: object) -> None:
    order.append(name)


async def give(value: object) -> object:
    await checkpoint()
    return value


async def fail() -> None:
    raise ValueError("failed")


@asynccontextmanager
async def queue_up() -> AsyncIterator[Executor]:
    """An executor with one slot, taken until the end of the block: the jobs begin then."""
    async with Executor(slots=1) as executor:
        crew = Crew()
        executor.submit(crew.job)
        await all_blocked()
        yield executor
        crew.release()


# Whose turn it is.


@pytest.mark.parametrize(("slots", "most"), [(1, 1), (2, 2), (math.inf, 3)])
async def test_a_lane_runs_at_most_its_slots_at_once(slots, most) -> None:
    """No more of a lane's jobs run than it has slots, nor than its executor has."""
    crew = Crew()
    async with Executor(slots=3) as executor:
        lane = executor.lane(slots=slots)
        for number in range(6):
            lane.submit(crew.job, number)
        for begun in range(most, 7, most):
            await all_blocked()
            assert crew.begun == list(range(begun))
            assert crew.running == lane.statistics().running == most
            crew.release()


async def test_the_highest_priority_goes_first() -> None:
    """Free slots go to the lane with the highest number, whenever its jobs were submitted."""
    order: list[object] = []
    async with queue_up() as executor:
        lanes = {priority: executor.lane(priority=priority) for priority in (-1, 0.5, 2, math.inf)}
        lanes[0] = executor
        assert [lane.priority for lane in lanes.values()] == list(lanes)
        for number, priority in enumerate([0.5, 0, 0.5, 2, -1, math.inf, 0]):
            lanes[priority].submit(note, order, (priority, number))
    assert order == [(math.inf, 5), (2, 3), (0.5, 0), (0.5, 2), (0, 1), (0, 6), (-1, 4)]


async def test_priority_orders_what_waits_and_interrupts_nothing() -> None:
    """A running job goes on, though one of higher priority has come; that one is next."""
    crew = Crew()
    async with Executor(slots=1) as executor:
        urgent = executor.lane(priority=1)
        executor.submit(crew.job, "first")
        executor.submit(crew.job, "later")
        await all_blocked()
        urgent.submit(crew.job, "urgent")
        await all_blocked()
        assert crew.begun == ["first"]
        for _ in range(3):
            crew.release()
            await all_blocked()
    assert crew.begun == ["first", "urgent", "later"]


async def test_equal_ranks_take_turns_lane_by_lane() -> None:
    """Lanes of one priority, the executor's own among them, start one job each in turn."""
    order: list[object] = []
    async with queue_up() as executor:
        lanes = {"a": executor.lane(), "b": executor.lane(), "x": executor, "c": executor.lane()}
        for name, count in {"a": 4, "b": 2, "x": 3, "c": 1}.items():
            for number in range(count):
                lanes[name].submit(note, order, f"{name}{number}")
    assert order == ["a0", "b0", "x0", "c0", "a1", "b1", "x1", "a2", "x2", "a3"]


async def test_a_long_queue_starves_no_other_lane() -> None:
    """A job that comes to another lane of the rank waits for one turn, not for the long queue."""
    order: list[object] = []

    async def note_and_submit(number: int) -> None:
        order.append(number)
        if number == 10:
            short.submit(note, order, "short")

    async with queue_up() as executor:
        long, short = executor.lane(), executor.lane()
        for number in range(1000):
            long.submit(note_and_submit, number)
    assert order.index("short") in (11, 12)


async def test_jobs_of_a_lane_start_in_order() -> None:
    """A lane is first in, first out, across several slots and cancelled jobs."""
    order: list[object] = []
    async with queue_up() as executor:
        lane = executor.lane(slots=2)
        futures = [lane.submit(note, order, number) for number in range(20)]
        executor.slots = 4
        for future in futures[::3]:
            future.cancel()
    assert order == [number for number in range(20) if number % 3]


# What holds up what.


@pytest.mark.parametrize("obstacle", ["limit", "pause", "rate"])
async def test_a_lane_that_cannot_start_holds_up_no_other(obstacle) -> None:
    """While a lane of the highest priority is at an obstacle, free slots go to the others."""
    crew = Crew()
    async with Executor(slots=3) as executor:
        lane = executor.lane(
            priority=9,
            slots=1 if obstacle == "limit" else math.inf,
            rate=Rate(1, per=1000) if obstacle == "rate" else None,
        )
        if obstacle == "pause":
            lane.pause()
        for _ in range(5):
            lane.submit(crew.job, "held up")
        free = 3 - (obstacle != "pause")
        for number in range(5):
            executor.submit(crew.job, number)
        await all_blocked()
        assert sorted(crew.begun, key=str) == [*range(free), *["held up"] * (3 - free)]
        executor.cancel()


async def test_a_waiting_job_holds_no_slot() -> None:
    """Jobs that wait for a place of their lane hold no slot, and give none back when cancelled."""
    crew = Crew()
    async with Executor(slots=2) as executor:
        lane = executor.lane(slots=1)
        waiting = [lane.submit(crew.job, number) for number in range(4)][1:]
        for name in ("x", "y"):
            executor.submit(crew.job, name)
        await all_blocked()
        assert crew.begun == [0, "x"]
        for future in waiting[:2]:
            future.cancel()
        await all_blocked()
        assert crew.begun == [0, "x"]
        crew.release()
        await all_blocked()
        assert sorted(crew.begun[2:], key=str) == [3, "y"]
        crew.release()


# What an executor's methods are about, and what a lane's.


async def test_cancelling_a_lane_cancels_its_jobs_alone() -> None:
    """A lane's queued and running jobs are cancelled, nobody else's, and it stays open."""
    crew = Crew()
    async with Executor(slots=2) as executor:
        lane, other = executor.lane(slots=1), executor.lane(slots=1)
        cancelled = [lane.submit(crew.job) for _ in range(3)]
        kept = [other.submit(crew.job, number) for number in range(3)]
        await all_blocked()
        lane.cancel("no need")
        assert [future.cancelled() for future in cancelled] == [False, True, True]
        await lane.join()
        for future in cancelled:
            with pytest.raises(JobCancelled, match="no need"):
                future.result()
        assert await lane.submit(give, "still open") == "still open"
        assert crew.running == 1
        for _ in kept:
            crew.release()
            await all_blocked()
        assert await gather(*kept) == [0, 1, 2]


async def test_cancelling_the_executor_cancels_the_jobs_of_all_lanes() -> None:
    """`cancel` on the executor reaches each lane's queued and running jobs; all stay open."""
    crew = Crew()
    async with Executor(slots=2) as executor:
        lanes: list[Lane] = [executor, executor.lane(), executor.lane(slots=1)]
        futures = [lane.submit(crew.job) for lane in lanes for _ in range(3)]
        await all_blocked()
        executor.cancel()
        await executor.join()
        assert all(future.cancelled() for future in futures)
        assert [await lane.submit(give, 1) for lane in lanes] == [1, 1, 1]


async def test_joining_a_lane_waits_for_its_jobs_alone() -> None:
    """A lane is joined as soon as its own last job has ended; the executor, after all lanes'."""
    ours, others = Crew(), Crew()
    joined: list[str] = []

    async def join(lane: Lane, name: str) -> None:
        await lane.join()
        joined.append(name)

    async with Executor(slots=2) as executor, anyio.create_task_group() as tasks:
        lane = executor.lane(slots=1)
        for _ in range(2):
            lane.submit(ours.job)
        executor.submit(others.job)
        for name, joinable in {"lane": lane, "executor": executor, "again": lane}.items():
            tasks.start_soon(join, joinable, name)
        await all_blocked()
        ours.release()
        await all_blocked()
        assert joined == []
        ours.release()
        await all_blocked()
        assert sorted(joined) == ["again", "lane"]
        others.release()
        await all_blocked()
        assert joined[2:] == ["executor"]


async def test_joining_what_is_idle_returns() -> None:
    """`join` returns if there never was a job, and again each time that all have ended."""
    async with Executor(slots=1) as executor:
        lane = executor.lane()
        for joinable in (lane, executor):
            await joinable.join()
            for _ in range(2):
                futures = [joinable.submit(give, 1), joinable.submit(give, 2)]
                await joinable.join()
                assert all(future.done() for future in futures)
                await joinable.join()


async def test_cancelling_a_join_leaves_the_jobs_alone() -> None:
    """Who gives up joining a lane disturbs neither its jobs nor others that join it."""
    crew = Crew()
    async with Executor(slots=1) as executor, anyio.create_task_group() as tasks:
        lane = executor.lane()
        future = lane.submit(crew.job, "done")
        tasks.start_soon(lane.join)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(lane.join)
                await all_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        crew.release()
        assert await future == "done"


async def test_a_job_cannot_join_its_own_lane() -> None:
    """`join` inside one of the jobs that it waits for is a `RuntimeError`; elsewhere it works."""

    async def join(joinable: Lane) -> str:
        await joinable.join()
        return "joined"

    async with Executor(slots=2) as executor:
        lane, other = executor.lane("own"), executor.lane()
        other.submit(give, 1)
        assert await lane.submit(join, other) == "joined"
        for submittable, joinable in [(lane, lane), (lane, executor), (executor, executor)]:
            with pytest.raises(RuntimeError, match="wait for itself"):
                await submittable.submit(join, joinable)


async def test_closing_a_lane_lets_its_queued_jobs_run() -> None:
    """A closed lane takes no more jobs, and runs those that it has; other lanes stay open."""
    crew = Crew()
    async with Executor(slots=1) as executor:
        lane, other = executor.lane("shut"), executor.lane()
        futures = [lane.submit(crew.job, number) for number in range(2)]
        lane.close()
        lane.close()
        with pytest.raises(ExecutorClosed, match="shut"):
            lane.submit(give, 1)
        with pytest.raises(ExecutorClosed, match="shut"):
            await lane.enqueue(give, 1)
        others = [open_one.submit(give, 3) for open_one in (other, executor, executor.lane())]
        for _ in futures:
            await all_blocked()
            crew.release()
        assert await gather(*futures, *others) == [0, 1, 3, 3, 3]
        assert lane.statistics().submitted == 2


async def test_closing_the_executor_closes_all_lanes() -> None:
    """After `close` on the executor no lane takes a job, old or new; queued ones still run."""
    async with Executor(slots=1) as executor:
        lane = executor.lane()
        futures = [lane.submit(give, 1), executor.submit(give, 2)]
        executor.close()
        for closed in (lane, executor, executor.lane()):
            with pytest.raises(ExecutorClosed):
                closed.submit(give, 3)
        assert await gather(*futures) == [1, 2]


async def test_a_lane_lives_as_long_as_its_executor() -> None:
    """A lane may be made before the executor is entered; it takes jobs inside the block alone."""
    executor = Executor(slots=1)
    lane = executor.lane("early")
    with pytest.raises(RuntimeError, match="enter it"):
        lane.submit(give, 1)
    with pytest.raises(RuntimeError, match="enter it"):
        await lane.enqueue(give, 1)
    async with executor:
        assert await lane.submit(give, 2) == 2
    with pytest.raises(ExecutorClosed):
        lane.submit(give, 3)
    assert lane.statistics().succeeded == 1


# What lanes say of themselves.


async def test_a_future_knows_its_lane() -> None:
    """`lane` is where the job was submitted: a lane, or the executor itself."""
    async with Executor(slots=1) as executor:
        lane = executor.lane("host")
        assert lane.submit(give, 1).lane is lane
        assert (await lane.enqueue(give, 1)).lane is lane
        assert executor.submit(give, 1).lane is executor
        assert (lane.name, executor.lane().name) == ("host", None)


async def test_repr_shows_what_a_lane_is_at() -> None:
    """A lane's `repr` has its name, its live counts, and whether it's paused or closed."""
    crew = Crew()
    async with Executor(slots=3) as executor:
        lane = executor.lane("host", slots=2)
        for _ in range(5):
            lane.submit(crew.job)
        executor.submit(crew.job)
        await all_blocked()
        assert repr(lane) == "<Lane 'host' slots=2 running=2 queued=3>"
        assert "running=3 queued=3" in repr(executor)
        lane.pause()
        executor.pause()
        assert "paused" in repr(lane)
        assert "paused" in repr(executor)
        lane.close()
        assert "closed" in repr(lane)
        executor.cancel()


def assert_counts_add_up(executor: Executor, lanes: list[Lane]) -> Statistics:
    """Each lane's counts add up, and all lanes' to the executor's, which are returned."""
    total = executor.statistics()
    parts = [lane.statistics() for lane in lanes]
    for counts in (total, *parts):
        assert counts.submitted == (
            counts.queued
            + counts.running
            + counts.lent
            + counts.succeeded
            + counts.failed
            + counts.cancelled
        )
    for name in ("submitted", "queued", "running", "succeeded", "failed", "cancelled"):
        assert getattr(total, name) == sum(getattr(counts, name) for counts in parts), name
    return total


async def test_counts_add_up_at_any_time() -> None:
    """All jobs ever submitted are in the counts, their lane's and the executor's."""
    crew = Crew()
    async with Executor(slots=3, on_error="log") as executor:
        lanes = [executor.lane(slots=2), executor.lane(priority=1), executor.lane(max_pending=2)]
        for lane in lanes:
            for fn, *args in [(crew.job, 1), (fail,)]:
                lane.submit(fn, *args)
                assert_counts_add_up(executor, lanes)
        queued = lanes[0].submit(crew.job)
        await all_blocked()
        assert assert_counts_add_up(executor, lanes).running == 3
        queued.cancel()
        with pytest.raises(anyio.WouldBlock):
            for _ in range(3):
                lanes[2].submit(crew.job)
        assert assert_counts_add_up(executor, lanes).cancelled == 1
        lanes[0].cancel()
        assert_counts_add_up(executor, lanes)
        crew.release()
        await all_blocked()
        assert_counts_add_up(executor, lanes)
        executor.cancel()
    counts = assert_counts_add_up(executor, lanes)
    assert counts.queued == counts.running == 0


# Lanes come and go.

EVERY_LIMIT = {
    "slots": 1,
    "priority": 3,
    "max_pending": 5,
    "rate": Rate(2, per=60),
    "timeout": 60,
    "queue_timeout": 60,
}


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("options", [{}, EVERY_LIMIT], ids=["plain", "with every limit"])
async def test_a_dropped_lane_without_jobs_is_freed(options) -> None:
    """A lane that's empty and that nobody holds is gone, without the garbage collector's help."""
    async with Executor(slots=2) as executor:
        unused, used = executor.lane(**options), executor.lane(**options)
        assert await used.submit(give, 1) == 1
        used.submit(give, 2)
        await used.join()
        freed = [weakref.ref(unused), weakref.ref(used)]
        del unused, used
        assert [ref() for ref in freed] == [None, None]


@pytest.mark.unmeasured
async def test_a_dropped_lane_leaves_nothing_behind() -> None:
    """Of lanes that were dropped nothing is kept, even while the job of another waits for long."""

    def lanes() -> int:
        gc.collect()
        return sum(isinstance(thing, LaneState) for thing in gc.get_objects())

    before = lanes()
    async with Executor(slots=2) as executor:
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


async def test_a_dropped_lane_with_jobs_runs_them() -> None:
    """Dropping a lane, and all futures with it, changes nothing for its jobs."""
    order: list[object] = []
    async with queue_up() as executor:
        for number in range(10):
            executor.lane(**EVERY_LIMIT).submit(note, order, number)
        gc.collect()
    assert order == list(range(10))


async def seconds_per_lane(count: int) -> float:
    """What a lane with a job costs, from making it to dropping it, when there are ``count``."""
    order: list[object] = []
    async with Executor(slots=100) as executor:
        executor.pause()
        started = time.process_time()
        for number in range(count):
            lane = executor.lane(slots=1, priority=number % 1000)
            lane.submit(note, order, number)
            lane.submit(note, order, "cancelled").cancel()
        executor.resume()
        await executor.join()
        elapsed = time.process_time() - started
        assert len(order) == count
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
    """One of 20,000 lanes costs about what one of 2,000 does, and no map keeps anything of them."""

    async def main() -> None:
        few = [await seconds_per_lane(2_000) for _ in range(3)]
        assert await seconds_per_lane(20_000) < 3 * min(few)

    anyio.run(main, backend=backend, backend_options=options)


@pytest.mark.unmeasured
@quick
@pytest.mark.parametrize("order", ["together", "oldest first", "newest first"])
def test_many_jobs_cancelled_at_once(backend, options, order) -> None:
    """Each of 20,000 queued jobs is cancelled at once, and what comes after them starts."""

    async def main() -> None:
        crew = Crew()
        async with Executor(slots=1, rate=Rate(2, per=1000)) as executor:
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
