"""Jobs that submit jobs to their own executor and wait for them: slots are lent, and taken back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from jobs import check_idle
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import (
    FIRST_COMPLETED,
    Executor,
    Future,
    JobCancelled,
    Lane,
    Rate,
    as_completed,
    first_result,
    gather,
    lend_slot,
    wait,
)

pytestmark = pytest.mark.anyio

virtual = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


# The ways in which a job may wait for jobs of its own: each gives the results in no special order.


async def by_await(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    futures = [lane.submit(fn, item) for item in items]
    return [await future for future in futures]


async def by_gather(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    return await gather(*[lane.submit(fn, item) for item in items])


async def by_wait(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    done, not_done = await wait(lane.submit(fn, item) for item in items)
    assert not not_done
    return [future.result() for future in done]


async def by_wait_first(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    pending, results = {lane.submit(fn, item) for item in items}, []
    while pending:
        done, pending = await wait(pending, return_when=FIRST_COMPLETED)
        results += [future.result() for future in done]
    return results


async def by_as_completed(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    futures = [lane.submit(fn, item) for item in items]
    return [future.result() async for future in as_completed(futures)]


async def by_first_result(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    futures = [lane.submit(fn, item) for item in items]
    return [await first_result(future) for future in futures]


async def by_future_wait(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    futures = [lane.submit(fn, item) for item in items]
    for future in futures:
        await future.wait()
    return [future.result() for future in futures]


async def by_map(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    return await lane.map(fn, items)


async def by_map_stream(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    async with lane.map(fn, items, buffer=1) as results:
        return [result async for result in results]


async def by_map_unordered(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    return [result async for result in lane.map(fn, items, ordered=False)]


async def by_enqueue(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    return [await (await lane.enqueue(fn, item)) for item in items]


WAYS: dict[str, Callable[[Lane, Any, Iterable[Any]], Awaitable[list[Any]]]] = {
    "await": by_await,
    "gather": by_gather,
    "wait": by_wait,
    "wait for first": by_wait_first,
    "as_completed": by_as_completed,
    "first_result": by_first_result,
    "future.wait": by_future_wait,
    "map": by_map,
    "map, streamed": by_map_stream,
    "map, unordered": by_map_unordered,
    "enqueue": by_enqueue,
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@dataclass
class Active:
    """Counts the jobs that have a slot: those that wait for their own executor step aside."""

    executor: Executor
    now: int = 0
    most: int = 0

    def check(self) -> None:
        self.most = max(self.most, self.now)
        assert self.now <= self.executor.slots
        assert self.executor.statistics().running <= self.executor.slots

    async def __call__(self, fn: Callable[[], Awaitable[Any]]) -> Any:
        """Run the rest of a job, which is one of those that are counted."""
        self.now += 1
        try:
            self.check()
            await checkpoint()
            return await fn()
        finally:
            self.now -= 1

    async def aside(self, waiting: Awaitable[Any]) -> Any:
        self.now -= 1
        try:
            return await waiting
        finally:
            self.now += 1
            self.check()


async def check_all_slots_are_free(executor: Executor) -> None:
    """As many jobs as there are slots run at once, one more waits, and their numbers are right."""
    check_idle(executor)
    slots = int(executor.slots)
    release, numbers = anyio.Event(), set()

    async def job() -> None:
        await release.wait()

    futures = [executor.submit(job) for _ in range(slots + 1)]
    for _ in range(20):
        await checkpoint()
    assert executor.statistics().running == slots
    numbers = {future.slot for future in futures}
    assert numbers == {*range(slots), None}
    release.set()
    await gather(*futures)


# Recursion.


@pytest.mark.unmeasured
@every_way
@pytest.mark.parametrize("slots", [1, 2, 3])
async def test_recursive_fibonacci(way: Any, slots: int) -> None:
    """Jobs that wait for the jobs that they submit end, with one slot, by every way to wait."""

    async def fibonacci(n: int) -> int:
        async def compute() -> int:
            if n < 2:
                return n
            return sum(await active.aside(way(executor, fibonacci, [n - 1, n - 2])))

        return await active(compute)

    async with Executor(slots) as executor:
        active = Active(executor)
        assert await executor.submit(fibonacci, 6) == 8
        # By enqueue, each waits for one child after the other.
        assert 1 <= active.most <= slots
        await check_all_slots_are_free(executor)


@every_way
async def test_recursion_in_a_bounded_lane_with_one_place(way: Any) -> None:
    """A lane's place is lent with the slot, and neither limit is passed."""

    async def depth_first(depth: int) -> int:
        assert lane.statistics().running == 1
        assert executor.statistics().running == 1
        await checkpoint()
        if depth == 0:
            return 1
        results = await way(lane, depth_first, [depth - 1] * 2)
        assert lane.statistics().running == 1
        assert executor.statistics().running == 1
        return sum(results)

    async with Executor(2) as executor:
        lane = executor.lane(slots=1)
        assert await lane.submit(depth_first, 4) == 16
        check_idle(lane)
        await check_all_slots_are_free(executor)


@pytest.mark.parametrize("max_pending", [0, 1, 3])
@pytest.mark.parametrize("whose", ["the executor's", "the lane's"])
async def test_jobs_that_feed_their_own_bounded_queue(max_pending: int, whose: str) -> None:
    """A job that waits for room in the queue that it's from lends its slot meanwhile."""
    seen = []

    async def crawl(number: int) -> None:
        assert executor.statistics().running == 1
        seen.append(number)
        await checkpoint()
        for child in (2 * number, 2 * number + 1):
            if child < 64:
                await target.enqueue(crawl, child)
                assert executor.statistics().running == 1

    whole = whose == "the executor's"
    async with Executor(1, **({"max_pending": max_pending} if whole else {})) as executor:
        target = executor if whole else executor.lane(max_pending=max_pending)
        await target.enqueue(crawl, 1)
    assert sorted(seen) == list(range(1, 64))
    check_idle(executor)


@pytest.mark.unmeasured
@virtual
@pytest.mark.parametrize("way", [by_await, by_map], ids=["await", "map"])
def test_chain_of_2000_jobs_that_wait_for_each_other(backend: str, way: Any) -> None:
    """Jobs may be nested deep: as many as the chain has jobs lend the one slot at once."""

    async def main() -> int:
        async def nest(depth: int) -> int:
            nonlocal deepest
            deepest = max(deepest, executor.statistics().lent)
            if depth == 0:
                return 0
            (below,) = await way(executor, nest, [depth - 1])
            return 1 + below

        deepest = 0
        async with Executor(1) as executor:
            assert await executor.submit(nest, 2000) == 2000
            await check_all_slots_are_free(executor)
        return deepest

    # In debug mode, asyncio takes ten times as long.
    options = {"debug": False} if backend == "asyncio" else {}
    assert anyio.run(main, backend=backend, backend_options=options) == 2000


# What's lent, when, and to whom.


async def test_a_job_that_waits_for_itself_is_told_so() -> None:
    """It would wait for ever; a task that it has started may wait for it."""

    async def job() -> str:
        future = futures[0]
        with pytest.raises(RuntimeError, match="cannot wait for itself"):
            await future
        with pytest.raises(RuntimeError, match="cannot wait for itself"):
            await future.wait()
        group.start_soon(child, future)
        await checkpoint()
        return "done"

    async def child(future: Future[str]) -> None:
        assert await future == "done"

    futures: list[Future[str]] = []
    async with anyio.create_task_group() as group, Executor(1) as executor:
        futures.append(executor.submit(job))


async def test_lender_is_counted_as_lent_until_it_runs_again() -> None:
    """A job that waits for its own executor is lent; it's running again before its code goes on."""
    counts = []

    def note() -> None:
        now = executor.statistics()
        counts.append((now.running, now.lent, now.queued))

    async def child() -> None:
        note()
        await checkpoint()

    async def parent() -> None:
        note()
        future = executor.submit(child)
        note()
        await future
        note()

    async with Executor(1) as executor:
        future = executor.submit(parent)
        await future
        assert future.slot == 0
    assert counts == [(1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 0, 0)]
    assert not future.running()


@every_way
async def test_lender_goes_on_ahead_of_the_queue(way: Any) -> None:
    """A job that waited goes on before anything that was queued in the meantime."""
    log = []

    async def note(what: str) -> None:
        log.append(what)
        await checkpoint()

    async def child(_: object) -> None:
        log.append("child")
        for _ in range(5):
            executor.submit(note, "later")
        await checkpoint()

    async def parent() -> None:
        await way(executor, child, [None])
        log.append("parent goes on")

    async with Executor(1) as executor:
        executor.submit(parent)
    assert log == ["child", "parent goes on", *["later"] * 5]


@virtual
def test_queued_jobs_use_the_lent_slot(backend: str) -> None:
    async def main() -> None:
        async def parent() -> None:
            await executor.submit(anyio.sleep, 10)
            ends.append(anyio.current_time())

        ends: list[float] = []
        async with Executor(2) as executor:
            executor.submit(parent)
            await anyio.sleep(1)
            await executor.submit(anyio.sleep, 3)
            assert anyio.current_time() == 4
        assert ends == [10]

    run_in_virtual_time(backend, main)


async def test_waiting_for_another_executor_lends_nothing() -> None:
    """A job that waits for a job of another executor keeps its slot."""
    lent = []

    async def elsewhere() -> None:
        await checkpoint()
        lent.append(executor.statistics().lent)

    async def job() -> None:
        await other.submit(elsewhere)
        await gather(other.submit(elsewhere))
        await wait([other.submit(elsewhere)])
        await first_result(other.submit(elsewhere))
        async for _ in as_completed([other.submit(elsewhere)]):
            pass
        await other.map(elsewhere_for, [None])

    async def elsewhere_for(_: object) -> None:
        await elsewhere()

    async with Executor(1) as other, Executor(1) as executor:
        executor.submit(job)
    assert lent == [0] * 6


@every_way
async def test_waiting_for_both_ones_own_and_another_executor(way: Any) -> None:
    """Jobs of two executors with one slot each may wait for each other's jobs in turn."""

    async def ping(n: int) -> int:
        # Each keeps its slot while it waits for the other executor, and lends it to its own.
        (mine,) = await way(one, leaf, [n])
        (its,) = await way(other, leaf, [n])
        return mine + its

    async def leaf(n: int) -> int:
        await checkpoint()
        return n

    async with Executor(1) as one, Executor(1) as other:
        assert await one.submit(ping, 3) == 6
        await check_all_slots_are_free(one)
        await check_all_slots_are_free(other)


async def test_only_the_jobs_own_task_lends() -> None:
    """A task that a job started waits for its executor's jobs without lending the job's slot."""
    lent = []

    async def child() -> None:
        lent.append(executor.statistics().lent)

    async def in_task() -> None:
        await executor.submit(child)

    async def job() -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(in_task)

    async with Executor(2) as executor:
        await executor.submit(job)
        await check_all_slots_are_free(executor)
    assert lent == [0]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has eager tasks from 3.12 on")
async def test_eager_task_of_a_job_does_not_lend(loop_name: str) -> None:
    """A task whose first step runs at once, inside the job's, is another task all the same."""
    if loop_name == "trio":
        pytest.skip("asyncio only")
    running = 0

    async def child() -> None:
        nonlocal running
        running += 1
        await checkpoint()
        assert running == 1
        running -= 1

    async def in_task() -> None:
        await executor.submit(child)

    async def job() -> None:
        nonlocal running
        running += 1
        loop = asyncio.get_running_loop()
        task = asyncio.Task(in_task(), loop=loop, eager_start=True)
        for _ in range(10):
            await checkpoint()
        assert running == 1
        assert executor.statistics().lent == 0
        running -= 1
        task.cancel()
        await asyncio.wait([task])

    async with Executor(1) as executor:
        await executor.submit(job)


async def test_awaiting_a_future_that_is_done_lends_nothing() -> None:
    """Without a wait there's nothing to lend a slot for: no queued job comes in between."""
    log = []

    async def note(what: str) -> None:
        log.append(what)

    async def job() -> None:
        child = executor.submit(note, "child")
        await child
        executor.submit(note, "queued")
        await child
        await gather(child)
        await wait([child])
        log.append("job")

    async with Executor(1) as executor:
        executor.submit(job)
    assert log == ["child", "job", "queued"]


# Lending with everything else.


@virtual
def test_lender_in_a_full_lane_waits_for_its_place(backend: str) -> None:
    """A lender takes back its lane's place, too; a free slot alone isn't enough."""

    async def main() -> None:
        async def parent() -> None:
            future = held_up.submit(anyio.sleep, 0)
            cancel_at_2.append(future)
            with pytest.raises(JobCancelled):
                await future
            assert anyio.current_time() == 5
            assert lane.statistics().running == 1

        cancel_at_2: list[Any] = []
        async with Executor(3) as executor:
            held_up = executor.lane()
            held_up.pause()
            lane = executor.lane(slots=1)
            job = lane.submit(parent)
            lane.submit(anyio.sleep, 5)  # in the place that the parent lends
            behind = lane.submit(anyio.sleep, 1)
            await anyio.sleep(2)
            cancel_at_2[0].cancel()
            await job
            await behind
            assert anyio.current_time() == 6
            check_idle(lane)
            await check_all_slots_are_free(executor)

    run_in_virtual_time(backend, main)


@virtual
@pytest.mark.parametrize("whose", ["executor", "lane"])
def test_pause_does_not_hold_up_a_lender(backend: str, whose: str) -> None:
    """A job that goes on isn't a new one: a pause that began while it waited doesn't stop it."""

    async def main() -> None:
        async def child() -> None:
            await anyio.sleep(2)

        async def parent() -> None:
            await lane.submit(child)
            times.append(anyio.current_time())

        times: list[float] = []
        async with Executor(1) as executor:
            lane = executor.lane()
            future = lane.submit(parent)
            await anyio.sleep(1)
            paused = executor if whose == "executor" else lane
            paused.pause()
            queued = lane.submit(anyio.sleep, 0)
            await future
            assert times == [2]
            await anyio.sleep(5)
            assert not queued.done()
            paused.resume()
            await queued
            await check_all_slots_are_free(executor)

    run_in_virtual_time(backend, main)


@virtual
def test_leaving_the_block_ends_a_pause_that_lenders_wait_in(backend: str) -> None:
    """A pause doesn't keep the block from ending if what runs has lent its slot to paused jobs."""

    async def main() -> None:
        async def parent() -> int:
            return 1 + await executor.submit(child)

        async def child() -> int:
            return 1

        async with Executor(1) as executor:
            future = executor.submit(parent)
            executor.pause()
            executor.resume()
            await checkpoint()
            executor.pause()
        assert future.result() == 2

    run_in_virtual_time(backend, main)


@virtual
def test_going_on_uses_up_no_start_of_a_rate(backend: str) -> None:
    """A rate counts the starts of jobs, and a job starts once however often it lends its slot."""

    async def main() -> list[float]:
        async def leaf() -> None:
            starts.append(anyio.current_time())

        async def parent() -> None:
            starts.append(anyio.current_time())
            for _ in range(3):
                await executor.submit(leaf)

        starts: list[float] = []
        async with Executor(1, rate=Rate(1, 2)) as executor:
            executor.submit(parent)
        return starts

    assert run_in_virtual_time(backend, main) == [0, 2, 4, 6]


@virtual
def test_time_limit_goes_on_while_a_slot_is_lent(backend: str) -> None:
    """A job's timeout counts from its start, and includes its waits for other jobs."""

    async def main() -> None:
        async def parent() -> None:
            await slow.submit(anyio.sleep, 10)

        async with Executor(1) as executor:
            slow = executor.lane()
            future = executor.lane(timeout=3).submit(parent)
            with pytest.raises(TimeoutError):
                await future
            assert anyio.current_time() == 3
            await slow.join()
            assert anyio.current_time() == 10
            await check_all_slots_are_free(executor)

    run_in_virtual_time(backend, main)


@virtual
def test_join_of_another_lane_lends_the_slot(backend: str) -> None:
    """A job may wait until another lane of its executor has nothing left, with one slot."""

    async def main() -> None:
        async def job() -> None:
            await other.join()
            times.append(anyio.current_time())

        times: list[float] = []
        async with Executor(1) as executor:
            other = executor.lane()
            executor.submit(job)
            other.submit(anyio.sleep, 2)
            other.submit(anyio.sleep, 2)
        assert times == [4]

    run_in_virtual_time(backend, main)


@virtual
@every_way
def test_jobs_of_jobs_are_taken_during_a_shutdown(backend: str, way: Any) -> None:
    """While the executor shuts down its jobs may submit and wait for others, in every way."""

    async def main() -> None:
        async def leaf(number: int) -> int:
            await anyio.sleep(1)
            return number

        async def parent() -> list[int]:
            await anyio.sleep(1)
            return sorted(await way(executor, leaf, [1, 2, 3]))

        async with Executor(1) as executor:
            future = executor.submit(parent)
            await anyio.sleep(0.5)
            await executor.shutdown()
            assert await future == [1, 2, 3]

    run_in_virtual_time(backend, main)


# Cancellation.

# How to cancel a job, and what its future raises then.
END: dict[str, type[Exception]] = {
    "future": JobCancelled,
    "executor": JobCancelled,
    "timeout": TimeoutError,
    "around": JobCancelled,
    "body": JobCancelled,
}


async def outcome(future: Future[Any]) -> BaseException | None:
    """The exception of a job that ends in one, of whatever kind."""
    try:
        await future
    except (JobCancelled, TimeoutError) as exc:
        return exc
    return None


class BodyError(Exception):
    pass


@virtual
@pytest.mark.parametrize("how", END)
@pytest.mark.parametrize("waits_for", ["its child", "a slot"])
def test_cancelled_lender_unwinds_at_once(backend: str, how: str, waits_for: str) -> None:
    """A lender that's cancelled doesn't wait for a slot, whoever cancels it and whatever for."""
    unwound: list[float] = []

    async def keeper() -> None:
        """Keeps the slot for 10 seconds, whatever happens."""
        with anyio.CancelScope(shield=True):
            await anyio.sleep(10)

    async def parent(executor: Executor, held_up: Lane, children: list[Any]) -> None:
        children.append((executor if waits_for == "its child" else held_up).submit(keeper))
        try:
            try:
                await children[0]
            except JobCancelled:
                # As it may come out at the moment of its own cancellation, which comes next.
                assert waits_for == "a slot"
                await checkpoint()
        finally:
            unwound.append(anyio.current_time())

    async def main() -> None:
        children: list[Any] = []
        scope = anyio.CancelScope(deadline=2 if how == "around" else float("inf"))
        with scope, pytest.raises(BodyError) if how == "body" else nullcontext():
            async with Executor(1) as executor:
                held_up = executor.lane()
                held_up.pause()
                lane = executor.lane(timeout=2 if how == "timeout" else None)
                future = lane.submit(parent, executor, held_up, children)
                if waits_for == "a slot":
                    executor.submit(keeper)
                await anyio.sleep(1)
                if waits_for == "a slot":
                    children[0].cancel()
                await anyio.sleep(0.5)
                assert executor.statistics().lent == 1
                await anyio.sleep(0.5)
                if how == "future":
                    future.cancel("test")
                elif how == "executor":
                    executor.cancel("test")
                elif how == "body":
                    raise BodyError
                await anyio.sleep(1)
                assert isinstance(await outcome(future), END[how])
                held_up.resume()
                await executor.join()
                await check_all_slots_are_free(executor)
        assert anyio.current_time() == 10
        assert unwound == [2]
        check_idle(executor)
        assert isinstance(await outcome(future), END[how])

    run_in_virtual_time(backend, main)


@virtual
@every_way
def test_cancelling_a_job_that_waits_in_any_way(backend: str, way: Any) -> None:
    """A job that's cancelled while it waits for its children ends at once; they go on alone.

    Only a `map`, whose results nobody wants any more, takes its jobs with it.
    """

    async def main() -> None:
        async def leaf(_: object) -> None:
            await anyio.sleep(5)

        async def parent() -> None:
            await way(executor, leaf, range(3))

        async with Executor(2) as executor:
            future = executor.submit(parent)
            await anyio.sleep(1)
            future.cancel()
            with pytest.raises(JobCancelled):
                await future
            assert anyio.current_time() == 1
            counts = executor.statistics()
            assert counts.lent == 0
            assert counts.running <= 2
            await executor.join()
            await check_all_slots_are_free(executor)

    run_in_virtual_time(backend, main)


@every_way
@pytest.mark.parametrize("how", ["executor", "lane", "shutdown"])
async def test_cancelling_all_jobs_is_no_failure_of_those_that_wait_for_others(way, how) -> None:
    async def leaf(_: object) -> None:
        await anyio.sleep_forever()

    async def parent() -> None:
        await way(lane, leaf, range(3))

    async with Executor(1) as executor:
        lane = executor.lane()
        future = lane.submit(parent)
        await anyio.wait_all_tasks_blocked()
        assert lane.statistics().lent == 1
        if how == "executor":
            executor.cancel()
        elif how == "lane":
            lane.cancel()
        else:
            await executor.shutdown(grace=0)
        await future.wait()
        assert future.cancelled()
        await executor.join()
        assert executor.statistics().failed == 0


@virtual
def test_job_that_survives_its_cancellation_lends_again(backend: str) -> None:
    """A job that catches its cancellation may wait for others in a shield, and end well."""

    async def main() -> None:
        async def parent() -> str:
            try:
                await executor.submit(anyio.sleep, 5)
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    await executor.submit(anyio.sleep, 1)
            return "survived"

        async with Executor(1) as executor:
            future = executor.submit(parent)
            await anyio.sleep(1)
            future.cancel()
            assert await future == "survived"
            assert anyio.current_time() == 6
            await check_all_slots_are_free(executor)

    run_in_virtual_time(backend, main)


async def test_failure_of_a_child_comes_out_in_the_parent() -> None:
    """A child's exception is raised in the job that awaits it, which has its slot by then."""

    async def fail(_: object) -> None:
        await checkpoint()
        raise ValueError("child")

    async def parent(way: Any) -> None:
        with pytest.raises(ValueError, match="child"):
            await way(executor, fail, [None])
        assert executor.statistics().running == 1

    async with Executor(1) as executor:
        for way in (by_await, by_gather, by_wait, by_as_completed, by_map, by_map_unordered):
            await executor.submit(parent, way)
        await check_all_slots_are_free(executor)


# By hand.


@virtual
def test_slot_lent_by_hand(backend: str) -> None:
    """Inside `lend_slot` other jobs use the slot; the block is left with one."""

    async def main() -> list[tuple[str, float]]:
        async def lender() -> None:
            async with lend_slot():
                assert executor.statistics().lent == 1
                await anyio.sleep(1)
            assert executor.statistics().lent == 0
            assert executor.statistics().running == 1
            log.append(("lender", anyio.current_time()))

        async def job() -> None:
            await anyio.sleep(2)
            log.append(("job", anyio.current_time()))

        log: list[tuple[str, float]] = []
        async with Executor(1) as executor:
            executor.submit(lender)
            executor.submit(job)
            executor.submit(job)
            await executor.join()
            await check_all_slots_are_free(executor)
        return log

    assert run_in_virtual_time(backend, main) == [("job", 2), ("lender", 2), ("job", 4)]


async def test_lending_by_hand_may_be_nested_and_repeated() -> None:
    """A slot is lent once however deep the blocks are, and again by the next block."""
    lent = []

    def note() -> None:
        lent.append(executor.statistics().lent)

    async def leaf() -> None:
        note()

    async def job() -> None:
        for _ in range(2):
            async with lend_slot():
                note()
                async with lend_slot():
                    await checkpoint()
                    await executor.submit(leaf)
                    note()
                note()
                assert await gather(executor.submit(leaf)) == [None]
                note()
            note()

    async with Executor(1) as executor:
        await executor.submit(job)
        await check_all_slots_are_free(executor)
    assert lent == [1, 1, 1, 1, 1, 1, 0] * 2


async def test_exception_leaves_a_lending_block_as_it_is() -> None:
    """What's raised inside `lend_slot` comes out, and the slot has been taken back by then."""

    async def job() -> None:
        with pytest.raises(ValueError, match="inside"):
            async with lend_slot():
                raise ValueError("inside")
        assert executor.statistics().running == 1

    async with Executor(1) as executor:
        await executor.submit(job)
        await check_all_slots_are_free(executor)


async def test_lending_by_hand_outside_of_jobs_does_nothing() -> None:
    """Where no job runs, `lend_slot` is an empty block: in a body, and in a job's child task."""
    lent = []

    async def in_task() -> None:
        async with lend_slot():
            lent.append(executor.statistics().lent)
            await checkpoint()

    async def job() -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(in_task)

    async with lend_slot():
        await checkpoint()
    async with Executor(1) as executor:
        async with lend_slot():
            lent.append(executor.statistics().lent)
        await executor.submit(job)
        await check_all_slots_are_free(executor)
    assert lent == [0, 0]


@virtual
@pytest.mark.parametrize("how", END)
def test_job_cancelled_while_it_lends_by_hand(backend: str, how: str) -> None:
    """Cancelled inside `lend_slot`, a job unwinds at once, whatever runs in its slot."""

    async def keeper() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(10)

    async def lender() -> None:
        try:
            async with lend_slot():
                await anyio.sleep(100)
        finally:
            unwound.append(anyio.current_time())

    async def main() -> None:
        scope = anyio.CancelScope(deadline=2 if how == "around" else float("inf"))
        with scope, pytest.raises(BodyError) if how == "body" else nullcontext():
            async with Executor(1) as executor:
                future = executor.lane(timeout=2 if how == "timeout" else None).submit(lender)
                executor.submit(keeper)
                await anyio.sleep(2)
                if how == "future":
                    future.cancel()
                elif how == "executor":
                    executor.cancel()
                elif how == "body":
                    raise BodyError
                assert isinstance(await outcome(future), END[how])
                assert anyio.current_time() == 2
                await executor.join()
                await check_all_slots_are_free(executor)
        assert unwound == [2]
        check_idle(executor)
        assert future.done()

    unwound: list[float] = []
    run_in_virtual_time(backend, main)


# Random trees of jobs.


@dataclass(frozen=True)
class Node:
    """What one job does: it sleeps, submits a job for each child, and waits for them in a way."""

    sleeps: int = 0
    way: str = "await"
    lane: int = 0
    patience: int | None = None
    """After how many seconds it gives up waiting."""
    cancels: int | None = None
    """Which of its children it cancels right after having submitted them."""
    children: tuple[Node, ...] = ()


TREE_WAYS = ["await", "gather", "wait", "as_completed", "first_result", "map", "unordered", "hand"]

nodes = st.recursive(
    st.builds(Node, sleeps=st.integers(0, 2), lane=st.integers(0, 2)),
    lambda inner: st.builds(
        Node,
        sleeps=st.integers(0, 2),
        way=st.sampled_from(TREE_WAYS),
        lane=st.integers(0, 2),
        patience=st.sampled_from([None, None, None, 1, 3]),
        cancels=st.sampled_from([None, None, None, 0, 1]),
        children=st.lists(inner, min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=10,
)


@dataclass
class Forest:
    """Runs trees of jobs, and keeps what's to be checked."""

    slots: int
    lane_slots: list[float]
    futures: list[Any] = field(default_factory=list)
    # Those for which more may run than there are slots, since they unwind.
    condemned: list[Any] = field(default_factory=list)
    # When waits have timed out of jobs that may go on beyond the limit, and that haven't ended.
    impatient: list[float] = field(default_factory=list)
    active: int = 0

    def check(self) -> None:
        counts = self.executor.statistics()
        unwinding = sum(not future.done() for future in self.condemned) + len(self.impatient)
        assert counts.running <= self.slots + unwinding
        assert self.active <= self.slots + unwinding
        for lane, slots in zip(self.lanes, self.lane_slots, strict=True):
            assert lane.statistics().running <= slots + unwinding
        finished = counts.succeeded + counts.failed + counts.cancelled
        assert counts.submitted == counts.queued + counts.running + counts.lent + finished

    def check_start(self) -> None:
        """A job starts: what goes on beyond the limit has only just begun to."""
        now = anyio.current_time()
        just_now = sum(not future.done() for future in self.condemned) + self.impatient.count(now)
        assert self.executor.statistics().running <= self.slots + just_now

    def submit(self, node: Node) -> Any:
        future = self.lanes[node.lane].submit(self.job, node)
        self.futures.append(future)
        return future

    def cancel(self, future: Any) -> None:
        self.condemned.append(future)
        future.cancel()

    async def collect(self, node: Node) -> int:
        """The sum of the children's results; those that are cancelled count for nothing."""
        if node.way in ("map", "unordered"):
            lane = self.lanes[node.children[0].lane]
            results = lane.map(self.job, node.children, ordered=node.way == "map")
            return sum([result async for result in results])
        children = [self.submit(child) for child in node.children]
        if node.cancels is not None and node.cancels < len(children):
            self.cancel(children[node.cancels])
        match node.way:
            case "gather":
                both = await gather(*children, return_exceptions=True)
                return sum(result for result in both if isinstance(result, int))
            case "wait":
                await wait(children)
            case "as_completed":
                seen = [future async for future in as_completed(children)]
                assert sorted(map(id, seen)) == sorted(map(id, children))
            case "first_result":
                # It cancels the others, which may then count for nothing.
                self.condemned += children
                try:
                    await first_result(*children)
                except BaseExceptionGroup as group:
                    assert group.subgroup(JobCancelled) is not None  # noqa: PT017
                await wait(children)
            case "await" | "hand":
                for child in children:
                    async with lend_slot() if node.way == "hand" else nullcontext():
                        try:
                            await child
                        except JobCancelled:
                            pass
        return sum(0 if child.cancelled() else child.result() for child in children)

    async def job(self, node: Node) -> int:
        self.active += 1
        counted = True
        timed_out: list[float] = []
        try:
            self.check()
            self.check_start()
            await anyio.sleep(node.sleeps)
            self.check()
            total = 0
            if node.children:
                with anyio.move_on_after(node.patience) as scope:
                    self.active -= 1
                    counted = False
                    total = await self.collect(node)
                if scope.cancelled_caught:
                    timed_out.append(anyio.current_time())
                    self.impatient += timed_out
                # No await since it was given its slot back.
                self.active += 1
                counted = True
                self.check()
            await checkpoint()
            return 1 + total
        except JobCancelled:
            return 1  # one of a map's
        finally:
            self.active -= counted
            for time in timed_out:
                self.impatient.remove(time)

    async def main(self, trees: list[Node], cancels: list[tuple[int, int | None]]) -> None:
        with anyio.fail_after(10_000):
            async with Executor(self.slots) as self.executor:
                self.lanes = [self.executor.lane(slots=slots) for slots in self.lane_slots]
                roots = [self.submit(tree) for tree in trees]
                for delay, which in cancels:
                    await anyio.sleep(delay)
                    self.check()
                    if which is None:
                        self.condemned += self.futures
                        self.executor.cancel()
                    else:
                        self.cancel(self.futures[which % len(self.futures)])
                await wait(roots)
                await self.executor.join()
                check_idle(self.executor)
                assert all(future.done() for future in self.futures)
                await check_all_slots_are_free(self.executor)
        assert self.active == 0
        if not cancels:
            for root, tree in zip(roots, trees, strict=True):
                if is_exact(tree):
                    assert root.result() == size(tree)


def is_exact(node: Node) -> bool:
    """Whether nothing in a tree makes its result a matter of time."""
    return (
        (node.patience is None or not node.children)
        and (node.cancels is None or node.way in ("map", "unordered"))
        and (node.way != "first_result" or len(node.children) == 1)
        and all(map(is_exact, node.children))
    )


def size(node: Node) -> int:
    return 1 + sum(map(size, node.children))


@virtual
@given(
    slots=st.integers(1, 3),
    lane_slots=st.lists(st.sampled_from([1, 2, float("inf")]), min_size=3, max_size=3),
    trees=st.lists(nodes, min_size=1, max_size=3),
    cancels=st.lists(
        st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 20))), max_size=3
    ),
)
def test_random_trees_of_jobs_end_and_keep_to_the_limits(
    backend: str, slots: int, lane_slots: list[float], trees: list[Node], cancels: Any
) -> None:
    """Whatever waits for whatever in whichever way, it ends; the limits hold; results are right."""
    run_in_virtual_time(backend, Forest(slots, lane_slots).main, trees, cancels)
