"""How many jobs a server can take at once: `Adaptive`, and the controller that finds it out.

Modelled on TCP CUBIC (RFC 9438): what a congestion window is there is a concurrency limit here, and
a round of successes is a round trip. There is no clock: time is counted in successes, so a slow
server is given more of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from typing import final

from .retries import ask_matcher, check_int, check_number, checked_matcher

# Probes come PATIENCE rounds apart at first; each that fails makes that LESS_OFTEN times as long,
# up to MOST_PATIENCE, since a risen capacity is to be found soon. A round is as many successes as
# the limit, but at least SMALL_ROUND: among few jobs, the overload that a probe costs weighs more.
PATIENCE, LESS_OFTEN, MOST_PATIENCE = 4.0, 1.5, 16.0
SMALL_ROUND = 8
# A probe begins with this part of the limit, and has passed after this many rounds.
PROBE_PART = 50
PASSED = 2


@final
@dataclass(frozen=True, slots=True)
class Adaptive:
    """Find out how many jobs to run at once, from the overloads that a server reports.

    Given as ``slots``. The limit begins at ``start`` and doubles per round of successes until the
    first overload. Each overload multiplies it by ``backoff``, at most once for all jobs that had
    started before; then it recovers fast to just below the number at which the overload came, and
    probes beyond that ever more rarely. It grows only while it's what holds jobs back. It stays
    between ``least`` and ``most``, and ``start`` is brought in between.

    ``on`` says which exceptions are overloads: an exception class or several, matched as by
    ``except``, or a function of the exception that returns whether it is one. Other failures change
    nothing. Be precise: errors that come whatever the load keep the limit low.

    ``start`` and ``least``: ints from 1; ``most``: an int from ``least``. ``backoff``: a number
    between 0 and 1. Raises `TypeError` or `ValueError` for anything else.

    ::

        api = executor.lane("api", slots=Adaptive(on=TooManyRequests))
    """

    start: int = 4
    _: KW_ONLY
    least: int = 1
    most: int = 1000
    on: type[Exception] | Iterable[type[Exception]] | Callable[[Exception], object]
    backoff: float = 0.5

    def __post_init__(self) -> None:
        check_int("start", self.start)
        check_int("least", self.least)
        check_int("most", self.most, self.least)
        object.__setattr__(self, "on", checked_matcher(self.on))
        check_number("backoff", self.backoff, "a number")
        if not 0 < self.backoff < 1:
            raise ValueError(f"backoff must be above 0 and below 1, not {self.backoff!r}")


class AdaptiveLimit:
    """The present limit of one lane with `Adaptive` slots.

    The scheduler notes ``epoch`` at each start, reports each success and each overload, and reads
    ``limit`` again after each.
    """

    __slots__ = (
        "adaptive", "ceiling", "epoch", "floor", "limit", "patience", "step", "successes",
    )  # fmt: skip

    # least <= floor <= limit <= ceiling <= most. Below the ceiling each success raises the limit;
    # the ceiling rises by probes, and falls by overloads, but not below the floor.

    def __init__(self, adaptive: Adaptive) -> None:
        self.adaptive = adaptive
        # How many jobs may run at once.
        self.limit = min(max(adaptive.start, adaptive.least), adaptive.most)
        # How many times the limit was cut.
        self.epoch = 0
        # What the latest cut left: further overloads of its epoch lower nothing below it.
        self.floor = adaptive.least
        # Just below the number at which the latest overload came, or what a probe tries.
        self.ceiling = adaptive.most
        # How far the probe under way went up; 0 for none.
        self.step = 0
        # How many successes there were since the latest probe began.
        self.successes = 0
        # How many rounds there are between two probes.
        self.patience = PATIENCE

    def matches(self, exception: Exception) -> bool:
        """Return whether the exception is an overload; raises what the function ``on`` raises."""
        return bool(ask_matcher(self.adaptive.on, exception))

    def succeeded(self, saturated: bool) -> None:
        """Count a success; ``saturated``: the limit is what held other jobs back."""
        if not saturated:
            return
        self.successes += 1
        if self.limit < self.ceiling:
            self.limit += 1  # doubles per round: slow start, recovery, and the way up in a probe
        elif self.successes >= self._successes_before_probe():
            # Begin a probe, or go on with one that passed, by twice as much.
            self.step = min(max(self.step * 2, self.limit // PROBE_PART, 1), self.limit)
            self.ceiling = min(self.ceiling + self.step, self.adaptive.most)
            self.limit = min(self.limit + 1, self.ceiling)
            self.successes = 0

    def overloaded(self, epoch: int) -> None:
        """Count an overload of a job that started in this epoch, and cut the limit once for all."""
        if epoch == self.epoch - 1:
            # It ran together with the one that caused the cut: the server took one less.
            self.ceiling = max(self.ceiling - 1, self.floor)
            self.limit = min(self.limit, self.ceiling)
        if epoch != self.epoch:
            return
        self.epoch += 1
        # A probe that failed shows that nothing has changed; any other overload, that it has.
        self.patience = min(self.patience * LESS_OFTEN, MOST_PATIENCE) if self.step else PATIENCE
        self.step = 0
        self.floor = max(int(self.limit * self.adaptive.backoff), self.adaptive.least)
        self.ceiling = max(self.limit - 1, self.floor)
        self.limit = self.floor

    def _successes_before_probe(self) -> float:
        """Return how many successes a probe, or the next step of one, is to wait for."""
        if self.step:
            return PASSED * self.limit
        return self.patience * max(self.limit, SMALL_ROUND)
