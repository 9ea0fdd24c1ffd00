"""The tasks of an executor: as many workers as are needed, and one that keeps the time.

They are started by one another: a plain callback of the event loop can't start tasks with anyio,
and whoever submits may be one. All that a submission does is to ring.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio

from ._worker import Worker

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from ._executor import Executor
    from ._line import Line


class Staff:
    """The workers of one executor, and its timer.

    More workers rest than there are grants, whenever none is on its way from a grant to the next
    `hire`: so somebody is there to redeem the next one, too.
    """

    __slots__ = (
        "_alarm",
        "_awake",
        "_bell",
        "_closed",
        "_executor",
        "_resting",
        "_ringer",
        "_timer",
        "workers",
    )

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.workers: set[Worker] = set()
        self._resting = 0
        # How many of them will look for a grant by themselves, without being rung for.
        self._awake = 0
        # When the schedule wants to be told the time, and the scope of the task that tells it.
        self._alarm = math.inf
        self._timer: anyio.CancelScope | None = None
        self._closed = False
        # Made in the event loop.
        self._ringer: MemoryObjectSendStream[None]
        self._bell: MemoryObjectReceiveStream[None]

    def open(self) -> None:
        self._ringer, self._bell = anyio.create_memory_object_stream[None](math.inf)
        self.hire()

    def close(self) -> None:
        """Have each task end once it has nothing to do."""
        self._closed = True
        self._ringer.close()
        if self._timer is not None:
            self._timer.cancel()

    def ended(self) -> None:
        """All tasks have ended."""
        self._bell.close()

    def ring(self) -> None:
        """There's a grant more."""
        if len(self._executor._schedule.grants) > self._awake:
            self._ringer.send_nowait(None)

    def set_alarm(self, time: float) -> None:
        """The schedule wants to be told when it's ``time``, instead of what it wanted before."""
        self._alarm = time
        if self._timer is not None:
            self._timer.deadline = time
        elif time != math.inf:
            # Have a worker start the task that keeps the time.
            self._ringer.send_nowait(None)

    def hire(self) -> None:
        """Start the tasks that are missing. Called in a task."""
        start = self._executor._task_group.start_soon
        name = self._executor.name
        while self._resting <= len(self._executor._schedule.grants):
            worker = Worker(self._executor)
            self.workers.add(worker)
            self._resting += 1
            start(worker.work, name=f"anyslots worker of {name}")
        if self._alarm != math.inf and self._timer is None:
            self._timer = anyio.CancelScope()
            start(self._keep_time, name=f"anyslots timer of {name}")

    def rest(self) -> None:
        """One worker more has nothing to do, and waits for a grant next."""
        self._resting += 1

    async def wait_for_grant(self) -> Line | None:
        """Wait until there's something to do; None if there's nothing for this worker any more."""
        schedule = self._executor._schedule
        while (line := schedule.redeem()) is None:
            # Whoever was told of a job's end is likely to submit another: stay awake for a moment.
            self._awake += 1
            try:
                await self._executor._backend.checkpoint()
            finally:
                self._awake -= 1
            if (line := schedule.redeem()) is not None:
                break
            if self._resting > schedule.slots + 1:
                # One of those that stood in for a lender.
                self._resting -= 1
                return None
            try:
                await self._bell.receive()
            except anyio.EndOfStream:
                return None
            self.hire()
        self._resting -= 1
        self.hire()
        return line

    async def _keep_time(self) -> None:
        """Tell the schedule the time when it has asked for it, and fail what waited too long."""
        while not self._closed:
            with anyio.CancelScope(deadline=self._alarm) as self._timer:
                await anyio.sleep_forever()
            for future in self._executor._schedule.tick():
                self._executor._fail_queued(future)
