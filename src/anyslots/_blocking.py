"""An executor for code that isn't async: an event loop in a thread of its own.

The `LoopThread` of one doesn't refer to it, so that dropping a `BlockingExecutor` ends its thread.
"""

from __future__ import annotations

import concurrent.futures as cf
import functools
import importlib
import inspect
import math
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextvars import Context
from typing import Any, ParamSpec, TypeVar, final, overload

import anyio
import anyio.to_thread

from ._errors import ExecutorClosed
from ._executor import Executor
from ._handles import Lane
from ._lane import runtime_of
from ._scheduling.adaptive import Adaptive
from ._scheduling.job import function_name
from ._scheduling.rates import Rate
from ._scheduling.retries import Retry
from ._thread_future import ThreadFuture

P = ParamSpec("P")
T = TypeVar("T")

BACKENDS = ("asyncio", "trio")


class _Calls:
    """The calls of one lane that haven't ended, those in lanes inside included."""

    def __init__(self) -> None:
        self.are_closed = False
        self.futures: set[cf.Future[Any]] = set()


class _Lane(cf.Executor):
    """What the executor and its lanes share: `submit`, `map` and `lane`."""

    _loop_thread: LoopThread
    _lane: Lane
    # Of the lane itself and those around it, but for the executor.
    _path: tuple[_Calls, ...]

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> cf.Future[T]: ...
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> cf.Future[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> cf.Future[Any]:
        """Have ``fn(*args, **kwargs)`` run as soon as it may; return its future at once.

        An async function runs in the event loop, any other in a worker thread; a coroutine that it
        returns is awaited in the event loop. Both run in a copy of the caller's present context.
        The future raises `anyio.WouldBlock` if the queue was full, and what the ``cost`` of a rate
        raises. Raises `ExecutorClosed`, a `RuntimeError`, after `shutdown`, and `TypeError` if
        ``fn`` isn't callable.
        """
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {fn!r}; submit(fn, *args)")
        if any(calls.are_closed for calls in self._path):
            raise ExecutorClosed("cannot submit after shutdown")
        kind, call = (ThreadFuture, fn) if is_async(fn) else (PlainFuture, _InThread(fn))
        future = self._loop_thread.put(kind(self._lane, call, args, kwargs))
        for calls in self._path:
            calls.futures.add(future)
            future.add_done_callback(calls.futures.discard)
        return future

    @overload  # type: ignore[override]
    def map(
        self, fn: Callable[..., Coroutine[Any, Any, T]], /, *iterables: Any, **options: Any
    ) -> Iterator[T]: ...
    @overload
    def map(self, fn: Callable[..., T], /, *iterables: Any, **options: Any) -> Iterator[T]: ...
    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Any,
        timeout: float | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Submit ``fn`` for all items of iterables now; iterate over the results in their order.

        As in `concurrent.futures`: `TimeoutError` if a result isn't there ``timeout`` seconds after
        this call; a call's exception is raised at its place. Then, and when the iterator is closed,
        the calls that have not ended are cancelled.
        """
        return super().map(fn, *iterables, timeout=timeout, **options)

    def lane(
        self,
        name: str | None = None,
        *,
        slots: float | Adaptive = math.inf,
        priority: float = 0,
        max_pending: float = math.inf,
        rate: Rate | Iterable[Rate] | None = None,
        gate: Callable[[], Awaitable[object]] | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        retry: Retry | bool | None = None,
    ) -> BlockingLane:
        """Make a lane inside, with the options of `Lane.lane`; it's an executor itself.

        ::

            model = executor.lane("model", slots=4, rate=Rate(500, per=60))
            pages = model.map(fetch, urls)
        """
        lane = self._lane.lane(
            name,
            slots=slots,
            priority=priority,
            max_pending=max_pending,
            rate=rate,
            gate=gate,
            timeout=timeout,
            queue_timeout=queue_timeout,
            retry=retry,
        )
        return BlockingLane(self, self._loop_thread, self._path, lane)


@final
class BlockingExecutor(_Lane):
    """A `concurrent.futures.Executor` that runs async functions, and plain ones in worker threads.

    For code that isn't async. An event loop runs in a thread of its own, which inherits no context;
    each submitted call is a job there, at most ``slots`` of them at once. It's used, from any
    thread, as any executor of `concurrent.futures` is, `wait` and `as_completed` included.

    A future's ``cancel()`` works on a running async function, too: it's cancelled at its next
    checkpoint, and the future is ``cancelled()`` once it has unwound. A plain function that runs
    can't be cancelled: False. Futures call their callbacks in the event loop's thread.

    ``slots``: how many calls may run at once; an int from 1, `math.inf`, or `Adaptive`.

    ``backend``: ``"asyncio"`` or ``"trio"``; ``backend_options``: a dict, as for `anyio.run`.

    ``max_pending``, ``rate``, ``gate``, ``timeout``, ``queue_timeout``, ``retry``, ``name``,
    ``instruments``: as for `Executor`, times in seconds. A ``timeout`` doesn't end a plain function
    that runs.

    Raises `TypeError` or `ValueError` for other arguments, and `ImportError` if the backend is not
    installed. A call that raises `SystemExit` or `KeyboardInterrupt` ends it: the other calls are
    cancelled.

    Left without ``shutdown``, it ends once it's garbage-collected or the interpreter exits, and
    what was submitted has finished.

    ::

        with BlockingExecutor(slots=10) as executor:
            for page in executor.map(fetch, urls):  # async def fetch(url): ...
                print(page)
    """

    def __init__(
        self,
        slots: float | Adaptive,
        *,
        backend: str = "asyncio",
        backend_options: dict[str, Any] | None = None,
        max_pending: float = math.inf,
        rate: Rate | Iterable[Rate] | None = None,
        gate: Callable[[], Awaitable[object]] | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        retry: Retry | bool | None = None,
        name: str | None = None,
        instruments: Iterable[object] = (),
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
        if not isinstance(backend_options, dict | None):
            raise TypeError(f"backend_options must be a dict or None, not {backend_options!r}")
        try:
            importlib.import_module(backend)
        except ImportError:
            raise ImportError(f"{backend} is not installed: anyslots[{backend}] has it") from None
        executor = Executor(
            slots,
            max_pending=max_pending,
            rate=rate,
            gate=gate,
            timeout=timeout,
            queue_timeout=queue_timeout,
            retry=retry,
            name=name,
            instruments=instruments,
            on_error="log",
        )
        self._lane = executor
        self._path = ()
        self._loop_thread = LoopThread(executor, backend, backend_options)
        weakref.finalize(self, self._loop_thread.stop).atexit = False

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end once those that are there have finished.

        ``wait``: return only then. ``cancel_futures``: cancel those that have not begun. May be
        called again. A job that runs in the event loop can't wait: `RuntimeError`.
        """
        self._loop_thread.stop(cancel_futures)
        if wait:
            self._loop_thread.thread.join()


@final
class BlockingLane(_Lane):
    """A lane of a `BlockingExecutor`; `BlockingExecutor.lane` makes it.

    It keeps the executor from ending by itself.
    """

    def __init__(
        self, parent: _Lane, loop_thread: LoopThread, path: tuple[_Calls, ...], lane: Lane
    ) -> None:
        self._loop_thread = loop_thread
        self._lane = lane
        self._parent = parent
        self._calls = _Calls()
        self._path = (self._calls, *path)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, here and in the lanes inside; those that are there still run.

        ``wait``: return once they have finished. ``cancel_futures``: cancel those that have not
        begun. May be called again. A job that runs in the event loop can't wait: `RuntimeError`.
        """
        if wait and threading.current_thread() is self._loop_thread.thread:
            raise RuntimeError("a job in the event loop can't wait for its lane's calls")
        self._calls.are_closed = True
        self._loop_thread.close_lane(self._lane, cancel_futures)
        if wait:
            cf.wait(list(self._calls.futures))


class LoopThread:
    def __init__(
        self, executor: Executor, backend: str, backend_options: dict[str, Any] | None
    ) -> None:
        end_with_interpreter()
        self.executor = executor
        self._closed = False
        self._stopping: anyio.Event
        self._started: cf.Future[None] = cf.Future()
        # Not waited for by `threading` itself, which would do so before it's told to stop. It
        # inherits no context from Python 3.14 on either, where threads may: the name of the event
        # loop that runs in this thread would be in it.
        self.thread: threading.Thread = threading.Thread(
            target=Context().run,
            args=(self._run, backend, backend_options),
            name="anyslots",
            daemon=True,
        )
        self.thread.start()
        self._started.result()
        loop_threads.add(self)

    def _run(self, backend: str, backend_options: dict[str, Any] | None) -> None:
        try:
            anyio.run(self._main, backend=backend, backend_options=backend_options)
        except (KeyboardInterrupt, SystemExit):
            pass  # a job's, whose future has it
        except BaseException as exc:
            self._started.set_exception(exc)

    async def _main(self) -> None:
        self._stopping = anyio.Event()
        async with self.executor:
            self._started.set_result(None)
            await self._stopping.wait()

    def put(self, future: ThreadFuture[Any]) -> ThreadFuture[Any]:
        if self._closed:
            raise ExecutorClosed("cannot submit after shutdown")
        runtime_of(self.executor).entries.put(future)
        return future

    def stop(self, cancel_futures: bool = False) -> None:
        """End once everything has finished; in any thread, and as often as one likes."""
        self._closed = True

        def stop() -> None:
            self.executor.close()
            if cancel_futures:
                self.executor.clear("its executor was shut down")
            self._stopping.set()

        self._post(stop)

    def close_lane(self, lane: Lane, cancel_futures: bool) -> None:
        """Have a lane take no more calls."""

        def close() -> None:
            lane.close()
            if cancel_futures:
                lane.clear("its executor was shut down")

        self._post(close)

    def _post(self, call: Callable[[], object]) -> None:
        try:
            runtime_of(self.executor).backend.post(call)
        except RuntimeError:
            pass  # it has ended


class PlainFuture(ThreadFuture[T]):
    stoppable = False


class _InThread:
    """Runs a plain function as a job, in a worker thread."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.__qualname__ = function_name(fn)
        self._fn = fn

    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        def call() -> list[Any]:
            return [self._fn(*args, **kwargs)]  # in a list: trio lets no coroutine pass

        limiter = anyio.CapacityLimiter(math.inf)  # the slots are the limit
        result = (await anyio.to_thread.run_sync(call, limiter=limiter)).pop()
        return await result if inspect.iscoroutine(result) else result


def is_async(fn: Callable[..., Any]) -> bool:
    call = type(fn).__call__
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call)


loop_threads: weakref.WeakSet[LoopThread] = weakref.WeakSet()


@functools.cache
def end_with_interpreter() -> None:
    """Have all that is left finish before the interpreter exits, as the standard library does."""
    threading._register_atexit(finish_all)  # type: ignore[attr-defined]  # noqa: SLF001


def finish_all() -> None:
    left = list(loop_threads)
    for loop_thread in left:
        loop_thread.stop()
    for loop_thread in left:
        loop_thread.thread.join()
