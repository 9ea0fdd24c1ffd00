"""What other threads submit to an executor, until its event loop's thread takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Protocol

from .._errors import ExecutorClosed


class Submission(Protocol):
    def deliver(self) -> None:
        """Submit it. In the event loop's thread; never raises."""

    def reject(self, error: Exception) -> None:
        """Have it fail, as no executor will take it. Never raises."""


class EntryQueue:
    """Open while its executor is entered: what is put in then is either delivered or rejected.

    Holds at all times: while it's open and not empty, the event loop has been asked for `deliver`.
    """

    __slots__ = ("_lock", "_post", "_submissions")

    def __init__(self) -> None:
        self._lock = Lock()
        self._submissions: deque[Submission] | None = None
        self._post: Callable[[Callable[[], object]], object]

    def open(self, post: Callable[[Callable[[], object]], object]) -> None:
        self._submissions = deque()
        self._post = post

    def put(self, submission: Submission) -> None:
        """Hand a submission in, from any thread; `ExecutorClosed` if it's not open."""
        with self._lock:
            if self._submissions is not None:
                try:
                    self._submissions or self._post(self.deliver)
                except RuntimeError:
                    pass  # the event loop is closed, and the executor was never left
                else:
                    self._submissions.append(submission)
                    return
        raise ExecutorClosed("the executor takes no more jobs")

    def deliver(self) -> bool:
        """Deliver what there is; say whether there was anything. In the event loop's thread."""
        with self._lock:
            submissions = self._submissions
            self._submissions = None if submissions is None else deque()
        for submission in submissions or ():
            submission.deliver()
        return bool(submissions)

    def close(self) -> None:
        with self._lock:
            submissions, self._submissions = self._submissions, None
        for submission in submissions or ():
            submission.reject(ExecutorClosed("the executor ended before it took the job"))
