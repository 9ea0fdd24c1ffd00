"""Many threads at once: for builds without a GIL, and right with one."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from anyslots import BlockingExecutor, Executor, from_thread

pytestmark = pytest.mark.hammer

THREADS = 8
JOBS = 200


async def double(number: int) -> int:
    for _ in range(number % 3):
        await checkpoint()
    if number % 7 == 6:
        raise LookupError(number)
    return 2 * number


def outcomes(submit: Callable[..., Any], seed: int) -> Counter[str]:
    """Submit jobs, cancel some, and count how they end; each future is settled once."""
    choose = random.Random(seed)
    settled: Counter[Any] = Counter()
    futures = [submit(double, number) for number in range(JOBS)]
    for future in futures:
        future.add_done_callback(lambda each: settled.update([each]))
    for future in choose.sample(futures, JOBS // 4):
        future.cancel()
    counts: Counter[str] = Counter()
    for number, future in enumerate(futures):
        try:
            assert future.result(30) == 2 * number
            counts["succeeded"] += 1
        except CancelledError:
            counts["cancelled"] += 1
        except LookupError as exc:
            counts["failed"] += exc.args == (number,)
    assert counts.total() == JOBS
    assert set(settled.values()) == {1}
    return counts


def check(executor: Any, counts: Counter[str]) -> None:
    statistics = executor.statistics()
    assert counts.total() == statistics.submitted
    for status, count in counts.items():
        assert getattr(statistics, status) == count
    assert (statistics.running, statistics.queued, statistics.lent) == (0, 0, 0)


@pytest.mark.anyio
async def test_threads_that_submit_to_one_executor() -> None:
    counts: Counter[str] = Counter()

    def thread(seed: int) -> None:
        found = outcomes(lambda *call: from_thread.submit(executor, *call), seed)
        with lock:
            counts.update(found)

    lock = threading.Lock()
    async with Executor(5) as executor:
        async with anyio.create_task_group() as group:
            for seed in range(THREADS):
                group.start_soon(anyio.to_thread.run_sync, thread, seed)
        await executor.join()
        counts["cancelled"] = executor.statistics().cancelled  # some before they came in
        check(executor, counts)


def test_threads_that_share_a_blocking_executor() -> None:
    with BlockingExecutor(5) as executor, ThreadPoolExecutor(THREADS) as threads:
        counts = sum(threads.map(lambda n: outcomes(executor.submit, n), range(THREADS)), Counter())
    assert counts.total() == THREADS * JOBS


def test_executors_in_loops_of_their_own() -> None:
    """Each is used by its own thread and by all others."""
    executors: list[Executor] = []
    entered, done = threading.Barrier(THREADS), threading.Barrier(THREADS)

    async def main(seed: int) -> Counter[str]:
        async with Executor(3) as executor:
            executors.append(executor)
            await anyio.to_thread.run_sync(entered.wait)
            other = random.Random(seed).choice(executors)
            found = await anyio.to_thread.run_sync(
                outcomes, lambda *call: from_thread.submit(other, *call), seed
            )
            await anyio.to_thread.run_sync(done.wait)
        statistics = executor.statistics()
        assert statistics.submitted == (
            statistics.succeeded + statistics.failed + statistics.cancelled
        )
        return found

    with ThreadPoolExecutor(THREADS) as threads:
        counts = sum(threads.map(lambda n: anyio.run(main, n), range(THREADS)), Counter())
    assert counts.total() == THREADS * JOBS
