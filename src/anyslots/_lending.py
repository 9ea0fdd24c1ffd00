"""Lending a slot by hand."""

from __future__ import annotations

from threading import get_ident
from types import TracebackType
from typing import final
from weakref import WeakSet

from ._schedule import Schedule
from ._worker import Worker

entered: dict[int, WeakSet[Schedule]] = {}
"""The schedules of the executors that are entered, by the thread that they run in."""


@final
class lend_slot:
    """Lend the slot of the job that this code runs in, for as long as the block takes.

    For a wait that has nothing to do with the executor: a retry's back-off, a lock. Queued jobs run
    in the slot meanwhile; before the block is left, a slot is taken back, ahead of the queue. If
    the job is cancelled, it unwinds at once without one.

    Only the job's own task lends: outside of jobs, and in tasks that a job has started, the block
    does nothing. Waiting for jobs of one's own executor lends the slot without this.

    ::

        async with lend_slot():
            await anyio.sleep(delay)
    """

    def __init__(self) -> None:
        self._worker: Worker | None = None

    async def __aenter__(self) -> None:
        for schedule in entered.get(get_ident(), ()):
            worker = schedule.lender()
            if worker is not None and not worker.lent:
                self._worker = worker
                worker.lend()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._worker is not None:
            worker, self._worker = self._worker, None
            await worker.take_back()
