"""A slot that the current task itself occupies, for what can't be a job."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar, final

from .._errors import ExecutorClosed, JobCancelled
from .._scheduling.job import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, Failure, Job, Status
from .._scheduling.wait_queue import Waiter
from .exceptions import get_traceback
from .lending import Lender, TaskWaiter
from .retrying import judge
from .runtime import Runtime
from .submitting import Submitter

F = TypeVar("F", bound=Job[None])


class _Block:
    """Stands for the function of a job that has none, and has its name."""

    def __init__(self, name: str) -> None:
        self.__qualname__ = name

    def __call__(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("a task occupies the slot itself")


@final
class Occupation(Lender, Generic[F]):
    """What `Lane.slot` returns: an async context manager, entered once.

    Its steps are methods, since `anyslots.httpx` takes them in two tasks: one asks for the slot and
    goes on without it, `acquire` and `go_on`; the other is cancelled with it, `hold` and `release`.
    """

    __slots__ = (
        "_former", "_kwargs", "_make_job", "_outer", "_outer_loan", "_reason", "_scope", "_task",
        "_waiter", "_was_woken", "runtime", "was_asked",
    )  # fmt: skip

    def __init__(
        self, runtime: Runtime, make_job: Callable[[Any], F], kwargs: dict[str, Any]
    ) -> None:
        super().__init__(runtime)
        self.runtime = runtime
        self._make_job: Callable[[Any], F] | None = make_job
        self._kwargs = kwargs
        self._task: object = None
        # What runs the job around it, if its slot is lent for this block, and that loan; the job of
        # this task before.
        self._outer: Lender | None = None
        self._outer_loan: Waiter | None = None
        self._former: Job[Any] | None = None
        self._waiter: TaskWaiter | None = None
        self._was_woken = False
        self._scope = runtime.backend.cancel_scope()
        self.was_asked = False
        self._reason: str | None = None

    # As the holder of its job.

    def is_current(self) -> bool:
        return self.runtime.backend.current_task() is self._task

    def cancel(self, reason: str | None) -> None:
        if not self._scope.cancel_called:
            self.was_asked = True
            self._reason = reason
            self._scope.cancel()

    def wake(self, _: object = None) -> None:
        self._was_woken = True
        if self._waiter is not None:
            self._waiter.wake()

    def gave_up(self) -> bool:
        if self._waiter is None or self._was_woken:
            return False
        return not self._waiter.is_waiting()

    # As a slot that another task holds than asks for it.

    def spawn_holder(self, fn: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Start a task, which outlives the current one, to `hold` and to `release`."""
        self.runtime.backend.spawn_detached(fn, name)

    def abandon(self) -> None:
        """Cancel what holds the slot, soon; from any thread."""
        try:
            self.runtime.backend.post(partial(self.cancel, None))
        except RuntimeError:
            pass  # the event loop is gone, and all that ran in it

    # As a context manager.

    async def __aenter__(self) -> F:
        job = await self.acquire()
        self.hold()
        return job

    async def acquire(self) -> F:
        """Wait for a slot; then the job runs, and `hold` is due."""
        runtime = self.runtime
        if self._make_job is None:
            raise RuntimeError("a slot is entered only once: call slot() again")
        make_job, self._make_job = self._make_job, None
        await runtime.backend.checkpoint()
        job = make_job(partial(_Block(runtime.backend.task_name() or "task"), **self._kwargs))
        self.job = job
        job.holder = self
        job.context = None
        self.enclosing = outer = runtime.current_lender()
        if outer is not None and outer.loan is None:
            self._outer, self._outer_loan = outer, outer.lend()
        try:
            await self._wait_for_slot(job)
        except BaseException:
            await self._give_up(job)
            raise
        runtime.occupants[self] = job
        runtime.scheduler.started(job)
        return job

    def hold(self) -> None:
        """Have the current task hold the slot: it's what is cancelled."""
        runtime, job = self.runtime, self.job
        assert job is not None
        if job.node.timeout is not None:
            self._scope.deadline = runtime.current_time() + job.node.timeout
        self._scope.__enter__()
        self._task = runtime.backend.current_task()
        self._former = runtime.occupants.get(self._task)
        runtime.occupants[self._task] = runtime.occupants.pop(self)

    async def _wait_for_slot(self, job: F) -> None:
        """Queue the job, and wait until it has started."""
        runtime = self.runtime
        submitter: Submitter | None = None
        if runtime.scheduler.may_submit(job):
            runtime.scheduler.submit(job)
            if job.status is RUNNING:
                return
            self._waiter = TaskWaiter(runtime.backend.park(), [])
        else:
            self._waiter = TaskWaiter(runtime.backend.park(), [])
            submitter = Submitter(runtime, job, self._waiter)
        job.add_listener(self.wake)
        while job.status is QUEUED:
            await self._waiter.wait()
            self._waiter = TaskWaiter(runtime.backend.park(), [])
            self._was_woken = False
        self._waiter = None
        job.remove_listener(self.wake)
        if job.status is RUNNING:
            return
        if submitter is not None and not submitter.served:
            raise ExecutorClosed("the lane was closed before there was capacity for the slot")
        if job.status is FAILED:
            failure: Failure = job.value
            if failure.retrieval is not None:
                failure.retrieval.mark_retrieved(job)
            raise failure.exception
        raise cancelled_error(job, job.value)

    async def _give_up(self, job: F) -> None:
        """The wait for the slot has failed: leave everything as it was."""
        if job.status is RUNNING:
            self.runtime.scheduler.started(job)
            self.runtime.scheduler.finish(job, CANCELLED, None, goes_on=False)
        else:
            self.runtime.scheduler.cancel(job, None)
        self.go_on_at_once()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        error = self.release(exc_type, exc, traceback)
        try:
            if error is None and (exc is None or isinstance(exc, Exception)):
                await self.go_on()
            else:
                self.go_on_at_once()
            if error is not None:
                raise error from None
        finally:
            error = exc = None

    def release(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> BaseException | None:
        """End the job; return what the block raises in place of a cancellation of the slot's."""
        runtime, job = self.runtime, self.job
        assert job is not None
        if self.loan is not None:
            self.resume()  # something that lends was left open
        if self._former is None:
            del runtime.occupants[self._task]
        else:
            runtime.occupants[self._task] = self._former
        rest: BaseException | None = None
        try:
            was_cancelled = False
            try:
                was_cancelled = bool(self._scope.__exit__(exc_type, exc, traceback))
            except BaseException as left:
                # Trio's scopes take cancellations out of groups.
                exc = rest = left
            status, value, error = self._outcome(job, exc, was_cancelled)
            if (outer := self._lender()) is not None:
                # Before the slot of the block is given back, which it's to go on with.
                outer.request_slot()
            runtime.scheduler.finish(job, status, value, goes_on=False)
            self.job = self._task = None
            return error or rest
        finally:
            error = rest = exc = value = None

    def _lender(self) -> Lender | None:
        """The one around this job, if it still lends its slot: its job may have ended."""
        outer = self._outer
        return outer if outer is not None and outer.loan is self._outer_loan else None

    async def go_on(self) -> None:
        """Have the job around this one go on, once there's a slot for it."""
        if (outer := self._lender()) is not None:
            await outer.reacquire()

    def go_on_at_once(self) -> None:
        if (outer := self._lender()) is not None:
            outer.resume()

    def _outcome(
        self, job: Job[Any], exc: BaseException | None, was_cancelled: bool
    ) -> tuple[Status, Any, BaseException | None]:
        """How the job ends, and what the block raises instead of what leaves it."""
        runtime = self.runtime
        error: Exception
        if exc is None:
            return SUCCEEDED, None, None
        if was_cancelled and not self.was_asked:
            error = TimeoutError(f"slot of {job.name} was held for {job.node.timeout} seconds")
            return FAILED, Failure(error, None, None), error
        if was_cancelled:
            reason = self._reason or runtime.reason
            return CANCELLED, reason, cancelled_error(job, reason)
        if isinstance(exc, Exception):
            if job.node.constrained:
                judge(job, exc, may_retry=False)
            return FAILED, Failure(exc, get_traceback(exc), None), None
        return CANCELLED, runtime.reason, None


def cancelled_error(job: Job[Any], reason: str | None) -> JobCancelled:
    because = "" if reason is None else f": {reason}"
    return JobCancelled(f"slot of {job.name} was cancelled{because}")
