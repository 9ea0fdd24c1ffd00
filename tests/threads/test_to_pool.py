"""Plain functions on pools: threads, processes, loky's processes, and a Dask cluster of two."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import ContextVar
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from jobs import all_blocked
from pool_functions import add, die, fail, meet, pid
from runners import HAS_GIL, run

from anyslots import Executor, JobCancelled, to_pool

pytestmark = pytest.mark.anyio

on_loky = (pytest.mark.engines, pytest.mark.xdist_group("loky"))
on_dask = (pytest.mark.engines, pytest.mark.xdist_group("dask"))
ENGINES = [
    "threads",
    "processes",
    pytest.param("loky", marks=on_loky),
    pytest.param("dask", marks=on_dask),
]


@pytest.fixture(scope="session")
def dask_pool() -> Iterator[concurrent.futures.Executor]:
    """Two worker processes; if its worker dies, a call is run once more instead of three times."""
    # Imported by the tests that use it alone: it takes a second, and most sessions leave them out.
    dask = pytest.importorskip("dask", reason="dask isn't installed")
    distributed = pytest.importorskip("distributed", reason="distributed isn't installed")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client.get_executor(pure=False)


def processes(workers: int = 2) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def of_loky(workers: int) -> concurrent.futures.Executor:
    loky = pytest.importorskip("loky", reason="loky isn't installed")
    return loky.ProcessPoolExecutor(workers)


MAKE: dict[str, Callable[[int], concurrent.futures.Executor]] = {
    "threads": ThreadPoolExecutor,
    "processes": processes,
    "loky": of_loky,
}


@pytest.fixture(scope="session")
def pools() -> Iterator[dict[str, concurrent.futures.Executor]]:
    """One pool of each kind, with two workers each, started when it's first asked for."""
    made: dict[str, concurrent.futures.Executor] = {}
    yield made
    for pool in made.values():
        pool.shutdown()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pool(
    engine: str, pools: dict[str, concurrent.futures.Executor], request: pytest.FixtureRequest
) -> concurrent.futures.Executor:
    if engine == "dask":
        return request.getfixturevalue("dask_pool")
    if engine not in pools:
        pools[engine] = MAKE[engine](2)
    return pools[engine]


class Meeting:
    """Calls of `meet`, wherever they run: wait until one has begun, and let it go."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(20)
        self.port = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []

    async def begun(self) -> None:
        connection, _ = await to_thread.run_sync(self.listener.accept)
        self.connections.append(connection)

    def let_go(self) -> None:
        for connection in self.connections:
            connection.sendall(b"met")
            connection.close()
        self.connections.clear()


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    meeting = Meeting()
    yield meeting
    meeting.let_go()
    meeting.listener.close()


# On every engine.


async def test_a_result_and_an_exception_come_back(pool: concurrent.futures.Executor) -> None:
    """The call's value is returned, and its exception raised, whatever the pool."""
    assert await to_pool.run_sync(add, 1, 2, pool=pool) == 3
    with pytest.raises(LookupError, match="lost"):
        await to_pool.run_sync(fail, "lost", pool=pool)


async def test_jobs_run_on_a_pool(pool: concurrent.futures.Executor) -> None:
    """Submitted as jobs, calls share the executor's slots; each future gets its own result."""
    async with Executor(4) as executor:
        futures = [executor.submit(to_pool.run_sync, add, n, 1, pool=pool) for n in range(20)]
        assert [await future for future in futures] == list(range(1, 21))


async def test_a_running_call_that_is_cancelled(
    engine: str, pool: concurrent.futures.Executor, meeting: Meeting
) -> None:
    """It's waited for, and its slot stays taken; Dask's is given up, and runs on by itself."""
    async with Executor(1) as executor:
        future = executor.submit(to_pool.run_sync, meet, meeting.port, pool=pool)
        await meeting.begun()
        next_one = executor.submit(anyio.sleep, 0)
        future.cancel("enough")
        if engine != "dask":
            with anyio.move_on_after(0.05):
                await next_one
            assert (future.running(), next_one.running(), next_one.done()) == (True, False, False)
            meeting.let_go()
        with pytest.raises(JobCancelled, match="enough"):
            await future
        await next_one


async def test_an_abandoned_call_runs_on(
    pool: concurrent.futures.Executor, meeting: Meeting
) -> None:
    """With `abandon_on_cancel`, the cancelled task goes on while the call still runs."""
    scope = anyio.CancelScope()

    async def call() -> None:
        with scope:
            await to_pool.run_sync(meet, meeting.port, pool=pool, abandon_on_cancel=True)

    async with anyio.create_task_group() as tg:
        tg.start_soon(call)
        await meeting.begun()
        scope.cancel()
    assert scope.cancelled_caught
    meeting.let_go()


async def test_calls_that_wait_for_a_slot_never_reach_the_pool(
    pool: concurrent.futures.Executor, meeting: Meeting
) -> None:
    async with Executor(1) as executor:
        first = executor.submit(to_pool.run_sync, meet, meeting.port, pool=pool)
        queued = [
            executor.submit(to_pool.run_sync, meet, meeting.port, pool=pool) for _ in range(5)
        ]
        await meeting.begun()
        for future in queued:
            future.cancel()
        assert [future.cancelled() for future in queued] == [True] * 5
        meeting.let_go()
        assert await first == "met"
    meeting.listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        meeting.listener.accept()


# A pool that breaks, or that is ended by somebody else.


@pytest.mark.real_time
@pytest.mark.parametrize("engine", ["processes", pytest.param("loky", marks=on_loky)])
async def test_a_worker_that_dies(engine: str, tmp_path: Path) -> None:
    """Every future of its pool fails with the pool's own error, and the executor goes on."""
    log = tmp_path / "log"
    pool = MAKE[engine](2)
    async with Executor(3) as executor:
        futures = [
            executor.submit(to_pool.run_sync, die, str(log), pool=pool),
            *(executor.submit(to_pool.run_sync, add, 1, 1, pool=pool) for _ in range(5)),
        ]
        for future in futures:
            await future.wait()
        with pytest.raises(concurrent.futures.BrokenExecutor, match="terminated"):
            await futures[0]
        for future in futures[1:]:
            error = future.exception()
            assert error is None or isinstance(error, concurrent.futures.BrokenExecutor)
        with ThreadPoolExecutor(1) as other:
            assert await executor.submit(to_pool.run_sync, add, 1, 1, pool=other) == 2
    await to_thread.run_sync(pool.shutdown)
    assert log.read_text() == "x"


@pytest.mark.real_time
@pytest.mark.engines
@pytest.mark.xdist_group("dask")
def test_a_worker_of_dask_that_dies(dask_pool: concurrent.futures.Executor, tmp_path: Path) -> None:
    """Dask runs the call again elsewhere; then it fails, and the cluster and the executor go on."""
    from distributed import KilledWorker

    log = tmp_path / "log"

    async def main() -> None:
        async with Executor(2) as executor:
            future = executor.submit(to_pool.run_sync, die, str(log), pool=dask_pool)
            with pytest.raises(KilledWorker, match="die"):
                await future
            assert await executor.submit(to_pool.run_sync, add, 1, 1, pool=dask_pool) == 2

    anyio.run(main)
    assert log.read_text() == "xx"


@pytest.mark.real_time
async def test_shutting_a_pool_down_is_no_cancellation_of_ours(meeting: Meeting) -> None:
    """A call that a pool's `shutdown` drops fails with `JobCancelled`; its job isn't cancelled."""
    pool = ThreadPoolExecutor(1)
    async with Executor(2) as executor:
        first = executor.submit(to_pool.run_sync, meet, meeting.port, pool=pool)
        await meeting.begun()
        second = executor.submit(to_pool.run_sync, add, 1, 1, pool=pool)
        await all_blocked()
        pool.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(JobCancelled, match="call of add was cancelled"):
            await second
        assert not second.cancelled()
        meeting.let_go()
        assert await first == "met"
        with pytest.raises(RuntimeError, match="after shutdown"):
            await executor.submit(to_pool.run_sync, add, 1, 1, pool=pool)


async def test_a_call_that_raises_a_cancellation_cancels_nobody() -> None:
    """A cancellation that comes out of the call, of another loop say, is news about the call."""

    def cancelled() -> None:
        raise asyncio.CancelledError

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(JobCancelled):
            await to_pool.run_sync(cancelled, pool=pool)
        async with Executor(1) as executor:
            future = executor.submit(to_pool.run_sync, cancelled, pool=pool)
            with pytest.raises(JobCancelled):
                await future
            assert not future.cancelled()


# Cancelling, in detail.


async def test_a_call_that_the_pool_has_not_begun_never_runs(meeting: Meeting) -> None:
    """A pool that's busy with somebody else's calls never begins one that was cancelled."""
    ran: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(meet, meeting.port)
        await meeting.begun()
        async with Executor(1) as executor:
            future = executor.submit(to_pool.run_sync, ran.append, 1, pool=pool)
            await all_blocked()
            assert future.running()
            future.cancel()
            await future.wait()
            assert future.cancelled()
        meeting.let_go()
        assert await to_thread.run_sync(busy.result) == "met"
    assert ran == []


async def test_an_error_of_a_call_that_was_cancelled_is_raised() -> None:
    """The error of a call that ends after it was cancelled doesn't vanish."""
    begun, go = anyio.Event(), threading.Event()
    backend = to_pool.current_backend()

    def fails_late() -> None:
        backend.post(begun.set)
        go.wait()
        raise LookupError("late")

    with ThreadPoolExecutor(1) as pool:
        async with Executor(1) as executor:
            future = executor.submit(to_pool.run_sync, fails_late, pool=pool)
            await begun.wait()
            future.cancel()
            await all_blocked()
            go.set()
            with pytest.raises(LookupError, match="late"):
                await future


async def test_a_cancelled_task_calls_nothing() -> None:
    """Cancelled before it begins, it hands the pool nothing."""
    ran: list[int] = []
    with ThreadPoolExecutor(1) as pool, anyio.CancelScope() as scope:
        scope.cancel()
        await to_pool.run_sync(ran.append, 1, pool=pool)
    assert scope.cancelled_caught
    assert ran == []


def test_a_loop_that_ends_before_the_call(loop_name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A call that was abandoned may end when the event loop is gone: nobody complains."""
    go = threading.Event()
    pool = ThreadPoolExecutor(1)

    async def main() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            with anyio.CancelScope(shield=True) as inner:
                inner.deadline = anyio.current_time() + 0.01
                await to_pool.run_sync(go.wait, pool=pool, abandon_on_cancel=True)

    run(loop_name, main)
    go.set()
    pool.shutdown()
    assert caplog.records == []


@pytest.mark.unmeasured
@pytest.mark.real_time
async def test_two_thousand_random_cancellations() -> None:
    """Whenever calls are cancelled, each is settled and each slot comes back."""
    randomness = random.Random(1)
    threads = threading.active_count()
    counts = {"done": 0, "cancelled": 0}

    def work(seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    with ThreadPoolExecutor(3) as pool:
        async with Executor(8) as executor:
            for _ in range(20):
                futures = [
                    executor.submit(
                        to_pool.run_sync, work, randomness.choice([0, 0, 0.0005]), pool=pool
                    )
                    for _ in range(100)
                ]
                for future in randomness.sample(futures, 60):
                    future.cancel()
                    if randomness.random() < 0.2:
                        await anyio.sleep(randomness.choice([0, 0.0005]))
                for future in futures:
                    await future.wait()
                    counts["cancelled" if future.cancelled() else future.result()] += 1
            statistics = executor.statistics()
            assert (statistics.submitted, statistics.running, statistics.queued) == (2000, 0, 0)
    assert sum(counts.values()) == 2000
    assert min(counts.values()) > 100
    # Those that anyio keeps for the next calls are there at the most.
    assert threading.active_count() <= threads + 40


# Arguments, context, and what is kept.


@pytest.mark.parametrize("bad", [None, "threads", ThreadPoolExecutor, object()])
async def test_a_pool_that_is_none(bad: Any) -> None:
    """Whatever isn't an executor of `concurrent.futures` is refused, with a word on Dask."""
    with pytest.raises(
        TypeError, match=r"pool must be a concurrent\.futures\.Executor, not .*Dask"
    ):
        await to_pool.run_sync(add, 1, 2, pool=bad)


async def test_a_function_that_is_none() -> None:
    """What can't be called is refused before the pool gets it."""
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(TypeError, match=r"fn must be callable, not 3"),
    ):
        await to_pool.run_sync(3, pool=pool)


var: ContextVar[str] = ContextVar("var", default="unset")


async def test_threads_see_the_context() -> None:
    """In a pool of threads, a call sees the context of its job, and what it sets stays its own."""

    def look() -> str:
        seen = var.get()
        var.set("changed")
        return seen

    with ThreadPoolExecutor(1) as pool:
        async with Executor(1) as executor:
            for value in ("one", "two"):
                var.set(value)
                assert await executor.submit(to_pool.run_sync, look, pool=pool) == value
                assert var.get() == value


async def test_a_call_may_run_an_event_loop_of_its_own(loop_name: str) -> None:
    """In a pool's thread, `anyio.run` isn't mistaken for a nested one."""

    async def main() -> int:
        await anyio.sleep(0.001)
        return 3

    other = "asyncio" if loop_name == "trio" else "trio"
    with ThreadPoolExecutor(1) as pool:
        assert await to_pool.run_sync(lambda: anyio.run(main, backend=other), pool=pool) == 3


async def test_processes_are_other_processes(pools: dict[str, Any]) -> None:
    """What is handed to a process pool runs in another process."""
    with processes(1) as pool:
        assert await to_pool.run_sync(pid, pool=pool) != await to_pool.run_sync(
            pid, pool=ThreadPoolExecutor(1)
        )


class Argument:
    pass


@pytest.mark.usefixtures("no_collector")
async def test_nothing_is_kept() -> None:
    """When a call has failed, its argument and its exception are freed without the collector."""

    def raises(argument: Argument) -> None:
        raise LookupError(argument)

    with ThreadPoolExecutor(1) as pool:
        argument = Argument()
        kept = weakref.ref(argument)
        try:
            await to_pool.run_sync(raises, argument, pool=pool)
        except LookupError:
            pass
        del argument
        if not HAS_GIL:
            gc.collect()
        assert await to_pool.run_sync(kept, pool=pool) is None
