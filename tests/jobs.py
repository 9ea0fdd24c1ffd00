"""Jobs that tests submit, and what tests ask of executors: their home is here, and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from anyslots import Executor, Lane, gather


class Boom(Exception):
    pass


async def give(value: Any = None, turns: int = 1) -> Any:
    """A job that gives back what it got."""
    await ticks(turns)
    return value


async def fail(error: BaseException | None = None) -> None:
    await checkpoint()
    raise Boom if error is None else error


class Starts(list[Any]):
    """A job that notes a name and when it starts, and takes so many seconds."""

    async def __call__(self, name: object = None, seconds: float = 0) -> None:
        self.append((name, anyio.current_time()))
        if seconds:
            await anyio.sleep(seconds)

    async def hold(self, lane: Lane, name: object, seconds: float = 0) -> None:
        """The same in a slot of the task's own."""
        async with lane.slot():
            await self(name, seconds)

    @property
    def times(self) -> list[float]:
        return [time for _, time in self]

    @property
    def names(self) -> list[Any]:
        return [name for name, _ in self]


class Crew:
    """Jobs that note that they have begun, and run until they're released."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.running = 0
        self._released = anyio.Event()

    async def job(self, name: object = None) -> object:
        self.begun.append(name)
        self.running += 1
        try:
            await self._released.wait()
        finally:
            self.running -= 1
        return name

    def release(self) -> None:
        """Let the jobs that run now end."""
        self._released.set()
        self._released = anyio.Event()


@asynccontextmanager
async def queue_up() -> AsyncIterator[Executor]:
    """An executor with one slot, taken until the end of the block: the jobs begin then."""
    async with Executor(1) as executor:
        crew = Crew()
        executor.submit(crew.job)
        await all_blocked()
        yield executor
        crew.release()


async def ticks(count: int) -> None:
    for _ in range(count):
        await checkpoint()


async def all_blocked() -> None:
    """Wait until every other task waits for something."""
    # On asyncio `wait_all_tasks_blocked` looks ten times a second: help it to be right at once.
    await ticks(10)
    await anyio.wait_all_tasks_blocked()


async def cancel_when_blocked(scope: anyio.CancelScope) -> None:
    await all_blocked()
    scope.cancel()


def counts(lane: Lane) -> tuple[int, int, int, int, int, int]:
    """Its jobs: queued, running, lent, succeeded, failed and cancelled, which add up."""
    s = lane.statistics()
    parts = s.queued, s.running, s.lent, s.succeeded, s.failed, s.cancelled
    assert s.submitted == sum(parts)
    assert min(parts) >= 0
    return parts


def check_idle(lane: Lane) -> None:
    """No job is queued, running or lent."""
    assert sum(counts(lane)[:3]) == 0


async def all_slots_work(executor: Executor) -> None:
    """Nothing is left; as many jobs run at once as there are slots, in theirs, and one waits."""
    check_idle(executor)
    slots, crew = int(executor.slots), Crew()
    futures = [await executor.enqueue(crew.job) for _ in range(slots)]
    await ticks(20)
    if executor.max_pending:
        futures.append(executor.submit(crew.job))
        await ticks(5)
        assert futures[-1].slot is None
    assert crew.running == slots
    assert {future.slot for future in futures[:slots]} == {*range(slots)}
    crew.release()
    await ticks(20)
    crew.release()
    await gather(*futures)
