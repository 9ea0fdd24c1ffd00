"""Waiting for several futures; built on futures alone.

Each function registers one callback with each future that isn't done, and is woken once for each
event that matters to it. Called by a job for futures of its own executor, it lends the job's slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Container, Iterable
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from threading import get_ident
from typing import Any, Generic, Literal, NamedTuple, TypeVar, final, overload

import anyio

from ._future import exception_of
from ._handles import Future
from ._runtime.lending import TaskWaiter
from ._runtime.runtime import Runtime
from ._scheduling.job import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, Status, mark_retrieved

T = TypeVar("T")


@overload
async def gather(*futures: Future[T], return_exceptions: Literal[False] = False) -> list[T]: ...
@overload
async def gather(*futures: Future[T], return_exceptions: bool) -> list[T | BaseException]: ...
async def gather(*futures: Future[T], return_exceptions: bool = False) -> Any:
    """Wait for all futures, and return their results in the order of the arguments.

    The first job that fails or is cancelled ends the wait at once with its exception; the other
    jobs go on. With ``return_exceptions=True`` every job is waited for, and exceptions take the
    place of results. Cancelling this wait leaves the jobs alone.

    ::

        pages = await gather(*(executor.submit(fetch, url) for url in urls))
    """
    stops = () if return_exceptions else (FAILED, CANCELLED)
    stopped_by = await _Collector(check_futures("gather", futures), stops).wait()
    try:
        if stopped_by is not None:
            stopped_by.result()
        if return_exceptions:
            return [_result_or_exception(future) for future in futures]
        return [f.value if f.status is SUCCEEDED else f.result() for f in futures]
    finally:
        # A job's traceback refers to this frame then: let it refer to no future.
        del futures, stopped_by


class DoneAndNotDone(NamedTuple, Generic[T]):
    """What `wait` returns."""

    done: set[Future[T]]
    not_done: set[Future[T]]


async def wait(futures: Iterable[Future[T]], return_when: str = ALL_COMPLETED) -> DoneAndNotDone[T]:
    """Wait until futures are done; return those that are and those that aren't, as two sets.

    ``return_when``: `ALL_COMPLETED`, `FIRST_COMPLETED` or `FIRST_EXCEPTION`, which is the first
    job to fail (cancelled ones don't count) or else all. Never raises for a job, and doesn't count
    as retrieving its exception. Cancelling this wait leaves the jobs alone. Raises `ValueError` for
    another ``return_when``.

    ::

        done, running = await wait(futures, return_when=FIRST_COMPLETED)
    """
    if return_when not in _STOPS:
        raise ValueError(f"return_when must be one of {', '.join(_STOPS)}, not {return_when!r}")
    those = check_futures("wait", futures)
    await _Collector(those, _STOPS[return_when]).wait()
    done = {future for future in those if future.done()}
    return DoneAndNotDone(done, set(those) - done)


@final
class as_completed(Generic[T]):
    """Iterate over futures in the order in which they're done, those that are done first.

    Every future comes out exactly once, failed and cancelled ones included; ask it for its result.
    Breaking out of the loop, or cancelling it, leaves the jobs alone, and loses no future: another
    loop over the same object goes on where it was left.

    ::

        async for future in as_completed(futures):
            print(await future)
    """

    def __init__(self, futures: Iterable[Future[T]]) -> None:
        self._done: deque[Future[T]] = deque()
        self._pending: dict[Future[T], None] = {}
        self._waiters: dict[TaskWaiter, None] = {}
        those = check_futures("as_completed", futures)
        self._runtimes = runtimes_of(those)
        for future in those:
            if future.done():
                self._done.append(future)
            else:
                self._pending[future] = None
                future.add_listener(self._finished)

    def __aiter__(self) -> AsyncIterator[Future[T]]:
        return self

    async def __anext__(self) -> Future[T]:
        if self._done:
            await anyio.lowlevel.checkpoint()
        while not self._done:
            if not self._pending:
                raise StopAsyncIteration
            waiter = make_waiter(self._runtimes, self._pending)
            self._waiters[waiter] = None
            try:
                await waiter.wait()
            finally:
                self._waiters.pop(waiter, None)
        return self._done.popleft()

    def _finished(self, future: Any) -> None:
        del self._pending[future]
        self._done.append(future)
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            waiter.wake()


async def first_result(*futures: Future[T]) -> T:
    """Return the first result, and cancel the jobs that have none yet.

    Failures are passed over, and count as retrieved. If every job fails or is cancelled, raises an
    `ExceptionGroup` of them all. Cancelling this wait leaves the jobs alone. Raises `ValueError`
    without futures.

    ::

        fastest = await first_result(*(executor.submit(ask, mirror) for mirror in mirrors))
    """
    those = check_futures("first_result", futures)
    if not those:
        raise ValueError("first_result needs at least one future")
    winner: Future[T] | None = await _Collector(those, (SUCCEEDED,)).wait()
    for future in those:
        if not future.done():
            future.add_listener(mark_retrieved)
            future.cancel("another result was first")
        elif future.status is FAILED:
            mark_retrieved(future)
    if winner is None:
        exceptions = [_result_or_exception(future) for future in those]
        raise BaseExceptionGroup("no job succeeded", exceptions)
    return winner.result()


class _Collector:
    """Waits until all of some futures are done, or one has ended in a way that stops it."""

    __slots__ = ("_futures", "_ignores_success", "_missing", "_stopped_by", "_stops", "_waiter")

    def __init__(self, futures: list[Future[Any]], stops: tuple[Status, ...]) -> None:
        self._futures = futures
        self._stops = stops
        self._ignores_success = SUCCEEDED not in stops
        self._stopped_by: Future[Any] | None = None
        self._missing = 0
        self._waiter: TaskWaiter

    async def wait(self) -> Any:
        """The future that stopped it, or None once all are done."""
        finished = self._finished
        for future in self._futures:
            if future.status is QUEUED or future.status is RUNNING:
                if not self._missing:
                    self._waiter = make_waiter(runtimes_of(self._futures), self._futures)
                self._missing += 1
                if future.listeners is None:
                    future.listeners = finished
                else:
                    future.add_listener(finished)
            elif future.status in self._stops:
                self._stopped_by = future
                break
        try:
            if self._missing and self._stopped_by is None:
                await self._waiter.wait()
            else:
                await anyio.lowlevel.checkpoint()
        finally:
            if self._missing:
                for future in self._futures:
                    future.remove_listener(finished)
        return self._stopped_by

    def _finished(self, future: Any) -> None:
        self._missing -= 1
        if self._ignores_success and future.status is SUCCEEDED:
            if not self._missing:
                self._waiter.wake()
        elif future.status in self._stops:
            self._stopped_by = self._stopped_by or future
            self._waiter.wake()
        elif not self._missing:
            self._waiter.wake()


def runtimes_of(futures: Iterable[Future[Any]]) -> list[Runtime]:
    """The runtimes of some futures' executors, each once."""
    return list(dict.fromkeys(node.runtime for node in {future.node for future in futures}))


def make_waiter(runtimes: list[Runtime], futures: Container[object]) -> TaskWaiter:
    """A wait of the current task for some futures; if it's a job's, the job lends its slot."""
    lenders = [lender for each in runtimes if (lender := each.current_lender()) is not None]
    for lender in lenders:
        for job in lender.jobs():
            if job in futures:
                raise RuntimeError(f"job {job.name} cannot wait for itself")
    return TaskWaiter(runtimes[0].backend.park(), lenders)


def check_futures(function: str, futures: Iterable[Future[T]]) -> list[Future[T]]:
    """Each future once, in order; all of them futures of this thread's event loop."""
    futures = list(futures)
    for future in futures:
        if type(future) is not Future:
            raise TypeError(f"{function} takes futures of anyslots, not {future!r}")
    thread = get_ident()
    for node in {future.node for future in futures}:
        if node.runtime.thread != thread:
            raise RuntimeError(
                f"cannot {function} a future from another thread than its event loop's; "
                "anyslots.from_thread.submit gives threads a future of their own"
            )
    return list(dict.fromkeys(futures))


_STOPS: dict[str, tuple[Status, ...]] = {
    ALL_COMPLETED: (),
    FIRST_COMPLETED: (SUCCEEDED, FAILED, CANCELLED),
    FIRST_EXCEPTION: (FAILED,),
}


def _result_or_exception(future: Future[Any]) -> Any:
    return future.value if future.status is SUCCEEDED else exception_of(future)
