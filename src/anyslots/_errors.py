"""The exceptions that anyslots raises itself; what a job raises is passed on as it is."""

import concurrent.futures


class ExecutorClosed(RuntimeError):
    """Raised by submitting to an executor that takes no more jobs: closed, shut down or ended."""


class NotDone(concurrent.futures.InvalidStateError):
    """Raised by `Future.result` and `Future.exception` while the job is queued or running.

    They never block; ``await future`` waits.
    """


class JobCancelled(concurrent.futures.CancelledError):
    """Raised by asking for the result of a job that was cancelled.

    An ordinary `Exception`: it's news about the job, and never looks like the cancellation
    of the task that asks.
    """


class QueueTimeout(TimeoutError):
    """The job waited in the queue for longer than its lane's ``queue_timeout``, and never ran."""
