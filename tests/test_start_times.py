"""When jobs start, to the instant, beside an independent model: a simulation by hand.

Each job lasts, and each rate's window is longer, by a binary fraction of its own, so that no two
things happen at one instant unless the program has them happen so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, Rate

pytestmark = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


@dataclass
class LanePlan:
    priority: int
    slots: float
    rate: Rate | None


@dataclass
class Plan:
    slots: int
    rate: Rate | None
    lanes: list[LanePlan]
    # What happens, second by second: a job for a lane and its seconds, or a number of slots.
    steps: list[tuple[str, int, float]]


@st.composite
def plans(draw) -> Plan:
    def rate(number: int) -> Rate | None:
        limit, per = draw(st.sampled_from([(0, 0), (0, 0), (1, 1), (1, 3), (2, 2), (3, 5)]))
        return Rate(limit, per + 2.0 ** -(30 + number)) if limit else None

    lanes = [
        LanePlan(priority, draw(st.sampled_from([math.inf, 1, 2])), rate(number))
        for number, priority in enumerate(draw(st.permutations([-1, 0.5, 1]))[:3])
    ]
    steps: list[tuple[str, int, float]] = []
    for number in range(draw(st.integers(0, 14))):
        kind = draw(st.sampled_from(["job", "job", "job", "job", "wait", "slots"]))
        if kind == "job":
            seconds = draw(st.integers(0, 4)) + 2.0 ** -(8 + number)
            steps.append((kind, draw(st.integers(0, len(lanes) - 1)), seconds))
        elif kind == "wait":
            steps.append((kind, draw(st.integers(1, 4)), 0))
        else:
            steps.append((kind, draw(st.integers(1, 4)), 0))
    return Plan(draw(st.integers(1, 3)), rate(4) if draw(st.booleans()) else None, lanes, steps)


@dataclass
class Model:
    """Greedy: at every instant, the most important lane that may start a job does."""

    plan: Plan
    now: float = 0
    queues: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    running: dict[int, list[float]] = field(default_factory=dict)
    starts: dict[int, list[float]] = field(default_factory=dict)
    started: dict[int, float] = field(default_factory=dict)

    def open_from(self, rate: Rate | None, starts: list[float]) -> float:
        """When a rate allows the next start."""
        if rate is None or len(starts) < rate.limit:
            return self.now
        return max(self.now, starts[-rate.limit] + rate.per)

    def open_for(self, lane: int) -> float:
        everything = sorted(start for starts in self.starts.values() for start in starts)
        return max(
            self.open_from(self.plan.lanes[lane].rate, self.starts[lane]),
            self.open_from(self.plan.rate, everything),
        )

    def dispatch(self) -> None:
        by_rank = sorted(self.queues, key=lambda lane: -self.plan.lanes[lane].priority)
        while sum(map(len, self.running.values())) < self.slots:
            for lane in by_rank:
                has_place = len(self.running[lane]) < self.plan.lanes[lane].slots
                if self.queues[lane] and has_place and self.open_for(lane) <= self.now:
                    number, seconds = self.queues[lane].pop(0)
                    self.started[number] = self.now
                    self.starts[lane].append(self.now)
                    self.running[lane].append(self.now + seconds)
                    break
            else:
                return

    def advance(self, until: float) -> None:
        """Let the clock go from event to event."""
        while True:
            self.dispatch()
            events = [end for ends in self.running.values() for end in ends]
            events += [self.open_for(lane) for lane in self.queues if self.queues[lane]]
            events = [event for event in events if self.now < event <= until]
            if not events:
                break
            self.now = min(events)
            for ends in self.running.values():
                ends[:] = [end for end in ends if end > self.now]
        if until < math.inf:
            self.now = until

    def run(self) -> dict[int, float]:
        self.slots = self.plan.slots
        for lane in range(len(self.plan.lanes)):
            self.queues[lane], self.running[lane], self.starts[lane] = [], [], []
        for number, (kind, value, seconds) in enumerate(self.plan.steps):
            if kind == "job":
                self.queues[value].append((number, seconds))
                self.dispatch()
            elif kind == "wait":
                self.advance(self.now + value)
            else:
                self.slots = value
                self.dispatch()
        self.advance(math.inf)
        return self.started


@given(plan=plans())
def test_jobs_start_when_the_model_says(backend, plan) -> None:
    """With limits, priorities, rates and resizing at once, no job starts an instant off."""
    started: dict[int, float] = {}

    async def job(number: int, seconds: float) -> None:
        started[number] = anyio.current_time()
        await anyio.sleep_until(started[number] + seconds)

    async def main() -> None:
        origin = anyio.current_time()
        assert origin == 0
        async with Executor(plan.slots, rate=plan.rate) as executor:
            lanes = [
                executor.lane(slots=lane.slots, priority=lane.priority, rate=lane.rate)
                for lane in plan.lanes
            ]
            now = origin
            for number, (kind, value, seconds) in enumerate(plan.steps):
                if kind == "job":
                    lanes[value].submit(job, number, seconds)
                elif kind == "wait":
                    now += value
                    await anyio.sleep_until(now)
                else:
                    # A job that has been given a slot and not begun would lose it.
                    for _ in range(10):
                        await anyio.lowlevel.checkpoint()
                    executor.slots = value

    run_in_virtual_time(backend, main)
    assert started == Model(plan).run()
