"""What a job costs where nobody watches: function calls and memory, counted, not timed."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import anyslots
from anyslots import Executor, Future, Retry

pytestmark = [pytest.mark.anyio, pytest.mark.unmeasured]

JOBS = 1000
# Instruments add none where there are none.
CALLS_PER_JOB = {"asyncio": 6, "uvloop": 6, "trio": 8}
PACKAGE = str(Path(anyslots.__file__).parent)


class Calls:
    """Counts the calls and resumptions of the package's own functions, while it's entered."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.count += 1

    def __enter__(self) -> Calls:
        self.before = sys.getprofile()
        sys.setprofile(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self.before)


async def calls_of(jobs: int, **options: Any) -> int:
    """How many calls a block with so many plain jobs takes, each with one checkpoint."""
    with Calls() as calls:
        async with Executor(10, **options) as executor:
            for _ in range(jobs):
                executor.submit(checkpoint)
    return calls.count


async def test_a_plain_job_takes_so_many_calls(loop_name: str) -> None:
    """Nothing comes onto the plain job's path unnoticed: it's as long as it was."""
    calls = await calls_of(2 * JOBS) - await calls_of(JOBS)
    # On trio, which of the workers goes first is chance, and may cost a call or two in all.
    assert round(calls / JOBS, 1) <= CALLS_PER_JOB[loop_name]


async def test_a_queued_job_takes_200_bytes(anyio_backend) -> None:
    """A plain job that waits takes its future, its place in the queue, and a context."""
    async with Executor(1) as executor:
        executor.submit(anyio.sleep, 0)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(JOBS):
                executor.submit(checkpoint)
            taken = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert taken <= 200 * JOBS


async def test_a_job_that_backs_off_takes_600_bytes(anyio_backend) -> None:
    """Between two attempts a job holds neither a task nor a coroutine."""

    async def fail(number: int) -> None:
        raise LookupError(number)

    retry = Retry(2, wait=3600, most=3600, jitter=False)
    async with Executor(10, retry=retry, on_error="log") as executor:
        tracemalloc.start()
        try:
            futures: list[Future[None]] = []
            traced = []
            for _ in range(2):  # the first ones make the workers, and debug mode reads source files
                futures += [executor.submit(fail, number) for number in range(JOBS)]
                while executor.statistics().running or not futures[-1].attempts:
                    await checkpoint()
                traced.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert all(future.attempts == 1 for future in futures)
        executor.cancel()
    assert traced[1] - traced[0] <= 600 * JOBS
