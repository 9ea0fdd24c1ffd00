"""How many jobs may start in how much time."""

from __future__ import annotations

import math
import sys
from collections import deque
from dataclasses import dataclass

MOST_SECONDS = sys.float_info.max
"""Beyond this, an int can't be added to a time."""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``limit`` job starts in any window of ``per`` seconds.

    The window rolls: time in which nothing started earns no burst above ``limit``. ``Rate(1, 0.1)``
    spaces starts evenly, a tenth of a second apart; ``Rate(10)`` allows ten at once and the next
    when a second has passed since the first of them.

    ``limit``: an int from 1. ``per``: seconds, above 0 and finite. Raises `TypeError` or
    `ValueError` for anything else.

    ::

        api = executor.lane("api", rate=[Rate(10, per=1), Rate(100, per=60)])
    """

    limit: int
    per: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int):
            raise TypeError(f"limit must be an int, not {self.limit!r}")
        if self.limit < 1:
            raise ValueError(f"limit must be an int from 1, not {self.limit!r}")
        if isinstance(self.per, bool) or not isinstance(self.per, int | float):
            raise TypeError(f"per must be a number of seconds, not {self.per!r}")
        if not 0 < self.per <= MOST_SECONDS:
            raise ValueError(f"per must be above 0 seconds and finite, not {self.per!r}")


class Meter:
    """Counts the starts of one `Rate`."""

    __slots__ = ("_rate", "_starts", "reserved")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        # When jobs started, as far as it matters still: never more than the limit.
        self._starts: deque[float] = deque()
        # How many starts were granted and have not happened; each of them will, or is given back.
        self.reserved = 0

    def opens_at(self, now: float) -> float:
        """When the next start may be granted: ``now``, or later.

        Infinity if that depends on when the reserved starts will happen.
        """
        starts, per = self._starts, self._rate.per
        while starts and starts[0] + per <= now:
            starts.popleft()
        if len(starts) + self.reserved < self._rate.limit:
            return now
        return starts[0] + per if starts else math.inf

    def start(self, now: float) -> None:
        """A start that was reserved happens."""
        self.reserved -= 1
        self._starts.append(now)
