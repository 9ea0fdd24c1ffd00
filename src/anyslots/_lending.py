"""Lending the slot of a job: around one wait, or by hand."""

from __future__ import annotations

from collections.abc import Generator
from threading import get_ident
from types import TracebackType, coroutine
from typing import TYPE_CHECKING, Any, final
from weakref import WeakSet

if TYPE_CHECKING:
    from ._backend import Wait
    from ._schedule import Schedule
    from ._worker import Worker

entered: dict[int, WeakSet[Schedule]] = {}
"""The schedules of the executors that are entered, by the thread that they run in."""


class Lending:
    """One wait in a running job's own task, with the job's slot lent.

    Called by whoever ends the wait, so that the job has its slot again, or is ahead of the queue
    for it, before anybody else can take it.
    """

    __slots__ = ("worker",)

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def __call__(self, _: object = None) -> None:
        if self.worker.lending is self:
            self.worker.lending = None
            self.worker.ask_back()

    @coroutine
    def around(self, wait: Wait) -> Generator[Any, Any, None]:
        worker = self.worker
        if worker.lent:
            yield from wait
            return
        worker.lend()
        worker.lending = self
        try:
            yield from wait
        except GeneratorExit:
            worker.give_back()
            raise
        except BaseException:
            yield from worker.take_back()
            raise
        yield from worker.take_back()


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
