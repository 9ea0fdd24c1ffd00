"""What a future says and does of its job; all but the lane that it belongs to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextvars import copy_context
from threading import get_ident
from types import coroutine
from typing import Any, NoReturn, Self, TypeVar

from ._errors import JobCancelled, NotDone
from ._runtime.lending import TaskWaiter
from ._runtime.runtime import Runtime
from ._scheduling.job import (
    CANCELLED,
    FAILED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Cancellation,
    Failure,
    Job,
    function_name,
)

T_co = TypeVar("T_co", covariant=True)

logger = logging.getLogger("anyslots")


class BaseFuture(Job[T_co]):
    """A future without the way to its lane."""

    __slots__ = ()

    @property
    def attempts(self) -> int:
        """How often the job has started so far."""
        if self.attempt is not None:
            return self.attempt.count
        return 0 if self.slot is None else 1

    @property
    def error(self) -> BaseException | None:
        """The exception of a failed job; None otherwise. Doesn't count as retrieving it."""
        if self.status is FAILED:
            failure: Failure = self.value
            return failure.exception
        return None

    def done(self) -> bool:
        """Whether the job has ended: succeeded, failed or been cancelled."""
        return self.status is not QUEUED and self.status is not RUNNING

    def running(self) -> bool:
        """Whether the job has started and not ended."""
        return self.status is RUNNING

    def cancelled(self) -> bool:
        """Whether the job was cancelled and has unwound."""
        return self.status is CANCELLED

    def result(self) -> T_co:
        """Return what the job returned, without waiting.

        Raises the job's own exception if it failed (the same object each time, its traceback
        as the job left it), `JobCancelled` if it was cancelled, and `NotDone` if it's queued
        or running.
        """
        if self.status is SUCCEEDED:
            return self.value  # type: ignore[no-any-return]
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
        if self.status is FAILED:
            failure: Failure = self.value
            if failure.retrieval is not None:
                failure.retrieval.mark_retrieved(self)
                failure.retrieval = None
            return BaseException.with_traceback(failure.exception, failure.traceback)
        if self.status is CANCELLED:
            reason: Any = self.value
            cause = None
            if isinstance(reason, Cancellation):
                reason, cause = reason.message, reason.cause
            because = "" if reason is None else f": {reason}"
            raise JobCancelled(f"job {self.name} was cancelled{because}") from cause
        if self.status is not SUCCEEDED:
            raise NotDone(f"job {self.name} is {self.status.value}; await the future instead")
        return None

    def cancel(self, reason: str | None = None) -> bool:
        """Cancel the job, and say whether there was anything left to cancel.

        A queued job never runs, and is cancelled at once. A running job is cancelled at its next
        checkpoint and is `cancelled()` once it has unwound; one that catches the cancellation and
        returns a value has succeeded. A job that's done stays as it is: False.

        On trio a running job is cancelled as a cancel scope cancels, at each checkpoint until it
        has unwound; under asyncio as `asyncio.Task.cancel` does, once, and again if asked again.
        Shields are respected. ``reason`` becomes part of the `JobCancelled` that asking for the
        result raises. Raises `RuntimeError` from a thread other than the event loop's.
        """
        self._check_thread("cancel")
        if self.status is not RUNNING:
            runtime: Runtime = self.node.runtime
            return runtime.scheduler.cancel(self, reason)
        holder = self.holder
        assert holder is not None
        # Trio's `Cancelled` refers to the frames that it came from.
        del self
        holder.cancel(reason)
        return True

    def add_done_callback(self, fn: Callable[[Self], object]) -> None:
        """Call ``fn(future)`` once the job is done, or right now if it is.

        It's called in the event loop's thread, in a copy of the context of this call. If it
        raises, the exception is logged and harms nothing.
        """
        self._check_thread("add a callback to")
        callback = Callback(fn)
        if self.is_done:
            callback(self)
            transaction = self.node.runtime.scheduler.transaction
            if not transaction.busy:
                transaction.deliver()
        else:
            self.add_listener(callback)

    def remove_done_callback(self, fn: Callable[[Self], object]) -> int:
        """Remove every callback equal to ``fn``; return how many there were."""
        self._check_thread("remove a callback from")
        several = self.listeners if isinstance(self.listeners, dict) else [self.listeners]
        found = [each for each in several if isinstance(each, Callback) and each.fn == fn]
        for callback in found:
            self.remove_listener(callback)
        return len(found)

    def __await__(self) -> Generator[Any, Any, T_co]:
        runtime: Runtime = self.node.runtime
        if get_ident() != runtime.thread:
            self._check_thread("await")
        if self.status is QUEUED or self.status is RUNNING:
            yield from self._wait(runtime)
        else:
            yield from runtime.backend.checkpoint()
        if self.status is SUCCEEDED:
            return self.value  # type: ignore[no-any-return]
        try:
            return self.result()
        finally:
            del self

    async def wait(self) -> None:
        """Wait until the job is done, whatever became of it.

        Never raises for the job, and doesn't count as retrieving its exception. Cancelling this
        wait leaves the job alone.
        """
        self._check_thread("wait for")
        runtime: Runtime = self.node.runtime
        await (runtime.backend.checkpoint() if self.is_done else self._wait(runtime))

    def _wait(self, runtime: Runtime) -> Any:
        """Wait for a job that isn't done, lending the slot of the job that does."""
        lender = runtime.current_lender()
        if lender is None:
            return runtime.backend.wait(self)
        if any(job is self for job in lender.jobs()):
            raise RuntimeError(f"job {self.name} cannot wait for itself")
        return self._wait_lending(TaskWaiter(runtime.backend.park(), [lender]))

    @coroutine
    def _wait_lending(self, waiter: TaskWaiter) -> Generator[Any, Any, None]:
        self.add_listener(waiter.wake)
        try:
            yield from waiter.wait()
        except BaseException:
            self.remove_listener(waiter.wake)
            raise

    def _check_thread(self, doing: str) -> None:
        if get_ident() != self.node.runtime.thread:
            raise RuntimeError(
                f"cannot {doing} a future from another thread than its event loop's; "
                "anyslots.from_thread.submit gives threads a future of their own"
            )

    def __repr__(self) -> str:
        slot = "" if self.slot is None else f" slot={self.slot}"
        return f"<Future {self.name} {self.status.value}{slot}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot copy or pickle {self!r}: it belongs to an event loop")


class Callback:
    """A callback of users: runs in the context that it was added in, and may raise.

    As a listener it's called in the middle of a transition: it runs once that's complete.
    """

    __slots__ = ("context", "fn")

    def __init__(self, fn: Callable[[Any], object]) -> None:
        if not callable(fn):
            raise TypeError(f"a callback must be callable, not {fn!r}")
        self.fn = fn
        self.context = copy_context()

    def __call__(self, job: Job[Any]) -> None:
        job.node.runtime.scheduler.transaction.notify(self.run, job)

    def run(self, job: Job[Any]) -> None:
        try:
            self.context.run(self.fn, job)
        except (KeyboardInterrupt, SystemExit) as exc:
            job.node.runtime.end_with(exc)
        except BaseException:
            logger.exception("callback %s of %r raised", function_name(self.fn), job)


def exception_of(future: BaseFuture[Any]) -> BaseException:
    """The exception of a job that has failed, or `JobCancelled`; it counts as retrieved."""
    try:
        exception = future.exception()
    except JobCancelled as cancelled:
        exception = cancelled.with_traceback(None)
    assert exception is not None
    return exception
