"""Notifying instruments of what becomes of jobs.

Only an executor with instruments has the scheduler that's made here. It notes a job's start inside
the job's context, its end as the first listener of the job, and leaves the rest as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import Any

from .._scheduling.job import Job
from .._scheduling.lane_state import LaneState
from .._scheduling.scheduler import Scheduler
from .._scheduling.wait_queue import Waiter
from .runtime import Runtime

HOOKS = ("job_submitted", "job_started", "job_finished")

logger = logging.getLogger("anyslots")


def check_instruments(instruments: object) -> tuple[object, ...]:
    """Return any number of objects that have at least one of the methods."""
    if not isinstance(instruments, Iterable) or isinstance(instruments, str | bytes):
        raise TypeError(f"instruments must be several objects in a list, not {instruments!r}")
    several = tuple(instruments)
    for one in several:
        if not any(callable(getattr(one, hook, None)) for hook in HOOKS):
            raise TypeError(f"instruments must have one of {', '.join(HOOKS)}; {one!r} has none")
    return several


class _Call(partial[Any]):
    """The function of a job, which notes that the job has started."""

    scheduler: InstrumentedScheduler

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        job = self.scheduler.runtime.stepped
        assert job is not None
        self.scheduler.started(job)
        return super().__call__(*args, **kwargs)


class InstrumentedScheduler(Scheduler):
    """A scheduler that notifies instruments, each event to all of them before the next event."""

    __slots__ = ("instruments", "runtime")

    def __init__(self, instruments: tuple[object, ...], root: LaneState, runtime: Runtime) -> None:
        super().__init__(root, runtime)
        self.runtime = runtime
        self.instruments = list(instruments)
        # Every job comes by way of `submit`.
        root.is_observed = True
        root.apply_options()

    def submit(self, job: Job[Any]) -> None:
        self._observe(job)
        self.transaction.notify(self._emit, "job_submitted", job)
        super().submit(job)

    def put(self, putter: Waiter) -> None:
        wake = putter.wake

        def answered() -> None:
            if putter.served:
                self.transaction.notify(self._emit, "job_submitted", putter.job)
                putter.job.add_listener(self._finished)
            wake()

        putter.wake = answered
        self._wrap(putter.job)
        super().put(putter)

    def lend(self, job: Job[Any]) -> None:
        self.transaction.notify(self._emit, "job_lent", job)
        super().lend(job)

    def started(self, job: Job[Any]) -> None:
        self._emit_now("job_started", job)

    def resumed(self, job: Job[Any]) -> None:
        self._emit_now("job_resumed", job)

    def retried(self, job: Job[Any], exception: BaseException, delay: float) -> None:
        self._emit_now("job_retried", job, exception, delay)

    def _observe(self, job: Job[Any]) -> None:
        self._wrap(job)
        job.add_listener(self._finished)

    def _wrap(self, job: Job[Any]) -> None:
        if callable(job.fn):
            job.fn = call = _Call(job.fn)
            call.scheduler = self

    def _finished(self, job: Job[Any]) -> None:
        self.transaction.notify(self._emit, "job_finished", job)

    def _emit_now(self, hook: str, *args: object) -> None:
        self.transaction.notify(self._emit, hook, *args)
        if not self.transaction.busy:
            self.transaction.deliver()

    def _emit(self, hook: str, *args: object) -> None:
        for instrument in tuple(self.instruments):
            try:
                method = getattr(instrument, hook, None)
                if method is not None:
                    method(*args)
            except (KeyboardInterrupt, SystemExit) as exc:
                self.runtime.end_with(exc)
            except BaseException:
                self.instruments.remove(instrument)
                logger.exception("instrument %r raised; it's notified no more", instrument)
