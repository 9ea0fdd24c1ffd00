"""Exceptions of jobs that were never retrieved: what ``on_error`` makes of them.

A failed job refers to what waits for its exception, and tells it when that's retrieved.
"""

from __future__ import annotations

import logging
import weakref
from typing import Any, Protocol

from .._scheduling.job import Job, Retrieval
from .exceptions import get_traceback

logger = logging.getLogger("anyslots")


class ErrorPolicy(Protocol):
    """What becomes of the exceptions of an executor's jobs, besides being kept in futures."""

    cancels: bool
    """Whether the first of them cancels everything else."""

    def failed(self, job: Job[Any], exception: BaseException) -> Retrieval | None:
        """Note that a job has failed; return what to tell when its exception is retrieved."""

    def unretrieved(self) -> list[tuple[str, BaseException]]:
        """The names and exceptions of jobs that the executor, which has ended, is to raise."""


class HoldPolicy:
    """``"hold"``: keeps each failed job until its exception is retrieved, or the block ends."""

    cancels = False

    def __init__(self) -> None:
        self._exceptions: dict[Job[Any], BaseException] = {}

    def failed(self, job: Job[Any], exception: BaseException) -> Retrieval:
        self._exceptions[job] = exception
        return self

    def mark_retrieved(self, job: Job[Any]) -> None:
        self._exceptions.pop(job, None)

    def unretrieved(self) -> list[tuple[str, BaseException]]:
        exceptions, self._exceptions = self._exceptions, {}
        return [(str(job.fn), exception) for job, exception in exceptions.items()]


class CancelPolicy:
    """``"cancel"``: keeps the first exception and those that follow from cancelling the rest."""

    cancels = True

    def __init__(self) -> None:
        self._exceptions: list[tuple[Job[Any], BaseException]] = []

    def failed(self, job: Job[Any], exception: BaseException) -> None:
        self._exceptions.append((job, exception))

    def unretrieved(self) -> list[tuple[str, BaseException]]:
        exceptions, self._exceptions = self._exceptions, []
        return [(str(job.fn), exception) for job, exception in exceptions]


class LogPolicy:
    """``"log"``: keeps nothing; logs an exception when its future goes without a retrieval."""

    cancels = False

    def __init__(self) -> None:
        self._notes: weakref.WeakSet[_Note] = weakref.WeakSet()

    def failed(self, job: Job[Any], exception: BaseException) -> Retrieval:
        note = _Note(job, exception)
        self._notes.add(note)
        return note

    def unretrieved(self) -> list[tuple[str, BaseException]]:
        for note in list(self._notes):
            note.report()
        return []


class _Note:
    """Lives as long as its failed job, and logs the exception unless it was retrieved."""

    def __init__(self, job: Job[Any], exception: BaseException) -> None:
        self._name = job.name
        self._exception: BaseException | None = exception

    def mark_retrieved(self, job: Job[Any]) -> None:
        self._exception = None

    def report(self) -> None:
        exception, self._exception = self._exception, None
        if exception is not None:
            log_unretrieved(self._name, exception)

    __del__ = report


def log_unretrieved(name: str, exception: BaseException) -> None:
    # Not the exception itself, whose truth and whose traceback logging would ask for.
    exc_info = (type(exception), exception, get_traceback(exception))
    logger.error("exception of job %s was never retrieved", name, exc_info=exc_info)


POLICIES: dict[str, type[HoldPolicy] | type[CancelPolicy] | type[LogPolicy]] = {
    "hold": HoldPolicy,
    "cancel": CancelPolicy,
    "log": LogPolicy,
}
