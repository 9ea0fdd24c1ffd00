"""Checks of arguments: what's accepted, and what came instead."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ._rate import MOST_SECONDS, Rate


def check_count(name: str, value: object, least: int) -> float:
    """An int from ``least``, or infinity however it was made."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be an int from {least} or math.inf, not {value!r}")
    if value != math.inf and (isinstance(value, float) or value < least):
        raise ValueError(f"{name} must be an int from {least} or math.inf, not {value!r}")
    return value


def check_seconds(name: str, value: object) -> float | None:
    """None, or a number of seconds above 0; infinity stands for no limit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be None or a number of seconds, not {value!r}")
    if not 0 < value <= math.inf or (isinstance(value, int) and value > MOST_SECONDS):
        raise ValueError(f"{name} must be above 0 seconds, or math.inf, not {value!r}")
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


def check_rates(value: object) -> tuple[Rate, ...]:
    """None, one `Rate`, or several."""
    if value is None:
        return ()
    if isinstance(value, Rate):
        return (value,)
    rates = tuple(value) if isinstance(value, Iterable) else ()
    if not rates or not all(isinstance(rate, Rate) for rate in rates):
        raise TypeError(f"rate must be None, a Rate or several of them, not {value!r}")
    return rates
