"""Waiting for capacity in a queue."""

from __future__ import annotations

from collections.abc import Generator
from types import coroutine
from typing import Any

from .._scheduling.job import Job
from .._scheduling.wait_queue import Waiter
from .lending import TaskWaiter
from .runtime import Runtime


class Submitter(Waiter):
    """A task that waits until there's capacity for its job."""

    __slots__ = ("_confirms", "_scheduler", "_waiter", "task")

    def __init__(
        self,
        runtime: Runtime,
        job: Job[Any],
        waiter: TaskWaiter | None = None,
        *,
        is_own: bool = False,
    ) -> None:
        lender = runtime.current_lender()
        lenders = [] if lender is None else [lender]
        self._waiter = waiter or TaskWaiter(runtime.backend.park(), lenders)
        # None if it's known to be a job's: no ancestors tell of a task that a job starts eagerly.
        self.task = None if is_own else runtime.backend.current_task()
        self._scheduler = runtime.scheduler
        # A job's own wait may depend on what it submits; and what isn't `wait` can't confirm it.
        self._confirms = not (lender or waiter or runtime.backend.defers_cancel)
        super().__init__(job, self._waiter.wake)
        # Queue timeouts and cancellations end the wait, too.
        job.add_listener(self._waiter.wake)
        runtime.scheduler.put(self)

    def gave_up(self) -> bool:
        return not (self.served or self._waiter.is_waiting())

    def confirms(self) -> bool:
        return self._confirms

    @coroutine
    def wait(self) -> Generator[Any, Any, None]:
        try:
            yield from self._waiter.wait()
        finally:
            self.job.remove_listener(self._waiter.wake)
            if self._confirms:
                self._scheduler.confirm(self.job)
