"""What an exception that came out of a job consists of."""

from __future__ import annotations


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
