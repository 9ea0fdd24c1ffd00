"""Ends that are hardly ever met: loops that are thrown away, two ends in one step, and the like."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jobs import give
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, ExecutorClosed, Future, QueueTimeout, lend_slot

pytestmark = pytest.mark.anyio


LENDS = ["lends by hand", "waits for a job", "waits too", "wants its slot back", "is to go on"]


@pytest.mark.parametrize("first", [True, False], ids=["closed first", "closed last"])
@pytest.mark.parametrize("how", ["runs", *LENDS])
def test_futures_are_settled_when_their_loop_is_thrown_away(how: str, first: bool) -> None:
    """An event loop that's closed with tasks in it: no job's future stays undone."""
    ends: list[bool] = []
    executors: list[Executor] = []
    lenders: list[asyncio.Task[Any]] = []
    awaited: list[Future[Any]] = []

    def note(future: Future[Any]) -> None:
        ends.append(future.cancelled())

    async def main() -> None:
        executor = await Executor(1).__aenter__()
        executors.append(executor)

        async def waits() -> None:
            task = asyncio.current_task()
            assert task is not None
            lenders.append(task)
            if how == "runs":
                await anyio.sleep_forever()
            elif how == "waits for a job":
                await executor.submit(anyio.sleep_forever)
            elif how == "waits too":
                if not awaited:
                    executor.submit(waits).add_done_callback(note)
                    awaited.append(executor.submit(anyio.sleep_forever))
                await awaited[0]
            elif how == "is to go on":
                inner = executor.submit(give)
                inner.add_done_callback(lambda _: asyncio.get_running_loop().stop())
                await inner
            elif how == "lends by hand":
                async with lend_slot():
                    await anyio.sleep_forever()
            else:
                async with lend_slot():
                    executor.submit(anyio.sleep_forever).add_done_callback(note)
                    await anyio.sleep(0.01)

        executor.submit(waits).add_done_callback(note)
        if how not in ("is to go on", "waits too"):
            executor.submit(anyio.sleep_forever).add_done_callback(note)
        await anyio.sleep(0.05)

    def close() -> None:
        loop = asyncio.new_event_loop()
        with contextlib.suppress(RuntimeError):
            loop.run_until_complete(main())
        # The lenders before all others, or after them and the last one of them first.
        others = list(asyncio.all_tasks(loop) - set(lenders))
        tasks = [*lenders, *others] if first else [*others, *reversed(lenders)]
        loop.close()
        # What the interpreter does with coroutines that nobody will resume.
        for task in tasks:
            coro = task.get_coro()
            assert coro is not None
            with contextlib.suppress(RuntimeError):  # anyio's scopes want a running event loop
                coro.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        close()
        counts = executors.pop().statistics()
        lenders.clear()
        awaited.clear()
        gc.collect()
    assert len(ends) == {"is to go on": 1, "wants its slot back": 3}.get(how, 2)
    # But for jobs whose own cleaning up needs the loop.
    assert True in ends
    assert counts.running == counts.queued == counts.lent == 0


async def test_a_job_that_raises_an_old_cancellation_is_cancelled() -> None:
    """A cancellation kept from a scope that has ended, raised later: that job alone ends."""

    async def keeps_it() -> None:
        kept: BaseException | None = None
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                await checkpoint()
            except BaseException as exc:
                kept = exc
                raise
        try:
            raise kept or AssertionError
        finally:
            del kept

    async with Executor(1) as executor:
        future, other = executor.submit(keeps_it), executor.submit(give, 3)
        await future.wait()
        assert future.cancelled()
        assert await other == 3


async def test_a_body_that_raises_a_group_with_the_cancellation_in_it(caplog: Any) -> None:
    """What isn't the executor's own cancellation comes out; the job's failure is logged."""

    async def fails() -> None:
        raise KeyError("job")

    caplog.set_level(logging.ERROR, "anyslots")
    with pytest.raises(BaseExceptionGroup) as info:
        async with Executor(1, on_error="cancel") as executor:
            executor.submit(fails)
            try:
                await anyio.sleep_forever()
            except BaseException as cancellation:
                raise BaseExceptionGroup("both", [ValueError("body"), cancellation]) from None
    found = info.value.subgroup(ValueError)
    assert found is not None
    assert [str(exc) for exc in found.exceptions] == ["body"]
    assert [record.name for record in caplog.records] == ["anyslots"]


def test_the_first_of_two_fatal_errors_is_raised(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    """Two jobs raise `SystemExit`, one while it unwinds from the other's: the first counts."""

    async def first() -> None:
        await checkpoint()
        raise SystemExit(1)

    async def second() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise SystemExit(2)

    async def main() -> None:
        async with Executor(2) as executor:
            executor.submit(second)
            executor.submit(first)

    name, options = anyio_backend
    with pytest.raises(SystemExit) as info:
        anyio.run(main, backend=name, backend_options=options)
    assert info.value.code == 1


def test_a_callback_that_ends_the_program_ends_it(
    anyio_backend: tuple[str, dict[str, Any]],
) -> None:
    """`SystemExit` in a done callback ends the executor, and its block raises it."""

    def leave(_: Future[Any]) -> None:
        raise SystemExit(3)

    async def main() -> None:
        async with Executor(1) as executor:
            executor.submit(give).add_done_callback(leave)
            await anyio.sleep_forever()

    name, options = anyio_backend
    with pytest.raises(SystemExit) as info:
        anyio.run(main, backend=name, backend_options=options)
    assert info.value.code == 3


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
def test_a_callback_cancels_a_job_that_has_expired_in_the_same_moment(backend: str) -> None:
    """Two jobs have waited too long: both have failed before the first one's callback runs."""

    async def main() -> None:
        async with Executor(1, queue_timeout=1) as executor:
            executor.submit(anyio.sleep, 5)
            await checkpoint()
            first, second = executor.submit(give), executor.submit(give)
            cancelled = []
            first.add_done_callback(lambda _: cancelled.append(second.cancel("by the first")))
            await first.wait()
            assert isinstance(first.exception(), QueueTimeout)
            assert isinstance(second.exception(), QueueTimeout)
            assert cancelled == [False]
            assert executor.statistics().failed == 2

    run_in_virtual_time(backend, main)


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
def test_an_expiring_job_ends_all_under_the_policy_cancel(backend: str) -> None:
    """With ``on_error="cancel"``, a job that has waited too long cancels the others."""

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as info:
            async with Executor(1, queue_timeout=1, on_error="cancel") as executor:
                runs = executor.submit(anyio.sleep, 5)
                await checkpoint()
                executor.submit(give)
        assert [type(exc) for exc in info.value.exceptions] == [QueueTimeout]
        assert runs.cancelled()
        assert anyio.current_time() == 1

    run_in_virtual_time(backend, main)


async def test_a_job_that_may_expire_is_cancelled_before_any_clock_runs() -> None:
    """Submitted and cancelled in one step: nothing is timed, and nothing is left behind."""
    async with Executor(1, queue_timeout=3600) as executor:
        executor.submit(give)
        future = executor.submit(give)
        assert future.cancel()
        executor.cancel()
        await executor.join()
        assert executor.statistics().cancelled == 2


async def test_a_source_whose_closing_fails_is_the_inputs_error() -> None:
    """A generator that raises when it's closed: a job's failure comes first, if there's one."""

    def source() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            raise ValueError("closing")

    async def fails(number: int) -> None:
        raise KeyError(number)

    async with Executor(1, on_error="log") as executor:
        with pytest.raises(KeyError):
            await executor.map(fails, source())
        results = executor.map(give, source())
        with pytest.raises(ValueError, match="closing"):
            async with results:
                assert await anext(results) == 0
        assert await results == []


async def test_a_plain_callback_is_outside_during_a_shutdown(loop_name: str) -> None:
    """In the grace, jobs' submissions are taken, but not one from a callback of the event loop."""
    if loop_name == "trio":
        import trio

        call_soon: Any = trio.lowlevel.current_trio_token().run_sync_soon
    else:
        call_soon = asyncio.get_running_loop().call_soon
    refused: list[BaseException] = []

    def submit() -> None:
        try:
            executor.submit(give)
        except ExecutorClosed as exc:
            refused.append(exc)

    async with Executor(1) as executor:
        release = anyio.Event()
        executor.submit(release.wait)
        async with anyio.create_task_group() as group:
            group.start_soon(executor.shutdown, None)
            await anyio.wait_all_tasks_blocked()
            call_soon(submit)
            await anyio.wait_all_tasks_blocked()
            assert len(refused) == 1
            release.set()


async def test_a_job_that_is_a_task_and_catches_its_cancellation_succeeds(loop_name: str) -> None:
    """Under asyncio, a task that was cancelled and returned a value all the same: that counts."""
    if loop_name == "trio":
        pytest.skip("trio has no tasks to submit")

    async def stubborn() -> int:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return 4
        raise AssertionError

    async with Executor(1) as executor:
        future = executor.submit(lambda: asyncio.create_task(stubborn()))
        await anyio.wait_all_tasks_blocked()
        future.cancel()
        assert await future == 4
