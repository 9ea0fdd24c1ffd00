"""Telling instruments what becomes of jobs.

Only an executor with instruments has the schedule that's made here. It tells each job's start from
inside the job, its end as the first of its future's callbacks, and leaves the plain path alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from ._line import Application, Line, Waiter
from ._schedule import Schedule

if TYPE_CHECKING:
    from ._future import Future

Event: TypeAlias = "tuple[str, Future[Any]]"

HOOKS = ("job_submitted", "job_started", "job_finished")

logger = logging.getLogger("anyslots")


def check_instruments(instruments: object) -> tuple[object, ...]:
    """Any number of objects that have at least one of the methods."""
    if not isinstance(instruments, Iterable) or isinstance(instruments, str | bytes):
        raise TypeError(f"instruments must be several objects in a list, not {instruments!r}")
    several = tuple(instruments)
    for one in several:
        if not any(callable(getattr(one, hook, None)) for hook in HOOKS):
            raise TypeError(f"instruments must have one of {', '.join(HOOKS)}; {one!r} has none")
    return several


class _Call(partial[Any]):
    """The function of a job, which says that the job starts."""

    schedule: WatchedSchedule

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        future = self.schedule.stepping
        assert future is not None
        self.schedule.tell(("job_started", future))
        return super().__call__(*args, **kwargs)


class WatchedSchedule(Schedule):
    """A schedule that tells instruments, each event to all of them before the next event."""

    __slots__ = ("_events", "_instruments", "_telling")

    def __init__(self, instruments: tuple[object, ...], *args: Any, **kwargs: Any) -> None:
        self._instruments = list(instruments)
        self._events: deque[Event] = deque()
        self._telling = False
        super().__init__(*args, **kwargs)

    def submit(self, line: Line, future: Future[Any]) -> None:
        self._watch(future)
        super().submit(line, future)
        self._enter(future)
        self.tell()

    def apply(self, line: Line, future: Future[Any], waiter: Waiter) -> Application:
        self._watch(future)
        return super().apply(line, future, waiter)

    def _admit(self, line: Line) -> Future[Any]:
        # In the middle of a change: told later, by the job's start or end or by who applied.
        future = super()._admit(line)
        self._enter(future)
        return future

    def _watch(self, future: Future[Any]) -> None:
        assert not isinstance(future._fn, str)
        future._fn = call = _Call(future._fn)
        call.schedule = self

    def _enter(self, future: Future[Any]) -> None:
        future._watch(self._finished)
        self._events.append(("job_submitted", future))

    def _finished(self, future: Future[Any]) -> None:
        self.tell(("job_finished", future))

    def tell(self, *events: Event) -> None:
        self._events.extend(events)
        if self._telling:  # an instrument has made this happen
            return
        self._telling = True
        while self._events:
            hook, future = self._events.popleft()
            for instrument in tuple(self._instruments):
                try:
                    getattr(instrument, hook, _nothing)(future)
                except (KeyboardInterrupt, SystemExit) as exc:
                    future._lane._executor._end_with(exc)
                except BaseException:
                    self._instruments.remove(instrument)
                    logger.exception("instrument %r raised; it's told no more", instrument)
        self._telling = False


def _nothing(future: Future[Any]) -> None:
    """For a method that an instrument doesn't have."""
