"""Under asyncio a running job is cancelled once, as `asyncio.Task.cancel` does, and shields hold.

What a job awaits while it cleans up isn't cancelled again, however it was cancelled and whatever it
was waiting for. On trio a cancel scope is what users expect.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from anyslots import Executor, Future, Lane, gather, lend_slot

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _asyncio_only(request: pytest.FixtureRequest) -> None:
    if request.getfixturevalue("loop_name") == "trio":
        pytest.skip("asyncio's own")


def this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


class Pool:
    """A connection pool as asyncio's users write them: to release a connection is to await."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.taken = 0
        self.released = 0
        # How often a task had been cancelled when a release was over.
        self.cancels: list[int] = []

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[None]:
        self.taken += 1
        try:
            yield
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            await anyio.lowlevel.checkpoint()
            self.cancels.append(this_task().cancelling())
            self.released += 1

    async def use(self) -> None:
        async with self.acquire():
            self.ready.set()
            await asyncio.sleep(3600)


async def use(pool: Pool) -> None:
    await pool.use()


async def use_in_task(pool: Pool) -> None:
    await asyncio.create_task(pool.use())


async def use_in_task_group(pool: Pool) -> None:
    async with pool.acquire(), asyncio.TaskGroup() as group:
        group.create_task(pool.use())
        group.create_task(pool.use())


async def use_in_body_of_task_group(pool: Pool) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(pool.use())
        await pool.use()


async def use_in_nested_task_groups(pool: Pool) -> None:
    async with pool.acquire(), asyncio.TaskGroup() as outer:
        outer.create_task(use_in_task_group(pool))


async def use_in_gather(pool: Pool) -> None:
    async with pool.acquire():
        await asyncio.gather(pool.use(), pool.use())


async def use_in_gather_of_exceptions(pool: Pool) -> None:
    async with pool.acquire():
        await asyncio.gather(pool.use(), pool.use(), return_exceptions=True)


async def use_in_wait_for(pool: Pool) -> None:
    async with pool.acquire():
        await asyncio.wait_for(pool.use(), 1000)


async def use_in_timeout(pool: Pool) -> None:
    async with asyncio.timeout(1000), pool.acquire(), asyncio.timeout(None):
        await pool.use()


async def use_in_anyio_group(pool: Pool) -> None:
    async with pool.acquire(), anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        pool.ready.set()


async def use_after_anyio_group(pool: Pool) -> None:
    async with pool.acquire():
        with anyio.fail_after(1000):
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                pool.ready.set()
                await anyio.sleep_forever()


async def use_in_move_on_after(pool: Pool) -> None:
    with anyio.move_on_after(1000) as scope:
        await pool.use()
    assert not scope.cancel_called


async def use_in_shield(pool: Pool) -> None:
    async with pool.acquire():
        with anyio.CancelScope(shield=True):
            pool.ready.set()
            await asyncio.sleep(0.02)
            assert this_task().cancelling() == 0
        await asyncio.sleep(3600)


async def use_in_shielded_thread(pool: Pool) -> None:
    loop, ready, run = asyncio.get_running_loop(), pool.ready, threading.Event()

    def in_thread() -> str:
        loop.call_soon_threadsafe(ready.set)
        run.wait(0.03)
        return "done"

    async with pool.acquire():
        assert await anyio.to_thread.run_sync(in_thread) == "done"
        await asyncio.sleep(3600)


async def use_with_asyncio_shield(pool: Pool) -> None:
    async with pool.acquire():
        inner = asyncio.ensure_future(asyncio.sleep(0.02))
        pool.ready.set()
        try:
            await asyncio.shield(inner)
            await asyncio.sleep(3600)
        finally:
            await inner


async def use_with_condition(pool: Pool) -> None:
    """`Condition.wait` takes its lock again whatever comes, and waits for that."""
    condition = asyncio.Condition()

    async def hold_the_lock() -> None:
        async with condition:
            pool.ready.set()
            await asyncio.sleep(0.02)

    async with pool.acquire():
        async with condition:
            holder = asyncio.create_task(hold_the_lock())
            await condition.wait()
        await holder


async def use_in_generator(pool: Pool) -> None:
    async def connections() -> AsyncIterator[int]:
        async with pool.acquire():
            yield 1
            await pool.use()

    async with contextlib.aclosing(connections()) as each:  # type: ignore[type-var]
        async for _ in each:
            pass


async def use_while_lending(pool: Pool) -> None:
    async with pool.acquire(), lend_slot():
        await pool.use()


SHAPES: list[Callable[[Pool], Awaitable[None]]] = [
    use,
    use_in_task,
    use_in_task_group,
    use_in_body_of_task_group,
    use_in_nested_task_groups,
    use_in_gather,
    use_in_gather_of_exceptions,
    use_in_wait_for,
    use_in_timeout,
    use_in_anyio_group,
    use_after_anyio_group,
    use_in_move_on_after,
    use_in_shield,
    use_in_shielded_thread,
    use_with_asyncio_shield,
    use_with_condition,
    use_in_generator,
    use_while_lending,
]


class Trial:
    """One executor with one job in a lane of its own, until the job is to end."""

    def __init__(self, shape: Callable[[Pool], Awaitable[None]], **options: Any) -> None:
        self.shape = shape
        self.pool = Pool()
        self.executor = Executor(2, **options)
        self.lane: Lane
        self.future: Future[None]

    async def begin(self, **options: Any) -> None:
        self.lane = self.executor.lane("lane", **options)
        self.future = self.lane.submit(self.shape, self.pool)
        await self.pool.ready.wait()

    def check(self) -> None:
        pool = self.pool
        assert self.future.done()
        assert pool.taken == pool.released
        assert max(pool.cancels, default=0) <= 1


async def by_future(trial: Trial) -> None:
    async with trial.executor:
        await trial.begin()
        trial.future.cancel()
        await trial.future.wait()
        assert trial.future.cancelled()
        trial.check()
        assert await trial.executor.submit(next_job) == 0


async def by_lane(trial: Trial) -> None:
    async with trial.executor:
        await trial.begin()
        trial.lane.cancel()
        await trial.future.wait()
        assert trial.future.cancelled()


async def by_executor(trial: Trial) -> None:
    async with trial.executor:
        await trial.begin()
        trial.executor.cancel()
        await trial.executor.join()
        assert trial.future.cancelled()


async def by_timeout(trial: Trial) -> None:
    async with trial.executor:
        await trial.begin(timeout=0.01)
        await trial.future.wait()
        assert isinstance(trial.future.exception(), TimeoutError)
        trial.check()
        assert await trial.executor.submit(next_job) == 0


async def by_shutdown(trial: Trial) -> None:
    async with trial.executor:
        await trial.begin()
        await trial.executor.shutdown(grace=0.001)
        assert trial.future.cancelled()


async def by_leaving(trial: Trial) -> None:
    with pytest.raises(ZeroDivisionError):
        async with trial.executor:
            await trial.begin()
            raise ZeroDivisionError
    assert trial.future.cancelled()


async def by_failure(trial: Trial) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    trial.executor = Executor(2, on_error="cancel")
    with pytest.raises(ExceptionGroup):
        async with trial.executor:
            await trial.begin()
            trial.executor.submit(fail)
    assert trial.future.cancelled()


async def by_job_itself(trial: Trial) -> None:
    """Another job cancels it, in a step of its own."""

    async def cancel() -> None:
        trial.future.cancel()

    async with trial.executor:
        await trial.begin()
        await trial.executor.submit(cancel)
        await trial.future.wait()
        assert trial.future.cancelled()


async def next_job() -> int:
    await asyncio.sleep(0)
    return this_task().cancelling()


WAYS = [
    by_future,
    by_lane,
    by_executor,
    by_timeout,
    by_shutdown,
    by_leaving,
    by_failure,
    by_job_itself,
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
async def test_what_a_job_awaits_while_it_unwinds_is_not_cancelled(
    shape: Callable[[Pool], Awaitable[None]], way: Callable[[Trial], Awaitable[None]]
) -> None:
    """Each connection is released, in whatever the job waits and however it's cancelled."""
    trial = Trial(shape)
    await way(trial)
    trial.check()
    assert trial.pool.taken >= 1


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_native_cancellation_is_no_different(
    shape: Callable[[Pool], Awaitable[None]],
) -> None:
    """`Task.cancel` is what the ways of an executor are compared with."""

    async def tell_task() -> None:
        tasks.append(this_task())
        await shape(trial.pool)

    tasks: list[asyncio.Task[Any]] = []
    trial = Trial(shape)
    async with trial.executor:
        trial.future = trial.executor.submit(tell_task)
        await trial.pool.ready.wait()
        await asyncio.sleep(0.05)  # out of shields, through which it would go
        tasks.pop().cancel()
        await trial.future.wait()
        assert trial.future.cancelled()
        trial.check()


@pytest.mark.parametrize("shape", [use_in_task_group, use_in_gather, use_in_wait_for, use])
async def test_no_time_is_burnt_while_a_job_unwinds(
    shape: Callable[[Pool], Awaitable[None]],
) -> None:
    """A job that takes half a second to clean up leaves the processor alone meanwhile."""

    class Slow(Pool):
        @contextlib.asynccontextmanager
        async def acquire(self) -> AsyncIterator[None]:
            try:
                yield
            finally:
                await asyncio.sleep(0.25)
                self.released += 1

    pool = Slow()
    async with Executor(1) as executor:
        future = executor.submit(shape, pool)
        await pool.ready.wait()
        began = time.process_time()
        future.cancel()
        await future.wait()
        assert time.process_time() - began < 0.1
    assert pool.released


async def test_another_cancel_cancels_again() -> None:
    """Each `cancel` ends one wait of a job that's slow to end."""
    steps: list[str] = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            try:
                steps.append("first")
                await asyncio.sleep(3600)
            finally:
                steps.append("second")
                await asyncio.sleep(0.01)
                steps.append("cleaned up")

    async with Executor(1) as executor:
        future = executor.submit(stubborn)
        await asyncio.sleep(0.01)
        future.cancel("once")
        await asyncio.sleep(0.01)
        assert steps == ["first"]
        future.cancel("twice")
        await future.wait()
        assert steps == ["first", "second", "cleaned up"]
        assert future.cancelled()


async def test_another_cancel_waits_for_shields_too() -> None:
    """A job in a shield meets the second cancellation after it."""
    steps: list[str] = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            with anyio.CancelScope(shield=True):
                steps.append("in shield")
                await asyncio.sleep(0.02)
                steps.append("after it")
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                steps.append("cancelled again")
                await asyncio.sleep(0.01)
                steps.append("cleaned up")
                raise

    async with Executor(1) as executor:
        future = executor.submit(stubborn)
        await asyncio.sleep(0.01)
        future.cancel()
        await asyncio.sleep(0.01)
        future.cancel()
        await future.wait()
        assert steps == ["in shield", "after it", "cancelled again", "cleaned up"]


async def test_two_cancels_at_once_are_one() -> None:
    """As with `Task.cancel`: what has not been noticed yet isn't doubled."""
    pool = Pool()
    async with Executor(1) as executor:
        future = executor.submit(use, pool)
        await pool.ready.wait()
        future.cancel()
        future.cancel()
        await future.wait()
        assert future.cancelled()
        assert pool.released == 1


@pytest.mark.parametrize("after", [0, 0.01, 0.05])
async def test_a_timeout_inside_a_shield_is_not_taken_for_the_cancellation(after: float) -> None:
    """An `asyncio.timeout` that fires in a shield comes and goes; the job is cancelled after it."""
    steps: list[str] = []

    async def work() -> None:
        with anyio.CancelScope(shield=True):
            ready.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    try:
                        await asyncio.sleep(3600)
                    finally:
                        await asyncio.sleep(0.05)
                        steps.append("timed out")
        try:
            await asyncio.sleep(0.3)
            steps.append("not cancelled")
        finally:
            await asyncio.sleep(0.01)
            steps.append("cleaned up")

    ready = asyncio.Event()
    async with Executor(1) as executor:
        future = executor.submit(work)
        await ready.wait()
        await asyncio.sleep(after)
        future.cancel()
        await future.wait()
        assert steps == ["timed out", "cleaned up"]
        assert future.cancelled()


@pytest.mark.parametrize("delay", [None, 0, 1, 2, 3])
async def test_a_scope_of_the_job_that_is_cancelled_at_the_same_time(delay: int | None) -> None:
    """The job's own scope ends with it; the job is cancelled once, and cleans up."""
    scopes: list[anyio.CancelScope] = []
    pool = Pool()

    async def work() -> None:
        async with pool.acquire():
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                pool.ready.set()
                await asyncio.sleep(3600)
            await asyncio.sleep(3600)

    async with Executor(1) as executor:
        future = executor.submit(work)
        await pool.ready.wait()
        if delay is None:
            future.cancel()
            scopes[0].cancel()
        else:
            scopes[0].cancel()
            for _ in range(delay):
                await asyncio.sleep(0)
            future.cancel()
        with anyio.fail_after(5):
            await future.wait()
        assert future.cancelled()
        assert pool.released == 1
        assert await executor.submit(next_job) == 0


async def test_a_job_cancelled_before_its_first_step() -> None:
    """It meets the cancellation at its first checkpoint, or never runs."""
    pool = Pool()
    async with Executor(1) as executor:
        for turns in range(6):
            future = executor.submit(use, pool)
            for _ in range(turns):
                await asyncio.sleep(0)
            future.cancel()
            await future.wait()
            assert future.cancelled()
        assert await executor.submit(next_job) == 0
    assert pool.taken == pool.released > 0


async def test_a_job_that_cancels_itself() -> None:
    """Its next checkpoint raises; what comes then doesn't."""
    pool = Pool()

    async def work() -> None:
        async with pool.acquire():
            own[0].cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(3600)

    own: list[Future[None]] = []
    async with Executor(1) as executor:
        own.append(executor.submit(work))
        await own[0].wait()
        assert own[0].cancelled()
        assert pool.released == 1


async def test_a_child_job_cancelled_with_its_parent() -> None:
    """A parent that waits for its child is cancelled once, with its slot lent."""
    pool = Pool()

    async def parent() -> None:
        async with pool.acquire():
            await gather(executor.submit(use, pool), executor.submit(use, pool))

    async with Executor(2) as executor:
        future = executor.submit(parent)
        await pool.ready.wait()
        executor.cancel()
        await executor.join()
        assert future.cancelled()
    assert pool.taken == pool.released == 3


async def test_a_job_in_its_timeout_stays_timed_out_if_cancelled() -> None:
    steps: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            unwinding.set()
            try:
                await asyncio.sleep(3600)
            finally:
                steps.append("again")

    unwinding = asyncio.Event()
    async with Executor(1, timeout=0.01) as executor:
        future = executor.submit(slow)
        await unwinding.wait()
        future.cancel()
        await future.wait()
        assert isinstance(future.exception(), TimeoutError)
        assert steps == ["again"]


async def test_a_scope_around_the_executor_cancels_its_jobs() -> None:
    """However long the jobs take, in shields, to unwind; the scope catches its cancellation."""

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.01)
                unwound.append(1)

    unwound: list[int] = []
    with anyio.CancelScope() as scope:
        async with Executor(2) as executor:
            futures = [executor.submit(work) for _ in range(5)]
            await asyncio.sleep(0.01)
            scope.cancel()
            await asyncio.sleep(3600)
    assert scope.cancelled_caught
    assert unwound == [1, 1]
    assert all(future.cancelled() for future in futures)


async def test_a_wait_for_in_a_job_times_out_as_ever() -> None:
    """What times out inside a job that isn't cancelled is none of the executor's."""

    async def work() -> str:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(3600), 0.01)
        async with asyncio.timeout(None) as timeout:
            timeout.reschedule(asyncio.get_running_loop().time())
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                assert this_task().cancelling() == 1
                raise
        return "never"

    async with Executor(1) as executor:
        future = executor.submit(work)
        await future.wait()
        assert isinstance(future.exception(), TimeoutError)
        assert await executor.submit(next_job) == 0
