"""Runs jobs one after another in one slot.

A worker is a task of the executor's task group. It drives each job's coroutine by hand, inside the
job's own context, so that a job costs neither a task nor a cancel scope: all jobs of a worker share
the scopes that it's in, until one of them is cancelled and these are spent.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Coroutine, Generator
from sys import getrefcount
from types import TracebackType, coroutine
from typing import Any

import anyio

from .._scheduling.job import (
    CANCELLED,
    FAILED,
    SUCCEEDED,
    Cancellation,
    Job,
    Status,
    mark_retrieved,
)
from .._scheduling.wait_queue import Waiter
from . import instrumentation, stepping
from .backend import JobScope
from .exceptions import ends_program, get_traceback, split
from .lending import Lender
from .retrying import judge, note_attempts
from .runtime import CANCELLED_FROM_OUTSIDE, Runtime
from .stepping import JOB_ENDED, await_it, step_jobs

OWN_FILES = (__file__, stepping.__file__, instrumentation.__file__)
"""Where a traceback begins that comes out of a job."""

INSTANT_JOBS = 8
"""How many jobs that return at once run one after another before other tasks have a turn."""

logger = logging.getLogger("anyslots")


class Worker(Lender):
    """One task that runs jobs.

    ``job`` is the one that it runs; None while it's idle. ``is_detained`` is set once the job was
    cancelled, or has left something in the task: then the worker leaves its scopes before it goes
    on, in fresh ones.
    """

    __slots__ = (
        "cancels", "ends_turn", "error", "is_closing", "is_detained", "left_by", "limited",
        "needs_care", "reason", "runtime", "scope", "started", "stepper", "task", "tasks",
        "timed_out", "timeout", "was_asked",
    )  # fmt: skip

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.runtime = runtime
        # The worker's task, and another one if the job runs in it.
        self.task: object = None
        self.tasks: tuple[object, ...] = ()
        self.scope: JobScope
        # How to count the task's native cancellations, where there are any.
        self.cancels: Callable[[], int] | None = None
        self.is_detained = False
        # Whether there's more to see to at the job's next step or end than its value.
        self.needs_care = False
        # Whether other tasks are to run before it claims another job.
        self.ends_turn = False
        # Whether the job was asked to cancel, and why.
        self.was_asked = False
        self.reason: str | None = None
        # Whether the event loop, which is gone, closes the worker.
        self.is_closing = False
        # What the job that has just ended raised.
        self.error: Exception | None = None
        # When the job started, if it may have other attempts or has a time limit.
        self.started = 0.0
        # The number of the latest job with a time limit, that limit, and whether it was reached.
        self.limited: object = self
        self.timeout = math.inf
        self.timed_out = False
        # The name of the job that may have left something in the task.
        self.left_by: str | None = None
        self.stepper = self._make_stepper()

    def is_current(self) -> bool:
        """Whether this code runs in the worker's task."""
        return self.runtime.backend.current_task() is self.task

    def cancel(self, reason: str | None) -> None:
        """Cancel the job that it runs, at the job's next checkpoint."""
        if not self.was_asked:
            self.was_asked = True
            self.reason = reason
        self.is_detained = self.needs_care = True
        self.scope.cancel()

    def gave_up(self) -> bool:
        return False

    def lend(self) -> Waiter:
        self.needs_care = True
        return super().lend()

    async def work(self) -> None:
        """Run jobs until there are no more, or this task had better not go on."""
        runtime = self.runtime
        pool = runtime.pool
        self.task = runtime.backend.current_task()
        self.tasks = (self.task,)
        # Not made anew for each job: it refers to the task, as what a job leaves behind does.
        self.cancels = runtime.backend.cancel_count()
        goes_on = True
        try:
            while goes_on:
                self._open_scope()
                try:
                    # Not in a method of its own: each level costs something at each step of a job.
                    while not self.is_detained:
                        if not await pool.claim_job(self):
                            self.scope.close()
                            return
                        await self._run_jobs()
                except runtime.backend.cancelled:
                    pass  # while it was idle: for the same reasons as jobs are
                except BaseException:
                    # A generator that is closed as the event loop is gone leaves no scope.
                    if not self.is_closing:
                        self.scope.close()
                    raise
                goes_on = await self._leave_scope()
        finally:
            self.stepper.close()
            pool.forget(self)

    def _open_scope(self) -> None:
        self.scope = self.runtime.backend.job_scope()
        self.scope.open()
        self.is_detained = self.was_asked = self.timed_out = False
        self.reason = self.left_by = None

    async def _leave_scope(self) -> bool:
        """See to what has made it necessary to leave the scope; return whether to go on."""
        runtime = self.runtime
        backend = runtime.backend
        is_intact = self.scope.close()
        if anyio.current_effective_deadline() == -math.inf:
            runtime.abort(CANCELLED_FROM_OUTSIDE)
            return False
        if backend.task_done(runtime.host_task):
            # The executor was never left, and the event loop cancels what is left over.
            runtime.lost()
            return False
        if self.cancels is not None and self.cancels():
            await backend.uncancel()
        return self._is_fit(is_intact)

    def _is_fit(self, is_intact: bool) -> bool:
        """Whether nothing that a job has left in the task can harm others; if not, end the task."""
        is_referred_to = self.scope.is_referred_to()
        if self.left_by is not None and (is_referred_to or not is_intact):
            logger.warning(
                "job %s left a cancel scope, a timeout or a reference to its task behind",
                self.left_by,
            )
        if is_referred_to:
            self.runtime.pool.replace_worker()
        return not is_referred_to

    @coroutine
    def _run_jobs(self) -> Generator[Any, Any, None]:
        """Run the job that was claimed, and those that start in its slot after it."""
        job = self.job
        runtime = self.runtime
        succeed = runtime.scheduler.succeed
        send: Callable[[Any], Any] = self.stepper.send
        watched, is_disturbed = self.scope.watched()
        references = getrefcount(watched)
        swapped = runtime.backend.swapped_context()
        transaction = runtime.scheduler.transaction
        current_time = runtime.current_time
        numbers = runtime.scheduler.tree.numbers
        context: Any
        value: Any
        instant = 0
        self.needs_care = False
        try:
            while job is not None:
                self.job = job
                context = job.context
                if job.node.is_attended:
                    context = context.copy()  # its next attempt begins in this one
                    job.value = next(numbers)
                    self.started = current_time()
                    if job.node.timeout is not None:
                        self._limit_time(job)
                runtime.stepped = job
                # Not `run = context.run`: making a bound method takes as long as calling it.
                value = context.run(send, job)
                if value is JOB_ENDED:
                    instant += 1
                    if instant == INSTANT_JOBS:
                        self.ends_turn = self.needs_care = True
                else:
                    instant = 0
                    while True:
                        runtime.stepped = None
                        if self.needs_care:
                            self.scope.suspend()
                        try:
                            value = yield value
                        except BaseException as thrown:
                            self.is_closing = isinstance(thrown, GeneratorExit)
                            runtime.stepped = job
                            thrown = self.scope.deliver(thrown)
                            # Who keeps it shall not keep this frame, and the task.
                            BaseException.with_traceback(thrown, None)
                            value = context.run(self.stepper.throw, thrown)
                        else:
                            runtime.stepped = job
                            if swapped is None or not swapped():
                                value = context.run(send, value)
                            else:
                                value = send(value)
                        if value is JOB_ENDED:
                            break
                runtime.stepped = None
                if self.needs_care or getrefcount(watched) != references or is_disturbed():
                    left = getrefcount(watched) - references
                    end = self._end_turn if self.ends_turn else self._end
                    job = end(job, left, bool(is_disturbed()))
                else:
                    job = succeed(job)
                if transaction.has_delivered:
                    transaction.has_delivered = False
                    yield from self._uncancel()
        except BaseException as exc:
            if job is None:
                raise
            self._end_interrupted(job, exc)
            if self.is_closing:
                raise
        finally:
            # An exception that comes out has this frame in its traceback: let it keep nothing.
            job = context = value = self.job = None
            runtime.pool.idle += 1

    @coroutine
    def _uncancel(self) -> Generator[Any, Any, None]:
        """Callbacks were called that may have cancelled the task that they ran in."""
        if self.cancels is not None and self.cancels() and not self.is_detained:
            yield from self.runtime.backend.uncancel()

    def _limit_time(self, job: Job[Any]) -> None:
        self.timeout = job.node.timeout  # that of its lane may change
        self.limited = job.value
        self.runtime.pool.limit_time(self)

    def deadline(self) -> float:
        """When the time of the job is up that it runs; infinity for never."""
        if self.job is None or self.job.value != self.limited:
            return math.inf
        return self.started + self.timeout

    def time_out(self) -> None:
        """The time of the job is up: cancel it, unless that was done."""
        if not self.is_detained:
            self.timed_out = self.is_detained = self.needs_care = True
            self.scope.cancel()

    def _make_stepper(self) -> Generator[Any, Any, None]:
        stepper = step_jobs(self)
        stepper.send(None)
        return stepper

    def as_coroutine(self, result: object, job: Job[Any]) -> Coroutine[Any, Any, Any]:
        """What a submitted function has returned, as a coroutine."""
        native = self.runtime.backend.await_native(result)
        if native is not None:
            return self._await_native(result, native)
        if not inspect.isawaitable(result):
            raise TypeError(
                f"{job.name} returned {result!r}, which can't be awaited; to run a plain function "
                f"in a worker thread, submit(anyio.to_thread.run_sync, {job.name})"
            )
        return await_it(result)

    async def _await_native(self, task: object, native: Coroutine[Any, Any, Any]) -> Any:
        """The job runs in a task of its own, which this worker only awaits."""
        self.tasks = (self.task, task)
        try:
            return await native
        finally:
            self.tasks = (self.task,)
            del task

    # Ends of jobs.

    def _end(self, job: Job[Any], left: int, is_disturbed: bool) -> Job[Any] | None:
        """End a job that has returned or raised, where there's more to see to than its value.

        ``left``: how many references more there are to what the scope has watched.
        """
        self.needs_care = False
        error, self.error = self.error, None
        was_detained = self.is_detained
        if left:
            if error is not None:
                left -= self.scope.count_ended(error)
            self.is_detained = True  # the references are counted anew
        if left > 0 or is_disturbed:
            self.is_detained = True
            if not was_detained:
                self.left_by = job.name
        if self.loan is not None:
            self.resume()  # it has left something open that lends
        if error is not None:
            return self._fail(job, error)
        return self._settle(job, SUCCEEDED, job.value)

    def _end_turn(self, job: Job[Any], left: int, is_disturbed: bool) -> Job[Any] | None:
        """End a job, and let other tasks run before the next one is claimed.

        Not after that: another worker might begin a later job before.
        """
        pool = self.runtime.pool
        pool.searching += 1  # no other worker needs to be notified
        try:
            return self._end(job, left, is_disturbed)
        finally:
            pool.searching -= 1

    def _settle(self, job: Job[Any], status: Status, value: Any) -> Job[Any] | None:
        goes_on = not (self.is_detained or self.ends_turn)
        return self.runtime.scheduler.finish(job, status, value, goes_on=goes_on)

    def _fail(self, job: Job[Any], exception: BaseException) -> Job[Any] | None:
        """End an attempt of a job that has failed: for good, or until the next attempt."""
        runtime = self.runtime
        if isinstance(exception, Exception) and (job.node.constrained or job.node.retry):
            may_retry = not self.was_asked and runtime.reason is None
            verdict = judge(job, exception, may_retry=may_retry)
            exception = verdict.exception
            if verdict.delay is not None:
                self.ends_turn = True  # many attempts without a wait would hold up other tasks
                started = None if job.value is None else self.started
                runtime.scheduler.retry(job, verdict.delay, started)
                runtime.scheduler.retried(job, exception, verdict.delay)
                return None
            note_attempts(job, exception, runtime.current_time())
        traceback = without_own_frames(get_traceback(exception))
        BaseException.with_traceback(exception, traceback)
        if isinstance(exception, StopIteration | StopAsyncIteration):
            # Raised by an `await`, it would end a loop.
            wrapped = RuntimeError(f"job {job.name} raised {type(exception).__name__}")
            wrapped.__cause__ = exception
            exception = wrapped
        if runtime.policy.cancels:
            self.ends_turn = True  # the next job is cancelled, too
        return self._settle(job, FAILED, runtime.fail(job, exception))

    def _end_interrupted(self, job: Job[Any], exception: BaseException) -> None:
        """End a job out of whose coroutine something came that isn't an `Exception`."""
        runtime = self.runtime
        runtime.stepped = None
        self.is_detained = True
        self.error = None
        # That of before has come to its end with the exception.
        self.stepper = self._make_stepper()
        if self.loan is not None:
            self.resume()
        if self.is_closing:
            runtime.lost()
            self._settle(job, CANCELLED, "the event loop has ended")
            return
        cancelled, rest = split(exception, runtime.backend.cancelled)
        if cancelled is None or rest is not None:
            failure = exception if rest is None else rest
            self._fail(job, failure)
            if ends_program(failure):
                mark_retrieved(job)  # the block raises it
                runtime.end_with(failure)
        elif self.timed_out:
            self._fail(job, TimeoutError(f"job {job.name} ran for {self.timeout} seconds"))
        else:
            reason = self.reason or runtime.reason
            self._settle(job, CANCELLED, reason or Cancellation.of(cancelled))


def without_own_frames(traceback: TracebackType | None) -> TracebackType | None:
    """The part of a job's traceback that begins in the job."""
    while traceback is not None and traceback.tb_frame.f_code.co_filename in OWN_FILES:
        traceback = traceback.tb_next
    return traceback
