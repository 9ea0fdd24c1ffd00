"""One job's handle.

A `Future` is a small state machine: queued, running, then one of succeeded, failed and cancelled.
The worker that begins it notes so; every end goes through `_settle`, which the schedule calls. It
knows nothing about who runs when.
"""

from __future__ import annotations

import enum
import functools
import logging
from collections.abc import Callable, Generator, Iterable
from contextvars import Context, copy_context
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, final

import anyio

from ._errors import JobCancelled, NotDone

if TYPE_CHECKING:
    from ._backend import Wait
    from ._lane import Lane
    from ._lending import Lending
    from ._schedule import Schedule
    from ._unseen import Unseen
    from ._worker import Worker

T_co = TypeVar("T_co", covariant=True)

Watcher: TypeAlias = "Callable[[Future[Any]], object]"

logger = logging.getLogger("anyslots")


class Status(str, enum.Enum):
    """Where a job is; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


QUEUED = Status.QUEUED
RUNNING = Status.RUNNING
SUCCEEDED = Status.SUCCEEDED
FAILED = Status.FAILED
CANCELLED = Status.CANCELLED


class Failure:
    """Why a job failed, and whom to tell once somebody looks at it."""

    __slots__ = ("exception", "traceback", "unseen")

    def __init__(
        self, exception: BaseException, traceback: TracebackType | None, unseen: Unseen | None
    ) -> None:
        self.exception = exception
        self.traceback = traceback
        self.unseen = unseen


@final
class Future(Generic[T_co]):
    """The handle of one submitted job; `Executor.submit` makes it.

    Await it from any task of the executor's event loop, and from as many as you like: each gets
    the job's return value, or the exception that the job raised. Cancelling a task that awaits
    a future leaves the job alone; `cancel` cancels the job. A job that awaits its own future gets
    a `RuntimeError`.

    ::

        future = executor.submit(fetch, url)
        page = await future
    """

    __slots__ = (
        "__weakref__",
        "_args",
        "_callbacks",
        "_context",
        "_fn",
        "_lane",
        "_slot",
        "_status",
        "_value",
        "_worker",
    )

    _lane: Lane
    _status: Status
    # Until the job is done: what to call and in which context. Afterwards just the function's name,
    # so that a future that's kept keeps neither function nor arguments alive.
    _fn: Callable[..., Any] | str
    _args: tuple[Any, ...] | None
    _context: Context | None
    if TYPE_CHECKING:  # or else `typing.get_type_hints` looked for these names in vain
        # The worker that runs the job, while it runs.
        _worker: Worker | None
        # Called in turn, with the future, once it's done; none of them may raise. One by itself, as
        # it mostly is, or several in a dict, for its order and to take out one in one step.
        _callbacks: Watcher | dict[Watcher, None] | None
    _slot: int | None
    # The return value, the `Failure`, or the reason of the cancellation, as the status says.
    _value: Any

    # What anybody may read, from any thread.

    @property
    def name(self) -> str:
        """The qualified name of the submitted function."""
        return self._fn if isinstance(self._fn, str) else function_name(self._fn)

    @property
    def lane(self) -> Lane:
        """The lane that the job was submitted to; the executor itself for `Executor.submit`."""
        return self._lane

    @property
    def slot(self) -> int | None:
        """The number of the slot that the job runs or ran in, from 0; None if it hasn't begun."""
        return self._slot

    @property
    def status(self) -> Status:
        return self._status

    @property
    def error(self) -> BaseException | None:
        return self._value.exception if self._status is FAILED else None

    @property
    def attempts(self) -> int:
        return int(self._slot is not None)

    def done(self) -> bool:
        """Whether the job has ended: succeeded, failed or been cancelled."""
        return self._status is not QUEUED and self._status is not RUNNING

    def running(self) -> bool:
        """Whether the job has begun and not ended."""
        return self._status is RUNNING

    def cancelled(self) -> bool:
        """Whether the job was cancelled and has unwound."""
        return self._status is CANCELLED

    # What belongs to the event loop's thread.

    def result(self) -> T_co:
        """Return what the job returned, without waiting.

        Raises the job's own exception if it failed (the same object each time, its traceback
        as the job left it), `JobCancelled` if it was cancelled, and `NotDone` if it's queued
        or running.
        """
        if self._status is SUCCEEDED:
            return self._value  # type: ignore[no-any-return]
        exception = self.exception()
        assert exception is not None
        try:
            raise exception
        finally:
            # The traceback refers to this frame: let the frame refer to nothing.
            del self, exception

    def exception(self) -> BaseException | None:
        """Return the exception that the job raised, or None if it succeeded, without waiting.

        Raises `JobCancelled` if the job was cancelled and `NotDone` if it's queued or running.
        """
        if self._status is FAILED:
            failure: Failure = self._value
            if failure.unseen is not None:
                failure.unseen.seen(self)
                failure.unseen = None
            return failure.exception.with_traceback(failure.traceback)
        if self._status is CANCELLED:
            because = "" if self._value is None else f": {self._value}"
            raise JobCancelled(f"job {self.name} was cancelled{because}")
        if self._status is not SUCCEEDED:
            raise NotDone(f"job {self.name} is {self._status.value}; await the future instead")
        return None

    def cancel(self, reason: str | None = None) -> bool:
        """Cancel the job, and say whether there was anything left to cancel.

        A queued job never runs, and is cancelled at once. A running job is cancelled at its next
        checkpoint and is `cancelled()` once it has unwound; one that catches the cancellation and
        returns a value has succeeded. A job that's done stays as it is: False.

        ``reason`` becomes part of the `JobCancelled` that asking for the result raises.
        Raises `RuntimeError` from a thread other than the event loop's.
        """
        self._check_thread("cancel")
        if self._status is QUEUED:
            self._lane._schedule.discard(self._lane._line, self, CANCELLED, reason)
        elif self._status is RUNNING:
            worker = self._worker
            assert worker is not None
            # Trio's `Cancelled` refers to the frames that it came from.
            del self
            worker.cancel(reason)
        else:
            return False
        return True

    def add_done_callback(self, fn: Callable[[Future[T_co]], object]) -> None:
        """Call ``fn(future)`` once the job is done, or right now if it is.

        It's called in the event loop's thread, in a copy of the context of this call. If it
        raises, the exception is logged and harms nothing.
        """
        self._check_thread("add a callback to")
        callback = _Callback(fn)
        if self.done():
            callback(self)
        else:
            self._watch(callback)

    def remove_done_callback(self, fn: Callable[[Future[T_co]], object]) -> int:
        """Remove every callback equal to ``fn``; return how many there were."""
        self._check_thread("remove a callback from")
        several = self._callbacks if isinstance(self._callbacks, dict) else [self._callbacks]
        found = [c for c in several if isinstance(c, _Callback) and c.fn == fn]
        for callback in found:
            self._unwatch(callback)
        return len(found)

    def __await__(self) -> Generator[Any, Any, T_co]:
        if get_ident() != self._lane._executor._thread:
            self._check_thread("await")
        if self._status is QUEUED or self._status is RUNNING:
            yield from self._wait()
        else:
            yield from self._lane._executor._backend.checkpoint()
        if self._status is SUCCEEDED:
            return self._value  # type: ignore[no-any-return]
        try:
            return self.result()
        finally:
            del self

    async def wait(self) -> None:
        """Wait until the job is done, whatever became of it.

        Never raises for the job, and doesn't count as looking at its error. Cancelling this wait
        leaves the job alone.
        """
        self._check_thread("wait for")
        await (self._lane._executor._backend.checkpoint() if self.done() else self._wait())

    # For the schedule, the workers and the functions that collect.

    def _wait(self) -> Wait:
        """Wait for a job that isn't done, lending the slot of the job that does."""
        wait = self._lane._executor._backend.wait(self)
        lending = lending_in(self._lane._schedule)
        if lending is None:
            return wait
        if lending.worker is self._worker:
            raise RuntimeError(f"job {self.name} cannot wait for itself")
        self._watch(lending)
        return lending.around(wait)

    def _settle(self, status: Status, value: Any) -> None:
        """The job is done: let go of the call, and tell whoever waits."""
        self._value = value
        self._status = status
        try:
            self._fn = self._fn.__qualname__  # type: ignore[union-attr]
        except Exception:
            self._fn = function_name(self._fn)
        self._args = self._context = self._worker = None
        callbacks = self._callbacks
        if callbacks is not None:
            if isinstance(callbacks, dict):
                self._call_all(callbacks)
                self._callbacks = None
            else:
                self._callbacks = None
                callbacks(self)

    def _call_all(self, callbacks: dict[Watcher, None]) -> None:
        for callback in list(callbacks):
            # One may take out another, by cancelling a task that waits.
            if callback in callbacks:
                del callbacks[callback]
                callback(self)

    def _watch(self, callback: Watcher) -> None:
        """Have ``callback``, which never raises, called when the job is done."""
        if self._callbacks is None:
            self._callbacks = callback
        elif isinstance(self._callbacks, dict):
            self._callbacks[callback] = None
        else:
            self._callbacks = {self._callbacks: None, callback: None}

    def _unwatch(self, callback: Watcher) -> None:
        if isinstance(self._callbacks, dict):
            self._callbacks.pop(callback, None)
        elif self._callbacks == callback:
            self._callbacks = None

    def _check_thread(self, doing: str) -> None:
        if get_ident() != self._lane._executor._thread:
            raise RuntimeError(
                f"cannot {doing} a future from another thread than its event loop's; "
                "anyslots.from_thread.submit gives threads a future of their own"
            )

    def __repr__(self) -> str:
        slot = "" if self._slot is None else f" slot={self._slot}"
        return f"<Future {self.name} {self._status.value}{slot}>"


def make_future(
    lane: Lane,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    context: Context,
) -> Future[Any]:
    """The handle of a job that's queued.

    Instead of an `__init__`: that of a class with slots is called by way of C, at a fourth of what
    making a future costs.
    """
    future: Future[Any] = Future()
    future._lane = lane
    future._fn = fn
    future._args = args
    future._context = context
    future._status = QUEUED
    future._callbacks = future._value = future._slot = future._worker = None
    return future


def lending_in(schedule: Schedule) -> Lending | None:
    """How to wait where this code runs, if that's in a job of the schedule."""
    worker = schedule.lender()
    return None if worker is None else worker.make_lending()


class Signal:
    """An event that one task waits for; a job of one of the schedules lends its slot meanwhile."""

    __slots__ = ("_event", "_lending")

    def __init__(self, schedules: Iterable[Schedule]) -> None:
        lendings = (lending_in(schedule) for schedule in schedules)
        self._lending = next((lending for lending in lendings if lending is not None), None)
        self._event = anyio.Event()

    def set(self) -> None:
        if not self._event.is_set():
            self._event.set()
            if self._lending is not None:
                self._lending()

    async def wait(self) -> None:
        if self._lending is None:
            await self._event.wait()
        else:
            await self._lending.around(self._event.wait())


class _Callback:
    """A user's callback: runs in the context that it was added in, and may raise."""

    __slots__ = ("context", "fn")

    def __init__(self, fn: Callable[[Future[Any]], object]) -> None:
        if not callable(fn):
            raise TypeError(f"a callback must be callable, not {fn!r}")
        self.fn = fn
        self.context = copy_context()

    def __call__(self, future: Future[Any]) -> None:
        try:
            self.context.run(self.fn, future)
        except (KeyboardInterrupt, SystemExit) as exc:
            future._lane._executor._end_with(exc)
        except BaseException:
            logger.exception("callback %s of %r raised", function_name(self.fn), future)


def function_name(fn: object) -> str:
    """How to call ``fn`` in a message: its qualified name, through partials, or its type's."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    try:
        name = getattr(fn, "__qualname__", None)
    except Exception:
        name = None
    return name if isinstance(name, str) else type(fn).__qualname__
