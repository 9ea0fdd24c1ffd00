"""The same work, done by anyslots and by what people use instead.

Each program runs ``jobs`` jobs inside a running event loop. While jobs are `counted`, `done` is how
many have run to their end, for `compare.py` to see that no program is quick by leaving some out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context, copy_context
from types import coroutine
from typing import Any

import anyio
import trio

from anyslots import Executor, Rate, gather

Program = Callable[[int], Awaitable[object]]

SLOTS = 100

done = 0


async def asyncio_job(_: int = 0) -> None:
    await asyncio.sleep(0)


async def trio_job(_: int = 0) -> None:
    await trio.lowlevel.checkpoint()


async def instant_job(_: int = 0) -> None:
    pass


@contextmanager
def counted() -> Iterator[None]:
    """Have the jobs count themselves, which takes time of its own."""

    def counting(job: Any) -> Any:
        async def counting_job(_: int = 0) -> None:
            global done
            await job()
            done += 1

        return counting_job

    jobs = {name: globals()[name] for name in ("asyncio_job", "trio_job", "instant_job")}
    globals().update((name, counting(job)) for name, job in jobs.items())
    try:
        yield
    finally:
        globals().update(jobs)


def plain_job() -> int:
    return 1


# Ours: made for a job, so that both event loops run the same code.


def submit(job: Any, slots: float = SLOTS, **options: Any) -> Program:
    async def program(jobs: int) -> None:
        async with Executor(slots, **options) as executor:
            for _ in range(jobs):
                executor.submit(job)

    return program


def submit_and_await_each(job: Any) -> Program:
    async def program(jobs: int) -> None:
        async with Executor(SLOTS) as executor:
            for future in [executor.submit(job) for _ in range(jobs)]:
                await future

    return program


def submit_and_gather(job: Any) -> Program:
    async def program(jobs: int) -> None:
        async with Executor(SLOTS) as executor:
            await gather(*[executor.submit(job) for _ in range(jobs)])

    return program


def map_to_list(job: Any, ordered: bool = True) -> Program:
    async def program(jobs: int) -> None:
        async with Executor(SLOTS) as executor:
            await executor.map(job, range(jobs), ordered=ordered)

    return program


def map_as_stream(job: Any) -> Program:
    async def program(jobs: int) -> None:
        async with Executor(SLOTS) as executor:
            async for _ in executor.map(job, range(jobs)):
                pass

    return program


def ten_lanes(job: Any) -> Program:
    async def program(jobs: int) -> None:
        async with Executor(SLOTS) as executor:
            lanes = [executor.lane(slots=SLOTS // 5) for _ in range(10)]
            for number in range(jobs):
                lanes[number % 10].submit(job)

    return program


def one_at_a_time(job: Any) -> Program:
    async def program(jobs: int) -> None:
        async with Executor(SLOTS) as executor:
            for _ in range(jobs):
                await executor.submit(job)

    return program


def submit_and_cancel(job: Any) -> Program:
    async def program(jobs: int) -> None:
        global done
        async with Executor(1) as executor:
            for _ in range(jobs):
                executor.submit(job)
            executor.cancel()
            done += executor.statistics().cancelled

    return program


def at_most(jobs_a_second: int) -> Rate:
    """A rate that nothing reaches: what it costs to count starts."""
    return Rate(jobs_a_second, per=1)


# The floor of the design: nothing can keep a plain job's promises in this way and take less.


class LeastFuture:
    """A job with a status, a result and callbacks."""

    __slots__ = ("args", "callbacks", "context", "fn", "status", "value")

    fn: Any
    args: tuple[Any, ...] | None
    context: Context | None
    status: str
    value: Any
    callbacks: list[Callable[[LeastFuture], object]] | None

    def settle(self, status: str) -> None:
        self.status = status
        self.fn = self.args = self.context = None
        if self.callbacks is not None:
            for callback in self.callbacks:
                callback(self)


ENDED = object()


class LeastExecutor:
    """Workers that drive jobs by hand, each in its own context, in the order of one queue.

    It has no lanes, counts, limits, cancellation or policy for errors; and its workers end as soon
    as the queue is empty.
    """

    def __init__(self) -> None:
        self.queue: deque[LeastFuture] = deque()

    def submit(self, fn: Any, *args: Any) -> LeastFuture:
        future = LeastFuture()
        future.fn = fn
        future.args = args
        future.context = copy_context()
        future.status = "queued"
        future.value = future.callbacks = None
        self.queue.append(future)
        return future

    async def work(self) -> None:
        await self.run_jobs()

    @coroutine
    def run_jobs(self) -> Generator[Any, Any, None]:
        queue = self.queue
        stepper = self.step_jobs()
        stepper.send(None)
        send = stepper.send
        while queue:
            future = queue.popleft()
            future.status = "running"
            context: Any = future.context
            value = context.run(send, future)
            while value is not ENDED:
                try:
                    value = yield value
                except BaseException as exc:
                    value = context.run(stepper.throw, exc)
                else:
                    value = context.run(send, value)

    @coroutine
    def step_jobs(self) -> Generator[Any, Any, None]:
        while True:
            future = yield ENDED
            try:
                future.value = yield from future.fn(*future.args)
            except Exception as exc:
                future.value = exc
                future.settle("failed")
            else:
                future.settle("succeeded")


def least(job: Any) -> Program:
    async def program(jobs: int) -> None:
        executor = LeastExecutor()
        async with anyio.create_task_group() as group:
            for _ in range(jobs):
                executor.submit(job)
            for _ in range(SLOTS):
                group.start_soon(executor.work)

    return program


# What else runs under asyncio.


async def asyncio_bare_tasks(jobs: int) -> None:
    async def work(numbers: Iterator[int]) -> None:
        for _ in numbers:
            await asyncio_job()

    numbers = iter(range(jobs))
    await asyncio.gather(*(work(numbers) for _ in range(SLOTS)))


async def asyncio_unlimited(jobs: int) -> None:
    await asyncio.gather(*[asyncio.create_task(asyncio_job()) for _ in range(jobs)])


async def asyncio_unlimited_instant(jobs: int) -> None:
    await asyncio.gather(*[asyncio.create_task(instant_job()) for _ in range(jobs)])


async def asyncio_semaphore_gather(jobs: int) -> None:
    semaphore = asyncio.Semaphore(SLOTS)

    async def limited() -> None:
        async with semaphore:
            await asyncio_job()

    await asyncio.gather(*[limited() for _ in range(jobs)])


async def asyncio_semaphore_task_group(jobs: int) -> None:
    semaphore = asyncio.Semaphore(SLOTS)

    async def limited() -> None:
        async with semaphore:
            await asyncio_job()

    async with asyncio.TaskGroup() as group:
        for _ in range(jobs):
            group.create_task(limited())


async def asyncio_one_at_a_time(jobs: int) -> None:
    for _ in range(jobs):
        await asyncio.create_task(asyncio_job())


class AsyncExecutor:
    """The program that anyslots grew from, as it worked: a list of what isn't launched yet."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._actions: list[tuple[Any, asyncio.Future[Any]]] = []

    def submit(self, action: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._actions.append((action, future))
        self._launch()
        return future

    def _launch(self) -> None:
        while self._free and self._actions:
            action, future = self._actions.pop(0)
            self._free -= 1
            asyncio.ensure_future(action()).add_done_callback(
                lambda task, future=future: self._end(task, future)
            )

    def _end(self, task: asyncio.Task[Any], future: asyncio.Future[Any]) -> None:
        self._free += 1
        future.set_result(task.result())
        self._launch()


async def original_program(jobs: int) -> None:
    executor = AsyncExecutor(SLOTS)
    await asyncio.gather(*[executor.submit(asyncio_job) for _ in range(jobs)])


async def aiojobs_scheduler(jobs: int) -> None:
    import aiojobs

    async with aiojobs.Scheduler(limit=SLOTS, pending_limit=0) as scheduler:
        spawned = [await scheduler.spawn(asyncio_job()) for _ in range(jobs)]
        for job in spawned:
            await job.wait()


# What else runs under trio.


async def trio_bare_tasks(jobs: int) -> None:
    async def work(numbers: Iterator[int]) -> None:
        for _ in numbers:
            await trio_job()

    numbers = iter(range(jobs))
    async with trio.open_nursery() as nursery:
        for _ in range(SLOTS):
            nursery.start_soon(work, numbers)


async def trio_unlimited(jobs: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(jobs):
            nursery.start_soon(trio_job)


async def trio_unlimited_instant(jobs: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(jobs):
            nursery.start_soon(instant_job)


async def trio_limiter(jobs: int) -> None:
    limiter = trio.CapacityLimiter(SLOTS)

    async def limited() -> None:
        async with limiter:
            await trio_job()

    async with trio.open_nursery() as nursery:
        for _ in range(jobs):
            nursery.start_soon(limited)


# What runs under both.


def anyio_limiter(job: Any) -> Program:
    async def program(jobs: int) -> None:
        limiter = anyio.CapacityLimiter(SLOTS)

        async def limited() -> None:
            async with limiter:
                await job()

        async with anyio.create_task_group() as group:
            for _ in range(jobs):
                group.start_soon(limited)

    return program


def anyio_amap(job: Any) -> Program:
    async def program(jobs: int) -> None:
        await anyio.amap(job, range(jobs))

    return program


def aiometer_run_all(job: Any) -> Program:
    async def program(jobs: int) -> None:
        import aiometer

        await aiometer.run_all([job] * jobs, max_at_once=SLOTS)

    return program


def anyio_executor_map(job: Any) -> Program:
    async def program(jobs: int) -> None:
        import anyio_executor

        async with anyio_executor.Executor(SLOTS) as executor:
            async for _ in executor.map(job, range(jobs)):
                pass

    return program


async def thread_pool(jobs: int) -> None:
    global done
    with ThreadPoolExecutor(SLOTS) as pool:
        for future in [pool.submit(plain_job) for _ in range(jobs)]:
            done += future.result()


# The smaller regimes: small runs, nested jobs, limits that are never reached.


def lanes_in_lanes(job: Any, depth: int) -> Program:
    async def program(jobs: int) -> None:
        async with Executor(SLOTS) as executor:
            lane: Any = executor
            for _ in range(depth):
                lane = lane.lane()
            for _ in range(jobs):
                lane.submit(job)

    return program


def small_runs(job: Any) -> Program:
    """A hundred jobs in a hundred slots, again and again, executor included."""

    async def program(jobs: int) -> None:
        for _ in range(jobs // 100):
            async with Executor(SLOTS) as executor:
                for _ in range(100):
                    executor.submit(job)

    return program


def small_task_groups(job: Any) -> Program:
    async def program(jobs: int) -> None:
        for _ in range(jobs // 100):
            async with anyio.create_task_group() as group:
                for _ in range(100):
                    group.start_soon(job)

    return program


def nested_pairs(job: Any) -> Program:
    """Half of the jobs wait for another one."""

    async def program(jobs: int) -> None:
        async with Executor(SLOTS) as executor:

            async def outer() -> None:
                await executor.submit(job)

            for _ in range(jobs // 2):
                executor.submit(outer)

    return program


def enqueue_each(job: Any) -> Program:
    async def program(jobs: int) -> None:
        async with Executor(SLOTS, max_pending=SLOTS) as executor:
            for _ in range(jobs):
                await executor.enqueue(job)

    return program


def acquire_then_spawn(job: Any) -> Program:
    async def program(jobs: int) -> None:
        limiter = anyio.Semaphore(SLOTS)

        async def run() -> None:
            try:
                await job()
            finally:
                limiter.release()

        async with anyio.create_task_group() as group:
            for _ in range(jobs):
                await limiter.acquire()
                group.start_soon(run)

    return program


async def asyncio_acquire_then_spawn(jobs: int) -> None:
    semaphore = asyncio.Semaphore(SLOTS)

    async def run() -> None:
        try:
            await asyncio_job()
        finally:
            semaphore.release()

    async with asyncio.TaskGroup() as group:
        for _ in range(jobs):
            await semaphore.acquire()
            group.create_task(run())


async def trio_acquire_then_spawn(jobs: int) -> None:
    semaphore = trio.Semaphore(SLOTS)

    async def run() -> None:
        try:
            await trio_job()
        finally:
            semaphore.release()

    async with trio.open_nursery() as nursery:
        for _ in range(jobs):
            await semaphore.acquire()
            nursery.start_soon(run)


async def slot_blocks(jobs: int) -> None:
    """One task after another occupies the slot itself; it's always free."""
    async with Executor(SLOTS) as executor:
        for _ in range(jobs):
            async with executor.slot():
                pass


async def semaphore_blocks(jobs: int) -> None:
    semaphore = asyncio.Semaphore(SLOTS)
    for _ in range(jobs):
        async with semaphore:
            pass


async def anyio_semaphore_blocks(jobs: int) -> None:
    semaphore = anyio.Semaphore(SLOTS)
    for _ in range(jobs):
        async with semaphore:
            pass


async def keyed_lanes(jobs: int) -> None:
    """A lane is made for each of many keys."""
    async with Executor(SLOTS) as executor:
        lanes = executor.keyed(slots=2, rate=Rate(1, per=1))
        for key in range(jobs):
            lanes[key]
