"""The executor: the root of a tree of lanes, entering and leaving it, and the ways to end it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Literal, Self, final

import anyio
import anyio.lowlevel

from ._errors import ExecutorClosed, JobCancelled
from ._future import BaseFuture
from ._handles import Lane
from ._lane import BaseLane, checked_options
from ._runtime.backend import current_backend
from ._runtime.error_policy import POLICIES, log_unretrieved
from ._runtime.exceptions import get_traceback, split
from ._runtime.instrumentation import InstrumentedScheduler, check_instruments
from ._runtime.runtime import CANCELLED_BY_FAILURE, CANCELLED_FROM_OUTSIDE, Runtime, State
from ._runtime.stepping import step_jobs
from ._runtime.worker import Worker
from ._runtime.worker_pool import WorkerPool
from ._scheduling.adaptive import Adaptive
from ._scheduling.lane_state import LaneState
from ._scheduling.rates import Rate
from ._scheduling.retries import Retry
from ._scheduling.scheduler import Scheduler
from ._validation import check_name, check_seconds


@final
class Executor(Lane):
    """Runs async functions, at most ``slots`` of them at once, and returns a future for each.

    An asynchronous context manager: jobs may be submitted inside its block. Leaving the block
    waits until every job has ended, those that jobs submit meanwhile included. If the block's body
    raises or is cancelled, all jobs are cancelled, and the block ends once they have unwound. When
    it has ended, nothing runs any more, and every future is done.

    ``slots``: how many jobs may run at once; an int from 1, `math.inf`, or `Adaptive`.

    ``on_error``: what becomes of the exception of a job that fails, besides being kept in its
    future:

    - ``"hold"``: if it wasn't retrieved (awaited, `Future.result`, `Future.exception`) when the
      block ends, the block raises it then, all such exceptions in one `ExceptionGroup`. If the body
      raised an exception of its own, that one is raised, and the others are logged.
    - ``"cancel"``: it cancels the body and all other jobs, and the block raises it in an
      `ExceptionGroup`.
    - ``"log"``: if it's never retrieved, it's logged at ERROR by the logger ``anyslots``, no later
      than the block ends. Failed futures that nothing refers to are not kept.

    In a job, `KeyboardInterrupt` and `SystemExit` end the executor, and the block raises them.

    ``max_pending``, ``rate`` and ``gate`` are about the jobs of all lanes together, on top of what
    each lane has itself. ``timeout``, ``queue_timeout`` and ``retry`` are for the lanes that set
    none. `lane` describes them all.

    ``name``: for its `repr`, and for instruments.

    ``instruments``: objects with any of the methods ``job_submitted(future)``,
    ``job_started(future)`` and ``job_finished(future)``. Each job that's taken is submitted, then
    started unless it never runs, then finished, once each, and notified at once in the event loop's
    thread. ``job_started`` is called in the job's own context: the job sees what it sets there. If
    there are also ``job_lent(future)``, ``job_resumed(future)`` and ``job_retried(future,
    exception, delay)``, they tell when a running job has lent its slot, when it goes on, in another
    slot perhaps, and when it will start again after ``delay`` seconds. A method that raises is
    logged, and that instrument is notified no more; the job isn't harmed. `anyslots.instruments`
    has some.

    ::

        async with Executor(slots=4) as executor:
            futures = [executor.submit(fetch, url) for url in urls]
            for future in futures:
                print(await future)
    """

    __slots__ = ("_cancels_at_enter",)

    def __init__(
        self,
        slots: float | Adaptive,
        *,
        max_pending: float = math.inf,
        rate: Rate | Iterable[Rate] | None = None,
        gate: Callable[[], Awaitable[object]] | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        retry: Retry | bool | None = None,
        on_error: Literal["hold", "cancel", "log"] = "hold",
        name: str | None = None,
        instruments: Iterable[object] = (),
    ) -> None:
        options = checked_options(
            slots=slots,
            max_pending=max_pending,
            rate=rate,
            gate=gate,
            timeout=timeout,
            queue_timeout=queue_timeout,
            retry=retry,
        )
        if on_error not in tuple(POLICIES):
            raise ValueError(f"on_error must be one of {', '.join(POLICIES)}, not {on_error!r}")
        observers = check_instruments(instruments)
        root = LaneState(None, check_name(name), options)
        make_scheduler = partial(InstrumentedScheduler, observers) if observers else Scheduler
        root.runtime = Runtime(root, POLICIES[on_error](), make_scheduler)
        super().__init__(root.runtime, root)
        self._cancels_at_enter = 0

    # Entering and leaving.

    async def __aenter__(self) -> Self:
        runtime = self._runtime
        if runtime.state is not State.NEW:
            raise RuntimeError(f"an executor is entered only once; {self!r} has been")
        runtime.enter(current_backend())
        runtime.backend.protect(PROTECTED, UNPROTECTED)
        self._cancels_at_enter = (runtime.backend.cancel_count() or no_cancels)()
        runtime.scope = anyio.CancelScope()
        runtime.scope.__enter__()
        runtime.task_group = anyio.create_task_group()
        await runtime.task_group.__aenter__()
        runtime.open(WorkerPool(runtime))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        runtime = self._runtime
        # Native cancellations until now, the scope's own ones set aside if there may be any.
        cancels = runtime.backend.cancel_count() or no_cancels
        cancels_before = cancels() if runtime.reason is None else self._cancels_at_enter
        try:
            error = await self._unwind(await self._wait_for_jobs(exc))
            outcome = self._outcome(error)
            if isinstance(error, runtime.backend.cancelled):
                cancels_before = self._cancels_at_enter
            if cancels() > cancels_before:
                self._redeliver_cancel(outcome)
            if outcome is not None and outcome is not exc:
                raise outcome
        finally:
            # Tracebacks refer to this frame: let it refer to none of the exceptions.
            error = exc = outcome = None

    async def _wait_for_jobs(self, error: BaseException | None) -> BaseException | None:
        """Wait until none is left, unless the body raised ``error``; return what ends the wait."""
        runtime = self._runtime
        try:
            if self._met_own_cancellation(error):
                await anyio.lowlevel.checkpoint_if_cancelled()
            if error is None:
                runtime.control.begin_shutdown()
                await runtime.wait_idle(runtime.root)
                while runtime.entries.deliver():
                    await runtime.wait_idle(runtime.root)
        except BaseException as caught:
            return caught
        return error

    def _redeliver_cancel(self, outcome: BaseException | None) -> None:
        """A native cancellation has come: if something else is raised, have it come again."""
        cancelled_from_outside = anyio.current_effective_deadline() == -math.inf
        if not (isinstance(outcome, self._runtime.backend.cancelled) or cancelled_from_outside):
            self._runtime.backend.redeliver_cancel()

    async def _unwind(self, error: BaseException | None) -> BaseException | None:
        """End all tasks; return what's left of ``error`` then, or what came of ending them."""
        runtime = self._runtime
        if error is not None:
            runtime.abort("its executor's block was left by an exception")
        runtime.close(State.CLOSED)
        runtime.pool.close()
        for producer in list(runtime.producers):
            producer.stop()
        try:
            await runtime.task_group.__aexit__(None, None, None)
        except BaseException as caught:
            if error is None:
                error = caught
        if runtime.occupants:
            with anyio.CancelScope(shield=True):
                await runtime.wait_idle(runtime.root)
        runtime.pool.ended()
        runtime.ended()
        try:
            if error is None:
                runtime.scope.__exit__(None, None, None)
            elif runtime.scope.__exit__(type(error), error, get_traceback(error)):
                error = None
        except BaseException as rest:
            # Out of a scope of trio's, a group is another, though no cancellation was in it.
            if error is None or split(error, runtime.backend.cancelled)[0] is not None:
                error = rest
        return error

    def _met_own_cancellation(self, error: BaseException | None) -> bool:
        """Whether the body met its cancellation first by what that has done to the jobs.

        A worker may have met it before the body came to a checkpoint.
        """
        if self._runtime.reason != CANCELLED_FROM_OUTSIDE:
            return False
        met = (ExecutorClosed, JobCancelled)
        if isinstance(error, BaseExceptionGroup):
            return error.split((*met, self._runtime.backend.cancelled))[1] is None
        return isinstance(error, met)

    def _outcome(self, error: BaseException | None) -> BaseException | None:
        """What the block raises when ``error`` is what its body or its end came to."""
        runtime = self._runtime
        failures = runtime.policy.unretrieved()
        exceptions = [exception for _, exception in failures]
        if runtime.fatal is not None:
            outcome: BaseException | None = runtime.fatal
        elif error is None or isinstance(error, runtime.backend.cancelled):
            outcome = None
        elif runtime.reason == CANCELLED_BY_FAILURE and (
            any(error is each for each in exceptions)
            or isinstance(error, (JobCancelled, ExecutorClosed))
        ):
            # The body only met what the first failure brought about.
            outcome = None
        else:
            outcome = error
        if outcome is None:
            if not exceptions:
                return error
            return BaseExceptionGroup(f"jobs of {self.name or 'an executor'} failed", exceptions)
        for name, exception in failures:
            if exception is not outcome:
                log_unretrieved(name, exception)
        return outcome

    async def shutdown(self, grace: float | None = None) -> None:
        """Stop taking jobs, let those that are there finish, and cancel what's left.

        Submitters that wait in `enqueue` get `ExecutorClosed`, but for the executor's own jobs:
        theirs are still taken. So are those of tasks that a job has started in anyio's task groups
        or trio's nurseries; other tasks aren't known to be a job's.

        ``grace``: how many seconds the queued and running jobs have to finish, and what they
        submit themselves meanwhile, pauses and retries included; None for as long as it takes. Then
        the rest is cancelled, and the call returns once it has unwound. Cancelling this wait ends
        the grace: the jobs are cancelled, and the cancellation goes on once they have unwound.

        Raises `RuntimeError` inside one of the executor's own jobs, which would wait for itself.

        ::

            await executor.shutdown(grace=30)
        """
        runtime = self._runtime
        self._check_wait("shut down")
        if grace != 0:
            check_seconds("grace", grace)
        runtime.entries.deliver()
        runtime.close(State.SHUTTING_DOWN)
        runtime.control.begin_shutdown()
        try:
            with anyio.move_on_after(grace):
                await runtime.backend.checkpoint()
                await runtime.wait_idle(runtime.root)
        finally:
            runtime.close(State.CLOSED)
            if not runtime.root.is_idle():
                self.cancel("its executor was shut down")
                with anyio.CancelScope(shield=True):
                    await runtime.wait_idle(runtime.root)

    def _state_words(self) -> str:
        runtime = self._runtime
        is_paused = self.paused and runtime.state is State.OPEN
        return f"{runtime.state.value}{', paused' if is_paused else ''}"

    def __del__(self) -> None:
        # There's none if `__init__` has raised, or was never called properly.
        runtime: Runtime | None = getattr(self, "_runtime", None)
        if runtime is not None and runtime.state not in (State.NEW, State.ENDED):
            warnings.warn(f"{self!r} was never left", ResourceWarning, source=self, stacklevel=1)


def no_cancels() -> int:
    return 0


# Where the state of an executor changes: trio's Ctrl-C, which may strike between any two steps of
# the program, waits until these have returned. The jobs that a worker steps aren't protected.
PROTECTED = (
    Executor.__aenter__,
    Executor.__aexit__,
    Lane.submit,
    Lane.enqueue,
    BaseLane.cancel,
    BaseLane.clear,
    BaseLane.close,
    BaseLane.pause,
    BaseLane.resume,
    BaseFuture.cancel,
    Worker.work,
    WorkerPool.keep_time,
)
UNPROTECTED = (step_jobs,)
