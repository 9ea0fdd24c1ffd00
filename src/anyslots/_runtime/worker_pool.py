"""The tasks of an executor: as many workers as are needed, a timer, and calls of gates.

Tasks are started by workers: a plain callback of the event loop can't start any with anyio, and a
job may be submitted by one. All that a submission does is to notify a worker, by a message in a
memory object stream.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from .._scheduling.gate import Gate
from .._scheduling.job import Failure, Job
from .._scheduling.lane_state import LaneState
from .._scheduling.timers import Timers
from .exceptions import get_traceback
from .runtime import Runtime
from .worker import Worker

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

logger = logging.getLogger("anyslots")


class WorkerPool:
    """The workers of one executor, and its other tasks.

    Holds whenever no worker is on its way from a permit to `spawn_workers`: more workers are idle
    than there are permits, so that there's one to claim the next permit, too.
    """

    __slots__ = (
        "closed", "deadline", "gate_scopes", "idle", "runtime", "searching", "time_limits", "timer",
        "to_start", "wakeups", "woken", "workers", "yielding",
    )  # fmt: skip

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.workers: set[Worker] = set()
        self.idle = 0
        # How many of them will look for a permit by themselves, without being notified.
        self.searching = 0
        # How many of these are about to go on in a slot that they have just given back.
        self.yielding = 0
        # When the scheduler wants to be called; when to look at workers whose jobs have only so
        # much time, no later than that is up; and the scope of the task that sees to both.
        self.deadline = math.inf
        self.time_limits: Timers[Worker] = Timers()
        self.timer: anyio.CancelScope | None = None
        # What the next worker that wakes is to start as tasks.
        self.to_start: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        self.gate_scopes: dict[Gate, anyio.CancelScope] = {}
        self.closed = False
        self.wakeups: MemoryObjectSendStream[None]
        self.woken: MemoryObjectReceiveStream[None]
        self.wakeups, self.woken = anyio.create_memory_object_stream[None](math.inf)

    def close(self) -> None:
        """Have each task end once it has nothing to do."""
        self.closed = True
        self.wakeups.close()
        if self.timer is not None:
            self.timer.cancel()
        for scope in self.gate_scopes.values():
            scope.cancel()

    def ended(self) -> None:
        """All tasks have ended."""
        self.woken.close()

    def abandon(self) -> None:
        """Ask nothing of the event loop any more, which is gone."""
        self.closed = True
        self.timer = None

    def wake_worker(self) -> None:
        """There's one permit more."""
        if len(self.runtime.scheduler.permits.jobs) > self.searching:
            self._notify()

    def set_deadline(self, time: float) -> None:
        """Have the scheduler called when it's ``time``, instead of the time before."""
        self.deadline = time
        self._set_timer()

    def limit_time(self, worker: Worker) -> None:
        """Have a worker told when the time of its job is up."""
        # To look too early costs less than to change the timer for each job.
        deadline = worker.deadline()
        if deadline < self.time_limits.deadlines.get(worker, math.inf):
            self.time_limits.set(worker, deadline)
            self._set_timer()

    def _set_timer(self) -> None:
        deadline = min(self.deadline, self.time_limits.next_deadline())
        if self.timer is None:
            if deadline != math.inf:
                self._notify()
        elif self.timer.deadline != deadline:
            self.timer.deadline = deadline

    def call_gate(self, lane: LaneState) -> None:
        gate = lane.gate
        assert gate is not None

        async def call() -> None:
            await self._call_gate(lane, gate)

        self.to_start.append(call)
        self._notify()

    def cancel_gate(self, gate: Gate) -> None:
        """A gate was replaced whose call may be under way."""
        if gate in self.gate_scopes:
            self.gate_scopes[gate].cancel()

    def _notify(self) -> None:
        # What waits in the stream already wakes as many of the idle workers, and those that looked
        # by themselves have left theirs there.
        if not self.closed and self.wakeups.statistics().current_buffer_used < self.idle:
            self.wakeups.send_nowait(None)

    def spawn_workers(self) -> None:
        """Start the tasks that are missing. Called in a task."""
        if self.closed:
            return
        start = partial(self.runtime.backend.start_task, self.runtime.task_group)
        name = self.runtime.root.name
        while self.idle <= len(self.runtime.scheduler.permits.jobs):
            worker = Worker(self.runtime)
            self.workers.add(worker)
            self.idle += 1
            start(worker.work, name=f"anyslots worker of {name}")
        if self.timer is None and (self.deadline != math.inf or self.time_limits.deadlines):
            self.timer = anyio.CancelScope()
            start(self.keep_time, name=f"anyslots timer of {name}")
        while self.to_start:
            start(self.to_start.popleft(), name=f"anyslots gate of {name}")

    def forget(self, worker: Worker) -> None:
        """A worker ends."""
        self.workers.discard(worker)
        self.time_limits.set(worker, math.inf)

    def replace_worker(self) -> None:
        """A worker, which is idle, ends before its time."""
        self.idle -= 1
        self.spawn_workers()
        if self.runtime.scheduler.permits.jobs:
            self._notify()  # it may be this worker that was

    async def claim_job(self, worker: Worker) -> bool:
        """Wait for a permit and claim its job; False if there's none for this worker any more."""
        scheduler = self.runtime.scheduler
        while worker.ends_turn or not self._try_claim(worker):
            # What was woken by a job's end is likely to submit another: look once more.
            self.searching += 1
            self.yielding += worker.ends_turn
            try:
                await self.runtime.backend.checkpoint()
            finally:
                self.searching -= 1
                self.yielding -= worker.ends_turn
                worker.ends_turn = False
            if self._try_claim(worker):
                break
            if self.idle > scheduler.root.slots + 1:
                # One of those that stood in for a lender.
                self.idle -= 1
                return False
            try:
                await self.woken.receive()
            except anyio.EndOfStream:
                return False
            self.spawn_workers()
        self.idle -= 1
        self.spawn_workers()
        return True

    def _try_claim(self, worker: Worker) -> bool:
        """Claim a job, unless it's for a worker that lets other tasks run before it goes on."""
        scheduler = self.runtime.scheduler
        worker.job = (
            scheduler.claim(worker) if len(scheduler.permits.jobs) > self.yielding else None
        )
        return worker.job is not None

    async def keep_time(self) -> None:
        """Call the scheduler when it has asked for it, and workers when the time of a job is up."""
        while not self.closed:
            deadline = min(self.deadline, self.time_limits.next_deadline())
            try:
                with anyio.CancelScope(deadline=deadline) as self.timer:
                    await anyio.sleep_forever()
            except self.runtime.backend.cancelled:
                if not await self.runtime.outlives_cancellation():
                    raise
            now = self.runtime.current_time()
            for worker in self.time_limits.expire(now):
                if worker.deadline() <= now:
                    worker.time_out()
                elif worker.deadline() != math.inf:
                    self.time_limits.set(worker, worker.deadline())
            if self.deadline <= now:
                self.deadline = math.inf
                self.runtime.control.expire()

    async def _call_gate(self, lane: LaneState, gate: Gate) -> None:
        """Await a gate, until it admits a job or says why not."""
        control = self.runtime.control
        while not self.closed:
            with anyio.CancelScope() as self.gate_scopes[gate]:
                try:
                    await gate.fn()
                except self.runtime.backend.cancelled:
                    if self.gate_scopes[gate].cancel_called or not (
                        await self.runtime.outlives_cancellation()
                    ):
                        raise
                    continue
                except Exception as exc:
                    del self.gate_scopes[gate]
                    self._gate_failed(lane, gate, exc)
                    return
                except BaseException as exc:
                    self.runtime.end_with(exc)
                    return
            if self.gate_scopes.pop(gate).cancel_called:
                return
            control.admit(lane, gate)
            return

    def _gate_failed(self, lane: LaneState, gate: Gate, exception: Exception) -> None:
        def failure(job: Job[Any]) -> Failure:
            return self.runtime.fail(job, exception)

        if self.runtime.control.gate_failed(lane, gate, failure) is False:
            exc_info = (type(exception), exception, get_traceback(exception))
            logger.error("gate of lane %r raised for no job", lane.name, exc_info=exc_info)
