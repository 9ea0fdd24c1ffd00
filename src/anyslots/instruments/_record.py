"""What a timeline keeps of jobs and lanes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from .. import Lane

Run: TypeAlias = tuple[int, float, float, int]
"""A part of a job's run without a break: slot, begin, end, and the number of the attempt."""


class Retry(NamedTuple):
    """The end of an attempt that's followed by another."""

    time: float
    delay: float
    error: str


class LaneRecord:
    """What's known of one lane, or of an executor, which is the outermost lane."""

    __slots__ = ("executor", "limits", "name", "parent", "paused", "pauses", "slots", "throttled")

    def __init__(
        self, lane: Lane, executor: int, parent: LaneRecord | None, now: float, most: int | None
    ) -> None:
        # The number of its executor, and its own name; "" for none, and for an executor.
        self.executor: int = executor
        self.name: str = "" if parent is None else lane.name or ""
        self.parent: LaneRecord | None = parent
        # Whether something else than slots may hold back its starts.
        self.throttled: bool = bool(lane.rate) or lane.gate is not None
        # How many slots it had, and whether it was paused, from which time on.
        self.slots: float = lane.slots
        self.paused: bool = lane.paused
        self.limits: deque[tuple[float, float]] = deque([(now, self.slots)], most)
        self.pauses: deque[tuple[float, bool]] = deque([(now, self.paused)], most)

    def note(self, lane: Lane, now: float) -> None:
        """Note what has changed."""
        if lane.slots != self.slots:
            self.slots = lane.slots
            self.limits.append((now, self.slots))
        if lane.paused is not self.paused:
            self.paused = lane.paused
            self.pauses.append((now, self.paused))

    def limit_at(self, time: float) -> float:
        place = bisect_right(self.limits, time, key=lambda change: change[0])
        return self.limits[max(place - 1, 0)][1]

    def paused_at(self, time: float) -> bool:
        place = bisect_right(self.pauses, time, key=lambda change: change[0])
        return self.pauses[max(place - 1, 0)][1]

    @property
    def key(self) -> tuple[int, str]:
        """Identify a lane in pictures, where those of one name are one."""
        return self.executor, self.name

    @property
    def path(self) -> Iterator[LaneRecord]:
        """Itself and the lanes around it, the executor last."""
        record: LaneRecord | None = self
        while record is not None:
            yield record
            record = record.parent


class Job:
    """What's known of one job; times are the clock's."""

    __slots__ = (
        "ended", "error", "lane", "name", "number", "outcome", "retries", "runs", "submitted",
    )  # fmt: skip

    def __init__(self, number: int, lane: LaneRecord, submitted: float) -> None:
        self.number: int = number
        # Read when it has ended, or is drawn.
        self.name: str = ""
        self.lane: LaneRecord = lane
        self.submitted: float = submitted
        # More than one if it lent its slot, or was retried.
        self.runs: list[Run] = []
        self.retries: tuple[Retry, ...] = ()
        self.ended: float = math.inf
        self.outcome: str = ""
        self.error: str = ""

    @property
    def left_queue(self) -> float:
        """When it started for the first time, or ended without having started."""
        return self.runs[0][1] if self.runs else self.ended

    def waits(self) -> Iterator[tuple[float, float]]:
        """When it was in the queue: until its first start, and between attempts."""
        yield self.submitted, self.left_queue
        for number, retry in enumerate(self.retries, 2):
            starts = (begin for _, begin, _, attempt in self.runs if attempt == number)
            yield retry.time, next(starts, self.ended)
