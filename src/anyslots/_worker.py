"""Runs jobs one after another in one slot.

A worker is a task of the executor's task group. It drives each job's coroutine by hand, inside
the job's own context, so that a job costs neither a task nor a cancel scope: all jobs of a worker
share the scope that it's in, until one of them is cancelled and the scope is spent.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import CoroutineType, TracebackType, coroutine
from typing import TYPE_CHECKING, Any

import anyio

from . import _watching
from ._future import CANCELLED, FAILED, RUNNING, Failure, Future, Status
from ._lending import Lending
from ._line import Returner

if TYPE_CHECKING:
    from ._executor import Executor
    from ._line import Line


OWN_FILES = (__file__, _watching.__file__)
"""Where a traceback begins that comes out of a job."""

ENDED = object()
"""What a worker's stepping yields when a job has ended."""

CANCELLED_FROM_OUTSIDE = "the executor was cancelled"
"""Why jobs are cancelled whose executor is in a cancelled scope."""

CANCELLED_BY_FAILURE = "another job of its executor failed"
"""Why they are cancelled with ``on_error="cancel"``."""


class Worker:
    """One task that runs jobs.

    It's in one of three states: it rests (no grant, no job), it holds a grant (`_line`), or it
    runs a job (`future`). While it doesn't rest it has the number of a slot.
    """

    __slots__ = (
        "_error",
        "_executor",
        "_line",
        "_number",
        "_reason",
        "_returner",
        "_scope",
        "_spent",
        "_stepper",
        "_task",
        "future",
        "lending",
        "lent",
        "tasks",
    )

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._line: Line | None = None
        self.future: Future[Any] | None = None
        self._number = -1
        # Whether the job has lent its slot, and whether for a wait that isn't over; then what it
        # asks for another with.
        self.lent = False
        self._returner: Returner | None = None
        self.lending: Lending | None = None
        # The worker's task, and another one if the job runs in it.
        self._task: object = None
        self.tasks: tuple[object, ...] = ()
        self._scope = anyio.CancelScope()
        # Whether the scope was cancelled, for whatever job: the next job needs another.
        self._spent = False
        self._reason: str | None = None
        # What the job that has just ended raised.
        self._error: Exception | None = None
        self._stepper = self._make_stepper()

    def cancel(self, reason: str | None) -> None:
        """Cancel the job that runs now."""
        if not self._spent:
            self._spent = True
            self._reason = reason
            self._scope.cancel()
        self.hurry()

    def is_current(self) -> bool:
        """Whether this code runs in the worker's task."""
        return self._executor._backend.current_task() is self._task

    def hurry(self) -> None:
        """The job is cancelled: let it unwind, if it waits for a slot to go on with."""
        if self._returner is not None:
            self._returner.told.wake()

    def make_lending(self) -> Lending:
        return Lending(self)

    def lend(self) -> None:
        assert self.future is not None
        self.lent = True
        self._executor._schedule.return_number(self._number)
        self._executor._schedule.lend(self.future._lane._line)
        self._executor._schedule.tell(("job_lent", self.future))

    def give_back(self) -> None:
        """The event loop is gone: end the lending, as far as counts go."""
        assert self.future is not None
        if self._returner is None:
            self.ask_back()
        self._settle_return()

    def ask_back(self) -> None:
        """Ask for a slot to go on with."""
        assert self.future is not None
        self._returner = Returner(self.future._lane._line, self._executor._backend.park())
        self._executor._schedule.reclaim(self._returner)

    @coroutine
    def take_back(self) -> Generator[Any, Any, None]:
        """Wait for a slot, ahead of the queue; not if the job is cancelled, nor any longer then."""
        self.lending = None
        if self._returner is None:
            self.ask_back()
        returner = self._returner
        assert returner is not None
        try:
            if not (returner.may_go_on or self._is_ending()):
                with anyio.CancelScope(shield=True, deadline=self._scope.deadline):  # noqa: ASYNC100
                    yield from returner.told.wait()
        finally:
            self._settle_return()

    def _settle_return(self) -> None:
        """The job goes on, whether there's a slot for it or not."""
        assert self.future is not None
        assert self._returner is not None
        returner, self._returner = self._returner, None
        if not returner.may_go_on:
            self._executor._schedule.withdraw_return(returner)
        self.lending = None
        self.lent = False
        self.future._slot = self._number = self._executor._schedule.take_number()
        self._executor._schedule.tell(("job_resumed", self.future))

    def _is_ending(self) -> bool:
        """Whether the job is cancelled, by itself or with all others."""
        return self._scope.cancel_called or self._executor._reason is not None

    async def work(self) -> None:
        """Run jobs until the executor has no more."""
        executor = self._executor
        native_cancels = executor._backend.native_cancels()
        self._task = executor._backend.current_task()
        self.tasks = (self._task,)
        try:
            while True:
                try:
                    with self._scope:
                        while not self._spent:
                            if self._line is None and not await self._redeem():
                                return
                            await self._run_jobs(native_cancels)
                            if native_cancels is not None and native_cancels():
                                break
                except BaseException as exc:
                    if not await self._interrupted(exc):
                        return
                else:
                    if self.future is not None:
                        self._end_cancelled(self.future)
                    if native_cancels is not None and native_cancels():
                        await executor._backend.forgive()
                self._scope = anyio.CancelScope()
                self._spent = False
                self._reason = None
        finally:
            self._stepper.close()
            executor._staff.workers.discard(self)

    async def _redeem(self) -> bool:
        """Wait for a grant; False if there won't be another."""
        line = self._line = await self._executor._staff.wait_for_grant()
        if line is None:
            return False
        self._number = self._executor._schedule.take_number()
        return True

    @coroutine
    def _run_jobs(self, native_cancels: Callable[[], int] | None) -> Generator[Any, Any, None]:
        """Run jobs, beginning with the one that `_line` grants, until none may start.

        Also returns when the scope is spent, and raises what isn't the job's own affair: a
        cancellation, and exceptions that aren't `Exception`s.
        """
        schedule = self._executor._schedule
        stepper = self._stepper
        send: Callable[[Any], Any] = stepper.send
        assert self._line is not None
        future = schedule.start(self._line)
        self._line = None
        context: Any
        value: Any
        try:
            while future is not None:
                self.future = schedule.stepping = future
                future._status = RUNNING
                future._worker = self
                future._slot = self._number
                line = future._lane._line
                if line.timeout is not None:
                    self._scope.deadline = schedule.now() + line.timeout
                suspended = False
                context = future._context
                # Not `run = context.run`: making a bound method takes as long as calling it.
                value = context.run(send, future)
                while value is not ENDED:
                    suspended = True
                    schedule.stepping = None
                    try:
                        value = yield value
                    except BaseException as thrown:
                        schedule.stepping = future
                        value = context.run(stepper.throw, thrown)
                    else:
                        schedule.stepping = future
                        value = context.run(send, value)
                if self._error is None:
                    schedule.succeed(line, future)
                else:
                    self._fail(line, future, self._error)
                    self._error = None
                if line.timeout is not None:
                    self._stop_clock()
                if self._spent or (native_cancels is not None and native_cancels()):
                    self._pass_on(line)
                    return
                if suspended:
                    future = schedule.proceed(line)
                else:
                    granted = self._pass_on(line)
                    if granted is None:
                        return
                    yield from self._executor._backend.checkpoint()
                    self._line = None
                    future = schedule.start(granted)
            self._rest()
        finally:
            # An exception that comes out has this frame in its traceback: let it keep nothing.
            future = context = value = None

    def _stop_clock(self) -> None:
        """The job that had only so much time has ended."""
        self._spent = self._spent or self._scope.cancel_called
        self._scope.deadline = math.inf

    def _make_stepper(self) -> Generator[Any, Any, None]:
        stepper = self._step_jobs()
        stepper.send(None)
        return stepper

    @coroutine
    def _step_jobs(self) -> Generator[Any, Any, None]:
        """Turn the futures that it's sent into results: yields what their jobs yield, then `ENDED`.

        Each job is stepped from outside, in a context of its own; that's why this is a generator
        beside `_run_jobs` and not a part of it. It serves one job after another since to end one
        by a yield is much cheaper than by the StopIteration of a generator for each.
        """
        while True:
            future = yield ENDED
            try:
                coro = future._fn(*future._args)
                if type(coro) is not CoroutineType:
                    coro = self._as_coroutine(coro, future)
                future._value = yield from coro
            except Exception as exc:
                self._error = exc
            finally:
                # An exception's traceback may refer to this frame: let it keep nothing.
                future = coro = None

    def _as_coroutine(self, result: object, future: Future[Any]) -> Coroutine[Any, Any, Any]:
        following = self._executor._backend.follow(result)
        return as_coroutine(result, future) if following is None else self._lead(result, following)

    async def _lead(self, task: object, following: Coroutine[Any, Any, Any]) -> Any:
        """The job runs in a task of its own, which this worker only follows."""
        self.tasks = (self._task, task)
        try:
            return await following
        finally:
            self.tasks = (self._task,)
            del task

    def _rest(self) -> None:
        self.future = self._executor._schedule.stepping = None
        self._executor._schedule.return_number(self._number)
        self._executor._staff.rest()

    def _pass_on(self, line: Line) -> Line | None:
        """Have the slot of a job that has ended granted again, and keep the grant; or rest."""
        self.future = self._executor._schedule.stepping = None
        self._line = self._executor._schedule.pass_on(line)
        if self._line is None:
            self._rest()
        return self._line

    def _fail(self, line: Line, future: Future[Any], exception: BaseException) -> None:
        """The running job has failed."""
        executor = self._executor
        traceback = without_own_frames(exception.__traceback__)
        if isinstance(exception, StopIteration | StopAsyncIteration):
            # Raised by an `await`, it would end somebody's loop.
            wrapped = RuntimeError(f"job {future.name} raised {type(exception).__name__}")
            wrapped.__cause__ = exception.with_traceback(traceback)
            exception, traceback = wrapped, None
        exception.__traceback__ = traceback
        unseen = executor._errors.failed(future, exception)
        executor._schedule.finish(line, future, FAILED, Failure(exception, traceback, unseen))
        if executor._cancels_on_error:
            executor._abort(CANCELLED_BY_FAILURE)

    def _end_cancelled(self, future: Future[Any]) -> None:
        """The running job was cancelled: at somebody's request, or because its time was up."""
        timeout = future._lane._line.timeout
        if self._spent or timeout is None or self._scope.deadline > self._executor._schedule.now():
            self._end(CANCELLED, self._reason or self._executor._reason)
        else:
            self._end(FAILED, TimeoutError(f"job {future.name} ran for {timeout} seconds"))

    def _end(self, outcome: Status, value: Any) -> None:
        """The running job has ended in a way that took the worker out of its scope."""
        future, self.future = self.future, None
        assert future is not None
        line = future._lane._line
        self._executor._schedule.stepping = None
        # What came out of the scope came through the stepper, which is at its end.
        self._stepper = self._make_stepper()
        if outcome is FAILED:
            self._fail(line, future, value)
        else:
            self._executor._schedule.finish(line, future, outcome, value)
        self._pass_on(line)

    async def _interrupted(self, exception: BaseException) -> bool:
        """Something came out of the scope: settle the job, and say whether to go on."""
        executor = self._executor
        executor._schedule.stepping = None
        if not executor._backend.is_running():
            # The event loop is gone, and closes its coroutines.
            if self.future is not None:
                self._end(CANCELLED, "the event loop has ended")
            executor._lost()
            raise exception
        cancelled, rest = split(exception, executor._backend.cancelled)
        if rest is not None and (self.future is None or ends_program(rest)):
            executor._end_with(rest)
        if self.future is not None:
            future = self.future
            if rest is None:
                self._end(CANCELLED, self._reason or executor._reason)
            else:
                self._end(FAILED, rest)
                if ends_program(rest):
                    future.exception()  # the block raises it
        if cancelled:
            if anyio.current_effective_deadline() == -math.inf:
                executor._abort(CANCELLED_FROM_OUTSIDE)
                return False
            if executor._backend.is_over(executor._host):
                # The executor was never left, and the event loop cancels what is left over.
                executor._lost()
                return False
            await executor._backend.forgive()
        return True


async def await_it(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def as_coroutine(result: object, future: Future[Any]) -> Coroutine[Any, Any, Any]:
    """What a submitted function returned, as a coroutine."""
    if not inspect.isawaitable(result):
        raise TypeError(
            f"{future.name} returned {result!r}, which can't be awaited; to run a plain function "
            f"in a worker thread, submit(anyio.to_thread.run_sync, {future.name})"
        )
    return await_it(result)


def split(
    exception: BaseException, cancelled: type[BaseException]
) -> tuple[bool, BaseException | None]:
    """Whether there's a cancellation in what came out of a job, and what else there is."""
    if isinstance(exception, BaseExceptionGroup):
        found, rest = exception.split(cancelled)
        return (False, exception) if found is None else (True, rest)
    return (True, None) if isinstance(exception, cancelled) else (False, exception)


def ends_program(exception: BaseException) -> bool:
    fatal = (KeyboardInterrupt, SystemExit)
    if isinstance(exception, BaseExceptionGroup):
        return exception.subgroup(fatal) is not None
    return isinstance(exception, fatal)


def without_own_frames(traceback: TracebackType | None) -> TracebackType | None:
    """The part of a job's traceback that begins in the job."""
    while traceback is not None and traceback.tb_frame.f_code.co_filename in OWN_FILES:
        traceback = traceback.tb_next
    return traceback
