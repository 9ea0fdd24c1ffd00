"""What an exception that came out of a job consists of, whatever its class makes of attributes."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

_traceback_of = BaseException.__dict__["__traceback__"].__get__
_cause_of = BaseException.__dict__["__cause__"].__get__
_context_of = BaseException.__dict__["__context__"].__get__


def get_traceback(exception: BaseException) -> TracebackType | None:
    traceback: TracebackType | None = _traceback_of(exception)
    return traceback


def connected(exception: BaseException) -> Iterator[BaseException]:
    """An exception, its causes and contexts, and those in groups among them; each once."""
    found = [exception]
    for each in found:  # which grows
        yield each
        near = [_cause_of(each), _context_of(each)]
        if isinstance(each, BaseExceptionGroup):
            near += each.exceptions
        found += [new for new in near if new is not None and all(new is not old for old in found)]


def split(
    exception: BaseException, cancelled: type[BaseException]
) -> tuple[BaseException | None, BaseException | None]:
    """What of an exception that came out of a job is a cancellation, and what else there is."""
    if isinstance(exception, BaseExceptionGroup):
        found, rest = exception.split(cancelled)
        return (None, exception) if found is None else (found, rest)
    return (exception, None) if isinstance(exception, cancelled) else (None, exception)


def ends_program(exception: BaseException) -> bool:
    fatal = (KeyboardInterrupt, SystemExit)
    if isinstance(exception, BaseExceptionGroup):
        return exception.subgroup(fatal) is not None
    return isinstance(exception, fatal)
