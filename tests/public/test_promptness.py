"""What is cancelled or timed out ends at once, as what it is; what never started never runs."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from types import coroutine
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from jobs import all_blocked, counts
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import (
    BlockingExecutor,
    Executor,
    Future,
    JobCancelled,
    QueueTimeout,
    Rate,
    Results,
    gather,
)
from anyslots.instruments import Progress

pytestmark = pytest.mark.anyio

virtual = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


async def one(x: int = 1) -> int:
    await checkpoint()
    return x


# Submitters that are cancelled as they wait.


@pytest.mark.usefixtures("asyncio_only")
@pytest.mark.parametrize("max_pending", [0, 1, math.inf])
@pytest.mark.parametrize("busy", [False, True])
async def test_enqueue_that_has_timed_out_already(max_pending: float, busy: bool) -> None:
    """`asyncio.timeout(0)` around `enqueue`, with a free slot too: the job never runs."""
    ran: list[int] = []

    async def job() -> None:
        ran.append(1)

    async with Executor(1, max_pending=max_pending) as executor:
        release = asyncio.Event()
        if busy:
            await executor.enqueue(release.wait)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await executor.enqueue(job)
        release.set()
        await executor.join()
        assert ran == []
        assert await executor.submit(one) == 1


@pytest.mark.usefixtures("asyncio_only")
@pytest.mark.parametrize("max_pending", [0, 1, math.inf])
@pytest.mark.parametrize("native", [False, True])
async def test_enqueue_cancelled_at_every_turn(max_pending: float, native: bool) -> None:
    """Either it returns the job's future, or it's cancelled, and the job never runs."""
    scopes: list[anyio.CancelScope] = []
    for turns in range(12):
        scopes.clear()
        ran: list[int] = []
        returned: list[object] = []

        async def job(ran: list[int] = ran) -> None:
            ran.append(1)

        async def submit(
            executor: Executor, job: Any = job, returned: list[object] = returned
        ) -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                returned.append(await executor.enqueue(job))

        async with Executor(1, max_pending=max_pending) as executor:
            release = asyncio.Event()
            futures = [await executor.enqueue(release.wait)]
            if max_pending == 1:
                futures.append(executor.submit(one))
            task = asyncio.create_task(submit(executor))
            for turn in range(turns):
                if turn == 4:
                    release.set()
                await asyncio.sleep(0)
            was_waiting = not task.done()
            if native:
                task.cancel()
            elif scopes:
                scopes[0].cancel()
            release.set()
            await asyncio.wait([task])
            await executor.join()
            assert len(ran) == len(returned), turns
            assert task.cancelled() == (native and was_waiting), turns
            counts = executor.statistics()
            assert counts.submitted == counts.succeeded + counts.cancelled


@pytest.mark.usefixtures("asyncio_only")
async def test_a_timeout_around_enqueue_leaves_no_cancellation_behind() -> None:
    """Whenever it expires, before, in or after the turn in which a slot takes the job."""
    for turns in range(12):
        timeouts: list[asyncio.Timeout] = []

        async def submit(
            executor: Executor, timeouts: list[asyncio.Timeout] = timeouts
        ) -> asyncio.Task[None] | None:
            try:
                async with asyncio.timeout(3600) as timeout:
                    timeouts.append(timeout)
                    await executor.enqueue(one)
            except TimeoutError:
                pass
            for _ in range(5):
                await asyncio.sleep(0)
            return asyncio.current_task()

        async with Executor(1, max_pending=0) as executor:
            release = asyncio.Event()
            await executor.enqueue(release.wait)
            task = asyncio.create_task(submit(executor))
            for turn in range(turns):
                if turn == 4:
                    release.set()
                if turn == turns - 1 and timeouts:
                    with contextlib.suppress(RuntimeError):  # it has been left
                        timeouts[0].reschedule(0)
                await asyncio.sleep(0)
            release.set()
            assert await task is task, turns
            assert task.cancelling() == 0


async def test_enqueue_cancelled_when_its_job_has_begun(loop_name: str) -> None:
    """A job's wait for its own slot is cancelled: the future is returned, then comes the end."""
    if loop_name != "trio" and sys.version_info < (3, 13):
        pytest.skip("asyncio's timeouts couldn't take back a cancellation that's yet to come")
    release = anyio.Event()
    returned: list[Future[None]] = []

    async def submitter(executor: Executor) -> None:
        returned.append(await executor.enqueue(release.wait))
        await checkpoint()
        raise AssertionError("the cancellation is lost")

    async with Executor(1, max_pending=0) as executor:
        future = executor.submit(submitter, executor)
        await all_blocked()
        assert counts(executor)[:3] == (0, 1, 1)
        future.cancel()
        await future.wait()
        assert future.cancelled()
        assert [each.running() for each in returned] == [True]
        release.set()


async def test_a_slot_that_waited_for_capacity_leaves_nothing_behind() -> None:
    async with Executor(1, max_pending=0) as executor:
        release = anyio.Event()
        await executor.enqueue(release.wait)

        async def occupy() -> None:
            async with executor.slot():
                await checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(occupy)
            await all_blocked()
            release.set()
        scheduler = executor._runtime.scheduler
        assert not scheduler.admission.putters
        assert not scheduler.admission.unconfirmed


@coroutine
def throw_while_waiting(executor: Executor, coro: Any, error: BaseException) -> Any:
    """Drive an `enqueue` until it waits for capacity; then raise something there."""
    value = coro.send(None)
    while not executor._runtime.scheduler.admission.putters:
        value = coro.send((yield value))
    coro.throw(error)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, LookupError])
async def test_an_enqueue_that_anything_ends_takes_back_its_job(error: type[BaseException]) -> None:
    """Not a cancellation alone: Ctrl-C may strike there, and a coroutine may be closed."""
    ran: list[int] = []

    async def job() -> None:
        ran.append(1)

    async with Executor(1, max_pending=0) as executor:
        release = anyio.Event()
        await executor.enqueue(release.wait)
        with pytest.raises(error):
            await throw_while_waiting(executor, executor.enqueue(job), error())
        release.set()
        await executor.join()
    assert ran == []


# Timeouts.


@pytest.mark.parametrize("how", ["future", "lane", "executor"])
async def test_a_timeout_stays_one_if_the_job_is_cancelled_too(how: str) -> None:
    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            unwinding.set()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)

    unwinding = anyio.Event()
    async with Executor(1, timeout=0.01) as executor:
        lane = executor.lane()
        future = lane.submit(slow)
        await unwinding.wait()
        if how == "future":
            assert future.cancel() is True
        elif how == "lane":
            lane.cancel()
        else:
            executor.cancel()
        await future.wait()
        assert isinstance(future.exception(), TimeoutError)
        assert not isinstance(future.exception(), QueueTimeout)


@virtual
def test_a_timeout_that_is_set_while_jobs_run(backend: str) -> None:
    """It holds for later starts; the message of one that has timed out tells its own."""

    async def main() -> None:
        async with Executor(2, on_error="log") as executor:
            lane = executor.lane(timeout=2)
            future = lane.submit(anyio.sleep, 10)
            await anyio.sleep(1)
            lane.timeout = None
            untimed = lane.submit(anyio.sleep, 10)
            await future.wait()
            assert anyio.current_time() == 2
            with pytest.raises(TimeoutError, match="2"):
                await future
            await untimed
            assert anyio.current_time() == 11

    run_in_virtual_time(backend, main)


async def test_a_timeout_error_of_the_jobs_own_is_passed_on() -> None:
    """The very object, with a timeout of the lane's or without."""
    error = TimeoutError("own")

    async def fail() -> None:
        raise error

    async with Executor(1, timeout=10) as executor:
        future = executor.submit(fail)
        await future.wait()
        assert future.exception() is error


# Contexts of threads.

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def test_contexts_of_threads_that_call_back() -> None:
    """`from_thread.run` sees what the thread has set; the job doesn't, nor does the next one."""

    async def look_and_set() -> str:
        seen = variable.get()
        await checkpoint()
        assert variable.get() == seen
        variable.set("set in callback")
        return seen

    def in_thread() -> str:
        variable.set("set in thread")
        seen = anyio.from_thread.run(look_and_set)
        return f"{seen}, {variable.get()}"

    async def job(name: str) -> tuple[str, str]:
        assert variable.get() == "submitter"
        variable.set(name)
        seen = await anyio.to_thread.run_sync(in_thread)
        return seen, variable.get()

    variable.set("submitter")
    async with Executor(1) as executor:
        for name in ("first", "second"):
            seen, after = await executor.submit(job, name)
            assert seen.startswith("set in thread, ")
            assert after == name
    assert variable.get() == "submitter"


async def test_contexts_of_trios_own_threads(loop_name: str) -> None:
    """The same with `trio.to_thread` and `trio.from_thread`, which step the job's task itself."""
    if loop_name != "trio":
        pytest.skip("trio's own")
    import trio

    async def look_and_set() -> str:
        seen = variable.get()
        await trio.lowlevel.checkpoint()
        assert variable.get() == seen
        variable.set("set in callback")
        return seen

    def in_thread() -> str:
        variable.set("set in thread")
        return trio.from_thread.run(look_and_set)

    async def job(name: str) -> str:
        variable.set(name)
        for _ in range(3):
            assert await trio.to_thread.run_sync(in_thread) == "set in thread"
            assert variable.get() == name
        return variable.get()

    async with Executor(2) as executor:
        assert await gather(*[executor.submit(job, name) for name in "abc"]) == ["a", "b", "c"]


# Several consumers of one `Results`.


def consumer_of(kind: str) -> Callable[[Results[int]], Any]:
    async def takes_list(results: Results[int]) -> list[int]:
        return await results

    async def takes_one(results: Results[int]) -> list[int]:
        try:
            return [await anext(results)]
        except StopAsyncIteration:
            return []

    async def iterates(results: Results[int]) -> list[int]:
        return [result async for result in results]

    return {"list": takes_list, "one": takes_one, "loop": iterates}[kind]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    "kinds",
    [("list", "one"), ("one", "list"), ("loop", "list"), ("loop", "loop", "one"), ("list", "list")],
    ids="+".join,
)
async def test_several_tasks_take_from_one_map(
    kinds: tuple[str, ...], ordered: bool, asynchronous: bool
) -> None:
    """Each result goes to one of them, and none of them hangs."""

    async def items() -> AsyncIterator[int]:
        for n in range(12):
            await checkpoint()
            yield n

    taken: list[int] = []

    async def consume(results: Results[int], kind: str) -> None:
        taken.extend(await consumer_of(kind)(results))

    async with Executor(2) as executor:
        source: Any = items() if asynchronous else range(12)
        results = executor.map(one, source, ordered=ordered)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for kind in kinds:
                    group.start_soon(consume, results, kind)
    assert sorted(taken) == list(range(12))


async def test_several_tasks_meet_the_failure_of_a_map() -> None:
    """All of them end, and at least one by it; which is a matter of who's awake first."""

    async def fail(n: int) -> int:
        await anyio.sleep(0.005)
        raise ValueError(n)

    ends: list[str] = []

    async def consume(results: Results[int]) -> None:
        try:
            async for _ in results:
                pass
            ends.append("ended")
        except ValueError:
            ends.append("failed")

    async with Executor(2) as executor:
        results = executor.map(fail, range(4))
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(consume, results)
    assert len(ends) == 3
    assert "failed" in ends


async def test_a_source_that_closes_its_own_results() -> None:
    """It's told so: nothing hangs, and the consumer gets the error."""

    async def items() -> AsyncIterator[int]:
        yield 1
        await results[0].aclose()
        yield 2

    results: list[Results[int]] = []
    async with Executor(2) as executor:
        results.append(executor.map(one, items()))
        with anyio.fail_after(5), pytest.raises(RuntimeError, match="source of a map"):
            async for _ in results[0]:
                pass
        assert await executor.submit(one) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_waiting_map_notices_more_slots(asynchronous: bool) -> None:
    """Inputs for the slots that there are now are taken at once."""

    async def items() -> AsyncIterator[int]:
        for n in range(100):
            yield n

    running = 0
    release = anyio.Event()

    async def job(n: int) -> int:
        nonlocal running
        running += 1
        await release.wait()
        return n

    async with Executor(1) as executor:
        source: Any = items() if asynchronous else range(100)
        async with executor.map(job, source, buffer=0) as results:
            async with anyio.create_task_group() as group:
                group.start_soon(anext, results)
                while running < 1:
                    await checkpoint()
                for _ in range(20):
                    await checkpoint()
                assert running == 1
                executor.slots = 4
                with anyio.fail_after(5):
                    while running < 4:
                        await checkpoint()
                release.set()


# Limits.


@virtual
def test_overlapping_pauses_only_extend_each_other(backend: str) -> None:
    """Two jobs that are told to wait 1 s and 3 s: nothing starts for three, block left or not."""

    async def main() -> None:
        starts: list[float] = []

        async def note() -> None:
            starts.append(anyio.current_time())

        async with Executor(1) as executor:
            lane = executor.lane()
            lane.pause(3)
            lane.pause(1)
            lane.submit(note)
            await anyio.sleep(2)
            assert starts == []
            lane.pause(0.5)
        assert starts == [3]

    run_in_virtual_time(backend, main)


@virtual
def test_a_lane_for_each_host_keeps_its_rate(backend: str) -> None:
    """Idle in between, it still starts one job a second, and is one lane however it's got."""

    async def main() -> None:
        starts: list[float] = []

        async def note() -> None:
            starts.append(anyio.current_time())

        async with Executor(5) as executor:
            hosts = executor.keyed(slots=1, rate=Rate(1, per=1))
            for _ in range(5):
                await hosts["example.org"].submit(note)
            first = hosts["example.org"].submit(anyio.sleep, 1)
            second = hosts["example.org"].submit(note)
            await first
            await second
            assert len(hosts) == 1
        assert starts == [0, 1, 2, 3, 4, 6]

    run_in_virtual_time(backend, main)


@virtual
def test_what_a_rate_costs_the_clock(backend: str) -> None:
    """One timer a lane, however many starts wait: 3,000 through a rate with all slots free."""

    async def main() -> None:
        async with Executor(math.inf) as executor:
            lane = executor.lane(rate=Rate(1000, per=3600))
            futures = [lane.submit(one, n) for n in range(3000)]
            assert await gather(*futures) == list(range(3000))
            assert anyio.current_time() >= 7200

    run_in_virtual_time(backend, main)


async def test_progress_counts_no_cancelled_jobs(tmp_path: Any) -> None:
    """After an interruption, ten of forty are done, and the bar says so."""
    progress = Progress(total=40)
    with progress:
        async with Executor(2, instruments=[progress]) as executor:
            done = [executor.submit(one) for _ in range(10)]
            await gather(*done)
            rest = [executor.submit(anyio.sleep_forever) for _ in range(30)]
            await checkpoint()
            executor.cancel()
            await executor.join()
            assert all(future.cancelled() for future in rest)
    assert executor.statistics().succeeded == 10
    assert executor.statistics().cancelled == 30


# Other threads.


async def test_a_blocking_executor_in_a_thread_that_inherits_context() -> None:
    """Its own thread inherits no context, whose variables say which event loop runs."""

    class Inheriting(threading.Thread):
        def start(self) -> None:
            context = contextvars.copy_context()
            run = self.run
            self.run = lambda: context.run(run)  # type: ignore[method-assign]
            super().start()

    plain, threading.Thread = threading.Thread, Inheriting  # type: ignore[misc]
    try:
        for backend in VIRTUAL_BACKENDS:
            executor = BlockingExecutor(1, backend=backend)
            try:
                assert executor.submit(one, 5).result(timeout=5) == 5
            finally:
                executor.shutdown(wait=False)
    finally:
        threading.Thread = plain  # type: ignore[misc]


async def test_entering_while_trio_is_half_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread imports it: what isn't there yet isn't asked for."""
    import sys
    import types

    if "trio" in sys.modules and anyio.get_cancelled_exc_class().__module__.startswith("trio"):
        pytest.skip("trio runs")
    monkeypatch.setitem(sys.modules, "trio", types.ModuleType("trio"))
    async with Executor(1) as executor:
        assert await executor.submit(one) == 1


async def test_a_reason_is_kept_as_it_was_given() -> None:
    """Each of two jobs, cancelled for different reasons, tells its own."""
    async with Executor(2) as executor:
        futures = [executor.submit(anyio.sleep_forever) for _ in range(2)]
        await checkpoint()
        await checkpoint()
        for n, future in enumerate(futures):
            future.cancel(f"reason {n}")
        for n, future in enumerate(futures):
            with pytest.raises(JobCancelled, match=f"reason {n}"):
                await future
        references = [weakref.ref(future) for future in futures]
        del futures, future
        assert [reference() for reference in references] == [None, None]
