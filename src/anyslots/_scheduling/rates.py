"""How much may start in how much time."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias, final

MOST_SECONDS = sys.float_info.max
"""Beyond this, an int can't be added to a time."""

Charge: TypeAlias = "list[float]"
"""When a job started, infinity before it has, and what that was charged."""


@final
@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``limit`` job starts in any window of ``per`` seconds, or what they cost.

    The window rolls: time in which nothing started earns no burst above ``limit``. ``Rate(1, 0.1)``
    spaces starts evenly, a tenth of a second apart; ``Rate(10)`` allows ten at once and the next
    when a second has passed since the first of them.

    ``limit``: an int from 1; with ``cost``, a finite number above 0. ``per``: seconds, above 0 and
    finite.

    ``cost``: a function that `submit` calls once with the job's arguments, and that returns how
    much of ``limit`` its start uses: an int or float from 0 to ``limit``; None for 1 each. `charge`
    corrects it once the job knows better. The job at the head of a lane waits for what it costs.

    Raises `TypeError` or `ValueError` for anything else. Rates are equal if their fields are.

    ::

        requests = Rate(500, per=60)
        tokens = Rate(200_000, per=60, cost=lambda prompt: len(prompt) / 4 + 500)
        model = executor.lane("model", rate=[requests, tokens])
    """

    limit: float
    per: float = 1.0
    cost: Callable[..., float] | None = None

    def __init__(
        self, limit: float, per: float = 1.0, *, cost: Callable[..., float] | None = None
    ) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int | float):
            raise TypeError(f"limit must be a number, not {limit!r}")
        if cost is None and not isinstance(limit, int):
            raise TypeError(f"limit must be an int unless there's a cost, not {limit!r}")
        if not 0 < limit <= MOST_SECONDS:
            least = "an int from 1" if cost is None else "a finite number above 0"
            raise ValueError(f"limit must be {least}, not {limit!r}")
        if isinstance(per, bool) or not isinstance(per, int | float):
            raise TypeError(f"per must be a number of seconds, not {per!r}")
        if not 0 < per <= MOST_SECONDS:
            raise ValueError(f"per must be above 0 seconds and finite, not {per!r}")
        if cost is not None and not callable(cost):
            raise TypeError(f"cost must be None or a function of a job's arguments, not {cost!r}")
        object.__setattr__(self, "limit", limit)
        object.__setattr__(self, "per", per)
        object.__setattr__(self, "cost", cost)


def check_rates(value: object) -> tuple[Rate, ...]:
    """Return the rates that an option names: None, one `Rate`, or several."""
    if value is None:
        return ()
    if isinstance(value, Rate):
        return (value,)
    rates = tuple(value) if isinstance(value, Iterable) else ()
    if not rates or not all(isinstance(rate, Rate) for rate in rates):
        raise TypeError(f"rate must be None, a Rate or several of them, not {value!r}")
    return rates


def check_cost(rate: Rate, cost: Any) -> float:
    """Return what a rate's ``cost`` function has returned, if a job can cost that."""
    if isinstance(cost, bool) or not isinstance(cost, int | float):
        raise ValueError(  # noqa: TRY004 (the arguments of the call are right)
            f"cost must return an int or float from 0 to {rate.limit}, not {cost!r}"
        )
    if not 0 <= cost <= rate.limit:
        raise ValueError(f"a cost must be from 0 to the limit {rate.limit}, not {cost!r}")
    return cost


class RateWindow:
    """What the job starts of the last ``per`` seconds have used of one `Rate`.

    A start is reserved when the job is permitted, and happens when it's claimed. Holds at all
    times, but for what was charged afterwards and for a limit that was lowered::

        the charges of the starts in any window of `per` seconds, and of reserved ones, are <= limit
        `charges` has those of the starts, in their order; `reserved` those of the others
        `used` is the sum of both, as exactly as floats add up; 0 if there are none
    """

    # No slots: CPython makes an object with a constructor in fewer steps without them.
    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        # The windows that have replaced it and count the same charges.
        self.heirs: tuple[RateWindow, ...] = ()
        self.charges: deque[Charge] = deque()
        self.reserved: dict[int, Charge] = {}
        self.used: float = 0

    def available_at(self, now: float, cost: float) -> float:
        """When a start of this cost fits: ``now``, or later.

        Infinity if that depends on when the permitted jobs start.
        """
        charges, rate = self.charges, self.rate
        if not charges or charges[0][0] + rate.per <= now:
            self.forget(now)
        if not self._exceeds(cost):
            return now
        excess = self.used + cost - rate.limit
        for time, charged in charges:
            excess -= charged
            # Rounding errors make it look again too early at most, never too late.
            if excess <= rate.limit * 1e-9:
                return time + rate.per
        return math.inf

    def has_room(self, now: float) -> bool:
        """Whether a start that costs 1 fits now."""
        charges = self.charges
        if charges and charges[0][0] + self.rate.per <= now:
            self.forget(now)
        return not self._exceeds(1)

    def is_empty(self, now: float) -> bool:
        """Whether it remembers nothing that matters. Changes nothing: for any thread."""
        try:
            return not self.reserved and self.charges[-1][0] + self.rate.per <= now
        except IndexError:
            return True

    def forget(self, now: float) -> None:
        """Let go of the starts that are over."""
        charges = self.charges
        while charges and charges[0][0] + self.rate.per <= now:
            self.used -= charges.popleft()[1]
        if not (charges or self.reserved):
            self.used = 0  # and no rounding error is left

    def _exceeds(self, cost: float) -> bool:
        """Whether there's more than `limit` in the window with this cost.

        Added up exactly and rounded once, where it's close: ten times 0.1 fits into 1.
        """
        limit = self.rate.limit
        excess = self.used + cost - limit
        if type(excess) is int or abs(excess) > limit * 1e-9:
            return excess > 0
        charges = [*self.charges, *self.reserved.values()]
        return math.fsum([*(charge[1] for charge in charges), cost]) > limit

    def reserve(self, cost: float) -> Charge:
        """Take a start for a job that is permitted."""
        charge = [math.inf, cost]
        self.reserved[id(charge)] = charge
        self.used += cost
        return charge

    def start(self, charge: Charge, now: float) -> None:
        """The job that a start is reserved for starts."""
        del self.reserved[id(charge)]
        charge[0] = now
        self.charges.append(charge)

    def count(self, now: float) -> Charge:
        """A job starts for which no start is reserved; it costs 1."""
        charge = [now, 1]
        self.charges.append(charge)
        self.used += 1
        return charge

    def release(self, charge: Charge) -> None:
        """Give back a start that won't happen."""
        del self.reserved[id(charge)]
        self.used -= charge[1]

    def adjust(self, charge: Charge, now: float, amount: float) -> None:
        """Charge a start ``amount`` in all, as far as it matters still."""
        self.forget(now)
        change = amount - charge[1]
        charge[1] = amount
        if charge[0] + self.rate.per > now:
            self.used += change
        heirs = [*self.heirs]
        for heir in heirs:
            heirs += heir.heirs
            if any(each is charge for each in heir.charges):
                heir.used += change
