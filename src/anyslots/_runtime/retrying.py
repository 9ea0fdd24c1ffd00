"""What is asked of users' functions when a job has failed, before any transition."""

from __future__ import annotations

import random
from typing import Any

from .._scheduling.job import Job
from .._scheduling.lane_state import LaneState

_set_context = BaseException.__dict__["__context__"].__set__
_random = random.Random()


class Verdict:
    """What becomes of a job that has failed: ``delay`` until its next attempt, or ``exception``."""

    __slots__ = ("delay", "exception")

    def __init__(self, exception: BaseException, delay: float | None = None) -> None:
        self.exception = exception
        self.delay = delay


def judge(job: Job[Any], exception: Exception, *, may_retry: bool) -> Verdict:
    """Ask the retries and the adaptive limits of a job's lanes about its exception.

    If a function that they ask raises, or answers nonsense, the job fails with that.
    """
    node: LaneState = job.node
    attempt = job.attempt
    try:
        if attempt is not None:
            attempt.overloaded = [
                lane
                for lane, _ in attempt.epochs
                if lane.adaptive and lane.adaptive.matches(exception)
            ]
        if node.retry is None or not may_retry:
            return Verdict(exception)
        count = 1 if attempt is None else attempt.count
        return Verdict(exception, node.retry.delay(exception, count, _random))
    except Exception as error:
        if error is not exception:
            _set_context(error, exception)
        return Verdict(error)


def note_attempts(job: Job[Any], exception: BaseException, now: float) -> None:
    """Note in an exception how many attempts were made, if its class allows that."""
    attempt = job.attempt
    if attempt is None or attempt.count < 2:
        return
    seconds = now - attempt.first_start
    try:
        exception.add_note(f"{attempt.count} attempts were made in {seconds:.3g} seconds")
    except Exception:
        pass  # its class takes no notes
