"""Errors of jobs that nobody has looked at: what ``on_error`` makes of them.

A failed future refers to its `Unseen` and tells it when somebody looks at the exception.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ._future import Future

logger = logging.getLogger("anyslots")


class Unseen(Protocol):
    def seen(self, future: Future[Any]) -> None:
        """Somebody has looked at the exception of ``future``."""


class Errors(Protocol):
    """An executor's policy."""

    def failed(self, future: Future[Any], exception: BaseException) -> Unseen | None:
        """A job has failed; whom to tell when its exception is looked at."""

    def left(self) -> list[tuple[str, BaseException]]:
        """The executor has ended: the names and exceptions of jobs that it should raise."""


class HeldErrors:
    """``"hold"``: keeps each failed future until somebody looks, or the block ends."""

    def __init__(self) -> None:
        self._exceptions: dict[Future[Any], BaseException] = {}

    def failed(self, future: Future[Any], exception: BaseException) -> Unseen:
        self._exceptions[future] = exception
        return self

    def seen(self, future: Future[Any]) -> None:
        self._exceptions.pop(future, None)

    def left(self) -> list[tuple[str, BaseException]]:
        exceptions, self._exceptions = self._exceptions, {}
        return [(future.name, exception) for future, exception in exceptions.items()]


class CollectedErrors:
    """``"cancel"``: keeps the first error and those that follow from cancelling the rest."""

    def __init__(self) -> None:
        self._exceptions: list[tuple[str, BaseException]] = []

    def failed(self, future: Future[Any], exception: BaseException) -> None:
        self._exceptions.append((future.name, exception))

    def left(self) -> list[tuple[str, BaseException]]:
        exceptions, self._exceptions = self._exceptions, []
        return exceptions


class LoggedErrors:
    """``"log"``: keeps nothing; an error is logged when its future goes unlooked-at."""

    def __init__(self) -> None:
        self._notes: weakref.WeakSet[_Note] = weakref.WeakSet()

    def failed(self, future: Future[Any], exception: BaseException) -> Unseen:
        note = _Note(future.name, exception)
        self._notes.add(note)
        return note

    def left(self) -> list[tuple[str, BaseException]]:
        for note in list(self._notes):
            note.report()
        return []


class _Note:
    """Lives as long as its future, and logs the exception unless somebody looked at it."""

    def __init__(self, name: str, exception: BaseException) -> None:
        self._name = name
        self._exception: BaseException | None = exception

    def seen(self, future: Future[Any]) -> None:
        self._exception = None

    def report(self) -> None:
        exception, self._exception = self._exception, None
        if exception is not None:
            log_unseen(self._name, exception)

    __del__ = report


def log_unseen(name: str, exception: BaseException) -> None:
    """Say at ERROR that the exception of job ``name`` went unseen."""
    logger.error("job %s failed and nobody looked", name, exc_info=exception)


POLICIES: dict[str, type[HeldErrors] | type[CollectedErrors] | type[LoggedErrors]] = {
    "hold": HeldErrors,
    "cancel": CollectedErrors,
    "log": LoggedErrors,
}
