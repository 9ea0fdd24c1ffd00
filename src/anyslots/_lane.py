"""A queue of jobs as its users see it: submit, wait for room, pause, cancel, join."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import anyio

from . import _future
from ._arguments import check_count
from ._errors import ExecutorClosed
from ._future import Future, lending_in, make_future
from ._line import Line
from ._results import AnyIterable, Results
from ._schedule import Schedule
from ._statistics import Statistics

if TYPE_CHECKING:
    from ._backend import Parked, Wait
    from ._executor import Executor
    from ._lending import Lending

P = ParamSpec("P")
T = TypeVar("T")
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")
A4 = TypeVar("A4")
A5 = TypeVar("A5")


class Gate:
    """Where submissions pass: the thread that may submit, or None while nobody may."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread: int | None = None


CLOSED_GATE = Gate()


class LendingPlace:
    """Where `enqueue` waits; if it's a job of the same executor that does, its slot is lent."""

    __slots__ = ("_lending", "_parked", "is_waiting", "task")

    def __init__(self, parked: Parked, lending: Lending | None, task: object) -> None:
        self._parked = parked
        self._lending = lending
        self.is_waiting = parked.is_waiting
        # The one that waits; None if it's known to belong to a job of the executor.
        self.task = task

    def wake(self) -> None:
        self._parked.wake()
        if self._lending is not None:
            self._lending()

    def wait(self) -> Wait:
        wait = self._parked.wait()
        return wait if self._lending is None else self._lending.around(wait)


class Lane:
    """A first-in, first-out queue of jobs inside an executor, with limits of its own.

    `Executor.lane` makes one; the executor itself is one, too, with a default lane inside. A lane
    that nobody holds and that has no jobs left is collected.
    """

    # Without a `__dict__`, an attribute that's set by a wrong name is an error.
    __slots__ = ("__weakref__", "_executor", "_gate", "_line", "_schedule", "name")

    name: str | None
    if TYPE_CHECKING:  # or else `typing.get_type_hints` looked for these names in vain
        # Which jobs `cancel`, `join` and the like are about, and where submitted ones queue.
        _executor: Executor
        _schedule: Schedule
        _line: Line
        _gate: Gate

    def __init__(self, executor: Executor, name: str | None, line: Line) -> None:
        self.name = name
        self._executor = executor
        self._schedule = executor._schedule
        self._gate = executor._gate
        self._line = line

    @property
    def executor(self) -> Executor:
        return self._executor

    @property
    def parent(self) -> Lane | None:
        return None if self is self._executor else self._executor

    @property
    def rate(self) -> tuple[Any, ...]:
        return tuple(self._line.meters)

    @property
    def gate(self) -> None:
        return None

    def submit(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Have ``fn(*args, **kwargs)`` run as soon as it may; return its future at once.

        ``fn`` is called in its slot, in a copy of the present context. It returns an awaitable: a
        coroutine or, under asyncio, also a Task or a Future; a job's failure, a result that can't
        be awaited included, is kept in its future. Jobs begin in the order of their submission.

        Works wherever the event loop's thread is, in a plain callback of the loop, too. Raises
        `anyio.WouldBlock` if the queue is full, `TypeError` if ``fn`` isn't callable,
        `ExecutorClosed` if no more jobs are taken, and `RuntimeError` if the executor has not been
        entered or this is another thread than its event loop's; then nothing was queued.

        ::

            future = executor.submit(fetch, url, retries=3)
        """
        if get_ident() != self._gate.thread:
            self._check_gate()
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {fn!r}; submit(fn, *args), not submit(fn())")
        if self._line.bounded and not self._schedule.has_room(self._line):
            raise anyio.WouldBlock
        call = partial(fn, **kwargs) if kwargs else fn
        future: Future[T] = make_future(self, call, args, copy_context())
        self._schedule.submit(self._line, future)
        return future

    async def enqueue(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Submit like `submit`, but wait until there's room in the queue.

        Who waits longest is let in first. If ``max_pending`` is 0, this waits until the job has
        been given a slot. Cancelled while it waits, the job never runs. Raises `ExecutorClosed` if
        the lane or its executor is closed meanwhile, or the executor begins to shut down and this
        isn't one of its own jobs, and else what `submit` raises.

        ::

            async for url in urls:
                await executor.enqueue(fetch, url)
        """
        if get_ident() != self._gate.thread:
            self._executor._check_loop("submit to")
            # If it's closed since it was cancelled, together with whoever submits.
            await anyio.lowlevel.checkpoint_if_cancelled()
            self._check_gate()
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {fn!r}; enqueue(fn, *args)")
        await anyio.lowlevel.checkpoint_if_cancelled()
        call = partial(fn, **kwargs) if kwargs else fn
        future: Future[T] = make_future(self, call, args, copy_context())
        if not self._line.bounded or self._schedule.has_room(self._line):
            self._schedule.submit(self._line, future)
            await anyio.lowlevel.cancel_shielded_checkpoint()
            return future
        place = self._executor._place()
        application = self._schedule.apply(self._line, future, place)
        try:
            await place.wait()
        except BaseException:
            if application.granted:
                future.cancel()
            else:
                self._schedule.withdraw(self._line, application)
            raise
        if not application.granted:
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise ExecutorClosed(f"{self!r} was closed before there was room for the job")
        self._schedule.tell()
        return future

    @overload
    def map(
        self,
        fn: Callable[[A1], Awaitable[T]],
        i1: AnyIterable[A1],
        /,
        *,
        ordered: bool = ...,
        buffer: float | None = ...,
    ) -> Results[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2], Awaitable[T]],
        i1: AnyIterable[A1],
        i2: AnyIterable[A2],
        /,
        *,
        ordered: bool = ...,
        buffer: float | None = ...,
    ) -> Results[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2, A3], Awaitable[T]],
        i1: AnyIterable[A1],
        i2: AnyIterable[A2],
        i3: AnyIterable[A3],
        /,
        *,
        ordered: bool = ...,
        buffer: float | None = ...,
    ) -> Results[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2, A3, A4], Awaitable[T]],
        i1: AnyIterable[A1],
        i2: AnyIterable[A2],
        i3: AnyIterable[A3],
        i4: AnyIterable[A4],
        /,
        *,
        ordered: bool = ...,
        buffer: float | None = ...,
    ) -> Results[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2, A3, A4, A5], Awaitable[T]],
        i1: AnyIterable[A1],
        i2: AnyIterable[A2],
        i3: AnyIterable[A3],
        i4: AnyIterable[A4],
        i5: AnyIterable[A5],
        /,
        *,
        ordered: bool = ...,
        buffer: float | None = ...,
    ) -> Results[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., Awaitable[T]],
        i1: AnyIterable[Any],
        i2: AnyIterable[Any],
        i3: AnyIterable[Any],
        i4: AnyIterable[Any],
        i5: AnyIterable[Any],
        i6: AnyIterable[Any],
        /,
        *iterables: AnyIterable[Any],
        ordered: bool = ...,
        buffer: float | None = ...,
    ) -> Results[T]: ...
    def map(
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *iterables: AnyIterable[Any],
        ordered: bool = True,
        buffer: float | None = None,
    ) -> Results[T]:
        """Run ``fn`` over the items of iterables, as jobs of this lane; return their results.

        ``await executor.map(...)`` gives a list, ``async for`` each result as it comes: in the
        order of the inputs or, with ``ordered=False``, as the jobs end. `Results` says what
        happens on failure and when it's left early.

        The iterables, synchronous or asynchronous, may be huge or endless, and the shortest one
        counts: at most ``slots + buffer`` items are taken ahead of the results that were given
        out. ``buffer``: an int from 0, or `math.inf`; None for as many as there are slots. With
        ``buffer=0``, a slow consumer stops the jobs; a slow first job stops the others when the
        buffer is full.

        Raises `TypeError` or `ValueError` for other arguments, and what `submit` raises when the
        results are first asked for.

        ::

            async for page in executor.map(fetch, urls, ordered=False):
                print(page)
        """
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {fn!r}; map(fn, *iterables)")
        if not iterables:
            raise TypeError("map needs at least one iterable: map(fn, *iterables)")
        if not isinstance(ordered, bool):
            raise TypeError(f"ordered must be a bool, not {ordered!r}")
        if buffer is not None:
            check_count("buffer", buffer, least=0)
        return Results(self, fn, iterables, ordered, buffer)

    def pause(self) -> None:
        """Start nothing new; running jobs go on, and jobs may still be submitted.

        A pause doesn't hold up the end of the executor's block, or `Executor.shutdown`: it ends
        when nothing runs any more that could end it.
        """
        self._executor._check_loop("pause")
        self._schedule.pause(self._line)

    def resume(self) -> None:
        """End a pause: what may start starts at once."""
        self._executor._check_loop("resume")
        self._schedule.resume(self._line)

    @property
    def paused(self) -> bool:
        """Whether nothing new is started."""
        return self._line.paused

    @property
    def slots(self) -> float:
        """How many jobs may run at once; settable at any time.

        More slots start jobs at once; with fewer, running jobs finish. Raises `TypeError` or
        `ValueError`, and keeps the old number, for anything but an int from 1 or `math.inf`.
        """
        return self._line.slots

    @slots.setter
    def slots(self, slots: float) -> None:
        check_count("slots", slots, least=1)
        if self._executor._thread is not None:
            self._executor._check_loop("resize")
        self._schedule.resize(self._line, slots)

    @property
    def priority(self) -> float:
        """The lanes with the highest number go first; equal ones take turns."""
        return self._line.priority

    def cancel(self, reason: str | None = None) -> None:
        """Cancel every queued and running job; submitting goes on.

        Queued jobs never run; running ones are cancelled at their next checkpoint. ``reason``
        becomes part of the `JobCancelled` that asking for their results raises. Raises
        `RuntimeError` before the executor is entered and from another thread than its event loop's.
        """
        self._executor._check_loop("cancel the jobs of")
        running = [worker for worker in self._executor._staff.workers if self._runs(worker.future)]
        # First those that run: one that waits for a queued job meets its own cancellation.
        for worker in running:
            worker.cancel(reason)
        for line in self._lines():
            self._schedule.drain(line, reason)

    def close(self) -> None:
        """Take no more jobs; those that are queued still run.

        Who waits in `enqueue` gets `ExecutorClosed`. Raises `RuntimeError` before the executor is
        entered and from another thread than its event loop's.
        """
        self._executor._check_loop("close")
        self._gate = CLOSED_GATE
        self._schedule.refuse(self._line)

    async def join(self) -> None:
        """Wait until no job is queued or running.

        Cancelling this wait leaves the jobs alone. Raises `RuntimeError` inside one of the jobs
        that it would wait for.
        """
        self._check_wait("join")
        await self._executor._backend.checkpoint()
        await self._wait_idle(self._line)

    def statistics(self) -> Statistics:
        """The counts of this moment."""
        return self._line.statistics()

    def _lines(self) -> list[Line]:
        return [self._line]

    def _runs(self, future: Future[Any] | None) -> bool:
        """Whether a worker's job is one of this lane's."""
        return future is not None and future._lane is self

    def _check_gate(self) -> None:
        """Say why a submission is refused; return if it isn't."""
        self._executor._check_loop("submit to")
        if self._gate is CLOSED_GATE or not self._executor._takes_own_jobs():
            raise ExecutorClosed(f"{self!r} takes no more jobs")

    def _check_wait(self, doing: str) -> None:
        self._executor._check_loop(doing)
        if self._runs(self._executor._own_job()):
            raise RuntimeError(f"a job cannot {doing} {self!r}, its own: it would wait for itself")

    async def _wait_idle(self, counts: Line | Schedule) -> None:
        while counts.unfinished:
            if counts.idle is None:
                counts.idle = anyio.Event()
            wait = counts.idle.wait()
            lending = lending_in(self._schedule)
            await (wait if lending is None else lending.around(wait))

    def _describe(self, state: str) -> str:
        counts = self.statistics()
        words = [type(self).__name__, *([] if self.name is None else [repr(self.name)]), state]
        return (
            f"<{' '.join(word for word in words if word)} slots={counts.slots} "
            f"running={counts.running} queued={counts.queued}>"
        )

    def __repr__(self) -> str:
        state = "closed" if self._gate is CLOSED_GATE else "paused" if self.paused else ""
        return self._describe(state)


def seconds_or_none(own: float | None, default: float | None) -> float | None:
    """A lane's time limit: its own or, if it sets none, the executor's; None if it's infinite."""
    chosen = default if own is None else own
    return None if chosen == math.inf else chosen


# For those who resolve the annotations of `Future` at run time, which knows lanes but by name.
_future.Lane = Lane  # type: ignore[attr-defined]
