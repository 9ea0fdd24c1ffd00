"""The backend for asyncio and uvloop; what each method is for stands in `backend`."""

from __future__ import annotations

import asyncio
import inspect
import math
import sys
import time
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from types import coroutine
from typing import TYPE_CHECKING, Any

import anyio
from anyio._backends import _asyncio as anyio_asyncio

from .._scheduling.job import Job
from .backend import JobScope, Parked, Scope
from .cancel_once import OnceScope

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

_detached: set[asyncio.Task[None]] = set()
"""Tasks that nothing else refers to: asyncio itself only does so weakly."""


class AsyncioBackend:
    cancelled: type[BaseException] = asyncio.CancelledError
    # `Task.uncancel` takes back a cancellation that has not been delivered yet.
    defers_cancel: bool = sys.version_info >= (3, 13)

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.current_time: Callable[[], float] = self._loop.time
        if type(self._loop).time is asyncio.BaseEventLoop.time:
            self.current_time = time.monotonic  # as that does, one call later
        # uvloop's clock counts whole milliseconds.
        self.clock_error = 0.001 if type(self._loop).__module__.startswith("uvloop") else 0.0
        self.post: Callable[[Callable[[], object]], object] = self._loop.call_soon_threadsafe

    def start_task(
        self, group: TaskGroup, fn: Callable[[], Coroutine[Any, Any, None]], name: str
    ) -> None:
        factory = self._loop.get_task_factory()
        if factory is not None and factory is not getattr(asyncio, "eager_task_factory", None):
            group.start_soon(fn, name=name)
            return
        self._loop.set_task_factory(_HelperTask.create)  # type: ignore[arg-type]
        try:
            group.start_soon(fn, name=name)
        finally:
            self._loop.set_task_factory(factory)

    def current_task(self) -> object:
        return asyncio.current_task(self._loop)

    def task_name(self) -> str:
        return _current_task().get_name()

    def task_coroutine(self, task: Any) -> object:
        return task.get_coro() if isinstance(task, asyncio.Task) else None

    def is_running(self) -> bool:
        return self._loop.is_running()

    def task_ancestors(self) -> Callable[[object], Iterator[int]]:
        # All tasks are listed only if it's needed: who asks is mostly started by the host.
        parents: dict[int, int | None] = {}
        listed = False
        if asyncio.current_task(self._loop) is not None:
            asking = anyio.get_current_task()
            parents[asking.id] = asking.parent_id

        def ancestors(task: object) -> Iterator[int]:
            nonlocal listed
            number = None if task is None else id(task)
            while number is not None:
                yield number
                if number not in parents and not listed:
                    parents.update((info.id, info.parent_id) for info in anyio.get_running_tasks())
                    listed = True
                number = parents.get(number)

        return ancestors

    def spawn_detached(self, fn: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        task = self._loop.create_task(fn(), name=name)
        _detached.add(task)
        task.add_done_callback(_detached.discard)

    @coroutine
    def checkpoint(self) -> Generator[Any, Any, None]:
        yield

    @coroutine
    def wait(self, job: Job[Any]) -> Generator[Any, Any, None]:
        future = self._loop.create_future()

        def wake(_: Job[Any]) -> None:
            _set(future)

        job.add_listener(wake)
        try:
            yield from future
        except BaseException:
            job.remove_listener(wake)
            raise

    def park(self) -> Parked:
        return _AsyncioParked(self._loop.create_future())

    def cancel_scope(self) -> Scope:
        return anyio_asyncio.CancelScope()

    def job_scope(self) -> JobScope:
        return OnceScope(_current_task())

    def swapped_context(self) -> None:
        return None

    def await_native(self, result: object) -> Coroutine[Any, Any, Any] | None:
        return _await_task(result) if isinstance(result, asyncio.Future) else None

    def cancel_count(self) -> Callable[[], int] | None:
        return _current_task().cancelling

    @coroutine
    def uncancel(self) -> Generator[Any, Any, None]:
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

    def redeliver_cancel(self, message: object = None) -> None:
        task = _current_task()
        task.uncancel()
        task.cancel(message)

    def defer_cancel(self, error: BaseException) -> bool:
        if anyio.current_effective_deadline() == -math.inf:
            return True  # a scope's comes again by itself
        if not self.defers_cancel:
            return False  # nor could a timeout around
        self.redeliver_cancel(*error.args[:1])
        return True

    def task_done(self, task: object) -> bool:
        return isinstance(task, asyncio.Task) and task.done()

    def protect(
        self, functions: Iterable[Callable[..., Any]], but: Iterable[Callable[..., Any]]
    ) -> None:
        pass  # asyncio cancels the main task instead


class _HelperTask(asyncio.Task[None]):
    """A task that can't be cancelled before its first step.

    It would never run, and see to nothing; and anyio would take that for a failure of the group.
    """

    @classmethod
    def create(
        cls, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
    ) -> asyncio.Task[None]:
        return cls(coro, loop=loop, **options)

    def cancel(self, msg: Any = None) -> bool:
        if inspect.getcoroutinestate(self.get_coro()) == inspect.CORO_CREATED:  # type: ignore[arg-type]
            return False
        return super().cancel(msg)


class _AsyncioParked:
    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future

    def is_waiting(self) -> bool:
        return not self._future.done()

    def wake(self, _: object = None) -> None:
        _set(self._future)

    @coroutine
    def wait(self) -> Generator[Any, Any, None]:
        if self._future.done():
            yield
        else:
            yield from self._future


def _set(future: asyncio.Future[None]) -> None:
    try:
        future.set_result(None)
    except (asyncio.InvalidStateError, RuntimeError):
        pass  # it waits no longer, or the event loop is closed


async def _await_task(task: asyncio.Future[Any]) -> Any:
    """Await a task; pass a cancellation on to it, and wait until it has cleaned up."""
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
