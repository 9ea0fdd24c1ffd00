"""The backend for asyncio and uvloop; what each method is for stands in ``_backend``."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from types import coroutine
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from ._backend import Parked
    from ._future import Future


class AsyncioBackend:
    cancelled: type[BaseException] = asyncio.CancelledError

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.current_time: Callable[[], float] = self._loop.time
        self.post: Callable[[Callable[[], object]], object] = self._loop.call_soon_threadsafe

    def current_task(self) -> object:
        return asyncio.current_task(self._loop)

    def is_running(self) -> bool:
        return self._loop.is_running()

    def lineages(self) -> Callable[[object], Iterator[int]]:
        # All tasks are listed only if it's needed: who asks is mostly started by the host.
        parents: dict[int, int | None] = {}
        listed = False
        if asyncio.current_task(self._loop) is not None:
            asking = anyio.get_current_task()
            parents[asking.id] = asking.parent_id

        def lineage(task: object) -> Iterator[int]:
            nonlocal listed
            number = None if task is None else id(task)
            while number is not None:
                yield number
                if number not in parents and not listed:
                    parents.update((info.id, info.parent_id) for info in anyio.get_running_tasks())
                    listed = True
                number = parents.get(number)

        return lineage

    @coroutine
    def checkpoint(self) -> Generator[Any, Any, None]:
        yield

    @coroutine
    def wait(self, future: Future[Any]) -> Generator[Any, Any, None]:
        waiter = self._loop.create_future()

        def wake(_: Future[Any]) -> None:
            _set(waiter)

        future._watch(wake)
        try:
            yield from waiter
        except BaseException:
            future._unwatch(wake)
            raise

    def park(self) -> Parked:
        return _AsyncioParked(self._loop.create_future())

    def follow(self, result: object) -> Coroutine[Any, Any, Any] | None:
        return _follow(result) if isinstance(result, asyncio.Future) else None

    def native_cancels(self) -> Callable[[], int] | None:
        return _current_task().cancelling

    @coroutine
    def forgive(self) -> Generator[Any, Any, None]:
        task = _current_task()
        while task.cancelling():
            while task.uncancel():
                pass
            # One that has not been delivered yet outlives its taking back before Python 3.13.
            try:
                yield
            except asyncio.CancelledError:
                if anyio.current_effective_deadline() == -math.inf:
                    return  # not a native one: it'll come again

    def remind(self) -> None:
        task = _current_task()
        task.uncancel()
        task.cancel()

    def is_over(self, task: object) -> bool:
        return isinstance(task, asyncio.Task) and task.done()

    def protect(self, functions: Iterable[Callable[..., Any]]) -> None:
        pass  # asyncio cancels the main task instead


class _AsyncioParked:
    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future

    def is_waiting(self) -> bool:
        return not self._future.done()

    def wake(self) -> None:
        _set(self._future)

    @coroutine
    def wait(self) -> Generator[Any, Any, None]:
        yield from self._future


def _set(waiter: asyncio.Future[None]) -> None:
    try:
        waiter.set_result(None)
    except (asyncio.InvalidStateError, RuntimeError):
        pass  # it waits no longer, or the event loop is closed


async def _follow(task: asyncio.Future[Any]) -> Any:
    """Await a task; cancel it once, like asyncio and unlike anyio, so that it can clean up."""
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
        if task.cancelled():
            raise
    return task.result()


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
