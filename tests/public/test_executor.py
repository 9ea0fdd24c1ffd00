"""The executor: entering and leaving, its counts, and the ways to end its jobs or itself."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import math
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint
from jobs import Boom, Crew, all_blocked, counts, fail, give, ticks
from virtual_time import virtual

from anyslots import Executor, ExecutorClosed, Future, JobCancelled, Statistics, gather

run_anywhere = pytest.mark.anyio

each_policy = pytest.mark.parametrize("on_error", ["hold", "cancel", "log"])
each_wait = pytest.mark.parametrize("what", ["join", "shutdown"])


async def call(executor: Executor, what: str) -> None:
    result = getattr(executor, what)()
    if result is not None:
        await result


async def call_in_thread(fn: Callable[[], object]) -> None:
    """Call ``fn`` in another thread; if that gives an awaitable, take its first step there."""

    def call() -> None:
        result = fn()
        if isinstance(result, Awaitable):
            steps = result.__await__()
            try:
                next(steps, None)
            finally:
                steps.close()

    await to_thread.run_sync(call)


async def submit_after(event: anyio.Event, executor: Executor, value: object = None) -> Any:
    """A job that submits another one once it may."""
    await event.wait()
    return executor.submit(give, value)


# Entering.


def test_an_executor_made_outside_an_event_loop_is_entered_in_one(anyio_backend: Any) -> None:
    executor = Executor(2, name="early")
    assert (executor.slots, executor.name) == (2, "early")
    assert Executor(math.inf).name is None
    with pytest.raises(RuntimeError, match="event loop"):
        executor.__aenter__().send(None)  # type: ignore[attr-defined]
    with pytest.raises((TypeError, AttributeError)), executor:  # type: ignore[attr-defined]
        pytest.fail("entered")

    async def main() -> int:
        for what in ("close", "cancel", "join", "shutdown"):
            with pytest.raises(RuntimeError, match="async with"):
                await call(executor, what)
        async with executor as entered:
            assert entered is executor
            return await executor.submit(give, 1)

    name, options = anyio_backend
    assert anyio.run(main, backend=name, backend_options=options) == 1


@run_anywhere
async def test_an_executor_is_entered_only_once() -> None:
    async with Executor(1) as executor:
        with pytest.raises(RuntimeError, match="once"):
            await executor.__aenter__()
        assert await executor.submit(give, 1) == 1
    with pytest.raises(RuntimeError, match="once"):
        await executor.__aenter__()
    with pytest.raises(ExecutorClosed):
        executor.submit(give)


@run_anywhere
async def test_another_thread_may_read_and_not_end_anything() -> None:
    def read() -> tuple[object, ...]:
        return executor.statistics(), executor.slots, executor.name, repr(executor)

    async with Executor(2, name="read") as executor:
        future = executor.submit(anyio.sleep_forever)
        await all_blocked()
        for what in ("close", "cancel", "join", "shutdown"):
            with pytest.raises(RuntimeError, match="thread"):
                await call_in_thread(getattr(executor, what))
        assert future.running()
        assert await to_thread.run_sync(read) == read()
        future.cancel()
        assert await executor.submit(give, 1) == 1


# Leaving.


@run_anywhere
async def test_submitting_is_possible_while_the_block_waits() -> None:
    """Not just jobs: other tasks and callbacks, too, may submit until the last job has ended."""
    events = [anyio.Event(), anyio.Event()]
    results = []

    async def other() -> None:
        await all_blocked()
        future = executor.submit(events[1].wait)
        future.add_done_callback(lambda _: executor.submit(give).add_done_callback(results.append))
        events[0].set()
        await all_blocked()
        events[1].set()

    async with anyio.create_task_group() as tg:
        async with Executor(1) as executor:
            executor.submit(events[0].wait)
            tg.start_soon(other)
        assert len(results) == 1
        assert executor.statistics().succeeded == 3


@run_anywhere
@each_policy
async def test_a_body_that_raises_cancels_the_jobs_and_waits_for_them(on_error: Any) -> None:
    begun, ended, released = [], [], anyio.Event()

    async def job() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            begun.append(True)
            with anyio.CancelScope(shield=True):
                await released.wait()
            ended.append(True)

    async def release() -> None:
        await ticks(20)
        assert (len(begun), ended) == (2, [])
        released.set()

    before = {task.id for task in anyio.get_running_tasks()}
    async with anyio.create_task_group() as tg:
        with pytest.raises(Boom):
            async with Executor(2, on_error=on_error) as executor:
                futures: list[Future[Any]] = [executor.submit(job) for _ in range(4)]
                futures.append(executor.submit(give))
                await all_blocked()
                tg.start_soon(release)
                raise Boom
        assert len(ended) == 2
    for future in futures:
        with pytest.raises(JobCancelled, match=r"cancelled: .*executor"):
            future.result()
    assert counts(executor) == (0, 0, 0, 0, 0, 5)
    await all_blocked()
    assert {task.id for task in anyio.get_running_tasks()} == before


# Cancelling all jobs, and joining.


@run_anywhere
async def test_cancel_of_an_idle_executor_is_nothing() -> None:
    """Without jobs `cancel` does nothing, however often; the next job isn't touched by it."""
    async with Executor(1) as executor:
        executor.cancel()
        await all_blocked()
        for value in (1, 2):
            executor.cancel()
            assert await executor.submit(give, value) == value


@run_anywhere
async def test_join_waits_for_jobs_of_jobs_and_raises_nothing_for_them() -> None:
    """Any number of tasks may join at once; the executor stays open."""
    released = anyio.Event()
    ended, joined = [], []

    async def job(depth: int) -> None:
        await released.wait()
        if depth:
            executor.submit(job, depth - 1)
        ended.append(depth)

    async def join() -> None:
        await executor.join()
        joined.append(len(ended))

    async with Executor(2) as executor, anyio.create_task_group() as tg:
        failed = executor.submit(fail)
        for _ in range(3):
            executor.submit(job, 2)
            tg.start_soon(join)
        await all_blocked()
        assert joined == []
        released.set()
        await executor.join()
        assert len(ended) == 9
        assert isinstance(failed.exception(), Boom)
        assert await executor.submit(give, 1) == 1
    assert joined == [9, 9, 9]


@run_anywhere
async def test_join_and_shutdown_return_at_once_when_there_is_nothing() -> None:
    async with Executor(1) as executor:
        with anyio.fail_after(5):
            await executor.join()
            await executor.submit(give)
            await executor.join()
            await executor.shutdown()
            await executor.join()
            await executor.shutdown(grace=0)
        with pytest.raises(ExecutorClosed):
            executor.submit(give)
    with anyio.fail_after(5):
        await executor.join()
        await executor.shutdown()
        await executor.shutdown(grace=1)


@run_anywhere
@pytest.mark.parametrize("busy", [False, True])
@each_wait
async def test_waiting_for_the_end_is_a_checkpoint(what: str, busy: bool) -> None:
    """`join` and `shutdown` notice a cancellation even when there's nothing to wait for."""
    async with Executor(1) as executor:
        if busy:
            executor.submit(anyio.sleep_forever)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await call(executor, what)
            pytest.fail("not cancelled")
        assert scope.cancelled_caught
        executor.cancel()


@run_anywhere
@pytest.mark.parametrize("where", ["first step", "later step", "task"])
@each_wait
async def test_a_job_may_not_wait_for_its_own_end(what: str, where: str, loop_name: str) -> None:
    """Nor may a job that is an asyncio task."""

    async def job() -> None:
        if where != "first step":
            await checkpoint()
        with anyio.fail_after(1):
            await call(executor, what)

    def task() -> asyncio.Task[None]:
        return asyncio.create_task(job())

    if where == "task" and loop_name == "trio":
        pytest.skip("asyncio's own")
    fn: Any = task if where == "task" else job
    async with Executor(2) as executor:
        with pytest.raises(RuntimeError, match="wait for itself"):
            await executor.submit(fn)
        assert "open" in repr(executor)
        assert await executor.submit(give, 1) == 1


@run_anywhere
async def test_a_job_may_join_another_executor() -> None:
    async def job() -> int:
        async with Executor(1) as inner:
            inner.submit(give)
            await inner.join()
            await other.join()
            await inner.shutdown()
            return inner.statistics().succeeded

    async with Executor(1) as other, Executor(1) as executor:
        other.submit(give)
        assert await executor.submit(job) == 1


# Closing and shutting down.


@run_anywhere
@pytest.mark.parametrize("shut_down", [False, True])
async def test_close_refuses_all_jobs_and_lets_what_is_queued_run(shut_down: bool) -> None:
    """Jobs of jobs are refused, too, also in a `shutdown` that comes after."""
    event = anyio.Event()
    async with Executor(1) as executor, anyio.create_task_group() as tg:
        refused = executor.submit(submit_after, event, executor)
        futures = [executor.submit(give, number) for number in range(5)]
        await all_blocked()
        executor.close()
        executor.close()
        if shut_down:
            tg.start_soon(executor.shutdown)
            await all_blocked()
        with pytest.raises(ExecutorClosed):
            executor.submit(give)
        event.set()
        with pytest.raises(ExecutorClosed):
            await refused
        assert await gather(*futures) == [0, 1, 2, 3, 4]
    executor.close()
    assert "ended" in repr(executor)


@run_anywhere
async def test_a_closed_executor_can_be_cancelled() -> None:
    async with Executor(1) as executor:
        futures = [executor.submit(anyio.sleep_forever) for _ in range(3)]
        await all_blocked()
        executor.close()
        futures[1].cancel()
        assert futures[1].cancelled()
        executor.cancel()
    assert all(future.cancelled() for future in futures)


@run_anywhere
async def test_shutdown_takes_the_submissions_of_jobs_only(loop_name: str) -> None:
    """Those of a job's child tasks and callbacks, too, and of an asyncio task that is a job."""
    event = anyio.Event()
    children: list[Future[int]] = []

    async def submit(value: int) -> None:
        children.append(await submit_after(event, executor, value))

    async def in_child() -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(submit, 2)

    fns: list[Any] = [lambda: submit(1), in_child]
    if loop_name != "trio":
        fns.append(lambda: asyncio.create_task(submit(3)))
    async with Executor(len(fns)) as executor, anyio.create_task_group() as tg:
        futures = [executor.submit(fn) for fn in fns]
        futures[0].add_done_callback(lambda _: children.append(executor.submit(give, 0)))
        executor.submit(give, 4)
        tg.start_soon(executor.shutdown)
        await all_blocked()
        with pytest.raises(ExecutorClosed):
            executor.submit(give)
        event.set()
        await executor.join()
        with pytest.raises(ExecutorClosed):
            executor.submit(give)
    assert sorted(child.result() for child in children) == [*range(len(fns) + 1)]
    assert executor.statistics().succeeded == 2 * len(fns) + 2


@run_anywhere
async def test_shutdown_without_grace_time_cancels_at_once() -> None:
    """What is queued never runs; the body goes on, and an error of before isn't lost."""
    crew, went_on = Crew(), False
    with pytest.RaisesGroup(Boom):
        async with Executor(1) as executor:
            executor.submit(fail)
            futures = [executor.submit(crew.job) for _ in range(2)]
            await all_blocked()
            with anyio.fail_after(5):
                await executor.shutdown(grace=0)
            for future in futures:
                with pytest.raises(JobCancelled, match="shut down"):
                    future.result()
            await checkpoint()
            went_on = True
    assert went_on
    assert len(crew.begun) == 1


class Log(list[Any]):
    """What happens, and when."""

    def note(self, what: str) -> None:
        self.append((what, anyio.current_time()))

    async def sleep(self, seconds: float) -> None:
        """A job that takes so long."""
        try:
            await anyio.sleep(seconds)
            self.note("done")
        except anyio.get_cancelled_exc_class():
            self.note("cancelled")
            raise

    async def shutdown(self, executor: Executor, grace: float | None) -> None:
        await executor.shutdown(grace)
        self.note(f"shut down by {grace}")


@virtual
@pytest.mark.parametrize("grace", [4, 10, math.inf, None])
async def test_what_does_not_end_within_the_grace_is_cancelled(grace: float | None) -> None:
    """`shutdown` returns as soon as the last job has ended; what's queued then never runs."""
    log = Log()
    async with Executor(1) as executor:
        for seconds in (3, 5, 1):
            executor.submit(log.sleep, seconds)
        await log.shutdown(executor, grace)
    rest, end = ([("cancelled", 4)], 4) if grace == 4 else ([("done", 8), ("done", 9)], 9)
    assert log == [("done", 3), *rest, (f"shut down by {grace}", end)]


@virtual
@pytest.mark.parametrize("limit", ["grace", "timeout"])
async def test_unwinding_may_take_longer_than_the_grace(limit: str) -> None:
    """It's waited for, but what it submits is refused; a timeout around it ends the grace."""
    log = Log()

    async def job() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with pytest.raises(ExecutorClosed):
                executor.submit(give)
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
            log.note("unwound")

    async with Executor(2) as executor:
        executor.submit(job)
        executor.submit(job)
        with anyio.move_on_after(2 if limit == "timeout" else math.inf) as scope:
            await executor.shutdown(grace=2 if limit == "grace" else None)
        assert scope.cancelled_caught == (limit == "timeout")
        log.note("shut down")
    assert log == [("unwound", 7), ("unwound", 7), ("shut down", 7)]


@virtual
async def test_jobs_of_jobs_share_the_grace() -> None:
    log = Log()

    async def job() -> None:
        await log.sleep(2)
        executor.submit(job)

    async with Executor(1) as executor:
        executor.submit(job)
        await executor.shutdown(grace=5)
    assert log == [("done", 2), ("done", 4), ("cancelled", 5)]
    assert executor.statistics().submitted == 3


@virtual
@pytest.mark.parametrize("leaving", [False, True])
async def test_a_shutdown_from_elsewhere_limits_another_and_a_block_that_is_left(leaving) -> None:
    """The jobs end with the shorter grace, and all that wait for them go on then."""
    log = Log()

    async def shut_down_later() -> None:
        await anyio.sleep(1)
        await log.shutdown(executor, 2)

    async with anyio.create_task_group() as tg:
        async with Executor(1) as executor:
            executor.submit(log.sleep, 100)
            executor.submit(log.sleep, 100)
            tg.start_soon(shut_down_later)
            if not leaving:
                await log.shutdown(executor, None)
        log.note("left")
    assert log[0] == ("cancelled", 3)
    others = {"shut down by 2", "left"} | ({"shut down by None"} if not leaving else set())
    assert {*log[1:]} == {(what, 3) for what in others}


# Counting.


def test_statistics_are_a_record_of_one_moment() -> None:
    """They can't be changed, and compare by value."""
    executor = Executor(3)
    statistics = executor.statistics()
    assert (
        statistics
        == executor.statistics()
        == Statistics(
            slots=3, running=0, queued=0, lent=0, submitted=0, succeeded=0, failed=0, cancelled=0
        )
    )
    assert statistics is not executor.statistics()
    with pytest.raises(dataclasses.FrozenInstanceError):
        statistics.queued = 1  # type: ignore[misc]
    assert Executor(math.inf).statistics().slots == math.inf


@run_anywhere
async def test_statistics_count_each_job_where_it_is() -> None:
    crew = Crew()
    async with Executor(2, on_error="log") as executor:
        before = executor.statistics()
        futures = [executor.submit(crew.job) for _ in range(3)]
        assert counts(executor) == (3, 0, 0, 0, 0, 0)
        await all_blocked()
        assert counts(executor) == (1, 2, 0, 0, 0, 0)
        futures[2].cancel()
        assert counts(executor) == (0, 2, 0, 0, 0, 1)
        crew.release()
        await gather(*futures[:2])
        assert counts(executor) == (0, 0, 0, 2, 0, 1)
        with pytest.raises(Boom):
            await executor.submit(fail)
        assert counts(executor) == (0, 0, 0, 2, 1, 1)
        running = executor.submit(anyio.sleep_forever)
        await all_blocked()
        running.cancel()
        assert counts(executor) == (0, 1, 0, 2, 1, 1)
        await running.wait()
        assert counts(executor) == (0, 0, 0, 2, 1, 2)
    assert counts(executor) == (0, 0, 0, 2, 1, 2)
    assert before.submitted == 0


@run_anywhere
@pytest.mark.parametrize("slots", [1, 3, math.inf])
async def test_statistics_are_what_the_futures_say_at_any_time(slots: float) -> None:
    """Wherever one looks, in jobs, cleanups, callbacks and other tasks, the counts are right."""
    futures: list[Future[None]] = []
    samples = 0
    wrong = []

    def sample(_: object = None) -> None:
        nonlocal samples
        samples += 1
        said = Counter(repr(future).split()[2].rstrip(">") for future in futures)
        expected = (said["queued"], said["running"], 0)
        expected += (said["succeeded"], said["failed"], said["cancelled"])
        if counts(executor) != expected or said["running"] > slots:
            wrong.append((counts(executor), expected))

    def submit(number: int) -> None:
        futures.append(executor.submit(job, number))
        sample()
        futures[-1].add_done_callback(sample)

    async def job(number: int) -> None:
        sample()
        try:
            for _ in range(number % 3):
                await checkpoint()
                sample()
            if number % 5 == 0:
                raise Boom
            if number % 7 == 0:
                submit(1)
            if number % 11 == 0:
                await anyio.sleep_forever()
        finally:
            sample()

    async def watch() -> None:
        while True:
            sample()
            await checkpoint()

    async with anyio.create_task_group() as tg:
        async with Executor(slots, on_error="log") as executor:
            tg.start_soon(watch)
            for number in range(30):
                submit(number)
            for future in futures[::4]:
                future.cancel()
                sample()
            await ticks(10)
            executor.cancel()
            sample()
            for future in futures:
                await future.wait()
                sample()
                future.cancelled() or future.exception()
        sample()
        tg.cancel_scope.cancel()
    assert wrong == []
    assert samples > 100
    assert executor.statistics().cancelled >= 8


# What it says of itself, and what becomes of it if it's dropped.


@run_anywhere
async def test_repr_shows_name_state_slots_and_counts() -> None:
    executor = Executor(2, name="pages")
    crew = Crew()
    assert repr(executor) == "<Executor 'pages' not entered slots=2 running=0 queued=0>"
    async with executor:
        for _ in range(5):
            executor.submit(crew.job)
        assert repr(executor) == "<Executor 'pages' open slots=2 running=0 queued=5>"
        await all_blocked()
        assert repr(executor) == "<Executor 'pages' open slots=2 running=2 queued=3>"
        executor.close()
        assert repr(executor) == "<Executor 'pages' closed slots=2 running=2 queued=3>"
        executor.cancel()
        await executor.join()
    assert repr(executor) == "<Executor 'pages' ended slots=2 running=0 queued=0>"
    async with Executor(math.inf) as executor, anyio.create_task_group() as tg:
        executor.submit(crew.job)
        tg.start_soon(executor.shutdown)
        await all_blocked()
        assert repr(executor) == "<Executor shutting down slots=inf running=1 queued=0>"
        crew.release()


def test_an_executor_that_is_collected_while_open_warns() -> None:
    # asyncio's tasks, and what they refer to, may outlive their loop; trio gives up on them.
    code = """
import gc, trio, anyslots
async def main():
    await anyslots.Executor(1, name="abandoned").__aenter__()
try:
    trio.run(main)
except trio.TrioInternalError:
    print("collecting")
    gc.collect()
"""
    command = [sys.executable, "-X", "dev", "-c", code]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert run.stdout == "collecting\n"
    assert "ResourceWarning: <Executor 'abandoned'" in run.stderr


@run_anywhere
async def test_an_executor_that_is_not_open_is_collected_silently() -> None:
    """One that was never entered, or has ended, may be dropped; pytest makes warnings errors."""
    unused = Executor(1)
    async with Executor(1) as executor:
        executor.submit(give)
    del unused, executor
    gc.collect()


@pytest.mark.parametrize("jobs", [0, 3])
def test_an_executor_that_is_never_left_does_not_keep_asyncio_from_ending(jobs: int) -> None:
    """`asyncio.run` ends although its main task left an executor entered, and jobs are settled."""
    futures: list[Future[Any]] = []

    async def main() -> None:
        executor = await Executor(1).__aenter__()
        futures.extend(executor.submit(anyio.sleep_forever) for _ in range(jobs))
        await all_blocked()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        asyncio.run(main())
        assert [future.cancelled() for future in futures] == [True] * jobs
        futures.clear()
        gc.collect()
