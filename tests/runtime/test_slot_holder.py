"""A slot that one task asks for and another one holds, as in `anyslots.httpx`."""

from __future__ import annotations

from threading import Thread
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from anyslots import Executor, JobCancelled

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class Held:
    """A slot, and what its holder has come to."""

    def __init__(self, executor: Executor) -> None:
        self.slot = executor.slot()
        self.over = anyio.Event()
        self.ended = anyio.Event()
        self.error: BaseException | None = None

    async def hold(self) -> None:
        self.slot.hold()
        try:
            await self.over.wait()
        except BaseException as error:
            self.error = self.slot.release(type(error), error, error.__traceback__)
        else:
            self.slot.release(None, None, None)
        finally:
            self.ended.set()

    async def acquire(self) -> Any:
        future = await self.slot.acquire()
        self.slot.spawn_holder(self.hold, "holder")
        return future


@BACKENDS
def test_the_slot_is_held_until_the_other_task_releases_it(backend: str) -> None:
    async def main() -> None:
        async with Executor(1) as executor:
            held = Held(executor)
            future = await held.acquire()
            waiting = executor.submit(anyio.sleep, 0)
            await wait_all_tasks_blocked()
            assert (future.status, waiting.status) == ("running", "queued")
            held.over.set()
            await waiting
            assert future.status == "succeeded"

    anyio.run(main, backend=backend)


@BACKENDS
def test_cancelled_before_the_other_task_has_begun(backend: str) -> None:
    async def main() -> None:
        async with Executor(1) as executor:
            held = Held(executor)
            future = await held.acquire()
            executor.cancel("enough")
            await held.ended.wait()
            assert future.cancelled()
            assert isinstance(held.error, JobCancelled)

    anyio.run(main, backend=backend)


@BACKENDS
def test_abandoned_by_another_thread_and_after_the_end(backend: str) -> None:
    async def main() -> Held:
        async with Executor(1) as executor:
            held = Held(executor)
            future = await held.acquire()
            thread = Thread(target=held.slot.abandon)
            thread.start()
            await held.ended.wait()
            thread.join()
            assert future.cancelled()
        return held

    held = anyio.run(main, backend=backend)
    held.slot.abandon()
    assert isinstance(held.error, JobCancelled)


@BACKENDS
def test_the_job_around_it_ends_first(backend: str) -> None:
    """Then there's nothing to go on: the worker's next job keeps its own slot."""

    async def main() -> None:
        async with Executor(2) as executor:
            helds = []

            async def job() -> None:
                helds.append(Held(executor))
                await helds[0].acquire()
                assert executor.statistics().lent == 1

            async def next_job() -> None:
                await helds[0].slot.go_on()
                helds[0].slot.go_on_at_once()
                helds[0].over.set()
                await helds[0].ended.wait()
                assert executor.statistics().running == 1

            await executor.submit(job)
            await executor.submit(next_job)

    anyio.run(main, backend=backend)
