"""Submitting jobs from other threads than the event loop's."""

from __future__ import annotations

import concurrent.futures as cf
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from threading import Lock, get_ident
from typing import Any, Generic, ParamSpec, TypeVar

import anyio.lowlevel

from ._errors import ExecutorClosed
from ._future import Future, function_name
from ._lane import Lane

__all__ = ("submit",)

P = ParamSpec("P")
T = TypeVar("T")


def submit(
    executor: Lane, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
) -> cf.Future[T]:
    """Have ``fn(*args, **kwargs)`` run as a job of an executor or a lane; return a future at once.

    For any thread but the event loop's. The job runs in the event loop, in a copy of the calling
    thread's present context. The future blocks its caller in ``result(timeout)``, works with
    `concurrent.futures.wait` and `as_completed`, and calls its callbacks in the event loop's
    thread. Its ``cancel()`` works on running jobs, too: True says that the job is being cancelled,
    and the future is ``cancelled()`` once the job has unwound, or at once if it hasn't begun.

    The future raises what the job raises, which counts as looked at for the executor's
    ``on_error``; `anyio.WouldBlock` if the queue was full; and `ExecutorClosed` if the executor
    was closed before it took the job. It's done when the executor's block has ended, at the latest.

    Raises `ExecutorClosed` if it's known already that no more jobs are taken, `RuntimeError` if
    the executor has not been entered or this is its event loop's thread, and `TypeError` for other
    arguments; then nothing was submitted.

    ::

        def in_a_thread() -> None:
            future = from_thread.submit(executor, fetch, url)
            print(future.result(timeout=10))
    """
    if not isinstance(executor, Lane):
        raise TypeError(f"executor must be an anyslots Executor or Lane, not {executor!r}")
    if not callable(fn):
        raise TypeError(f"fn must be callable, not {fn!r}; submit(executor, fn, *args)")
    owner = executor._executor
    if owner._thread is None:
        raise RuntimeError(f"cannot submit to {owner!r}: enter it with `async with` first")
    if owner._thread == get_ident():
        raise RuntimeError("this is the event loop's thread: call executor.submit instead")
    if executor._gate.thread is None:
        raise ExecutorClosed("the executor or lane takes no more jobs")
    future = ThreadFuture(executor, fn, args, kwargs)
    owner._inbox.put(future)
    return future


class ThreadFuture(cf.Future[T], Generic[T]):
    """A job's future for other threads.

    `_decided` is acquired once and never released: by the job as it begins, by the thread that
    cancels it before that, or by whoever settles it without either.
    """

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
        elif self.done():
            return self.cancelled()
        try:
            self._lane._executor._backend.post(self._cancel_job)
        except RuntimeError:
            pass  # the event loop is closed: all is settled
        return True

    def running(self) -> bool:
        return self._begun and not self.done()

    # In the event loop's thread.

    def take(self) -> None:
        assert self._call is not None
        (context, call, args, kwargs), self._call = self._call, None
        try:
            self._job = context.run(self._lane.submit, call, *args, **kwargs)
        except Exception as exc:
            self.refuse(exc)
        else:
            self._job.add_done_callback(self._end)

    def refuse(self, error: Exception) -> None:
        if self._decided.acquire(blocking=False):
            self.set_exception(error)

    def begin(self) -> bool:
        self._begun = self._decided.acquire(blocking=False)
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

    def _cancel_job(self) -> None:
        if self._job is not None:
            self._job.cancel()


class _Call(Generic[T]):
    """What runs as the job: the function, unless a thread has cancelled it."""

    def __init__(self, fn: Callable[..., Awaitable[T]], future: ThreadFuture[T]) -> None:
        self.__qualname__ = function_name(fn)
        self._fn = fn
        self._future = future

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[T]:
        return self._fn(*args, **kwargs) if self._future.begin() else self._give_up()

    async def _give_up(self) -> Any:
        self._future._cancel_job()
        await anyio.lowlevel.checkpoint()
