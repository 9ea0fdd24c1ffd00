"""Jobs in a log."""

from __future__ import annotations

import logging
import time
from typing import Any, final

from .._handles import Future
from ._reading import Clock, error, outcome

LEVELS = {"succeeded": logging.DEBUG, "cancelled": logging.INFO, "failed": logging.WARNING}


@final
class Logging:
    """Logs one line for each job, when it ends: what became of it, where, and how long it took.

    Jobs that succeeded at DEBUG, cancelled ones at INFO, failed ones at WARNING. The exception is
    named; its traceback stays with the future, for whoever awaits it. Looking at a failure here
    doesn't count as having looked: ``on_error`` goes by what the program does.

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
        # When each unfinished job was submitted, and when it started.
        self._times: dict[Future[Any], tuple[float, float | None]] = {}

    def job_submitted(self, future: Future[Any]) -> None:
        self._times[future] = self._clock(), None

    def job_started(self, future: Future[Any]) -> None:
        self._times[future] = self._times[future][0], self._clock()

    def job_finished(self, future: Future[Any]) -> None:
        submitted, started = self._times.pop(future)
        level = LEVELS[outcome(future)]
        if not self._logger.isEnabledFor(level):
            return
        now = self._clock()
        why = "" if (exception := error(future)) is None else f": {exception!r}"
        if started is None:
            where = f"in the queue, after {now - submitted:.3f} s"
        else:
            times = f"after {now - started:.3f} s, having waited {started - submitted:.3f} s"
            where = f"in slot {future.slot} {times}"
        what = f"job {future.name} of {future.lane.name or 'an executor'} {outcome(future)}"
        self._logger.log(level, "%s %s%s", what, where, why)
