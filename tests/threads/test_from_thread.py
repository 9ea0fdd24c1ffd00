"""Submitting from other threads than the event loop's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import anyio
import pytest
from anyio import to_thread, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from runners import HAS_GIL

from anyslots import Executor, ExecutorClosed, from_thread
from anyslots._runtime.entry_queue import EntryQueue
from anyslots._thread_future import ThreadFuture

pytestmark = pytest.mark.anyio

T = TypeVar("T")


async def give(value: Any = None) -> Any:
    return value


async def fail(error: BaseException) -> None:
    raise error


async def in_thread(fn: Callable[..., T], *args: Any) -> T:
    """What a plain function returns in a thread of its own, with the loop free meanwhile."""
    return await to_thread.run_sync(lambda: fn(*args))


def in_blocking_thread(fn: Callable[..., T], *args: Any) -> T:
    """The same, with the loop stopped meanwhile."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(fn, *args).result()


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


class Blocked:
    """A job that waits until it's cancelled, or let go."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.go = anyio.Event()
        self.log: list[str] = []

    async def __call__(self, then: str | None = None) -> str:
        self.log.append("begun")
        self.begun.set()
        try:
            await self.go.wait()
        except anyio.get_cancelled_exc_class():
            self.log.append("cancelled")
            if then is None:
                raise
            return then
        return "let go"


# Results.


async def test_a_thread_gets_the_result() -> None:
    """A thread submits to an executor or a lane, with arguments, and blocks for the result."""

    async def join(*words: str, by: str) -> str:
        await checkpoint()
        assert threading.current_thread() is thread
        return by.join(words)

    thread = threading.current_thread()
    async with Executor(2) as executor:
        for place in (executor, executor.lane("x")):

            def work(place: Any = place) -> str:
                return from_thread.submit(place, join, "a", "b", by="+").result(10)

            assert await in_thread(work) == "a+b"


async def test_a_thread_gets_the_exception() -> None:
    """The job's own exception is raised in the thread, and counts as looked at."""
    error = LookupError("lost")
    async with Executor(1, on_error="hold") as executor:
        future = await in_thread(from_thread.submit, executor, fail, error)
        assert await in_thread(future.exception, 10) is error
        with pytest.raises(LookupError, match="lost"):
            future.result(0)


async def test_a_full_queue() -> None:
    """If there's no room the future fails with `WouldBlock`, and nothing was submitted."""
    async with Executor(1, max_pending=1) as executor:
        job = Blocked()
        executor.submit(job)
        await job.begun.wait()
        executor.submit(give)
        future = await in_thread(from_thread.submit, executor, give)
        assert isinstance(await in_thread(future.exception, 10), anyio.WouldBlock)
        assert executor.statistics().submitted == 2
        job.go.set()


async def test_waiting_for_several() -> None:
    """`concurrent.futures.wait` and `as_completed` take these futures."""

    def work() -> None:
        futures = [from_thread.submit(executor, give, n) for n in range(10)]
        done, not_done = concurrent.futures.wait(futures, timeout=10)
        assert (done, not_done) == (set(futures), set())
        futures = [from_thread.submit(executor, give, n) for n in range(10)]
        completed = concurrent.futures.as_completed(futures, timeout=10)
        assert sorted(future.result() for future in completed) == list(range(10))
        first = from_thread.submit(executor, anyio.sleep, 0)
        dropped = from_thread.submit(executor.lane(rate=None), anyio.sleep_forever)
        dropped.cancel()
        assert not concurrent.futures.wait([first, dropped], timeout=10).not_done

    async with Executor(3) as executor:
        await in_thread(work)


async def test_callbacks_are_called_in_the_loop() -> None:
    """A done callback is called in the event loop's thread."""
    called: list[threading.Thread] = []
    async with Executor(1) as executor:
        job = Blocked()
        future = await in_thread(from_thread.submit, executor, job)
        await job.begun.wait()
        future.add_done_callback(lambda _: called.append(threading.current_thread()))
        job.go.set()
        assert await in_thread(future.result, 10) == "let go"
    assert called == [threading.current_thread()]


# Cancelling.


async def test_cancelling_a_queued_job() -> None:
    """It's cancelled at once, and never runs."""
    async with Executor(1) as executor:
        job, other = Blocked(), Blocked()
        executor.submit(job)
        future = await in_thread(from_thread.submit, executor, other)
        await wait_all_tasks_blocked()
        assert not future.running()
        assert await in_thread(lambda: (future.cancel(), future.cancelled())) == (True, True)
        assert await in_thread(future.cancel)
        await wait_all_tasks_blocked()
        assert (executor.statistics().queued, executor.statistics().cancelled) == (0, 1)
        job.go.set()
    assert other.log == []


async def test_cancelling_a_running_job() -> None:
    """It's cancelled at its checkpoint, and the future when the job has unwound."""
    async with Executor(1) as executor:
        job = Blocked()
        future = await in_thread(from_thread.submit, executor, job)
        await job.begun.wait()
        assert future.running()
        assert (future.cancel(), future.cancelled(), future.done()) == (True, False, False)
        with pytest.raises(concurrent.futures.CancelledError):
            await in_thread(future.result, 10)
        assert (future.cancelled(), future.running(), future.cancel()) == (True, False, True)
    assert job.log == ["begun", "cancelled"]


async def test_a_job_that_catches_its_cancellation() -> None:
    """What it returns is the result."""
    async with Executor(1) as executor:
        job = Blocked()
        future = await in_thread(from_thread.submit, executor, job, "all the same")
        await job.begun.wait()
        assert await in_thread(future.cancel)
        assert await in_thread(future.result, 10) == "all the same"
        assert not future.cancel()


async def test_cancelling_a_job_that_is_about_to_begin() -> None:
    """Cancelled when a slot was given to it already, it doesn't begin."""
    async with Executor(1) as executor:
        job = Blocked()
        future = ThreadFuture(executor, job, (), {})
        future.deliver()
        # Its slot's worker is on its way, ahead of what another thread says now.
        assert in_blocking_thread(future.cancel)
        await executor.join()
        assert executor.statistics().cancelled == 1
    assert job.log == []
    assert future.cancelled()


async def test_a_future_cancelled_before_it_is_taken() -> None:
    """If a thread changes its mind before the loop looks, the job was never there to run."""
    async with Executor(1) as executor:
        job = Blocked()

        def work() -> concurrent.futures.Future[str]:
            future = from_thread.submit(executor, job)
            assert future.cancel()
            return future

        future = in_blocking_thread(work)
        await executor.join()
    assert future.cancelled()
    assert job.log == []


async def test_a_job_that_its_executor_cancels() -> None:
    """The executor cancels queued and running jobs of threads like all others."""
    async with Executor(1) as executor:
        job = Blocked()
        futures = [await in_thread(from_thread.submit, executor, job) for _ in range(2)]
        await job.begun.wait()
        executor.cancel("enough")
        for future in futures:
            with pytest.raises(concurrent.futures.CancelledError):
                await in_thread(future.result, 10)
    assert [future.cancelled() for future in futures] == [True, True]


async def test_a_job_that_expires_in_the_queue() -> None:
    """The future of a job that waited too long fails with `QueueTimeout`."""
    async with Executor(1) as executor:
        job = Blocked()
        executor.submit(job)
        lane = executor.lane(queue_timeout=0.01)
        future = await in_thread(from_thread.submit, lane, give)
        with pytest.raises(TimeoutError, match="queued for"):
            await in_thread(future.result, 10)
        job.go.set()


# Where nothing can be submitted.


async def test_the_loops_own_thread_is_refused() -> None:
    """There, the error names what to call instead."""
    async with Executor(1) as executor:
        with pytest.raises(RuntimeError, match=r"executor\.submit instead"):
            from_thread.submit(executor, give)


async def test_an_executor_that_takes_nothing() -> None:
    """Not entered, closed, shutting down or ended: it's said in the thread that asks."""
    executor = Executor(1)
    with pytest.raises(RuntimeError, match="async with"):
        from_thread.submit(executor, give)
    async with executor:
        lane = executor.lane()
        lane.close()
        with pytest.raises(ExecutorClosed):
            await in_thread(from_thread.submit, lane, give)
        job = Blocked()
        executor.submit(job)
        async with anyio.create_task_group() as tg:
            tg.start_soon(executor.shutdown)
            await job.begun.wait()
            with pytest.raises(ExecutorClosed):
                await in_thread(from_thread.submit, executor, give)
            job.go.set()
        with pytest.raises(ExecutorClosed):
            await in_thread(from_thread.submit, executor, give)
    with pytest.raises(ExecutorClosed):
        await in_thread(from_thread.submit, executor, give)


@pytest.mark.parametrize("bad", [None, "executor", Executor])
def test_bad_executors(bad: Any) -> None:
    """Anything but an executor or a lane is a `TypeError` that names the argument."""
    with pytest.raises(TypeError, match="executor must be an anyslots Executor or Lane, not"):
        from_thread.submit(bad, give)


def test_a_bad_function() -> None:
    """So is what can't be called."""
    with pytest.raises(TypeError, match="fn must be callable, not 3"):
        from_thread.submit(Executor(1), 3)  # type: ignore[arg-type]


async def test_a_plain_function_fails_like_any_job() -> None:
    """A function that returns nothing to await fails with the error that says what to do."""
    async with Executor(1) as executor:
        future = await in_thread(from_thread.submit, executor, abs, -3)
        with pytest.raises(TypeError, match=r"abs returned 3.*to_thread"):
            await in_thread(future.result, 10)


# The end.


@pytest.mark.parametrize("end", ["leave", "close", "shutdown"])
async def test_what_was_handed_in_before_the_end_runs(end: str) -> None:
    """What a thread submitted before the executor closes runs, even if the loop hasn't seen it."""
    async with Executor(1) as executor:
        futures = in_blocking_thread(
            lambda: [from_thread.submit(executor, give, number) for number in range(3)]
        )
        if end == "close":
            executor.close()
        elif end == "shutdown":
            await executor.shutdown()
    assert [future.result(0) for future in futures] == [0, 1, 2]


async def test_what_was_handed_in_is_settled_if_the_body_raises() -> None:
    """The futures of what the loop hasn't seen by then fail, or stay cancelled."""

    def work() -> list[concurrent.futures.Future[Any]]:
        futures = [from_thread.submit(executor, give) for _ in range(2)]
        futures[1].cancel()
        return futures

    with pytest.raises(LookupError):
        async with Executor(1) as executor:
            futures = in_blocking_thread(work)
            raise LookupError
    assert isinstance(futures[0].exception(0), ExecutorClosed)
    assert futures[1].cancelled()


class Item:
    def __init__(self) -> None:
        self.log: list[object] = []

    def deliver(self) -> None:
        self.log.append("delivered")

    def reject(self, error: Exception) -> None:
        self.log.append(type(error))


def test_a_closed_entry_queue_rejects_what_is_left() -> None:
    """It asks once for many deliveries; closed, it rejects what's left, and takes no more."""
    entries = EntryQueue()
    items = [Item() for _ in range(4)]
    with pytest.raises(ExecutorClosed):
        entries.put(items[0])
    looks: list[Callable[[], object]] = []
    entries.open(looks.append)
    entries.put(items[0])
    entries.put(items[1])
    assert len(looks) == 1
    looks.pop()()
    entries.put(items[2])
    entries.close()
    looks.pop()()
    with pytest.raises(ExecutorClosed):
        entries.put(items[3])
    assert [item.log for item in items] == [["delivered"], ["delivered"], [ExecutorClosed], []]


@pytest.mark.filterwarnings("ignore:.*was never left:ResourceWarning")
def test_a_loop_that_was_closed() -> None:
    """If the loop was closed with the executor entered, nothing is taken, and nothing hangs."""
    executor = Executor(1)

    def submit() -> concurrent.futures.Future[Any]:
        return from_thread.submit(executor, give)

    async def enter() -> None:
        await executor.__aenter__()
        executor.pause()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(enter())
    future = in_blocking_thread(submit)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert in_blocking_thread(future.cancel)
    assert future.cancelled()
    with pytest.raises(ExecutorClosed):
        in_blocking_thread(submit)


# Many threads.


@pytest.mark.unmeasured
@pytest.mark.real_time
@pytest.mark.usefixtures("quick_switches")
async def test_eight_threads_that_submit_500_jobs_each() -> None:
    """Every future gets its own job's result."""

    def work(thread: int) -> None:
        futures = [from_thread.submit(lanes[n % 3], give, (thread, n)) for n in range(500)]
        assert [future.result(60) for future in futures] == [(thread, n) for n in range(500)]

    async with Executor(4) as executor:
        lanes = [executor, executor.lane(slots=1), executor.lane(priority=1)]
        async with anyio.create_task_group() as tg:
            for thread in range(8):
                tg.start_soon(in_thread, work, thread)
        assert executor.statistics().succeeded == 4000


@pytest.mark.unmeasured
@pytest.mark.real_time
@pytest.mark.usefixtures("quick_switches")
async def test_cancelling_races_with_the_end_of_10000_jobs() -> None:
    """Each future is either cancelled or has its result, and none is lost."""

    async def job(number: int) -> int:
        if number % 2:
            await checkpoint()
        return number

    def work(first: int) -> int:
        cancelled = 0
        for batch in range(first, first + 5000, 20):
            numbers = range(batch, batch + 20)
            futures = {n: from_thread.submit(executor, job, n) for n in numbers}
            futures[batch].result(60)  # the others may or may not have ended by now
            for future in futures.values():
                assert future.cancel() or future.done()
            assert not concurrent.futures.wait(futures.values(), timeout=60).not_done
            for number, future in futures.items():
                cancelled += future.cancelled()
                assert future.cancelled() or future.result() == number
        return cancelled

    counts: list[int] = []

    async def count(first: int) -> None:
        counts.append(await in_thread(work, first))

    async with Executor(2) as executor:
        async with anyio.create_task_group() as tg:
            tg.start_soon(count, 0)
            tg.start_soon(count, 5000)
        await executor.join()
        statistics = executor.statistics()
    assert 0 < sum(counts) < 10_000
    assert statistics.failed == statistics.running == statistics.queued == 0


# Context, and what is kept.

var: ContextVar[str] = ContextVar("var", default="unset")


async def test_a_job_sees_the_context_of_its_thread() -> None:
    async def look() -> str:
        seen = var.get()
        var.set("the job's")
        await checkpoint()
        return seen

    def work() -> None:
        var.set("the thread's")
        assert from_thread.submit(executor, look).result(10) == "the thread's"
        assert var.get() == "the thread's"

    var.set("the loop's")
    async with Executor(1) as executor:
        await in_thread(work)
        thread = threading.Thread(target=work)
        thread.start()
        await in_thread(thread.join)
    assert var.get() == "the loop's"


@pytest.mark.parametrize("without_sniffio", [False, True])
async def test_a_thread_with_another_event_loop(
    monkeypatch: pytest.MonkeyPatch, without_sniffio: bool, loop_name: str
) -> None:
    """A job runs in its own event loop, though its submitter ran in one of the other kind."""

    async def job() -> str:
        await anyio.sleep(0.001)
        return "slept"

    async def submit() -> concurrent.futures.Future[str]:
        return from_thread.submit(executor, job)

    other = "asyncio" if loop_name == "trio" else "trio"
    async with Executor(1) as executor:
        future = await in_thread(lambda: anyio.run(submit, backend=other))
        assert await in_thread(future.result, 10) == "slept"
        if without_sniffio:
            # Then there's nothing to be mistaken about.
            monkeypatch.delitem(sys.modules, "sniffio")
            future = in_blocking_thread(from_thread.submit, executor, job)
            executor._runtime.entries.deliver()
            monkeypatch.undo()
            assert await in_thread(future.result, 10) == "slept"


class Argument:
    pass


async def ignore(_: object) -> None:
    pass


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("cancel", [False, True])
async def test_a_done_future_keeps_no_argument(cancel: bool) -> None:
    """When the job is done, its arguments are freed without the collector."""
    async with Executor(1) as executor:
        argument = Argument()
        kept = weakref.ref(argument)
        future = in_blocking_thread(from_thread.submit, executor, ignore, argument)
        if cancel:
            future.cancel()
        await executor.join()
        await wait_all_tasks_blocked()
        del argument
        assert future.done()
        if not HAS_GIL:
            gc.collect()
        assert kept() is None
