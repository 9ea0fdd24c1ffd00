"""Each way to cancel a job, at each moment, for each kind of awaiter, and each way it may end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import anyio
import pytest
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, Future, JobCancelled, as_completed, gather, wait


class Failure(Exception):
    pass


class BodyError(Exception):
    pass


async def by_await(future: Future[str]) -> object:
    return await future


async def by_wait(future: Future[str]) -> object:
    await future.wait()
    return future.result()


async def by_gather(future: Future[str]) -> object:
    return (await gather(future))[0]


async def by_a_wait_for_many(future: Future[str]) -> object:
    (done,) = (await wait([future])).done
    return done.result()


async def by_as_completed(future: Future[str]) -> object:
    async for done in as_completed([future]):
        return done.result()
    raise AssertionError


async def by_a_callback(future: Future[str]) -> object:
    event = anyio.Event()
    future.add_done_callback(lambda _: event.set())
    await event.wait()
    return future.result()


AWAITERS: list[Callable[[Future[str]], Awaitable[object]]] = [
    by_await,
    by_wait,
    by_gather,
    by_a_wait_for_many,
    by_as_completed,
    by_a_callback,
]
ENDINGS = ["returns", "fails", "fails as it unwinds", "swallows it"]
# When the job is cancelled, in seconds; it's submitted at 0, and runs for ten seconds.
MOMENTS = {
    "queued": [1],
    "granted": [0],
    "running": [1],
    "unwinding": [1, 3],
    "done": [20],
}
WAYS = ["nothing", "its future", "all jobs", "the scope", "the body", "a shutdown", "its task"]


@dataclass
class Case:
    way: str
    moment: str
    awaiter: Callable[[Future[str]], Awaitable[object]]
    ending: str
    task: Any = None
    got: list[object] = field(default_factory=list)

    async def job(self) -> str:
        try:
            self.task = asyncio.current_task()
        except RuntimeError:
            pass  # under trio
        try:
            await anyio.sleep(10)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
            if self.ending == "fails as it unwinds":
                raise Failure from None
            if self.ending == "swallows it":
                return "value"
            raise
        if self.ending == "fails":
            raise Failure
        return "value"

    async def await_it(self, future: Future[str]) -> None:
        try:
            self.got.append(await self.awaiter(future))
        except (Failure, JobCancelled) as exc:
            self.got.append(type(exc))

    async def cancel(
        self, executor: Executor, future: Future[str], scope: anyio.CancelScope
    ) -> None:
        match self.way:
            case "its future":
                future.cancel()
            case "all jobs":
                executor.cancel()
            case "the scope":
                scope.cancel()
            case "the body":
                raise BodyError
            case "a shutdown":
                await executor.shutdown(0)
            case "its task":
                self.task.cancel()

    async def main(self) -> None:
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                try:
                    async with Executor(1, on_error="log") as executor:
                        if self.moment == "queued":
                            executor.submit(anyio.sleep, 3)
                        future = executor.submit(self.job)
                        group.start_soon(self.await_it, future)
                        for moment in MOMENTS[self.moment]:
                            if moment:
                                await anyio.sleep_until(moment)
                            if moment == 1:
                                assert future.running() == (self.moment != "queued")
                            await self.cancel(executor, future, scope)
                except BodyError:
                    pass
            assert future.done()
            assert executor.statistics().running == executor.statistics().lent == 0
        assert self.got == [self.expected()], self

    def expected(self) -> object:
        """What the awaiter gets: a value, or the class of what's raised."""
        if self.way == "nothing" or self.moment == "done":
            return Failure if self.ending == "fails" else "value"
        if self.way == "its task" and self.moment == "unwinding":
            return JobCancelled  # asyncio's own cancellation heeds no shield
        if self.moment in ("running", "unwinding"):
            if self.ending == "fails as it unwinds":
                return Failure
            if self.ending == "swallows it":
                return "value"
        return JobCancelled


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
@pytest.mark.parametrize("way", WAYS)
def test_every_awaiter_gets_what_became_of_the_job(
    backend: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However a job is cancelled, whenever, and however it ends: all outcomes are as they must."""
    reached = set()
    for moment, awaiter, ending in product(MOMENTS, AWAITERS, ENDINGS):
        if way == "its task" and (backend == "trio" or moment not in ("running", "unwinding")):
            continue  # only asyncio's tasks can be cancelled, and only a running job has one
        if moment == "granted" and way in ("the scope", "a shutdown"):
            continue  # they don't keep a job from beginning at once in a slot that's free
        case = Case(way, moment, awaiter, ending)
        run_in_virtual_time(backend, case.main)
        reached.add(case.got[0])
    if reached:
        assert reached == {"value", Failure} | ({JobCancelled} if way != "nothing" else set())
