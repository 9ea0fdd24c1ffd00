"""Jobs in a log."""

from __future__ import annotations

import logging
import time
from typing import Any, final

from .. import Future
from ._reading import Clock

LEVELS = {"succeeded": logging.DEBUG, "cancelled": logging.INFO, "failed": logging.WARNING}


class _Job:
    """What's known of a job that hasn't ended; times are the clock's."""

    __slots__ = ("attempts", "slot", "started", "submitted", "wait")

    def __init__(self, submitted: float) -> None:
        self.submitted = submitted
        # From its submission to its first start.
        self.wait = 0.0
        self.attempts = 0
        # When and where its present attempt started; None while it's queued.
        self.started: float | None = None
        self.slot: int | None = None

    def where(self, now: float) -> str:
        """Say in which slot, and for how long, as the end of a sentence."""
        if self.started is None:
            queued = f"in the queue, after {now - self.submitted:.3f} s"
            attempts = f" and {self.attempts} attempt" + "s" * (self.attempts != 1)
            return queued + attempts * bool(self.attempts)
        slot = f"in slot {self.slot} after {now - self.started:.3f} s"
        if self.attempts > 1:
            return f"{slot}, on attempt {self.attempts}"
        return f"{slot}, having waited {self.wait:.3f} s"


@final
class Logging:
    """Log one line for each job, when it ends: what became of it, where, and how long it took.

    Jobs that succeeded at DEBUG, cancelled ones at INFO, failed ones at WARNING. The exception is
    named; its traceback stays with the future, for the code that awaits it. Logging a failure
    doesn't retrieve it: ``on_error`` goes by what the program does. A failed attempt that is
    retried has a separate line, at INFO.

    ``logger``: where to; the logger ``anyslots`` if None.

    ::

        logging.basicConfig(level=logging.DEBUG)
        Executor(slots=4, instruments=[Logging()])
    """

    def __init__(
        self, logger: logging.Logger | None = None, *, clock: Clock = time.perf_counter
    ) -> None:
        self._logger = logging.getLogger("anyslots") if logger is None else logger
        self._clock = clock
        self._open: dict[Future[Any], _Job] = {}

    def job_submitted(self, future: Future[Any]) -> None:
        self._open[future] = _Job(self._clock())

    def job_started(self, future: Future[Any]) -> None:
        job = self._open[future]
        job.started, job.slot = self._clock(), future.slot
        job.attempts += 1
        if job.attempts == 1:
            job.wait = job.started - job.submitted

    def job_resumed(self, future: Future[Any]) -> None:
        self._open[future].slot = future.slot

    def job_retried(self, future: Future[Any], exception: BaseException, delay: float) -> None:
        job = self._open[future]
        if self._logger.isEnabledFor(logging.INFO):
            what = f"{name_of(future)} failed {job.where(self._clock())}"
            again = f"retrying in {delay:.3f} s: {described(exception)}"
            self._logger.info("%s; %s", what, again)
        job.started = None

    def job_finished(self, future: Future[Any]) -> None:
        job, outcome = self._open.pop(future), future.status.value
        level = LEVELS[outcome]
        if not self._logger.isEnabledFor(level):
            return
        why = "" if (exception := future.error) is None else f": {described(exception)}"
        self._logger.log(
            level, "%s %s %s%s", name_of(future), outcome, job.where(self._clock()), why
        )


def name_of(future: Future[Any]) -> str:
    return f"job {future.name} of {future.lane.name or 'an executor'}"


def described(exception: BaseException) -> str:
    try:
        return repr(exception)
    except Exception:  # its class is the user's
        return f"{type(exception).__qualname__} without a repr"
