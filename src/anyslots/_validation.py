"""Checks of arguments: what's accepted, and what came instead."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Literal, cast

from ._scheduling.adaptive import Adaptive
from ._scheduling.rates import MOST_SECONDS
from ._scheduling.retries import Retry


def check_count(name: str, value: object, least: int) -> float:
    """Return an int from ``least``, or infinity however it was made."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be an int from {least} or math.inf, not {value!r}")
    if value != math.inf and (isinstance(value, float) or value < least):
        raise ValueError(f"{name} must be an int from {least} or math.inf, not {value!r}")
    return value


def check_slots(value: object) -> float | Adaptive:
    if isinstance(value, Adaptive):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"slots must be an int from 1, math.inf or Adaptive, not {value!r}")
    return check_count("slots", value, least=1)


def check_seconds(name: str, value: object) -> float | None:
    """Return None, or a number of seconds above 0; infinity stands for no limit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be None or a number of seconds, not {value!r}")
    if not 0 < value <= math.inf or (isinstance(value, int) and value > MOST_SECONDS):
        raise ValueError(f"{name} must be above 0 seconds, or math.inf, not {value!r}")
    return value


def check_pause(value: object) -> float | None:
    """Return None, or a finite number of seconds from 0."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"seconds must be None or a number of seconds, not {value!r}")
    if not 0 <= value <= MOST_SECONDS:
        raise ValueError(f"seconds must be from 0 and finite, not {value!r}")
    return value


def check_priority(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"priority must be a number, not {value!r}")
    if math.isnan(value):
        raise ValueError(f"priority must be a number that can be compared, not {value!r}")
    return value


def check_name(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"name must be a str or None, not {value!r}")
    return value


def check_gate(value: object) -> Callable[[], Awaitable[object]] | None:
    if value is None or callable(value):
        return cast("Callable[[], Awaitable[object]] | None", value)
    raise TypeError(f"gate must be None or an async function without arguments, not {value!r}")


def check_retry(value: object) -> Retry | Literal[False] | None:
    """Return a `Retry`, False for none, or None to inherit."""
    if value is None or value is False or isinstance(value, Retry):
        return value
    raise TypeError(f"retry must be a Retry, False or None, not {value!r}")
