"""Drives the coroutines of jobs, for a worker that has each step in the job's own context."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Generator
from types import CoroutineType, coroutine
from typing import Any, Protocol

from .._scheduling.job import Job

JOB_ENDED = object()
"""What the stepper yields when a job has ended."""


class Outcome(Protocol):
    """What a worker has to see to when a job has ended, unless that just returned a value."""

    error: Exception | None
    needs_care: bool

    def as_coroutine(self, result: object, job: Job[Any]) -> Coroutine[Any, Any, Any]: ...


@coroutine
def step_jobs(worker: Outcome) -> Generator[Any, Any, None]:
    """Run the jobs that it's sent, one after another: yield what they yield, then `JOB_ENDED`.

    Each job is stepped from outside, in a context of its own; that's why this is a generator apart
    from `Worker._run_jobs`. It serves one job after another since to end one by a yield costs much
    less than by the StopIteration of a generator for each.
    """
    while True:
        job = yield JOB_ENDED
        try:
            coro = job.fn(*job.args) if job.args else job.fn()
            if type(coro) is not CoroutineType:
                coro = worker.as_coroutine(coro, job)
            job.value = yield from coro
        except Exception as exc:
            worker.error = exc
            worker.needs_care = True
        finally:
            # An exception's traceback may refer to this frame: let it keep nothing.
            job = coro = None


async def await_it(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
