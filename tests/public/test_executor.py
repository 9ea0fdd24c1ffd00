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
from jobs import Boom, all_blocked, give
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, ExecutorClosed, Future, JobCancelled, Statistics, gather

pytestmark = pytest.mark.anyio

POLICIES = ("hold", "cancel", "log")


class Cleanup:
    """Jobs that run until they're cancelled, and then clean up until they're released."""

    def __init__(self) -> None:
        self.release = anyio.Event()
        self.begun = self.ended = 0

    async def __call__(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.begun += 1
            with anyio.CancelScope(shield=True):
                await self.release.wait()
            self.ended += 1


# Entering.


def test_executor_is_constructed_outside_an_event_loop(anyio_backend: Any) -> None:
    """An executor can be made before there's an event loop, and entered in one."""
    executor = Executor(2, name="early")
    assert executor.slots == 2
    assert executor.statistics().submitted == 0

    async def main() -> int:
        async with executor:
            return await executor.submit(give, 1)

    name, options = anyio_backend
    assert anyio.run(main, backend=name, backend_options=options) == 1


async def test_entering_gives_the_executor() -> None:
    executor = Executor(1)
    async with executor as entered:
        assert entered is executor


async def test_entering_again_inside_the_block_is_an_error() -> None:
    """Entering an executor that is open raises a `RuntimeError`, and leaves it open."""
    async with Executor(1) as executor:
        with pytest.raises(RuntimeError, match="once"):
            async with executor:
                pytest.fail("entered")
        assert await executor.submit(give, 1) == 1


async def test_entering_again_after_the_block_is_an_error() -> None:
    """An executor that has ended can't be entered again."""
    async with Executor(1) as executor:
        pass
    with pytest.raises(RuntimeError, match="once"):
        async with executor:
            pytest.fail("entered")
    with pytest.raises(ExecutorClosed):
        executor.submit(give)


def test_entering_outside_an_event_loop_is_an_error() -> None:
    """Without an event loop, entering raises a `RuntimeError`, and may be tried again in one."""
    executor = Executor(1)
    entering = executor.__aenter__()
    with pytest.raises(RuntimeError, match="event loop"):
        entering.send(None)  # type: ignore[attr-defined]
    assert "not entered" in repr(executor)

    async def main() -> int:
        async with executor:
            return await executor.submit(give, 1)

    assert anyio.run(main) == 1


def test_plain_with_is_an_error() -> None:
    """An executor is no synchronous context manager."""
    with pytest.raises((TypeError, AttributeError)), Executor(1):  # type: ignore[attr-defined]
        pytest.fail("entered")


@pytest.mark.parametrize("what", ["close", "cancel", "join", "shutdown"])
async def test_before_entering_there_is_nothing_to_end(what: str) -> None:
    """Ending jobs of an executor that isn't entered is a `RuntimeError` that says what to do."""
    executor = Executor(1)
    with pytest.raises(RuntimeError, match="async with"):
        await call(executor, what)
    async with executor:
        assert await executor.submit(give, 1) == 1


async def call(executor: Executor, what: str) -> None:
    result = getattr(executor, what)()
    if result is not None:
        await result


@pytest.mark.parametrize("what", ["close", "cancel", "join", "shutdown"])
async def test_another_thread_may_not_end_anything(what: str) -> None:
    """From another thread, these are a `RuntimeError`, and change nothing."""

    def from_thread() -> None:
        result = getattr(executor, what)()
        try:
            result.send(None)
        finally:
            result.close()

    async with Executor(1) as executor:
        future = executor.submit(anyio.sleep_forever)
        with pytest.raises(RuntimeError, match="thread"):
            await to_thread.run_sync(from_thread)
        assert not future.done()
        future.cancel()
        assert await executor.submit(give, 1) == 1


async def test_another_thread_may_read() -> None:
    """Counts, slots, name and `repr` can be read in any thread."""
    async with Executor(2, name="read") as executor:
        event = anyio.Event()
        executor.submit(event.wait)
        await all_blocked()

        def read() -> tuple[object, ...]:
            return executor.statistics(), executor.slots, executor.name, repr(executor)

        assert await to_thread.run_sync(read) == read()
        event.set()


# Leaving.


async def test_leaving_waits_for_everything() -> None:
    """The block ends when every queued and running job has ended."""
    ended = []

    async def job(number: int) -> None:
        for _ in range(number % 4):
            await checkpoint()
        ended.append(number)

    async with Executor(3) as executor:
        futures = [executor.submit(job, number) for number in range(20)]
    assert sorted(ended) == list(range(20))
    assert all(future.done() for future in futures)


async def test_leaving_an_unused_executor() -> None:
    """A block without jobs ends at once."""
    with anyio.fail_after(5):
        async with Executor(1):
            pass


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


async def test_nothing_of_the_block_is_left() -> None:
    """When the block has ended no task of it is left, and no code of its jobs runs."""
    before = {task.id for task in anyio.get_running_tasks()}
    cleanup = Cleanup()
    cleanup.release.set()
    with pytest.raises(Boom):
        async with Executor(5) as executor:
            for _ in range(10):
                executor.submit(cleanup)
                executor.submit(give)
            await all_blocked()
            raise Boom
    assert cleanup.begun == cleanup.ended == 5
    await all_blocked()
    assert {task.id for task in anyio.get_running_tasks()} == before


@pytest.mark.parametrize("on_error", POLICIES)
async def test_body_that_raises_cancels_the_jobs_and_waits_for_them(on_error: Any) -> None:
    cleanup = Cleanup()
    async with anyio.create_task_group() as tg:
        with pytest.raises(Boom):
            async with Executor(2, on_error=on_error) as executor:
                futures = [executor.submit(cleanup) for _ in range(4)]
                await all_blocked()
                tg.start_soon(release_when_all_clean_up, cleanup, 2)
                raise Boom
        assert cleanup.ended == 2
        assert all(future.cancelled() for future in futures)
        assert executor.statistics().cancelled == 4


async def release_when_all_clean_up(cleanup: Cleanup, number: int) -> None:
    for _ in range(20):
        await checkpoint()
    begun, ended = cleanup.begun, cleanup.ended
    cleanup.release.set()
    assert (begun, ended) == (number, 0)


async def test_jobs_are_told_why_they_were_cancelled() -> None:
    """Whoever asks a job that the end of its block has cancelled learns that."""
    with pytest.raises(Boom):
        async with Executor(1) as executor:
            futures = [executor.submit(anyio.sleep_forever) for _ in range(2)]
            await all_blocked()
            raise Boom
    for future in futures:
        with pytest.raises(JobCancelled, match=r"cancelled: .*executor"):
            future.result()


# Cancelling all jobs.


async def test_cancel_of_an_idle_executor_is_nothing() -> None:
    """Without jobs `cancel` does nothing, however often; the next job isn't touched by it."""
    async with Executor(1) as executor:
        executor.cancel()
        await all_blocked()
        executor.cancel()
        assert await executor.submit(give, 1) == 1
        executor.cancel()
        assert await executor.submit(give, 2) == 2


# Joining.


async def test_join_returns_when_nothing_is_queued_or_running() -> None:
    """`join` waits for all jobs, those that they submit included; the executor stays open."""
    ended = []

    async def job(depth: int) -> None:
        await checkpoint()
        if depth:
            executor.submit(job, depth - 1)
        ended.append(depth)

    async with Executor(2) as executor:
        for _ in range(3):
            executor.submit(job, 2)
        await executor.join()
        assert len(ended) == 9
        assert await executor.submit(give, 1) == 1
        await executor.join()


@pytest.mark.parametrize("state", ["unused", "idle", "closed", "ended"])
async def test_join_returns_at_once_when_there_is_nothing(state: str) -> None:
    """Where nothing is queued or running `join` returns after a checkpoint."""
    async with Executor(1) as executor:
        if state == "idle":
            await executor.submit(give)
        if state == "closed":
            executor.close()
        if state != "ended":
            with anyio.fail_after(5):
                await executor.join()
    with anyio.fail_after(5):
        await executor.join()


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("what", ["join", "shutdown"])
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


async def test_several_tasks_may_join() -> None:
    """Any number of tasks may wait in `join` at once."""
    joined = []

    async def joiner() -> None:
        await executor.join()
        joined.append(True)

    event = anyio.Event()
    async with Executor(1) as executor, anyio.create_task_group() as tg:
        executor.submit(event.wait)
        for _ in range(3):
            tg.start_soon(joiner)
        await all_blocked()
        assert not joined
        event.set()
    assert len(joined) == 3


@pytest.mark.parametrize("what", ["join", "shutdown"])
@pytest.mark.parametrize("turns", [0, 1])
async def test_job_may_not_wait_for_its_own_end(what: str, turns: int) -> None:
    """`join` and `shutdown` inside one of the executor's own jobs are a `RuntimeError`."""

    async def job() -> None:
        for _ in range(turns):
            await checkpoint()
        await call(executor, what)

    async with Executor(2) as executor:
        with pytest.raises(RuntimeError, match="wait for itself"):
            await executor.submit(job)
        assert "open" in repr(executor)
        assert await executor.submit(give, 1) == 1


@pytest.mark.usefixtures("asyncio_only")
@pytest.mark.parametrize("what", ["join", "shutdown"])
async def test_job_that_is_a_task_may_not_wait_for_its_own_end(what: str) -> None:
    async def job() -> None:
        with anyio.fail_after(1):
            await call(executor, what)

    async with Executor(2) as executor:
        with pytest.raises(RuntimeError, match="wait for itself"):
            await executor.submit(lambda: asyncio.create_task(job()))


async def test_job_may_join_another_executor() -> None:
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


async def test_failed_jobs_do_not_disturb_join() -> None:
    """`join` raises nothing for the jobs that it waits for."""

    async def fail() -> None:
        raise Boom

    async with Executor(1) as executor:
        future = executor.submit(fail)
        await executor.join()
        assert isinstance(future.exception(), Boom)


# Closing.


async def test_close_lets_what_is_queued_run() -> None:
    """After `close` nothing more is taken, and what was queued runs as usual."""
    async with Executor(1) as executor:
        futures = [executor.submit(give, number) for number in range(5)]
        executor.close()
        with pytest.raises(ExecutorClosed):
            executor.submit(give)
        assert await gather(*futures) == [0, 1, 2, 3, 4]


async def test_close_refuses_jobs_of_jobs_too() -> None:
    """Unlike `shutdown` with its grace, `close` refuses what jobs submit themselves."""
    event = anyio.Event()

    async def job() -> None:
        await event.wait()
        executor.submit(give)

    async with Executor(1) as executor:
        future = executor.submit(job)
        await all_blocked()
        executor.close()
        event.set()
        with pytest.raises(ExecutorClosed):
            await future


async def test_closing_again_is_nothing() -> None:
    """`close` may be called again, and after the block."""
    async with Executor(1) as executor:
        executor.close()
        executor.close()
        assert "closed" in repr(executor)
    executor.close()
    assert "ended" in repr(executor)


async def test_closed_executor_can_be_cancelled() -> None:
    async with Executor(1) as executor:
        futures = [executor.submit(anyio.sleep_forever) for _ in range(3)]
        await all_blocked()
        executor.close()
        futures[1].cancel()
        assert futures[1].cancelled()
        executor.cancel()
    assert all(future.cancelled() for future in futures)


# Shutting down.


async def test_shutdown_of_an_idle_executor() -> None:
    """With nothing to do `shutdown` returns at once, and the executor is closed."""
    async with Executor(1) as executor:
        with anyio.fail_after(5):
            await executor.shutdown()
        with pytest.raises(ExecutorClosed):
            executor.submit(give)


async def test_shutdown_lets_the_jobs_finish() -> None:
    """Without a grace `shutdown` waits for what is queued and running, as long as it takes."""
    async with Executor(1) as executor:
        futures = [executor.submit(give, number) for number in range(5)]
        await executor.shutdown()
        assert [future.result() for future in futures] == [0, 1, 2, 3, 4]


async def test_shutdown_again_and_after_the_block() -> None:
    async with Executor(1) as executor:
        executor.submit(give)
        await executor.shutdown()
        await executor.shutdown(grace=0)
    with anyio.fail_after(5):
        await executor.shutdown()
        await executor.shutdown(grace=1)


async def test_shutdown_of_a_closed_executor() -> None:
    """After `close`, `shutdown` waits for the queued jobs, and goes on refusing the jobs' own."""

    async def job() -> None:
        await event.wait()
        executor.submit(give)

    event = anyio.Event()
    async with Executor(1) as executor, anyio.create_task_group() as tg:
        future = executor.submit(job)
        executor.close()
        tg.start_soon(executor.shutdown)
        await all_blocked()
        event.set()
        with pytest.raises(ExecutorClosed):
            await future


async def test_shutdown_takes_the_submissions_of_jobs_only() -> None:
    """During the grace jobs may submit, and so may their callbacks; nobody else may."""
    event = anyio.Event()
    children: list[Future[int]] = []

    async def job() -> None:
        await event.wait()
        children.append(executor.submit(give, 1))

    async with Executor(1) as executor, anyio.create_task_group() as tg:
        future = executor.submit(job)
        future.add_done_callback(lambda _: children.append(executor.submit(give, 2)))
        tg.start_soon(executor.shutdown)
        await all_blocked()
        with pytest.raises(ExecutorClosed):
            executor.submit(give)
        event.set()
        await executor.join()
        with pytest.raises(ExecutorClosed):
            executor.submit(give)
    assert [child.result() for child in children] == [1, 2]


async def test_shutdown_takes_what_a_child_task_of_a_job_submits() -> None:
    """A job's submissions are its own whichever of its tasks makes them."""
    event = anyio.Event()
    children: list[Future[int]] = []

    async def child() -> None:
        await event.wait()
        children.append(executor.submit(give, 1))

    async def job() -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(child)

    async with Executor(1) as executor, anyio.create_task_group() as tg:
        future = executor.submit(job)
        tg.start_soon(executor.shutdown)
        await all_blocked()
        event.set()
        await future
    assert [child.result() for child in children] == [1]


@pytest.mark.usefixtures("asyncio_only")
async def test_shutdown_takes_what_a_job_that_is_a_task_submits() -> None:
    event = anyio.Event()

    async def job() -> int:
        await event.wait()
        return await executor.submit(give, 1)

    async with Executor(2) as executor, anyio.create_task_group() as tg:
        future = executor.submit(lambda: asyncio.create_task(job()))
        tg.start_soon(executor.shutdown)
        await all_blocked()
        event.set()
        assert await future == 1


async def test_shutdown_without_grace_time_cancels_at_once() -> None:
    """With a grace of 0 what runs is cancelled at once, and what is queued never runs."""
    ran = []

    async def job() -> None:
        ran.append(True)
        await anyio.sleep_forever()

    async with Executor(1) as executor:
        futures = [executor.submit(job), executor.submit(job)]
        await all_blocked()
        with anyio.fail_after(5):
            await executor.shutdown(grace=0)
        for future in futures:
            with pytest.raises(JobCancelled, match="shut down"):
                future.result()
    assert len(ran) == 1


async def test_errors_after_shutdown_are_raised_by_the_block() -> None:
    async def fail() -> None:
        raise Boom

    with pytest.RaisesGroup(Boom):
        async with Executor(1) as executor:
            executor.submit(fail)
            await executor.shutdown()


async def test_body_goes_on_after_shutdown() -> None:
    steps = []
    async with Executor(1) as executor:
        executor.submit(anyio.sleep_forever)
        await executor.shutdown(grace=0)
        await checkpoint()
        steps.append("after")
    assert steps == ["after"]


async def sleep_and_tell(seconds: float, log: list[object]) -> None:
    try:
        await anyio.sleep(seconds)
        log.append(("done", anyio.current_time()))
    except anyio.get_cancelled_exc_class():
        log.append(("cancelled", anyio.current_time()))
        raise


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
class TestGrace:
    """What `shutdown` does when, in virtual time."""

    def run(self, backend: str, main: Callable[[list[object]], Awaitable[None]]) -> list[object]:
        log: list[object] = []
        run_in_virtual_time(backend, main, log)
        return log

    def test_jobs_that_end_within_the_grace(self, backend: str) -> None:
        """`shutdown` returns as soon as the last job has ended."""

        async def main(log: list[object]) -> None:
            async with Executor(1) as executor:
                for seconds in (1, 2, 3):
                    executor.submit(sleep_and_tell, seconds, log)
                await executor.shutdown(grace=10)
                log.append(anyio.current_time())

        assert self.run(backend, main) == [("done", 1), ("done", 3), ("done", 6), 6]

    def test_jobs_that_do_not_end_within_the_grace(self, backend: str) -> None:
        """When the grace is over the rest is cancelled; what is queued never runs."""

        async def main(log: list[object]) -> None:
            async with Executor(1) as executor:
                for seconds in (3, 5, 1):
                    executor.submit(sleep_and_tell, seconds, log)
                await executor.shutdown(grace=4)
                log.append(anyio.current_time())

        assert self.run(backend, main) == [("done", 3), ("cancelled", 4), 4]

    def test_unwinding_takes_longer_than_the_grace(self, backend: str) -> None:
        """The grace limits the jobs, not their cleanup, which is waited for."""

        async def job(log: list[object]) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(5)
                log.append(("unwound", anyio.current_time()))

        async def main(log: list[object]) -> None:
            async with Executor(2) as executor:
                executor.submit(job, log)
                executor.submit(job, log)
                await executor.shutdown(grace=2)
                log.append(anyio.current_time())

        assert self.run(backend, main) == [("unwound", 7), ("unwound", 7), 7]

    def test_jobs_of_jobs_share_the_grace(self, backend: str) -> None:
        """What jobs submit during the grace runs, until the same grace is over."""

        async def job(log: list[object], executor: Executor) -> None:
            await anyio.sleep(2)
            log.append(anyio.current_time())
            executor.submit(job, log, executor)

        async def main(log: list[object]) -> None:
            async with Executor(1) as executor:
                executor.submit(job, log, executor)
                await executor.shutdown(grace=5)
                log.append(("shut down", anyio.current_time()))
                assert executor.statistics().submitted == 3

        assert self.run(backend, main) == [2, 4, ("shut down", 5)]

    def test_submissions_after_the_grace_are_refused(self, backend: str) -> None:
        async def job(log: list[object], executor: Executor) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                try:
                    executor.submit(give)
                except ExecutorClosed:
                    log.append("refused")

        async def main(log: list[object]) -> None:
            async with Executor(1) as executor:
                executor.submit(job, log, executor)
                await executor.shutdown(grace=5)

        assert self.run(backend, main) == ["refused"]

    def test_endless_grace(self, backend: str) -> None:
        """With an infinite grace, as with None, `shutdown` waits as long as it takes."""

        async def main(log: list[object]) -> None:
            async with Executor(1) as executor:
                executor.submit(sleep_and_tell, 1000, log)
                await executor.shutdown(grace=math.inf)

        assert self.run(backend, main) == [("done", 1000)]

    def test_second_shutdown_shortens_the_grace(self, backend: str) -> None:
        """A second call with less grace ends the jobs sooner, and both calls return then."""

        async def shutdown(executor: Executor, grace: float | None, log: list[object]) -> None:
            await executor.shutdown(grace)
            log.append(("shut down", grace, anyio.current_time()))

        async def main(log: list[object]) -> None:
            async with Executor(1) as executor, anyio.create_task_group() as tg:
                executor.submit(sleep_and_tell, 100, log)
                tg.start_soon(shutdown, executor, None, log)
                await anyio.sleep(1)
                tg.start_soon(shutdown, executor, 2, log)
            log.append(anyio.current_time())

        log = self.run(backend, main)
        assert log[0] == ("cancelled", 3)
        assert sorted(log[1:3], key=str) == [("shut down", 2, 3), ("shut down", None, 3)]
        assert log[3] == 3

    def test_shutdown_while_the_block_is_left(self, backend: str) -> None:
        """A `shutdown` from elsewhere, as for a signal, limits a block that is being left."""

        async def stop(executor: Executor) -> None:
            await anyio.sleep(1)
            await executor.shutdown(grace=2)

        async def main(log: list[object]) -> None:
            async with anyio.create_task_group() as tg:
                async with Executor(1) as executor:
                    executor.submit(sleep_and_tell, 100, log)
                    executor.submit(sleep_and_tell, 100, log)
                    tg.start_soon(stop, executor)
                log.append(anyio.current_time())

        assert self.run(backend, main) == [("cancelled", 3), 3]

    def test_time_limit_around_shutdown(self, backend: str) -> None:
        async def job(log: list[object]) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(1)
                log.append(("unwound", anyio.current_time()))

        async def main(log: list[object]) -> None:
            async with Executor(1) as executor:
                executor.submit(job, log)
                with anyio.move_on_after(3) as scope:
                    await executor.shutdown()
                assert scope.cancelled_caught
                log.append(anyio.current_time())

        assert self.run(backend, main) == [("unwound", 4), 4]

    def test_job_that_answers_the_cancellation_with_a_value(self, backend: str) -> None:
        """A job that is cancelled after the grace, but returns a value, has succeeded."""

        async def job() -> str:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                return "partial result"

        async def main(log: list[object]) -> None:
            async with Executor(1) as executor:
                future = executor.submit(job)
                await executor.shutdown(grace=1)
                log.append(future.result())

        assert self.run(backend, main) == ["partial result"]


# Counting.


def assert_adds_up(statistics: Statistics) -> None:
    s = statistics
    assert s.submitted == s.queued + s.running + s.lent + s.succeeded + s.failed + s.cancelled
    assert min(dataclasses.astuple(s)) >= 0
    assert s.running <= s.slots


def test_statistics_of_an_unused_executor() -> None:
    """Before anything is submitted all counts are 0."""
    assert Executor(3).statistics() == Statistics(
        slots=3, running=0, queued=0, lent=0, submitted=0, succeeded=0, failed=0, cancelled=0
    )


def test_statistics_are_frozen() -> None:
    """A record of counts can't be changed, and compares by value."""
    executor = Executor(math.inf)
    statistics = executor.statistics()
    assert statistics.slots == math.inf
    assert dataclasses.is_dataclass(statistics)
    with pytest.raises(dataclasses.FrozenInstanceError):
        statistics.queued = 1  # type: ignore[misc]
    assert statistics == executor.statistics()
    assert statistics is not executor.statistics()


async def test_statistics_count_each_job_where_it_is() -> None:
    event = anyio.Event()

    async def fail() -> None:
        raise Boom

    def counts() -> tuple[int, ...]:
        return dataclasses.astuple(executor.statistics())[1:]

    async with Executor(2, on_error="log") as executor:
        assert counts() == (0, 0, 0, 0, 0, 0, 0)
        futures = [executor.submit(event.wait) for _ in range(3)]
        assert counts() == (0, 3, 0, 3, 0, 0, 0)
        await all_blocked()
        assert counts() == (2, 1, 0, 3, 0, 0, 0)
        futures[2].cancel()
        assert counts() == (2, 0, 0, 3, 0, 0, 1)
        event.set()
        await gather(*futures[:2])
        assert counts() == (0, 0, 0, 3, 2, 0, 1)
        failed = executor.submit(fail)
        await failed.wait()
        failed.exception()
        assert counts() == (0, 0, 0, 4, 2, 1, 1)
        running = executor.submit(anyio.sleep_forever)
        await all_blocked()
        running.cancel()
        assert counts() == (1, 0, 0, 5, 2, 1, 1)
        await running.wait()
        assert counts() == (0, 0, 0, 5, 2, 1, 2)
    assert counts() == (0, 0, 0, 5, 2, 1, 2)


async def test_record_does_not_follow_the_executor() -> None:
    """A record is of one moment: it stays as it was."""
    async with Executor(1) as executor:
        before = executor.statistics()
        await executor.submit(give)
        assert before.submitted == 0


@pytest.mark.parametrize("slots", [1, 3, math.inf])
async def test_statistics_add_up_at_any_time(slots: float) -> None:
    """Wherever one looks, in jobs, cleanups, callbacks and other tasks, the counts are right."""
    futures: list[Future[None]] = []
    samples = 0
    wrong = set()

    def sample(_: object = None) -> None:
        nonlocal samples
        samples += 1
        statistics = executor.statistics()
        assert_adds_up(statistics)
        # The same counted one by one, by what the futures say.
        counts = Counter(repr(future).split()[2].rstrip(">") for future in futures)
        counts["submitted"] = len(futures)
        for name in ("submitted", "queued", "running", "succeeded", "failed", "cancelled"):
            if getattr(statistics, name) != counts[name]:
                wrong.add(f"{name}: {getattr(statistics, name)}, not {counts[name]}")

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
            for _ in range(10):
                await checkpoint()
            executor.cancel()
            sample()
            for future in futures:
                await future.wait()
                sample()
                future.cancelled() or future.exception()
        sample()
        tg.cancel_scope.cancel()
    assert not wrong
    assert samples > 100
    statistics = executor.statistics()
    assert statistics.queued == statistics.running == 0
    assert statistics.cancelled >= 8


async def test_callback_finds_its_job_counted() -> None:
    seen = []

    async def fail() -> None:
        raise Boom

    def look(_: object) -> None:
        s = executor.statistics()
        seen.append((s.submitted, s.running, s.succeeded, s.failed, s.cancelled))

    async with Executor(1) as executor:
        for fn in (give, fail, anyio.sleep_forever, anyio.sleep_forever):
            future: Future[Any] = executor.submit(fn)
            future.add_done_callback(look)
            if len(seen) < 3:
                await all_blocked()
            future.cancel()
            await future.wait()
            future.cancelled() or future.exception()
    assert seen == [(1, 0, 1, 0, 0), (2, 0, 1, 1, 0), (3, 0, 1, 1, 1), (4, 0, 1, 1, 2)]


# What it says of itself.


async def test_repr_shows_state_and_live_counts() -> None:
    """An executor's `repr` tells its name, its state, its slots, and what runs and waits now."""
    executor = Executor(2, name="pages")
    assert repr(executor) == "<Executor 'pages' not entered slots=2 running=0 queued=0>"
    async with executor:
        for _ in range(5):
            executor.submit(anyio.sleep_forever)
        assert repr(executor) == "<Executor 'pages' open slots=2 running=0 queued=5>"
        await all_blocked()
        assert repr(executor) == "<Executor 'pages' open slots=2 running=2 queued=3>"
        executor.close()
        assert repr(executor) == "<Executor 'pages' closed slots=2 running=2 queued=3>"
        executor.cancel()
        await executor.join()
    assert repr(executor) == "<Executor 'pages' ended slots=2 running=0 queued=0>"


async def test_repr_while_shutting_down() -> None:
    """During the grace an executor's `repr` says that it's shutting down."""
    event = anyio.Event()
    async with Executor(math.inf) as executor, anyio.create_task_group() as tg:
        executor.submit(event.wait)
        tg.start_soon(executor.shutdown)
        await all_blocked()
        assert repr(executor) == "<Executor shutting down slots=inf running=1 queued=0>"
        event.set()


def test_slots_and_name_can_be_read() -> None:
    """An executor gives back the slots and the name that it was made with."""
    executor = Executor(3, name="pages")
    assert (executor.slots, executor.name) == (3, "pages")
    assert Executor(math.inf).slots == math.inf
    assert Executor(1).name is None


def test_executor_that_is_collected_while_open_warns() -> None:
    """An executor that was entered and is gone without being left gives a `ResourceWarning`."""
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


async def test_executor_that_is_not_open_is_collected_silently() -> None:
    """One that was never entered, or has ended, may be dropped; pytest makes warnings errors."""
    unused = Executor(1)
    async with Executor(1) as executor:
        executor.submit(give)
    del unused, executor
    gc.collect()


@pytest.mark.parametrize("how", ["resting", "running"])
def test_executor_that_is_never_left_does_not_keep_asyncio_from_ending(how: str) -> None:
    """`asyncio.run` ends although its main task left an executor entered, and jobs are settled."""
    futures: list[Future[Any]] = []

    async def main() -> None:
        executor = await Executor(1).__aenter__()
        if how == "running":
            futures.extend(executor.submit(anyio.sleep_forever) for _ in range(3))
            await all_blocked()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        asyncio.run(main())
        assert [future.cancelled() for future in futures] == [True] * len(futures)
        futures.clear()
        gc.collect()
