"""A job's future for other threads than the event loop's: what it is to `from_thread`'s callers.

It goes through an executor's entry queue, and the event loop's thread makes a job of it there.
"""

from __future__ import annotations

import concurrent.futures as cf
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from threading import Lock
from typing import Any, Generic, TypeVar

import anyio.lowlevel

from ._handles import Future, Lane
from ._lane import runtime_of
from ._runtime.backend import forget_backend
from ._scheduling.job import function_name

T = TypeVar("T")


class ThreadFuture(cf.Future[T], Generic[T]):
    """A job's future for other threads.

    `_decided` is acquired once and never released: by the job as it begins, by the thread that
    cancels it before that, or by what settles it without either.
    """

    stoppable = True
    """Whether a job that has begun can be cancelled."""

    def __init__(
        self, lane: Lane, fn: Callable[..., Awaitable[T]], args: Any, kwargs: dict[str, Any]
    ) -> None:
        super().__init__()
        self._decided = Lock()
        self._begun = False
        self._lane = lane
        self._job: Future[T] | None = None
        self._call: tuple[Context, _Call[T], Any, dict[str, Any]] | None
        self._call = copy_context(), _Call(fn, self), args, kwargs

    def cancel(self) -> bool:
        if self._decided.acquire(blocking=False):
            self._drop()
        elif self.done() or not self.stoppable:
            return self.cancelled()
        try:
            runtime_of(self._lane).backend.post(self.cancel_job)
        except RuntimeError:
            pass  # the event loop is closed: all is settled
        return True

    def running(self) -> bool:
        return self._begun and not self.done()

    # In the event loop's thread.

    def deliver(self) -> None:
        assert self._call is not None
        (context, call, args, kwargs), self._call = self._call, None
        try:
            context.run(forget_backend)
            self._job = context.run(self._lane.submit, call, *args, **kwargs)
        except Exception as exc:
            self.reject(exc)
        else:
            self._job.add_done_callback(self._end)

    def reject(self, error: Exception) -> None:
        if self._decided.acquire(blocking=False):
            self.set_exception(error)

    def begin(self) -> bool:
        """An attempt of the job begins; False if a thread has cancelled it before the first."""
        self._begun = self._begun or self._decided.acquire(blocking=False)
        return self._begun

    def _end(self, job: Future[T]) -> None:
        self._job = None
        error = None if job.cancelled() else job.exception()
        if not self._begun and not self._decided.acquire(blocking=False):
            return
        if job.cancelled():
            self._drop()
        elif error is not None:
            self.set_exception(error)
        else:
            self.set_result(job.result())

    def _drop(self) -> None:
        super().cancel()
        self.set_running_or_notify_cancel()

    def cancel_job(self) -> None:
        if self._job is not None:
            self._job.cancel()


class _Call(Generic[T]):
    """What runs as the job: the function, unless a thread has cancelled it."""

    def __init__(self, fn: Callable[..., Awaitable[T]], future: ThreadFuture[T]) -> None:
        self.__qualname__ = function_name(fn)
        self._fn = fn
        self._future = future

    def __call__(self, /, *args: Any, **kwargs: Any) -> Awaitable[T]:
        return self._fn(*args, **kwargs) if self._future.begin() else self._give_up()

    async def _give_up(self) -> Any:
        self._future.cancel_job()
        await anyio.lowlevel.checkpoint()
