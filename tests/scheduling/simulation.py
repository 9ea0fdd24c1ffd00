"""Simulate jobs on a server with a limited capacity, under a limit that may adapt itself.

A discrete-event simulation without an event loop or a clock: a seed always gives the same run. One
time unit is what a job takes on an idle server.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

WARM_UP = 200
"""Overloads are counted from this many finished jobs on."""


class Limit(Protocol):
    """What the simulation asks of a concurrency limit."""

    limit: int
    epoch: int

    def succeeded(self, saturated: bool) -> None: ...
    def overloaded(self, epoch: int) -> None: ...


@dataclass(frozen=True)
class Server:
    """A server that runs ``capacity`` jobs at once and refuses more.

    ``later``: its capacity from the second half of the jobs on. ``spread``: service times vary
    uniformly by up to this part of them. ``slowdown``: how much longer a job takes on a full server
    than on an idle one, as a part of it. ``wobble``: the capacity swings by up to this part of it,
    once in 60 units. ``flaky``: the part of jobs that is refused whatever the load. ``refusal``:
    how long a refusal takes.
    """

    capacity: int
    later: int | None = None
    spread: float = 0.0
    slowdown: float = 0.0
    wobble: float = 0.0
    flaky: float = 0.0
    refusal: float = 0.1

    def capacity_at(self, now: float, second_half: bool) -> int:
        """Return how many jobs the server runs at once at this time of the run."""
        capacity = self.later if second_half and self.later else self.capacity
        return round(capacity * (1 + self.wobble * math.sin(now * math.tau / 60)))


class Known:
    """The best limit: it always is the server's capacity."""

    epoch = 0

    def __init__(self, server: Server) -> None:
        self.limit = server.capacity

    def succeeded(self, saturated: bool) -> None: ...
    def overloaded(self, epoch: int) -> None: ...


@dataclass
class Run:
    """What a simulation measured."""

    jobs: int
    seconds: float = 0.0
    overloads: int = 0
    early_overloads: int = 0
    halfway: float = 0.0
    """When the second half of the jobs began."""
    history: list[tuple[float, int]] = field(default_factory=list)
    """When the limit changed, and to what."""

    @property
    def overload_share(self) -> float:
        """The overloads after the first `WARM_UP` jobs, as a part of the jobs after these."""
        return (self.overloads - self.early_overloads) / max(1, self.jobs - WARM_UP)


def simulate(limit: Limit, server: Server, jobs: int, seed: int = 1) -> Run:
    """Run ``jobs`` jobs, each again after a random back-off until the server has taken it."""
    random = Random(seed)
    run = Run(jobs, history=[(0.0, limit.limit)])
    queue = deque([0] * jobs)  # per queued job: how often it was refused
    # (time, serial number, what ends: "served", "refused" or "waited", refusals, epoch)
    events: list[tuple[float, int, str, int, int]] = []
    now, serial, running, busy, done = 0.0, 0, 0, 0, 0
    while done < jobs:
        capacity = server.capacity_at(now, second_half=done >= jobs // 2)
        if isinstance(limit, Known):
            limit.limit = capacity
        while queue and running < limit.limit:
            refusals = queue.popleft()
            takes, ends = server.refusal, "refused"
            if busy < capacity and not random.random() < server.flaky:
                busy += 1
                ends = "served"
                takes = random.uniform(1 - server.spread, 1 + server.spread)
                takes *= 1 + server.slowdown * busy / capacity
            running += 1
            serial += 1
            heapq.heappush(events, (now + takes, serial, ends, refusals, limit.epoch))
        now, _, ends, refusals, epoch = heapq.heappop(events)
        if ends == "served":
            saturated = bool(queue) and running >= limit.limit
            running, busy, done = running - 1, busy - 1, done + 1
            limit.succeeded(saturated)
            if done == jobs // 2:
                run.halfway = now
            if done == WARM_UP:
                run.early_overloads = run.overloads
        elif ends == "refused":
            running -= 1
            run.overloads += 1
            limit.overloaded(epoch)
            serial += 1
            wait = random.random() * min(10.0, 0.5 * 2 ** min(refusals, 10))
            heapq.heappush(events, (now + wait, serial, "waited", refusals + 1, 0))
        else:
            queue.appendleft(refusals)
        if limit.limit != run.history[-1][1]:
            run.history.append((now, limit.limit))
    if done < WARM_UP:
        run.early_overloads = run.overloads
    run.seconds = now
    return run


def efficiency(limit: Limit, server: Server, jobs: int, seed: int = 1) -> tuple[float, Run]:
    """Return the throughput under ``limit`` as a part of that under the best one, and the run."""
    run = simulate(limit, server, jobs, seed)
    best = simulate(Known(server), server, jobs, seed)
    return best.seconds / run.seconds, run
