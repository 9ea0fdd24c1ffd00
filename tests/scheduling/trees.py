"""A tree of lanes without the layer above: that's a clock, and lists of what it was asked for."""

from __future__ import annotations

import math
from typing import Any, Literal

from anyio.lowlevel import checkpoint

from anyslots._scheduling.job import QUEUED, Attempts, Job
from anyslots._scheduling.lane_control import LaneControl
from anyslots._scheduling.lane_state import LaneState
from anyslots._scheduling.options import Inherited, LaneOptions
from anyslots._scheduling.retries import Retry
from anyslots._scheduling.scheduler import Scheduler


class Host:
    def __init__(self) -> None:
        self.now = 0.0
        # How many workers were woken and haven't come yet.
        self.woken = 0
        self.deadline = math.inf
        self.calls: list[tuple[LaneState, Any]] = []
        self.occupying: list[Job[Any]] = []

    def current_time(self) -> float:
        return self.now

    def wake_worker(self) -> None:
        self.woken += 1

    def set_deadline(self, time: float) -> None:
        self.deadline = time

    def call_gate(self, lane: LaneState) -> None:
        self.calls.append((lane, lane.gate))

    def occupy(self, job: Job[Any]) -> None:
        self.occupying.append(job)

    def queue_timeout(self, job: Job[Any]) -> str:
        return "timed out"


class Holder:
    """A task that occupies a slot itself."""

    def cancel(self, reason: str | None) -> None:
        raise AssertionError("the scheduler cancels no running job")

    def gave_up(self) -> bool:
        return False


def new_lane(
    parent: LaneState | None = None,
    *,
    gate: bool = False,
    timeout: float | None = None,
    queue_timeout: float | None = None,
    retry: Retry | Literal[False] | None = None,
    **options: Any,
) -> LaneState:
    if gate:
        options["gate"] = checkpoint  # it isn't called
    inherited = Inherited(timeout, queue_timeout, retry)
    return LaneState(parent, None, LaneOptions(**options, inherited=inherited))


def new_job(node: LaneState, costs: dict[Any, float] | None = None) -> Job[Any]:
    job: Job[Any] = Job()
    job.node = node
    job.status = QUEUED
    job.fn, job.args, job.context = print, (), None
    job.holder = job.slot = job.value = job.listeners = job.attempt = None
    if costs:
        job.attempt = Attempts()
        job.attempt.costs = costs
    return job


class Tree:
    """A scheduler, its control, and what drives them."""

    def __init__(self, make: type[Scheduler] = Scheduler, **options: Any) -> None:
        self.host = Host()
        self.root = new_lane(**options)
        self.scheduler = make(self.root, self.host)
        self.control = LaneControl(self.scheduler)

    def lane(self, parent: LaneState | None = None, **options: Any) -> LaneState:
        return new_lane(self.root if parent is None else parent, **options)

    def submit(self, node: LaneState, costs: dict[Any, float] | None = None) -> Job[Any]:
        job = new_job(node, costs)
        self.scheduler.submit(job)
        return job

    def claim(self) -> list[Job[Any]]:
        """Have each worker that was woken claim a job."""
        jobs = []
        while self.host.woken:
            self.host.woken -= 1
            if (job := self.scheduler.claim()) is not None:
                if job.node.is_attended:
                    job.value = next(self.scheduler.tree.numbers)  # as workers do
                jobs.append(job)
        return jobs

    def run(self, seconds: float = 0) -> list[Job[Any]]:
        """Let so much time pass, or no more than until the next deadline; start what may start."""
        self.host.now = min(self.host.now + seconds, max(self.host.now, self.host.deadline))
        if self.host.now >= self.host.deadline:
            self.host.deadline = math.inf
            self.control.expire()
        return self.claim()
