"""Running plain functions on any `concurrent.futures.Executor`: threads, processes, a cluster.

Only the way there and back lives here: submit it as a job, and the executor's slots bound how many
calls the pool is given at once.
"""

from __future__ import annotations

import concurrent.futures as cf
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

import anyio
import anyio.lowlevel
import anyio.to_thread

from ._errors import JobCancelled
from ._runtime.backend import Backend, Wait, current_backend, forget_backend, is_cancellation
from ._scheduling.job import function_name

__all__ = ("run_sync",)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def run_sync(
    fn: Callable[[*Ts], T], /, *args: *Ts, pool: cf.Executor, abandon_on_cancel: bool = False
) -> T:
    """Call ``fn(*args)`` on a pool, and return its result or raise its exception.

    ``pool``: any `concurrent.futures.Executor`, such as `ProcessPoolExecutor`, loky's, Dask's
    ``client.get_executor(pure=False)``, mpi4py's. In a `ThreadPoolExecutor` ``fn`` runs in a copy
    of the present context; to another process no context goes along, and ``fn``, the arguments and
    the result are pickled.

    Cancelled, it cancels the call if the pool has not begun it. If it has, the wait goes on until
    the call has ended, and only then the cancellation; the result is dropped, but an exception of
    the call is raised. With ``abandon_on_cancel`` it doesn't wait: the call runs on by itself, and
    what comes of it is dropped. Dask says of running calls that they are cancelled, but they run
    to their end.

    Raises `TypeError` if ``pool`` isn't such an executor or ``fn`` can't be called; `JobCancelled`
    if somebody else cancelled the call, as ``pool.shutdown(cancel_futures=True)`` does; and what
    ``pool.submit`` raises. If a worker process dies the pool's own error says so.

    ::

        with ProcessPoolExecutor() as pool:
            async with Executor(slots=8) as executor:
                future = executor.submit(to_pool.run_sync, resize, image, pool=pool)
                print(await future)
    """
    if not callable(fn):
        raise TypeError(f"fn must be callable, not {fn!r}; run_sync(fn, *args, pool=pool)")
    if not isinstance(pool, cf.Executor):
        raise TypeError(
            f"pool must be a concurrent.futures.Executor, not {pool!r}; "
            "a Dask client makes one: client.get_executor(pure=False)"
        )
    await anyio.lowlevel.checkpoint_if_cancelled()
    backend = current_backend()
    future: cf.Future[T] = pool.submit(in_context(fn, pool), *args)
    try:
        try:
            await ended(future, backend)
        except backend.cancelled:
            with anyio.CancelScope(shield=True):
                # In a thread: Dask's asks its scheduler, which takes a while.
                limiter = anyio.CapacityLimiter(1)
                dropped = await anyio.to_thread.run_sync(future.cancel, limiter=limiter)
                if not (dropped or abandon_on_cancel):
                    await ended(future, backend)
                    outcome(future, fn, backend)
            raise
        return outcome(future, fn, backend)
    finally:
        # What is raised has this frame in its traceback: let it keep nothing.
        del future


def ended(future: cf.Future[Any], backend: Backend) -> Wait:
    """To be awaited until a call has ended."""
    parked = backend.park()

    def wake(_: cf.Future[Any]) -> None:
        # Called in the thread that ends the call, the event loop's for one: it must not block.
        try:
            backend.post(parked.wake)
        except RuntimeError:
            pass  # the loop is gone, and with it whoever waited

    future.add_done_callback(wake)
    return parked.wait()


def in_context(fn: Callable[..., T], pool: cf.Executor) -> Callable[..., T]:
    """``fn`` in a copy of the present context, if the pool's threads share our memory."""
    interpreters = getattr(cf, "InterpreterPoolExecutor", ())  # new in Python 3.14
    if isinstance(pool, cf.ThreadPoolExecutor) and not isinstance(pool, interpreters):
        context = copy_context()
        context.run(forget_backend)
        return partial(context.run, fn)
    return fn


def outcome(future: cf.Future[T], fn: Callable[..., T], backend: Backend) -> T:
    """The result of a call that has ended, or its exception; but never a cancellation of ours."""
    try:
        return future.result(0)
    except BaseException as exc:
        if future.cancelled() or is_cancellation(exc, backend):
            raise JobCancelled(f"the pool's call of {function_name(fn)} was cancelled") from exc
        raise
    finally:
        del future
