"""What people use instead, each as something that takes jobs; for test_tables.py."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiojobs
import anyio
import distributed
import trio
from virtual_time import run_in_virtual_time

from anyslots import Executor

PROGRAMS = Path(__file__).parent.parent / "programs.py"

ANYSLOTS, ORIGINAL, ASYNCIO, TRIO, ANYIO = "anyslots", "AsyncExecutor", "asyncio", "trio", "anyio"
THREADS, AIOMETER, AIOJOBS, DASK = "concurrent.futures", "aiometer", "aiojobs", "Dask"


class Work:
    """Jobs that take a second, and know who began, who ended, and how many ran at once."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self.ended: list[int] = []
        self.now = self.most = 0

    async def __call__(self, number: int) -> int:
        self.began.append(number)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await anyio.sleep(1)
        finally:
            self.now -= 1
        self.ended.append(number)
        return number


class Host(NamedTuple):
    """What takes jobs, inside of its block."""

    submit: Callable[..., Awaitable[Any]]  # a handle of the job; None if there's none
    result: Callable[[Any], Awaitable[Any]]
    cancel: Callable[[Any], Any]
    limiter: Any = None
    group: Any = None


async def itself(handle: Any) -> Any:
    return await handle


@asynccontextmanager
async def anyslots_host(limit: int = 2) -> AsyncIterator[Host]:
    async with Executor(limit) as executor:

        async def submit(job: Any, *args: Any) -> Any:
            return executor.submit(job, *args)

        yield Host(submit, itself, lambda future: future.cancel(), executor, executor)


@asynccontextmanager
async def original_host(limit: int = 2) -> AsyncIterator[Host]:
    spec = importlib.util.spec_from_file_location("programs", PROGRAMS)
    assert spec is not None
    assert spec.loader is not None
    programs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(programs)
    executor = programs.AsyncExecutor(limit)

    async def submit(job: Any, *args: Any) -> Any:
        return executor.submit(partial(job, *args))

    yield Host(submit, itself, lambda future: future.cancel(), executor)


@asynccontextmanager
async def asyncio_host(limit: int = 2) -> AsyncIterator[Host]:
    semaphore = asyncio.Semaphore(limit)

    async def limited(job: Any, *args: Any) -> Any:
        async with semaphore:
            return await job(*args)

    async with asyncio.TaskGroup() as tasks:

        async def submit(job: Any, *args: Any) -> Any:
            return tasks.create_task(limited(job, *args))

        yield Host(submit, itself, lambda task: task.cancel(), semaphore, tasks)


@asynccontextmanager
async def trio_host(limit: int = 2) -> AsyncIterator[Host]:
    limiter = trio.CapacityLimiter(limit)

    async def limited(job: Any, *args: Any) -> None:
        async with limiter:
            await job(*args)

    async with trio.open_nursery() as nursery:

        async def submit(job: Any, *args: Any) -> Any:
            return nursery.start_soon(limited, job, *args)

        yield Host(submit, itself, lambda none: none.cancel(), limiter, nursery)


@asynccontextmanager
async def anyio_host(limit: int = 2) -> AsyncIterator[Host]:
    """With a limit by hand."""
    limiter = anyio.CapacityLimiter(limit)

    async def limited(job: Any, *args: Any) -> Any:
        async with limiter:
            return await job(*args)

    async with anyio.create_task_group() as tasks:

        async def submit(job: Any, *args: Any) -> Any:
            return tasks.create_task(limited(job, *args))

        yield Host(submit, itself, lambda handle: handle.cancel(), limiter, tasks)


@asynccontextmanager
async def aiojobs_host(limit: int = 2) -> AsyncIterator[Host]:
    async with aiojobs.Scheduler(limit=limit) as scheduler:

        async def submit(job: Any, *args: Any) -> Any:
            return await scheduler.spawn(job(*args))

        def cancel(job: Any) -> Any:
            return asyncio.ensure_future(job.close())

        yield Host(submit, lambda job: job.wait(), cancel, scheduler)


HOSTS: dict[str, Callable[..., AbstractAsyncContextManager[Host]]] = {
    ANYSLOTS: anyslots_host,
    ORIGINAL: original_host,
    ASYNCIO: asyncio_host,
    TRIO: trio_host,
    ANYIO: anyio_host,
    AIOJOBS: aiojobs_host,
}


def run(peer: str, fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run ``fn`` in virtual time, in an event loop in which the peer is at home."""
    return run_in_virtual_time("trio" if peer == TRIO else "asyncio", fn, *args)


# For threads, and for Dask's workers, which share this module: they are threads of this process.
gate = threading.Event()
log: list[str] = []


def note(name: str) -> str:
    log.append(name)
    return name


def wait_at_gate(name: str) -> None:
    log.append(f"{name} began")
    gate.wait(10)
    log.append(f"{name} ended")


def fail(*_: object) -> None:
    raise LookupError("failed")


async def echo(number: int) -> int:
    return number


async def fail_async(*_: object) -> None:
    fail()


def wait_for_child(number: int) -> int:
    with distributed.worker_client() as client:
        return int(client.submit(abs, -number, pure=False).result())


def until(condition: Callable[[], object]) -> bool:
    """Whether something becomes true while other threads run."""
    for _ in range(1000):
        if condition():
            return True
        threading.Event().wait(0.005)
    return False


def never(condition: Callable[[], object]) -> bool:
    """Whether something doesn't become true in a twentieth of a second."""
    threading.Event().wait(0.05)
    return not condition()
