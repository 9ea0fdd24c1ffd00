"""The few lines that differ between asyncio and trio; no other module imports either.

A backend belongs to one executor, and is made in its event loop. Its waits are generators that
both ``await`` and ``__await__`` can drive.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from types import coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import anyio

if TYPE_CHECKING:
    from ._future import Future


Wait: TypeAlias = Any
"""A generator that serves both ``await`` and ``yield from``, which no type says."""


class Parked(Protocol):
    """A task that waits to be woken, once, and that may give up."""

    def is_waiting(self) -> bool:
        """Whether it has neither been woken nor been cancelled, to the very step."""

    def wake(self) -> None: ...

    def wait(self) -> Wait: ...


class Backend(Protocol):
    cancelled: type[BaseException]
    """What a cancelled task is thrown."""
    current_time: Callable[[], float]
    """The event loop's clock; works in its plain callbacks, too, unlike `anyio.current_time`."""

    def current_task(self) -> object:
        """The task that this code runs in, if any."""

    def is_running(self) -> bool:
        """Whether the event loop runs, and isn't gone."""

    def lineages(self) -> Callable[[object], Iterator[int]]:
        """How to tell the ids of a task, if it's one, and of those that started one another.

        Known of the tasks of anyio's task groups, and of trio's nurseries.
        """

    def checkpoint(self) -> Wait:
        """Let other tasks run, and notice a cancellation."""

    def wait(self, future: Future[Any]) -> Wait:
        """Wait until a future that isn't done is."""

    def park(self) -> Parked:
        """A place for the current task to wait in."""

    def follow(self, result: object) -> Coroutine[Any, Any, Any] | None:
        """A coroutine that stands for the backend's own kind of task, if that's what it got."""

    def native_cancels(self) -> Callable[[], int] | None:
        """How to count the cancellations of the current task, where native ones come uncounted."""

    def forgive(self) -> Wait:
        """Take back all native cancellations of the current task."""

    def protect(self, functions: Iterable[Callable[..., Any]]) -> None:
        """Have Ctrl-C strike nowhere inside these functions, where the backend allows that."""


class AsyncioBackend:
    cancelled: type[BaseException] = asyncio.CancelledError

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.current_time: Callable[[], float] = self._loop.time

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


class TrioBackend:
    def __init__(self) -> None:
        import trio

        self.cancelled: type[BaseException] = trio.Cancelled
        self.current_time: Callable[[], float] = trio.lowlevel.current_clock().current_time
        self._lowlevel = trio.lowlevel

    def current_task(self) -> object:
        return self._lowlevel.current_task() if self._lowlevel.in_trio_task() else None

    def is_running(self) -> bool:
        return True

    def lineages(self) -> Callable[[object], Iterator[int]]:
        def lineage(task: Any) -> Iterator[int]:
            while task is not None:
                yield id(task)
                task = None if task.parent_nursery is None else task.parent_nursery.parent_task

        return lineage

    @coroutine
    def checkpoint(self) -> Generator[Any, Any, None]:
        yield from self._lowlevel.checkpoint().__await__()

    @coroutine
    def wait(self, future: Future[Any]) -> Generator[Any, Any, None]:
        lowlevel = self._lowlevel
        task = lowlevel.current_task()

        def wake(_: Future[Any]) -> None:
            lowlevel.reschedule(task)

        def abort(_: object) -> Any:
            future._unwatch(wake)
            return lowlevel.Abort.SUCCEEDED

        future._watch(wake)
        yield from lowlevel.wait_task_rescheduled(abort).__await__()

    def park(self) -> Parked:
        return _TrioParked(self._lowlevel)

    def follow(self, result: object) -> None:
        return None

    def native_cancels(self) -> Callable[[], int] | None:
        return None

    @coroutine
    def forgive(self) -> Generator[Any, Any, None]:
        yield from self._lowlevel.cancel_shielded_checkpoint().__await__()

    def protect(self, functions: Iterable[Callable[..., Any]]) -> None:
        for function in functions:
            if function not in _protected:
                _protected.add(function)
                self._lowlevel.enable_ki_protection(function)


class _TrioParked:
    def __init__(self, lowlevel: Any) -> None:
        self._lowlevel = lowlevel
        self._waiting = True
        self._task: Any = None

    def is_waiting(self) -> bool:
        return self._waiting

    def wake(self) -> None:
        if self._waiting:
            self._waiting = False
            if self._task is not None:
                self._lowlevel.reschedule(self._task)

    def _abort(self, _: object) -> Any:
        self._waiting = False
        return self._lowlevel.Abort.SUCCEEDED

    @coroutine
    def wait(self) -> Generator[Any, Any, None]:
        if self._waiting:
            self._task = self._lowlevel.current_task()
            yield from self._lowlevel.wait_task_rescheduled(self._abort).__await__()
        else:
            yield from self._lowlevel.checkpoint().__await__()


_protected: set[Callable[..., Any]] = set()


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


def is_over(task: object) -> bool:
    """Whether a task has ended, where tasks say so: under asyncio."""
    return isinstance(task, asyncio.Task) and task.done()


def remind() -> None:
    """Make a native cancellation that the current task got show at its next checkpoint."""
    task = _current_task()
    task.uncancel()
    task.cancel()


def current_backend() -> Backend:
    """The backend of the running event loop; `RuntimeError` if none runs in this thread."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return TrioBackend()
    try:
        return AsyncioBackend()
    except RuntimeError:
        raise RuntimeError("an executor is entered inside a running event loop") from None
