"""What is done with is freed at once, by reference counts, while executor and workers live on.

Most tests run with the garbage collector off, so that a cycle shows.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jobs import ticks
from runners import HAS_GIL
from suspensions import asyncio_task, living_tasks

from anyslots import Executor, Future, JobCancelled, gather

pytestmark = [pytest.mark.anyio, pytest.mark.unmeasured]

variable: ContextVar[object] = ContextVar("variable")


@pytest.fixture(autouse=True)
def unkept_log() -> Iterator[list[int]]:
    """Counts what the library logs, before pytest gets to keep it."""
    counted = [0]

    def count(record: logging.LogRecord) -> bool:
        counted[0] += 1
        return False

    logger = logging.getLogger("anyslots")
    logger.addFilter(count)
    yield counted
    logger.removeFilter(count)


class Thing:
    """Something big enough to be missed."""


class Things:
    """Makes things, and knows which of them are still there."""

    def __init__(self) -> None:
        self._made: dict[str, weakref.ref[Thing]] = {}

    def __call__(self, name: str) -> Thing:
        thing = Thing()
        self._made[name] = weakref.ref(thing)
        return thing

    @property
    def alive(self) -> list[str]:
        if not HAS_GIL:  # functions and what they hold are then freed by the collector alone
            gc.collect()
        return [name for name, thing in self._made.items() if thing() is not None]


# Jobs that hold things in every place, and end in every way.


async def succeeds(things: Things, *args: object, **kwargs: object) -> Thing:
    local = things("local")
    await checkpoint()
    del local
    return things("result")


async def succeeds_at_once(things: Things, *args: object, **kwargs: object) -> Thing:
    return things("result")


async def fails(things: Things, *args: object, **kwargs: object) -> None:
    local = things("local")
    await checkpoint()
    raise make_error(things, local)


async def fails_at_once(things: Things, *args: object, **kwargs: object) -> None:
    local = things("local")
    raise make_error(things, local)


async def fails_in_a_chain(things: Things, *args: object, **kwargs: object) -> None:
    local = things("local")
    try:
        await fails(things)
    except ValueError as error:
        raise make_error(things, local) from error


async def fails_in_a_group(things: Things, *args: object, **kwargs: object) -> None:
    local = things("local")
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        await checkpoint()
        raise make_error(things, local)


def make_error(things: Things, local: object) -> ValueError:
    error = ValueError("failed")
    error.thing = things("exception")  # type: ignore[attr-defined]
    return error


async def waits(things: Things, *args: object, **kwargs: object) -> None:
    local = things("local")
    await anyio.sleep_forever()
    del local


async def waits_in_a_group(things: Things, *args: object, **kwargs: object) -> None:
    local = things("local")
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
    del local


async def shields(things: Things, *args: object, **kwargs: object) -> None:
    local = things("local")
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await checkpoint()
        del local


async def catches(things: Things, *args: object, **kwargs: object) -> Thing:
    local = things("local")
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        del local
        return things("result")
    raise AssertionError


ENDING = [succeeds, succeeds_at_once, fails, fails_at_once, fails_in_a_chain]
WAITING = [waits, shields, catches]
IN_GROUPS = [fails_in_a_group, waits_in_a_group]


def submit(
    executor: Executor, job: Callable[..., Awaitable[object]], things: Things
) -> Future[Any]:
    """Submit a job with a thing in its arguments, its function, and its context."""
    token = variable.set(things("context"))
    fn = partial(job, things, closure=things("partial"))
    future = executor.submit(fn, things("argument"), keyword=things("keyword"))
    variable.reset(token)
    future.add_done_callback(partial(ignore, things("callback")))
    return future


def ignore(thing: object, future: Future[Any]) -> None:
    pass


async def look_at(future: Future[Any], how: str) -> None:
    """Ask for the outcome in one way; this frame refers to nothing when it's left."""
    try:
        if how == "await":
            await future
        elif how == "gather":
            await gather(future)
        elif how == "gather all":
            await gather(future, return_exceptions=True)
        elif how == "result":
            future.result()
        elif how == "exception":
            future.exception()
    except (ValueError, JobCancelled):
        pass
    finally:
        del future


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("job", [*ENDING, *WAITING])
async def test_a_done_job_keeps_nothing_but_its_outcome(job: Callable[..., Awaitable[object]]):
    """Function, arguments, context and callbacks are freed when the job ends, on idle workers.

    The outcome is freed with its future, and a failed job's frames with its exception.
    """
    async with Executor(2, on_error="log") as executor:
        for how in ("nobody", "await", "gather", "gather all", "result", "exception"):
            things = Things()
            future = submit(executor, job, things)
            await ticks(4)
            if job in WAITING:
                assert future.cancel("enough")
            await future.wait()
            await ticks(3)
            if future.cancelled():
                assert things.alive == []
            else:
                assert "context" not in things.alive
                assert "callback" not in things.alive
            await look_at(future, how)
            del future
            assert things.alive == [], how


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("job", [succeeds, succeeds_at_once])
async def test_a_future_keeps_its_result_alone(job: Callable[..., Awaitable[object]]):
    """A future that's kept keeps the result, and of the call nothing."""
    async with Executor(1) as executor:
        things = Things()
        future = submit(executor, job, things)
        assert await future is not None
        await ticks(2)
        assert things.alive == ["result"]


@pytest.mark.usefixtures("no_collector")
async def test_a_worker_in_the_midst_of_its_next_job_keeps_nothing_of_the_one_before():
    """What the last job left isn't kept by the slot, whether it's idle or in use."""
    async with Executor(1, on_error="log") as executor:
        for job in (*ENDING, *WAITING):
            things = Things()
            future = submit(executor, job, things)
            next_one = executor.submit(anyio.sleep_forever)
            await ticks(4)
            future.cancel()
            while not next_one.running():
                await checkpoint()
            await ticks(2)
            del future
            assert things.alive == [], job
            next_one.cancel()
            await next_one.wait()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("by", ["future", "executor"])
async def test_a_job_that_is_cancelled_in_the_queue_is_freed_at_once(by: str):
    """A queued job lets go of its call in the very call that cancels it."""
    async with Executor(1) as executor:
        blocker = executor.submit(anyio.sleep_forever)
        await ticks(3)
        things = Things()
        future = submit(executor, waits, things)
        assert sorted(things.alive) == ["argument", "callback", "context", "keyword", "partial"]
        if by == "future":
            future.cancel()
        else:
            executor.cancel()
        assert things.alive == []
        with pytest.raises(JobCancelled):
            await future
        blocker.cancel()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("on_error", ["hold", "cancel", "log"])
async def test_a_block_that_has_ended_keeps_nothing(on_error: Any):
    """After the block, jobs and errors are freed with the futures and the exception it raised."""
    for job in (*ENDING, *WAITING):
        things = Things()
        executor = Executor(2, on_error=on_error)
        try:
            async with executor:
                submit(executor, job, things)
                submit(executor, waits, things)
                await ticks(5)
                executor.cancel()
        except ExceptionGroup as group:
            assert "exception" in things.alive
            del group
        await ticks(3)
        assert things.alive == [], job
        assert executor.statistics().running == 0


@pytest.mark.usefixtures("no_collector")
async def test_waiting_leaves_nothing_at_the_future():
    """Waits that end early, cancelled or failed, take themselves out of the future."""
    async with Executor(3, on_error="log") as executor:
        waiting = executor.submit(anyio.sleep_forever)
        await ticks(3)
        for _ in range(3):
            things = Things()
            failing = executor.submit(fails, things)
            with pytest.raises(ValueError, match="failed"):
                await gather(waiting, failing)
            for wait in (waiting.wait, partial(gather, waiting), executor.join):
                with anyio.move_on_after(0):
                    await wait()
            callback = partial(ignore, things("callback"))
            waiting.add_done_callback(callback)
            assert waiting.remove_done_callback(callback) == 1
            del failing, callback
            await ticks(3)
            assert things.alive == []
        assert not waiting.listeners
        waiting.cancel()


async def test_jobs_in_task_groups_leave_only_what_the_collector_gets():
    """Task groups make cycles of their own; what remains of such jobs goes with one collection."""
    async with Executor(1, on_error="log") as executor:
        for job in IN_GROUPS:
            things = Things()
            future = submit(executor, job, things)
            await ticks(5)
            future.cancel()
            await future.wait()
            await ticks(3)
            del future
            gc.collect()
            assert things.alive == []


# Growth.


async def one_round(executor: Executor, count: int) -> None:
    """Jobs of all outcomes, cancelled in all states, looked at or not."""
    futures = []
    for number in range(count // 5):
        things = Things()
        jobs = (succeeds, succeeds_at_once, fails, waits, catches)
        futures += [submit(executor, job, things) for job in jobs]
        if number % 4 == 0:
            await checkpoint()
    for position, future in enumerate(futures):
        if position % 5 > 2:
            future.cancel("round")
        elif position % 7 == 0:
            future.cancel()
    while executor.statistics().queued:
        await checkpoint()
    executor.cancel()
    await executor.join()
    assert {future.done() for future in futures} == {True}
    await gather(*futures[: count // 5], return_exceptions=True)


def open_files() -> int:
    """How many file descriptors the process has open, where the system tells."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def growth(counts: list[int]) -> int:
    """How much more there was at most in some round than in one before, the first three aside."""
    return max(after - before for before, after in combinations(counts[3:], 2))


async def test_objects_tasks_threads_and_files_are_flat_over_ten_rounds(unkept_log: list[int]):
    """Ten rounds of five hundred jobs, in a kept executor and new ones: not an object more."""
    objects, tasks, threads, files = [], [], [], []
    async with Executor(7, on_error="log") as kept:
        for _ in range(10):
            await one_round(kept, 400)
            async with Executor(3, on_error="log") as executor:
                await one_round(executor, 100)
            del executor
            await ticks(3)
            gc.collect()
            objects.append(len(gc.get_objects()))
            tasks.append(living_tasks())
            threads.append(threading.active_count())
            files.append(open_files())
    # The lists here and some free lists may grow by a few; a leak would grow by a round. What
    # earlier tests have left behind, idle threads of anyio's for one, may go at any time.
    assert growth(objects) < 40, objects
    assert growth(tasks) <= 0, tasks
    assert growth(threads) <= 0, threads
    assert growth(files) <= 0, files
    assert unkept_log[0] > 100


async def test_workers_are_as_many_as_were_needed_at_once_and_end_with_the_block():
    """A burst through a few slots makes a few tasks; no more come, and none is left."""
    before = living_tasks()
    async with Executor(4) as executor:
        for _ in range(5):
            await gather(*(executor.submit(ticks, 2) for _ in range(100)))
            for future in [executor.submit(anyio.sleep_forever) for _ in range(20)]:
                await checkpoint()
                future.cancel()
            await executor.join()
            assert living_tasks() - before <= 6  # one may be about to end
    await ticks(2)
    assert living_tasks() == before


async def test_workers_that_stood_in_for_lenders_end():
    """Jobs that wait for their jobs need a worker each; afterwards there are no more than slots."""

    async def nest(depth: int) -> None:
        await ticks(1)
        if depth:
            await executor.submit(nest, depth - 1)

    before = living_tasks()
    async with Executor(2) as executor:
        future = executor.submit(nest, 30)
        while executor.statistics().lent < 20:
            await checkpoint()
        assert living_tasks() - before > 20
        await future
        await ticks(5)
        assert living_tasks() - before <= 3


@pytest.mark.soak
@pytest.mark.usefixtures("no_collector")
async def test_an_executor_that_logs_lives_through_failures_in_constant_memory(
    unkept_log: list[int], in_soak: bool
):
    """Thousands of failures, a million in a soak, that nobody looks at: all logged, none kept."""
    rounds = 1000 if in_soak else 20

    async def failing(payload: bytes) -> None:
        raise ValueError(payload)

    if (task := asyncio_task()) is not None:
        # Debug mode, which stays on in other tests, would take most of the time.
        debugged = task.get_loop().get_debug()
        task.get_loop().set_debug(False)
    async with Executor(10, on_error="log") as executor:
        blocks = []
        for done in range(rounds):
            for number in range(1000):
                executor.submit(failing, bytes(1000))
                if number % 50 == 49:
                    await executor.join()
            await ticks(3)
            if done % (rounds // 20) == 0:
                blocks.append(sys.getallocatedblocks())
        assert unkept_log[0] == executor.statistics().failed == rounds * 1000
        # One block for each failure would be a thousand more from round to round.
        assert max(blocks[3:]) - min(blocks[3:]) < 500, blocks
    if task is not None:
        task.get_loop().set_debug(debugged)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("outcome", ["succeed", "fail", "are cancelled"])
async def test_jobs_whose_futures_nobody_keeps_leave_nothing(outcome: str, unkept_log: list[int]):
    """Fire and forget: thousands of jobs run, and leave neither future nor argument."""
    futures: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
    arguments: weakref.WeakSet[Thing] = weakref.WeakSet()
    ran = [0]

    async def job(thing: Thing) -> None:
        ran[0] += 1
        if outcome == "are cancelled":
            await anyio.sleep_forever()
        await checkpoint()
        if outcome == "fail":
            raise ValueError

    async with Executor(5, on_error="log") as executor:
        for _ in range(500):
            thing = Thing()
            future = executor.submit(job, thing)
            futures.add(future)
            arguments.add(thing)
        del thing, future
        await checkpoint()
        if outcome == "are cancelled":
            while executor.statistics().queued:
                executor.cancel()
                await checkpoint()
            executor.cancel()
        await executor.join()
        await ticks(5)
        assert executor.statistics().running == 0
        assert len(futures) == len(arguments) == 0
    assert ran[0] == 500 or outcome == "are cancelled"
