"""What all parts of one executor share, and the ways in which it ends."""

from __future__ import annotations

import enum
import math
import weakref
from collections.abc import Callable
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from .._errors import ExecutorClosed, QueueTimeout
from .._scheduling.adaptive import Adaptive
from .._scheduling.gate import Gate
from .._scheduling.job import RUNNING, Failure, Job
from .._scheduling.lane_control import LaneControl
from .._scheduling.lane_state import LaneState
from .._scheduling.options import LaneOptions
from .._scheduling.scheduler import Scheduler
from .backend import Backend
from .entry_queue import EntryQueue
from .error_policy import ErrorPolicy
from .exceptions import get_traceback
from .lending import Lender, TaskWaiter

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

CANCELLED_FROM_OUTSIDE = "the executor was cancelled"
"""Why jobs are cancelled whose executor is in a cancelled scope."""

CANCELLED_BY_FAILURE = "another job of its executor failed"
"""Why they are cancelled with ``on_error="cancel"``."""

entered: dict[int, weakref.WeakSet[Runtime]] = {}
"""The runtimes of the executors that are entered, by the thread that they run in."""


class State(enum.Enum):
    """What an executor takes: nothing, jobs, its own jobs' jobs, nothing any more; and its end."""

    NEW = "not entered"
    OPEN = "open"
    SHUTTING_DOWN = "shutting down"
    CLOSED = "closed"
    ENDED = "ended"


class Pool(Protocol):
    """The workers, as the runtime sees them."""

    workers: set[Any]
    idle: int
    searching: int

    def spawn_workers(self) -> None: ...

    def close(self) -> None: ...

    def ended(self) -> None: ...

    def abandon(self) -> None: ...

    def wake_worker(self) -> None: ...

    def set_deadline(self, time: float) -> None: ...

    def limit_time(self, worker: Any) -> None: ...

    def call_gate(self, lane: LaneState) -> None: ...

    def cancel_gate(self, gate: Gate) -> None: ...

    async def claim_job(self, worker: Any) -> bool: ...

    def forget(self, worker: Any) -> None: ...

    def replace_worker(self) -> None: ...


class Producer(Protocol):
    """A task of a `map` that takes inputs, and ends with the executor."""

    task: object
    job: Job[Any] | None

    def stop(self) -> None: ...


class Runtime:
    """What all parts of one executor share. It's the scheduler's host, too.

    Holds at all times: `thread` is set while it's entered; `root.thread` is the same while jobs are
    taken from anywhere, else None; `stepped` is the job whose own code runs at this moment.
    """

    def __init__(
        self,
        root: LaneState,
        policy: ErrorPolicy,
        make_scheduler: Callable[[LaneState, Runtime], Scheduler],
    ) -> None:
        self.root = root
        self.policy = policy
        self.current_time: Callable[[], float] = anyio.current_time
        self.scheduler = make_scheduler(root, self)
        self.control = LaneControl(self.scheduler)
        self.entries = EntryQueue()
        self.state = State.NEW
        self.thread: int | None = None
        self.stepped: Job[Any] | None = None
        # Tasks that occupy a slot themselves, each with its job.
        self.occupants: dict[object, Job[Any]] = {}
        self.producers: set[Producer] = set()
        # Whether the event loop's thread is to look for dropped lanes, as others have made some.
        self.sweep_posted = False
        # Called when slots were made more or fewer by hand.
        self.resize_listeners: set[Callable[[], object]] = set()
        # Why all jobs are cancelled, once they are; what the block raises instead of anything else.
        self.reason: str | None = None
        self.fatal: BaseException | None = None
        # The rest is made in the event loop, by entering.
        self.pool: Pool
        self.backend: Backend
        self.host_task: object
        self.scope: anyio.CancelScope
        self.task_group: TaskGroup

    def enter(self, backend: Backend) -> None:
        self.backend = backend
        self.current_time = backend.current_time
        self.scheduler.permits.start_error = backend.clock_error
        self.thread = get_ident()
        self.host_task = backend.current_task()

    def open(self, pool: Pool) -> None:
        """Take jobs from now on."""
        assert self.thread is not None
        self.pool = pool
        entered.setdefault(self.thread, weakref.WeakSet()).add(self)
        self.state = State.OPEN
        for lane in self.root.subtree():
            lane.thread = None if lane.closed else self.thread
        self.entries.open(self.backend.post)
        pool.spawn_workers()
        if self.scheduler.deadline != math.inf:
            pool.set_deadline(self.scheduler.deadline)

    def check_thread(self, doing: str, what: object) -> None:
        """Raise `RuntimeError` unless the executor is entered and this is its thread."""
        if self.thread is None:
            raise RuntimeError(f"cannot {doing} {what!r}: enter it with `async with` first")
        if get_ident() != self.thread:
            raise RuntimeError(
                f"cannot {doing} {what!r} from another thread than its event loop's; "
                "to submit from there, use anyslots.from_thread.submit"
            )

    def check_open(self, node: LaneState, what: object) -> None:
        """Say why a lane takes no job from here; return if it does."""
        self.check_thread("submit to", what)
        shuts_down = self.state is State.SHUTTING_DOWN and not node.closed
        if not (shuts_down and self.own_job() is not None):
            raise ExecutorClosed(f"{what!r} takes no more jobs")

    def ended(self) -> None:
        """All tasks have ended."""
        assert self.thread is not None
        self.state = State.ENDED
        self.entries.close()
        entered[self.thread].discard(self)
        if not entered[self.thread]:
            del entered[self.thread]

    # The scheduler's host.

    def wake_worker(self) -> None:
        self.pool.wake_worker()

    def set_deadline(self, time: float) -> None:
        self.pool.set_deadline(time)

    def call_gate(self, lane: LaneState) -> None:
        self.pool.call_gate(lane)

    def occupy(self, job: Job[Any]) -> None:
        holder: Any = job.holder
        holder.wake()

    def queue_timeout(self, job: Job[Any]) -> Failure:
        seconds = job.node.queue_timeout
        return self.fail(job, QueueTimeout(f"job {job.name} was queued for {seconds} seconds"))

    # Lanes.

    def add_lane(self, parent: LaneState, name: str | None, options: LaneOptions) -> LaneState:
        """Make a lane inside another; in any thread."""
        if self.thread is None or get_ident() == self.thread:
            if not self.scheduler.transaction.busy:
                self.scheduler.tree.sweep()
            if parent.forgotten:
                self.scheduler.tree.recall(parent)
            return LaneState(parent, name, options)
        if not self.sweep_posted:
            self.sweep_posted = True
            try:
                self.backend.post(self.sweep)
            except RuntimeError:
                pass  # the event loop is closed
        node = LaneState(parent, name, options)
        node.catch_up()  # with what the event loop's thread has done in the meantime
        return node

    def sweep(self) -> None:
        """Forget the lanes that were dropped."""
        self.sweep_posted = False
        self.scheduler.tree.sweep()

    def set_gate(self, node: LaneState, fn: Callable[[], Any] | None) -> None:
        former = self.control.set_gate(node, fn)
        if former is not None:
            self.pool.cancel_gate(former)

    def set_slots(self, node: LaneState, slots: float | Adaptive) -> None:
        self.control.set_slots(node, slots)
        for listener in list(self.resize_listeners):
            listener()

    def close_lane(self, node: LaneState) -> None:
        """Take no more jobs in a lane; what other threads have handed in comes first."""
        self.entries.deliver()
        self.control.close(node)
        if node is self.root:
            self.close(State.CLOSED)

    def cancel_running(self, node: LaneState, reason: str | None) -> None:
        """Cancel the running jobs of a lane and those inside it."""
        for holder in self.holders():
            if holder.job is not None and holder.job.node.is_inside(node):
                holder.cancel(reason)

    def holders(self) -> list[Any]:
        """What runs jobs at this moment."""
        return [*self.pool.workers, *(job.holder for job in self.occupants.values())]

    async def wait_idle(self, node: LaneState) -> None:
        """Wait until a lane has no job left; a job of the executor lends its slot."""
        while not node.is_idle():
            lender = self.current_lender()
            waiter = TaskWaiter(self.backend.park(), [] if lender is None else [lender])
            if node.idle_waiters is None:
                node.idle_waiters = []
            node.idle_waiters.append(waiter.wake)
            node.end_is_watched = True
            try:
                await waiter.wait()
            except BaseException:
                if node.idle_waiters is not None:
                    node.idle_waiters.remove(waiter.wake)
                raise

    # Jobs.

    def fail(self, job: Job[Any], exception: BaseException) -> Failure:
        """What a job that fails with an exception is settled with."""
        traceback: TracebackType | None = get_traceback(exception)
        failure = Failure(exception, traceback, self.policy.failed(job, exception))
        if self.policy.cancels:
            self.scheduler.transaction.notify(self.abort, CANCELLED_BY_FAILURE)
        return failure

    def cancel_job(self, job: Job[Any], reason: str | None) -> bool:
        """Cancel a job; False if it's done."""
        if job.status is RUNNING:
            holder = job.holder
            del job
            assert holder is not None
            holder.cancel(reason)
            return True
        return self.scheduler.cancel(job, reason)

    def current_job(self) -> Job[Any] | None:
        """The job whose own task this code runs in, in its slot, if it's one of this executor's."""
        if self.occupants and (job := self.occupants.get(self.backend.current_task())) is not None:
            return job
        job = self.stepped
        if job is not None:
            # A task that starts eagerly takes its first step inside that of the job it's made by.
            holder: Any = job.holder
            return job if holder is not None and holder.is_current() else None
        return None

    def current_lender(self) -> Lender | None:
        """What runs the job whose own task this code runs in, and can lend its slot."""
        job = self.current_job()
        lender: Lender | None = None if job is None else job.holder  # type: ignore[assignment]
        return lender

    def own_job(self) -> Job[Any] | None:
        """The job that this code belongs to: its own task, or one that it has started."""
        if self.occupants and (job := self.occupants.get(self.backend.current_task())) is not None:
            return job
        if self.stepped is not None:
            return self.stepped
        return self.jobs_of_tasks()(self.backend.current_task())

    def own_jobs(self) -> list[Job[Any]]:
        """The job that this code belongs to, and those around that: slots occupied inside a job."""
        job = self.own_job()
        lender: Any = None if job is None else job.holder
        return [] if lender is None else list(lender.jobs())

    def jobs_of_tasks(self) -> Callable[[object], Job[Any] | None]:
        """How to tell the job that a task is part of."""
        jobs: dict[int, Job[Any] | None]
        jobs = {id(task): worker.job for worker in self.pool.workers for task in worker.tasks}
        jobs |= {id(task): job for task, job in self.occupants.items()}
        jobs |= {id(each.task): each.job for each in self.producers if each.job is not None}
        # The host is the eldest: no job of this executor has started it.
        jobs.setdefault(id(self.host_task), None)
        ancestors = self.backend.task_ancestors()
        return lambda task: next((jobs[each] for each in ancestors(task) if each in jobs), None)

    async def outlives_cancellation(self, scope: anyio.CancelScope | None = None) -> bool:
        """Whether this helper task was cancelled natively: then take it back, and go on."""
        if anyio.current_effective_deadline() == -math.inf:
            return False
        if scope is not None and scope.cancel_called:
            return False
        await self.backend.uncancel()
        return True

    # Ends.

    def close(self, state: State) -> None:
        """Take no more jobs; while it shuts down, still those that its own jobs submit."""
        if self.state in (State.OPEN, State.SHUTTING_DOWN):
            self.state = state
        keeps = None
        if state is State.SHUTTING_DOWN:
            job_of = self.jobs_of_tasks()

            def keeps(putter: Any) -> bool:
                return putter.task is None or job_of(putter.task) is not None

        self.control.stop_submissions(keeps)

    def abort(self, reason: str) -> None:
        """Cancel everything inside the block, and let nothing start any more."""
        if self.state is State.ENDED:
            return
        self.close(State.CLOSED)
        if self.reason is None:
            self.reason = reason
        self.control.stop_dispatch()
        # First the jobs, each once; then the scope, which goes on and on with all other tasks.
        for holder in self.holders():
            if holder.job is not None and not holder.was_asked:
                holder.cancel(reason)
        self.scope.cancel()
        self.control.cancel_queued(self.root, reason)

    def end_with(self, fatal: BaseException) -> None:
        """End everything, for the block to raise ``fatal``."""
        if self.fatal is None:
            self.fatal = fatal
        self.abort(f"its executor was ended by {type(fatal).__name__}")

    def lost(self) -> None:
        """The event loop is gone: settle what's left."""
        self.pool.abandon()
        self.close(State.CLOSED)
        self.control.stop_dispatch()
        self.control.cancel_queued(self.root, "the event loop has ended")
        self.entries.close()
