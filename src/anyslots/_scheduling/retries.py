"""When a failed job runs again: `Retry`, and what it shares with `Adaptive`.

Nothing here waits or schedules: the scheduler asks for the delay, and queues the job.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from inspect import iscoroutinefunction
from random import Random
from typing import TypeVar, cast, final

MOST_SECONDS = sys.float_info.max
"""Beyond this, an int can't be added to a time."""

T = TypeVar("T")
ACCEPTED = "exception classes or a function of the exception"


@final
@dataclass(frozen=True, slots=True)
class Retry:
    """Run a job again when it fails, up to ``attempts`` starts in all.

    Between attempts the job is queued and holds no slot. The wait after the n-th attempt is
    ``wait * factor ** (n - 1)`` seconds, at most ``most``; with ``jitter``, it's a uniformly random
    part of that, so that jobs that failed together don't come back together. A job that was asked
    to cancel isn't retried.

    ``on`` says which exceptions are worth another attempt: an exception class or several, matched
    as by ``except`` (an `ExceptionGroup` matches only as itself, whatever is in it), or a function
    of the exception. The function returns False or None for no, True for yes, after the usual wait,
    or a number for yes, after that many seconds, which ``most`` doesn't cap: what a server asked
    for with ``Retry-After``.

    ``attempts``: an int from 1. ``wait`` and ``most``: seconds from 0, finite. ``factor``: a finite
    number from 1. Raises `TypeError` or `ValueError` for anything else, and for exceptions that are
    never retried, such as `KeyboardInterrupt`.

    ::

        api = executor.lane("api", retry=Retry(3, on=(ConnectionError, TimeoutError)))
    """

    attempts: int = 5
    _: KW_ONLY
    on: (
        type[Exception]
        | Iterable[type[Exception]]
        | Callable[[Exception], bool | int | float | None]
    ) = Exception
    wait: float = 0.5
    factor: float = 2.0
    most: float = 60.0
    jitter: bool = True

    def __post_init__(self) -> None:
        check_int("attempts", self.attempts)
        object.__setattr__(self, "on", checked_matcher(self.on))
        check_seconds("wait", self.wait)
        check_number("factor", self.factor, "a number")
        if not 1 <= self.factor <= MOST_SECONDS:
            raise ValueError(f"factor must be a finite number from 1, not {self.factor!r}")
        check_seconds("most", self.most)
        if not isinstance(self.jitter, bool):
            raise TypeError(f"jitter must be a bool, not {self.jitter!r}")

    def delay(self, exception: Exception, attempt: int, random: Random) -> float | None:
        """Return in how many seconds to run the job again, None for not at all.

        ``attempt``: how often the job has started so far. Raises what the function ``on`` raises,
        and `TypeError` or `ValueError` if that returns anything that it may not.
        """
        if attempt >= self.attempts:
            return None
        answer = ask_matcher(self.on, exception)
        if answer is None or answer is False:
            return None
        if answer is True:
            usual = self._usual_wait(attempt)
            return usual * random.random() if self.jitter else usual
        if not isinstance(answer, int | float):
            raise TypeError(f"on must return a bool, None or a number of seconds, not {answer!r}")
        if not 0 <= answer <= MOST_SECONDS:
            raise ValueError(f"on must return seconds from 0, finite, not {answer!r}")
        return float(answer)

    def _usual_wait(self, attempt: int) -> float:
        """Return how long to wait after the ``attempt``-th start, without jitter."""
        try:
            # A float: a large power of an int would be exact, and take very long.
            usual = self.wait * float(self.factor) ** (attempt - 1)
        except OverflowError:
            usual = self.most if self.wait else 0.0
        return float(min(self.most, usual))


def checked_matcher(on: T) -> T | tuple[type[Exception], ...]:
    """Return the argument ``on``, an iterable as a tuple; raise if it isn't acceptable."""
    if isinstance(on, type):
        check_exception_class(on)
        return on
    if callable(on):
        if iscoroutinefunction(on):
            raise TypeError(f"on must be a plain function, not the async function {on!r}")
        return on
    if not isinstance(on, Iterable):
        raise TypeError(f"on must be {ACCEPTED}, not {on!r}")
    classes = tuple(on)
    for cls in classes:
        check_exception_class(cls)
    return classes


def check_exception_class(cls: object) -> None:
    """Raise unless ``cls`` is a class of exceptions that may be handled."""
    if not isinstance(cls, type) or not issubclass(cls, BaseException):
        raise TypeError(f"on must be {ACCEPTED}, not {cls!r}")
    if not issubclass(cls, Exception):
        raise TypeError(f"on must be subclasses of Exception, not {cls!r}")


def ask_matcher(on: object, exception: Exception) -> object:
    """Return whether the exception is of a class of ``on``, or what the function ``on`` returns.

    Looks at nothing but the exception's type, as ``except`` does: `isinstance` may run code of the
    exception's, and of its class's.
    """
    if isinstance(on, type):
        return type.__subclasscheck__(on, type(exception))
    if isinstance(on, tuple):
        return any(type.__subclasscheck__(cls, type(exception)) for cls in on)
    return cast("Callable[[Exception], object]", on)(exception)


def check_int(name: str, value: object, least: int = 1) -> None:
    """Raise unless ``value`` is an int from ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be an int from {least}, not {value!r}")


def check_number(name: str, value: object, accepted: str) -> None:
    """Raise unless ``value`` is an int or a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {accepted}, not {value!r}")


def check_seconds(name: str, value: float) -> None:
    """Raise unless ``value`` is a number of seconds that can be waited for."""
    check_number(name, value, "a number of seconds")
    if not 0 <= value <= MOST_SECONDS:
        raise ValueError(f"{name} must be seconds from 0, finite, not {value!r}")
