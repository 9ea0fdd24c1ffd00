"""Timeouts and task groups of asyncio that a failed job's traceback keeps are of no account."""

from __future__ import annotations

import asyncio
import logging
import sys

import anyio
import anyio.lowlevel
import pytest

from anyslots import Executor

pytestmark = pytest.mark.anyio


async def fail() -> None:
    raise LookupError


async def times_out() -> None:
    async with asyncio.timeout(10) as outer:
        assert not outer.expired()
        async with asyncio.timeout(0.001):
            await asyncio.sleep(10)


async def waits_for() -> None:
    await asyncio.wait_for(asyncio.sleep(10), 0.001)


async def task_fails() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        await asyncio.sleep(10)


async def group_block_fails() -> None:
    async with asyncio.TaskGroup():
        raise LookupError


async def knows_its_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    await fail()


async def leaves_one_open() -> None:
    await asyncio.timeout(10).__aenter__()
    await fail()


async def fails_of(job, caplog) -> tuple[int, list[str]]:
    """How many workers ran ten of these and as many others, and what was logged."""
    caplog.clear()
    tasks = set()

    async def fine() -> None:
        tasks.add(anyio.get_current_task().id)
        await anyio.lowlevel.checkpoint()

    async with Executor(1, on_error="log") as executor:
        futures = []
        for _ in range(10):
            futures.append(executor.submit(job))
            await futures[-1].wait()
            assert futures[-1].error is not None
            await executor.submit(fine)
            del futures[:-3]  # some exceptions are kept, and some go, while others run
    logged = [r.getMessage() for r in caplog.records if "left a cancel scope" in r.getMessage()]
    return len(tasks), logged


@pytest.mark.parametrize(
    "job", [times_out, waits_for, task_fails, group_block_fails, knows_its_task, leaves_one_open]
)
async def test_only_what_can_still_cancel_costs_a_worker(job, loop_name, caplog) -> None:
    if loop_name == "trio":
        pytest.skip("asyncio's own")
    caplog.set_level(logging.WARNING)
    workers, logged = await fails_of(job, caplog)
    if job is leaves_one_open:
        assert workers == 10
        assert len(logged) == 10
    elif job is knows_its_task and sys.version_info < (3, 13):
        assert not logged  # to look at a frame's locals makes more references
    else:
        assert (workers, logged) == (1, [])
