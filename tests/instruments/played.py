"""Events played to instruments by hand, on futures and lanes that have just the public attributes.

For what an executor does rarely, or not at a time that a test could choose.
"""

from __future__ import annotations

import math
from typing import Any


class PlayedLane:
    def __init__(self, parent: PlayedLane | None = None, name: str = "", **options: Any) -> None:
        self.parent, self.name = parent, name
        self.slots: float = options.get("slots", math.inf)
        self.rate: tuple[object, ...] = options.get("rate", ())
        self.gate = None
        self.paused = False

    @property
    def executor(self) -> PlayedLane:
        return self if self.parent is None else self.parent.executor


class PlayedFuture:
    def __init__(self, lane: PlayedLane, name: str) -> None:
        self.lane, self.name = lane, name
        self.status = PlayedStatus("queued")
        self.error: BaseException | None = None
        self.slot: int | None = None
        self.attempts = 0


class PlayedStatus(str):
    __slots__ = ()

    @property
    def value(self) -> str:
        return str(self)


class Play:
    """Calls several instruments alike, and has their clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.instruments: list[Any] = []

    def clock(self) -> float:
        return self.now

    def _emit(self, event: str, *args: object) -> None:
        for instrument in self.instruments:
            if hook := getattr(instrument, event, None):
                hook(*args)

    def submit(self, lane: PlayedLane, name: str = "fetch") -> PlayedFuture:
        future = PlayedFuture(lane, name)
        self._emit("job_submitted", future)
        return future

    def start(self, future: PlayedFuture, slot: int = 0) -> None:
        future.status, future.slot = PlayedStatus("running"), slot
        future.attempts += 1
        self._emit("job_started", future)

    def retry(self, future: PlayedFuture, exception: BaseException, delay: float) -> None:
        future.status, future.slot = PlayedStatus("queued"), None
        self._emit("job_retried", future, exception, delay)

    def finish(
        self, future: PlayedFuture, status: str = "succeeded", error: BaseException | None = None
    ) -> None:
        future.status, future.error = PlayedStatus(status), error
        self._emit("job_finished", future)

    def retried_job(self, lane: PlayedLane) -> PlayedFuture:
        """Submitted at 0, fails from 1 to 2, and succeeds from 5 to 7 in slot 1; ends at 7."""
        future = self.submit(lane)
        self.now += 1
        self.start(future, 0)
        self.now += 1
        self.retry(future, ConnectionError("try later"), 3.0)
        self.now += 3
        self.start(future, 1)
        self.now += 2
        self.finish(future)
        return future
