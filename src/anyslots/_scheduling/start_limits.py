"""What rates and gates let start, and what starts use up of them."""

from __future__ import annotations

from typing import Any

from .job import Attempts, Job
from .lane_state import LaneState
from .lane_tree import LaneTree
from .rates import RateWindow


class StartLimits:
    """Rates, gates and epochs on the path of a job, as steps of a transition.

    Keeps no state of its own: windows, gates and adaptive limits belong to their lanes, and what a
    start was charged to its job.
    """

    __slots__ = ("host", "tree")

    def __init__(self, tree: LaneTree) -> None:
        self.tree = tree
        self.host = tree.host

    def may_start(self, node: LaneState) -> bool:
        """Whether rates and gates let the head of a lane start; if not, stop the first lane up."""
        attempt = node.queue.head().attempt
        costs = None if attempt is None else attempt.costs
        now = self.host.current_time()
        lane: LaneState | None = node
        while lane is not None:
            gate = lane.gate
            if gate is not None and gate.is_called and not gate.admissions:
                # Nothing starts here before it returns: no rate around shall stop others for it.
                gate.is_awaited = True
                self.tree.update_limit(lane)
                return False
            for window in lane.windows:
                cost = 1 if costs is None else costs.get(window, 1)
                until = window.available_at(now, cost)
                if until > now:
                    lane.throttled_until = until
                    self.tree.update_limit(lane)
                    return False
            lane = lane.parent
        lane = node
        while lane is not None:
            gate = lane.gate
            if gate is not None and not gate.admissions:
                gate.is_awaited = True
                self.tree.update_limit(lane)
                if not gate.is_called:
                    gate.is_called = True
                    self.host.call_gate(lane)
                return False
            lane = lane.parent
        return True

    def start_at_once(self, node: LaneState, error: float) -> bool:
        """Start the head of a lane as far as its rates go, which have no costs, if they let it.

        The same as `may_start`, `reserve` and `count_start`, in few steps where nothing else
        decides.
        """
        job = node.queue.head()
        if not node.is_direct or job.holder is not None:
            return False
        now = self.host.current_time()
        for window in node.path_windows:
            if not window.has_room(now):
                return False
        job.attempt = attempt = Attempts()
        attempt.count = 1
        attempt.first_start = now = now + error
        attempt.number = next(self.tree.numbers)
        attempt.charges = [(window, window.count(now)) for window in node.path_windows]
        return True

    def could_start(self, job: Job[Any]) -> bool:
        """Whether rates and gates would let a job start now."""
        node: LaneState = job.node
        now = self.host.current_time()
        return all(
            (lane.gate is None or lane.gate.admissions > 0)
            and all(w.available_at(now, cost_of(job, w)) <= now for w in lane.windows)
            for lane in node.path()
        )

    def reserve(self, job: Job[Any]) -> None:
        """Take a start of each rate, and an admission of each gate, for a job that's permitted."""
        attempt = job.attempt = job.attempt or Attempts()
        costs = attempt.costs
        charges = []
        lane: LaneState | None = job.node
        while lane is not None:
            for window in lane.windows:
                cost = 1 if costs is None else costs.get(window, 1)
                charges.append((window, window.reserve(cost)))
            if lane.gate is not None:
                lane.gate.admissions -= 1
            lane = lane.parent
        attempt.charges = charges

    def unreserve(self, job: Job[Any]) -> None:
        attempt = job.attempt
        assert attempt is not None
        for window, charge in attempt.charges:
            window.release(charge)
        attempt.charges = ()
        for lane in job.node.path():
            gate = lane.gate
            if gate is not None:
                gate.admissions += 1
                if gate.is_awaited:
                    gate.is_awaited = False
                    self.tree.update_limit(lane)

    def count_start(self, job: Job[Any], now: float) -> None:
        """A permitted job starts: rates count it from now on, adaptive limits by their epochs."""
        attempt = job.attempt = job.attempt or Attempts()
        if not attempt.count:
            attempt.first_start = now
            attempt.number = next(self.tree.numbers)
        attempt.count += 1
        if attempt.charges:
            for window, charge in attempt.charges:
                window.start(charge, now)
            # Only now it's known when these rates have room for the next.
            self.tree.lift_throttles(job.node)
        attempt.epochs = tuple(
            (lane, lane.adaptive.epoch) for lane in job.node.path() if lane.adaptive is not None
        )


def cost_of(job: Job[Any], window: RateWindow) -> float:
    """What a start of the job uses up of a rate."""
    costs = job.attempt.costs if job.attempt is not None else None
    return 1 if costs is None else costs.get(window, 1)
