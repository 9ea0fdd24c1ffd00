"""Submitting jobs from other threads than the event loop's."""

from __future__ import annotations

import concurrent.futures as cf
from collections.abc import Awaitable, Callable
from threading import get_ident
from typing import ParamSpec, TypeVar

from ._errors import ExecutorClosed
from ._handles import Lane
from ._lane import node_of, runtime_of
from ._thread_future import ThreadFuture

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

    The future raises what the job raises, which counts as retrieved for the executor's
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
    runtime = runtime_of(executor)
    if runtime.thread is None:
        raise RuntimeError(f"cannot submit to {executor!r}: enter it with `async with` first")
    if runtime.thread == get_ident():
        raise RuntimeError("this is the event loop's thread: call executor.submit instead")
    if node_of(executor).thread is None:
        raise ExecutorClosed("the executor or lane takes no more jobs")
    future = ThreadFuture(executor, fn, args, kwargs)
    runtime.entries.put(future)
    return future
