"""The executor: entering and leaving it, and the ways to end it."""

from __future__ import annotations

import enum
import math
import warnings
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, final

import anyio
import anyio.lowlevel

from ._arguments import check_count, check_name, check_priority, check_rates, check_seconds
from ._backend import current_backend
from ._errors import ExecutorClosed, JobCancelled, QueueTimeout
from ._future import FAILED, QUEUED, Failure, Future, lending_in
from ._inbox import Inbox
from ._lane import Gate, Lane, LendingPlace, seconds_or_none
from ._lending import entered
from ._line import Line
from ._rate import Rate
from ._results import Results
from ._schedule import Schedule
from ._staff import Staff
from ._statistics import Statistics
from ._unseen import POLICIES, log_unseen
from ._watching import WatchedSchedule, check_instruments
from ._worker import CANCELLED_BY_FAILURE, CANCELLED_FROM_OUTSIDE, Worker, split

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ._backend import Backend


class State(enum.Enum):
    """What an executor takes: nothing, jobs, its own jobs' jobs, nothing any more; and its end."""

    NEW = "not entered"
    OPEN = "open"
    DRAINING = "shutting down"
    CLOSED = "closed"
    ENDED = "ended"


@final
class Executor(Lane):
    """Runs async functions, at most ``slots`` of them at once, and returns a future for each.

    An asynchronous context manager: jobs may be submitted inside its block. Leaving the block
    waits until every job has ended, those that jobs submit meanwhile included. If the block's body
    raises or is cancelled, all jobs are cancelled, and the block ends once they have unwound. When
    it has ended, nothing runs any more, and every future is done.

    ``slots``: how many jobs may run at once; an int from 1, or `math.inf`.

    ``on_error``: what becomes of the exception of a job that fails, besides being kept in its
    future:

    - ``"hold"``: if nobody has looked at it when the block ends, the block raises it then, all
      such exceptions in one `ExceptionGroup`. If the body raised an exception of its own, that one
      is raised, and the others are logged.
    - ``"cancel"``: it cancels the body and all other jobs, and the block raises it in an
      `ExceptionGroup`.
    - ``"log"``: if nobody looks at it, it's logged at ERROR by the logger ``anyslots``, no later
      than the block ends. Failed futures that nobody holds are not kept.

    In a job, `KeyboardInterrupt` and `SystemExit` end the executor, and the block raises them.

    ``max_pending`` and ``rate`` bound all lanes together, on top of what each lane has itself.
    ``timeout`` and ``queue_timeout`` are for the lanes that set none. `lane` describes them all.

    ``name``: for its `repr`, and for instruments.

    ``instruments``: objects with any of the methods ``job_submitted(future)``,
    ``job_started(future)`` and ``job_finished(future)``. Each job that's taken is submitted, then
    started unless it never runs, then finished, once each, and told at once in the event loop's
    thread. ``job_started`` is called in the job's own context: the job sees what it sets there.
    If there are also ``job_lent(future)`` and ``job_resumed(future)``, they tell when a running job
    has lent its slot and when it goes on, in another slot perhaps. A method that raises is logged,
    and that instrument is told no more; the job isn't harmed. `anyslots.instruments` has some.

    ::

        async with Executor(slots=4) as executor:
            futures = [executor.submit(fetch, url) for url in urls]
            for future in futures:
                print(await future)
    """

    __slots__ = (
        "_backend",
        "_cancels_at_enter",
        "_cancels_on_error",
        "_default_queue_timeout",
        "_default_timeout",
        "_errors",
        "_fatal",
        "_feeders",
        "_host",
        "_inbox",
        "_reason",
        "_scope",
        "_staff",
        "_state",
        "_task_group",
        "_thread",
    )

    def __init__(
        self,
        slots: float,
        *,
        max_pending: float = math.inf,
        rate: Rate | Iterable[Rate] | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        on_error: Literal["hold", "cancel", "log"] = "hold",
        name: str | None = None,
        instruments: Iterable[object] = (),
    ) -> None:
        check_count("slots", slots, least=1)
        check_count("max_pending", max_pending, least=0)
        rates = check_rates(rate)
        self._default_timeout = check_seconds("timeout", timeout)
        self._default_queue_timeout = check_seconds("queue_timeout", queue_timeout)
        if on_error not in tuple(POLICIES):
            raise ValueError(f"on_error must be one of {', '.join(POLICIES)}, not {on_error!r}")
        check_name(name)
        self._errors = POLICIES[on_error]()
        self._cancels_on_error = on_error == "cancel"
        watching = check_instruments(instruments)
        self._staff = Staff(self)
        kind = partial(WatchedSchedule, watching) if watching else Schedule
        self._schedule = kind(
            slots,
            self._staff.ring,
            self._staff.set_alarm,
            anyio.current_time,
            max_pending=max_pending,
            rates=rates,
            timeout=seconds_or_none(timeout, None),
            queue_timeout=seconds_or_none(queue_timeout, None),
        )
        self._state = State.NEW
        # Open while jobs may be submitted; and the event loop's thread, once entered.
        self._gate = Gate()
        self._thread: int | None = None
        super().__init__(self, name, self._schedule.line)
        # Those that have a task in this executor's group which takes inputs, to be ended with it.
        self._feeders: set[Results[Any]] = set()
        # What other threads have submitted.
        self._inbox = Inbox()
        # Why all jobs are cancelled, once they are; and what the block raises instead of anything.
        self._reason: str | None = None
        self._fatal: BaseException | None = None
        # The rest is made in the event loop, by entering.
        self._backend: Backend
        self._host: object
        self._cancels_at_enter: int
        self._scope: anyio.CancelScope
        self._task_group: TaskGroup

    def lane(
        self,
        name: str | None = None,
        *,
        slots: float = math.inf,
        priority: float = 0,
        max_pending: float = math.inf,
        rate: Rate | Iterable[Rate] | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
    ) -> Lane:
        """Make a lane: a queue of jobs of its own, which use this executor's slots.

        ``slots``: how many of its jobs may run at once; an int from 1, or `math.inf`. A lane at
        its limit, paused, or waiting for its rate never holds up another.

        ``priority``: among the lanes that may start a job, the highest number goes first; equal
        ones take turns, lane by lane. The executor's own default lane has priority 0.

        ``max_pending``: how many jobs may be queued; an int from 0, or `math.inf`. `submit` raises
        `anyio.WouldBlock` beyond that, and `enqueue` waits.

        ``rate``: how many jobs may start in how much time: a `Rate`, or several, which all hold.
        A queued job that's cancelled uses up no start.

        ``timeout``: how many seconds a job may run. Then it's cancelled and, once it has unwound,
        its future fails with `TimeoutError`; a job that catches the cancellation and returns a
        value has succeeded. A `TimeoutError` of the job's own is passed on as it is.

        ``queue_timeout``: how many seconds a job may be queued. Then it never runs, and its future
        fails with `QueueTimeout` at that moment, free slot or not. For both, None stands for the
        executor's, and `math.inf` for none.

        Works before the executor is entered. Raises `TypeError` or `ValueError` for any other
        argument, and then no lane was made.

        ::

            host = executor.lane("example.org", slots=2, rate=Rate(10, per=1))
        """
        check_count("slots", slots, least=1)
        check_count("max_pending", max_pending, least=0)
        check_seconds("timeout", timeout)
        check_seconds("queue_timeout", queue_timeout)
        line = self._schedule.add_line(
            slots=slots,
            priority=check_priority(priority),
            max_pending=max_pending,
            rates=check_rates(rate),
            timeout=seconds_or_none(timeout, self._default_timeout),
            queue_timeout=seconds_or_none(queue_timeout, self._default_queue_timeout),
        )
        return Lane(self, check_name(name), line)

    # Entering and leaving.

    async def __aenter__(self) -> Self:
        if self._state is not State.NEW:
            raise RuntimeError(f"an executor is entered only once; {self!r} has been")
        self._backend = current_backend()
        self._backend.protect(PROTECTED)
        self._schedule.now = self._backend.current_time
        self._thread = get_ident()
        self._host = self._backend.current_task()
        self._cancels_at_enter = (self._backend.native_cancels() or no_cancels)()
        self._scope = anyio.CancelScope()
        self._scope.__enter__()
        self._task_group = anyio.create_task_group()
        await self._task_group.__aenter__()
        entered.setdefault(self._thread, weakref.WeakSet()).add(self._schedule)
        self._state = State.OPEN
        self._gate.thread = self._thread
        self._inbox.open(self._backend.post)
        self._staff.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Native cancellations until now, the scope's own ones set aside if there may be any.
        cancels = self._backend.native_cancels() or no_cancels
        cancels_before = cancels() if self._reason is None else self._cancels_at_enter
        try:
            error = await self._unwind(await self._wait_for_jobs(exc))
            outcome = self._outcome(error)
            if isinstance(error, self._backend.cancelled):
                cancels_before = self._cancels_at_enter
            if cancels() > cancels_before:
                self._remind_of_cancellation(outcome)
            if outcome is not None and outcome is not exc:
                raise outcome
        finally:
            # Tracebacks refer to this frame: let it refer to none of the exceptions.
            error = exc = outcome = None

    async def _wait_for_jobs(self, error: BaseException | None) -> BaseException | None:
        """Wait until none is left, unless the body raised ``error``; return what ends the wait."""
        try:
            if self._met_own_cancellation(error):
                await anyio.lowlevel.checkpoint_if_cancelled()
            if error is None:
                self._schedule.end()
                await self._wait_idle(self._schedule)
                while self._inbox.take():
                    await self._wait_idle(self._schedule)
        except BaseException as caught:
            return caught
        return error

    def _remind_of_cancellation(self, outcome: BaseException | None) -> None:
        """A native cancellation has come: if something else is raised, have it come again."""
        cancelled_from_outside = anyio.current_effective_deadline() == -math.inf
        if not (isinstance(outcome, self._backend.cancelled) or cancelled_from_outside):
            self._backend.remind()

    async def _unwind(self, error: BaseException | None) -> BaseException | None:
        """End all tasks; return what's left of ``error`` then, or what came of ending them."""
        if error is not None:
            self._abort("its executor's block was left by an exception")
        self._close(State.CLOSED)
        self._staff.close()
        for feeder in self._feeders:
            feeder._feeding.cancel()
        try:
            await self._task_group.__aexit__(None, None, None)
        except BaseException as caught:
            if error is None:
                error = caught
        self._staff.ended()
        self._state = State.ENDED
        self._inbox.close()
        self._leave_thread()
        try:
            if error is None:
                self._scope.__exit__(None, None, None)
            elif self._scope.__exit__(type(error), error, error.__traceback__):
                error = None
        except BaseException as rest:
            # Out of a scope of trio's, a group is another, though no cancellation was in it.
            if error is None or split(error, self._backend.cancelled)[0]:
                error = rest
        return error

    def _met_own_cancellation(self, error: BaseException | None) -> bool:
        """Whether the body was just told of its cancellation by what that has done to the jobs.

        A worker may have met it before the body came to a checkpoint.
        """
        if self._reason != CANCELLED_FROM_OUTSIDE:
            return False
        told = (ExecutorClosed, JobCancelled)
        if isinstance(error, BaseExceptionGroup):
            return error.split((*told, self._backend.cancelled))[1] is None
        return isinstance(error, told)

    def _outcome(self, error: BaseException | None) -> BaseException | None:
        """What the block raises when ``error`` is what its body or its end came to."""
        failures = self._errors.left()
        exceptions = [exception for _, exception in failures]
        if self._fatal is not None:
            outcome: BaseException | None = self._fatal
        elif error is None or isinstance(error, self._backend.cancelled):
            outcome = None
        elif self._reason == CANCELLED_BY_FAILURE and (
            error in exceptions or isinstance(error, (JobCancelled, ExecutorClosed))
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
                log_unseen(name, exception)
        return outcome

    # What its users ask of it, beside what they may ask of any lane: here, of all its lanes.

    def close(self) -> None:
        self._check_loop("close")
        self._inbox.take()
        self._close(State.CLOSED)

    async def join(self) -> None:
        self._check_wait("join")
        await self._backend.checkpoint()
        await self._wait_idle(self._schedule)

    def pause(self) -> None:
        self._check_loop("pause")
        self._schedule.pause_all()

    def resume(self) -> None:
        self._check_loop("resume")
        self._schedule.resume_all()

    @property
    def paused(self) -> bool:
        return self._schedule.paused

    @property
    def slots(self) -> float:
        return self._schedule.slots

    @slots.setter
    def slots(self, slots: float) -> None:
        check_count("slots", slots, least=1)
        if self._thread is not None:
            self._check_loop("resize")
        self._schedule.resize_all(slots)

    def statistics(self) -> Statistics:
        return self._schedule.statistics()

    async def shutdown(self, grace: float | None = None) -> None:
        """Stop taking jobs, let those that are there finish, and cancel what's left.

        Who waits in `enqueue` gets `ExecutorClosed`, but for the executor's own jobs: theirs are
        still taken. So are those of tasks that a job has started in anyio's task groups or trio's
        nurseries; other tasks aren't known to be a job's.

        ``grace``: how many seconds the queued and running jobs have to finish, and what they
        submit themselves meanwhile; None for as long as it takes. Then the rest is cancelled, and
        the call returns once it has unwound. Cancelling this wait ends the grace: the jobs are
        cancelled, and the cancellation goes on once they have unwound.

        Raises `RuntimeError` inside one of the executor's own jobs, which would wait for itself.

        ::

            await executor.shutdown(grace=30)
        """
        self._check_wait("shut down")
        if grace != 0:
            check_seconds("grace", grace)
        self._inbox.take()
        self._close(State.DRAINING)
        self._schedule.end()
        try:
            with anyio.move_on_after(grace):
                await self._backend.checkpoint()
                await self._wait_idle(self._schedule)
        finally:
            self._close(State.CLOSED)
            if self._schedule.unfinished:
                self.cancel("its executor was shut down")
                with anyio.CancelScope(shield=True):
                    await self._wait_idle(self._schedule)

    # For the lanes and the workers.

    def _takes_own_jobs(self) -> bool:
        """Whether a submission is taken, although the gate is closed, since a job makes it."""
        return self._state is State.DRAINING and self._own_job() is not None

    def _own_job(self) -> Future[Any] | None:
        """The job that this code runs in: in its own task, or in one that it started."""
        if self._schedule.stepping is not None:
            return self._schedule.stepping
        return self._jobs_of_tasks()(self._backend.current_task())

    def _jobs_of_tasks(self) -> Callable[[object], Future[Any] | None]:
        """How to tell the job that a task is part of."""
        jobs: dict[int, Future[Any] | None]
        jobs = {id(task): worker.future for worker in self._staff.workers for task in worker.tasks}
        jobs |= {id(feeder._feeder): feeder._job for feeder in self._feeders if feeder._job}
        # The host is the eldest: no job of this executor has started it.
        jobs[id(self._host)] = None
        lineage = self._backend.lineages()
        return lambda task: next((jobs[each] for each in lineage(task) if each in jobs), None)

    def _is_own(self) -> Callable[[LendingPlace], bool]:
        """How to tell whether it's a job's task that waits in a place."""
        job_of = self._jobs_of_tasks()
        return lambda place: place.task is None or job_of(place.task) is not None

    def _place(self) -> LendingPlace:
        """A place for the current task to wait in for room."""
        # No lineage tells of a task that a job starts eagerly and natively: but it's a job's step.
        task = None if self._schedule.stepping is not None else self._backend.current_task()
        return LendingPlace(self._backend.park(), lending_in(self._schedule), task)

    def _lines(self) -> list[Line]:
        return list(self._schedule.lines)

    def _runs(self, future: Future[Any] | None) -> bool:
        return future is not None

    def _check_loop(self, doing: str) -> None:
        if self._thread is None:
            raise RuntimeError(f"cannot {doing} {self!r}: enter it with `async with` first")
        if get_ident() != self._thread:
            raise RuntimeError(
                f"cannot {doing} {self!r} from another thread than its event loop's; "
                "to submit from there, use anyslots.from_thread.submit"
            )

    def _close(self, state: State) -> None:
        if self._state is State.OPEN or self._state is State.DRAINING:
            self._state = state
        self._gate.thread = None
        stays = self._is_own() if state is State.DRAINING else None
        for line in self._lines():
            self._schedule.refuse(line, stays)

    def _abort(self, reason: str) -> None:
        """Cancel everything inside the block, and let nothing begin any more."""
        self._close(State.CLOSED)
        if self._reason is None:
            self._reason = reason
        self._schedule.halt()
        # First the scope: who waits for a queued job in it meets its own cancellation.
        self._scope.cancel()
        self._drain(reason)
        for worker in self._staff.workers:
            worker.hurry()

    def _end_with(self, fatal: BaseException) -> None:
        """End everything, for the block to raise ``fatal``."""
        if self._fatal is None:
            self._fatal = fatal
        self._abort(f"its executor was ended by {type(fatal).__name__}")

    def _lost(self) -> None:
        """The event loop is gone: settle what's left."""
        self._close(State.CLOSED)
        self._schedule.halt()
        self._drain("the event loop has ended")
        self._inbox.close()

    def _leave_thread(self) -> None:
        assert self._thread is not None
        entered[self._thread].discard(self._schedule)
        if not entered[self._thread]:
            del entered[self._thread]

    def _drain(self, reason: str) -> None:
        for line in self._lines():
            self._schedule.drain(line, reason)

    def _fail_queued(self, future: Future[Any]) -> None:
        """A job has waited too long."""
        line = future._lane._line
        if future._status is QUEUED:
            error = QueueTimeout(f"job {future.name} was queued for {line.queue_timeout} seconds")
            failure = Failure(error, None, self._errors.failed(future, error))
            self._schedule.discard(line, future, FAILED, failure)
            if self._cancels_on_error:
                self._abort(CANCELLED_BY_FAILURE)

    def __repr__(self) -> str:
        paused = ", paused" if self.paused and self._state is State.OPEN else ""
        return self._describe(self._state.value + paused)

    def __del__(self) -> None:
        # There's none if `__init__` has raised, or was never called properly.
        if getattr(self, "_state", State.NEW) not in (State.NEW, State.ENDED):
            warnings.warn(f"{self!r} was never left", ResourceWarning, source=self, stacklevel=1)


def no_cancels() -> int:
    return 0


# Where the state of an executor changes: trio's Ctrl-C, which may strike between any two steps of
# the program, waits until these have returned. Jobs run inside a worker, and it ends them by
# cancelling the main task, as asyncio's does.
PROTECTED = (
    Executor.__aenter__,
    Executor.__aexit__,
    Executor.close,
    Executor.pause,
    Executor.resume,
    Lane.submit,
    Lane.enqueue,
    Lane.cancel,
    Lane.close,
    Lane.pause,
    Lane.resume,
    Future.cancel,
    Worker.work,
    Staff._keep_time,
)
