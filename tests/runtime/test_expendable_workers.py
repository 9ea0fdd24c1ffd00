"""All jobs of a slot share a task: what one leaves behind in it reaches no other.

A scope, a deadline or a task group that a job leaves open in an abandoned async generator, a stale
handle of its task, and native cancellations of the executor's helper tasks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jobs import all_slots_work

from anyslots import Executor, ExecutorClosed, Future, JobCancelled, Rate, Retry, gather, wait

pytestmark = pytest.mark.anyio


async def innocent() -> str:
    """A job that would notice a cancellation or a deadline that isn't its own."""
    assert anyio.current_effective_deadline() == float("inf")
    for _ in range(3):
        await checkpoint()
    await anyio.sleep(0.002)
    return "innocent"


async def workers_are_clean(executor: Executor) -> None:
    """All slots work, and jobs in them find nothing that others left."""
    await all_slots_work(executor)
    jobs = [executor.submit(innocent) for _ in range(3 * int(executor.slots))]
    assert set(await gather(*jobs)) == {"innocent"}


kept: list[Any] = []
generators: list[AsyncIterator[None]] = []
"""To the end of all tests: what closes them meets the errors of that."""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    kept.clear()


async def leaves_scope() -> AsyncIterator[None]:
    with anyio.CancelScope() as scope:
        kept.append(scope)
        yield


async def leaves_deadline() -> AsyncIterator[None]:
    with anyio.fail_after(3600) as scope:
        kept.append(scope)
        yield


async def leaves_silent_deadline() -> AsyncIterator[None]:
    with anyio.move_on_after(3600) as scope:
        kept.append(scope)
        yield


async def leaves_shield() -> AsyncIterator[None]:
    with anyio.CancelScope(shield=True):
        yield


async def leaves_scopes() -> AsyncIterator[None]:
    with anyio.fail_after(0.02), anyio.CancelScope(), anyio.fail_after(0.01):
        yield


async def leaves_group() -> AsyncIterator[None]:
    async with anyio.create_task_group():
        yield


async def leaves_busy_group() -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 0.03)
        yield


async def leaves_asyncio_timeout() -> AsyncIterator[None]:
    async with asyncio.timeout(0.01):
        yield


async def leaves_asyncio_timeout_open() -> AsyncIterator[None]:
    async with asyncio.timeout(None) as timeout:
        kept.append(timeout)
        yield


async def leaves_asyncio_group() -> AsyncIterator[None]:
    async with asyncio.TaskGroup():
        yield


LEFT = [
    leaves_scope,
    leaves_deadline,
    leaves_silent_deadline,
    leaves_shield,
    leaves_scopes,
    leaves_group,
]
LEFT_UNDER_ASYNCIO = [leaves_asyncio_timeout, leaves_asyncio_timeout_open, leaves_asyncio_group]


@pytest.fixture(params=[*LEFT, *LEFT_UNDER_ASYNCIO])
def left(request: pytest.FixtureRequest) -> Callable[[], AsyncIterator[None]]:
    if request.param in LEFT_UNDER_ASYNCIO and request.getfixturevalue("loop_name") == "trio":
        pytest.skip("asyncio's own")
    return request.param


async def culprit(left: Callable[[], AsyncIterator[None]], end: str) -> str:
    generator = left()
    generators.append(generator)
    await anext(generator)
    if end == "is cancelled":
        await anyio.sleep_forever()
    if end == "after a checkpoint":
        await checkpoint()
    if left in (leaves_deadline, leaves_silent_deadline):
        kept[-1].deadline = anyio.current_time() + 0.01  # when this job has ended
    if end == "fails":
        raise ValueError("culprit")
    return "culprit"


ENDS = ["at once", "after a checkpoint", "fails", "is cancelled"]


@pytest.mark.filterwarnings("ignore:.*was never awaited:RuntimeWarning")
@pytest.mark.parametrize("end", ENDS)
async def test_a_scope_left_open_reaches_no_other_job(
    left: Callable[[], AsyncIterator[None]], end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The job keeps its outcome, all others are unharmed, and a warning names the job."""
    if left is leaves_shield and end == "is cancelled":
        end = "fails"  # it couldn't be: it's in the shield
    async with Executor(2, on_error="log") as executor:
        for _ in range(2):
            before = [executor.submit(innocent) for _ in range(2)]
            future = executor.submit(culprit, left, end)
            after = [executor.submit(innocent) for _ in range(6)]
            if end == "is cancelled":
                await gather(*before)
                for _ in range(10):
                    await checkpoint()
                future.cancel()
            await future.wait()
            if end == "is cancelled":
                assert future.cancelled() or isinstance(future.exception(), TimeoutError)
            elif end == "fails":
                assert str(future.exception()) == "culprit"
            else:
                assert await future == "culprit"
            assert await gather(*before, *after) == ["innocent"] * 8
            await anyio.sleep(0.03)
            assert await executor.submit(innocent) == "innocent"
        await workers_are_clean(executor)
    if end != "is cancelled":
        warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
        assert any("culprit" in each.getMessage() for each in warnings), caplog.text
        assert all(each.name == "anyslots" for each in warnings)
    assert not any("innocent" in each.getMessage() for each in caplog.records)


async def test_another_job_of_that_slot_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """The one that is cancelled after the job with the scope left open unwinds well."""

    async def cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.002)
            unwound.append(1)

    unwound: list[int] = []
    async with Executor(1) as executor:
        for left in LEFT:
            await executor.submit(culprit, left, "at once")
            future = executor.submit(cancelled)
            following = executor.submit(innocent)
            while not future.running():
                await checkpoint()
            await checkpoint()
            future.cancel()
            with pytest.raises(JobCancelled):
                await future
            assert await following == "innocent"
        await workers_are_clean(executor)
    assert unwound == [1] * len(LEFT)


async def test_a_scope_left_open_is_cancelled_later(caplog: pytest.LogCaptureFixture) -> None:
    async with Executor(1) as executor:
        await executor.submit(culprit, leaves_scope, "at once")
        generator, scope = generators[-1], kept[-1]
        running = executor.submit(innocent)
        await checkpoint()
        scope.cancel()
        assert await running == "innocent"
        running = executor.submit(innocent)
        await checkpoint()
        try:
            await generator.aclose()
        except BaseException as exc:
            # What was left open is closed in another task than it was opened in.
            assert isinstance(exc, (RuntimeError, anyio.get_cancelled_exc_class()))  # noqa: PT017
        assert await running == "innocent"
        await workers_are_clean(executor)


async def test_a_generator_that_is_closed_in_another_job(
    left: Callable[[], AsyncIterator[None]],
) -> None:
    """A later job of that slot that closes it may fail; no others do, nor does the executor."""

    async def close() -> None:
        await generators[-1].aclose()  # type: ignore[attr-defined]

    async with Executor(1, on_error="log") as executor:
        for _ in range(2):
            await executor.submit(culprit, left, "at once")
            future = executor.submit(close)
            following = [executor.submit(innocent) for _ in range(3)]
            await future.wait()
            assert await gather(*following) == ["innocent"] * 3
        await workers_are_clean(executor)


async def test_a_scope_left_entered_by_hand() -> None:
    """Without any generator: `__enter__` and never `__exit__`."""

    async def enters() -> None:
        scope = anyio.CancelScope(deadline=anyio.current_time() + 0.005)
        scope.__enter__()
        kept.append(scope)

    async with Executor(2) as executor:
        for _ in range(3):
            await executor.submit(enters)
            await gather(*[executor.submit(innocent) for _ in range(4)])
        await anyio.sleep(0.01)
        await workers_are_clean(executor)


async def test_a_job_that_lends_and_leaves_that_open(loop_name: str) -> None:
    """The slot lent in an abandoned generator is the job's again as it ends."""
    from anyslots import lend_slot

    async def lends() -> AsyncIterator[None]:
        async with lend_slot():
            with anyio.fail_after(0.005):
                yield

    async with Executor(2) as executor:
        for _ in range(3):
            await executor.submit(culprit, lends, "at once")
            counts = executor.statistics()
            assert (counts.running, counts.lent) == (0, 0)
        await anyio.sleep(0.01)
        await workers_are_clean(executor)


async def test_the_executor_ends_well_with_a_deadline_left_open() -> None:
    """The block that is left right after it raises nothing, and nothing goes on after it."""
    async with Executor(1) as executor:
        executor.submit(culprit, leaves_deadline, "at once")
    async with Executor(1) as executor:
        future = executor.submit(culprit, leaves_deadline, "after a checkpoint")
        await future
    await anyio.sleep(0.02)


async def test_a_task_group_left_open_with_a_task_in_it(caplog: pytest.LogCaptureFixture) -> None:
    """The job's own task goes on, or ends; the jobs after it don't wait for it."""
    async with Executor(1) as executor:
        await executor.submit(culprit, leaves_busy_group, "at once")
        assert await executor.submit(innocent) == "innocent"
        await anyio.sleep(0.05)
        await workers_are_clean(executor)


# Handles of the task that a job keeps.


@pytest.mark.usefixtures("asyncio_only")
@pytest.mark.parametrize("when", ["queued", "running", "done"])
async def test_a_stale_cancel_hits_no_other_job(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`Task.cancel` on the task of a job that is over."""

    async def keeps_task() -> None:
        kept.append(asyncio.current_task())

    async with Executor(1) as executor:
        for _ in range(3):
            await executor.submit(keeps_task)
            task = kept.pop()
            future = executor.submit(innocent)
            if when == "running":
                await asyncio.sleep(0.001)
            elif when == "done":
                await future
            task.cancel()
            del task
            assert await future == "innocent"
        await workers_are_clean(executor)
    assert "keeps_task" in caplog.text


@pytest.mark.usefixtures("asyncio_only")
async def test_a_stale_cancel_by_a_timer_hits_no_other_job() -> None:
    """A loop's timer that a job has set, and that cancels its task when it's over."""

    async def sets_timer() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0.005, task.cancel)

    async with Executor(2) as executor:
        for _ in range(4):
            await gather(executor.submit(sets_timer), executor.submit(sets_timer))
            assert await gather(*[executor.submit(innocent) for _ in range(8)]) == ["innocent"] * 8
        await workers_are_clean(executor)


@pytest.mark.usefixtures("asyncio_only")
async def test_a_job_that_cancels_its_task_as_it_returns() -> None:
    """The cancellation that a job has asked for and doesn't wait for ends with it."""

    async def cancels_itself() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "returned"

    async with Executor(1) as executor:
        futures = [executor.submit(job) for job in (cancels_itself, innocent) * 4]
        assert await gather(*futures) == ["returned", "innocent"] * 4
        await workers_are_clean(executor)


async def test_ordinary_jobs_leave_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Scopes, timeouts, groups and threads that are closed as they should be: no warning."""

    async def generator() -> AsyncIterator[int]:
        with anyio.fail_after(10):
            yield 1

    async def ordinary() -> None:
        with anyio.fail_after(10):
            await checkpoint()
        with anyio.move_on_after(0):
            await checkpoint()
        async with anyio.create_task_group() as group:
            group.start_soon(checkpoint)
        await anyio.to_thread.run_sync(int)
        async for _ in generator():
            pass
        await executor.submit(checkpoint)

    async with Executor(2) as executor:
        await gather(*[executor.submit(ordinary) for _ in range(8)])
    assert not caplog.records


# The executor's helper tasks, cancelled natively.


def other_tasks(known: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task not in known]


async def steady() -> str:
    return "steady"


@pytest.mark.usefixtures("asyncio_only")
@pytest.mark.parametrize("which", ["all", "each"])
async def test_helper_tasks_cancelled_natively_lose_nothing(which: str) -> None:
    """Workers that are idle, the timer of a rate, a retry, a queue timeout and a gate."""
    known = asyncio.all_tasks()
    gate_calls = 0

    async def gate() -> None:
        nonlocal gate_calls
        gate_calls += 1
        await asyncio.sleep(0.005)

    attempts = 0

    async def flaky() -> str:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise OSError
        return "steady"

    async with Executor(2) as executor:
        rated = executor.lane(rate=Rate(1, per=0.03))
        gated = executor.lane(gate=gate)
        retried = executor.lane(retry=Retry(wait=0.02, jitter=False))
        futures = [rated.submit(steady) for _ in range(6)]
        futures += [gated.submit(steady) for _ in range(6)]
        futures += [retried.submit(flaky)]
        executor.pause(0.01)
        turn = 0
        while not all(future.done() for future in futures):
            tasks = other_tasks(known)
            for task in tasks if which == "all" else tasks[turn % len(tasks) :][:1]:
                task.cancel()
            turn += 1
            await asyncio.sleep(0.007)
        del tasks, task
        assert {future.cancelled() for future in futures} <= {False, True}
        ran = [future for future in futures if not future.cancelled()]
        # Some jobs were running when they were hit; these alone ended for it.
        assert [await future for future in ran] == ["steady"] * len(ran)
        assert len(ran) == len(futures)
        await workers_are_clean(executor)
    assert gate_calls >= 6


@pytest.mark.usefixtures("asyncio_only")
@pytest.mark.parametrize("turns", range(6))
async def test_all_tasks_cancelled_while_the_block_is_left(turns: int) -> None:
    """A rate of 1 per 0.02 s and ten jobs: all of them run, and the block ends normally."""
    known = asyncio.all_tasks()
    done: list[int] = []

    async def note(n: int) -> None:
        done.append(n)

    async def cancel_others() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(3):
            for task in other_tasks(known | {canceller}):
                task.cancel()
            await asyncio.sleep(0.011)

    async with Executor(2, rate=Rate(1, per=0.02)) as executor:
        for n in range(10):
            executor.submit(note, n)
        canceller = asyncio.create_task(cancel_others())
    await canceller
    # A job that was hit in its first step's turn is cancelled, and no other.
    counts = executor.statistics()
    assert counts.succeeded + counts.cancelled == 10
    assert counts.cancelled == 0
    assert done == list(range(10))


@pytest.mark.usefixtures("asyncio_only")
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8])
async def test_a_map_whose_producer_is_cancelled_loses_nothing_silently(
    asynchronous: bool, turns: int
) -> None:
    """Either all results come, or the end says why they don't."""
    known = asyncio.all_tasks()

    async def items() -> AsyncIterator[int]:
        for n in range(20):
            await asyncio.sleep(0.001)
            yield n

    async def double(n: int) -> int:
        await asyncio.sleep(0.002)
        return 2 * n

    async def cancel_others() -> None:
        for _ in range(turns):
            await asyncio.sleep(0.0007)
        for task in other_tasks(known | {canceller}):
            task.cancel()

    results: list[int] = []
    async with Executor(2) as executor:
        canceller = asyncio.create_task(cancel_others())
        try:
            async for result in executor.map(double, items() if asynchronous else range(20)):
                results.append(result)
        except (JobCancelled, ExecutorClosed):
            pass
        else:
            assert results == [2 * n for n in range(20)]
        await canceller
        await workers_are_clean(executor)


@pytest.mark.usefixtures("asyncio_only")
async def test_workers_cancelled_over_and_over() -> None:
    """A library that cancels all tasks it can find, a hundred times, ends no executor."""
    known = asyncio.all_tasks()
    async with Executor(3) as executor:
        futures: list[Future[str]] = []
        for n in range(100):
            futures += [executor.submit(innocent) for _ in range(3)]
            for task in other_tasks(known):
                task.cancel()
            await asyncio.sleep(0.001 * (n % 3))
        del task
        await wait(futures)
        await workers_are_clean(executor)
        counts = executor.statistics()
        assert counts.failed == 0
        assert counts.submitted == counts.succeeded + counts.cancelled
