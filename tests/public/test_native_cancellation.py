"""`asyncio.Task.cancel`, which no scope knows of: it hits a job, a worker, or the block's host.

Native cancellations come once, and are counted; here it's seen to that each reaches whom it was
meant for, and nobody else.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest
from jobs import all_slots_work
from runners import RUNNERS

from anyslots import Executor, Future, JobCancelled, gather

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _asyncio_only(request: pytest.FixtureRequest):
    if "anyio_backend" in request.fixturenames and request.getfixturevalue("loop_name") == "trio":
        pytest.skip("asyncio's own")


class Exposed:
    """A job that tells in which task it runs, and waits to be released."""

    def __init__(self, result: object = "released") -> None:
        self.begun = asyncio.Event()
        self.release = asyncio.Event()
        self.result = result
        self.task: asyncio.Task[Any]
        self.cancelled = 0

    async def __call__(self) -> object:
        self.task = this_task()
        self.begun.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.result


def this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def unharmed() -> str:
    """A job that would notice a cancellation meant for another, pending or delivered."""
    assert this_task().cancelling() == 0
    await ticks(3)
    async with asyncio.timeout(3600):
        await ticks(1)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await ticks(1)
    assert scope.cancelled_caught
    assert this_task().cancelling() == 0
    return "unharmed"


async def instant() -> None:
    pass


# A job that is cancelled natively.


async def cancels_its_task():
    this_task().cancel()
    await asyncio.sleep(0)
    pytest.fail("not cancelled")


async def cancels_its_task_twice():
    this_task().cancel()
    this_task().cancel()
    await asyncio.sleep(3600)


async def cancels_its_task_again_as_it_unwinds():
    this_task().cancel()
    try:
        await asyncio.sleep(3600)
    finally:
        this_task().cancel()
        await asyncio.sleep(3600)


async def raises_cancelled_error():
    raise asyncio.CancelledError


async def raises_cancelled_error_later():
    await ticks(2)
    raise asyncio.CancelledError("by myself")


async def awaits_a_cancelled_future():
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def awaits_a_cancelled_task():
    task = asyncio.create_task(asyncio.sleep(3600))
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


def is_a_cancelled_task() -> asyncio.Task[None]:
    task = asyncio.create_task(asyncio.sleep(3600))
    task.cancel()
    return task


def is_a_cancelled_future() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    return future


async def is_cancelled_in_a_task_group():
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        this_task().cancel()
        await anyio.sleep_forever()


async def is_cancelled_in_asyncios_task_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(3600))
        this_task().cancel()
        await asyncio.sleep(3600)


async def is_cancelled_in_a_timeout():
    async with asyncio.timeout(3600):
        this_task().cancel()
        await asyncio.sleep(3600)


async def is_cancelled_in_an_executor():
    async with Executor(1) as executor:
        executor.submit(asyncio.sleep, 3600)
        this_task().cancel()
        await asyncio.sleep(3600)


async def is_cancelled_in_a_cancelled_scope():
    with anyio.CancelScope() as scope:
        scope.cancel()
        this_task().cancel()
        await asyncio.sleep(3600)
    await asyncio.sleep(3600)


SELF_CANCELLING = [
    cancels_its_task,
    cancels_its_task_twice,
    cancels_its_task_again_as_it_unwinds,
    raises_cancelled_error,
    raises_cancelled_error_later,
    awaits_a_cancelled_future,
    awaits_a_cancelled_task,
    is_a_cancelled_task,
    is_a_cancelled_future,
    is_cancelled_in_a_task_group,
    is_cancelled_in_asyncios_task_group,
    is_cancelled_in_a_timeout,
    is_cancelled_in_an_executor,
    is_cancelled_in_a_cancelled_scope,
]


@pytest.mark.parametrize("job", SELF_CANCELLING)
async def test_a_job_that_is_cancelled_from_inside_is_cancelled_alone(
    job: Callable[[], Awaitable[object]],
):
    """Its future is cancelled, never pending or None; siblings and later jobs aren't touched."""
    async with Executor(2) as executor:
        sibling = Exposed()
        beside = executor.submit(sibling)
        for _ in range(3):
            future = executor.submit(job)
            following = [executor.submit(unharmed) for _ in range(2)]
            with pytest.raises(JobCancelled):
                await future
            assert future.cancelled()
            assert await gather(*following) == ["unharmed"] * 2
        assert beside.running()
        sibling.release.set()
        assert await beside == "released"
        assert executor.statistics().cancelled == 3
        await all_slots_work(executor)


async def cancels_its_task_and_returns():
    this_task().cancel()
    return "done"


async def cancels_its_task_late_and_returns():
    await ticks(2)
    this_task().cancel()
    return "done"


async def cancels_its_task_and_catches():
    this_task().cancel()
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        return "done"


async def cancels_its_task_and_undoes_it():
    this_task().cancel()
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        this_task().uncancel()
    return "done"


async def times_out():
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(3600)
    except TimeoutError:
        return "done"


@pytest.mark.parametrize(
    "job",
    [
        cancels_its_task_and_returns,
        cancels_its_task_late_and_returns,
        cancels_its_task_and_catches,
        cancels_its_task_and_undoes_it,
        times_out,
    ],
)
async def test_a_job_that_returns_though_its_task_was_cancelled_has_succeeded(
    job: Callable[[], Awaitable[object]],
):
    """The cancellation that it left behind, delivered or not, reaches no other job."""
    async with Executor(1) as executor:
        for _ in range(3):
            future = executor.submit(job)
            following = [executor.submit(unharmed) for _ in range(3)]
            assert await future == "done"
            assert await gather(*following) == ["unharmed"] * 3
        await all_slots_work(executor)


async def cancels_its_task_and_fails():
    this_task().cancel()
    raise ValueError("mine")


async def fails_when_cancelled():
    this_task().cancel()
    try:
        await asyncio.sleep(3600)
    finally:
        raise ValueError("mine")


@pytest.mark.parametrize("job", [cancels_its_task_and_fails, fails_when_cancelled])
async def test_a_job_that_fails_though_its_task_was_cancelled_has_failed(
    job: Callable[[], Awaitable[object]],
):
    """Its error is its outcome, and the next job runs like new."""
    async with Executor(1) as executor:
        for _ in range(2):
            future = executor.submit(job)
            following = [executor.submit(unharmed) for _ in range(2)]
            with pytest.raises(ValueError, match="mine"):
                await future
            assert await gather(*following) == ["unharmed"] * 2
        await all_slots_work(executor)


async def test_a_callback_that_cancels_the_current_task_harms_no_job():
    """A done callback runs in the worker's task: cancelling that one reaches no later job."""
    async with Executor(1) as executor:
        for job in (instant, unharmed, cancels_its_task):
            future = executor.submit(job)
            future.add_done_callback(lambda _: this_task().cancel())
            following = [executor.submit(unharmed) for _ in range(3)]
            await future.wait()
            assert await gather(*following) == ["unharmed"] * 3
        await all_slots_work(executor)


# A cancellation from outside: some library cancels all tasks it can find.


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_worker_cancelled_from_outside_loses_its_running_job_alone(times: int):
    """The job ends as cancelled, once; the next job of that slot and the others are unharmed."""
    async with Executor(2) as executor:
        jobs = [Exposed(), Exposed()]
        futures = [executor.submit(job) for job in jobs]
        following = [executor.submit(unharmed) for _ in range(4)]
        for job in jobs:
            await job.begun.wait()
        for _ in range(times):
            jobs[0].task.cancel()
        with pytest.raises(JobCancelled):
            await futures[0]
        assert await gather(*following) == ["unharmed"] * 4
        assert jobs[0].cancelled == 1
        assert futures[1].running()
        jobs[1].release.set()
        assert await futures[1] == "released"
        await all_slots_work(executor)


async def test_a_native_cancellation_has_no_reason():
    """The reason that the job before it was cancelled for isn't that of a job hit natively."""
    async with Executor(1) as executor:
        first, second = Exposed(), Exposed()
        futures = [executor.submit(first), executor.submit(second)]
        await first.begun.wait()
        futures[0].cancel("enough")
        await second.begun.wait()
        second.task.cancel()
        with pytest.raises(JobCancelled, match="enough"):
            await futures[0]
        with pytest.raises(JobCancelled) as info:
            await futures[1]
        assert "enough" not in str(info.value)


@pytest.mark.parametrize("again", range(1, 9))
async def test_a_worker_cancelled_twice_starts_the_next_job_like_new(again: int):
    """The second cancellation, some ticks after the first, is for whom it meets, and ends there."""
    async with Executor(1) as executor:
        job = Exposed()
        future = executor.submit(job)
        following = [executor.submit(unharmed) for _ in range(4)]
        await job.begun.wait()
        job.task.cancel()
        await ticks(again)
        job.task.cancel()
        await executor.join()
        assert future.cancelled()
        # The second may have met the job that was running then, which is nobody's mistake;
        # in `unharmed` a job checks that it isn't told of what met another.
        outcomes = [f.cancelled() or f.result() for f in following]
        assert outcomes.count(True) <= 1
        assert set(outcomes) <= {True, "unharmed"}
        await all_slots_work(executor)


@pytest.mark.parametrize("first", ["release", "cancel"])
@pytest.mark.parametrize("delay", range(6))
async def test_a_worker_cancelled_as_its_job_ends_loses_nothing(first: str, delay: int):
    """Cancelled in or next to the tick of the end: at most one job is hit, and only once."""
    async with Executor(1) as executor:
        for _ in range(3):
            job = Exposed()
            future = executor.submit(job)
            following = [executor.submit(unharmed) for _ in range(3)]
            await job.begun.wait()
            if first == "release":
                job.release.set()
                await ticks(delay)
                job.task.cancel()
            else:
                job.task.cancel()
                await ticks(delay)
                job.release.set()
            await executor.join()
            futures = [future, *following]
            assert sum(f.cancelled() for f in futures) <= 1
            assert {f.result() for f in futures if not f.cancelled()} <= {"released", "unharmed"}
        await all_slots_work(executor)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("delay", range(4))
async def test_a_resting_worker_that_is_cancelled_goes_on(times: int, delay: int):
    """An idle worker that some library cancels takes the next job as if nothing had happened."""
    async with Executor(2) as executor:
        job = Exposed()
        future = executor.submit(job)
        await job.begun.wait()
        job.release.set()
        await future
        await ticks(delay)
        for _ in range(times):
            job.task.cancel()
        await ticks(delay)
        futures = [executor.submit(unharmed) for _ in range(5)]
        assert await gather(*futures) == ["unharmed"] * 5
        await all_slots_work(executor)


@pytest.mark.parametrize("which", range(4))
async def test_a_worker_cancelled_as_it_is_woken_leaves_the_job_to_another(which: int):
    """It ends, since something refers to its task; the others must not sleep on."""
    async with Executor(3) as executor:
        await gather(*(executor.submit(ticks, 2) for _ in range(3)))
        await ticks(5)
        tasks = [worker.task for worker in executor._runtime.pool.workers]
        future = executor.submit(unharmed)
        tasks[which].cancel()
        with anyio.fail_after(5):
            assert await future == "unharmed"


@pytest.mark.parametrize("delay", range(5))
async def test_all_workers_cancelled_while_jobs_are_handed_to_them_start_every_job(delay: int):
    """Workers hit between the submission and the first step: every job runs all the same."""
    async with Executor(3) as executor:
        first = [Exposed() for _ in range(3)]
        futures = [executor.submit(job) for job in first]
        for job in first:
            await job.begun.wait()
            job.release.set()
        await gather(*futures)
        await ticks(5)
        for _ in range(4):
            futures = [executor.submit(unharmed) for _ in range(6)]
            await ticks(delay)
            idle = [job.task for job in first]
            running = executor.statistics().running
            for task in idle:
                task.cancel()
            await executor.join()
            assert sum(future.cancelled() for future in futures) <= running
            for future in futures:
                assert future.cancelled() or future.result() == "unharmed"
        await all_slots_work(executor)


@pytest.mark.parametrize("delay", range(4))
async def test_a_worker_cancelled_between_two_instant_jobs_starts_the_next(delay: int):
    """A worker that holds a grant and is cancelled before it starts the job keeps the grant."""
    async with Executor(1) as executor:
        worker: list[asyncio.Task[Any]] = []

        async def exposed():
            worker.append(this_task())

        await executor.submit(exposed)
        for _ in range(3):
            futures = [executor.submit(fn) for fn in (instant, unharmed, instant, unharmed)]
            await ticks(delay)
            worker[0].cancel()
            await executor.join()
            assert sum(future.cancelled() for future in futures) <= 1
            assert all(future.done() for future in futures)
        await all_slots_work(executor)


async def test_cancelling_every_task_but_ones_own_cancels_the_running_jobs_alone():
    async with Executor(3) as executor:
        running = [Exposed() for _ in range(3)]
        futures = [executor.submit(job) for job in running]
        queued = [executor.submit(unharmed) for _ in range(6)]
        for job in running:
            await job.begun.wait()
        workers = {job.task for job in running}
        for task in asyncio.all_tasks():
            if task in workers or "anyslots" in task.get_name():
                task.cancel()
        assert await gather(*queued) == ["unharmed"] * 6
        assert all(future.cancelled() for future in futures)
        await all_slots_work(executor)


@pytest.mark.parametrize("order", ["future first", "task first"])
@pytest.mark.parametrize("delay", range(4))
async def test_a_job_cancelled_both_ways_at_once_ends_once(order: str, delay: int):
    """`Future.cancel` and `Task.cancel` together: the job is cancelled, the next is unharmed."""
    async with Executor(1) as executor:
        for _ in range(2):
            job = Exposed()
            future = executor.submit(job)
            following = [executor.submit(unharmed) for _ in range(3)]
            await job.begun.wait()
            if order == "future first":
                future.cancel()
                await ticks(delay)
                job.task.cancel()
            else:
                job.task.cancel()
                await ticks(delay)
                future.cancel()
            await executor.join()
            assert future.cancelled()
            assert sum(f.cancelled() for f in following) <= (1 if delay else 0)
            assert {f.result() for f in following if not f.cancelled()} == {"unharmed"}
        await all_slots_work(executor)


async def test_a_job_natively_cancelled_while_it_unwinds_ends_cancelled():
    """A job in its shielded cleanup is cancelled by a library, too: it ends, its slot is free."""
    unwinding = asyncio.Event()

    async def job():
        try:
            await asyncio.sleep(3600)
        finally:
            with anyio.CancelScope(shield=True):
                tasks.append(this_task())
                unwinding.set()
                await asyncio.sleep(3600)

    tasks: list[asyncio.Task[Any]] = []
    async with Executor(1) as executor:
        future = executor.submit(job)
        following = executor.submit(unharmed)
        await ticks(4)
        future.cancel("first")
        await unwinding.wait()
        tasks[0].cancel()
        assert await following == "unharmed"
        assert future.cancelled()
        await all_slots_work(executor)


# What anyio makes of a task that is cancelled before it began:
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("submit_first", [False, True])
@pytest.mark.parametrize("delay", range(3))
async def test_workers_cancelled_before_their_first_step_end_nothing_in_silence(
    submit_first: bool, delay: int
):
    """A worker's task may be cancelled before it began: jobs run all the same, or the host learns.

    What can't be is a block that ends early as if all were well, or one that hangs.
    """
    futures: list[Future[Any]] = []
    ended = []

    async def job():
        await ticks(2)
        return "result"

    async def host():
        async with Executor(2) as executor:
            if submit_first:
                futures.extend(executor.submit(job) for _ in range(4))
            ready.set()
            await ticks(10)
            futures.extend(executor.submit(job) for _ in range(4))
            for future in futures:
                await future.wait()
            ended.append("body")
        ended.append("block")

    ready = asyncio.Event()
    task = asyncio.create_task(host())
    await ready.wait()
    await ticks(delay)
    for other in asyncio.all_tasks() - {task, this_task()}:
        if "anyslots worker" in other.get_name():
            other.cancel()
    done, _ = await asyncio.wait([task], timeout=1)
    gc.collect()
    if not done:
        task.cancel()
        await asyncio.wait([task])
        pytest.fail("the block hangs")
    assert all(future.done() for future in futures)
    assert ended in ([], ["body", "block"])
    if ended:
        # All but those that ran in one of the two slots when their task was cancelled.
        assert sum(not future.cancelled() for future in futures) >= len(futures) - 2
    else:
        assert task.cancelled() or task.exception()


# The task that has entered the block.


class Trial:
    """An executor for a host that's cancelled, and jobs that tell how they end."""

    def __init__(self, **options: Any) -> None:
        self.executor = Executor(2, **options)
        self.ready = asyncio.Event()
        self.unwinding = asyncio.Event()
        self.release = asyncio.Event()
        self.futures: list[Future[Any]] = []
        self.unwound = 0
        self.after: list[str] = []

    async def job(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            self.unwinding.set()
            with anyio.CancelScope(shield=True):
                await self.release.wait()
            self.unwound += 1

    def fill(self) -> None:
        self.futures += [self.executor.submit(self.job) for _ in range(5)]

    async def both_running(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        assert [future.running() for future in self.futures] == [True] * 2 + [False] * 3

    def check(self) -> None:
        assert all(future.done() for future in self.futures)
        counts = self.executor.statistics()
        assert (counts.queued, counts.running) == (0, 0)
        assert counts.submitted == counts.succeeded + counts.failed + counts.cancelled
        assert self.unwound == sum(future.slot is not None for future in self.futures)


async def ends_cancelled(task: asyncio.Task[Any]) -> None:
    """The task ends cancelled within some ticks, by a cancellation it was sent long ago."""
    for _ in range(30):
        await asyncio.sleep(0)
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
        pytest.fail("the cancellation was lost: the task went on")
    assert task.cancelled(), task.exception()


async def test_a_host_cancelled_in_its_body_cancels_the_jobs_and_ends_cancelled():
    """The block waits for all unwinding, then the cancellation goes on."""
    trial = Trial()

    async def host():
        async with trial.executor:
            trial.fill()
            trial.ready.set()
            await asyncio.sleep(3600)
        trial.after.append("not cancelled")

    task = asyncio.create_task(host())
    await trial.ready.wait()
    await trial.both_running()
    task.cancel()
    await trial.unwinding.wait()
    await ticks(5)
    assert not task.done()
    trial.release.set()
    await ends_cancelled(task)
    assert trial.after == []
    assert all(future.cancelled() for future in trial.futures)
    trial.check()


@pytest.mark.parametrize("delay", range(4))
async def test_a_host_cancelled_while_it_leaves_cancels_the_jobs_and_ends_cancelled(delay: int):
    """Waiting at the end of the block for its jobs is where most hosts are met."""
    trial = Trial()

    async def host():
        async with trial.executor:
            trial.fill()
            await trial.both_running()
            trial.ready.set()
        trial.after.append("not cancelled")

    task = asyncio.create_task(host())
    await trial.ready.wait()
    await ticks(delay)
    task.cancel()
    await trial.unwinding.wait()
    trial.release.set()
    await ends_cancelled(task)
    assert trial.after == []
    assert all(future.cancelled() for future in trial.futures)
    trial.check()


@pytest.mark.parametrize("delay", range(6))
async def test_a_host_cancelled_as_its_last_job_ends_ends_cancelled(delay: int):
    """In the ticks in which the block is about to end by itself: done, or cancelled, never both."""
    outcomes = set()
    for last in range(2):
        executor = Executor(1)
        job = Exposed()

        async def host(executor: Executor = executor, job: Exposed = job):
            async with executor:
                executor.submit(job)
            await asyncio.sleep(0)
            return "not cancelled"

        task = asyncio.create_task(host())
        await job.begun.wait()
        if last:
            job.release.set()
            await ticks(delay)
            task.cancel()
        else:
            task.cancel()
            await ticks(delay)
            job.release.set()
        was_done = task.done()
        await asyncio.wait([task])
        outcomes.add(task.cancelled())
        assert task.cancelled() or was_done or delay > 3
        assert executor.statistics().running == 0
    assert True in outcomes


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_host_cancelled_while_its_jobs_unwind_still_waits_and_ends_cancelled(times: int):
    trial = Trial()

    async def host():
        async with trial.executor:
            trial.fill()
            await trial.both_running()
            trial.ready.set()
            await asyncio.sleep(3600)
        trial.after.append("not cancelled")

    task = asyncio.create_task(host())
    await trial.ready.wait()
    task.cancel()
    await trial.unwinding.wait()
    for _ in range(times):
        task.cancel()
        await ticks(3)
        assert not task.done()
        assert trial.unwound == 0
    trial.release.set()
    await ends_cancelled(task)
    trial.check()


@pytest.mark.parametrize("delay", range(5))
async def test_a_host_cancelled_while_the_block_unwinds_from_an_error_learns_of_it(delay: int):
    """The body raises, and a cancellation comes while jobs unwind: both reach the host.

    The error leaves the block as it is; the cancellation comes at the host's next checkpoint.
    """
    trial = Trial()

    async def host():
        with pytest.raises(ValueError, match="body"):
            async with trial.executor:
                trial.fill()
                await trial.both_running()
                raise ValueError("body")
        trial.after.append("error")
        await asyncio.sleep(3600)

    task = asyncio.create_task(host())
    await trial.unwinding.wait()
    await ticks(delay)
    assert not task.done()
    task.cancel()
    await ticks(3)
    assert not task.done()
    trial.release.set()
    await ends_cancelled(task)
    assert trial.after in ([], ["error"])
    trial.check()


@pytest.mark.parametrize("delay", range(6))
@pytest.mark.parametrize("first", ["job fails", "host is cancelled"])
async def test_a_host_cancelled_as_an_error_cancels_everything_learns_of_it(first: str, delay: int):
    """``on_error="cancel"`` fires around the tick of a cancellation of the host: both arrive."""
    fail = asyncio.Event()

    async def failing():
        await fail.wait()
        raise ValueError("job")

    outcomes = set()
    for where in ("body", "leaving"):
        trial = Trial(on_error="cancel")
        trial.release.set()
        fail.clear()

        async def host(trial: Trial = trial, where: str = where):
            try:
                async with trial.executor:
                    trial.executor.submit(failing)
                    trial.fill()
                    await ticks(5)
                    trial.ready.set()
                    if where == "body":
                        await asyncio.sleep(3600)
            except ExceptionGroup as group:
                trial.after.append(", ".join(str(error) for error in group.exceptions))
                await asyncio.sleep(3600)

        task = asyncio.create_task(host())
        await trial.ready.wait()
        await ticks(2)
        if first == "job fails":
            fail.set()
            await ticks(delay)
            task.cancel()
        else:
            task.cancel()
            await ticks(delay)
            fail.set()
        await ends_cancelled(task)
        outcomes.update(trial.after or ["cancelled"])
        trial.check()
    assert outcomes
    if first == "job fails" and delay:
        assert outcomes == {"job"}


@pytest.mark.parametrize("delay", range(4))
async def test_a_host_cancelled_as_a_scope_around_is_cancelled_learns_of_it(delay: int):
    """A scope around the block swallows its own cancellation, not the native one beside it."""
    for scope_first in (True, False):
        trial = Trial()
        trial.release.set()
        scope = anyio.CancelScope()

        async def host(trial: Trial = trial, scope: anyio.CancelScope = scope):
            with scope:
                async with trial.executor:
                    trial.fill()
                    await trial.both_running()
                    trial.ready.set()
                    await asyncio.sleep(3600)
            await asyncio.sleep(3600)

        task = asyncio.create_task(host())
        await trial.ready.wait()
        await ticks(1)
        if scope_first:
            scope.cancel()
            await ticks(delay)
            task.cancel()
        else:
            task.cancel()
            await ticks(delay)
            scope.cancel()
        await ends_cancelled(task)
        trial.check()


@pytest.mark.parametrize("on_error", ["hold", "cancel"])
async def test_a_block_in_the_cleanup_of_a_cancelled_task_is_not_cancelled_by_it(on_error: Any):
    """A task that was cancelled may use an executor as it unwinds: one cancellation comes once."""
    reached = []

    async def failing():
        await ticks(2)
        raise ValueError("job")

    async def host():
        try:
            await asyncio.sleep(3600)
        finally:
            assert this_task().cancelling() == 1
            with pytest.raises(ExceptionGroup):
                async with Executor(2, on_error=on_error) as executor:
                    executor.submit(failing)
                    executor.submit(ticks, 5)
            with pytest.raises(ValueError, match="body"):
                async with Executor(2, on_error=on_error) as executor:
                    executor.submit(asyncio.sleep, 3600)
                    await ticks(3)
                    raise ValueError("body")
            await ticks(3)
            reached.append("end of cleanup")

    task = asyncio.create_task(host())
    await ticks(2)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert reached == ["end of cleanup"]


@pytest.mark.parametrize("delay", range(4))
async def test_a_cancelled_waiter_ends_cancelled(delay: int):
    """Every wait of a task that's cancelled natively ends so, and leaves the job alone."""
    async with Executor(1) as executor:
        job = Exposed()
        future = executor.submit(job)
        await job.begun.wait()

        async def await_it():
            await future

        waits = [
            await_it(),
            future.wait(),
            gather(future),
            gather(future, return_exceptions=True),
            executor.join(),
        ]
        tasks = [asyncio.create_task(wait) for wait in waits]
        await ticks(delay)
        for task in tasks:
            task.cancel()
        await ticks(3)
        assert all(task.cancelled() for task in tasks)
        assert future.running()
        job.release.set()
        assert await future == "released"
        await all_slots_work(executor)


@pytest.mark.parametrize("delay", range(5))
async def test_a_waiter_cancelled_as_the_job_ends_has_the_result_or_is_cancelled(delay: int):
    """No waiter is left waiting, and none that was cancelled goes on as if it wasn't."""
    async with Executor(1) as executor:
        for cancel_first in (True, False):
            job = Exposed()
            future = executor.submit(job)
            await job.begun.wait()

            async def await_it(future: Future[Any] = future):
                result = await future
                await asyncio.sleep(0)
                return result

            tasks = [asyncio.create_task(await_it()) for _ in range(3)]
            tasks += [asyncio.create_task(gather(future)) for _ in range(3)]
            await ticks(3)
            if cancel_first:
                tasks[0].cancel()
                tasks[3].cancel()
                await ticks(delay)
                job.release.set()
            else:
                job.release.set()
                await ticks(delay)
                done_before = tasks[0].done(), tasks[3].done()
                tasks[0].cancel()
                tasks[3].cancel()
            await asyncio.wait(tasks)
            if cancel_first:
                assert (tasks[0].cancelled(), tasks[3].cancelled()) == (True, True)
            else:
                assert (not tasks[0].cancelled(), not tasks[3].cancelled()) == done_before
            others = [task.result() for task in (*tasks[1:3], *tasks[4:])]
            assert others == ["released", "released", ["released"], ["released"]]


@pytest.mark.parametrize("times", [1, 2])
async def test_a_shutdown_cancelled_natively_cancels_the_jobs_and_ends_cancelled(times: int):
    """The waiter of `shutdown` is cancelled: the grace is over, and the cancellation goes on."""
    trial = Trial()
    async with trial.executor:
        trial.fill()
        await trial.both_running()
        task = asyncio.create_task(trial.executor.shutdown(grace=3600))
        await ticks(3)
        for _ in range(times):
            task.cancel()
        await trial.unwinding.wait()
        await ticks(3)
        assert not task.done()
        trial.release.set()
        await ends_cancelled(task)
        assert all(future.cancelled() for future in trial.futures)
    trial.check()


# asyncio's own tools around blocks and futures.


@pytest.mark.parametrize("where", ["body", "leaving"])
async def test_a_timeout_of_asyncio_around_the_block_ends_it(where: str):
    """`asyncio.timeout` cancels the jobs, waits until they have unwound, and raises."""
    trial = Trial()
    trial.release.set()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as timeout, trial.executor:
            trial.fill()
            await trial.both_running()
            timeout.reschedule(0)
            if where == "body":
                await asyncio.sleep(3600)
    assert all(future.cancelled() for future in trial.futures)
    trial.check()
    assert this_task().cancelling() == 0
    await ticks(3)


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="before, `uncancel` left a pending cancellation pending"
)
async def test_a_timeout_of_asyncio_around_failed_jobs_leaves_no_cancellation_behind():
    """The block raises an error instead of the cancellation that the timeout sent: it's spent."""

    async def failing():
        raise ValueError("job")

    async def host():
        with pytest.raises(ExceptionGroup) as info:
            async with asyncio.timeout(None) as timeout, Executor(2) as executor:
                await executor.submit(failing).wait()
                timeout.reschedule(0)
                await asyncio.sleep(3600)
        assert [str(error) for error in info.value.exceptions] == ["job"]
        assert timeout.expired()
        assert this_task().cancelling() == 0
        await ticks(3)
        return "went on"

    assert await asyncio.create_task(host()) == "went on"


async def test_a_task_group_of_asyncio_around_blocks_ends_them_when_one_task_fails():
    """Two blocks in one `asyncio.TaskGroup`: the failure of one cancels the other's jobs."""
    trial = Trial()
    trial.release.set()

    async def host():
        async with trial.executor:
            trial.fill()

    async def failing():
        await trial.both_running()
        raise ValueError("task")

    with pytest.raises(ExceptionGroup) as info:
        async with asyncio.TaskGroup() as group:
            group.create_task(host())
            await ticks(1)
            group.create_task(failing())
    assert [str(error) for error in info.value.exceptions] == ["task"]
    assert all(future.cancelled() for future in trial.futures)
    trial.check()


async def test_wait_for_stops_waiting_and_leaves_the_job_alone():
    """`asyncio.wait_for` on a future: a timeout ends the wait, not the job."""
    async with Executor(1) as executor:
        job = Exposed()
        future = executor.submit(job)
        await job.begun.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.001)
        assert future.running()
        task = asyncio.create_task(asyncio.wait_for(future, 3600))
        await ticks(3)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert future.running()
        job.release.set()
        assert await asyncio.wait_for(future, 3600) == "released"


async def test_shield_and_asyncios_gather_serve_our_futures():
    async def await_shielded():
        await asyncio.shield(future)

    async with Executor(2) as executor:
        job = Exposed()
        future = executor.submit(job)
        other = executor.submit(unharmed)
        shielded = asyncio.create_task(await_shielded())
        gathering = asyncio.gather(future, other)
        await job.begun.wait()
        shielded.cancel()
        gathering.cancel()
        for waiting in (shielded, gathering):
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert future.running()
        job.release.set()
        assert await asyncio.gather(future, other) == ["released", "unharmed"]
        tasks = [asyncio.ensure_future(f) for f in (future, other)]
        done, pending = await asyncio.wait(tasks)
        assert not pending
        assert {task.result() for task in done} == {"released", "unharmed"}


async def test_cancelling_a_job_cancels_the_asyncio_task_that_it_awaits():
    for with_task in (lambda task: task, lambda task: asyncio.wait_for(task, 3600)):
        async with Executor(1) as executor:
            task = asyncio.create_task(asyncio.sleep(3600))
            future = executor.submit(with_task, task)
            following = executor.submit(unharmed)
            await ticks(4)
            future.cancel()
            assert await following == "unharmed"
            assert task.cancelled()
            assert future.cancelled()


# The end of the program.


# What anyio makes of a task that is cancelled before it began:
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("run", RUNNERS.values(), ids=RUNNERS)
@pytest.mark.parametrize("delay", [0, 1, 5])
def test_a_program_that_ends_with_an_executor_in_some_task_leaves_nothing_behind(
    run: Callable[[Coroutine[Any, Any, None]], None], delay: int, caplog: pytest.LogCaptureFixture
):
    """The main coroutine returns while a block is open: its jobs are cancelled and unwind."""
    ends: list[str] = []
    futures: list[Future[Any]] = []
    tasks: list[asyncio.Task[Any]] = []

    async def job():
        ends.append("begun")
        try:
            await asyncio.sleep(3600)
        finally:
            ends.append("unwound")

    async def host():
        async with Executor(3) as executor:
            futures.extend(executor.submit(job) for _ in range(50))
            await asyncio.sleep(3600)

    async def main():
        tasks.append(asyncio.create_task(host()))
        await ticks(delay)

    with caplog.at_level(logging.WARNING, logger="asyncio"):
        run(main())
        gc.collect()
    assert tasks[0].cancelled()
    assert all(future.cancelled() for future in futures)
    assert ends.count("begun") == ends.count("unwound")
    if delay == 5:
        assert 3 <= ends.count("begun") < 50
    assert not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.parametrize("run", RUNNERS.values(), ids=RUNNERS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_program_ended_by_a_job_settles_every_future(
    run: Callable[[Coroutine[Any, Any, None]], None],
    error: type[BaseException],
    caplog: pytest.LogCaptureFixture,
):
    """`KeyboardInterrupt` leaves asyncio's loop at once: the rest unwinds all the same."""
    ends: list[str] = []
    futures: list[Future[Any]] = []

    async def job():
        ends.append("begun")
        try:
            await asyncio.sleep(3600)
        finally:
            ends.append("unwound")

    async def ends_program():
        await ticks(3)
        raise error

    async def main():
        async with Executor(3) as executor:
            futures.append(executor.submit(ends_program))
            futures.extend(executor.submit(job) for _ in range(50))
            await asyncio.sleep(3600)

    with caplog.at_level(logging.WARNING, logger="asyncio"):
        with pytest.raises(error):
            run(main())
        gc.collect()
    assert all(future.done() for future in futures)
    assert isinstance(futures[0].exception(), error)
    assert all(future.cancelled() for future in futures[1:])
    assert ends.count("begun") == ends.count("unwound") == 2
    assert not [record for record in caplog.records if record.name == "asyncio"]
