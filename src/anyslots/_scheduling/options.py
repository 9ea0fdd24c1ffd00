"""The options of a lane, as they were set and checked; `LaneState` puts them in force."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from .adaptive import Adaptive
from .rates import Rate
from .retries import Retry


class Inherited(NamedTuple):
    """The options that lanes inside inherit: None where the lane itself inherits one."""

    timeout: float | None = None
    queue_timeout: float | None = None
    retry: Retry | Literal[False] | None = None


class LaneOptions(NamedTuple):
    """What a new lane is made with."""

    slots: float | Adaptive = math.inf
    priority: float = 0
    max_pending: float = math.inf
    rates: tuple[Rate, ...] = ()
    gate: Callable[[], Awaitable[object]] | None = None
    inherited: Inherited = Inherited()
